"""Quantised projections: their weights as float32 matrices ``[out, in]``, and what else names, shares or weighs them.

The only place that knows how each kind stores a matrix: bitsandbytes' 4 and 8 bit (Dettmers et al. 2022 and 2023) and
transformers' FP8 with scales. Nothing is imported for them until a model has them. A kind that is not known here is
refused by its name, so that no stored number is taken for a weight.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from inspector.errors import ArchitectureError, ModelLoadError

REQUIREMENTS = "requirements-quantised.txt"
"""What bitsandbytes is installed with."""

_FOUR, _EIGHT, _FP8 = "Linear4bit", "Linear8bitLt", "FP8Linear"
_PACKAGES = {_FOUR: "bitsandbytes", _EIGHT: "bitsandbytes", _FP8: "transformers"}


def quantisation(module: nn.Module) -> str | None:
    """Return how a projection is quantised: ``nf4``, ``fp4``, ``int8`` or ``fp8``; ``None`` for plain weights.

    Raises:
        ArchitectureError: It is quantised in a way that is not known here.
    """
    kind = _kind(module)
    if kind == _FOUR:
        return str(module.weight.quant_type)
    if kind == _EIGHT:
        return "int8"
    if kind == _FP8:
        if module.weight.element_size() > 1:  # it computes as a plain one then
            return None
        if type(module).__name__ != _FP8:
            raise _refused(module)  # several matrices in one, each for a part of the input
        return "fp8"
    if isinstance(module, nn.Linear) and not _plain(module):
        raise _refused(module)
    return None


def quantisation_of(network: nn.Module) -> str | None:
    """Return how a network's projections are quantised, several ways joined by ``+``; ``None`` for a plain one."""
    found = {quantisation(module) for module in network.modules() if _kind(module) is not None} - {None}
    return "+".join(sorted(map(str, found))) or None


def shape_of(module: nn.Module) -> tuple[int, int]:
    """Return ``(out, in)`` of a quantised projection; nothing is dequantised."""
    return int(module.out_features), int(module.in_features)


@torch.no_grad()
def dequantised(module: nn.Module) -> Tensor:
    """Return a quantised projection's weight as the layer itself uses it, a float32 copy ``[out, in]``.

    4 bit is rounded to the type that the layer multiplies in, as it does. 8 bit and FP8 layers also round their
    inputs, which is no part of the weight. A weight that is offloaded comes back on the ``meta`` device.

    Raises:
        ArchitectureError: It is quantised in a way that is not known here.
    """
    kind = quantisation(module)
    assert kind is not None, "a plain projection"
    if module.weight.device.type == "meta":
        return torch.empty(shape_of(module), device="meta")
    if kind == "fp8":
        return _from_fp8(module)
    return _from_eight(module) if kind == "int8" else _from_four(module)


def _from_four(module: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    state = copy.copy(_four_bit_state(module))
    state.dtype = module.compute_dtype or torch.float32
    return dequantize_4bit(module.weight.data, state).reshape(shape_of(module)).float()


def _four_bit_state(module: Any) -> Any:
    state = getattr(module.weight, "quant_state", None) or module.quant_state
    if state is None or getattr(state, "packing_format_for_cpu", False):
        raise _refused(module)  # not quantised yet, or packed for a product that has no gradient: see prepare
    return state


def _from_eight(module: Any) -> Tensor:
    codes, scales = _eight_bit_parts(module)
    return codes.float() * (scales.float() / 127).unsqueeze(1)


def _eight_bit_parts(module: Any) -> tuple[Tensor, Tensor]:
    """Return the codes ``[out, in]`` and the scales ``[out]``, which the first forward pass moves to another place."""
    state, weight = module.state, module.weight
    codes, scales = (state.CB, state.SCB) if state.SCB is not None else (weight.CB, weight.SCB)
    if codes is None:
        codes = weight.data
    if scales is None or codes.dtype != torch.int8:
        raise _refused(module)  # kept in 16 bits and quantised anew in every forward pass
    return codes, scales


def _from_fp8(module: Any) -> Tensor:
    scale, weight = module.weight_scale_inv, module.weight
    rows, columns = weight.shape
    if weight.dtype not in _FLOAT8 or not scale.is_floating_point():
        raise _refused(module)
    scale = scale.detach().float()
    if module.block_size is not None:
        high, wide = module.block_size
        if scale.shape != (-(-rows // high), -(-columns // wide)):
            raise _refused(module)
        scale = scale.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :columns]
    elif scale.numel() != 1 and scale.shape != (rows, 1):
        raise _refused(module)
    return weight.detach().float() * (scale if scale.numel() > 1 else scale.reshape(()))


_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def beside_parameters(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of quantised weights that are neither parameters nor buffers: scales and tables of values.

    Yields:
        A name and a tensor; each once.
    """
    for name, module in network.named_modules():
        kind = _kind(module)
        if kind == _EIGHT and module.weight.device.type != "meta":
            yield f"{name}.SCB", _eight_bit_parts(module)[1]
        elif kind == _FOUR and module.weight.device.type != "meta":
            state = _four_bit_state(module)
            yield f"{name}.absmax", state.absmax
            yield f"{name}.code", state.code
            if state.nested:
                yield f"{name}.offset", state.offset
                yield f"{name}.nested_absmax", state.state2.absmax
                yield f"{name}.nested_code", state.state2.code


def shared_with_copies(network: nn.Module) -> Iterator[Tensor]:
    """Give the tensors that a copy of the module tree has to share beside its parameters and buffers."""
    for _, tensor in beside_parameters(network):
        yield tensor
    for module in network.modules():
        if _kind(module) == _EIGHT:  # a second tensor of the same memory as the parameter
            yield from (codes for codes in (module.state.CB, module.weight.CB) if codes is not None)


def name_bytes(network: nn.Module) -> Iterator[bytes]:
    """Give what a fingerprint has to know of a quantised network beside its parameters; nothing for a plain one."""
    how = quantisation_of(network)
    if how is None:
        return
    yield how.encode()
    for name, tensor in beside_parameters(network):
        flat = tensor.detach().reshape(-1)
        yield name.encode()
        yield flat[:: max(1, flat.numel() // 256)].float().cpu().numpy().tobytes()


def prepare(network: nn.Module) -> None:
    """Make a network's 4-bit layers keep their weights as they are, before its first forward pass.

    On a CPU with AVX512-BF16 they would pack them for a product that rounds the scales and has no gradient
    (``Linear4bit.forward``). The 8-bit layers' note about the type of every input is silenced, too.

    Raises:
        ModelLoadError: A forward pass has packed them already.
    """
    for module in network.modules():
        kind = _kind(module)
        if kind == _FOUR:
            if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
                raise ModelLoadError(
                    "The 4-bit weights of this network are packed for answering only. Load it anew and give it here "
                    "before its first forward pass."
                )
            module.support_avx512bf16_for_cpu = False
        elif kind == _EIGHT:
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def _kind(module: nn.Module) -> str | None:
    for base in type(module).__mro__:
        if _PACKAGES.get(base.__name__) == base.__module__.partition(".")[0]:
            return base.__name__
    return None


def _plain(module: nn.Linear) -> bool:
    """Tell whether a linear layer of a class not known here is what it says: a matrix of numbers and a bias."""
    weight: Any = module.weight
    if weight is None or not weight.is_floating_point() or weight.element_size() == 1:
        return False
    own = {name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))}
    return own <= {"weight", "bias"} and type(weight).__module__.partition(".")[0] == "torch"


def _refused(module: nn.Module) -> ArchitectureError:
    return ArchitectureError(
        f"A projection of type {type(module).__name__} cannot be edited: its weight is quantised in a way that is not "
        "known here. Load the model with unquantised weights (--dtype bfloat16), with --dtype nf4 or int8, or an "
        "FP8 checkpoint."
    )
