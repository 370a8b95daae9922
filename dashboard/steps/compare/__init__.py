"""The step "compare": its view, its runs, its figures and its texts."""
