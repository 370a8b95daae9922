"""What the named endpoints are given and answer, those that only read, and what of them a model may use as tools."""
