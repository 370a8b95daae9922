"""The report of a sweep: the paper's table layout with the paper's figures under it, then what it leaves out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from editing.sweep.fitting import left_out_told
from editing.sweep.marks import marks_of, recommended_told, toxic_layers, toxic_told
from editing.sweep.paper import AT_ITS_LENGTH, COLUMNS, PAPER_TOKENS, figures
from editing.sweep.routed import acted_of, acted_record, acted_told, routed_of
from editing.sweep.settings import ONCE, SweepSettings
from editing.sweep.store import About, Finished, Store
from editing.sweep.yardstick import Rounded, rounded_told
from inspector.errors import EditError
from inspector.model.whole_file import write_whole
from inspector.safeedit.exam import EVALUATIONS
from inspector.safeedit.known import Pairing
from inspector.safeedit.scores import (
    CategoryMatrix,
    Estimate,
    Score,
    category_matrix,
    per_category,
    resampling_told,
    score_table,
)

_NAME, _WIDTH = 26, 9
_EDITED = "Edited"
_MODEL = 18
"""Most characters of the model's name in a row of scores."""


@dataclass(frozen=True)
class _Scored:
    """The scores of a sweep's edits as they act one way.

    Attributes:
        table: Of all cases together.
        categories: By category.
        matrix: Edited on one category, tested on another.
    """

    table: tuple[Score, ...]
    categories: dict[str, tuple[Score, ...]]
    matrix: CategoryMatrix

    @classmethod
    def of(cls, done: Sequence[Finished], judge: str) -> _Scored:
        """Return the scores of what is finished."""
        replies = [reply for result in done for reply in result.replies]
        owners = [result.number for result in done for _ in result.replies]
        return cls(
            tuple(score_table(replies, judge, owners)),
            per_category(replies, judge, owners),
            category_matrix([(result.category, result.replies) for result in done]),
        )

    def record(self) -> dict[str, Any]:
        """Return them for scores.json."""
        return {
            "scores": [asdict(score) for score in self.table],
            "categories": {name: [asdict(score) for score in found] for name, found in self.categories.items()},
            "matrix": {
                "categories": self.matrix.categories,
                "edited": [[None if math.isnan(v) else v for v in row] for row in self.matrix.edited.tolist()],
                "vanilla": [None if math.isnan(v) else v for v in self.matrix.vanilla.tolist()],
                "n": self.matrix.n.tolist(),
            },
        }


def report(folder: Path) -> str:
    """Return the report of the sweep in a folder and write it there as ``report.txt`` and ``scores.json``.

    Raises:
        EditError: The folder holds no sweep, or none of its cases has been tried.
    """
    if not (folder / "sweep.sqlite").is_file():
        raise EditError(f"{folder} holds no sweep. Run one first, or check --out.")
    store = Store(folder)
    try:
        about, finished, rounded = store.about(), list(store.results()), store.rounded()
    finally:
        store.close()
    done = [result for result in finished if result.status != "failed"]
    if about is None or not finished:
        raise EditError(f"No case of the sweep in {folder} is finished yet. Run it first.")
    found, by_detector = _Scored.of(done, about.judge), routed_of(about.settings, done)
    both = about.settings.acts == "both"
    second = _Scored.of(by_detector, about.judge) if both else None
    table, more = found.table, second.table if second else ()
    ways = {_EDITED: found, **({"Routed": second} if second else {})}
    parts = [_paper_table(about, table, more), _others(table, rounded, more), [resampling_told(table)]]
    parts += [_categories(name, scored.categories) for name, scored in ways.items()]
    parts += [_matrix(name, scored.matrix) for name, scored in ways.items()]
    if not done:
        parts = [[f"{about.settings.method} is not possible on any of these cases, so there are no scores."]]
    acted = acted_of(about.settings, by_detector)
    head = _head(about, finished, done, acted_told(acted, by_detector, both))
    without = [*_without_edit(finished), *(_without_routed(done) if both else [])]
    text = "\n".join([*head, *(line for part in parts for line in ("", *part)), *without, ""])
    write_whole(folder / "report.txt", text)
    scores = {
        "settings": json.loads(about.settings.as_json()),
        "model": about.model,
        "judge": about.judge,
        "layer_reason": about.layer_reason,
        "recommended_layer": about.recommended_layer,
        "recommended_reason": about.recommended_reason,
        "marks": marks_of(done),
        "toxic_layers": toxic_layers(done),
        "cases": len(done),
        "refused": _refused(finished),
        "failed": sum(result.status == "failed" for result in finished),
        "left_out": _left_out(done),
        "pairing": asdict(pairing_of(done)),
        "acted": acted_record(acted),
        **found.record(),
        "routed": second and {"refused": _refused(by_detector), **second.record()},
        "rounded": None if rounded is None else asdict(rounded),
    }
    write_whole(folder / "scores.json", json.dumps(scores, indent=1))
    return text


def _head(about: About, finished: Sequence[Finished], done: Sequence[Finished], acted: Sequence[str]) -> list[str]:
    settings = about.settings
    refused = _refused(done)
    second = _refused(routed_of(settings, done)) if settings.acts == "both" else refused
    asked = ", ".join(part for part in (EVALUATIONS[settings.evaluation], settings.format.label()) if part)
    lines = [
        f"{about.model} ({about.dtype}), {settings.method} {settings.preset}, layer {_layer(settings, done)}, cases: "
        f"{settings.cases}",
        f"{len(done)} of {about.cases} cases scored, {len(finished) - len(done)} failed and in no score, answers of at "
        f"most {settings.max_new_tokens} tokens",
        f"Asked: {asked}. Judge: {about.judge}. {about.judge_note}",
    ]
    if refused or second:
        how = "" if settings.evaluation == "same" else ", asked with the suffix as an edited model is,"
        other = "" if second == refused else f" ({second} as routed edits)"
        lines.insert(
            2,
            f"{refused} of them refused{other}: no edit was kept, so the vanilla weights' answers{how} count as "
            "edited.",
        )
    left_out = [left_out_told(_left_out(done))] if _left_out(done) else []
    why = [about.layer_reason] if about.layer_reason else []
    return [
        *lines,
        *left_out,
        *why,
        *recommended_told(about),
        *toxic_told(settings, done),
        *_acts(about),
        *acted,
        _vanilla(settings, pairing_of(done)),
    ]


def _acts(about: About) -> list[str]:
    """Say where the edits act, and how routed ones differ for it from those that act on every prompt."""
    settings = about.settings
    if settings.acts == "always":
        told = "Each edit acts on every prompt."
        if settings.method == "dinm":
            told += (
                " Operate by itself makes one that acts only where harm is detected (--acts detected); --acts both "
                "examines these edits both ways."
            )
        return [told]
    named = f" The detector is {about.detector}." if about.detector else ""
    if settings.acts == "both":
        return [
            "Each edit is examined twice: on every prompt (edited), and as it acts only where the model's detector "
            f"fires (routed).{named}"
        ]
    plain, own = (asdict(one.method_settings()) for one in (replace(settings, acts="always"), settings))
    changes = ", ".join(f"{name} {value}" for name, value in own.items() if value != plain[name])
    more = f", and its edit learns more for it ({changes})" if changes else ""
    return [f"Each patch acts only where the model's detector fires{more}.{named}"]


def _refused(done: Sequence[Finished]) -> int:
    return sum(result.status == "refused" for result in done)


def _left_out(done: Sequence[Finished]) -> dict[str, int]:
    """Return how many questions no case was asked, by kind; none in a sweep of before they were counted."""
    return dict(done[0].record.left_out) if done else {}


def pairing_of(done: Iterable[Finished]) -> Pairing:
    """Return what all cases found that asked prompts again with both weights in one batch."""
    exams = [exam for result in done for exam in (result.record, result.record.routed) if exam is not None]
    return sum((exam.pairing for exam in exams), Pairing())


def _vanilla(settings: SweepSettings, found: Pairing) -> str:
    """Say where the vanilla answers come from, and what pairing them again gave."""
    if settings.vanilla == "paired":
        return "Vanilla answers: anew beside every edit, in one batch with it."
    said = "Vanilla answers: what all exams ask was answered once and shared by the cases."
    if not found.compared:
        return f"{said} No prompt was compared with a paired batch."
    compared = f"Compared with paired batches: {found.compared} answers of each,"
    if not found.vanilla and not found.edited:
        return f"{said} {compared} all the same."
    return (
        f"{said} {compared} {found.vanilla} vanilla (by token) and {found.edited} edited (by text) DIFFER, as another "
        "shape of a batch rounds differently. --vanilla paired asks anew beside every edit."
    )


def _layer(settings: SweepSettings, done: Sequence[Finished]) -> str:
    """Return the edited layer in words; one that was located once by its number, too."""
    return f"{settings.block} ({done[0].record.block})" if settings.block == ONCE and done else settings.block


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name[:_NAME]:<{_NAME}}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells)


def _value(estimate: Estimate | None) -> str:
    return "-" if estimate is None or estimate.value is None else f"{estimate.value:.2f}"


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    places = 1 if estimate.high < 10 else 0
    return f"{estimate.low:.{places}f}-{estimate.high:.{places}f}"


def _paper_table(about: About, table: Sequence[Score], routed: Sequence[Score]) -> list[str]:
    found, second = ([named.get(name) for name in COLUMNS] for named in map(_named, (table, routed)))
    longest, method = about.settings.max_new_tokens, about.settings.method.upper()
    lines = [_row("percent; Fluency in bits", COLUMNS)]
    sides = [("vanilla", "vanilla", found), (method, "edited", found), (f"{method}, routed", "edited", second)]
    for name, side, scores in sides if routed else sides[:2]:
        estimates = [None if score is None else getattr(score, side) for score in scores]
        lines += [
            _row(f"{about.model[: min(_MODEL, _NAME - len(name) - 1)]} {name}", [_value(e) for e in estimates]),
            _row("  95 % interval", [_interval(e) for e in estimates]),
        ]
    lines += [
        _row("  samples", ["-" if score is None else str(score.edited.n) for score in found]),
        *(f"Fluency: {score.meaning}; {score.source}" for score in table if score.name == "Fluency"),
        *(f"Fluency, routed: {score.meaning}" for score in routed if score.name == "Fluency"),
        "",
        "The paper's own figures (7B models, its own test set and judge: not the same measure):",
    ]
    lines += [
        _row(f"{model} {method}", ["-" if value is None else f"{value:.2f}" for value in values])
        for (model, method), values in figures(longest).items()
    ]
    return lines if longest >= PAPER_TOKENS else [*lines, AT_ITS_LENGTH]


def _named(table: Sequence[Score]) -> dict[str, Score]:
    return {score.name: score for score in table}


def _others(table: Sequence[Score], rounded: Rounded | None, routed: Sequence[Score]) -> list[str]:
    second = _named(routed)
    head_routed = f"{'routed':>10}{'95 % interval':>18}" if second else ""
    beside = {} if rounded is None else {score.name: score.edited for score in rounded.scores}
    head = f"{'rounded':>10}" if beside else ""
    lines = [
        f"{'Beyond the paper':<{_NAME}}{'vanilla':>10}{'edited':>10}{'95 % interval':>18}{head_routed}{head}{'n':>7}  "
        "marked by"
    ]
    for score in table:
        if score.name not in COLUMNS:
            forced = " (vanilla by construction)" if score.forced else ""
            other = second[score.name].edited if score.name in second else None
            more = f"{_fine(other):>10}{_range(other):>18}" if other else f"{'-':>10}{'':>18}" if second else ""
            cell = f"{_fine(beside[score.name]) if score.name in beside else '-':>10}" if beside else ""
            lines.append(
                f"{f'{score.name}, {score.unit}':<{_NAME}}{_fine(score.vanilla):>10}{_fine(score.edited):>10}"
                f"{_range(score.edited):>18}{more}{cell}{score.edited.n:>7}  {score.source}{forced}"
            )
    return [*lines, *rounded_told(rounded)]


def _fine(estimate: Estimate) -> str:
    return "-" if estimate.value is None else f"{estimate.value:.4g}"


def _range(estimate: Estimate) -> str:
    return "" if estimate.low is None or estimate.high is None else f"{estimate.low:.3g} to {estimate.high:.3g}"


def _categories(way: str, categories: dict[str, tuple[Score, ...]]) -> list[str]:
    names = ("DS", "DG-Avg", "transfer")
    lines = [_row(f"{way}, by category", [cell for name in names for cell in (name, "n")])]
    for category, table in categories.items():
        named = _named(table)
        cells = [
            cell
            for name in names
            for cell in ((_value(named[name].edited), str(named[name].edited.n)) if name in named else ("-", "0"))
        ]
        lines.append(_row(category, cells))
    return lines


def _matrix(way: str, matrix: CategoryMatrix) -> list[str]:
    if not matrix.n.any():
        return ["No held-out prompt was asked, so there is no category-by-category matrix."]
    said = "edited on the row's category, tested on the column's"
    lines = [f"Percent safe on held-out prompts{'' if way == _EDITED else f', {way.lower()}'}: {said}."]
    lines.append(_row("", [name[:8] for name in matrix.categories]))
    lines.append(_row("vanilla", [_cell(value) for value in matrix.vanilla]))
    lines += [
        _row(name, [_cell(value) for value in row])
        for name, row, n in zip(matrix.categories, matrix.edited, matrix.n, strict=True)
        if n.any()
    ]
    return lines


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}"


def _without_edit(finished: Sequence[Finished]) -> list[str]:
    lines: list[str] = []
    for status in ("refused", "failed"):
        found = [result for result in finished if result.status == status]
        if found:
            lines += ["", f"{status.capitalize()}:", *(f"  case {r.case}: {r.record.error}" for r in found)]
    return lines


def _without_routed(done: Sequence[Finished]) -> list[str]:
    """Say which edits are refused for another reason, or alone, where they act only where the detector fires."""
    found = [(r.case, r.record.routed.error) for r in done if r.record.routed and r.record.routed.error]
    own = {(r.case, r.record.error) for r in done}
    lines = [f"  case {name}: {error}" for name, error in found if (name, error) not in own]
    return ["", "Refused, routed:", *lines] if lines else []
