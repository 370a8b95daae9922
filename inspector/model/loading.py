"""Loading a model from wherever it is: embedded, hub id, local folder or local GGUF file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from inspector.errors import ModelLoadError
from inspector.model import embedded
from inspector.model.architecture import resolve
from inspector.model.gguf_file import first_line, read_gguf, require_all_weights
from inspector.model.inspected import InspectedModel
from inspector.model.patch import fingerprint

MaxMemory = Mapping[int | str, int | str]
"""What each device may hold of a model, in bytes or as ``20GiB``; devices are card numbers and ``cpu``."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name_or_path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    device_map: str | None = None,
    max_memory: MaxMemory | None = None,
    paths: Mapping[str, str] | None = None,
) -> InspectedModel:
    """Load a causal language model for inspection and check its architecture map.

    Args:
        name_or_path: ``None`` or ``embedded`` for the embedded default, else a hub id, a local
            folder with safetensors, or a local ``.gguf`` file.
        device: ``auto`` (CUDA if there is one, else CPU), ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``auto`` (bfloat16 on CUDA, float32 on CPU), ``float32``, ``bfloat16``, ``float16``.
        revision: Branch, tag or commit of a hub model.
        device_map: ``auto`` to spread a large model with accelerate: over all cards, what they cannot hold in CPU
            memory and what that cannot hold on disk, from where it is fetched for each pass. With a ``device`` of
            ``cpu`` no card is used.
        max_memory: What of it each device may hold, for ``auto``; devices that are not named hold nothing of it, and
            what is left stays on disk.
        paths: Dotted paths that complete the architecture map, see
            :data:`inspector.model.architecture.OVERRIDES`.

    Raises:
        ModelLoadError: The model does not exist, is out of reach, broken or of a kind that cannot
            be loaded safely; the message says what to do.
        ArchitectureError: Its parts are not where the map says.
    """
    target = _device(device)
    spread = _spread(target, device_map, max_memory)
    weight_type = _dtype(dtype, target)
    if name_or_path is None or str(name_or_path) == "embedded":
        name, source = embedded.NAME, embedded.ensure()
    else:
        name, source = str(name_or_path), Path(str(name_or_path)).expanduser()

    if source.suffix.lower() == ".gguf":
        if not source.is_file():
            raise ModelLoadError(f"There is no file {source}. Check the path.")
        if spread:
            raise ModelLoadError(
                "A .gguf file is read whole and cannot be spread over devices. Give the model's folder or hub id, or "
                "leave the device map out."
            )
        network, tokenizer = read_gguf(source, weight_type)
    else:
        where = str(source) if source.is_dir() else name
        network, tokenizer = _read_pretrained(where, weight_type, revision, spread)
    if not spread:
        network = network.to(target)
    network.eval().requires_grad_(False)
    return from_parts(network, tokenizer, name, paths)


def from_parts(network: Any, tokenizer: Any, name: str, paths: Mapping[str, str] | None = None) -> InspectedModel:
    """Wrap a network and tokenizer that are loaded already."""
    network.eval().requires_grad_(False)
    return InspectedModel(
        name=name,
        network=network,
        tokenizer=tokenizer,
        architecture=resolve(network, paths),
        fingerprint=fingerprint(network),
    )


def read_max_memory(entries: Sequence[str]) -> MaxMemory | None:
    """Read ``DEVICE=SIZE`` entries, such as ``0=70GiB`` and ``cpu=200GiB``; ``None`` for no entry.

    Raises:
        ModelLoadError: An entry is of another form.
    """
    found: dict[int | str, int | str] = {}
    for entry in entries:
        read = re.fullmatch(r"(cpu|\d+)=(\d+(?:\.\d+)?)([KMG])(i?)B", entry, re.IGNORECASE)
        if read is None:
            raise ModelLoadError(f"'{entry}' is no DEVICE=SIZE. Write a card's number or cpu: 0=70GiB, cpu=200GiB.")
        name, size, unit, binary = read.groups()
        whole = float(size) * (1024 if binary else 1000) ** (1 + "KMG".index(unit.upper()))
        found[int(name) if name.isdecimal() else name.lower()] = int(whole)
    return found or None


def _spread(device: torch.device, device_map: str | None, max_memory: MaxMemory | None) -> dict[str, Any]:
    """Return the options that spread a model; none for one device."""
    if device_map is None:
        if max_memory:
            raise ModelLoadError("What each device may hold is for a spread model. Add --device-map auto.")
        return {}
    if device_map != "auto":
        raise ModelLoadError(f"'{device_map}' is no way to spread a model. Use auto.")
    if device.index is not None:
        raise ModelLoadError(
            f"A spread model is not loaded on {device} alone. Leave --device out and name the cards with --max-memory."
        )
    if max_memory is None and device.type == "cpu":
        max_memory = {"cpu": int(0.9 * psutil.virtual_memory().available)}  # as transformers does, but on no card
    return {"device_map": device_map, **({"max_memory": dict(max_memory)} if max_memory else {})}


def _read_pretrained(
    where: str, dtype: torch.dtype, revision: str | None, spread: Mapping[str, Any]
) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"revision": revision} if revision else {}
    if not Path(where).exists() and not _on_hub(where, revision):
        options["local_files_only"] = True  # downloaded before, or an error without minutes of retries
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
        options |= spread
        network, report = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **options
        )
    except SafetensorError as error:
        raise ModelLoadError(
            f"The weights in '{where}' are damaged or cut short ({first_line(error)}). Download them again."
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        raise ModelLoadError(_explain(where, revision, error)) from error
    require_all_weights(where, report["missing_keys"])
    return network, tokenizer


def _on_hub(name: str, revision: str | None) -> bool:
    """Tell whether the hub can be reached and has this model.

    Raises:
        ModelLoadError: The hub answers that it has no such model or revision, or that it is gated.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        HfApi().model_info(name, revision=revision, timeout=15)
    except GatedRepoError as error:
        raise ModelLoadError(
            f"'{name}' is gated. Ask for access on its page, then run 'hf auth login' and start again."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelLoadError(
            f"The hub has no model '{name}' (or it is private), and there is no such path here. Check the "
            f"spelling, run 'hf auth login' for a private one, or start without --model for {embedded.NAME}."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelLoadError(f"'{name}' has no revision '{revision}'. Check its branches, tags and commits.") from error
    except Exception:  # no connection, whatever the transport calls it: the local cache may have the model
        return False
    return True


def _explain(where: str, revision: str | None, error: Exception) -> str:
    """Turn what transformers says into one sentence of cause and one of remedy."""
    text = str(error)
    lowered = text.lower()
    if Path(where).exists():
        return (
            f"The folder '{where}' holds no model that can be loaded safely: {first_line(error)}. It needs "
            "config.json, tokenizer files and *.safetensors (pickled weights are refused)."
        )
    if "gated" in lowered or "401" in text or "403" in text:
        return f"'{where}' is gated. Ask for access on its page, then run 'hf auth login' and start again."
    if "trust_remote_code" in text:
        return f"'{where}' needs code of its own, which is never run here. Choose a family that transformers knows."
    if "safetensors" in lowered:
        return f"'{where}' has no safetensors weights, and pickled ones are refused. Use a revision that has them."
    which = f"'{where}' at revision '{revision}'" if revision else f"'{where}'"
    return (
        f"{which} is neither a local path nor a model that could be fetched from the hub. Check the "
        "spelling and the connection (private models need 'hf auth login'), or start without --model for "
        f"the embedded {embedded.NAME}."
    )


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ModelLoadError(f"'{device}' is no device. Use auto, cpu, cuda or cuda:1.") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(f"There is no CUDA device for '{device}'. Use --device cpu or auto.")
    return chosen


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ModelLoadError(f"'{dtype}' is no data type here. Use auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]
