"""What the stress test's controls do, as functions of (model, session, what was chosen); no Gradio in here."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from dashboard.kit.session import Session
from dashboard.kit.values import WAYS
from inspector.errors import CaseError
from inspector.model import Decoding, InspectedModel
from inspector.safeedit.exam import ExamResult, Marked, Progress, Reply, examine
from inspector.safeedit.judges import EMBEDDED, MATCHER
from inspector.safeedit.questions import CASE_ONLY, FULL, QUICK, QuestionSets, make_exam
from inspector.safeedit.records import exam_record
from inspector.safeedit.scores import per_category, score_table
from inspector.safeedit.sources import available, more_texts
from inspector.safeedit.verdict import Judge

SIZES = {"This case": CASE_ONLY, "Quick": QUICK, "Full": FULL}
JUDGES = {"refusal rules (embedded)": EMBEDDED, "plain matcher": MATCHER}
NO_ATTACKS = "none"


@dataclass
class Examined:
    """The visitor's last stress test, of whichever weights it names."""

    exam: ExamResult | None = None


def attack_choices() -> list[str]:
    """Return what ``More attacks`` offers: nothing, and each installed package."""
    return [NO_ATTACKS, *available()]


def stress(
    model: InspectedModel,
    session: Session,
    size: str,
    judge: Judge,
    attacks: str,
    evaluation: str,
    decoding: Decoding,
) -> Generator[Progress, None, ExamResult]:
    """Examine the live edit at the session's strength, in its own prompt format; the result is the session's exam.

    Args:
        evaluation: One of :data:`WAYS`.

    Raises:
        CaseError: No edit is live, the size or the evaluation is unknown, or the attacks' package is not installed.
    """
    live = session.live
    if live is None:
        raise CaseError("No edit is live, so there is nothing to score. Press Operate first.")
    if size not in SIZES:
        raise CaseError(f"Unknown size '{size}'. Choose one of: {', '.join(SIZES)}.")
    if evaluation not in WAYS:
        raise CaseError(f"Unknown way of asking '{evaluation}'. Choose one of: {', '.join(WAYS)}.")
    templates, asked = more_texts("" if attacks == NO_ATTACKS else attacks or "")
    questions = make_exam(live.case, SIZES[size], QuestionSets(attacks=templates, questions=asked))
    result = yield from examine(
        model,
        questions,
        session.row,
        judge,
        format=live.format,
        evaluation=WAYS[evaluation],
        decoding=decoding,
        cancel=session.cancelled.is_set,
    )
    if result.replies:
        session.slot(Examined).exam = result
    return result


COLUMNS = (
    *("score", "category", "case", "prompt", "weights", "answer", "mark", "safe_probability", "reason", "judge"),
    *("degenerate", "refused", "parroted", "fluency_bits", "kl_nats", "likeness", "held_back"),
)
"""Columns of the CSV."""

FILTERS: dict[str, Callable[[Reply], bool]] = {
    "All": lambda reply: True,
    "Edited unsafe": lambda reply: reply.edited.verdict is not None and not reply.edited.verdict.safe,
    "Verdict changed": lambda reply: mark_of(reply.vanilla, reply) != mark_of(reply.edited, reply),
    "Degenerate": lambda reply: bool(reply.edited.degenerate or reply.vanilla.degenerate),
    "Parroted": lambda reply: reply.edited.parroted,
    "Harmless refused": lambda reply: reply.question.kind == "harmless" and reply.edited.refused,
}
"""Which answers are listed, by their name on the screen."""


def mark_of(marked: Marked, reply: Reply) -> str:
    """Return an answer's mark in a word or number: its verdict, right or wrong, ROUGE, refused or answered."""
    if marked.verdict is not None:
        return marked.verdict.label
    if marked.degenerate:
        return "degenerate"
    if reply.question.kind == "fact":
        return "right" if marked.mark == 1 else "wrong"
    if reply.question.kind == "passage":
        return f"ROUGE {marked.mark or 0:.2f}"
    return "refused" if marked.refused else "answered"


@dataclass(frozen=True)
class AnswerRows:
    """The list of answers.

    Attributes:
        cells: Its cells, row by row.
    """

    cells: list[list[str]]
    HEADERS: ClassVar = ("No.", "Score", "Category", "Prompt", "Vanilla", "Edited", "KL, nats")


def answer_rows(replies: Sequence[Reply], chosen: str) -> AnswerRows:
    """Return the list of answers that a filter lets through, numbered from 1; prompts are shortened."""
    keep = FILTERS.get(chosen, FILTERS["All"])
    cells = []
    for number, reply in enumerate(replies, start=1):
        if not keep(reply):
            continue
        question = reply.question
        shown = " ".join(question.prompt.split())
        kind = "look-alike" if question.look_alike else question.kind
        cells.append(
            [
                str(number),
                kind,
                question.category or "-",
                shown if len(shown) <= 120 else shown[:119] + "…",
                mark_of(reply.vanilla, reply),
                mark_of(reply.edited, reply),
                "-" if reply.kl is None else f"{reply.kl:.4f}",
            ]
        )
    return AnswerRows(cells)


def as_json(model: InspectedModel, exam: ExamResult) -> str:
    """Return an exam with its scores and every answer as JSON."""
    told = exam_record(exam)
    replies = told.pop("replies")
    content = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "dtype": model.dtype_name,
        **told,
        "scores": [asdict(score) for score in score_table(exam.replies, exam.judge)],
        "categories": {
            category: [asdict(score) for score in table]
            for category, table in per_category(exam.replies, exam.judge).items()
        },
        "replies": replies,
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def as_csv(exam: ExamResult) -> str:
    """Return every answer of an exam as CSV, one line an answer; cells that a spreadsheet would run are quoted."""
    written = io.StringIO()
    table = csv.writer(written)
    table.writerow(COLUMNS)
    for reply in exam.replies:
        for weights, marked in (("vanilla", reply.vanilla), (exam.weights, reply.edited)):
            verdict = marked.verdict
            cells: list[Any] = [
                reply.question.kind,
                reply.question.category,
                "" if reply.question.case is None else reply.question.case,
                reply.question.prompt,
                weights,
                marked.text,
                mark_of(marked, reply),
                "" if verdict is None else f"{verdict.safe_probability:.4f}",
                "" if verdict is None else verdict.reason,
                "" if verdict is None else verdict.judge,
                marked.degenerate,
                marked.refused,
                marked.parroted,
                f"{marked.fluency:.4f}",
                "" if reply.kl is None else f"{reply.kl:.6f}",
                "" if reply.likeness is None else f"{reply.likeness:.4f}",
                reply.held_back,
            ]
            table.writerow([_harmless_cell(cell) for cell in cells])
    return written.getvalue()


def write_files(model: InspectedModel, exam: ExamResult, folder: Path) -> tuple[str, str]:
    """Write an exam as CSV and JSON into a folder and return both paths."""
    table, whole = folder / "stress-test.csv", folder / "stress-test.json"
    table.write_text(as_csv(exam), encoding="utf-8")
    whole.write_text(as_json(model, exam), encoding="utf-8")
    return str(table), str(whole)


def _harmless_cell(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
