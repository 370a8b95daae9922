"""The stress test in a report: scores, charts, every answer's mark."""

from __future__ import annotations

from dashboard.kit.drawing.html import reading
from dashboard.kit.sharing.parts import Figure, Part, Table, Visit, plain
from dashboard.steps.stress import figures
from dashboard.steps.stress import texts as words
from dashboard.steps.stress.run import Examined, answer_rows
from inspector.safeedit.scores import per_category

PROMPT = 3
"""Column of the prompt in the list of answers."""


def parts(visit: Visit) -> list[Part]:
    """Return the visitor's last stress test."""
    session, kept = visit.session, visit.session.slot(Examined)
    exam = kept.exam
    if exam is None:
        return []
    scores = exam.scores
    drawn = (
        Figure(
            "Scores, vanilla and edited",
            figures.score_bars(scores),
            words.scores_reading(scores, kept.yardstick, exam.replies, bool(exam.detector)),
        ),
        Figure(
            "Defended, by unsafety category",
            figures.category_bars(exam.replies),
            words.categories_reading(per_category(exam.replies, exam.judge)),
        ),
    )
    rows = answer_rows(exam.replies, "All")
    prompts = [visit.hidden.prompt(reply.question.prompt) for reply in exam.replies]
    shown = [row[PROMPT] for row in rows.cells] if not visit.hidden.texts else prompts
    cells = tuple((*row[:PROMPT], prompt, *row[PROMPT + 1 :]) for row, prompt in zip(rows.cells, shown, strict=True))
    readings = [words.head(exam, session.row, kept.other), reading(plain(words.ended(exam, kept.other is not None)))]
    readings.append(words.table(scores, kept.yardstick, words.other_way(session), kept.rounded_as))
    if kept.study is not None:
        readings += [words.suffix_table(kept.study), words.suffix_reading(kept, session.row)]
    listed = Table("Every answer's mark", rows.HEADERS, cells, folded=True)
    return [Part("Stress test", tuple(readings), figures=drawn, tables=(listed,))]
