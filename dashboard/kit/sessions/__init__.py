"""What belongs to a visitor: the case as typed, the controls, the edits, and how long all of it is kept."""
