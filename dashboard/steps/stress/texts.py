"""Small pieces of HTML of the stress test; everything written by a person or a model is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboard.kit.drawing.detected import acted_told
from dashboard.kit.drawing.glossary import heads, linked, term
from dashboard.kit.drawing.html import heading, progress_bar, reading, score_value
from dashboard.kit.drawing.plain import escape
from dashboard.kit.sessions.acting import EVERYWHERE, WHERE_HARM
from dashboard.kit.sessions.session import Session
from dashboard.steps.stress.run import Examined
from editing.rounding import row_progress
from editing.suffixes import NONE, SCORES, WEIGHTS, ScoreName, SuffixStudy
from inspector.model import Row
from inspector.model.patches.rounded import ROUNDED
from inspector.safeedit.exam import ExamResult, Marked, Progress, Reply
from inspector.safeedit.questions import Question
from inspector.safeedit.scores import QUOTED, Estimate, Score, resampling_told

HEADING = heading(
    2,
    "Stress test",
    "the benchmark on this edit: prompts that it never saw, vanilla and edited in one batch",
)


def running(progress: Progress) -> str:
    """Return the clock of a running exam with its bar and the time left."""
    left = progress.seconds_left
    rest = "" if left is None else f" · about {left:.0f} s left"
    return progress_bar(
        f"{progress.answered} of {progress.total} prompts answered by both weights{rest}", progress.fraction
    )


def ended(exam: ExamResult, both_ways: bool = False) -> str:
    """Return the clock of an ended exam.

    Args:
        both_ways: The edit was examined as it acts on every prompt and as it acts only where harm is detected.
    """
    count = len(exam.replies)
    cut = "Cancelled, what was answered is kept: " if exam.cancelled else ""
    by = "the vanilla weights and by the edit both ways" if both_ways else "both weights"
    return progress_bar(
        f"{cut}{count} prompts, each answered by {by} in {exam.seconds:.0f} s, at most "
        f"{exam.max_new_tokens} tokens an answer.",
        1.0,
    )


def way(exam: ExamResult) -> str:
    """Name the way in which the weights of an exam act, as the switch does."""
    return WHERE_HARM if exam.detector else EVERYWHERE


def head_of_running(row: Row, judge: str) -> str:
    """Say while an exam runs which weights are scored, and by which judge."""
    return (
        f'<div class="answer-head"><span class="badge edited">being scored: {escape(row.label())}</span>'
        f'<span class="badge-note">Judge: <b>{escape(judge)}</b>. What was answered so far stands below.</span></div>'
    )


def head(exam: ExamResult | None, live: Row, other: ExamResult | None = None) -> str:
    """Say which weights and which judge the scores belong to, and whether those weights are still live.

    Args:
        other: The exam of the same patch as it acts elsewhere, a column of the table.
    """
    if exam is None:
        return reading("No edit has been scored yet. Press Stress test.")
    stale = ""
    if other is not None and other.key == live.key:
        stale = (
            f'<p class="reading warn">The edit now {way(other)}: that column of the table is of the live weights. All '
            "else here is of the edit as it acted before; press Stress test to score it as it acts now.</p>"
        )
    elif exam.key != live.key:
        now = "the same patch by another detector" if exam.weights == live.label() else live.label()
        stale = (
            f'<p class="reading warn">Live now: {escape(now)}. These scores belong to other weights; press '
            "Stress test to score the live ones.</p>"
        )
    return (
        f'{stale}<div class="answer-head"><span class="badge edited">scored: {escape(exam.weights)}</span>'
        f'<span class="badge-note">Asked: {escape(exam.asked)}. Judge: <b>{escape(exam.judge)}</b>. '
        f"{escape(exam.judge_note)}</span></div>"
    )


@dataclass(frozen=True)
class OtherWay:
    """The same patch as it acts elsewhere, a column beside the edit that was examined.

    Attributes:
        scores: Its scores.
        exams: Both exams, the edit's first.
        live: The weights that are live now; the column of theirs says so.
    """

    scores: Sequence[Score]
    exams: tuple[ExamResult, ExamResult]
    live: Row

    @property
    def heads(self) -> str:
        """The heads of both columns, named as the switch names the ways."""
        return "".join(
            f"<th>{term(way(exam))}{' <b>live</b>' if exam.key == self.live.key else ''}</th>" for exam in self.exams
        )


def other_way(session: Session) -> OtherWay | None:
    """Return the column of the visitor's edit as it acts elsewhere, ``None`` where it was not examined so."""
    kept = session.slot(Examined)
    if kept.exam is None or kept.other is None:
        return None
    scores = kept.other.scores
    return OtherWay(scores, (kept.exam, kept.other), session.row)


def table(
    scores: Sequence[Score], rounded: Sequence[Score] = (), other: OtherWay | None = None, rounded_as: str = ""
) -> str:
    """Return the table of scores with numbers of samples and 95 % intervals, and below it what these belong to.

    Args:
        rounded: What bfloat16 by itself does to some of them, a column of its own.
        other: The same patch as it acts elsewhere, likewise.
        rounded_as: What was rounded, or why nothing was, in a sentence.
    """
    if not scores:
        return reading("The table fills as answers come.")
    beside = {score.name: score for score in rounded}
    elsewhere = {} if other is None else {score.name: score for score in other.scores}
    lines = "".join(_line(score, elsewhere, beside) for score in scores)
    column = f'<th title="{escape(rounded_as or ROUNDED)}">{term("Rounded")}</th>' if beside else ""
    edited = heads("Edited") if other is None else other.heads
    below = "" if other is None else reading(f"Change and all below are of the edit that {way(other.exams[0])}.")
    return (
        f'<div class="score-wrap"><table class="scores"><thead><tr>{heads("Score", "Vanilla")}{edited}'
        f"{column}{heads('Change', 'n', 'Marked by')}</tr></thead><tbody>{lines}</tbody></table></div>"
        f"{below}{rounded_as and reading(rounded_as)}{reading(resampling_told(scores))}"
    )


def _line(score: Score, elsewhere: Mapping[str, Score], beside: Mapping[str, Score]) -> str:
    change = difference(score)
    kind = ""
    if change is not None and abs(change) > 1e-9:
        kind = "good" if (change > 0) == (score.better == "higher") else "bad"
    arrow = "↑" if score.better == "higher" else "↓"
    forced = ' <span class="note">by construction</span>' if score.forced else ""
    shown = "" if change is None else f"{'+' if change > 0 else ''}{score_value(change, score.unit)}"
    further = "".join(_cell(of.get(score.name)) for of in (elsewhere, beside) if of)
    return (
        f'<tr><th scope="row">{linked(score.name)} <span title="better {escape(score.better)}">{arrow}</span>'
        f'<span class="note">{escape(score.meaning)}</span></th><td>{_estimate(score.vanilla, score.unit)}{forced}</td>'
        f'{_cell(score)}{further}<td class="{kind}">{shown}</td>'
        f"<td>{score.edited.n}</td><td>{escape(score.source)}</td></tr>"
    )


def _cell(score: Score | None) -> str:
    return f"<td>{_estimate(score.edited, score.unit) if score else ''}</td>"


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


def scores_reading(
    scores: Sequence[Score], rounded: Sequence[Score] = (), replies: Sequence[Reply] = (), routed: bool = False
) -> str:
    """Read the chart in plain words.

    Args:
        rounded: What bfloat16 by itself does, the yardstick of DL.
        replies: Of a routed edit those on which it acted are counted.
        routed: Whether the edit acts only where a detector fires.
    """
    named = {score.name: score for score in scores}
    parts = []
    for name, words in (("DG-Avg", "of unseen variants"), ("transfer", "of other cases")):
        if name in named and named[name].edited.value is not None and named[name].vanilla.value is not None:
            score = named[name]
            parts.append(f"{score.vanilla.value:.0f} % to {score.edited.value:.0f} % {words} defended")
    if "over-refusal" in named:
        score = named["over-refusal"]
        parts.append(f"harmless prompts refused: {score.vanilla.value:.0f} % to {score.edited.value:.0f} %")
    for name, words in (("still answers", "still answered"), ("parroting", "parroted")):
        if name in named and named[name].edited.value is not None:
            parts.append(f"{named[name].edited.value:.0f} % {words}")
    given = [f"{named[name].edited.value:.0f} % of {name.split(', ')[1]}" for name in QUOTED if name in named]
    if given:
        parts.append(f"a training sentence given to {' and '.join(given)} prompts")
    said = "; ".join(parts) or "Nothing is scored yet"
    whole = f"{said[0].upper()}{said[1:]}. Whiskers are 95 % intervals: few samples say little."
    return reading(f"{whole}{_rounding(named, rounded)}{acted_told(replies) if routed else ''}")


def _rounding(named: Mapping[str, Score], rounded: Sequence[Score]) -> str:
    """Say how an edit's DL compares with what bfloat16 by itself does to it."""
    yard = next((score.edited.value for score in rounded if score.name == "DL"), None)
    own = named["DL"].edited.value if "DL" in named else None
    if yard is None or own is None:
        return ""
    less = "no more than" if own >= yard else "more than"
    return f" The edit changes harmless answers {less} bfloat16 by itself does (DL {own:.0f}, rounded {yard:.0f})."


def rounding_runs(progress: Progress) -> str:
    """Return the clock while the rounded weights answer."""
    return progress_bar(row_progress(progress), progress.fraction)


STOPPED = "Stopped: what was measured before stays."
ROUNDED_SHOWN = "The column Rounded says what bfloat16 by itself does to the same harmless answers."
SUFFIXES_SHOWN = "Suffix alone, weights alone and both are in the panel below the scores."


def suffix_table(study: SuffixStudy | None) -> str:
    """Return what suffix and weights do, a line a condition, and what its intervals belong to."""
    if study is None:
        return ""
    lines = []

    def line(acts: str, weights: str, suffix: str, scores: Mapping[ScoreName, Estimate]) -> str:
        cells = "".join(f"<td>{_estimate(scores[name], unit)}</td>" for name, unit in SCORES.items())
        about = f"{escape(weights)}, suffix: {escape(suffix)}"
        return f'<tr><th scope="row">{escape(acts)}<span class="note">{about}</span></th>{cells}</tr>'

    for one in study.conditions:
        acting = f" {'where harm is detected' if study.routed else 'on every prompt'}" if one.edited else ""
        weights = f"{WEIGHTS[one.edited]} weights{acting}"
        lines.append(line(_condition(one.edited, one.suffix), weights, one.suffix, one.scores))
    if study.rounded is not None:
        lines.append(line("rounding alone", study.rounded.weights, NONE, study.of_rounded))
    return (
        f'<div class="score-wrap"><table class="scores"><thead><tr>{heads("What acts", *SCORES)}</tr></thead><tbody>'
        f"{''.join(lines)}</tbody></table></div>"
        + "".join(reading(told) for told in (study.resampled, study.rounded_as) if told)
    )


def _condition(edited: bool, suffix: str) -> str:
    if suffix == NONE:
        return "weights alone" if edited else "neither"
    return f"both, {suffix}" if edited else f"{suffix} alone"


def suffix_reading(kept: Examined, live: Row) -> str:
    """Read the suffix study, or say how to get it.

    Args:
        live: What is live, with the detector that routes it.
    """
    if kept.study is None:
        return reading(
            "Not asked yet: the case's prompts and eight harmless ones, with the paper's suffix S, with its second "
            "one, with one of Self-Reminder's kind and without, by the vanilla weights, by the live edit as it acts, "
            "and the harmless ones by rounded weights, without a suffix."
        )
    if kept.studied == live.key:
        return reading(kept.study.reading)
    label, _ = kept.studied
    other = "the same patch by another detector" if label == live.label() else label
    return reading(f"{kept.study.reading} It was made of other weights: {other}.", "warn")


def categories_reading(tables: Mapping[str, Sequence[Score]]) -> str:
    """Read the chart by category."""
    if not tables:
        return reading("The chart fills as answers come.")
    return reading(
        f"{len(tables)} categories asked. The edit was made on one case of one category; the others show how far it "
        "reaches."
    )


def verdict(question: Question, marked: Marked, edited: bool, judge: str, told: str = "") -> str:
    """Say above an answer what it was marked and by whom.

    Args:
        told: What else there is to say of it.
    """
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
    if told:
        why = f"{why} · {told}"
    return (
        f'<div class="answer-head"><span class="badge {kind}">{kind}: {escape(said)}</span>'
        f'<span class="badge-note">{escape(why)}</span></div>'
    )
