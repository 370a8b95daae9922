"""Small pieces of HTML of the stress test; everything written by a person or a model is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from dashboard.kit.html import progress_bar, reading, score_value
from inspector.model import Row
from inspector.safeedit.exam import ExamResult, Marked, Progress
from inspector.safeedit.questions import Question
from inspector.safeedit.scores import Estimate, Score

HEADING = (
    "<h2>Stress test<small>the benchmark on this edit: prompts that it never saw, "
    "vanilla and edited in one batch</small></h2>"
)


def running(progress: Progress) -> str:
    """Return the clock of a running exam with its bar and the time left."""
    left = progress.seconds_left
    rest = "" if left is None else f" · about {left:.0f} s left"
    return progress_bar(
        f"{progress.answered} of {progress.total} prompts answered by both weights{rest}", progress.fraction
    )


def ended(exam: ExamResult) -> str:
    """Return the clock of an ended exam."""
    count = len(exam.replies)
    cut = "Cancelled, what was answered is kept: " if exam.cancelled else ""
    return progress_bar(
        f"{cut}{count} prompts, each answered by both weights in {exam.seconds:.0f} s, at most "
        f"{exam.max_new_tokens} tokens an answer.",
        1.0,
    )


def head(exam: ExamResult | None, live: Row) -> str:
    """Say which weights and which judge the scores belong to, and whether those weights are still live."""
    if exam is None:
        return reading("No edit has been scored yet. Press Stress test.")
    stale = ""
    if exam.weights != live.label():
        stale = (
            f'<p class="reading warn">Live now: {escape(live.label())}. These scores belong to other weights; press '
            "Stress test to score the live ones.</p>"
        )
    return (
        f'{stale}<div class="answer-head"><span class="badge edited">scored: {escape(exam.weights)}</span>'
        f'<span class="badge-note">Asked: {escape(exam.asked)}. Judge: <b>{escape(exam.judge)}</b>. '
        f"{escape(exam.judge_note)}</span></div>"
    )


def table(scores: Sequence[Score]) -> str:
    """Return the table of scores with numbers of samples and 95 % intervals."""
    if not scores:
        return reading("The table fills as answers come.")
    lines = "".join(_line(score) for score in scores)
    return (
        '<div class="score-wrap"><table class="scores"><thead><tr><th>Score</th><th>Vanilla</th><th>Edited</th>'
        "<th>Change</th><th>n</th><th>Marked by</th></tr></thead><tbody>" + lines + "</tbody></table></div>"
    )


def _line(score: Score) -> str:
    change = difference(score)
    kind = ""
    if change is not None and abs(change) > 1e-9:
        kind = "good" if (change > 0) == (score.better == "higher") else "bad"
    arrow = "↑" if score.better == "higher" else "↓"
    forced = ' <span class="note">by construction</span>' if score.forced else ""
    shown = "" if change is None else f"{'+' if change > 0 else ''}{score_value(change, score.unit)}"
    return (
        f'<tr><th scope="row">{escape(score.name)} <span title="better {escape(score.better)}">{arrow}</span>'
        f'<span class="note">{escape(score.meaning)}</span></th><td>{_estimate(score.vanilla, score.unit)}{forced}</td>'
        f'<td>{_estimate(score.edited, score.unit)}</td><td class="{kind}">{shown}</td><td>{score.edited.n}</td>'
        f"<td>{escape(score.source)}</td></tr>"
    )


def difference(score: Score) -> float | None:
    """Return edited minus vanilla, ``None`` where one is missing."""
    if score.vanilla.value is None or score.edited.value is None:
        return None
    return score.edited.value - score.vanilla.value


def _estimate(estimate: Estimate, unit: str) -> str:
    if estimate.value is None:
        return "-"
    sign = f" {unit}" if unit != "%" else " %"
    shown = f"<b>{score_value(estimate.value, unit)}</b>{sign}"
    if estimate.low is None or estimate.high is None:
        return shown
    return f'{shown} <span class="note">{score_value(estimate.low, unit)} to {score_value(estimate.high, unit)}</span>'


def scores_reading(scores: Sequence[Score]) -> str:
    """Read the chart in plain words."""
    named = {score.name: score for score in scores}
    parts = []
    for name, words in (("DG-Avg", "of unseen variants"), ("transfer", "of other cases")):
        if name in named and named[name].edited.value is not None and named[name].vanilla.value is not None:
            score = named[name]
            parts.append(f"{score.vanilla.value:.0f} % to {score.edited.value:.0f} % {words} defended")
    if "over-refusal" in named:
        score = named["over-refusal"]
        parts.append(f"harmless prompts refused: {score.vanilla.value:.0f} % to {score.edited.value:.0f} %")
    said = "; ".join(parts) or "Nothing is scored yet"
    return reading(f"{said[0].upper()}{said[1:]}. Whiskers are 95 % intervals: few samples say little.")


def categories_reading(tables: Mapping[str, Sequence[Score]]) -> str:
    """Read the chart by category."""
    if not tables:
        return reading("The chart fills as answers come.")
    return reading(
        f"{len(tables)} categories asked. The edit was made on one case of one category; the others show how far it "
        "reaches."
    )


def verdict(question: Question, marked: Marked, edited: bool, judge: str) -> str:
    """Say above an answer what it was marked and by whom."""
    kind = "edited" if edited else "vanilla"
    said: str
    if marked.verdict is not None:
        said, why = (
            marked.verdict.label,
            f"{marked.verdict.reason} P(safe) {marked.verdict.safe_probability:.2f}, judge: {judge}",
        )
    elif marked.degenerate:
        said, why = "degenerate", marked.degenerate
    elif question.kind == "fact":
        said, why = ("right" if marked.mark == 1 else "wrong"), f"Accepted: {', '.join(question.accepted[:4])}"
    elif question.kind == "passage":
        said, why = f"ROUGE-1 {marked.mark or 0:.2f}", f"Reference: {question.reference}"
    else:
        said, why = ("refused" if marked.refused else "answered"), "A harmless prompt; refusal rules"
    return (
        f'<div class="answer-head"><span class="badge {kind}">{kind}: {escape(said)}</span>'
        f'<span class="badge-note">{escape(why)}</span></div>'
    )
