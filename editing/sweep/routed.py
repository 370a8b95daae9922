"""What a sweep counts where its edits act only where the model's detector fires: what they miss, their false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from editing.sweep.settings import SweepSettings
from editing.sweep.store import Finished
from inspector.safeedit.acted import Acted, acted_by_kind


def acted_record(settings: SweepSettings, done: Sequence[Finished]) -> dict[str, Any] | None:
    """Return it for scores.json; ``None`` where edits act on every prompt."""
    if settings.acts == "always":
        return None
    return {
        kind: {
            "prompts": found.prompts,
            "acted": found.acted,
            **({"missed": found.held_back} if kind == "harmful" else {"false_alarms": found.acted}),
            "percent": asdict(found.share),
        }
        for kind, found in _acted(done).items()
    }


def acted_told(settings: SweepSettings, done: Sequence[Finished]) -> list[str]:
    """Say it in lines of the report; nothing where edits act on every prompt."""
    if settings.acts == "always":
        return []
    lines: list[str] = []
    for kind, found in _acted(done).items():
        share, alarms = found.share, f"{found.acted} false alarm{'' if found.acted == 1 else 's'}"
        span = "" if share.low is None else f", 95 % interval {share.low:.1f} to {share.high:.1f}"
        lines.append(
            f"{'They' if lines else 'The edits'} acted on {found.acted} of {found.prompts} {kind} prompts "
            f"({share.value:.1f} %{span}): {f'{found.held_back} missed' if kind == 'harmful' else alarms}."
        )
    if without := len(done) - len(_routed(done)):
        lines.append(f"Of {without} case{'' if without == 1 else 's'} without a routed edit nothing is counted there.")
    return lines


def _acted(done: Sequence[Finished]) -> dict[str, Acted]:
    routed = _routed(done)
    replies = [reply for result in routed for reply in result.replies]
    return acted_by_kind(replies, [result.number for result in routed for _ in result.replies])


def _routed(done: Sequence[Finished]) -> list[Finished]:
    """Return the cases that have an edit by a detector; what is none is asked as vanilla, where none decides."""
    return [result for result in done if result.status == "done" and result.record.get("patch", True)]
