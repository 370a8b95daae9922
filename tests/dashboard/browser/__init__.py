"""A package, so that one server and one browser serve all its files and are gone once the last one has ended."""
