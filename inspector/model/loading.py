"""Loading a model from wherever it is: embedded, hub id, local folder or local GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from inspector.errors import ModelLoadError
from inspector.model import embedded
from inspector.model.architecture import resolve
from inspector.model.gguf_file import first_line, read_gguf, require_all_weights
from inspector.model.inspected import InspectedModel
from inspector.model.patch import fingerprint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name_or_path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    device_map: str | None = None,
    paths: Mapping[str, str] | None = None,
) -> InspectedModel:
    """Load a causal language model for inspection and check its architecture map.

    Args:
        name_or_path: ``None`` or ``embedded`` for the embedded default, else a hub id, a local
            folder with safetensors, or a local ``.gguf`` file.
        device: ``auto`` (CUDA if there is one, else CPU), ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``auto`` (bfloat16 on CUDA, float32 on CPU), ``float32``, ``bfloat16``, ``float16``.
        revision: Branch, tag or commit of a hub model.
        device_map: ``auto`` to spread a large model over devices with accelerate.
        paths: Dotted paths that complete the architecture map, see
            :data:`inspector.model.architecture.OVERRIDES`.

    Raises:
        ModelLoadError: The model does not exist, is out of reach, broken or of a kind that cannot
            be loaded safely; the message says what to do.
        ArchitectureError: Its parts are not where the map says.
    """
    target = _device(device)
    weight_type = _dtype(dtype, target)
    if name_or_path is None or str(name_or_path) == "embedded":
        name, source = embedded.NAME, embedded.ensure()
    else:
        name, source = str(name_or_path), Path(str(name_or_path)).expanduser()

    if source.suffix.lower() == ".gguf":
        if not source.is_file():
            raise ModelLoadError(f"There is no file {source}. Check the path.")
        network, tokenizer = read_gguf(source, weight_type)
    else:
        where = str(source) if source.is_dir() else name
        network, tokenizer = _read_pretrained(where, weight_type, revision, device_map)
    if device_map is None:
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


def _read_pretrained(where: str, dtype: torch.dtype, revision: str | None, device_map: str | None) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"revision": revision} if revision else {}
    if not Path(where).exists() and not _on_hub(where, revision):
        options["local_files_only"] = True  # downloaded before, or an error without minutes of retries
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
        if device_map:
            options["device_map"] = device_map
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
