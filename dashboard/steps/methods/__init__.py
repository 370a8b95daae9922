"""The step "methods": its view, its runs, its figures and its texts."""
