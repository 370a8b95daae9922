"""What is counted of a session, and how often."""

from __future__ import annotations

import numpy as np
import torch

from dashboard.kit.sessions.weighing import storages


def test_arrays_tensors_and_texts_are_counted_once_however_they_are_held():
    tensor, array = torch.zeros(100), np.zeros(50)
    held = {"a": [tensor, tensor[:10], array], ("b",): (array, "text" * 25), "model": torch.nn.Linear(9, 9)}
    assert sum(storages(held).values()) == 400 + 400 + 100 + len("a") + len("b") + len("model")
