"""Why this layer: locators over the atlas, then what is inside the picked layer."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.drawing.another import in_rail, of_another
from dashboard.kit.drawing.html import heading
from dashboard.kit.drawing.plots import LAYER, plot
from dashboard.kit.room import Context, Room
from dashboard.kit.running.fetching import Fetching
from dashboard.kit.running.run import CANCEL_OFF, drain, echoed
from dashboard.kit.sessions.session import Session
from dashboard.kit.sharing.lent import Lent
from dashboard.steps.why import figures, run
from dashboard.steps.why import texts as words
from dashboard.steps.why.inside import Inside
from dashboard.steps.why.report import parts
from dashboard.steps.why.state import Looked
from editing import Preparation, Step
from inspector.errors import CaseError
from inspector.toxicity import BUNDLED, Labelled, labelled_texts


class WhyRoom(Room):
    """Ask locators, run the atlas, look inside the picked layer."""

    name = view = "why"
    title = "Why this layer"
    help = "asks every way to choose a layer, tries all layers, and looks inside the picked one."
    reports = staticmethod(parts)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.inside = Inside(context)
        self.fetching: Fetching[Labelled] = Fetching("texts")

    def build(self) -> None:
        """Lay the step out; it is drawn when its view is opened."""
        gr.HTML(words.HEADING)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=230):
                self.run = gr.Button("Ask all locators", variant="primary", elem_id="why")
                self.answers = gr.Radio(
                    list(run.ATLAS_ANSWERS),
                    value=run.NO_ANSWERS,
                    label="Answers of every edit",
                    info="The atlas then judges the answers to the case's five prompts; some three times slower. As in "
                    "the paper: vanilla without the suffix",
                )
                self.atlas_run = gr.Button("Run atlas", elem_id="why-atlas-run")
                self.cancel = gr.Button(CANCEL_OFF, variant="stop", interactive=False, elem_id="why-cancel")
                self.clock = gr.HTML(elem_id="why-clock")
                self.head = gr.HTML(elem_id="why-head")
            with gr.Column(scale=3, min_width=420):
                self.locators = plot(None, "why-locators", "Every locator, by layer", picks={"x": LAYER})
                self.locators_reading = gr.HTML()
                gr.HTML(heading(3, "Atlas: what the same edit achieves at each layer"))
                self.atlas = plot(None, "why-atlas", "Atlas: the same edit at each layer", picks={"x": LAYER})
                self.atlas_reading = gr.HTML()
        with gr.Accordion("Locators judged by the atlas", open=True, elem_id="why-judged"):
            self.agreement = gr.HTML()
        self.inside.build()

    def hear(self) -> None:
        """Follow the live weights and the case."""
        self.context.cancels(self.cancel)
        self.bus.offer("shown locators", Offer(call=self.lent))
        self.context.carry(answers=self.answers, **self.inside.choices)
        inside, lock = self.inside, self.context.lock
        for button in (self.run, self.atlas_run, inside.knock, inside.edit, inside.attribute):
            lock(button)
        lock(inside.train, lambda _session: gr.Button(interactive=not self.context.read_only))
        typed = self.bus.offered("typed").inputs
        for news in (News.CASE, News.TYPED):
            self.bus.hear(news, self.on_case, inputs=typed, outputs=[self.head])
        self.bus.hear(News.ENDED, self.on_ended, inputs=typed, outputs=[self.head, inside.edits])
        controls = inside.controls(self.bus.offered("layer").inputs)
        everything = [*self._overview_parts, *inside.all_parts, self.head, self.clock, inside.edits]
        self.bus.hear(News.EXAMPLE, self.on_arrived, inputs=[*controls, *typed], outputs=everything)
        self.bus.hear(News.BACK, self.on_back, inputs=controls, outputs=everything)
        self.bus.hear(News.BACK, self.on_looked, inputs=controls, outputs=inside.all_parts, later=True)
        self.bus.hear(News.LIVE, self.on_live_changed, inputs=controls, outputs=inside.all_parts, later=True)

    def connect(self) -> None:
        """Wire the controls."""
        inside, layer, texts = self.inside, self.bus.offered("layer").inputs, self.bus.offered("texts").inputs
        controls, padding = inside.controls(layer), self.bus.offered("padding").inputs
        overview = self._overview_parts
        everything = [*overview, *inside.all_parts, self.head]
        self._press(self.run, self.on_why, [*texts, *controls, *padding], everything)
        self._press(self.atlas_run, self.on_atlas, [*texts, *controls, self.answers], everything)
        self.context.react(
            layer[0].change,
            self.on_why_pick,
            inputs=controls,
            outputs=[*overview, *inside.by_layer, inside.selected],
            trigger_mode="always_last",
        )
        inside.connect(controls)
        gate = self.bus.offered("gate")
        knocked, changed = [inside.selected, *controls, *texts, *gate.inputs], [*inside.table, *gate.outputs]
        self._press(inside.knock, self.on_knock, knocked, changed, (News.LIVE,))
        edit = self.bus.offered("edit")
        self.context.press(
            inside.edit.click,
            self.on_edit_columns,
            clock=self.clock,
            inputs=[*edit.inputs, inside.k],
            outputs=edit.outputs,
            tells=(News.LIVE,),
        )
        self._press(inside.attribute, self.on_attribute, controls, [inside.tokens, inside.tokens_reading])
        self._press(inside.train, self.on_train, [inside.source, *controls], inside.all_parts)

    def lent(self, _values: Values, session: Session) -> Lent | None:
        """Lend what the locators say of the visitor's case and how the atlas judges them, ``None`` without any."""
        known = session.slot(Looked).why
        if not known.located:
            return None
        return Lent(figures.locators(known.located, None), words.agreements(known.agreements(), known.atlas))

    @property
    def _overview_parts(self) -> list[Any]:
        return [self.locators, self.locators_reading, self.atlas, self.atlas_reading, self.agreement]

    def on_arrived(self, session: Session, values: Values) -> Update:
        """Show what the example has measured of the layers."""
        fresh = session.fresh
        if not fresh & {"edit", "why", "probe", "atlas"}:
            return {}
        if "located" in fresh and self.bus.offered("layer by hand").call(session) is None:  # the slider moves just now
            session.slot(Looked).panel = replace(self.inside.panel(values), block=self.context.example.block)
        else:
            self.inside.read(session, values)
        self._read_lens(session)
        update = {**self.on_ended(session, values), **self.inside.draw(session)}
        if fresh & {"why", "atlas"}:
            update |= {self.clock: words.clock(words.ON_EXAMPLE, 1.0), **self._overview(session)}
        return update

    def on_back(self, session: Session, values: Values) -> Update:
        """Show what the visitor, or the example, has measured of the layers, or that it is nothing."""
        self.inside.read(session, values)
        said = words.clock(words.BACK if session.own else words.ON_EXAMPLE, 1.0)
        if session.slot(Looked).why.case is None:
            said = ""
        return {self.clock: said, **self._overview(session), **self.inside.draw(session)}

    def on_looked(self, session: Session, values: Values) -> Update:
        """Read the example's layers with the logit lens, from where the answer begins.

        After a run of the visitor's own: measure what shows the live weights, if that has waited for a look.
        """
        if session.runs:
            return self.on_live_changed(session, values) if self._is_behind(session) else {}
        self.inside.read(session, values)
        self._read_lens(session)
        moved = self.inside.at_answer(session)
        return {**self.inside.draw_lens(session), **moved}

    def _read_lens(self, session: Session) -> None:
        """Read the example's layers with the logit lens when somebody first looks; it is too large to be shipped."""
        kept, shared = session.slot(Looked), self.context.example.session.slot(Looked)
        case, format = kept.why.case, kept.why.format
        if case is None or kept.why.lenses:
            return
        if not shared.why.lenses:
            read = run.lenses(self.model, self.context.example.session, case, format)
            shared.learn(case, format, only_current=True, **read)
        known = shared.why
        kept.learn(case, format, only_current=True, lenses=known.lenses, lens_weights=known.lens_weights)

    def _press(self, button: Any, work: Any, inputs: Any, outputs: Any, tells: tuple[News, ...] = ()) -> None:
        self.context.press(
            button.click,
            work,
            clock=self.clock,
            inputs=inputs,
            outputs=outputs,
            tells=tells,
            first=self.inside.read,
        )

    def on_case(self, session: Session, values: Values) -> Update:
        """Say which case was measured, and whether another one stands in the rail."""
        texts, case = in_rail(self.bus, session, values), session.slot(Looked).why.case
        other = of_another(texts, case, "These panels", "Ask all locators and Run atlas")
        return {self.head: words.head(session, other)}

    def on_ended(self, session: Session, values: Values) -> Update:
        """Say which case was measured, and list the visit's edits."""
        edits = words.edits_table(session, run.toxicities(self.model, session))
        return {**self.on_case(session, values), self.inside.edits: edits}

    def on_why(self, session: Session, values: Values) -> Iterator[Update]:
        """Ask all locators and measure what is inside the layers; the charts fill one by one."""
        texts, padding = self.bus.offered("texts").call(values), self.bus.offered("padding").call(values)
        yield from self._measuring(session, values, run.ask_locators(self.model, session, texts, padding), "Asked")

    def on_atlas(self, session: Session, values: Values) -> Iterator[Update]:
        """Make the atlas; it fills layer by layer and a cancel keeps what is done."""
        texts = self.bus.offered("texts").call(values)
        atlas = run.atlas(self.model, session, texts, str(values[self.answers]))
        yield from self._measuring(session, values, atlas, "Atlas made")

    def _measuring(
        self, session: Session, values: Values, measuring: Generator[run.WhyProgress, None, None], done: str
    ) -> Iterator[Update]:
        kept = session.slot(Looked)
        drawn = kept.why

        def draw(progress: run.WhyProgress) -> Update:
            nonlocal drawn
            update: Update = {self.clock: words.clock(progress.message, progress.fraction)}
            if kept.why is not drawn:
                drawn = kept.why
                update |= {**self.on_case(session, values), **self._overview(session)}
            return update

        yield from drain(measuring, draw)
        ended = "Cancelled; what was measured is kept." if session.cancelled.is_set() else f"{done}."
        yield {self.clock: words.clock(ended, 1.0), **self._overview(session), **self.inside.draw(session)}

    def _overview(self, session: Session) -> Update:
        kept = session.slot(Looked)
        known, block = kept.why, kept.panel.block
        return {
            self.locators: figures.locators(known.located, block),
            self.locators_reading: words.locators_reading(known.located, block, known.refused),
            self.atlas: figures.atlas(known.atlas, block),
            self.atlas_reading: words.atlas_reading(known.atlas, block),
            self.agreement: words.agreements(known.agreements(), known.atlas),
        }

    def on_why_pick(self, session: Session, values: Values) -> Update:
        """Let every panel follow the picked layer; nothing while it is typed, or where no panel is on the page."""
        (layer,) = self.bus.offered("layer").inputs
        if values[layer] is None:
            return {}
        panel = self.inside.panel(values)
        self.model.architecture.check_block(panel.block)
        session.slot(Looked).panel = panel
        if not self.context.later.shows(self._overview_parts):
            return {}
        return {
            **self._overview(session),
            **self.inside.draw_neurons(session),
            **self.inside.draw_lens(session),
            **self.inside.draw_regions(session),
            self.inside.selected: "",
        }

    def on_live_changed(self, session: Session, values: Values) -> Update:
        """After an edit, Undo or another strength: redraw all that shows the live weights."""
        self.inside.read(session, values)
        kept = session.slot(Looked)
        case, format = kept.why.case, kept.why.format
        if case is not None and self._is_behind(session):
            for measure in (run.lenses, run.quick_tokens):
                kept.learn(case, format, only_current=True, **measure(self.model, session, case, format))
        return self.inside.draw(session)

    def _is_behind(self, session: Session) -> bool:
        """Tell whether what was measured of the live weights is of other ones, or is not there yet."""
        known = session.slot(Looked).why
        return known.case is not None and (not known.lenses or known.lens_weights != session.weights.label())

    def on_knock(self, session: Session, values: Values) -> Iterator[Update]:
        """Knock the selected neurons out and hold the patch to the gate; if that accepts it, it is live."""
        if self.context.read_only:
            self.bus.offered("texts").call(values)
        neurons = run.neurons_from(values[self.inside.selected] or "")

        def draw(event: Preparation | Step) -> Update:
            said = event.message if isinstance(event, Preparation) else f"Measured step {event.step} of 1"
            return {self.clock: words.clock(said, 0.5)}

        block = session.slot(Looked).panel.block
        edit = yield from drain(run.knock(self.model, session, neurons, block, self.context.detector), draw)
        if edit is None:
            yield {self.clock: words.clock("Cancelled; no edit was made.", 1.0)}
            return
        (clock,) = self.bus.offered("clock").outputs
        yield from echoed(self.bus.offered("gate").call(session, values, edit), clock, self.clock)
        held = self.bus.offered("held").call(session)
        if held is None:
            yield self.inside.draw_neurons(session)
            yield {self.clock: words.knocked(neurons, block)}
        else:
            yield {self.clock: words.held_back(neurons, block, held.acceptance and held.acceptance.reason)}

    def on_edit_columns(self, session: Session, values: Values) -> Iterator[Update]:
        """Edit the columns that carry most of the difference, and no others; both clocks say how far that is."""
        (clock,) = self.bus.offered("clock").outputs
        edit = self.bus.offered("edit").call(values, session, neurons_only=values[self.inside.k])
        yield from echoed(edit, clock, self.clock)

    def on_attribute(self, session: Session, values: Values) -> Iterator[Update]:
        """Attribute the unsafe answer to the prompt's tokens with vanilla and live weights."""
        panel = session.slot(Looked).panel
        yield {self.clock: words.clock("Attributing", 0.0)}
        for share, _found in run.attribute(self.model, session, panel.way, panel.ig_steps):
            yield {self.clock: words.clock(f"Attributing by {panel.way}", share)}
        ended = "Cancelled." if session.cancelled.is_set() else "Attributed."
        yield {self.clock: words.clock(ended, 1.0), **self.inside.draw_tokens(session)}

    def on_train(self, session: Session, values: Values) -> Iterator[Update]:
        """Train the probe on other texts."""
        if self.context.read_only:
            raise CaseError("This demo is read-only: the probe stays as it is.")
        reading = {self.clock: words.clock("Reading the texts", 0.0)}
        yield reading
        source = (values[self.inside.source] or "").strip() or BUNDLED
        if source == BUNDLED:
            labelled: Labelled | None = labelled_texts()
        else:  # it may have to come from the hub
            session.limits.require_source(source, "dataset")
            cancelled = session.cancelled.is_set
            labelled = yield from self.fetching.get(source, lambda: labelled_texts(source), cancelled, reading)
        if labelled is None:
            yield {self.clock: words.clock("Cancelled before the texts were there; the probe is as it was.", 1.0)}
            return
        count = len(labelled.texts)

        def draw(share: float) -> Update:
            return {self.clock: words.clock(f"Reading {count} texts", share)}

        yield from drain(run.train(self.model, session, labelled), draw)
        ended = "Cancelled." if session.cancelled.is_set() else "Probe trained."
        yield {self.clock: words.clock(ended, 1.0), **self.inside.draw(session)}
