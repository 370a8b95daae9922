"""Both marks of the layers in a sweep: the toxic one of each case, and the recommended one, each with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from editing.sweep.settings import SweepSettings
from editing.sweep.store import About, Finished

NAMED = 20
"""Cases that a line of the head names; scores.json has all."""


def toxic_layers(done: Iterable[Finished]) -> dict[str, int]:
    """Return in how many cases the answers part most at which layer, the most frequent first; `none` where unknown.

    Empty in a sweep of before that was written.
    """
    found = [result.record.toxic_layer for result in done if result.record.toxic_reason is not None]
    return {"none" if layer is None else str(layer): count for layer, count in Counter(found).most_common()}


def marks_of(done: Sequence[Finished]) -> list[dict[str, Any]]:
    """Return of each case where it was edited, and its toxic layer with the reason; ``null`` where that is unknown."""
    told = ("block", "toxic_layer", "toxic_reason")
    return [
        {"case": result.case or str(result.number), **{name: getattr(result.record, name) for name in told}}
        for result in done
    ]


def recommended_told(about: About) -> list[str]:
    """Say which layer is recommended and why, unless the reason of the edited one has said it."""
    if not about.recommended_reason or about.recommended_reason in about.layer_reason:
        return []
    if about.recommended_layer is None:
        return [f"No recommended layer. {about.recommended_reason}"]
    return [f"Recommended layer: {about.recommended_layer}. {about.recommended_reason}"]


def toxic_told(settings: SweepSettings, done: Sequence[Finished]) -> list[str]:
    """Say at which layers the cases' answers part most, whichever is edited."""
    layers = toxic_layers(done)
    unknown = layers.pop("none", 0)
    told = ", ".join(f"layer {layer} in {count}" for layer, count in layers.items())
    kept = unknown + sum(layers.values())
    said = f"Where the answers part most (the toxic layer), located as in the preset {settings.locator}"
    parted = [f"{said}: {told} of {kept} cases."] if told else []
    lost = [f"Toxic layer unknown in {unknown} of {kept} cases."] if unknown else []
    return [*parted, *lost, *_reasons(done)]


def _reasons(done: Sequence[Finished]) -> list[str]:
    """Say why which cases have their toxic layer there, or none, a line a reason; the most frequent first."""
    of: dict[str, list[str]] = {}
    for result in done:
        if why := result.record.toxic_reason:
            of.setdefault(why, []).append(result.case or str(result.number))
    lines = []
    for why, cases in sorted(of.items(), key=lambda one: -len(one[1])):
        more = f" and {len(cases) - NAMED} others" if len(cases) > NAMED else ""
        lines.append(f"  {why} Case{'s' if len(cases) > 1 else ''} {', '.join(cases[:NAMED])}{more}.")
    return lines
