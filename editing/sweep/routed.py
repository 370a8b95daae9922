"""What a sweep counts where its edits act only where the model's detector fires: what they miss, their false alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from editing.sweep.settings import SweepSettings
from editing.sweep.store import Finished
from inspector.safeedit.acted import Acted, acted_by_kind


def routed_of(settings: SweepSettings, done: Sequence[Finished]) -> list[Finished]:
    """Return the cases by their exam where edits act only where the detector fires; none without such an exam."""
    return [*done] if settings.acts == "detected" else [second for result in done if (second := result.routed)]


def acted_of(settings: SweepSettings, done: Sequence[Finished]) -> dict[str, Acted] | None:
    """Return on how many prompts the edits acted, by kind; ``None`` where they act on every prompt.

    Args:
        done: As :func:`routed_of` gives them.
    """
    if settings.acts == "always":
        return None
    routed = _routed(done)
    replies = [reply for result in routed for reply in result.replies]
    return acted_by_kind(replies, [result.number for result in routed for _ in result.replies])


def acted_record(acted: Mapping[str, Acted] | None) -> dict[str, Any] | None:
    """Return :func:`acted_of` for scores.json."""
    if acted is None:
        return None
    return {
        kind: {
            "prompts": found.prompts,
            "acted": found.acted,
            **({"missed": found.held_back} if kind == "harmful" else {"false_alarms": found.acted}),
            "percent": asdict(found.share),
        }
        for kind, found in acted.items()
    }


def acted_told(acted: Mapping[str, Acted] | None, done: Sequence[Finished], both: bool = False) -> list[str]:
    """Say :func:`acted_of` in lines of the report; nothing where edits act on every prompt.

    Args:
        both: Whether the edits are examined on every prompt as well.
    """
    if acted is None:
        return []
    lines: list[str] = []
    edits = "The routed edits" if both else "The edits"
    for kind, found in acted.items():
        share, alarms = found.share, f"{found.acted} false alarm{'' if found.acted == 1 else 's'}"
        span = "" if share.low is None else f", 95 % interval {share.low:.1f} to {share.high:.1f}"
        lines.append(
            f"{'They' if lines else edits} acted on {found.acted} of {found.prompts} {kind} prompts "
            f"({share.value:.1f} %{span}): {f'{found.held_back} missed' if kind == 'harmful' else alarms}."
        )
    if without := len(done) - len(_routed(done)):
        lines.append(f"Of {without} case{'' if without == 1 else 's'} without a routed edit nothing is counted there.")
    return lines


def _routed(done: Sequence[Finished]) -> list[Finished]:
    """Return the cases that have an edit by a detector; what is none is asked as vanilla, where none decides."""
    return [result for result in done if result.status == "done" and result.record.patch]
