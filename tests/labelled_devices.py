"""Two accelerators on a machine that has none: tensors compute on the CPU and are labelled with a device.

Inside :class:`LabelledDevices` every tensor says that it lies on the device that its label names, what is made or moved
gets the label that a real device would have, and a function that is given tensors of two devices fails as torch fails
there. The numbers are real ones, so that what a sharded model gives is compared with what the whole one gives.

Why not torch's own FakeTensorMode: its tensors have no numbers, and nearly everything here decides by one (``float`` of
a loss, the next token of an answer, whether a tail may be resumed). With a PyTorch that is built without CUDA it cannot
carry a forward pass either: indexing a fake CUDA tensor (``x[..., None]``, as rotary embeddings do) asks for CUDA's
device guard and fails, and the first product with a gradient asks for it inside autograd and ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from accelerate import dispatch_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inspector.model import InspectedModel, from_parts

CPU = torch.device("cpu")
FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")
FREE = 2**40
"""Bytes that are free on each."""


class MixedDevicesError(RuntimeError):
    """Tensors of different devices met in one function."""


def label(tensor: Tensor) -> torch.device:
    """Return the device that a tensor is labelled with."""
    return tensor.__dict__.get("labelled", CPU)


_GROUPS = (tuple, list)
_PLAIN = (int, float, str, type(None))


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors of what torch's functions take and return; asked several times for each of them."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, _GROUPS) else ()
    return [tensor for part in parts if not isinstance(part, _PLAIN) for tensor in _tensors(part)]


def _put(value: Any, device: torch.device) -> Any:
    for tensor in _tensors(value):
        if tensor.__dict__.get("labelled") != device:
            tensor.__dict__["labelled"] = device
    return value


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device: a copy if it lay on another one, as a real transfer makes."""
    if device == label(tensor):
        return tensor
    if device.type == "meta" or tensor.is_meta:
        return tensor.to(device)
    return _put(tensor.clone(), device)


_SELF_ALONE = (
    "__getitem__",
    "__setitem__",
    "index_put_",
    "copy_",
    "set_",
    "backward",
    "_has_compatible_shallow_copy_type",
)
"""Functions that take more than one device: indices may lie on the CPU, a copy crosses devices, a pass backward too."""


class LabelledDevices(TorchFunctionMode):
    """See the module's text."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        owner = args[0] if args and isinstance(args[0], Tensor) else None
        if name == "__get__" and owner is not None:
            return self._property(func, owner)
        if name == "__set__" and owner is not None:
            if isinstance(args[1], Tensor):
                _put(owner, label(args[1]))
            return func(*args)
        if name in ("to", "type_as") and owner is not None:
            return self._to(owner, args[1:], kwargs)
        if name in ("cpu", "cuda", "get_device", "numpy", "pin_memory") and owner is not None:
            return self._leaves(name, func, owner, args, kwargs)
        if name.startswith("_foreach"):  # tensor by tensor; torch sorts its lists by the real device
            return func(*args, **kwargs)
        if func is torch.autograd.grad:
            return self._gradients(func, args, kwargs)
        wanted = kwargs.pop("device", None)
        if wanted is not None and torch.device(wanted).type == "meta":
            return func(*args, **kwargs, device=wanted)
        found = _backward(func, args, kwargs) if name == "backward" else func(*args, **kwargs)
        if wanted is not None:
            if isinstance(found, Tensor) and found is owner:
                return _moved(found, _whole(wanted))
            return _put(found, _whole(wanted))
        if name in _SELF_ALONE:
            self._check_index(name, args)
            return _put(found, label(args[0]))
        return _put(found, _common(name, args, kwargs))

    @staticmethod
    def _property(func: Any, owner: Tensor) -> Any:
        prop = getattr(func.__self__, "__name__", "")
        found = func(owner)
        if prop == "device":
            return label(owner) if found.type == "cpu" else found
        if prop == "is_cuda":
            return label(owner).type == "cuda"
        if prop == "is_cpu":
            return label(owner).type == "cpu"
        return _put(found, label(owner))

    @staticmethod
    def _to(owner: Tensor, given: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        like = given[0] if given and isinstance(given[0], Tensor) else kwargs.get("other")
        if like is not None:
            device, dtype = label(like), like.dtype
        else:
            named = {key: value for key, value in kwargs.items() if key in ("device", "dtype", "non_blocking")}
            device, dtype, _, _ = torch._C._nn._parse_to(*given, **named)
        found = _put(owner.to(dtype), label(owner)) if dtype is not None and dtype != owner.dtype else owner
        return found if device is None else _moved(found, _whole(device))

    @staticmethod
    def _leaves(name: str, func: Any, owner: Tensor, args: Any, kwargs: Any) -> Any:
        if name == "cpu":
            return _moved(owner, CPU)
        if name == "cuda":
            return _moved(owner, _whole("cuda"))
        if name == "get_device":
            return label(owner).index if label(owner).type == "cuda" else -1
        if label(owner) != CPU:
            raise TypeError(f"can't convert {label(owner)} device type tensor to numpy. Use Tensor.cpu() first.")
        return func(*args, **kwargs)

    @staticmethod
    def _gradients(func: Any, args: Any, kwargs: Any) -> Any:
        found = _backward(func, args, kwargs)
        inputs = kwargs["inputs"] if "inputs" in kwargs else args[1]
        for gradient, point in zip(_tensors(found), _tensors(inputs), strict=True):
            _put(gradient, label(point))
        return found

    @staticmethod
    def _check_index(name: str, args: Any) -> None:
        if name not in ("__getitem__", "__setitem__", "index_put_"):
            return
        for index in _tensors(args[1]):
            if label(index) not in (CPU, label(args[0])):
                raise MixedDevicesError(f"{name}: an index on {label(index)} of a tensor on {label(args[0])}")


def _backward(func: Any, args: Any, kwargs: Any) -> Any:
    """Call what runs a backward pass; what that computes again is unlabelled."""
    run = torch.autograd._engine_run_backward

    def unlabelled(*given: Any, **named: Any) -> Any:
        with _Unlabelled():
            return run(*given, **named)

    with patch.object(torch.autograd, "_engine_run_backward", unlabelled):
        return func(*args, **kwargs)


class _Unlabelled(TorchFunctionMode):
    """What a backward pass computes again is on the CPU, and says so: autograd's tensors have lost their labels."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") == "to":
            args = tuple(CPU if _is_card(value) else value for value in args)
            kwargs = {name: CPU if _is_card(value) else value for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _is_card(value: Any) -> bool:
    """Tell whether a value that a tensor is moved to names a card; by its number alone, too."""
    number = isinstance(value, int) and not isinstance(value, bool)
    return number or (isinstance(value, torch.device | str) and torch.device(value).type == "cuda")


def _whole(device: Any) -> torch.device:
    found = torch.device(device)
    return torch.device("cuda", 0) if found.type == "cuda" and found.index is None else found


def _common(name: str, args: Any, kwargs: Any) -> torch.device:
    """Return the one device of what a function is given, as torch would: a number on the CPU goes with any."""
    tensors = [tensor for tensor in (*_tensors(args), *_tensors(kwargs)) if not tensor.is_meta]
    whole = {label(tensor) for tensor in tensors if tensor.dim() > 0 or label(tensor) != CPU}
    if len(whole) > 1:
        told = ", ".join(f"{label(tensor)} {tuple(tensor.shape)}" for tensor in tensors)
        raise MixedDevicesError(f"{name}: expected all tensors to be on the same device, found {told}")
    return whole.pop() if whole else CPU


@contextmanager
def labelled_devices() -> Iterator[None]:
    """Compute with labelled tensors inside; a parameter made of one has its label, and the devices have room."""
    make = Tensor._make_subclass

    def made(kind: type, data: Tensor, *rest: Any) -> Tensor:
        return _put(make(kind, data, *rest), label(data))

    Tensor._make_subclass = staticmethod(made)  # type: ignore[method-assign]
    try:
        with LabelledDevices(), patch.object(torch.cuda, "mem_get_info", lambda _device: (FREE, FREE)):
            yield
    finally:
        Tensor._make_subclass = make  # type: ignore[method-assign]


def halves(model: InspectedModel) -> dict[str, torch.device]:
    """Return a device map: the first block and what is below on one device, what is above on the other."""
    architecture = model.architecture
    named = {module: name for name, module in model.network.named_modules()}
    found: dict[str, torch.device] = {}
    upper = {*architecture.blocks[1:], architecture.final_norm, architecture.project_out}
    if architecture.unembedding.weight is not model.network.get_input_embeddings().weight:
        upper.add(architecture.unembedding)  # tied ones stay together
    for module, name in named.items():
        if any(name == known or name.startswith(f"{known}.") for known in found):
            continue
        whole = module in architecture.blocks or not list(module.children())
        if whole and (list(module.parameters()) or list(module.buffers())):
            found[name] = SECOND if module in upper else FIRST
    return found


def one_card(model: InspectedModel) -> dict[str, torch.device]:
    """Return a device map: all on one device but the second block, which is kept in CPU memory and fetched."""
    second = f"{model.architecture.paths.blocks}.1"
    return {name: CPU if name == second else FIRST for name in halves(model)}


def sharded(
    network: Any,
    tokenizer: Any,
    name: str,
    places: Callable[[InspectedModel], Mapping[str, torch.device]] = halves,
) -> InspectedModel:
    """Return a model whose parts are dispatched as accelerate does it; call it inside :func:`labelled_devices`."""
    whole = from_parts(network, tokenizer, name)
    found = {part: "cpu" if device == CPU else device for part, device in places(whole).items()}
    dispatch_model(network, found, main_device=FIRST, skip_keys=network._skip_keys_device_placement, force_hooks=True)
    return from_parts(network, tokenizer, name)


def devices_of(module: nn.Module) -> set[torch.device]:
    """Return the labels of a module's parameters."""
    return {label(parameter) for parameter in module.parameters()}
