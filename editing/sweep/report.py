"""The report of a sweep: the paper's table layout with the paper's figures under it, then what it leaves out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from editing.sweep.fitting import left_out_told
from editing.sweep.marks import marks_of, recommended_told, toxic_layers, toxic_told
from editing.sweep.paper import AT_ITS_LENGTH, COLUMNS, PAPER_TOKENS, figures
from editing.sweep.routed import acted_of, acted_record, acted_told
from editing.sweep.settings import ONCE, SweepSettings
from editing.sweep.store import About, Finished, Store
from editing.sweep.yardstick import Rounded, rounded_told
from inspector.errors import EditError
from inspector.model.whole_file import write_whole
from inspector.safeedit.acted import Acted
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
    replies = [reply for result in done for reply in result.replies]
    owners = [result.number for result in done for _ in result.replies]
    table = score_table(replies, about.judge, owners)
    categories = per_category(replies, about.judge, owners)
    matrix = category_matrix([(result.category, result.replies) for result in done])
    scored = [_paper_table(about, table), _others(table, rounded), [resampling_told(table)], _categories(categories)]
    parts = [*scored, _matrix(matrix)]
    if not done:
        parts = [[f"{about.settings.method} is not possible on any of these cases, so there are no scores."]]
    acted = acted_of(about.settings, done)
    head = _head(about, finished, done, acted)
    text = "\n".join([*head, *(line for part in parts for line in ("", *part)), *_without_edit(finished), ""])
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
        "refused": sum(result.status == "refused" for result in finished),
        "failed": sum(result.status == "failed" for result in finished),
        "left_out": _left_out(done),
        "pairing": asdict(pairing_of(done)),
        "acted": acted_record(acted),
        "scores": [asdict(score) for score in table],
        "rounded": None if rounded is None else asdict(rounded),
        "categories": {name: [asdict(score) for score in found] for name, found in categories.items()},
        "matrix": {
            "categories": matrix.categories,
            "edited": [[None if math.isnan(v) else v for v in row] for row in matrix.edited.tolist()],
            "vanilla": [None if math.isnan(v) else v for v in matrix.vanilla.tolist()],
            "n": matrix.n.tolist(),
        },
    }
    write_whole(folder / "scores.json", json.dumps(scores, indent=1))
    return text


def _head(
    about: About, finished: Sequence[Finished], done: Sequence[Finished], acted: Mapping[str, Acted] | None
) -> list[str]:
    settings = about.settings
    refused = sum(result.status == "refused" for result in done)
    asked = ", ".join(part for part in (EVALUATIONS[settings.evaluation], settings.format.label()) if part)
    lines = [
        f"{about.model} ({about.dtype}), {settings.method} {settings.preset}, layer {_layer(settings, done)}, cases: "
        f"{settings.cases}",
        f"{len(done)} of {about.cases} cases scored, {len(finished) - len(done)} failed and in no score, answers of at "
        f"most {settings.max_new_tokens} tokens",
        f"Asked: {asked}. Judge: {about.judge}. {about.judge_note}",
    ]
    if refused:
        how = "" if settings.evaluation == "same" else ", asked with the suffix as an edited model is,"
        lines.insert(
            2, f"{refused} of them refused: no edit was kept, so the vanilla weights' answers{how} count as edited."
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
        *acted_told(acted, done),
        _vanilla(settings, pairing_of(done)),
    ]


def _acts(about: About) -> list[str]:
    """Say that the patches are routed, and how their edits differ for it from those that act on every prompt."""
    settings = about.settings
    if settings.acts == "always":
        return []
    plain, own = (asdict(one.method_settings()) for one in (replace(settings, acts="always"), settings))
    changes = ", ".join(f"{name} {value}" for name, value in own.items() if value != plain[name])
    more = f", and its edit learns more for it ({changes})" if changes else ""
    named = f" The detector is {about.detector}." if about.detector else ""
    return [f"Each patch acts only where the model's detector fires{more}.{named}"]


def _left_out(done: Sequence[Finished]) -> dict[str, int]:
    """Return how many questions no case was asked, by kind; none in a sweep of before they were counted."""
    return dict(done[0].record.left_out) if done else {}


def pairing_of(done: Iterable[Finished]) -> Pairing:
    """Return what all cases found that asked prompts again with both weights in one batch."""
    return sum((result.record.pairing for result in done), Pairing())


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


def _paper_table(about: About, table: Sequence[Score]) -> list[str]:
    named = {score.name: score for score in table}
    found = [named.get(name) for name in COLUMNS]
    longest = about.settings.max_new_tokens
    lines = [_row("percent; Fluency in bits", COLUMNS)]
    for name, side in (("vanilla", "vanilla"), (about.settings.method.upper(), "edited")):
        estimates = [None if score is None else getattr(score, side) for score in found]
        lines += [
            _row(f"{about.model[:18]} {name}", [_value(e) for e in estimates]),
            _row("  95 % interval", [_interval(e) for e in estimates]),
        ]
    lines += [
        _row("  samples", ["-" if score is None else str(score.edited.n) for score in found]),
        *(f"Fluency: {score.meaning}; {score.source}" for score in table if score.name == "Fluency"),
        "",
        "The paper's own figures (7B models, its own test set and judge: not the same measure):",
    ]
    lines += [
        _row(f"{model} {method}", ["-" if value is None else f"{value:.2f}" for value in values])
        for (model, method), values in figures(longest).items()
    ]
    return lines if longest >= PAPER_TOKENS else [*lines, AT_ITS_LENGTH]


def _others(table: Sequence[Score], rounded: Rounded | None) -> list[str]:
    beside = {} if rounded is None else {score.name: score.edited for score in rounded.scores}
    head = f"{'rounded':>10}" if beside else ""
    lines = [
        f"{'Beyond the paper':<{_NAME}}{'vanilla':>10}{'edited':>10}{'95 % interval':>18}{head}{'n':>7}  marked by"
    ]
    for score in table:
        if score.name not in COLUMNS:
            forced = " (vanilla by construction)" if score.forced else ""
            cell = f"{_fine(beside[score.name]) if score.name in beside else '-':>10}" if beside else ""
            lines.append(
                f"{f'{score.name}, {score.unit}':<{_NAME}}{_fine(score.vanilla):>10}{_fine(score.edited):>10}"
                f"{_range(score.edited):>18}{cell}{score.edited.n:>7}  {score.source}{forced}"
            )
    return [*lines, *rounded_told(rounded)]


def _fine(estimate: Estimate) -> str:
    return "-" if estimate.value is None else f"{estimate.value:.4g}"


def _range(estimate: Estimate) -> str:
    return "" if estimate.low is None or estimate.high is None else f"{estimate.low:.3g} to {estimate.high:.3g}"


def _categories(categories: dict[str, tuple[Score, ...]]) -> list[str]:
    names = ("DS", "DG-Avg", "transfer")
    lines = [_row("Edited, by category", [cell for name in names for cell in (name, "n")])]
    for category, table in categories.items():
        named = {score.name: score for score in table}
        cells = [
            cell
            for name in names
            for cell in ((_value(named[name].edited), str(named[name].edited.n)) if name in named else ("-", "0"))
        ]
        lines.append(_row(category, cells))
    return lines


def _matrix(matrix: CategoryMatrix) -> list[str]:
    if not matrix.n.any():
        return ["No held-out prompt was asked, so there is no category-by-category matrix."]
    lines = ["Percent safe on held-out prompts: edited on the row's category, tested on the column's."]
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
