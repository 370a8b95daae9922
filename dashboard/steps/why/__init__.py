"""The step "why": its view, its runs, its figures and its texts."""
