"""Loading a model from wherever it is: embedded, hub id, local folder or local GGUF file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from inspector.errors import ModelLoadError, NoRoom
from inspector.model import embedded
from inspector.model.architecture import resolve
from inspector.model.families import require_supported
from inspector.model.gguf_file import SMALLER, first_line, read_gguf, require_all_weights
from inspector.model.hub_errors import why_not_had
from inspector.model.inspected import InspectedModel
from inspector.model.memory.halving import ran_out
from inspector.model.memory.memory_need import (
    MemoryNeed,
    bytes_of,
    predict,
    quantised_in,
    require_room,
    room_told,
    warn_of_room_beside,
)
from inspector.model.memory.spread_need import require_spread_room, rooms
from inspector.model.offloaded import fetch_again_for_gradients
from inspector.model.patches.patch import fingerprint
from inspector.model.placement import MaxMemory, chosen_device, given_placing, in_bytes, spread_options
from inspector.model.quantised import REQUIREMENTS, prepare, quantisation_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTISED = ("nf4", "fp4", "int8", "fp8")
"""Types of quantised weights: made while loading (not FP8), or as a checkpoint has them already."""
TYPES = ", ".join(("auto", *DTYPES, *QUANTISED[:-1])) + " or fp8"
"""All that :func:`load` takes, for a line of help."""
_NOT_WHOLE = "Some modules are dispatched on the CPU or the disk"
"""What transformers says where a part of quantised weights would be beside the cards."""


def load(
    name_or_path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    device_map: str | None = None,
    max_memory: MaxMemory | None = None,
    paths: Mapping[str, str] | None = None,
    tell: embedded.Tell = lambda *_: None,
) -> InspectedModel:
    """Load a causal language model for inspection and check its architecture map.

    Args:
        name_or_path: ``None`` or ``embedded`` for the embedded default, else a hub id, a local
            folder with safetensors, or a local ``.gguf`` file.
        device: ``auto`` (CUDA if there is one, else CPU), ``cpu``, ``cuda`` or ``cuda:1``.
        dtype: ``auto`` (bfloat16 on CUDA, float32 on CPU), ``float32``, ``bfloat16``, ``float16``; ``nf4``, ``fp4``
            or ``int8`` to quantise the projections while they are read (bitsandbytes), all else as with ``auto``. A
            checkpoint that is quantised already stays as it is; those and ``fp8`` insist on it.
        revision: Branch, tag or commit of a hub model.
        device_map: ``auto`` to spread a large model with accelerate: over all cards, what they cannot hold in CPU
            memory and what that cannot hold on disk, from where it is fetched for each pass. With a ``device`` of
            ``cpu`` no card is used.
        max_memory: What of it each device may hold, for ``auto``; devices that are not named hold nothing of it, and
            what is left stays on disk.
        paths: Dotted paths that complete the architecture map, see
            :data:`inspector.model.families.OVERRIDES`.
        tell: Hears how far the embedded model is where it has to be downloaded and converted.

    Raises:
        ModelLoadError: The model does not exist, is out of reach, broken, or of a kind that cannot be loaded safely;
            the message says what to do.
        NoRoom: It is larger than what is free.
        ArchitectureError: Its parts are not where the map says.
    """
    target = chosen_device(device)
    spread = spread_options(target, device_map, max_memory)
    weight_type = _dtype(dtype, target)
    if name_or_path is None or str(name_or_path) == "embedded":
        checked = embedded.checking()
        import_readers()  # while its files are hashed; none of them is read before that has ended
        name, source = embedded.NAME, embedded.ensure(checked=checked, tell=tell)
    else:
        name, source = str(name_or_path), Path(str(name_or_path)).expanduser()

    how = dtype if dtype in QUANTISED else None
    gguf = source.suffix.lower() == ".gguf"
    if gguf:
        if not source.is_file():
            raise ModelLoadError(f"There is no file {source}. Check the path.")
        if how is not None:
            raise ModelLoadError(f"A GGUF file is not loaded as {how}. Use the same model as safetensors.")
        if spread:
            raise ModelLoadError(
                "A .gguf file is read whole and cannot be spread over devices. Give the model's folder or hub id, or "
                "leave the device map out."
            )
    with room_told(f"'{name}'", *([SMALLER] if gguf else [])):
        if gguf:
            network, tokenizer = read_gguf(source, weight_type, target)
        else:
            where = str(source) if source.is_dir() else name
            network, tokenizer = _read_pretrained(where, weight_type, revision, spread, how, target, paths)
        if not spread and quantisation_of(network) is None:  # quantised weights are where they belong
            network = network.to(target)
    network.eval().requires_grad_(False)
    try:
        model = from_parts(network, tokenizer, name, paths)
        model.revision = revision
        model.placed = given_placing(device, device_map, max_memory)
    except ImportError as error:  # what multiplies FP8 matrices is a package of its own
        raise ModelLoadError(
            f"'{name}' cannot be computed with here: {first_line(error)}. Install what it names, or use a checkpoint "
            "in plain weights with --dtype nf4."
        ) from error
    if spread:
        rest = str(model.dtype).removeprefix("torch.")
        fetched = torch.device("meta") in bytes_of(network)
        warn_of_room_beside(network.config, model.dtype_name, rest, model.devices, fetched)
    return model


def import_readers() -> None:
    """Import what reads models with their tokenizers."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: F401


def from_parts(network: Any, tokenizer: Any, name: str, paths: Mapping[str, str] | None = None) -> InspectedModel:
    """Wrap a network and tokenizer that are loaded already."""
    network.eval().requires_grad_(False)
    prepare(network)
    fetch_again_for_gradients(network)
    return InspectedModel(
        name=name,
        network=network,
        tokenizer=tokenizer,
        architecture=resolve(network, paths),
        fingerprint=fingerprint(network),
        paths=dict(paths or {}),
    )


def read_paths(entries: Sequence[str]) -> dict[str, str] | None:
    """Read ``NAME=DOTTED.PATH`` entries, such as ``blocks=model.layers``; ``None`` for no entry.

    Raises:
        ModelLoadError: An entry is of another form.
    """
    for entry in entries:
        if not all(entry.partition("=")):
            raise ModelLoadError(f"'{entry}' is no NAME=DOTTED.PATH. Write for example blocks=model.layers.")
    return dict(entry.partition("=")[::2] for entry in entries) or None


def _read_pretrained(
    where: str,
    dtype: torch.dtype,
    revision: str | None,
    spread: Mapping[str, Any],
    how: str | None,
    target: torch.device,
    paths: Mapping[str, str] | None,
) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    options = _fetching(where, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
        require_supported(config, paths)
        quantised = _quantised(where, config, how, target)
        options |= spread
        plain = str(dtype).removeprefix("torch.")
        if spread:
            may_hold = in_bytes(spread.get("max_memory"))
            require_spread_room(predict(config, quantised or plain, plain), *rooms(may_hold))
        else:
            require_room(config, quantised or plain, plain, target)
        if quantised or target.type == "cuda":  # read to where it belongs: CPU memory need not hold it
            options.setdefault("device_map", {"": target})
        if quantised:
            if how is not None and quantised_in(config) is None:
                options["quantization_config"] = _bitsandbytes(how, dtype)
        elif quantised_in(config) is not None:
            options["quantization_config"] = _made_plain(config)
        network, report = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **options
        )
    except SafetensorError as error:
        raise ModelLoadError(
            f"The weights in '{where}' are damaged or cut short ({first_line(error)}). Download them again."
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        if ran_out(error):
            raise
        if _NOT_WHOLE in str(error):
            raise NoRoom(
                f"Quantised weights of '{where}' have to be on cards, or all in CPU memory, and fit on neither. Allow "
                "more (--max-memory), use more cards, take 4 bit for 8 (--dtype nf4), or plain weights (--dtype "
                "bfloat16), which are spread over cards, CPU memory and disk."
            ) from error
        raise _explain(where, options, error) from error
    require_all_weights(where, report["missing_keys"])
    return network, tokenizer


def configuration(name_or_path: str | Path, revision: str | None = None) -> Any:
    """Return a model's transformers configuration; nothing else of it is fetched or read.

    Raises:
        ModelLoadError: See :func:`load`.
    """
    from transformers import AutoConfig

    source = Path(str(name_or_path)).expanduser()
    if source.suffix.lower() == ".gguf":
        raise ModelLoadError("A GGUF file has no configuration of its own. Name the model that it was made of.")
    where = str(source) if source.is_dir() else str(name_or_path)
    options = _fetching(where, revision)
    try:
        return AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        raise _explain(where, options, error) from error


def predicted(
    config: Any, where: str, *, device: str = "auto", dtype: str = "auto", paths: Mapping[str, str] | None = None
) -> MemoryNeed:
    """Predict what :func:`load` takes on one device from a model's configuration; no weight is read.

    Args:
        config: From :func:`configuration`.
        where: Names the model in an error.
        paths: As for :func:`load`.

    Raises:
        ModelLoadError: It cannot be had in that type, or there is no such device.
        ArchitectureError: It cannot be had at all.
    """
    require_supported(config, paths)
    target = chosen_device(device)
    plain = str(_dtype(dtype, target)).removeprefix("torch.")
    stored = _quantised(where, config, dtype if dtype in QUANTISED else None, target)
    return predict(config, stored or plain, plain)


def _fetching(where: str, revision: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"revision": revision} if revision else {}
    if not Path(where).exists() and not _on_hub(where, revision):
        options["local_files_only"] = True  # downloaded before, or an error without minutes of retries
    return options


def _quantised(where: str, config: Any, how: str | None, target: torch.device) -> str | None:
    """Return how a model's projections will be quantised: as its checkpoint has them, or as asked for.

    FP8 is for devices that multiply it; for any other it is turned into plain weights (:func:`_made_plain`).

    Raises:
        ModelLoadError: The checkpoint has them otherwise than asked for, or that needs what is not installed.
    """
    own = quantised_in(config)
    if own is not None and how not in (None, own):
        raise ModelLoadError(
            f"'{where}' is quantised already, as {own}. Load it without --dtype, or with --dtype {own}."
        )
    found = own or how
    if own is None and how == "fp8":
        raise ModelLoadError(
            f"'{where}' is no FP8 checkpoint, and none is made here. Use --dtype int8 or nf4, or a checkpoint in FP8."
        )
    if found not in (None, "fp8") and find_spec("bitsandbytes") is None:
        raise ModelLoadError(f"{found} needs bitsandbytes. Install it with: pip install -r {REQUIREMENTS}")
    if found == "fp8" and (target.type != "cuda" or torch.cuda.get_device_capability(target) < (8, 9)):
        return None
    return found


def _bitsandbytes(how: str, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if how == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=how, bnb_4bit_compute_dtype=dtype)


def _made_plain(config: Any) -> Any:
    """Return an FP8 checkpoint's own options, and that it is turned into plain weights while it is read.

    By itself transformers asks whether the machine has a GPU that multiplies FP8, not whether the model goes there.
    """
    from transformers import FineGrainedFP8Config

    found = config.quantization_config
    about = found if isinstance(found, dict) else found.to_dict()
    return FineGrainedFP8Config.from_dict({**about, "dequantize": True})


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


def _explain(where: str, options: Mapping[str, Any], error: Exception) -> ModelLoadError:
    """Turn what transformers says into one sentence of cause and one of remedy; its own words are the detail.

    Args:
        options: How the model was fetched (:func:`_fetching`).
    """
    detail = " ".join(str(error).split()) or type(error).__name__
    if Path(where).exists():
        return ModelLoadError(
            f"The folder '{where}' holds no model that can be loaded safely: {first_line(error)}. It needs "
            "config.json, tokenizer files and *.safetensors (pickled weights are refused)."
        )
    return ModelLoadError(why_not_had(where, options, error), detail)


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto" or dtype in QUANTISED:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ModelLoadError(f"'{dtype}' is no data type here. Use {TYPES}.")
    return DTYPES[dtype]
