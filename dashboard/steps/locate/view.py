"""Locate: how far apart the two answers are after each layer, and which layer is picked."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.drawing.another import in_rail
from dashboard.kit.drawing.html import heading, message, reading
from dashboard.kit.drawing.plots import LAYER, plot
from dashboard.kit.room import Choice, Detail, Room
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts
from dashboard.kit.sharing.lent import Lent
from dashboard.steps.locate import figures, run
from dashboard.steps.locate import texts as words
from dashboard.steps.locate.report import parts
from dashboard.steps.locate.run import LocatedCase
from inspector.divergence import PRESETS, Distance, Divergence
from inspector.errors import CaseError, InspectorError
from inspector.presets import Preset


class LocateRoom(Room):
    """Measure, switch the distance, pick a layer."""

    name = "locate"
    help = "<b>Locate</b> shows where the safe and the unsafe answer part. A click on a bar picks another layer."
    reports = staticmethod(parts)

    @property
    def _recommended(self) -> int | None:
        layers = self.context.layers
        return layers.recommended if layers else None

    def build(self) -> None:
        """Lay the curve out with the line that reads it."""
        example, last = self.context.example, self.model.architecture.last_block
        measured = example.session.slot(LocatedCase).divergence
        gr.HTML(heading(3, "Where the answers part", "distance after each layer; click a bar to pick it"))
        self.curve = plot(
            figures.curve(measured, "l2", example.block, self._recommended),
            "curve",
            "Distance of the answers",
            picks={"x": LAYER},
        )
        self.locate_reading = gr.HTML(
            words.locate_line(measured, "l2", last, self.context.layers), elem_id="locate-reading"
        )

        self.block = gr.Slider(
            0,
            last,
            value=example.block,
            step=1,
            label=f"Layer to edit (0-{last})",
            elem_id=LAYER,
        )

    def build_button(self) -> None:
        """Lay the button out that measures, and nothing else."""
        self.locate = gr.Button("Locate", elem_id="locate", min_width=80)

    def build_settings(self) -> None:
        """Lay the settings out."""
        with gr.Row():
            self._controls()

    def build_detail(self) -> None:
        """Lay the distance token by token out."""
        self._heatmap()

    details = (Detail("Token by token", build_detail), Detail("Layer and distance", build_settings, is_setting=True))

    def _controls(self) -> None:
        self.locate_preset = gr.Radio(
            list(PRESETS), value="corrected", label="Locate as", info="corrected: after the prompt; others: alone"
        )
        self.distance = gr.Radio(
            [("L2", "l2"), ("relative L2", "relative"), ("cosine", "cosine"), ("growth of L2", "growth")],
            value="l2",
            label="Distance",
            info="DINM uses L2",
        )
        self.padding = gr.Radio(
            ["right", "left"],
            value="right",
            label="Padding side",
            info="Used by paper and reference only",
            interactive=False,
        )
        self.once = gr.Checkbox(
            False, label="Choose the layer once", info="As the released code: later cases keep the first layer"
        )

    def _heatmap(self) -> None:
        measured = self.context.example.session.slot(LocatedCase).divergence
        self.heatmap = plot(
            figures.divergence_heatmap(measured), "heatmap", "How far the answers are apart, by layer and token"
        )
        self.heatmap_reading = gr.HTML(words.heatmap_reading(measured))

    def layer(self, values: Values) -> int:
        """Return the picked layer.

        Raises:
            CaseError: The field was emptied.
        """
        if values[self.block] is None:
            raise CaseError("No layer is picked. Press Locate, or pick one with the slider.")
        return int(values[self.block])

    def hear(self) -> None:
        """Offer the picked layer; say when what is shown is out of date."""
        self.context.lock(self.locate)
        self.bus.offer("layer", Offer((self.block,), call=self.layer))
        self.bus.offer("picked layer", Offer(call=self.pick))
        self.bus.offer("layer by hand", Offer(call=_by_hand))
        texts, drawn = self.bus.offered("texts").inputs, self._drawn
        read = (*texts, self.locate_preset, self.distance, self.padding, self.once, self.block)
        self.bus.offer("locate", Offer(read, drawn, self.measure))
        self.bus.hear(News.BACK, self.on_locate_preset, inputs=[self.locate_preset], outputs=[self.padding])
        self.context.carry(block=self.block, settings=False)
        self.context.carry_choice(Choice("the layer picked by hand", _by_hand, self._take, is_setting=False))
        self.context.carry(
            locate_preset=self.locate_preset, distance=self.distance, padding=self.padding, once=self.once
        )
        self.bus.offer("shown curve", Offer(call=self.lent))
        self.bus.offer("padding", Offer((self.padding,), call=lambda values: values[self.padding]))
        self.bus.hear(News.EXAMPLE, self.on_arrived, inputs=[self.distance, self.once], outputs=drawn)
        shown = [*self.bus.offered("typed").inputs, self.distance, self.block]
        self.bus.hear(News.CALIBRATED, self.on_calibrated, inputs=shown, outputs=[self.curve, self.locate_reading])
        self.bus.hear(News.BACK, self.on_back, inputs=shown, outputs=drawn)
        self.bus.hear(News.TYPED, self.on_typed, inputs=[self.distance, self.block], outputs=[self.locate_reading])

    def lent(self, _values: Values, session: Session) -> Lent | None:
        """Lend the curve of the visitor's case, ``None`` where nothing was measured."""
        measured, last = session.slot(LocatedCase).divergence, self.model.architecture.last_block
        if measured is None:
            return None
        return Lent(
            figures.curve(measured, "l2", recommended=self._recommended),
            words.locate_reading(measured, "l2", last, self.context.layers),
        )

    @property
    def _drawn(self) -> tuple[Any, ...]:
        return self.curve, self.block, self.locate_reading, self.heatmap, self.heatmap_reading

    def connect(self) -> None:
        """Wire the controls."""
        react, measure = self.context.react, self.bus.offered("locate")
        (clock,) = self.bus.offered("clock").outputs
        located = [self.curve, self.block, self.locate_reading]
        react(self.locate_preset.change, self.on_locate_preset, inputs=[self.locate_preset], outputs=[self.padding])
        self.context.press(
            self.locate.click,
            self.on_locate,
            clock=clock,
            inputs=[*measure.inputs, *self.bus.offered("typed").inputs],
            outputs=measure.outputs,
            tells=(News.CASE,),
            starting="",
            brief=True,
        )
        shown = [*self.bus.offered("typed").inputs, self.distance, self.block]
        react(self.distance.input, self.on_distance, inputs=[*shown, self.once], outputs=located)
        drawn = [self.curve, self.locate_reading]
        react(self.block.change, self.on_pick, inputs=shown, outputs=drawn, trigger_mode="always_last")
        # A change can be Locate's or Operate's; an input is a person's, at the slider or at a bar.
        react(self.block.input, self.on_hand, inputs=shown, outputs=drawn, trigger_mode="always_last")

    def on_locate_preset(self, _session: Session, values: Values) -> Update:
        """Let the padding side be chosen where it matters."""
        return {self.padding: gr.Radio(interactive=values[self.locate_preset] != "corrected")}

    def on_locate(self, session: Session, values: Values) -> Generator[Update, None, Update]:
        """Measure the divergence; pick the recommended layer, or the toxic one for the paper's presets."""
        yield {self.locate_reading: reading(words.LOCATING)}
        try:
            measured = None if session.cancelled.is_set() else self._measured(values)
        except Exception:
            yield self.on_typed(session, values)
            raise
        if measured is None or session.cancelled.is_set():
            (clock,) = self.bus.offered("clock").outputs
            yield {**self.on_typed(session, values), clock: message(words.CANCELLED)}
            return {}
        return self._kept(session, values, measured)

    def measure(self, values: Values, session: Session, edits_by: Preset | None = None) -> Update:
        """Measure, draw, pick a layer and tell the steps; the picked layer is the value of its component.

        Args:
            edits_by: The preset of the edit that comes next, by which the layer is picked unless a person has picked
                one; by Locate's own preset where no edit is asked for.
        """
        return self._kept(session, values, self._measured(values), edits_by)

    def _measured(self, values: Values) -> tuple[Texts, Divergence]:
        texts = self.bus.offered("texts").call(values)
        return texts, run.measure(self.model, texts, values[self.locate_preset], values[self.padding])

    def _kept(
        self, session: Session, values: Values, located: tuple[Texts, Divergence], edits_by: Preset | None = None
    ) -> Update:
        measured = run.keep(session, *located)
        by_hand = session.slot(LocatedCase).by_hand if edits_by is not None else None
        return {
            **self._located(session, values, edits_by, by_hand if by_hand == values[self.block] else None),
            self.heatmap: figures.divergence_heatmap(measured),
            self.heatmap_reading: words.heatmap_reading(measured),
            **self.bus.told(News.CASE, session, values),
        }

    def on_distance(self, session: Session, values: Values) -> Update:
        """Redraw the curve with another distance of the same measurement; a layer that was picked by hand stays."""
        if session.slot(LocatedCase).divergence is None:
            return {}
        by_hand = _by_hand(session)
        located = self._located(session, values, by_hand=by_hand if by_hand == values[self.block] else None)
        return located | self.on_typed(session, {**values, self.block: located[self.block]})

    def _located(
        self, session: Session, values: Values, edits_by: Preset | None = None, by_hand: int | None = None
    ) -> Update:
        """Pick a layer and draw the curve with it.

        Args:
            edits_by: As for :meth:`measure`.
            by_hand: The layer that stays because a person has picked it.
        """
        kept, distance = session.slot(LocatedCase), values[self.distance]
        if kept.divergence is None:
            raise CaseError(words.NOTHING)
        if by_hand is not None:
            picked, kept.why = by_hand, words.by_hand(by_hand)
        else:
            picked, kept.why = self._pick(kept, distance, values[self.once], edits_by)
            kept.first_layer = picked if values[self.once] else None
        kept.by_hand, kept.picked = by_hand, picked
        return {
            self.curve: figures.curve(kept.divergence, distance, picked, self._recommended),
            self.block: picked,
            self.locate_reading: self._reading(kept, distance, picked),
        }

    def _pick(self, kept: LocatedCase, distance: Distance, once: bool, edits_by: Preset | None) -> tuple[int, str]:
        """Return the layer that is picked, and why where that is no matter of course."""
        assert kept.divergence is not None
        if once and kept.first_layer is not None:
            return kept.first_layer, words.chosen_once(kept.first_layer)
        toxic, recommended = kept.divergence.toxic_layer(distance), self._recommended
        if (edits_by or kept.divergence.preset) == "corrected":
            return (toxic if recommended is None else recommended), ""
        return toxic, "" if edits_by is None else words.edits_toxic(toxic, edits_by, recommended)

    def _reading(self, kept: LocatedCase, distance: Distance, block: int | None) -> str:
        """Read the curve; of the picked layer it says why where it is still the one that is picked."""
        last, why = self.model.architecture.last_block, kept.why if kept.picked == block else ""
        return words.locate_line(kept.divergence, distance, last, self.context.layers, why)

    def on_arrived(self, session: Session, values: Values) -> Update:
        """Show what the example has measured, and its layer; one that was picked by hand meanwhile stays."""
        if "located" not in session.fresh:
            return {}
        kept, picked = session.slot(LocatedCase), _by_hand(session)
        located = self._located(session, values, by_hand=picked)
        block, distance = self.context.example.block if picked is None else picked, values[self.distance]
        return {
            **located,
            self.block: block,
            self.curve: figures.curve(kept.divergence, distance, block, self._recommended),
            self.locate_reading: self._reading(kept, distance, block),
            self.heatmap: figures.divergence_heatmap(kept.divergence),
            self.heatmap_reading: words.heatmap_reading(kept.divergence),
        }

    def on_back(self, session: Session, values: Values) -> Update:
        """Show what the visitor has measured, and whether it is out of date."""
        measured = session.slot(LocatedCase).divergence
        block = self.context.example.block if values[self.block] is None else self.layer(values)
        return {
            self.curve: figures.curve(measured, values[self.distance], block, self._recommended),
            self.heatmap: figures.divergence_heatmap(measured),
            self.heatmap_reading: words.heatmap_reading(measured),
            **self.on_typed(session, values),
        }

    def on_pick(self, session: Session, values: Values) -> Update:
        """Mark the picked layer in the curve, and say no longer why another one was picked."""
        measured = session.slot(LocatedCase).divergence
        if measured is None or values[self.block] is None:
            return {}
        block = self.model.architecture.check_block(self.layer(values))
        curve = figures.curve(measured, values[self.distance], block, self._recommended)
        return {self.curve: curve, **self.on_typed(session, values)}

    def on_hand(self, session: Session, values: Values) -> Update:
        """Keep that a person has picked the layer: Operate edits it, too."""
        if values[self.block] is None:
            return {}
        self.pick(session, self.layer(values))
        return self.on_pick(session, values)

    def _take(self, session: Session, block: int | None) -> None:
        if block is None:
            session.slot(LocatedCase).by_hand = None
        else:
            self.pick(session, block)

    def pick(self, session: Session, block: int) -> None:
        """Keep that a person has picked a layer, or has sent a link that names it.

        Raises:
            ArchitectureError: The model has no such layer.
        """
        kept, block = session.slot(LocatedCase), self.model.architecture.check_block(block)
        kept.by_hand = kept.picked = block
        kept.why = words.by_hand(block)

    def on_calibrated(self, session: Session, values: Values) -> Update:
        """Mark the recommended layer and say where trial edits work; the picked layer stays until Locate is pressed."""
        try:
            return {**self.on_typed(session, values), **self.on_pick(session, values)}
        except InspectorError:  # the layer is half typed; what is typed next tells
            return {}

    def on_typed(self, session: Session, values: Values) -> Update:
        """Say when Locate is out of date."""
        kept, texts = session.slot(LocatedCase), in_rail(self.bus, session, values)
        if kept.divergence is not None and not _is_measured(session, texts):
            return {self.locate_reading: words.changed(texts is not None)}
        return {self.locate_reading: self._reading(kept, values[self.distance], values[self.block])}


def _is_measured(session: Session, texts: Texts | None) -> bool:
    """Tell whether the texts in the rail are those that were measured; such as make no prompt never were."""
    case = session.case
    if case is None or texts is None:
        return False
    now = (texts.adversarial_prompt(), texts.safe, texts.unsafe, texts.format)
    return (case.adversarial_prompt, case.safe, case.unsafe, session.format) == now


def _by_hand(session: Session) -> int | None:
    """Return the layer that a visitor has picked, where it is still the one that Operate edits."""
    kept = session.slot(LocatedCase)
    return kept.by_hand if kept.by_hand == kept.picked else None
