"""The step "stress": its view, its runs, its figures and its texts."""
