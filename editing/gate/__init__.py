"""The acceptance gate after an edit: what it asks, what it allows, and which edit it takes."""
