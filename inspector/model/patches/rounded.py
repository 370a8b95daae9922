"""The same weights rounded to bfloat16, as a second network: what mere rounding changes is a yardstick for an edit.

Rounded weights may compute in the model's own type, which says what rounding weights alone changes, or in bfloat16, as
a model does that is loaded so: then every state and logit is rounded as well, and many more near-ties fall otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from inspector.errors import ModelLoadError
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import fingerprint

ROUNDED = "same weights rounded to bfloat16"
COMPUTED = "the same weights, computed in bfloat16"
"""What such networks are called: one that computes in the model's own type, and one that computes in bfloat16."""


@contextmanager
def rounded(model: InspectedModel, computed: bool = False) -> Iterator[InspectedModel]:
    """Give a copy of a model whose parameters are rounded to bfloat16.

    The model itself is not written. The copy takes as much memory again, and is gone with the last reference to it.

    Args:
        computed: It computes in bfloat16, too, instead of in the model's own type; buffers (a rotary embedding's) stay
            as they are, as in a model that is loaded in bfloat16.

    Raises:
        ModelLoadError: The weights are bfloat16 already, quantised, or not in memory, or the device does not compute in
            bfloat16.
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
    if computed and not computes(model.device):
        raise ModelLoadError(
            f"This machine does not compute in bfloat16 on {model.device}. Take another device, or weights that are "
            "only rounded."
        )
    with model.lock:  # while no patch is live
        # One copy of both, so that the map's modules are the copied network's.
        network, architecture = copy.deepcopy((model.network, model.architecture))
    with torch.no_grad():
        for parameter in network.parameters():
            small = parameter.data.to(torch.bfloat16)
            parameter.data = small if computed else small.to(parameter.dtype)
    name = COMPUTED if computed else ROUNDED
    yield InspectedModel(name, network, model.tokenizer, architecture, fingerprint(network))


def computes(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16."""
    try:
        one = torch.ones(1, 1, dtype=torch.bfloat16, device=device)
        return bool((one @ one).isfinite())
    except (RuntimeError, TypeError):
        return False
