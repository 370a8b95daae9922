"""Everything that reads a model: loading, measurements, locators, detection, exams of its answers.

Nothing in this package changes a model or knows the dashboard. A measurement is a plain function of
(model, case, optional patch) that returns a frozen dataclass of numpy arrays.
"""
