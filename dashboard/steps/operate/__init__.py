"""The step "operate": its view, its runs, its figures and its texts."""
