"""Where a part of a model computes, and what its weights are, on one device, spread over several, or offloaded.

accelerate keeps an offloaded weight in CPU memory or on disk, leaves an empty one of torch's ``meta`` device in the
module, and fetches it for each forward pass of that module. What reads a weight itself gets it here: fetched for that
reading alone, on the device where its module computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop


def place(module: nn.Module) -> torch.device:
    """Return the device on which a module computes: its first parameter's, or where that is fetched to.

    A module of ``meta`` weights that nothing fetches computes nowhere; its place is ``meta``.
    """
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if parameter.device.type != "meta":
                return parameter.device
            for hook in _fetching(part):
                return torch.device(hook.execution_device)
    return torch.device("meta")


def is_offloaded(module: nn.Module) -> bool:
    """Tell whether a weight of a module itself is not in memory."""
    return any(parameter.device.type == "meta" for parameter in module.parameters(recurse=False))


def held(module: nn.Module, name: str = "weight") -> Tensor | None:
    """Return a tensor of a module by its name, ``None`` for none; an offloaded one is fetched.

    One that nothing fetches is returned as it is, on the ``meta`` device.
    """
    tensor = getattr(module, name, None)
    if tensor is None or tensor.device.type != "meta":
        return tensor
    for hook in _fetching(module):
        return hook.weights_map[name].to(torch.device(hook.execution_device), tensor.dtype)
    return tensor


def fetch_again_for_gradients(network: nn.Module) -> None:
    """Let a backward pass fetch offloaded weights anew, so that no forward pass holds them all until then.

    A gradient that goes through a module needs its weights, and autograd would keep each that was fetched: of an edit,
    those of every block above it. So such a module is run a second time. Where nothing is offloaded nothing is changed.
    """
    for module in network.modules():
        run = module.forward
        if any(_fetching(module)) and getattr(run, "func", None) is not _run_again:
            module.forward = update_wrapper(partial(_run_again, run), run)


def _run_again(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a module's forward pass; where a gradient goes through it, once more in the backward pass."""
    given = (*args, *kwargs.values())
    if not torch.is_grad_enabled() or not any(isinstance(each, Tensor) and each.requires_grad for each in given):
        return run(*args, **kwargs)
    with set_checkpoint_early_stop(False):  # a run that ended early would not give its weights back
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def named_weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter with its full name, tied ones once, an offloaded one fetched for as long as it is used.

    Names and order do not depend on where the parameters are. (Fetching unties them: a tied parameter that was fetched
    is another object from then on.)
    """
    tied = tied_names(network)
    for name, parameter in network.named_parameters():
        if parameter.device.type != "meta":
            yield name, parameter
        elif name not in tied:
            owner, _, own = name.rpartition(".")
            tensor = held(network.get_submodule(owner), own)
            assert tensor is not None
            yield name, tensor


def tied_names(network: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that are another one under a second name."""
    return frozenset(getattr(network, "all_tied_weights_keys", None) or {})


def stores(network: nn.Module) -> list[Any]:
    """Return what offloaded weights are fetched from: a copy of the module tree is to share it, not to copy it."""
    found: list[Any] = []
    for module in network.modules():
        for hook in _hooks(module):
            found += [part for part in (hook.weights_map, hook.tied_params_map) if part is not None]
    return found


def _fetching(module: nn.Module) -> Iterator[Any]:
    """Yield accelerate's hooks of a module that fetch its weights."""
    return (hook for hook in _hooks(module) if hook.offload and isinstance(hook.weights_map, Mapping))


def _hooks(module: nn.Module) -> Iterator[Any]:
    """Yield accelerate's hooks of a module that move what it computes with."""
    hook = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        if hasattr(each, "execution_device"):
            yield each
