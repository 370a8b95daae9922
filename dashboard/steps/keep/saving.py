"""The live edit as a file: whether it may leave, how large each form is, and the zip that is handed out; no Gradio."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from dashboard.kit.door.handing import handed_out, room_for_files
from dashboard.kit.limits import Limits
from dashboard.kit.sessions.session import Session
from editing.gate.gate import RECORD, is_of
from editing.methods.registry import method_of
from editing.progress import Preparation
from editing.saved import EditRecord, record_of
from editing.saved.handed_out import Written, written_adapter, written_model, written_patch
from editing.saved.incoming import most_upload
from inspector.errors import PatchError
from inspector.model import InspectedModel, Row
from inspector.model.memory.memory_need import bytes_of
from inspector.safeedit.exam import ExamResult

PATCH, ADAPTER, MODEL = FORMS = "patch", "adapter", "merged model"
RANKS = {"exact": None, "64": 64, "16": 16, "4": 4}
"""Ranks of an adapter, by their names on the screen."""
MOST_DOWNLOAD = 4 * 2**30
"""Largest file that a browser is handed; what is larger, the command line writes to a folder."""


@dataclass(frozen=True)
class Saved:
    """A file that was written.

    Attributes:
        path: The zip.
        bytes: Its size.
        weights: Label of the weights that it holds.
        difference: Largest difference of a logit between what was read back and the live edit.
        lost: Share of the edit's norm that a smaller rank loses.
        detector: Digest of the detector that it holds; empty for none.
    """

    path: str
    bytes: int
    weights: str
    difference: float
    lost: float
    detector: str = ""


def why_not(session: Session) -> str | None:
    """Say why the live edit may not leave, and what to do about it; ``None`` where it may."""
    live, row = session.live, session.row
    if live is None:
        return "No edit is live, so there is nothing to take with you. Press Operate, or bring a saved edit in."
    word = live.patch.settings.get(RECORD)
    if row.strength == 0:
        return "The strength is 0, so nothing is changed. Raise it in Operate."
    if method_of(live.result.settings) is None:
        return (
            f"A {live.patch.method.lower()} is made by no method that could make it again from a record, so it stays "
            "here. Edit the layer instead."
        )
    if word is None:
        return "The gate has not examined this edit, and what it has not seen does not leave. Press Examine in Operate."
    if not is_of(word, row):
        live_is = f"live is {row.label()}" if word["weights"] != row.label() else "it acts by another detector now"
        return f"The gate has examined {word['weights']}; {live_is}. Press Examine again in Operate."
    if not word["passed"] and not word["overridden"]:
        return (
            "The gate refused this edit, and nobody has kept it against that. Press Keep it anyway in Operate, which "
            "goes on its record, or make another edit."
        )
    return None


def why_not_so(model: InspectedModel, session: Session, kind: str, read_only: bool) -> str | None:
    """Say why an edit that may leave cannot leave in one form; ``None`` where it can."""
    if kind == PATCH:
        return None
    if session.row.detector is not None:
        return (
            "It acts only where harm is detected, and weights alone cannot; the patch takes its detector along. For "
            "weights, make an edit that acts on every prompt: the switch below Operate."
        )
    if kind == ADAPTER:
        return None
    if model.quantisation is not None:
        return f"The weights are quantised ({model.quantisation}): the edit would be rounded away. Take the patch."
    if read_only:
        return "Off in this demo. Take the patch: python -m editing.apply PATCH --merged FOLDER"
    if model_bytes(model) > MOST_DOWNLOAD:
        return "Too large for a browser. Take the patch: python -m editing.apply PATCH --merged FOLDER"
    return None


def record_for(model: InspectedModel, session: Session, exam: ExamResult | None) -> EditRecord:
    """Write the live edit's record, with the scores of a stress test of these very weights.

    Raises:
        PatchError: The edit may not leave.
    """
    refused, live = why_not(session), session.live
    if refused is not None or live is None:
        raise PatchError(str(refused))
    scores, asked = ((), "") if exam is None or exam.key != session.row.key else (exam.scores, exam.asked)
    key = method_of(live.result.settings)
    assert key is not None
    return record_of(
        model, live.case, live.result, session.row, method=key, scores=scores, asked=asked, below=live.below
    )


def write(
    model: InspectedModel,
    session: Session,
    kind: str,
    rank: str = "exact",
    *,
    exam: ExamResult | None = None,
    read_only: bool = False,
) -> Generator[Preparation, None, Saved | None]:
    """Write the live edit as a zip of one form, after it was read back and compared with the live edit.

    The visitor's Cancel is asked between two of its stages, in the gate's exam after every token.

    Args:
        kind: One of :data:`FORMS`.
        rank: Of an adapter, one of :data:`RANKS`.
        exam: The visitor's last stress test.

    Yields:
        What is done.

    Returns:
        The file; ``None`` when cancelled, and then that of before stays.

    Raises:
        PatchError: The edit may not leave, not in this form, the disk does not take it, or what was written is
            another edit.
        CaseError: It is more than the visitor may have within an hour, or than the disk has room for.
        OutOfMemory: The check of a merged model needs a second one in memory.
    """
    if kind not in FORMS:
        raise PatchError(f"Unknown form '{kind}'. Choose one of: {', '.join(FORMS)}.")
    record = record_for(model, session, exam)
    if refused := why_not_so(model, session, kind, read_only):
        raise PatchError(refused)
    if rank not in RANKS:
        raise PatchError(f"Unknown rank '{rank}'. Choose one of: {', '.join(RANKS)}.")
    row = session.row
    with session.next_folder(kind) as folder:
        about = size(model, row, kind, rank)
        need = 2 * about  # the files, and the zip of them
        with room_for_files(session, folder, about, need):
            made = yield from _written(model, row, record, kind, rank, folder, session.cancelled.is_set)
    if made is not None:
        handed_out(session, made.bytes)
    return made


def _written(
    model: InspectedModel,
    row: Row,
    record: EditRecord,
    kind: str,
    rank: str,
    folder: Path,
    cancel: Callable[[], bool],
) -> Generator[Preparation, None, Saved | None]:
    name = f"{record.method}-layer{record.block}-{record.identifier}"
    whole = folder / name
    try:
        written: Written | None
        if kind == PATCH:
            written = written_patch(model, row, record, whole)
        elif kind == ADAPTER:
            written = yield from written_adapter(model, row, whole, RANKS[rank], record, cancel=cancel)
        else:
            written = yield from written_model(model, row, whole, record, cancel)
        if written is None:
            return None
        # The merged model is loaded by its folder; an edit's two files lie in the zip without one.
        suffix = "" if kind == PATCH else f"-{kind.split()[0]}"
        target = folder / f"{name}{suffix}.zip"
        _zip(whole, target)
    except (OSError, SafetensorError, PatchError) as error:
        cause = error.__cause__ if isinstance(error, PatchError) else error
        if not isinstance(cause, OSError | SafetensorError):
            raise
        said = f"The {kind} cannot be written on this machine. Whoever runs this page has to look at its disk."
        raise PatchError(said, str(cause)) from cause
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    label, detector = row.key
    return Saved(str(target), target.stat().st_size, label, written.difference, written.lost, detector)


def size(model: InspectedModel, row: Row, kind: str, rank: str = "exact") -> int:
    """Return about how many bytes a form of some weights takes."""
    if kind == MODEL:
        return model_bytes(model)
    if row.patch is None:
        return 0
    if kind == PATCH:
        return row.patch.bytes
    most = RANKS.get(rank)
    count = 0
    for delta in row.patch.deltas:
        outer, inner = delta.shape
        ranked = min(outer, inner) if delta.right is None else delta.right.shape[0]
        count += (ranked if most is None else min(ranked, most)) * (outer + inner)
    return 4 * count


def model_bytes(model: InspectedModel) -> int:
    """Return the size of the model's weights."""
    return sum(bytes_of(model.network).values())


def largest_upload(model: InspectedModel, limits: Limits, read_only: bool = False) -> int:
    """Return how many bytes of a file a browser may send at most; one where nothing is taken.

    Args:
        limits: What its visitor may ask.
        read_only: Nothing is taken in.
    """
    return 1 if read_only else min(most_upload(model), limits.upload)


def _zip(folder: Path, target: Path) -> None:
    # Weights do not get smaller by packing them.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(folder))
