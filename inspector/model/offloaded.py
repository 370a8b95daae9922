"""Where a part of a model computes, and what its weights are, on one device, spread over several, or offloaded.

accelerate keeps an offloaded weight in CPU memory or on disk, leaves an empty one of torch's ``meta`` device in the
module, and fetches it for each forward pass of that module. What reads a weight itself gets it here: fetched for that
reading alone, on the device where its module computes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


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
    those of every block above it. Where nothing is offloaded, or no gradient is wanted, nothing is changed.
    """
    for module in network.modules():
        if any(_fetching(module)) and _keep_names not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_keep_names)
            module.register_forward_hook(_keep_tensors, always_call=True)


_KEEPING = threading.local()
"""What each thread keeps for gradients: a stack of contexts, one for each module that is running."""


def _keep_names(module: nn.Module, _inputs: Any) -> None:
    """From here on autograd keeps of a module's fetched weights where to find them; the module is about to run."""
    running = _KEEPING.__dict__.setdefault("running", [])
    running.append(saved_tensors_hooks(partial(_packed, module), _unpacked) if torch.is_grad_enabled() else None)
    if running[-1] is not None:
        running[-1].__enter__()


def _keep_tensors(_module: nn.Module, _inputs: Any, _output: Any) -> None:
    """End what :func:`_keep_names` began; the module has run, or raised."""
    context = _KEEPING.running.pop()
    if context is not None:
        context.__exit__()


def _packed(module: nn.Module, tensor: Tensor) -> Any:
    """Return what autograd keeps of a tensor: itself; of a view of a fetched weight where that is, and which view."""
    storage = tensor.untyped_storage().data_ptr()
    for name, own in module.named_parameters(recurse=False):
        if own.device.type != "meta" and own.is_contiguous() and own.untyped_storage().data_ptr() == storage:
            return module, name, tensor.size(), tensor.stride(), tensor.storage_offset() - own.storage_offset()
    return tensor


def _unpacked(kept: Any) -> Tensor:
    """Return the tensor of which :func:`_packed` told what to keep."""
    if isinstance(kept, Tensor):
        return kept
    module, name, size, stride, offset = kept
    fetched = held(module, name)
    assert fetched is not None
    fetched = fetched.detach().contiguous()
    return fetched.as_strided(size, stride, fetched.storage_offset() + offset)


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
