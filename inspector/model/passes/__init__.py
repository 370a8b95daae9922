"""Passes over whole sequences: what is computed once, captured, replayed from a block on, or read in fewer bytes."""
