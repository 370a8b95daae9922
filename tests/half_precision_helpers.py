"""Models in half precision beside the same weights in float32, for tests of edits and of measurements."""

from __future__ import annotations

from functools import cache

import tiny_models
import torch

from inspector.model import InspectedModel, from_parts

HALVES = (torch.bfloat16, torch.float16)


@cache
def rounded(family: str, dtype: torch.dtype) -> tuple[InspectedModel, InspectedModel]:
    """Return a model in half precision and one in float32 with the same (rounded) weights."""
    half = tiny_models.network(family).to(dtype)
    single = tiny_models.network(family)
    single.load_state_dict({name: tensor.float() for name, tensor in half.state_dict().items()})
    return tuple(from_parts(network, tiny_models.tokenizer(), f"{family} {dtype}") for network in (half, single))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))
