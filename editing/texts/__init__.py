"""What an edit is made with beside its case: harmless prompts, contexts, the model's own answers."""
