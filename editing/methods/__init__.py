"""A file or folder a method, each with a settings dataclass and a generator, and the registry that all places read."""
