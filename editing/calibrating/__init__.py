"""What is learnt once about a model: where edits work, how far an update may go, and which layer that makes."""
