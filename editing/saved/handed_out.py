"""An edit in the form that somebody takes away: written, read back, and compared with the live edit by its logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from editing.gate.gate import Acceptance, GateSettings, accept, overridden
from editing.progress import Preparation, part_of
from editing.saved.adapter import BESIDE, WEIGHTS, check_rank, of_rank, read_adapter, save_adapter
from editing.saved.checking import largest_difference, probes
from editing.saved.files import ADAPTER, Smaller, load_edit, put_edit, require_no_other, save_edit, write_beside
from editing.saved.merged import save_merged
from editing.saved.record import EditRecord, digest_of
from inspector.errors import PatchError
from inspector.model import InspectedModel, Patch, Row
from inspector.model.whole_file import put_in_place, unfinished, write_whole

EXACT = 1e-3
"""Largest difference of a logit that counts as the same edit, as a share of the logits' own spread."""
EXAMINED = 0.8
"""Share of the work on an adapter of a smaller rank that the gate's exam takes."""


class Refused(PatchError):
    """The gate refuses an adapter of a smaller rank, which is another edit than the one that it has passed."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: The record of a patch, or the folder of an adapter or a model.
        difference: The largest difference of a logit between what was read back and the live edit, in logits.
        lost: Frobenius norm of what a smaller rank loses, as a share of the edit's, 0 to 1.
    """

    path: Path
    difference: float
    lost: float = 0.0


def written_patch(model: InspectedModel, row: Row, record: EditRecord, folder: Path) -> Written:
    """Write a patch and its record, and read both back; what is not read back to the end as this edit does not stay.

    Until then both lie in an unfinished folder within the one that is named, and an earlier save is as it was.

    Raises:
        PatchError: The folder holds another edit of this name or cannot be written, or what was written cannot be read
            or is another edit.
    """
    require_no_other(record, folder)
    partial = unfinished(folder / "edit")
    try:
        made = save_edit(row, record, partial)
        back, _ = load_edit(made, model)
        difference, spread = largest_difference(model, row.always(), back.always(), probes(model, row))
        if row.key != back.key or not difference <= EXACT * spread:
            said = f"The patch is another edit than the live one ({difference:.3g}). Write it anew."
            raise PatchError(said, str(folder))
        path = put_edit(made, folder)
    except OSError as error:
        said = "The edit cannot be written. Make room, or choose another folder."
        raise PatchError(said, f"{folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Written(path, difference)


def written_adapter(
    model: InspectedModel,
    row: Row,
    folder: Path,
    rank: int | None = None,
    record: EditRecord | None = None,
    keep_anyway: bool = False,
    settings: GateSettings = GateSettings(),
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, Written | None]:
    """Write an adapter for peft and read it back; an exact one has to answer as the live edit does.

    Where a smaller rank loses something and there is a record, the gate examines what is left: its word on the edit is
    none on other weights.

    Args:
        rank: Most rank of its matrices; ``None`` for exact.
        record: Put beside it, if given, with the SHA-256 of its tensors.
        keep_anyway: Write a smaller one that the gate refuses, with that on the record; so is one of an edit that was
            kept by hand itself.
        settings: The gate's.
        cancel: Asked after every token of the gate's exam, and between two stages of the writing.

    Yields:
        What is done, the gate's exam answer by answer.

    Returns:
        What was written; ``None`` when cancelled, and then nothing stays.

    Raises:
        Refused: The gate refuses the smaller one.
        PatchError: The edit acts only where a detector fires, the rank is below 1, the folder holds something or cannot
            be written, or what was written is another edit, which is not kept.
    """
    whole = require_adapter(row, folder, rank)
    patch, lost = (whole, 0.0) if rank is None else of_rank(whole, rank)
    smaller = None
    if rank is not None and record is not None and lost > 0:
        left = Row(patch, row.strength)
        exam = accept(model, left, record.case, settings, cancel=cancel)
        word = yield from part_of(exam, 0.0, EXAMINED, f"The gate asks the edit at rank {rank}")
        if word is None:
            return None
        smaller = _smaller(left, record, rank, lost, word, keep_anyway)
    partial = unfinished(folder)
    try:
        yield Preparation("Writing the adapter", 0.0 if smaller is None else EXAMINED)
        if cancel():
            return None
        save_adapter(model, patch, partial, row.strength)
        if record is not None:
            write_beside(partial / BESIDE, partial / WEIGHTS, record, ADAPTER, smaller)
        yield Preparation("Reading the adapter back and asking it", 0.9)
        if cancel():
            return None
        difference, spread = largest_difference(model, row, Row(read_adapter(model, partial)), probes(model, row))
        if rank is None and not difference <= EXACT * spread:
            raise PatchError(
                f"The adapter answers otherwise than the live edit ({difference:.3g}), so it was not kept. Write it "
                "anew, or save the edit as a patch."
            )
        put_in_place(partial, folder)
    except (OSError, SafetensorError) as error:
        said = "The adapter cannot be written. Make room, or choose another folder."
        raise PatchError(said, f"{folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Written(folder, difference, lost)


def require_adapter(row: Row, folder: Path, rank: int | None = None) -> Patch:
    """Return the patch that is written as an adapter; refuses before anything is computed what cannot be.

    Args:
        rank: Most rank of its matrices; ``None`` for exact.

    Raises:
        PatchError: The edit has no such form, the rank is below 1, or the folder holds something.
    """
    if row.detector is not None:
        raise PatchError(
            "An edit that acts only where harm is detected is no adapter alone. Save it as a patch with its detector."
        )
    if row.patch is None:
        raise PatchError("There is no patch to write as an adapter. Make an edit that changes weights.")
    if rank is not None:
        check_rank(rank)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PatchError("There is something under that name already. Name a folder that is not.", str(folder))
    return row.patch


def _smaller(row: Row, record: EditRecord, rank: int, lost: float, word: Acceptance, keep_anyway: bool) -> Smaller:
    """Hold an edit of a smaller rank to the gate's word on it."""
    by_hand = record.gate is not None and record.gate["overridden"] and not record.gate["passed"]
    if not word.passed:
        if not (keep_anyway or by_hand):
            raise Refused(f"The gate refuses the edit at rank {rank}. Take a larger rank, or all of it. {word.reason}")
        word = overridden(word)
    assert row.patch is not None
    return Smaller(rank, lost, row.patch.identifier, digest_of(row.patch), word.record())


def written_model(
    model: InspectedModel,
    row: Row,
    folder: Path,
    record: EditRecord | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation, None, Written | None]:
    """Write base and edit as one model folder and load it again; see :func:`editing.saved.merged.save_merged`."""
    difference = yield from save_merged(model, row, folder, None if record is None else record.case, cancel)
    if difference is None:
        return None
    try:
        if record is not None:
            write_whole(folder / BESIDE, json.dumps(record.json(), indent=1))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # it is new: save_merged takes no folder that is there
        said = "The model's record cannot be written, so the model was not kept. Make room, or choose another folder."
        raise PatchError(said, f"{folder}: {error}") from error
    return Written(folder, difference)
