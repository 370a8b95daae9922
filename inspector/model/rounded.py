"""The same weights rounded to bfloat16, as a second network: what mere rounding changes is a yardstick for an edit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from inspector.errors import ModelLoadError
from inspector.model.inspected import InspectedModel
from inspector.model.patch import fingerprint

ROUNDED = "same weights rounded to bfloat16"
"""What such a network is called."""


@contextmanager
def rounded(model: InspectedModel) -> Iterator[InspectedModel]:
    """Give a copy of a model whose parameters are rounded to bfloat16; it computes in the model's own type.

    The model itself is not written. The copy takes as much memory again, and is gone with the last reference to it.

    Raises:
        ModelLoadError: The weights are bfloat16 already, quantised, or not in memory.
    """
    if model.quantisation is not None:
        raise ModelLoadError(
            f"The weights of this model are quantised ({model.quantisation}) and cannot be rounded. Load it in float32."
        )
    for name, parameter in model.network.named_parameters():
        if parameter.device.type == "meta" or not parameter.is_floating_point():
            raise ModelLoadError(
                f"The weights of {name} are offloaded or quantised and cannot be rounded. Load the model whole, in "
                "float32."
            )
    if all(parameter.dtype == torch.bfloat16 for parameter in model.network.parameters()):
        raise ModelLoadError(
            "This model's weights are bfloat16 already, so rounding them changes nothing. Load it in float32 "
            "(--dtype float32) to measure what rounding does."
        )
    with model.lock:  # while no patch is live
        # One copy of both, so that the map's modules are the copied network's.
        network, architecture = copy.deepcopy((model.network, model.architecture))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.data = parameter.data.to(torch.bfloat16).to(parameter.dtype)
    yield InspectedModel(ROUNDED, network, model.tokenizer, architecture, fingerprint(network))
