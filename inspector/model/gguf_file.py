"""Models from one GGUF file, checked to be whole."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from inspector.errors import ModelLoadError, NoRoom
from inspector.model.memory.halving import ran_out
from inspector.model.memory.memory_need import free_memory, in_gb, predict

CPU = torch.device("cpu")
SMALLER = "--dtype bfloat16, or the same model as safetensors with --dtype nf4"
"""What takes less memory than a GGUF file in float32, as nothing here quantises what was read from one."""
_READING = threading.Lock()


def read_gguf(path: Path, dtype: torch.dtype = torch.float32, target: torch.device = CPU) -> tuple[Any, Any]:
    """Read network and tokenizer from one GGUF file, dequantised to ``dtype``, into CPU memory.

    Args:
        target: Where the network is to go then; there has to be room for it before it is read.

    Raises:
        ModelLoadError: The file is not GGUF, cut short, or of an unsupported family.
        NoRoom: It is larger than what is free in CPU memory, or on the target.
    """
    with _READING, _parsed_once(_checked(path, dtype), path):
        return _read(path, dtype, target)


def _read(path: Path, dtype: torch.dtype, target: torch.device) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        if target.type != "cpu":
            config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name, trust_remote_code=False)
            _require_room(path, dtype, predict(config, str(dtype).removeprefix("torch.")).read, target)
        network, report = AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            # Without this the model stays marked as quantised and cannot be saved.
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, trust_remote_code=False)
    except (ValueError, KeyError, IndexError, OSError, RuntimeError, NotImplementedError) as error:
        if ran_out(error):
            raise
        raise ModelLoadError(
            f"The GGUF file {path.name} could not be read: {first_line(error)}. Use a file of a "
            "supported family, or the same model as safetensors."
        ) from error
    require_all_weights(path.name, report["missing_keys"])
    return network, tokenizer


@contextmanager
def _parsed_once(reader: Any, path: Path) -> Iterator[None]:
    """Let transformers have what was parsed already: it parses a file three times (configuration, weights, tokenizer),
    each time every word of the vocabulary on its own, which takes half a minute for 262,144 of them.
    """
    import gguf

    own = gguf.GGUFReader

    def parsed(given: Any, *options: Any, **named: Any) -> Any:
        return reader if Path(given) == path and not (options or named) else own(given, *options, **named)

    gguf.GGUFReader = parsed  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        gguf.GGUFReader = own  # type: ignore[misc]


def _checked(path: Path, dtype: torch.dtype) -> Any:
    """Parse a file; refuse what is not GGUF, ends before its last tensor does, or is larger than what is free."""
    from gguf import GGUFReader

    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelLoadError(f"{path.name} is not a GGUF file (it starts with {magic!r}). Check the path.")
    try:
        reader = GGUFReader(str(path))
        ends = [int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors]
        complete = bool(ends) and max(ends) <= path.stat().st_size
        count = sum(int(tensor.n_elements) for tensor in reader.tensors)
    except (ValueError, IndexError, KeyError, OSError, UnicodeDecodeError, OverflowError, MemoryError):
        complete = False
    if not complete:
        raise ModelLoadError(
            f"{path.name} is cut short or damaged ({path.stat().st_size:,} bytes). Download or copy it again."
        )
    _require_room(path, dtype, count * torch.empty((), dtype=dtype).element_size(), CPU)
    return reader


def _require_room(path: Path, dtype: torch.dtype, needed: int, device: torch.device) -> None:
    free = free_memory(device)
    if needed > free:
        name = str(dtype).removeprefix("torch.")
        raise NoRoom(
            f"{path.name} in {name} needs {in_gb(needed)} GB on {device.type}, {in_gb(free)} free: use "
            f"{SMALLER if dtype == torch.float32 else 'the same model as safetensors with --dtype nf4'}."
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, for a message of our own."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(". ")


def require_all_weights(where: str, missing: Collection[str]) -> None:
    """Refuse a model some of whose weights were not in its files: transformers starts those at random.

    Raises:
        ModelLoadError: Weights are missing.
    """
    if missing:
        raise ModelLoadError(
            f"The files of '{where}' lack {len(missing)} of the weights that its configuration asks for, for example "
            f"{min(missing)}. Download them again, or use a complete causal language model."
        )
