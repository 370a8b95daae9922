"""Toxicity as a linear direction: labelled texts, the probe that learns from them, and what it says of weights."""

from inspector.toxicity.labelled import BUNDLED, Labelled, bundled_texts, labelled_texts
from inspector.toxicity.probe import Probe, kept_probe, pooled_states, probe_folder, train_probe
from inspector.toxicity.weights import RegionToxicity, neuron_toxicity, region_toxicity

__all__ = [
    "BUNDLED",
    "Labelled",
    "Probe",
    "RegionToxicity",
    "bundled_texts",
    "kept_probe",
    "labelled_texts",
    "neuron_toxicity",
    "pooled_states",
    "probe_folder",
    "region_toxicity",
    "train_probe",
]
