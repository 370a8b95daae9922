"""An edit merged into its base: a model folder that ``from_pretrained`` loads, without any of this program."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import torch
from safetensors import SafetensorError

from editing.memory import require_free_memory
from editing.progress import Preparation
from editing.saved.checking import case_probe, largest_difference, probes, share_of_the_edit
from editing.saved.files import check_patch
from inspector.errors import PatchError
from inspector.model import InspectedModel, Patch, Row
from inspector.model.architecture import canonical_weight
from inspector.model.memory.memory_need import bytes_of
from inspector.model.whole_file import put_in_place, unfinished
from inspector.safeedit import Case

_REMEDY = "Save the edit as a patch, or merge it on a larger machine."
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""Largest difference of a logit between the merged and the live edit, as a share of the logits' own spread: in half
precision the sum of weight and change is rounded, the live edit's change is not."""
LOST = {torch.float32: 0.01, torch.bfloat16: 0.25, torch.float16: 0.1}
"""Most that the rounding may lose of what the edit does, as a share of how far it moves the logits; the base that was
never edited loses 1, however little the edit is beside the logits' own spread."""


def save_merged(
    model: InspectedModel,
    row: Row,
    folder: Path,
    case: Case | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, float | None]:
    """Write base and edit as one model folder, and check it by loading it again.

    However it ends, no half of it stays: what is not checked to the end has another name, and goes.

    Args:
        row: The edited weights; an edit that acts only where a detector fires cannot be merged.
        folder: Where; it must not exist yet.
        case: The case that the edit was made on: on its prompt the edit does most, so that it is checked there.
        cancel: Asked between two of its stages.

    Yields:
        What is done next.

    Returns:
        The largest difference of a logit between the loaded folder and the live edit, in logits; ``None`` when
        cancelled.

    Raises:
        PatchError: The edit cannot be merged, the folder exists or cannot be written, or what was written does not
            answer as the live edit does.
        OutOfMemory: The check needs a second model in memory.
    """
    patch = require_mergeable(model, row, folder)
    check_patch(model, patch)
    for device, count in bytes_of(model.network).items():
        if device.type != "meta":  # what is offloaded is written and read again piece by piece
            require_free_memory(device, 2 * count, "Writing the model and reading it again", _REMEDY)
    changed = {}
    for delta in patch.deltas:
        module = model.network.get_submodule(delta.module)
        weight = canonical_weight(module)
        whole = (weight.float() + row.strength * delta.dense().to(weight.device)).to(weight.dtype)
        changed[f"{delta.module}.weight"] = whole.T.contiguous() if type(module).__name__ == "Conv1D" else whole
    partial = unfinished(folder)
    try:
        yield Preparation("Writing the model", 0.0)
        if cancel():
            return None
        state = {**model.network.state_dict(), **changed}
        model.network.save_pretrained(partial, state_dict=state, safe_serialization=True)
        model.tokenizer.save_pretrained(partial)
        difference = yield from _checked(model, row, partial, case, cancel)
        if difference is not None:
            put_in_place(partial, folder)
    except (OSError, SafetensorError) as error:
        said = "The model cannot be written. Make room, or choose another folder."
        raise PatchError(said, f"{folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return difference


def require_mergeable(model: InspectedModel, row: Row, folder: Path) -> Patch:
    """Return the patch that is merged; refuses before anything is computed what cannot be.

    Raises:
        PatchError: The edit or the model has no merged form, or the folder exists.
    """
    if row.detector is not None:
        raise PatchError(
            "An edit that acts only where harm is detected is no change of weights alone. Save it as a patch with its "
            "detector, or let it act on every prompt."
        )
    if row.patch is None:
        raise PatchError("There is no patch to merge. Make an edit that changes weights.")
    if folder.exists():
        raise PatchError("The folder is there already. Name one that is not.", str(folder))
    if model.quantisation is not None:
        raise PatchError(
            f"The weights of this model are quantised ({model.quantisation}), and an edit added to them would be "
            "rounded away. Save it as a patch or as an adapter."
        )
    return row.patch


def _checked(
    model: InspectedModel, row: Row, folder: Path, case: Case | None, cancel: Callable[[], bool]
) -> Generator[Preparation, None, float | None]:
    """Load what was written and hold it against the live edit; returns as :func:`save_merged` does."""
    from transformers import AutoModelForCausalLM

    yield Preparation("Loading the model that was written", 0.4)
    if cancel():
        return None
    spread_over = getattr(model.network, "hf_device_map", None) or {"": model.device}
    written = AutoModelForCausalLM.from_pretrained(
        folder, dtype=model.dtype, trust_remote_code=False, use_safetensors=True, device_map=spread_over
    ).eval()
    yield Preparation("Asking it and the live edit the same", 0.7)
    if cancel():
        return None
    prompts = probes(model, row)
    own = prompts if case is None else [case_probe(model, case, row)]
    difference, spread = largest_difference(model, row, written, list(dict.fromkeys([*prompts, *own])))
    allowed = TOLERANCE.get(model.dtype, 0.5) * spread
    if not difference <= allowed:
        raise PatchError(
            f"The merged model answers otherwise than the live edit (a logit differs by {difference:.3g}, "
            f"{allowed:.3g} allowed), so it was not kept. Save the edit as a patch."
        )
    yield Preparation("Comparing how far both are from vanilla", 0.9)
    if cancel():
        return None
    lost, most = share_of_the_edit(model, row, written, own), LOST.get(model.dtype, 0.25)
    if not lost <= most:
        raise PatchError(
            f"In {model.dtype_name} the merged model loses {lost:.0%} of what the edit does ({most:.0%} allowed), so "
            "it was not kept. Save the edit as a patch, or load the model in float32."
        )
    return difference
