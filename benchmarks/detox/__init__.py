"""Does an edit work? Defence of unseen attacks and questions against what happens to harmless prompts."""
