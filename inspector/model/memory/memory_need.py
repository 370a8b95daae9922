"""Memory: what a model needs, predicted from its configuration alone, what is free, and the bytes of what is loaded.

The weights are exact: the network is built on the ``meta`` device, which holds shapes and no numbers, and every
parameter is counted as it will be stored. What reading and editing take on top is an estimate from those shapes. Second
copies of matrices (:mod:`inspector.model.passes.thin_products`) are not counted: they are made where that memory is
free. A GB is 10^9 bytes.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inspector.errors import ModelLoadError, NoRoom
from inspector.model.memory.container import left_in_container
from inspector.model.memory.halving import running_out_as
from inspector.model.memory.recent import Recent, named
from inspector.model.quantised import beside_parameters

GB = 10**9
BLOCK = 64
"""Weights that share a scale in 4 bit, bitsandbytes' default."""
ROWS = 2
"""Rows of a batch that reads: vanilla and edited."""
TOKENS = 512
"""Tokens of a long prompt with its answer."""
COUNTED = 64
"""Tokens of an answer, whose logits are computed."""
MASTERS = 9
"""Float32 matrices of the edited one's size: dequantised, descending, gradient, Adam's two moments, the last good step,
the change, and two in passing."""


@dataclass(frozen=True)
class EditTexts:
    """The texts of an edit beside its own prompt; those of the default edit unless told otherwise.

    Attributes:
        safe_answers: How many, each as long as the longest prompt with its answer.
        counted: Tokens of each of them whose logits are computed.
        harmless: Sequences that the edit is held to, questions that the model declines among them.
        at_once: How many of these a step runs.
        tokens: Length of each of them.
        harmless_counted: Tokens of each of them whose logits are computed.
    """

    safe_answers: int = 3
    counted: int = COUNTED
    harmless: int = 120
    at_once: int = 8
    tokens: int = 64
    harmless_counted: int = 12


DEFAULT_EDIT = EditTexts()


@dataclass(frozen=True)
class MemoryNeed:
    """What a model needs on its device, bytes.

    Attributes:
        dtype: How the weights are stored: ``float32``, ``bfloat16``, ``float16``, ``nf4``, ``fp4``, ``int8``, ``fp8``.
        weights: Of all parameters and buffers and of what quantised ones have beside them; exact.
        loading: What loading takes for a moment on top: the largest matrix before it is quantised.
        reading: What a forward pass of two long rows takes on top, their key-value cache included.
        editing: What the default edit of a block takes on top.
    """

    dtype: str
    weights: int
    loading: int
    reading: int
    editing: int

    @property
    def read(self) -> int:
        """All that loading, reading and answering need at once."""
        return self.weights + max(self.loading, self.reading)

    @property
    def edit(self) -> int:
        """All that an edit needs at once."""
        return self.weights + max(self.loading, self.reading, self.editing)


@dataclass(frozen=True)
class Shape:
    """The numbers of a configuration that memory depends on.

    Attributes:
        d_model: Width of the residual stream.
        d_ff: Width of the MLP.
        blocks: Number of blocks.
        heads: Number of attention heads, ``0`` where their scores are never held whole.
        keys: Width of a block's keys.
        vocabulary: Number of logits.
        largest: Weights of the largest matrix that is quantised, or of the largest one.
    """

    d_model: int
    d_ff: int
    blocks: int
    heads: int
    keys: int
    vocabulary: int
    largest: int


def bytes_of(network: nn.Module) -> dict[torch.device, int]:
    """Return the bytes that all weights and buffers of a network take on each device, shared ones once.

    Offloaded ones are counted on ``meta``.
    """
    tensors = [*network.parameters(), *network.buffers(), *(tensor for _, tensor in beside_parameters(network))]
    found: Counter[torch.device] = Counter()
    for tensor in {id(tensor): tensor for tensor in tensors}.values():
        found[tensor.device] += tensor.numel() * tensor.element_size()
    return dict(found)


def bytes_in(value: Any) -> int:
    """Return the bytes that tensors within tuples, lists and dictionaries hold in memory, shared ones once."""
    storages = {storage.data_ptr(): storage.nbytes() for storage in map(Tensor.untyped_storage, _tensors(value))}
    return sum(storages.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _tensors(entry)


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on a device.

    On CUDA what torch has reserved and nobody uses is among them; elsewhere a container has what its limits leave.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    import psutil

    left, container = psutil.virtual_memory().available, left_in_container()
    return left if container is None else min(left, container)


def quantised_in(config: Any) -> str | None:
    """Return how a configuration says that its checkpoint is quantised: ``nf4``, ``fp4``, ``int8``, ``fp8``, ``None``.

    Raises:
        ModelLoadError: In a way that cannot be read here.
    """
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    about = found if isinstance(found, dict) else found.to_dict()
    method = str(getattr(about.get("quant_method"), "value", about.get("quant_method")))
    if method == "bitsandbytes" or (method == "None" and "bnb_4bit_quant_type" in about):
        return str(about.get("bnb_4bit_quant_type") or "fp4") if about.get("load_in_4bit") else "int8"
    if method == "fp8":
        return "fp8"
    raise ModelLoadError(
        f"This model is quantised with {method}, which cannot be read here. Use a checkpoint in plain weights, in "
        "bitsandbytes' 4 or 8 bit, or in FP8 with scales."
    )


def predict(
    config: Any,
    dtype: str,
    rest: str = "bfloat16",
    block: int | None = None,
    tokens: int = TOKENS,
    texts: EditTexts = DEFAULT_EDIT,
) -> MemoryNeed:
    """Predict what a model needs from its configuration; no weight is read.

    Args:
        config: A transformers configuration; what a checkpoint's own quantisation leaves out is left out.
        dtype: ``float32``, ``bfloat16``, ``float16``, ``nf4``, ``fp4``, ``int8`` or ``fp8``.
        rest: Type of all that is not quantised where ``dtype`` is one of the last four, and of the states.
        block: The block that is edited; the middle one by default. The lower, the more blocks are replayed.
        tokens: Length of the longest prompt with its answer.
        texts: What else the edit is made with.
    """
    stored = dtype if dtype in _QUANTISED else None
    plain = getattr(torch, rest if stored else dtype)
    network = _on_meta(config, plain)
    kept = _left_out(network, config) if stored else []
    matrices = {id(m.weight): m for n, m in network.named_modules() if stored and _is_matrix(m) and _converted(n, kept)}
    weights = sum(
        _matrix_bytes(matrices[id(tensor)], stored, config)
        if id(tensor) in matrices
        else tensor.numel() * tensor.element_size()
        for tensor in {id(t): t for t in (*network.parameters(), *network.buffers())}.values()
    )
    shape = _shape(config, network, list(matrices.values()))
    size = torch.empty((), dtype=plain).element_size()
    passing = shape.largest * size if stored else 0
    return MemoryNeed(
        dtype=dtype,
        weights=weights,
        loading=shape.largest * max(size, 2 if stored else 0),
        reading=_reading(shape, size, tokens) + passing,
        editing=_editing(shape, size, shape.blocks // 2 if block is None else block, tokens, texts) + passing,
    )


_QUANTISED = ("nf4", "fp4", "int8", "fp8")
_SMALLER = {"float32": ("bfloat16", "nf4"), "bfloat16": ("nf4",), "float16": ("nf4",), "int8": ("nf4",)}
"""Types that take less, the one that rounds least first."""


def require_room(config: Any, dtype: str, rest: str, device: torch.device) -> None:
    """Check that a model fits before anything of it is loaded; the first two types as for :func:`predict`.

    Where it can be read and its default edit will not fit, that is a warning.

    Raises:
        NoRoom: It does not; the message has what is needed, what is free and what would do.
    """
    need, free = predict(config, dtype, rest), free_memory(device)
    if need.read <= free:
        if need.edit > free:
            smaller = [name for name in smaller_types(config, dtype) if predict(config, name).edit <= free]
            way = f"load it with --dtype {smaller[0]}" if smaller else "use a larger machine"
            _warn_of_edits(need.edit - need.weights, free - need.weights, device, way)
        return
    ways = " or ".join(remedies(config, dtype, free, device)) or "a smaller model or a larger machine"
    raise NoRoom(
        f"The model in {dtype} needs {in_gb(need.read)} GB on {device.type}, {in_gb(free)} free: use {ways}. "
        "python -m inspector.memory has the table."
    )


def warn_of_room_beside(
    config: Any, dtype: str, rest: str, devices: Sequence[torch.device], fetched: bool = False
) -> None:
    """Warn where a spread model has been loaded and a default edit does not fit beside it.

    All of the edit is counted as if it were on the one device that has least left.

    Args:
        dtype: As for :func:`predict`, as is ``rest``; several quantisations in one count as none.
        devices: Those that compute.
        fetched: Whether weights lie elsewhere, so that the largest matrix has to fit beside the edit.
    """
    need = predict(config, dtype if dtype in _QUANTISED else rest, rest)
    tightest = min(devices, key=free_memory)
    free = free_memory(tightest)
    needed = need.editing + (need.loading if fetched else 0)
    if needed > free:
        _warn_of_edits(needed, free, tightest, "let that device hold less of it (--max-memory)")


def _warn_of_edits(needed: int, free: int, device: torch.device, way: str) -> None:
    warnings.warn(
        f"This model can be read, but an edit of its middle layer takes about {in_gb(needed)} GB beside its weights, "
        f"and {in_gb(max(0, free))} are left on {device}. Edit a higher layer, or {way}. "
        "python -m inspector.memory has the table.",
        stacklevel=4,
    )


def smaller_types(config: Any, dtype: str) -> Sequence[str]:
    """Return the types that take less, the one that rounds least first; a checkpoint's own type stays."""
    return _SMALLER.get(dtype, ()) if quantised_in(config) is None else ()


def remedies(config: Any, dtype: str, free: int, device: torch.device) -> list[str]:
    """Return the options of a command line with which a model that does not fit would; none where none is known.

    Quantised weights are spread over cards only: neither CPU memory nor the disk takes what a card does not hold.

    Args:
        dtype: In which it does not.
        free: Bytes that are free.
        device: On what.
    """
    fits = [name for name in smaller_types(config, dtype) if predict(config, name).read <= free]
    spread = dtype not in _QUANTISED or (device.type == "cuda" and torch.cuda.device_count() > 1)
    return [*(f"--dtype {name}" for name in fits[:1]), *(["--device-map auto"] if spread else [])]


@contextmanager
def room_told(name: str, smaller: str = "--dtype bfloat16 or nf4") -> Iterator[None]:
    """Turn running out of memory while a model is loaded into an error of this program's family.

    Args:
        name: Of the model, for the error.
        smaller: What makes it one of a smaller type.

    Raises:
        NoRoom: The device or the process has no memory left; what was cached on the device is given back.
    """
    told = NoRoom(
        f"The memory ran out while {name} was loaded. Load it in a smaller type ({smaller}), choose a smaller one, or "
        "use a larger machine."
    )
    with running_out_as(told):
        yield


def in_gb(size: int) -> str:
    """Return bytes in GB for people, two digits or more."""
    value = size / GB
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


_NETWORKS: Recent[str, Any] = Recent(4)
"""Networks on the ``meta`` device by their configurations: a table of memory asks for each several times."""


def _on_meta(config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    key = named(
        type(config), config.to_json_string(use_diff=False), getattr(config, "_attn_implementation", None), dtype
    )
    known = _NETWORKS.get(key)
    if known is not None:
        return known
    with torch.device("meta"):  # a network writes into its configuration
        network = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, trust_remote_code=False)
    network.tie_weights()
    _NETWORKS[key] = network
    return network


def _is_matrix(module: nn.Module) -> bool:
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def _left_out(network: Any, config: Any) -> list[str]:
    """Return the names of what is not quantised, as transformers' quantisers choose it."""
    from transformers.quantizers.base import HfQuantizer

    found = getattr(config, "quantization_config", None) or {}
    about = found if isinstance(found, dict) else found.to_dict()
    named = about.get("llm_int8_skip_modules", about.get("modules_to_not_convert"))
    return HfQuantizer.get_modules_to_not_convert(network, named, network._keep_in_fp32_modules)


def _converted(name: str, kept: Sequence[str]) -> bool:
    from transformers.quantizers.quantizers_utils import should_convert_module

    return should_convert_module(name, list(kept))


def _matrix_bytes(module: nn.Module, stored: str | None, config: Any) -> int:
    rows, columns = _sides(module)
    count = rows * columns
    found = getattr(config, "quantization_config", None) or {}
    about = found if isinstance(found, dict) else found.to_dict()
    if stored == "int8":
        return count + 4 * rows
    if stored == "fp8":
        high, wide = about.get("weight_block_size") or ((128, 128) if not about else (rows, columns))
        scale = 1 if about.get("scale_fmt") == "ue8m0" else 4
        return count + scale * math.ceil(rows / high) * math.ceil(columns / wide)
    scales = math.ceil(count / BLOCK)
    if about.get("bnb_4bit_use_double_quant"):
        return math.ceil(count / 2) + scales + 4 * math.ceil(scales / 256) + 4 * 16 + 4 * 256 + 4
    return math.ceil(count / 2) + 4 * scales + 4 * 16


def _sides(module: nn.Module) -> tuple[int, int]:
    """Return ``(out, in)``."""
    one, other = module.weight.shape
    return (one, other) if isinstance(module, nn.Linear) else (other, one)


def _shape(config: Any, network: Any, quantised: Sequence[nn.Module]) -> Shape:
    text = config.get_text_config()
    head = network.get_output_embeddings()
    matrices = [module for module in network.modules() if _is_matrix(module) and module is not head]
    return Shape(
        d_model=text.hidden_size,
        d_ff=max((max(_sides(module)) for module in _wide(matrices, text.hidden_size)), default=text.hidden_size),
        blocks=text.num_hidden_layers,
        heads=text.num_attention_heads if scores_held_whole(network.config) else 0,
        keys=key_width(config),
        vocabulary=text.vocab_size,
        largest=max((module.weight.numel() for module in quantised or matrices), default=0),
    )


def key_width(config: Any) -> int:
    """Return the width of a block's keys, and of its values."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return (getattr(text, "num_key_value_heads", None) or heads) * width


def scores_held_whole(config: Any) -> bool:
    """Tell whether attention scores of all positions are in memory at once, as no fused attention holds them."""
    return getattr(config, "_attn_implementation", None) == "eager"


def _wide(matrices: Sequence[nn.Module], width: int) -> Iterator[nn.Module]:
    """Give the matrices that write to the residual stream: a down-projection is the widest of them."""
    for module in matrices:
        if _sides(module)[0] == width:
            yield module


def _reading(shape: Shape, size: int, tokens: int) -> int:
    cache = 2 * shape.blocks * shape.keys * size
    inside = 4 * (4 * shape.d_model + 3 * shape.d_ff) + 4 * shape.heads * tokens
    return ROWS * tokens * (cache + inside) + 2 * 4 * ROWS * COUNTED * shape.vocabulary


def _editing(shape: Shape, size: int, block: int, tokens: int, texts: EditTexts) -> int:
    """Return what an edit holds: matrices, states of the tails, vanilla distributions, one graph, logits."""
    above = shape.blocks - block
    answers, harmless = texts.safe_answers * tokens, texts.harmless * texts.tokens
    # What enters the edited matrix, and what its output is added to.
    states = (answers + tokens + harmless) * (shape.d_model + shape.d_ff) * size
    vanilla = 4 * texts.harmless * texts.harmless_counted * shape.vocabulary
    graph = (answers + texts.at_once * texts.tokens) * above
    graph *= (14 * shape.d_model + 4 * shape.d_ff) * size + 4 * shape.heads * tokens
    logits = 4 * 4 * (texts.safe_answers * texts.counted + texts.at_once * texts.harmless_counted) * shape.vocabulary
    return 4 * MASTERS * shape.d_model * shape.d_ff + states + vanilla + graph + logits
