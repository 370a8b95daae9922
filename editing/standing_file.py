"""Standings of a contest on disk: a JSON file with what was measured, a patch file beside it for each method."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from editing.contest import Standing, Toxicity
from editing.methods.registry import METHODS, method_settings
from editing.progress import EditResult, Step
from inspector.errors import InspectorError, PatchError
from inspector.model.patch import Reminder
from inspector.model.patch_file import load_patch, save_patch
from inspector.region import RegionShift
from inspector.safeedit.records import exam_from, exam_record
from inspector.toxicity import RegionToxicity

_FORMAT = "dinm-inspector standings 2"


def save_standings(standings: tuple[Standing, ...], folder: Path, patches: bool = True) -> None:
    """Write standings into a folder.

    Args:
        patches: Write the patches as well; without them the edits cannot be loaded again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for standing in standings:
        patch = standing.result.patch if standing.result else None
        if patches and patch is not None:
            save_patch(patch, _patch_path(folder, standing.method.key))
    partial = folder / "standings.partial"
    content = {"format": _FORMAT, "standings": [_record(standing) for standing in standings]}
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(folder / "standings.json")


def load_standings(folder: Path) -> tuple[Standing, ...]:
    """Read what :func:`save_standings` wrote; an edit whose patch was not kept has none.

    Raises:
        PatchError: The files are missing, damaged or something else.
    """
    path = folder / "standings.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != _FORMAT:
            raise PatchError(f"{path} holds no standings of this program. Choose another folder.")
        return tuple(_standing(record, folder) for record in content["standings"])
    except PatchError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InspectorError) as error:
        raise PatchError(f"The standings in {folder} cannot be read ({error}). Run the contest again.") from error


def _patch_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.safetensors"


def _record(standing: Standing) -> dict[str, Any]:
    result, toxicity, shift, exam = standing.result, standing.toxicity, standing.shift, standing.exam
    return {
        "method": standing.method.key,
        "failed": standing.failed,
        "refused": standing.refused,
        "unmeasured": standing.unmeasured,
        "peak_mebibytes": standing.peak_mebibytes,
        "parameters_changed": standing.parameters_changed,
        "delta_norm": standing.delta_norm,
        "result": None
        if result is None
        else {
            "trace": [asdict(step) for step in result.trace],
            "kept": result.kept,
            "stop_reason": result.stop_reason,
            "block": result.block,
            "settings": asdict(result.settings),
            "seconds": result.seconds,
            "reminder": None if result.reminder is None else asdict(result.reminder),
        },
        "toxicity": None
        if toxicity is None
        else {
            "region": asdict(toxicity.region),
            "before": _floats(toxicity.before),
            "after": _floats(toxicity.after),
            "forced": toxicity.forced,
        },
        "shift": None
        if shift is None
        else {**vars(shift), **{name: _floats(getattr(shift, name)) for name in ("by_block", "vanilla", "edited")}},
        "exam": None if exam is None else exam_record(exam),
    }


def _floats(values: np.ndarray) -> list:
    """Return values with five significant digits, which is more than any figure shows."""
    return np.vectorize(lambda value: float(f"{value:.5g}"))(values).tolist()


def _standing(record: dict[str, Any], folder: Path) -> Standing:
    told, toxicity, shift, exam = record["result"], record["toxicity"], record["shift"], record["exam"]
    result = None
    if told is not None:
        path = _patch_path(folder, record["method"])
        settings = dict(told["settings"])
        name = settings.pop("preset", "corrected")
        result = EditResult(
            patch=load_patch(path)[0] if path.exists() else None,
            trace=tuple(Step(**step) for step in told["trace"]),
            kept=told["kept"],
            stop_reason=told["stop_reason"],
            block=told["block"],
            settings=method_settings(record["method"], name, **settings),
            seconds=told["seconds"],
            reminder=None if told["reminder"] is None else Reminder(**told["reminder"]),
        )
    return Standing(
        method=METHODS[record["method"]],
        failed=record["failed"],
        refused=record["refused"],
        unmeasured=record.get("unmeasured", ""),
        result=result,
        peak_mebibytes=record["peak_mebibytes"],
        parameters_changed=record["parameters_changed"],
        delta_norm=record["delta_norm"],
        toxicity=None
        if toxicity is None
        else Toxicity(
            RegionToxicity(**toxicity["region"]),
            np.array(toxicity["before"]),
            np.array(toxicity["after"]),
            toxicity["forced"],
        ),
        shift=None
        if shift is None
        else RegionShift(**{**shift, **{name: np.array(shift[name]) for name in ("by_block", "vanilla", "edited")}}),
        exam=None if exam is None else exam_from(exam),
    )
