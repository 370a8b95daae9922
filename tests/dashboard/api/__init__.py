"""A package, so that its servers are gone once the last of its files has ended."""
