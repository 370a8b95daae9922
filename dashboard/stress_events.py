"""Events of step 5, the stress test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from dashboard import stress, stress_figures, stress_fragments
from dashboard.compare_events import CompareEvents
from dashboard.context import Update, shown_to_user
from dashboard.session import Session
from dashboard.stress import JUDGES
from inspector.errors import CaseError
from inspector.model import Decoding
from inspector.safeedit.exam import ExamResult, Reply
from inspector.safeedit.judges import load_judge
from inspector.safeedit.scores import per_category, score_table
from inspector.safeedit.verdict import Judge


class StressEvents(CompareEvents):
    """Run the exam of the live edit, list its answers, hand them out."""

    def on_stress(
        self, request: gr.Request, size: str, judge: str, attacks: str, tokens: Any, way: str, chosen: str
    ) -> Iterator[Update]:
        """Examine the live edit; the table fills as answers come."""
        p = self.parts
        with shown_to_user(), self.reserved(request) as session:
            self.require_bundled_judge(judge)
            run = self._examined(session, size, judge, attacks, tokens, way, chosen)
            yield from self.guarded(session, p.stress_clock, run)

    def _examined(
        self, session: Session, size: str, judge: str, attacks: str, tokens: Any, way: str, chosen: str
    ) -> Iterator[Update]:
        yield {**self._running(), self.parts.stress_clock: stress_fragments.message("Starting")}
        reader = self.judge(judge)
        decoding = Decoding(max_new_tokens=max(1, min(1024, int(tokens or 64))))
        run = stress.stress(self.model, session, size, reader, attacks, way, decoding)
        yield from self._exam_live(session, run, reader, chosen)

    def require_bundled_judge(self, judge: str) -> None:
        """Refuse a judge of one's own in a read-only demo.

        Raises:
            CaseError: One was given.
        """
        if self.read_only and judge not in JUDGES:
            raise CaseError(f"This demo is read-only: free text is off. Pick one of the judges {', '.join(JUDGES)}.")

    def judge(self, name: str | None) -> Judge:
        """Return a judge by its name on the page; model judges are loaded once."""
        key = JUDGES.get(name or "", name or "")
        with self._judges_lock:
            if key not in self._judges:
                self._judges[key] = load_judge(key)
            return self._judges[key]

    def _exam_live(self, session: Session, run: Any, judge: Judge, chosen: str) -> Iterator[Update]:
        p = self.parts
        replies: list[Reply] = []
        drawn = 0.0
        while True:
            try:
                progress = next(run)
            except StopIteration as end:
                result: ExamResult = end.value
                break
            replies += progress.fresh
            now = time.monotonic()
            if progress.fresh:
                yield {p.stress_clock: stress_fragments.running(progress), **self._scored(replies, judge.name)}
            elif now - drawn > 0.3:
                drawn = now
                yield {p.stress_clock: stress_fragments.running(progress)}
        if not result.replies:
            yield {p.stress_clock: stress_fragments.message("Cancelled before the first answers.")}
            if session.exam is not None:
                yield self._shown(session, session.exam, chosen)
            return
        yield {p.stress_clock: stress_fragments.ended(result), **self._shown(session, result, chosen)}

    def _scored(self, replies: list[Reply], judge: str) -> Update:
        p = self.parts
        table = score_table(replies, judge)
        return {
            p.stress_table: stress_fragments.table(table),
            p.stress_chart: stress_figures.score_bars(table),
            p.stress_reading: stress_fragments.scores_reading(table),
            p.stress_categories: stress_figures.category_bars(replies),
            p.stress_categories_reading: stress_fragments.categories_reading(per_category(replies, judge)),
        }

    def _shown(self, session: Session, exam: ExamResult, chosen: str) -> Update:
        p = self.parts
        table, whole = stress.write_files(self.model, exam, session.new_folder())
        return {
            **self._scored(list(exam.replies), exam.judge),
            p.stress_head: stress_fragments.head(exam, session.row),
            p.stress_rows: stress.answer_rows(exam.replies, chosen).cells,
            **self._answer(exam, 0),
            p.stress_csv: gr.DownloadButton(value=table, interactive=True),
            p.stress_json: gr.DownloadButton(value=whole, interactive=True),
        }

    def _answer(self, exam: ExamResult, position: int) -> Update:
        p = self.parts
        reply = exam.replies[position]
        panes: Update = {p.stress_prompt: reply.question.prompt}
        for name, marked in (("vanilla", reply.vanilla), ("edited", reply.edited)):
            head, pane = getattr(p, f"stress_{name}_head"), getattr(p, f"stress_{name}")
            panes[head] = stress_fragments.verdict(reply.question, marked, name == "edited", exam.judge)
            # A class of its own each time writes the classes anew, so that a revealed pane is blurred again.
            classes = ["blurred", f"{name}-pane", f"answer-{position}"]
            panes[pane] = gr.Textbox(value=marked.text or "(empty answer)", elem_classes=classes)
        return panes

    def on_filter(self, request: gr.Request, chosen: str) -> Any:
        """List the answers that a filter lets through."""
        exam = self.session(request).exam
        return stress.answer_rows(exam.replies, chosen).cells if exam else []

    def on_answer(self, request: gr.Request, event: gr.SelectData) -> Update:
        """Show the answer whose line was clicked."""
        exam = self.session(request).exam
        if exam is None:
            return {}
        # The list may be filtered or sorted: its first cell says which answer it is.
        number = int(event.row_value[0])
        return self._answer(exam, number - 1) if 1 <= number <= len(exam.replies) else {}
