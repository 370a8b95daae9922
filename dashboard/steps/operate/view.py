"""Operate: DINM on the picked layer, its vital signs as it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.html import message
from dashboard.kit.plots import plot
from dashboard.kit.room import Context, Room
from dashboard.kit.run import CANCEL_OFF, Throttle, drain
from dashboard.kit.session import Session
from dashboard.steps.operate import figures, run
from dashboard.steps.operate import texts as words
from dashboard.steps.operate.gate import GatePart
from dashboard.steps.operate.settings import SETTING_FIELDS, ZERO_IS_NONE, settings_from
from editing import DinmSettings, Preparation, Step, preset
from editing.values import setting_value
from inspector.divergence import PRESETS


class OperateRoom(Room):
    """Fill the settings, edit live, cancel."""

    name = "operate"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.gating = GatePart(context)

    def build(self) -> None:
        """Lay the vital signs out, with the clock above and the gate's line below."""
        live = self.context.example.session.live
        result = live.result if live is not None else None
        trace = result.trace if result is not None else ()
        gr.HTML("<h3>Vital signs<small>of the edit, as it runs</small></h3>")
        self.clock = gr.HTML(words.clock(None) if result is None else words.finished(result), elem_id="clock")
        settings = preset("corrected") if result is None else result.settings
        self.vitals = plot(figures.vitals_of(trace, settings), "vitals")
        self.vitals_reading = gr.HTML(words.vitals_reading(trace), elem_id="vitals-reading")
        self.gating.build()

    def build_operate(self) -> None:
        """Lay the button out that does everything."""
        self.operate_all = gr.Button("Operate", variant="primary", elem_id="operate", min_width=110)

    def build_buttons(self) -> None:
        """Lay the buttons out that edit alone and that stop."""
        self.edit = gr.Button(edit_words(self.context.example.block), elem_id="edit", min_width=100)
        self.on_top = gr.Checkbox(False, label=ON_TOP, elem_id="on-top", container=False, min_width=90, scale=0)

    def build_cancel(self) -> None:
        """Lay the button out that ends what runs."""
        self.cancel = gr.Button(CANCEL_OFF, variant="stop", interactive=False, elem_id="cancel", min_width=100)

    def build_settings(self) -> None:
        """Lay every setting out."""
        settings = preset("corrected")
        with gr.Row():
            self.edit_preset = gr.Radio(
                list(PRESETS),
                value="corrected",
                label="Preset",
                info="ours, the paper's equations, or the authors' released code",
            )
            self.steps = gr.Slider(1, 100, value=settings.steps, step=1, label="Step limit")
            self.learning_rate = gr.Number(
                settings.learning_rate or 0,
                label="Learning rate",
                info="Size of one update; 0 measures it",
                minimum=0,
            )
        with gr.Row():
            self.edit_weight = gr.Number(settings.edit_weight, label="Edit weight", info="c_edit, 0.1 in the paper")
            self.constraint_weight = gr.Number(
                settings.constraint_weight, label="Constraint weight", info="Factor on the KL"
            )
            self.target = gr.Number(
                settings.target_probability, label="Target P(safe)", info="Stop here; 0 for never", minimum=0, maximum=1
            )
            self.budget = gr.Number(
                settings.damage_budget, label="Damage budget", info="Largest KL, nats a token; 0 for none", minimum=0
            )
            self.step_kl = gr.Number(
                settings.step_kl, label="Cost of a step", info="KL, where its size is measured", minimum=0
            )
            self.clamp = gr.Number(0.0, label="Clamp", info="Largest change of one weight; 0 for none", minimum=0)
        with gr.Row():
            self.optimiser = gr.Radio(["adam", "descent"], value=settings.optimiser, label="Optimiser")
            self.constraint = gr.Radio(
                ["harmless", "answer", "next token"],
                value=settings.constraint,
                label="Constraint",
                info="KL on own answers to harmless prompts, on the case's answer, or on the token after its prompt",
            )
            self.direction = gr.Radio(
                ["vanilla to edited", "edited to vanilla"], value=settings.direction, label="KL direction"
            )
            self.loss_positions = gr.Radio(
                ["aligned", "reference"],
                value=settings.loss_positions,
                label="Loss positions",
                info="reference: as the released code",
            )
        with gr.Row():
            self.weight_decay = gr.Number(settings.weight_decay, label="Weight decay", info="0 in the paper", minimum=0)
            self.stop_below = gr.Number(
                settings.stop_below, label="Stop below", info="Total loss that ends the edit", minimum=0
            )
            self.harmless_prompts = gr.Slider(
                1, 128, value=settings.harmless_prompts, step=1, label="Harmless prompts", info="For 'harmless'"
            )
            self.harmless_tokens = gr.Slider(
                1, 64, value=settings.harmless_tokens, step=1, label="Tokens of each", info="Own answers' length"
            )
            self.harmless_at_once = gr.Number(
                settings.harmless_at_once or 0,
                label="Of them a step",
                info="In turn; 0 for all at once",
                precision=0,
                minimum=0,
            )
        with gr.Row():
            self.constraint_gradient = gr.Checkbox(
                settings.constraint_gradient, label="KL has a gradient", info="Off in the released code"
            )
            self.chat = gr.Checkbox(settings.format.chat, label="Chat template", info="Off in the released code")
            self.end_of_answer = gr.Checkbox(
                settings.format.turn_end, label="Learn to end", info="What ends a turn after the safe answer"
            )
            self.watch_unsafe = gr.Checkbox(
                settings.watch_unsafe, label="Watch the unsafe answer", info="One more forward pass a step"
            )
        with gr.Row():
            self.safe_answers = gr.Slider(
                1,
                4,
                value=settings.safe_answers,
                step=1,
                label="Safe answers",
                info="The case's, then short ones of ours",
            )
            self.question_alone = gr.Checkbox(
                settings.question_alone, label="Question alone, too", info="Learn the answer without the attack as well"
            )
            self.neurons_only = gr.Number(
                0, label="Neurons only", info="Edit this many columns; 0 for the whole matrix", precision=0, minimum=0
            )
            self.null_space = gr.Number(
                settings.null_space or 0,
                label="Null space",
                info="Border of what harmless prompts use, which is left alone; 0 for none",
                minimum=0,
            )
            self.own_refusals = gr.Number(
                settings.own_refusals,
                label="Own refusals",
                info="Harmful questions asked bare: what is declined is kept",
                precision=0,
                minimum=0,
            )
        self.gating.build_settings()

    @property
    def _fields(self) -> list[Any]:
        return [self.edit_preset, *(getattr(self, name) for name in SETTING_FIELDS)]

    def settings(self, values: Values, suffix: str, **changes: Any) -> DinmSettings:
        """Return the settings on the page.

        Args:
            changes: Other values for single fields, by their names on the page.
        """
        shown = [changes.get(name, values[getattr(self, name)]) for name in SETTING_FIELDS]
        return settings_from(values[self.edit_preset], suffix, shown)

    def hear(self) -> None:
        """Offer the clock and the edit; show the vital signs of whatever edit becomes live."""
        self.context.cancels(self.cancel)
        self.bus.offer("clock", Offer(outputs=(self.clock,)))
        own = [*self._fields, self.on_top, *self.gating.fields]
        read = [*self.bus.offered("texts").inputs, *self.bus.offered("layer").inputs, *own]
        vitals = (self.clock, self.vitals, self.vitals_reading)
        drawn = (*vitals, *self.gating.drawn)
        self.bus.offer("edit", Offer(tuple(read), drawn, self.operate))
        self.bus.hear(News.LIVE, self.on_live, outputs=drawn)
        self.bus.hear(News.EXAMPLE, self.on_arrived, outputs=drawn)
        self.bus.hear(News.BACK, self.on_back, outputs=drawn)
        self.context.lock(self.edit)
        self.context.lock(self.operate_all)
        self.context.lock(self.on_top, state_of_on_top)
        self.gating.hear()

    def connect(self) -> None:
        """Wire the buttons."""
        fields = [getattr(self, name) for name in SETTING_FIELDS]
        self.context.react(self.edit_preset.input, self.on_preset, inputs=[self.edit_preset], outputs=fields)
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
        self.gating.connect()

    def on_layer(self, _session: Session, values: Values) -> Update:
        """Name the picked layer on the button."""
        (block,) = values.values()
        return {} if block is None else {self.edit: gr.Button(edit_words(int(block)))}

    def on_operate(self, session: Session, values: Values) -> Iterator[Update]:
        """Write answers that are missing or stale, locate, edit the layer that this picks, tell whoever compares."""
        if not (yield from self.bus.offered("answers").call(session, values)):
            return
        yield {self.clock: message("Locating where the answers part")}
        located = self.bus.offered("locate").call(values, session)
        yield located
        if session.cancelled.is_set():
            yield {self.clock: message("Cancelled after Locate; nothing was changed.")}
            return
        (layer,) = self.bus.offered("layer").inputs
        yield from self.operate({**values, layer: located[layer]}, session)

    def on_preset(self, _session: Session, values: Values) -> Update:
        """Fill every setting from a preset."""
        settings = preset(values[self.edit_preset])
        shown = {part: setting_value(settings, name) for part, name in SETTING_FIELDS.items()}
        return {
            getattr(self, part): 0.0 if part in ZERO_IS_NONE and value is None else value
            for part, value in shown.items()
        }

    def on_live(self, session: Session, _values: Values) -> Update:
        """Show the vital signs of the edit that is live now."""
        said = self.gating.on_ended(session, {})
        if session.live is None:
            return {self.clock: message("Undone: the vanilla weights are live, bit for bit."), **said}
        result = session.live.result
        return {
            self.clock: words.finished(result),
            self.vitals: figures.vitals_of(result.trace, result.settings),
            self.vitals_reading: words.vitals_reading(result.trace),
            **said,
        }

    def on_arrived(self, session: Session, values: Values) -> Update:
        """Show the vital signs of the example's edit."""
        return self.on_live(session, values) if "edit" in session.fresh else {}

    def on_back(self, session: Session, values: Values) -> Update:
        """Show the vital signs of the visitor's live edit, or none."""
        if session.live is not None:
            return self.on_live(session, values)
        return {
            self.clock: words.clock(None),
            self.vitals: figures.vitals_of((), preset("corrected")),
            self.vitals_reading: words.vitals_reading(()),
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
        settings = self.settings(values, texts.suffix, **changes)
        block = self.bus.offered("layer").call(values)
        self.bus.offered("decoding").call(values)  # what cannot be asked afterwards is said before
        self.gating.settings(values)
        on_top = bool(values[self.on_top]) and session.live is not None
        yield {
            self.vitals: figures.vitals_of((), settings),
            self.vitals_reading: words.vitals_reading(()),
            **dict.fromkeys(self.gating.drawn, ""),
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

        making = run.make(self.model, session, texts, block, settings, on_top)
        result, made = yield from drain(making, draw)
        yield {
            self.vitals: figures.vitals_of(result.trace, settings),
            self.clock: words.finished(result),
            self.vitals_reading: words.vitals_reading(result.trace),
        }
        if made is not None:
            yield from self.gating.pass_through(session, values, made)


ON_TOP = "On top"


def edit_words(block: int) -> str:
    """Return what the Edit button says: the layer that it edits."""
    return f"Edit layer {block}"


def state_of_on_top(session: Session) -> Any:
    """Return the state of the choice to edit on top of the live edit: it says why it is off."""
    if session.live is None:
        return gr.Checkbox(value=False, interactive=False, label=f"{ON_TOP} (no edit is live)")
    return gr.Checkbox(interactive=True, label=ON_TOP)
