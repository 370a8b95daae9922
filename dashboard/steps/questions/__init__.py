"""The step "questions": its view, its figures, its texts, and the committed results that it reads."""
