"""Memory: what a model needs, what is free, what is tried again smaller, and stores that are bounded."""
