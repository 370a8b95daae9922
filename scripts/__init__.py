"""Small tools around the project."""
