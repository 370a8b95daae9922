"""Every setting of an edit on the page: its fields, what a preset fills in, and the settings that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from dashboard.kit.bus import Update, Values
from dashboard.kit.room import Choice, Room
from dashboard.kit.sessions.session import Session
from dashboard.steps.operate.settings import SETTING_FIELDS, ZERO_IS_NONE, settings_from
from editing import DinmSettings, preset
from editing.methods.dinm import ROUTED
from editing.values import MOST_HARMLESS, setting_value
from inspector.divergence import PRESETS
from inspector.errors import CaseError
from inspector.model import PromptFormat
from inspector.presets import Preset

SLIDER, NUMBER = 260, 140
"""Pixels below which a slider's name has no room beside its number, and a number's none above it."""

SET_BY_HAND = "settings that were set by hand"
"""What a link calls those that an edit to be routed leaves as they are."""


@dataclass
class Touched:
    """What a visitor has set themselves since a preset or a link filled the fields.

    Attributes:
        values: By the field's name on the page; only of fields that an edit to be routed sets in its own way.
    """

    values: Mapping[str, Any] = field(default_factory=dict)


class SettingsPart(Room):
    """The fields of all settings."""

    name = "settings"

    def build(self) -> None:
        """Lay every setting out."""
        settings = preset("corrected")
        with gr.Row():
            self.edit_preset = gr.Radio(
                list(PRESETS),
                value="corrected",
                label="Edit as",
                info="The preset: ours, the paper's equations, or the authors' released code",
            )
            self.steps = gr.Slider(1, 100, value=settings.steps, step=1, label="Step limit")
            self.learning_rate = gr.Number(
                settings.learning_rate or 0,
                label="Learning rate",
                info="Size of one update; 0 measures it",
                minimum=0,
            )
        with gr.Row():
            self.edit_weight = gr.Number(
                settings.edit_weight, label="Edit weight", info="c_edit, 0.1 in the paper", min_width=NUMBER
            )
            self.constraint_weight = gr.Number(
                settings.constraint_weight, label="Constraint weight", info="Factor on the KL", min_width=NUMBER
            )
            self.target = gr.Number(
                settings.target_probability,
                label="Target P(safe)",
                info="Stop here; 0 for never",
                minimum=0,
                maximum=1,
                min_width=NUMBER,
            )
            self.budget = gr.Number(
                settings.damage_budget,
                label="Damage budget",
                info="Largest KL, nats a token; 0 for none",
                minimum=0,
                min_width=NUMBER,
            )
            self.step_kl = gr.Number(
                settings.step_kl,
                label="Cost of a step",
                info="KL, where its size is measured",
                minimum=0,
                min_width=NUMBER,
            )
            self.clamp = gr.Number(
                0.0, label="Clamp", info="Largest change of one weight; 0 for none", minimum=0, min_width=NUMBER
            )
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
                1,
                min(MOST_HARMLESS, self.context.limits.harmless),
                value=settings.harmless_prompts,
                step=1,
                label="Harmless prompts",
                info="For 'harmless'",
                min_width=SLIDER,
            )
            self.harmless_tokens = gr.Slider(
                1,
                64,
                value=settings.harmless_tokens,
                step=1,
                label="Tokens of each",
                info="Own answers' length",
                min_width=SLIDER,
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
            self.companions = gr.Number(
                settings.companions,
                label="Companions",
                info="Bundled harmful questions in attacks that it learns to decline, too",
                precision=0,
                minimum=0,
                maximum=64,
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
        with gr.Row():
            self.first_token_weight = gr.Number(
                settings.first_token_weight,
                label="Weight of the first token",
                info="Of a safe answer, beside 1 for its tail",
                minimum=1,
                maximum=100,
            )
            self.contexts = gr.Number(
                settings.contexts,
                label="Random contexts",
                info="Texts of the model's own, before the prompt",
                precision=0,
                minimum=0,
                maximum=16,
            )
            self.monitor = gr.Number(
                settings.monitor,
                label="Monitor",
                info="Unseen attacks of the question that decide when to stop; 0 for none",
                precision=0,
                minimum=0,
                maximum=16,
            )
            self.look_alikes = gr.Number(
                settings.look_alikes,
                label="Look-alikes",
                info="Share of the harmless prompts that sound harmful, 0 to 1",
                minimum=0,
                maximum=1,
            )
            self.own_words = gr.Checkbox(
                settings.own_words, label="Own words", info="Further safe answers that the model says with a reminder"
            )

    @property
    def named(self) -> dict[str, Any]:
        """The preset and every field, by their names on the page."""
        return {name: getattr(self, name) for name in ("edit_preset", *SETTING_FIELDS)}

    @property
    def fields(self) -> list[Any]:
        """The preset and every field."""
        return [*self.named.values()]

    def settings(self, values: Values, format: PromptFormat, **changes: Any) -> DinmSettings:
        """Return the settings on the page.

        Args:
            changes: Other values for single fields, by their names on the page.
        """
        shown = {name: values[getattr(self, name)] for name in SETTING_FIELDS}
        return settings_from(values[self.edit_preset], format, shown | changes)

    def by_hand(self, session: Session, values: Values) -> frozenset[str]:
        """Return the names of the settings that a person has set to what stands there, be it the preset's own value."""
        touched = session.slot(Touched).values.items()
        return frozenset(SETTING_FIELDS[name] for name, value in touched if values[getattr(self, name)] == value)

    def hear(self) -> None:
        """Let links bring back what a person has set; one that fills the fields otherwise takes it back."""
        self.context.carry_choice(Choice(SET_BY_HAND, _touched, _touch))

    def connect(self) -> None:
        """Fill every field from a preset, and remember what a person sets that a routed edit would set otherwise."""
        filled = self.fields[1:]
        self.context.react(self.edit_preset.input, self.on_preset, inputs=[self.edit_preset], outputs=filled)
        for name in (part for part, setting in SETTING_FIELDS.items() if setting in ROUTED):
            self.context.react(getattr(self, name).input, self.on_touched, inputs=[getattr(self, name)])

    def on_preset(self, session: Session, values: Values) -> Update:
        """Fill every setting from a preset."""
        session.slot(Touched).values = {}
        return self._of(preset(values[self.edit_preset]))

    def on_touched(self, session: Session, values: Values) -> Update:
        """Remember what a person has set one field to."""
        kept, named = session.slot(Touched), {part: name for name, part in self.named.items()}
        kept.values = {**kept.values, **{named[part]: value for part, value in values.items()}}
        return {}

    def shown(self, _values: Values, name: Preset, **changes: Any) -> Update:
        """Return what stands in every field with a preset in it.

        Args:
            name: The preset's.
            changes: Other settings than the preset's, by their names.

        Raises:
            EditError: There is no such preset, or a setting is out of range.
            CaseError: The page cannot show it.
        """
        settings = preset(name, **changes)
        if settings.steps > self.steps.maximum:
            most = f"{self.steps.maximum:.0f}"
            raise CaseError(f"The page's settings have at most {most} steps, {settings.steps} were given. Give fewer.")
        return {self.edit_preset: name, **self._of(settings)}

    def _of(self, settings: DinmSettings) -> Update:
        shown = {part: setting_value(settings, name) for part, name in SETTING_FIELDS.items()}
        return {
            getattr(self, part): 0.0 if part in ZERO_IS_NONE and value is None else value
            for part, value in shown.items()
        }


def _touched(session: Session) -> dict[str, Any] | None:
    return dict(session.slot(Touched).values) or None


def _touch(session: Session, values: Mapping[str, Any] | None) -> None:
    session.slot(Touched).values = values or {}
