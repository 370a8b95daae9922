"""The detector of harmful prompts: its texts, its fit, and how it does on others."""

from inspector.detection.case import for_case, read_harmless
from inspector.detection.fitting import DEPTH, FALSE_ALARMS, MOST_BARE, MOST_WRAPPED, fit, settled
from inspector.detection.reading import STRIDE, WINDOW, Reading, readings_of, that_fit
from inspector.detection.scores import Measured, area, doubts, frontier, many_alarms, measure, unseen_shares, weakness
from inspector.detection.texts import FOLDS, Sample, drawn, labelled_samples, packaged_samples, samples, stress_samples

__all__ = [
    "DEPTH",
    "FALSE_ALARMS",
    "FOLDS",
    "MOST_BARE",
    "MOST_WRAPPED",
    "STRIDE",
    "WINDOW",
    "Measured",
    "Reading",
    "Sample",
    "area",
    "doubts",
    "drawn",
    "fit",
    "for_case",
    "frontier",
    "labelled_samples",
    "many_alarms",
    "measure",
    "packaged_samples",
    "read_harmless",
    "readings_of",
    "samples",
    "settled",
    "stress_samples",
    "that_fit",
    "unseen_shares",
    "weakness",
]
