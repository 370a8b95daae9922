"""The step "case": its view, its runs, its figures and its texts."""
