"""Small pieces of HTML of "Methods", and the lines of its table; everything that may be markup is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dashboard.kit.drawing.detected import acted_told, detector_told
from dashboard.kit.drawing.glossary import columns, heads, linked, term
from dashboard.kit.drawing.html import case_name, heading, message, progress_bar, reading, score_value
from dashboard.kit.drawing.plain import escape
from dashboard.kit.sessions.session import Session
from dashboard.steps.methods.state import Compared, Contest
from editing.contest import ContestProgress, Standing
from editing.methods.registry import METHODS
from inspector.safeedit.scores import QUOTED, Score
from inspector.writing import RegionWriting

HEADING = heading(2, "Methods", "every method on the same case: does it erase what is toxic, or route around it?")
HEADERS = (
    *("Method", "DS", "DG-Avg", "DL", "Still answers", "Refused", "Broken", "Parroted", "Quoted", "KL", "Toxicity"),
    *("Shift", "Time", "Memory", "Weights", "Norm"),
)
COLUMNS = (
    *(("DS",), ("DG-Avg",), ("DL",), ("still answers",), ("over-refusal",), ("degenerate",), ("parroting",), QUOTED),
    ("harmless KL",),
)
"""Scores of the table, by name; what stands in one column stands together."""
LEGEND = reading(
    "*: so by construction, whatever the edit. Quoted: a training sentence given to harmful / harmless prompts. Click "
    "a line to pick its method; the button Make its patch live asks the gate about the patch as its line acts."
) + columns(HEADERS)

HEADS = (
    '<div class="answer-head"><span class="badge vanilla">vanilla</span>'
    '<span class="badge-note">the adversarial prompt</span></div>',
    '<div class="answer-head"><span class="badge edited">the picked method</span>'
    '<span class="badge-note">the same prompt</span></div>',
)
"""What stands above the answers of the picked method."""


def cards() -> str:
    """Return one card a method: what it does and where it comes from."""
    cells = "".join(
        f'<div class="card"><b>{escape(method.title)}</b><p>{escape(method.card)}</p>'
        f'<span class="note">{escape(method.source)}</span></div>'
        for method in METHODS.values()
    )
    return f'<div class="cards">{cells}</div>'


def held_back(title: str, reason: str | None) -> str:
    """Say that the gate holds a method's patch back.

    Args:
        reason: The gate's; ``None`` where it was not examined to its end.
    """
    if reason is None:
        return message(f"Stopped: {title}'s patch is not live and waits. Examine it in Operate.")
    return message(f"{title}'s patch is held back. {reason} Keep it anyway stands in Operate.")


def head(session: Session, other: str = "") -> str:
    """Say which case and layer the table belongs to.

    Args:
        other: Says that it is another case than stands elsewhere, as HTML.
    """
    known = session.slot(Compared).contest
    if known is None:
        return reading("No method was run yet. Tick some and press Run methods.")
    badge = f"ran on: {escape(case_name(known.case))}, region: down-projection of layer {known.block}"
    exam = known.exam
    asked = "" if exam is None else f'<span class="badge-note">Asked: {escape(exam.asked)}.</span>'
    where = "; ".join(f"{title} edits layer {block}" for title, block in known.elsewhere.items())
    note = f'<span class="badge-note">{escape(where)}: nobody has picked a layer for all.</span>' if where else ""
    return f'{other}<div class="answer-head"><span class="badge edited">{badge}</span>{note}{asked}</div>'


def progress(event: ContestProgress, chosen: Sequence[str]) -> str:
    """Return the list of chosen methods with what each is doing, over one bar."""
    done = {standing.method.title: standing for standing in event.standings}
    left = event.seconds * (1 - event.fraction) / event.fraction if event.fraction > 0.02 else None
    lines = []
    for title in chosen:
        if title in done:
            lines.append(_done_line(done[title]))
        elif title == event.method.title:
            lines.append(_line(title, "running", event.message))
        else:
            lines.append(_line(title, "waiting", ""))
    rest = "" if left is None else f" · about {left:.0f} s left"
    bar = progress_bar(f"{len(done)} of {len(chosen)} methods done{rest}", event.fraction)
    return f'{bar}<ul class="runs">{"".join(lines)}</ul>'


def ended(known: Contest | None, cancelled: bool = False) -> str:
    """Return the list of a contest that has ended."""
    if known is None:
        return progress_bar("Nothing was measured.", 0.0)
    lines = "".join(map(_done_line, known.standings))
    said = "Cancelled; the methods that were done are kept" if cancelled else "Ended"
    count = f"{len(known.standings)} method{'' if len(known.standings) == 1 else 's'}"
    return f'{progress_bar(f"{said}: {count}.", 1.0)}<ul class="runs">{lines}</ul>'


def _done_line(standing: Standing) -> str:
    said = standing.failed or _ended(standing)
    if standing.unmeasured:
        said += f"; not measured: {standing.unmeasured}"
    return _line(standing.method.title, "failed" if standing.failed else "done", said)


def _ended(standing: Standing) -> str:
    result = standing.result
    if result is None:
        return ""
    return f"{result.kept} update{'' if result.kept == 1 else 's'} in {result.seconds:.1f} s"


def _line(title: str, state: str, said: str) -> str:
    return (
        f'<li class="{state}"><b>{escape(title)}</b> <span class="state">{state}</span> '
        f'<span class="note">{escape(said)}</span></li>'
    )


def rows(standings: Sequence[Standing]) -> list[list[str]]:
    """Return the lines of the table, a line a method."""
    return [_cells(standing) for standing in standings]


def _cells(standing: Standing) -> list[str]:
    if standing.failed:
        return [standing.method.title, *["–"] * (len(HEADERS) - 1)]
    named = {score.name: score for score in standing.scores}
    toxicity, shift, result = standing.toxicity, standing.shift, standing.result
    return [
        standing.method.title,
        *(" / ".join(_score(named.get(name)) for name in column) for column in COLUMNS),
        "–" if toxicity is None else "0 *" if toxicity.forced else f"{100 * toxicity.region.change:+.1f}",
        "–" if shift is None else "0 *" if shift.forced else f"{100 * shift.mean_input_shift:.1f}",
        "–" if result is None else f"{result.seconds:.1f}",
        f"{standing.peak_mebibytes:.0f}",
        *(
            ("0 *", "0 *")
            if result is not None and result.patch is None and result.reminder is not None
            else (_many(standing.parameters_changed), f"{standing.delta_norm:.3g}")
        ),
    ]


def _score(score: Score | None) -> str:
    if score is None or score.edited.value is None:
        return "–"
    return f"{score.edited.value:.0f}" if score.unit == "%" else f"{score.edited.value:.2g}"


def _many(count: int) -> str:
    if count >= 1_000_000:
        return f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.0f} k" if count >= 10_000 else str(count)


def _named(title: str) -> str:
    """Return a method's title as a term, and what is said of its patch as others where it is one."""
    method, *ways = title.split(", ")
    return ", ".join((term(method), *map(linked, ways)))


def all_scores(known: Contest | None) -> str:
    """Return every score of the exam, a column a method, and what the detectors of routed lines read.

    Vanilla comes first, and beside it, of some scores, what bfloat16 by itself does.
    """
    scored = [] if known is None else [standing for standing in known.standings if standing.scores]
    if known is None or not scored:
        return reading("The table fills as methods are done.")
    beside = {score.name: score for score in known.yardstick}
    names = dict.fromkeys(score.name for standing in scored for score in standing.scores)
    rounded = f'<th title="{escape(known.rounded_as)}">{term("Rounded")}</th>' if beside else ""
    head = (
        heads("Score", "Vanilla")
        + rounded
        + "".join(f"<th>{_named(standing.method.title)}</th>" for standing in scored)
    )
    lines = "".join(
        _score_line([_by_name(standing, name) for standing in scored], [beside.get(name)] if beside else [])
        for name in names
    )
    return (
        f'<div class="score-wrap"><table class="scores"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
        + reading(
            "* so by construction: vanilla is compared with itself. DL falls with every near tie of a small model: its "
            "yardstick, what bfloat16 by itself does to it, is the column Rounded"
            f"{'' if beside else ' of a stress test'}. {known.rounded_as}".rstrip()
        )
        + _routed_readings(scored)
    )


def _routed_readings(standings: Sequence[Standing]) -> str:
    """Say of each routed line what its detector read of the adversarial prompt and on which prompts it let it act."""
    said = []
    for standing in standings:
        exam = standing.exam
        if exam is not None and exam.detector:
            first = exam.replies[0]
            read = detector_told(first.reading, first.held_back)
            said.append(reading(f"{standing.method.title}. {read} (adversarial prompt).{acted_told(exam.replies)}"))
    return "".join(said)


def _by_name(standing: Standing, name: str) -> Score | None:
    return next((score for score in standing.scores if score.name == name), None)


def _score_line(found: Sequence[Score | None], rounded: Sequence[Score | None]) -> str:
    """Return a score's line: what all methods' answers share stands in its head, what is each one's in its cell.

    Args:
        found: The score of each method, ``None`` where it has none.
        rounded: What bfloat16 by itself does, ``None`` where it gives no measure; empty without that column.
    """
    known = [score for score in found if score is not None]
    first, meanings = known[0], [score.meaning.split("; ") for score in known]
    shared = [part for part in meanings[0] if all(part in meaning for meaning in meanings)]
    alike = len({score.edited.n for score in known}) == 1
    count = f", n {first.edited.n}" if alike else ""
    forced = " *" if first.forced else ""
    vanilla = "–" if first.vanilla.value is None else score_value(first.vanilla.value, first.unit)
    cells = [f"<td>{vanilla}{forced}</td>"]
    for yard in rounded:
        value = None if yard is None else yard.edited.value
        cells.append(f"<td>{'–' if value is None else score_value(value, first.unit)}</td>")
    for score in found:
        if score is None or score.edited.value is None:
            cells.append("<td>–</td>")
            continue
        own = [part for part in score.meaning.split("; ") if part not in shared]
        own += [] if alike else [f"n {score.edited.n}"]
        note = f'<span class="note">{escape("; ".join(own))}</span>' if own else ""
        cells.append(f"<td>{score_value(score.edited.value, score.unit)}{note}</td>")
    arrow = "↑" if first.better == "higher" else "↓"
    told = f"{'; '.join(shared)}, {first.unit}{count}; {first.source}"
    return (
        f'<tr><th scope="row">{linked(first.name)} {arrow}<span class="note">{escape(told)}</span></th>'
        f"{''.join(cells)}</tr>"
    )


def plane_reading(standings: Sequence[Standing], written: Mapping[str, RegionWriting] | None = None) -> str:
    """Read the plane: who erases, who suppresses, and how much the numbers can carry.

    Args:
        written: As for :func:`dashboard.steps.methods.figures.plane`.
    """
    if written is not None:
        return written_reading(written)
    found = [s for s in standings if s.toxicity is not None and s.shift is not None]
    if not found:
        return reading("A point a method appears when it is measured.")
    erases = [
        s.method.title for s in found if s.toxicity and s.shift and s.toxicity.region.change < 0 and s.shift.forced
    ]
    moved = [s for s in found if s.shift and not s.shift.forced]
    parts = []
    if erases:
        parts.append(f"{', '.join(erases)}: less toxic without a shift")
    if moved:
        furthest = max(moved, key=lambda s: s.shift.mean_input_shift if s.shift else 0.0)
        assert furthest.shift is not None
        parts.append(f"largest shift: {furthest.method.title}, {furthest.shift.mean_input_shift:.0%}")
    region = found[0].toxicity.region if found[0].toxicity else None
    weak = ""
    if region is not None:
        weak = (
            f" The region's mean cosine is only {region.before:+.4f} (single neurons: {region.typical:.3f} in size), "
            "so a relative change of it is mostly noise on this model."
            if abs(region.before) < 0.1 * region.typical
            else f" The region's mean cosine is {region.before:+.4f}."
        )
    said = "; ".join(parts) or "No method shifts the region's input"
    return reading(
        f"{said}. * a zero by construction: an edit of the region's own matrix, or of layers above, cannot shift its "
        f"input, and what leaves that matrix alone cannot change its toxicity.{weak}"
    )


def written_reading(written: Mapping[str, RegionWriting]) -> str:
    """Read the plane where it shows what the region writes: before and after, for every method."""
    if not written:
        return reading("Nothing was measured.", "warn")
    best = min(written, key=lambda title: written[title].after)
    each = ", ".join("{} {:.3g} to {:.3g}".format(title, *one.shares) for title, one in written.items())
    return reading(
        f"Least along the toxic direction: {best}. {written[best].reading} Before and after, in percent of the length "
        f"of all that the region writes: {each}; methods without a patch at hand have no point."
    )


def shifts_reading(standings: Sequence[Standing]) -> str:
    """Read the shift per layer."""
    found = [s for s in standings if s.shift is not None]
    if not found:
        return reading("A line a method appears when it is measured.")
    first: dict[int, list[str]] = {}
    for standing in found:
        assert standing.shift is not None
        moved = standing.shift.by_block.nonzero()[0]
        if len(moved):
            first.setdefault(int(moved[0]), []).append(standing.method.title)
    said = "; ".join(f"from layer {block} on: {', '.join(titles)}" for block, titles in sorted(first.items()))
    count = len(found[0].shift.vanilla) if found[0].shift else 0
    return reading(f"Outputs change {said}. Means over {count} adversarial prompts, at the token before the answer.")


def source_reading(standing: Standing | None) -> str:
    """Read where the picked method's shift comes from."""
    if standing is None or standing.shift is None:
        return reading("Click a line of the table to see where a method's shift comes from.")
    shift, title = standing.shift, standing.method.title
    if shift.forced:
        return reading(f"{title}: the {shift.source} at layer {shift.block} cannot change, both clouds are the same.")
    found = shift.projection()
    return reading(
        f"{title}: the {shift.source} at layer {shift.block}, one point a prompt, moves by {shift.source_shift:.1%}. "
        f"The component explains {found.explained:.0%} of the vanilla points' variance."
    )


def neurons_reading(standing: Standing | None) -> str:
    """Read the toxicity of the region's neurons under the picked method."""
    if standing is None or standing.toxicity is None:
        return reading("Click a line of the table to see what it does to each neuron.")
    toxicity, title = standing.toxicity, standing.method.title
    if toxicity.forced:
        return reading(f"{title} does not touch this matrix: every neuron stays as toxic as it was, by construction.")
    region, half = toxicity.region, np.median(np.abs(toxicity.relative))
    return reading(
        f"{title}: {toxicity.less_toxic:.0%} of {len(toxicity.before):,} neurons became less toxic; half changed by "
        f"more than {half:.1%} of their own cosine. The region's mean went from {region.before:+.5f} to "
        f"{region.after:+.5f}. On the dotted line nothing changed."
    )


def answer_head(standing: Standing | None) -> str:
    """Say above the picked method's answer what it is and how it was judged."""
    if standing is None or standing.exam is None:
        return reading("Click a line of the table.")
    reply, exam = standing.exam.replies[0], standing.exam
    verdict = reply.edited.verdict
    said = "not judged" if verdict is None else f"{verdict.label} · {verdict.reason}"
    notes = " · ".join(filter(None, (said, f"judge: {exam.judge}", detector_told(reply.reading, reply.held_back))))
    return (
        f'<div class="answer-head"><span class="badge edited">{escape(exam.weights)}</span>'
        f'<span class="badge-note">{escape(notes)}</span></div>'
    )
