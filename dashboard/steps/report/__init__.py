"""The step "report": its view, its runs and its texts."""
