"""A package, so that its server is gone once the last of its files has ended."""
