"""The steps, a room each; none imports another."""
