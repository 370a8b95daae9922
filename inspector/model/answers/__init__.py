"""Answers: one prompt streamed, many in a batch, and the caches that they are read into."""
