"""The step "locate": its view, its runs, its figures and its texts."""
