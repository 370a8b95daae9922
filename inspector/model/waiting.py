"""Numbers read off a device, all at once: a host that waits for each of them leaves the device idle in between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gathered(values: Sequence[Tensor | float]) -> Tensor:
    """Return single numbers as a float64 vector ``[numbers]`` on the first tensor's device; no wait for it."""
    tensors = [value.detach() for value in values if isinstance(value, Tensor)]
    device = tensors[0].device if tensors else torch.device("cpu")
    return torch.stack([_placed(value, device) for value in values])


def _placed(value: Tensor | float, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(device).reshape(()).double()
    return torch.full((), value, dtype=torch.float64, device=device)  # filled there: a copy could not be captured


def read(values: Sequence[Tensor | float]) -> list[float]:
    """Return single numbers as floats; one wait for their device, however many there are."""
    return gathered(values).tolist() if values else []
