"""The same arithmetic in fewer kernels while a token step is captured: at one token a line, their number is their cost.

transformers computes an RMS norm in eight kernels and the rotary embedding of a block in ten. What replaces them here
is compared with the original on random numbers first; where it does not give the same bits, the original stays.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from inspector.model.inspected import InspectedModel
from inspector.model.passes.graphs import CAPTURING

ROTARY = "apply_rotary_pos_emb"
"""transformers' name of the function in each family's module."""


_Rotary = Callable[..., tuple[Tensor, Tensor]]


def rms_norm(norm: Any, states: Tensor) -> Tensor:
    """Return what Llama's RMS norm returns: normed in float32, rounded to the states' type, then times the weight."""
    return norm.weight * torch.rms_norm(states, states.shape[-1:], None, norm.variance_epsilon)


def rotary(
    own: _Rotary, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Return query and key ``[lines, heads, tokens, d_head]`` turned: both at once, the sign on the sine.

    Args:
        own: The family's function, for embeddings that turn a part of each head only.
    """
    if cos.shape[-1] != query.shape[-1]:
        return own(query, key, cos, sin, unsqueeze_dim)
    both = torch.cat((query, key), dim=1)
    half = both.shape[-1] // 2
    turned = both * cos.unsqueeze(unsqueeze_dim) + both.roll(half, dims=-1) * _signed(sin, half).unsqueeze(
        unsqueeze_dim
    )
    return turned[:, : query.shape[1]], turned[:, query.shape[1] :]


def _signed(sin: Tensor, half: int) -> Tensor:
    """Return the sine with its first half negative; made once for all blocks, which share it."""
    if sin not in _SIGNED:
        _SIGNED[sin] = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
    return _SIGNED[sin]


_SIGNED: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@contextmanager
def fewer_kernels(model: InspectedModel) -> Iterator[None]:
    """Let a model's norms and rotary embedding run in fewer kernels inside; the caller holds the lock."""
    if model not in _REPLACED:
        _REPLACED[model] = _replacements(model)
    with CAPTURING, ExitStack() as stack:
        # What was made in a capture has no value outside of its graph.
        stack.callback(_SIGNED.clear)
        for owner, name, replacement in _REPLACED[model]:
            stack.enter_context(patch.object(owner, name, _in_this_thread(replacement, getattr(owner, name))))
        yield


def _in_this_thread(replacement: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    """Return what is the replacement in the thread that asks for it, and its own in all others.

    A family's module and its functions are shared by all its models, and each has a lock of its own: another thread's
    pass would keep its signs among those of the capture, which are thrown away with it.
    """
    asking = threading.get_ident()

    def chosen(*given: Any, **named: Any) -> Any:
        return (replacement if threading.get_ident() == asking else own)(*given, **named)

    return chosen


_Replacement = tuple[Any, str, Callable[..., Any]]
_REPLACED: WeakKeyDictionary[InspectedModel, list[_Replacement]] = WeakKeyDictionary()


@torch.no_grad()
def _replacements(model: InspectedModel) -> list[_Replacement]:
    """Return owner, name and replacement of what can be replaced without a change of a bit."""
    found: list[_Replacement] = []
    agrees: dict[type, bool] = {}
    for module in model.network.modules():
        if not hasattr(module, "variance_epsilon") or getattr(module, "weight", None) is None:
            continue
        kind = type(module)
        if kind not in agrees:
            agrees[kind] = _same_norm(module)
        if agrees[kind]:
            found.append((module, "forward", partial(rms_norm, module)))
    home = sys.modules[type(model.architecture.blocks[0]).__module__]
    own = getattr(home, ROTARY, None)
    if own is not None and _same_rotary(model, own):
        found.append((home, ROTARY, partial(rotary, own)))
    return found


def _drawn(*shape: int, like: Tensor) -> Tensor:
    """Return random numbers that are the same in every process, so that the verdict is."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(like)


def _same_norm(norm: nn.Module) -> bool:
    weight = norm.weight
    states = _drawn(64, 3, weight.shape[-1], like=weight)
    return torch.equal(norm(states), rms_norm(norm, states))


def _same_rotary(model: InspectedModel, own: _Rotary) -> bool:
    config = model.network.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads

    like = model.network.get_input_embeddings().weight
    keys = getattr(config, "num_key_value_heads", None) or heads
    given = [_drawn(*shape, size, like=like) for shape in ((2, heads, 1), (2, keys, 1), (2, 1), (2, 1))]
    try:
        theirs = own(*given)
    except (TypeError, RuntimeError):  # a family whose function takes something else
        return False
    return all(torch.equal(one, two) for one, two in zip(theirs, rotary(own, *given), strict=True))
