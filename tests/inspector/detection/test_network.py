"""The networks that read windows, against a line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detection_helpers import end_of

from inspector.detection import Reading, area
from inspector.detection.linear import PENALTY, fitted_linear
from inspector.detection.network import components_of, fitted, side_by_side, windows_read


def test_networks_find_what_no_line_separates_and_read_the_same_as_one_hidden_layer():
    """Harm lies on both sides of what is harmless; the mean of the networks is one layer on the states."""
    random, harmful = np.random.default_rng(0), np.arange(300) % 2 == 0
    states = random.normal(size=(300, 4))
    states[:, 1] = np.where(harmful, 3 * random.choice([-1, 1], 300), 0) + 0.3 * states[:, 1]
    readings = [Reading(one[None].astype(np.float16), (0,)) for one in states]
    components = components_of(readings, 1)
    inputs = [components.of(one.states) for one in readings]
    fits = (fitted(inputs, readings, harmful, np.arange(200), seed, 16, epochs) for seed, epochs in ((0, 80), (1, 1)))
    networks = [end_of(one) for one in fits]
    each = np.array([[windows_read(network, one)[0] for one in inputs] for network in networks])
    weights, _ = fitted_linear(readings, harmful, np.arange(200), PENALTY)
    line = np.array([float((one.states @ weights).max()) for one in readings])
    assert area(line[200:], harmful[200:]) < 0.65 and area(each[0, 200:], harmful[200:]) > 0.8
    read = each.mean(axis=0)
    layer, bias = side_by_side(networks, components, 1)
    again = layer.of(torch.tensor(np.concatenate([one.states for one in readings])).float()) + bias
    assert again.numpy() == pytest.approx(read, abs=2e-2)
