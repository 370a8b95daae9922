"""Standings of a contest on disk: a JSON file with what was measured, a patch file beside it for each method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from editing.methods.registry import method_named, method_settings
from editing.progress import EditResult, Step, StopReason
from editing.standing import Standing, Toxicity
from inspector.errors import InspectorError, PatchError
from inspector.model.patches.patch import Reminder
from inspector.model.patches.patch_file import load_patch, save_patch
from inspector.model.whole_file import write_whole
from inspector.region import RegionShift
from inspector.safeedit import Case
from inspector.safeedit.records import exam_from, exam_record
from inspector.validated import read_record

_FORMAT = "dinm-inspector standings 2"


def save_standings(standings: tuple[Standing, ...], folder: Path, patches: bool = True) -> None:
    """Write standings into a folder.

    Args:
        patches: Write the patches as well; without them the edits cannot be loaded again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    first: dict[int, int] = {}
    for place, standing in enumerate(standings):
        edit_of = place if standing.result is None else first.setdefault(id(standing.result), place)
        record = _record(standing, None if edit_of == place else edit_of)
        patch = standing.result.patch if standing.result else None
        if patches and patch is not None and edit_of == place:
            save_patch(patch, _patch_path(folder, place, record))
        records.append(record)
    content = {"format": _FORMAT, "standings": records}
    write_whole(folder / "standings.json", json.dumps(content, default=_plain))


def load_standings(folder: Path) -> tuple[Standing, ...]:
    """Read what :func:`save_standings` wrote; an edit whose patch was not kept has none.

    Raises:
        PatchError: The files are missing, damaged or something else.
    """
    path = folder / "standings.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != _FORMAT:
            raise PatchError("The file holds no standings of this program. Choose another folder.", str(path))
        found: list[Standing] = []
        for place, record in enumerate(content["standings"]):
            found.append(_standing(record, folder, place, found))
        return tuple(found)
    except PatchError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, InspectorError) as error:
        raise PatchError("The standings cannot be read. Run the contest again.", f"{folder}: {error}") from error


def _patch_path(folder: Path, place: int, record: Mapping[str, Any]) -> Path:
    """Name a method's patch; that of a line with a title of its own has its place in it."""
    own = f"-{place}" if record.get("title") else ""
    return folder / f"{record['method']}{own}.safetensors"


@dataclass(frozen=True)
class _KeptEdit:
    """An edit without its patch, which has a file of its own."""

    trace: tuple[Step, ...]
    kept: int
    stop_reason: StopReason
    block: int
    settings: dict[str, Any]
    seconds: float
    reminder: Reminder | None
    smaller: bool = False
    companions: int | None = None
    learnt_from: tuple[Case, ...] | None = None
    closing: bool = False


@dataclass(frozen=True)
class _KeptStanding:
    """A standing as the file holds it; see :class:`editing.standing.Standing`.

    Attributes:
        title: The line's, where it is not the method's.
        card: The same of what it does.
        edit_of: Place of the earlier line whose edit it is about; ``None`` where the edit is its own.
    """

    method: str
    failed: str
    refused: bool
    unmeasured: str
    peak_mebibytes: float
    parameters_changed: int
    delta_norm: float
    result: _KeptEdit | None
    toxicity: Toxicity | None
    shift: RegionShift | None
    exam: dict[str, Any] | None
    title: str = ""
    card: str = ""
    edit_of: int | None = None


def _record(standing: Standing, edit_of: int | None) -> dict[str, Any]:
    result, exam, method = standing.result, standing.exam, standing.method
    known, kept = method_named(method.key), None
    if result is not None and edit_of is None:
        parts = {name: value for name, value in vars(result).items() if name != "patch"}
        kept = _KeptEdit(**{**parts, "settings": asdict(result.settings)})
    changed = {
        "method": method.key,
        "title": "" if method.title == known.title else method.title,
        "card": "" if method.card == known.card else method.card,
        "edit_of": edit_of,
        "result": kept,
        "exam": None if exam is None else exam_record(exam),
    }
    return asdict(_KeptStanding(**{**vars(standing), **changed}))


def _plain(value: Any) -> Any:
    """Return an array for JSON, with five significant digits, which is more than any figure shows."""
    if isinstance(value, np.ndarray):
        return np.vectorize(lambda number: float(f"{number:.5g}"))(value).tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON can hold")


def _standing(record: Any, folder: Path, place: int, before: Sequence[Standing]) -> Standing:
    told = read_record(_KeptStanding, record)
    known = method_named(told.method)
    result = None
    if told.edit_of is not None:
        result = before[told.edit_of].result
    elif told.result is not None:
        path = _patch_path(folder, place, record)
        settings = dict(told.result.settings)
        changed = {
            "patch": load_patch(path)[0] if path.exists() else None,
            "settings": method_settings(told.method, settings.pop("preset", "corrected"), **settings),
        }
        result = EditResult(**{**vars(told.result), **changed})
    exam = None if told.exam is None else exam_from(told.exam)
    method = replace(known, title=told.title or known.title, card=told.card or known.card)
    parts = {name: value for name, value in vars(told).items() if name not in ("title", "card", "edit_of")}
    return Standing(**{**parts, "method": method, "result": result, "exam": exam})
