"""Operate: DINM on the picked layer, its vital signs as it runs."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.drawing.html import heading, message
from dashboard.kit.drawing.plots import plot
from dashboard.kit.room import Context, Detail, Room
from dashboard.kit.running.run import CANCEL_OFF, Throttle, drain
from dashboard.kit.sessions.session import Session
from dashboard.steps.operate import figures, gating, run
from dashboard.steps.operate import texts as words
from dashboard.steps.operate.fields import SettingsPart
from dashboard.steps.operate.gate import GatePart
from dashboard.steps.operate.gating import Gated, Made
from dashboard.steps.operate.report import parts
from dashboard.steps.operate.settings import SETTING_FIELDS
from editing import DinmSettings, EditResult, Preparation, Step, preset
from editing.gate.turns import ENOUGH, in_turn


class OperateRoom(Room):
    """Fill the settings, edit live, cancel."""

    name, title = "operate", "Operate"
    help = (
        "<b>Operate</b> does the whole thing: it locates, edits one matrix of the recommended layer (or of the toxic "
        "one, where the answers part most), asks the gate, and lets both weights answer. Where the model has a "
        "detector, the first edit is one that acts only where harm is detected, with nothing to hold it back; if the "
        f"gate refuses it, or it defends less than {100 * ENOUGH:g} % of the gate's harmful prompts, one that is held "
        "to harmless prompts follows, and the better of both is taken. What defends no more than vanilla is refused, "
        "too. <b>Edit layer</b> does its part alone; Cancel stops within one step and leaves nothing behind but a "
        "first edit that the gate has passed."
    )
    reports = staticmethod(parts)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.setting = SettingsPart(context)
        self.gating = GatePart(context)

    def build(self) -> None:
        """Lay the vital signs out, with the gate's buttons and the clock above and the gate's line below."""
        live = self.context.example.session.live
        result = live.result if live is not None else None
        trace = result.trace if result is not None else ()
        with gr.Row(elem_id="vitals-head"):
            gr.HTML(heading(3, "Vital signs", "of the edit, as it runs"))
            self.gating.build_buttons()
        self.clock = gr.HTML(words.clock(None) if result is None else words.finished(result), elem_id="clock")
        settings = preset("corrected") if result is None else result.settings
        self.vitals = plot(figures.vitals_of(trace, settings), "vitals", "Vital signs of the edit, step by step")
        taken = result.taken if result is not None else ()
        self.vitals_reading = gr.HTML(words.vitals_line(taken, settings), elem_id="vitals-reading")
        self.gating.build()

    def build_operate(self) -> None:
        """Lay the button out that does everything."""
        self.operate_all = gr.Button("Operate", variant="primary", elem_id="operate", min_width=110)

    def build_buttons(self) -> None:
        """Lay the buttons out that edit alone and that stop."""
        self.edit = gr.Button(edit_words(self.context.example.block), elem_id="edit", min_width=100)
        state = state_of_on_top(self.context.example.session)
        self.on_top = gr.Checkbox(elem_id="on-top", container=False, min_width=90, scale=0, **state)

    def build_cancel(self) -> None:
        """Lay the button out that ends what runs."""
        self.cancel = gr.Button(CANCEL_OFF, variant="stop", interactive=False, elem_id="cancel", min_width=100)

    def build_settings(self) -> None:
        """Lay every setting out, then those of the gate and of the exam of two stacked edits."""
        self.setting.build()
        self.gating.build_settings()

    details = (Detail("All settings", build_settings, is_setting=True),)

    def hear(self) -> None:
        """Offer the clock and the edit; show the vital signs of whatever edit becomes live."""
        self.context.cancels(self.cancel)
        self.bus.offer("clock", Offer(outputs=(self.clock,)))
        fields = tuple(self.setting.fields)
        self.bus.offer("settings", Offer(fields, call=self.setting.settings))
        self.bus.offer("filled settings", Offer(outputs=fields, call=self.setting.shown))
        self.context.carry(**self.setting.named, **self.gating.named)
        self.context.carry(
            on_top=self.on_top, among=[False]
        )  # a link leaves what is live, which the next edit then stands on
        own = [*self.setting.fields, self.on_top, *self.gating.fields]
        read = [*self.bus.offered("texts").inputs, *self.bus.offered("layer").inputs, *own]
        vitals = (self.clock, self.vitals, self.vitals_reading)
        drawn = (*vitals, *self.gating.drawn)
        self.bus.offer("edit", Offer(tuple(read), drawn, self.operate))
        self.bus.offer("gate", Offer(tuple(self.gating.fields), (self.clock, *self.gating.drawn), self.gating.take_in))
        self.bus.offer("gate settings", Offer(tuple(self.gating.fields), call=self.gating.settings))
        self.bus.offer("held", Offer(call=lambda session: session.slot(Gated).held))
        self.bus.hear(News.LIVE, self.on_live, outputs=drawn)
        self.bus.hear(News.EXAMPLE, self.on_arrived, outputs=drawn)
        self.bus.hear(News.BACK, self.on_back, outputs=drawn)
        self.context.lock(self.edit)
        self.context.lock(self.operate_all)
        self.context.lock(self.on_top, lambda session: gr.update(**state_of_on_top(session)))
        self.setting.hear()
        self.gating.hear()

    def connect(self) -> None:
        """Wire the buttons."""
        edit = self.bus.offered("edit")
        self.context.press(
            self.edit.click,
            self.on_edit,
            clock=self.clock,
            inputs=edit.inputs,
            outputs=edit.outputs,
            tells=(News.LIVE,),
        )
        locate, answers = self.bus.offered("locate"), self.bus.offered("answers")
        self.context.press(
            self.operate_all.click,
            self.on_operate,
            clock=self.clock,
            inputs=[*answers.inputs, *locate.inputs, *edit.inputs],
            outputs=[*answers.outputs, *locate.outputs, *edit.outputs],
            tells=(News.CASE, News.LIVE),
            starting="Locating where the answers part",
        )
        (layer,) = self.bus.offered("layer").inputs
        self.context.react(layer.change, self.on_layer, inputs=[layer], outputs=[self.edit])
        self.setting.connect()
        self.gating.connect()

    def on_layer(self, _session: Session, values: Values) -> Update:
        """Name the picked layer on the button."""
        (block,) = values.values()
        return {} if block is None else {self.edit: gr.Button(edit_words(int(block)))}

    def on_operate(self, session: Session, values: Values) -> Iterator[Update]:
        """Write answers that are missing or stale, locate, edit the layer that this picks, tell whoever compares.

        The edit's preset says which layer that is, unless a person has picked one.
        """
        if not (yield from self.bus.offered("answers").call(session, values)):
            return
        yield {self.clock: message("Locating where the answers part")}
        located = self.bus.offered("locate").call(values, session, values[self.setting.edit_preset])
        yield located
        if session.cancelled.is_set():
            yield {self.clock: message("Cancelled after Locate; nothing was changed.")}
            return
        (layer,) = self.bus.offered("layer").inputs
        yield from self.operate({**values, layer: located[layer]}, session)

    def on_live(self, session: Session, _values: Values) -> Update:
        """Show the vital signs of the edit that is live now."""
        session.slot(Gated).drawn_over = False
        said = self.gating.on_ended(session, {})
        if session.live is None:
            return {
                self.clock: message("Undone: the vanilla weights are live, bit for bit."),
                self.vitals: figures.vitals_of((), preset("corrected")),
                self.vitals_reading: words.vitals_line(()),
                **said,
            }
        return {**self._vitals_of(session.live.result), **said}

    def on_arrived(self, session: Session, values: Values) -> Update:
        """Show the vital signs of the example's edit."""
        if "edit" not in session.fresh:
            return {}
        return self.gating.on_ended(session, values) if session.live is None else self.on_live(session, values)

    def on_back(self, session: Session, values: Values) -> Update:
        """Show the vital signs of the visitor's live edit, or none."""
        if session.live is not None:
            return self.on_live(session, values)
        return {
            self.clock: words.clock(None),
            self.vitals: figures.vitals_of((), preset("corrected")),
            self.vitals_reading: words.vitals_line(()),
            **self.gating.on_ended(session, {}),
        }

    def on_edit(self, session: Session, values: Values) -> Iterator[Update]:
        """Run DINM with live vital signs; whoever hears of the edit measures and asks it."""
        yield from self.operate(values, session)

    def operate(self, values: Values, session: Session, **changes: Any) -> Iterator[Update]:
        """Edit, and tell the steps.

        Args:
            changes: Other values for single settings, by their names on the page.
        """
        texts = self.bus.offered("texts").call(values)
        settings = self.setting.settings(values, texts.format, **changes)
        by_hand = self.setting.by_hand(session, values) | {SETTING_FIELDS[name] for name in changes}
        tried = gating.asked_for(self.model, session, settings, self.context.detector, by_hand)
        block = self.bus.offered("layer").call(values)
        self.bus.offered("decoding").call(values)  # what cannot be asked afterwards is said before
        self.gating.settings(values)
        self.gating.evaluation(values)
        picked = self.bus.offered("layer by hand").call(session) == block
        unchanged = None if picked else run.why_no_layer(self.context.layers, settings)
        if unchanged is not None:
            whole = f"{unchanged} To edit any other, pick it by hand. Live is still: {session.row.label()}."
            yield {self.clock: message("No layer helps; to edit all the same, pick one by hand.", whole)}
            return
        on_top = bool(values[self.on_top]) and session.live is not None

        def making(settings: DinmSettings, first: Made | None) -> Generator[Update, None, Made | None]:
            edit = run.make(self.model, session, texts, block, settings, on_top)
            session.slot(Gated).drawn_over = session.live is not None
            made = yield from self._watched(edit, settings, words.goes_on(first))
            return None if made is None else (yield from self.gating.examined(session, values, made))

        best = yield from in_turn(tried, making)
        if best is not None:
            yield self._vitals_of(best.edit.result)
            yield from self.gating.settled(session, values, best)

    def _watched(self, making: run.Making, settings: DinmSettings, before: str) -> Generator[Update, None, Made | None]:
        """Show the vital signs of an edit as it runs; returns it, ``None`` where it was cancelled.

        Args:
            before: What stands in the gate's line meanwhile.
        """
        yield {
            self.vitals: figures.vitals_of((), settings),
            self.vitals_reading: words.vitals_line(()),
            **dict.fromkeys(self.gating.drawn, ""),
            self.gating.gate: before,
        }
        trace: list[Step] = []
        redraw = Throttle(0.2)

        def draw(event: Preparation | Step) -> Update:
            if isinstance(event, Preparation):
                return {self.clock: words.clock(event)}
            trace.append(event)
            seconds = sum(step.seconds for step in trace) / len(trace)
            vitals = {self.vitals: figures.vitals_of(trace, settings)} if redraw.due() else {}
            return {self.clock: words.clock(event, seconds), **vitals}

        result, made = yield from drain(making, draw)
        yield self._vitals_of(result)
        return made

    def _vitals_of(self, result: EditResult) -> Update:
        """Return what the clock, the figure and its reading show of an edit that has ended."""
        return {
            self.clock: words.finished(result),
            self.vitals: figures.vitals_of(result.trace, result.settings),
            self.vitals_reading: words.vitals_line(result.taken, result.settings),
        }


ON_TOP = "On top"


def edit_words(block: int) -> str:
    """Return what the Edit button says: the layer that it edits."""
    return f"Edit layer {block}"


def state_of_on_top(session: Session) -> dict[str, Any]:
    """Return what the choice to edit on top of the live edit says and whether it is on: it says why it is off."""
    if session.live is None:
        return {"value": False, "interactive": False, "label": f"{ON_TOP} (no edit)"}
    return {"interactive": True, "label": ON_TOP}
