"""Methods: which to run, the table, the plane, what the picked one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.drawing.another import in_rail, of_another
from dashboard.kit.drawing.html import heading, message, progress_bar
from dashboard.kit.drawing.panes import build_pair, unless_safe
from dashboard.kit.drawing.plots import plot
from dashboard.kit.room import Context, Room
from dashboard.kit.running.run import CANCEL_OFF, Throttle, drain, echoed
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.values import WAYS, sizes_within
from dashboard.kit.sharing.lent import Lent
from dashboard.steps.methods import figures, further, run
from dashboard.steps.methods import texts as words
from dashboard.steps.methods.plane import PlanePart
from dashboard.steps.methods.report import parts
from dashboard.steps.methods.run import ALONE, LONGEST_ANSWER, SIZES, TITLES, TRAIN_ON
from dashboard.steps.methods.state import Compared, Contest
from editing import Preparation
from editing.calibrating.calibration import to_calibrate
from editing.contest import ContestProgress, Standing
from editing.optimising.trainee import SCOPES
from inspector.safeedit.judges import EmbeddedJudge

NO_ANSWER = "(no answer yet)"
NOTHING_YET = "Nothing was run yet. Tick methods and press Run methods."
ROUTED_TOO = "Routed as well"
LOAD = "Make its patch live"
SLOW = ("Gated",)
"""Methods that are not ticked at first: they read a thousand texts before their first edit of a model."""
LINE_MORE = "A line more each: only where harm is detected; DINM's also as Operate makes it first"
NO_DETECTOR = "Off: no detector yet. "


def quick_one(standings: Sequence[Standing]) -> Standing | None:
    """Return the method whose figures are shown first: SFT where it made an edit."""
    quick = (s for s in standings if not s.failed and s.method.key == "sft")
    return next(quick, standings[0] if standings else None)


def state_of_load(kept: Compared | None = None) -> dict[str, Any]:
    """Return what the button says that makes the picked method's patch live, and whether it is on: it says why not.

    Args:
        kept: The visitor's last run with the method that is picked.
    """
    if kept is None or not kept.method:
        return {"value": f"{LOAD} (none is picked)", "interactive": False}
    standing = kept.contest.named(kept.method) if kept.contest is not None else None
    result = standing.result if standing is not None else None
    if result is None or result.patch is not None:  # without a result the press says why
        return {"value": LOAD, "interactive": True}
    why = "it has none" if result.reminder is not None else "not kept: run it first"
    return {"value": f"{LOAD} ({why})", "interactive": False}


class MethodsRoom(Room):
    """Run several methods on the case, compare them, make one's patch live."""

    name = view = "methods"
    title = "Methods"
    help = "runs DINM and others on the same case, in one table and one plane."
    reports = staticmethod(parts)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.plane = PlanePart(context)

    def build(self) -> None:
        """Lay the step out; it is drawn when its view is opened."""
        gr.HTML(words.HEADING)
        with gr.Accordion("What each method does", open=False, elem_id="methods-cards"):
            gr.HTML(words.cards())
        self._controls()
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=230):
                self.run = gr.Button("Run methods", variant="primary", elem_id="methods")
                self.cancel = gr.Button(CANCEL_OFF, variant="stop", interactive=False, elem_id="methods-cancel")
                self.head = gr.HTML(elem_id="methods-head")
            with gr.Column(scale=3, min_width=420):
                self.clock = gr.HTML(elem_id="methods-clock")
        self.table = gr.Dataframe(
            headers=list(words.HEADERS),
            interactive=False,
            max_height=460,
            wrap=True,
            show_label=False,
            buttons=[],
            column_widths=[
                *("10%", "4.5%", "6%", "4.5%", "6.9%", "6.7%", "6.1%", "7.4%"),
                *("6.6%", "5%", "7%", "5.1%", "5.2%", "6.8%", "6.8%", "5.4%"),
            ],
            elem_id="methods-table",
        )
        gr.HTML(words.LEGEND)
        with gr.Accordion("All scores", open=False, elem_id="methods-all"):
            self.scores = gr.HTML(elem_id="methods-scores")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=340):
                self.plane.build_plane()
            with gr.Column(min_width=340):
                gr.HTML(heading(3, "Activation shift per layer"))
                self.shifts = plot(None, "methods-shifts", "Activation shift by layer and method")
                self.shifts_reading = gr.HTML()
        gr.HTML(heading(3, "The picked method"))
        with gr.Row(equal_height=True):
            with gr.Column(scale=3, min_width=300):
                self.picked = gr.Dropdown(
                    list(TITLES),
                    value=None,
                    label="Method",
                    info="Or click a line of the table",
                    interactive=True,
                    elem_id="methods-picked",
                )
            with gr.Column(scale=2, min_width=200, elem_classes="buttons"):
                self.load = gr.Button(elem_id="methods-load", **state_of_load())
        with gr.Row(equal_height=False):
            with gr.Column(min_width=340):
                gr.HTML(heading(3, "Source of the shift"))
                self.source = plot(None, "methods-source", "Where the shift comes from")
                self.source_reading = gr.HTML()
            with gr.Column(min_width=340):
                gr.HTML(heading(3, "Toxicity of each neuron of the region"))
                self.neurons = plot(None, "methods-neurons", "Toxicity of each neuron")
                self.neurons_reading = gr.HTML()
        self.answer_head = gr.HTML(elem_id="methods-answer-head")
        self.pair = build_pair("methods-", ("", ""), words.HEADS, empty=NO_ANSWER, blurred=(False, False))
        self.vanilla, self.edited = self.pair.panes

    def _controls(self) -> None:
        self.chosen = gr.CheckboxGroup(
            list(TITLES),
            value=[title for title in TITLES if title not in SLOW],
            label="Methods",
            elem_classes="chips",
            elem_id="methods-chosen",
        )
        with gr.Row(equal_height=True):
            self.scope = gr.Radio(
                list(SCOPES),
                value="LoRA",
                label="SFT and DPO train",
                info="Low-rank factors, or every matrix of the blocks",
                min_width=180,
            )
            self.train_on = gr.Radio(
                list(TRAIN_ON),
                value=ALONE,
                label="SFT, DPO, Ext-Sub train on",
                info="This case, or one of each category",
                min_width=180,
            )
            self.size = gr.Radio(
                sizes_within(SIZES, self.context.limits),
                value="Brief",
                label="Exam",
                info="17 prompts; Quick has held-out cases as well",
                min_width=180,
            )
            self.way = gr.Radio(
                list(WAYS),
                value=next(iter(WAYS)),
                label="Asked",
                info="Both alike, or vanilla without the suffix",
                min_width=180,
                elem_id="methods-way",
            )
            self.routed = gr.Checkbox(
                True,
                label=ROUTED_TOO,
                info=self._said_of_routed(),
                interactive=self.context.detector is not None,
                min_width=180,
                elem_id="methods-routed",
            )
            self.tokens = gr.Slider(
                16, 256, value=LONGEST_ANSWER, step=8, label="Longest answer", info="Tokens; greedy", min_width=180
            )

    def hear(self) -> None:
        """Say whether the table is that of the case in the rail."""
        self.context.cancels(self.cancel)
        self.bus.offer("shown methods", Offer(call=self.lent))
        example = self.context.example.session
        self.bus.offer("several edits", Offer(call=lambda session: run.edits_of(session, example)))
        self.context.carry(chosen=self.chosen, scope=self.scope, train_on=self.train_on, size=self.size)
        self.context.carry(way=self.way, routed=self.routed, tokens=self.tokens)
        self.context.lock(self.run)
        self.context.lock(self.load, lambda session: gr.update(**state_of_load(session.slot(Compared))))
        self.plane.hear()
        self.context.lock(self.routed, self._state_of_routed)
        self.bus.hear(News.CALIBRATED, self.on_calibrated, outputs=[self.routed])
        typed = self.bus.offered("typed").inputs
        for news in (News.CASE, News.TYPED, News.ENDED):
            self.bus.hear(news, self.on_case, inputs=typed, outputs=[self.head])

        shown = [self.clock, self.head, self.picked, *self._table, *self._of_picked]
        self.bus.hear(News.EXAMPLE, self.on_arrived, inputs=typed, outputs=shown)
        self.bus.hear(News.BACK, self.on_back, inputs=[self.picked], outputs=shown)

    def lent(self, _values: Values, session: Session) -> Lent | None:
        """Lend the plane of the methods that the visitor has run, as it is shown; ``None`` without any."""
        known, written = session.slot(Compared).contest, session.slot(Compared).shown_writing
        if known is None or not known.standings:
            return None
        return Lent(figures.plane(known.standings, None, written), words.plane_reading(known.standings, written))

    @property
    def _table(self) -> list[Any]:
        return [self.table, self.scores, *self.plane.parts, self.shifts_reading]

    @property
    def _of_picked(self) -> list[Any]:
        return [
            *self.plane.parts,
            *(self.load, self.shifts, self.source, self.source_reading, self.neurons, self.neurons_reading),
            *(self.answer_head, *self.pair.panes),
        ]

    def on_arrived(self, session: Session, values: Values) -> Update:
        """Show the example's run of several methods."""
        kept = session.slot(Compared)
        if "contest" not in session.fresh or kept.contest is None:
            return {}
        picked = quick_one(kept.contest.standings)
        kept.method = picked.method.title if picked is not None else None
        return {
            self.clock: words.ended(kept.contest),
            **self.on_case(session, values),
            self.picked: kept.method,
            **self._load(session),
            **self._compared(session),
            **self._picked(picked),
        }

    def on_back(self, session: Session, values: Values) -> Update:
        """Show the visitor's run of several methods, or the example's, or that there is none."""
        kept = session.slot(Compared)
        kept.method, known = values[self.picked], kept.contest
        quick = quick_one(known.standings) if known is not None and not kept.method else None
        if quick is not None:
            kept.method = quick.method.title
        standing = known.named(kept.method) if known is not None and kept.method else None
        choices = dict.fromkeys([*TITLES, *(s.method.title for s in known.standings)] if known is not None else TITLES)
        return {
            self.clock: words.ended(known) if known is not None else message(NOTHING_YET),
            self.picked: gr.Dropdown(choices=list(choices), value=kept.method),
            **self._load(session),
            **self._compared(session),
            **self._picked(standing),
        }

    def connect(self) -> None:
        """Wire the controls."""
        press, react = self.context.press, self.context.react
        of_picked, table = self._of_picked, self._table
        chosen = [self.chosen, self.scope, self.train_on, self.size, self.tokens, self.way, self.picked, self.routed]
        read = [*self.bus.offered("texts").inputs, *self.bus.offered("layer").inputs]
        press(
            self.run.click,
            self.on_methods,
            clock=self.clock,
            inputs=[*read, *chosen],
            outputs=[*table, self.picked, *of_picked],
            tells=(News.MADE,),
        )
        self.plane.wire(self.clock, self.picked)
        react(self.picked.input, self.on_method_picked, inputs=[self.picked], outputs=of_picked)
        react(self.table.select, self.on_method_row, outputs=[self.picked, *of_picked], event=gr.SelectData)
        gate = self.bus.offered("gate")
        press(
            self.load.click,
            self.on_method_load,
            clock=self.clock,
            inputs=[self.picked, *gate.inputs],
            outputs=[*gate.outputs],
            tells=(News.LIVE,),
        )

    def on_case(self, session: Session, values: Values) -> Update:
        """Say which case the table belongs to, and whether another one stands in the rail."""
        texts, known = in_rail(self.bus, session, values), session.slot(Compared).contest
        case = None if known is None else known.case
        return {self.head: words.head(session, of_another(texts, case, "Table, figures and answers", "Run methods"))}

    def on_methods(self, session: Session, values: Values) -> Iterator[Update]:
        """Run the chosen methods; the table and the figures fill method by method."""
        texts, block = self.bus.offered("texts").call(values), self.bus.offered("layer").call(values)
        titles = values[self.chosen] or ()
        contest = run.run_contest(
            self.model,
            session,
            texts,
            block,
            titles,
            values[self.scope],
            values[self.train_on],
            values[self.size],
            int(values[self.tokens] or LONGEST_ANSWER),
            EmbeddedJudge(),
            values[self.way],
            picked=self.bus.offered("layer by hand").call(session) == block,
            layers=self.context.layers,
        )
        kept = session.slot(Compared)
        kept.method = values[self.picked]
        chosen = [title for title in TITLES if title in titles]
        redraw, done = Throttle(0.3), 0

        def draw(event: ContestProgress) -> Update:
            nonlocal done
            fresh = len(event.standings) != done
            if not fresh and not redraw.due():
                return {}
            update: Update = {self.clock: words.progress(event, chosen)}
            if fresh:
                done = len(event.standings)
                kept.forget_writing()  # it was measured of the methods before
                update |= {**self.on_case(session, values), **self._compared(session)}
                update |= self.bus.told(News.MADE, session, values)
            return update

        made: Contest = yield from drain(contest, draw)
        if not session.cancelled.is_set():
            yield from drain(further.rounded_beside(self.model, session), self._drawing())
            made = kept.contest or made
            yield self._compared(session)
        if values[self.routed] and self.context.detector is not None and not session.cancelled.is_set():
            yield from self._routed(session, values)
            made = kept.contest or made
        known = kept.contest
        standing = known.named(kept.method) if known is not None and kept.method else None
        anew: Update = {}
        if known is not None and standing is None and (standing := quick_one(known.standings)) is not None:
            kept.method = standing.method.title
            anew = {self.picked: kept.method}
        yield {
            self.clock: words.ended(made, session.cancelled.is_set()),
            **anew,
            **self.on_case(session, values),
            **self._compared(session),
            **self._picked(standing),
        }

    def _routed(self, session: Session, values: Values) -> Iterator[Update]:
        """Examine each patch again where the detector lets it act, a line more each."""
        detector = self.context.detector
        assert detector is not None
        settings = run.exam_settings(values[self.size], int(values[self.tokens] or LONGEST_ANSWER), values[self.way])
        draw = self._drawing()

        def drawn(event: Preparation | Standing) -> Update:
            return self._compared(session) if isinstance(event, Standing) else draw(event)

        adding = further.routed_too(self.model, session, settings, detector, EmbeddedJudge(), self.context.layers)
        yield from drain(adding, drawn)

    def _drawing(self) -> Callable[[Preparation], Update]:
        """Return what shows on the clock how far it is."""
        redraw = Throttle(0.3)
        return lambda event: {self.clock: progress_bar(event.message, event.fraction)} if redraw.due() else {}

    def on_calibrated(self, session: Session, _values: Values) -> Update:
        """Offer routed lines once the model has a detector."""
        return {self.routed: self._state_of_routed(session)}

    def _state_of_routed(self, _session: Session) -> Any:
        return gr.Checkbox(interactive=self.context.detector is not None, info=self._said_of_routed())

    def _said_of_routed(self) -> str:
        return LINE_MORE if self.context.detector is not None else NO_DETECTOR + to_calibrate(self.model)

    def _compared(self, session: Session) -> Update:
        kept = session.slot(Compared)
        standings = kept.contest.standings if kept.contest is not None else ()
        return {
            self.table: words.rows(standings),
            self.scores: words.all_scores(kept.contest),
            **self.plane.drawn(session),
            self.shifts: figures.shifts_by_block(standings, kept.method),
            self.shifts_reading: words.shifts_reading(standings),
        }

    def _load(self, session: Session) -> Update:
        """Let the picked method's patch be made live, where nothing runs."""
        state = state_of_load(session.slot(Compared))
        return {self.load: gr.Button(**{**state, "interactive": state["interactive"] and not session.busy})}

    def _picked(self, standing: Standing | None) -> Update:
        exam = standing.exam if standing is not None else None
        reply = exam.replies[0] if exam is not None else None
        answers = (reply.vanilla.text, reply.edited.text) if reply is not None else ("", "")
        covered = unless_safe(reply.vanilla.verdict, reply.edited.verdict) if reply is not None else (False, False)
        return {
            self.source: figures.source(standing),
            self.source_reading: words.source_reading(standing),
            self.neurons: figures.neuron_toxicity(standing),
            self.neurons_reading: words.neurons_reading(standing),
            self.answer_head: words.answer_head(standing),
            **self.pair.show(answers, empty=NO_ANSWER if reply is None else "(empty answer)", covered=covered),
        }

    def on_method_picked(self, session: Session, values: Values) -> Update:
        """Let the figures follow the picked method."""
        return self._follow(session, values[self.picked])

    def _follow(self, session: Session, picked: str | None) -> Update:
        kept = session.slot(Compared)
        kept.method = picked
        standings = kept.contest.standings if kept.contest is not None else ()
        return {
            **self._load(session),
            **self.plane.drawn(session),
            self.shifts: figures.shifts_by_block(standings, picked),
            **self._picked(kept.contest.named(picked) if kept.contest is not None and picked else None),
        }

    def on_method_row(self, session: Session, _values: Values, event: gr.SelectData) -> Update:
        """Pick the method of the clicked line."""
        title = str(event.row_value[0])
        choices = [*TITLES, *([title] if title not in TITLES else [])]
        return {
            self.picked: gr.Dropdown(choices=choices, value=title),
            **self._follow(session, title),
        }

    def on_method_load(self, session: Session, values: Values) -> Iterator[Update]:
        """Hold a method's patch to the gate; if that accepts it, it is live, and whoever hears of it measures it."""
        title = values[self.picked]
        loading = run.patch_of(self.model, session, title, self.context.detector)
        taken = yield from drain(loading, lambda event: {self.clock: progress_bar(event.message, event.fraction)})
        if taken is None:
            yield {self.clock: message("Cancelled: the weights that were live still are.")}
            return
        (clock,) = self.bus.offered("clock").outputs
        yield from echoed(self.bus.offered("gate").call(session, values, *taken), clock, self.clock)
        held = self.bus.offered("held").call(session)
        if held is None:
            yield {self.clock: progress_bar(f"{title}'s patch is live; see Operate.", 1.0)}
        else:
            yield {self.clock: words.held_back(title, held.acceptance and held.acceptance.reason)}
