"""What the stress test's controls do, as functions of (model, session, what was chosen); no Gradio in here."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from dashboard.kit.door.handing import handed_out, room_for_files
from dashboard.kit.drawing import tables
from dashboard.kit.sessions.acting import detector_of
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.values import evaluation_of
from editing import Preparation
from editing.rounding import row_told
from editing.suffixes import SuffixSettings, SuffixStudy, suffix_study
from inspector.errors import CaseError
from inspector.model import Decoding, Detector, InspectedModel, Row
from inspector.model.whole_file import write_whole
from inspector.safeedit.answering import still_answers
from inspector.safeedit.exam import ExamResult, Marked, Progress, Reply, examine_all
from inspector.safeedit.judges import EMBEDDED, MATCHER
from inspector.safeedit.known import Answer, Asked
from inspector.safeedit.questions import CASE_ONLY, FULL, JUDGED, QUICK, QuestionSets, make_exam
from inspector.safeedit.records import exam_record
from inspector.safeedit.scores import Score, per_category
from inspector.safeedit.sources import available, more_texts
from inspector.safeedit.verdict import Judge, Remembered
from inspector.safeedit.yardstick import yardstick

SIZES = {"This case": CASE_ONLY, "Quick": QUICK, "Full": FULL}
JUDGES = {"refusal rules (embedded)": EMBEDDED, "plain matcher": MATCHER}
NO_ATTACKS = "none"
LONGEST_ANSWER = 64
"""Tokens of an answer where nobody asks for another length."""


@dataclass
class Examined:
    """The visitor's last stress test, of whichever weights it names, and what stands beside it.

    Attributes:
        exam: The test.
        other: The same test of the same patch where it did not act so: on every prompt, or only where harm is detected.
        marked: Key of the weights whose column of the table is marked as live.
        rounded: The same weights in bfloat16, or rounded to it, asked some test's harmless prompts.
        unrounded: Why the test has no such row; empty where it has one, or was not asked for it yet.
        study: What suffix and weights do alone and together.
        studied: Key of the weights of the study, as they acted in it.
        files: A test whose files were written, and their paths.
    """

    exam: ExamResult | None = None
    other: ExamResult | None = None
    marked: tuple[str, str] | None = None
    rounded: ExamResult | None = None
    unrounded: str = ""
    study: SuffixStudy | None = None
    studied: tuple[str, str] = ("", "")
    files: tuple[ExamResult, str, str] | None = None

    @property
    def yardstick(self) -> tuple[Score, ...]:
        """The rounding row where it answered what the test has asked, else nothing."""
        if self.exam is None or self.rounded is None or _key(self.exam) != _key(self.rounded):
            return ()
        return yardstick(self.rounded)

    @property
    def rounded_as(self) -> str:
        """What stands in the rounding row, or why there is none, in a sentence; empty where nothing is to be said."""
        return row_told(self.rounded if self.yardstick else None, self.unrounded)


def _key(exam: ExamResult) -> tuple[Any, ...]:
    asked = tuple(reply.question.prompt for reply in exam.replies if reply.question.kind == "harmless")
    return asked, exam.format, exam.evaluation, exam.max_new_tokens


def attack_choices() -> list[str]:
    """Return what ``More attacks`` offers: nothing, and each installed package."""
    return [NO_ATTACKS, *available()]


def other_way(
    model: InspectedModel, session: Session, detector: Detector | None
) -> Generator[Preparation, None, Row | None]:
    """Make of the live edit what acts where it does not act so now: on every prompt, or only where harm is detected.

    Args:
        detector: The model's.

    Yields:
        How far its detector is.

    Returns:
        The weights; ``None`` without an edit or a detector, and when cancelled.
    """
    if session.live is None or (session.detector is None and detector is None):
        return None
    if session.detector is not None:
        return session.weights
    own = yield from detector_of(model, session, detector)
    return None if own is None else replace(session.weights, detector=own)


def stress(
    model: InspectedModel,
    session: Session,
    size: str,
    judge: Judge,
    attacks: str,
    evaluation: str,
    decoding: Decoding,
    other: Row | None = None,
    heard: dict[Asked, Answer] | None = None,
) -> Generator[Progress, None, ExamResult]:
    """Examine the live edit at the session's strength, in its own prompt format; the result is the session's exam.

    Args:
        evaluation: One of :data:`dashboard.kit.sessions.values.WAYS`.
        other: The live edit as it acts elsewhere (:func:`other_way`), which is examined in the same batches. What is
            yielded and returned is of the live one.
        heard: Takes the vanilla answers, for the rounding row (:mod:`dashboard.steps.stress.rounding`).

    Raises:
        CaseError: No edit is live, the size or the evaluation is unknown, or the attacks' package is not installed.
    """
    live = session.live
    if live is None:
        raise CaseError("No edit is live, so there is nothing to score. Press Operate first.")
    if size not in SIZES:
        raise CaseError(f"Unknown size '{size}'. Choose one of: {', '.join(SIZES)}.")
    way = evaluation_of(evaluation)
    session.limits.require_decoding(decoding)
    source = "" if attacks == NO_ATTACKS else attacks or ""
    if source:
        session.limits.require_packages()
    templates, asked = more_texts(source)
    questions = make_exam(live.case, SIZES[size], QuestionSets(attacks=templates, questions=asked))
    session.limits.require_prompts(len(questions))

    result, *further = yield from examine_all(
        model,
        questions,
        (session.row,) if other is None else (session.row, other),
        judge if other is None else Remembered(judge),
        format=live.format,
        evaluation=way,
        decoding=decoding,
        cancel=session.cancelled.is_set,
        heard=heard,
    )
    if result.replies:
        kept = session.slot(Examined)
        kept.unrounded = ""
        kept.other = next(iter(further), None)
        kept.exam = result = result if kept.other is None else _read_too(result, kept.other)
    return result


def _read_too(exam: ExamResult, other: ExamResult) -> ExamResult:
    """Return an exam of a patch that acts on every prompt with what its detector read in the one where that routes."""
    pairs = zip(exam.replies, other.replies, strict=True)
    return replace(exam, replies=tuple(replace(own, reading=own.reading or routed.reading) for own, routed in pairs))


SUFFIX_SIZE: dict[str, Any] = {"harmless": 8, "max_new_tokens": 40}
"""Size of the suffix study on the page."""


def suffixes(model: InspectedModel, session: Session) -> Generator[Preparation, None, SuffixStudy | None]:
    """Ask the vanilla weights and the live edit, as it acts, with each suffix, and the rounded weights without one.

    It is kept unless it was cancelled.

    Raises:
        CaseError: No edit is live.
    """
    live = session.live
    if live is None:
        raise CaseError("No edit is live, so there are no weights to compare with a suffix. Press Operate first.")
    row, settings = session.row, SuffixSettings(**SUFFIX_SIZE)
    made = yield from suffix_study(model, [(live.case, row)], settings, rounding=True, cancel=session.cancelled.is_set)
    if made is not None:
        kept = session.slot(Examined)
        kept.study, kept.studied = made, row.key
    return made


COLUMNS = (
    *("score", "category", "case", "prompt", "weights", "answer", "mark", "safe_probability", "reason", "judge"),
    *("degenerate", "refused", "parroted", "quoted", "fluency_bits", "kl_nats", "likeness", "held_back"),
    *("detector_score", "detector_threshold"),
)
"""Columns of the CSV."""


def _is_missed(reply: Reply) -> bool:
    """Tell whether a detector took a harmful prompt for a harmless one."""
    silent = reply.held_back or (reply.reading is not None and not reply.reading.fires)
    return silent and reply.question.kind in JUDGED


FILTERS: dict[str, Callable[[Reply], bool]] = {
    "All": lambda reply: True,
    "Edited unsafe": lambda reply: reply.edited.verdict is not None and not reply.edited.verdict.safe,
    "Verdict changed": lambda reply: mark_of(reply.vanilla, reply) != mark_of(reply.edited, reply),
    "Degenerate": lambda reply: bool(reply.edited.degenerate or reply.vanilla.degenerate),
    "Parroted": lambda reply: reply.edited.parroted,
    "Quoted": lambda reply: reply.edited.quoted,
    "Harmless refused": lambda reply: reply.question.kind == "harmless" and reply.edited.refused,
    "Harm missed": _is_missed,
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
    HEADERS: ClassVar = (
        *("No.", "Score", "Category", "Prompt", "Vanilla", "Edited", "Still answers", "Parroted", "Quoted", "KL, nats"),
        "Detector",
    )


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
                *_content(reply),
                "-" if reply.kl is None else f"{reply.kl:.4f}",
                _detected(reply),
            ]
        )
    return AnswerRows(cells)


def _content(reply: Reply) -> tuple[str, ...]:
    """Return whether an edited answer still answers a harmless prompt, whether it parrots, and whether it quotes."""
    still = "-"
    if reply.question.kind == "harmless":
        kept = still_answers(reply.edited, reply.question.prompt, reply.vanilla.text)
        still = "held back" if reply.held_back else "yes" if kept else "no"
    return still, *("yes" if is_so else "-" for is_so in (reply.edited.parroted, reply.edited.quoted))


def _detected(reply: Reply) -> str:
    """Return a prompt's score beside the threshold and what that means; a dash where no detector was asked."""
    read = reply.reading
    if read is None:
        return "-"
    found, not_found = ("found", "missed") if reply.question.kind in JUDGED else ("false alarm", "no harm")
    sign, what = ("≥", found) if read.fires else ("<", not_found)
    return f"{read.score:.3f} {sign} {read.threshold:.3f}, {what}"


def as_json(model: InspectedModel, exam: ExamResult) -> str:
    """Return an exam with its scores and every answer as JSON."""
    told = exam_record(exam)
    replies = told.pop("replies")
    content = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "dtype": model.dtype_name,
        **told,
        "scores": [asdict(score) for score in exam.scores],
        "categories": {
            category: [asdict(score) for score in table]
            for category, table in per_category(exam.replies, exam.judge).items()
        },
        "replies": replies,
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def as_csv(exam: ExamResult) -> str:
    """Return every answer of an exam as CSV, one line an answer; cells that a spreadsheet would run are quoted."""
    return tables.as_csv(COLUMNS, (cells for reply in exam.replies for cells in _lines(reply, exam.weights)))


def _lines(reply: Reply, weights: str) -> tuple[tuple[Any, ...], ...]:
    """Return the lines of a reply's two answers, in the order of :data:`COLUMNS`."""
    question, reading = reply.question, reply.reading
    read = ("", "") if reading is None else (f"{reading.score:.6f}", f"{reading.threshold:.6f}")
    return tuple(
        (
            question.kind,
            question.category,
            "" if question.case is None else question.case,
            question.prompt,
            name,
            marked.text,
            mark_of(marked, reply),
            "" if marked.verdict is None else f"{marked.verdict.safe_probability:.4f}",
            "" if marked.verdict is None else marked.verdict.reason,
            "" if marked.verdict is None else marked.verdict.judge,
            marked.degenerate,
            marked.refused,
            marked.parroted,
            marked.quoted,
            f"{marked.fluency:.4f}",
            "" if reply.kl is None else f"{reply.kl:.6f}",
            "" if reply.likeness is None else f"{reply.likeness:.4f}",
            reply.held_back,
            *read,
        )
        for name, marked in (("vanilla", reply.vanilla), (weights, reply.edited))
    )


def write_files(model: InspectedModel, exam: ExamResult, session: Session) -> tuple[str, str]:
    """Write an exam as CSV and JSON into a new folder of the visitor's and return both paths.

    Another window that shows the same exam hands out the same files.

    Raises:
        CaseError: They are more than the visitor may have within an hour, or than the disk has room for.
        OSError: They cannot be written.
    """
    known = session.slot(Examined)
    if known.files is not None and known.files[0] is exam and all(Path(path).is_file() for path in known.files[1:]):
        return known.files[1:]
    texts = as_csv(exam), as_json(model, exam)
    size = sum(len(text.encode()) for text in texts)
    with session.next_folder("stress test") as folder, room_for_files(session, folder, size, size):
        table, whole = folder / "stress-test.csv", folder / "stress-test.json"
        for path, text in zip((table, whole), texts, strict=True):
            write_whole(path, text)
    handed_out(session, size)
    known.files = exam, str(table), str(whole)
    return known.files[1:]
