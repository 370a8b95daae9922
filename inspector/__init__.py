"""Everything that reads a model: loading, divergence, shift, answers' probabilities.

Nothing in this package changes a model or knows the dashboard. A measurement is a plain function of
(model, case, optional patch) that returns a frozen dataclass of numpy arrays.
"""
