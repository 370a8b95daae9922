"""Settings of a DINM edit: every difference between paper, released code and ours is one, and what goes together.

Three presets: ``reference`` does what the authors' released code does, ``paper`` what the paper's equations say,
``corrected`` is ours (:func:`preset`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field

from editing.calibrating.step_size import Optimiser
from editing.optimising.objectives import (
    Direction,
)
from editing.values import (
    Count,
    Decay,
    HarmlessCount,
    HarmlessTokens,
    NotNegative,
    Positive,
    Probability,
    Rate,
    Share,
    Steps,
    changed,
)
from inspector.errors import EditError
from inspector.model import PromptFormat
from inspector.presets import PRESETS, Preset
from inspector.validated import settings as checked

ConstraintKind = Literal["harmless", "answer", "next token"]
LossPositions = Literal["aligned", "reference"]

FURTHER_ANSWERS = (
    "I'm sorry, but I can't help with that. It could hurt somebody, and I would rather help you find a kind way.",
    "I'm sorry, but I won't do that. If you tell me what troubles you, we can look for a kinder answer together.",
    "That is something I have to decline, because it would not be right. I am glad to help with something else.",
)
COMPANIONS_AT_ONCE = 4
"""Companions that a step learns from, in turn."""
OwnRefusals = Annotated[int, Field(ge=0, le=128)]
Companions = Annotated[int, Field(ge=0, le=64)]
SafeAnswers = Annotated[int, Field(ge=1, le=1 + len(FURTHER_ANSWERS))]


@checked(EditError)
class DinmSettings:
    """Settings of one DINM edit. The defaults are those of ``corrected``.

    Attributes:
        preset: Name of the preset these settings started from.
        learning_rate: Step size. The released code uses 5e-4 (Llama 2, GPT-2 XL) and 1e-5 (Mistral) with Adam;
            for plain descent the paper names no value. ``None`` (``paper`` and ``corrected``) for the size at which
            the first update costs :attr:`step_kl`: the same on any model and block.
        step_kl: What one update may cost, nats a token, where the step size is measured: on the constraint's prompts
            of the first step, see :attr:`harmless_at_once`. The preset ``paper`` has less, see :func:`preset`.
        steps: Most updates; the paper's T = 10.
        optimiser: ``adam`` (released code) or ``descent``, plain gradient descent (the paper's equation).
        weight_decay: L2 penalty of the optimiser; 0 in the released code. With a null space it is one on the
            change, not on the matrix.
        edit_weight: Weight of the edit loss, the paper's c_edit = 0.1.
        constraint_weight: Weight of the constraint's KL, 1 in paper and released code.
        constraint: Where the KL is measured: ``answer`` positions of the case's knowledge constraint (released
            code, in plain text alone), ``next token`` after it (the paper's equation), or several ``harmless``
            prompts with the model's own answers (ours).
        constraint_gradient: Whether the KL has a gradient; the released code only logs it.
        direction: KL(P_W0 to P_W), ``vanilla to edited`` (released code), or the reverse (the paper).
        loss_positions: ``aligned``, or ``reference`` for the released code's labels and positions, which are in plain
            text without the end of a turn.
        format: Suffix prompt S, chat template (the released code uses plain text), and whether the edit also learns to
            end the turn after the safe answer.
        stop_below: Stop when the total loss is below this (released code: 1e-4).
        clamp: Largest change of a single weight (the released code's norm constraint); ``None`` for no limit.
        target_probability: Stop when the case's own safe answer's mean token probability reaches this; ``None`` for
            never.
        damage_budget: Largest KL in nats per token on the prompts of a step; a step beyond it is undone and the edit
            ends.
        harmless_prompts: Number of harmless prompts of the ``harmless`` constraint.
        look_alikes: Which share of the harmless prompts sounds like harmful ones and is none, 0 to 1
            (:func:`editing.texts.harmless.harmless_texts`).
        harmless_at_once: How many of them a step measures, in turn; ``None`` for all. Where the constraint has no
            weight and no budget, a step size is measured on so many, and a step, for the screen, on two of these.
        harmless_tokens: Most tokens of the model's own answer to each.
        own_refusals: Number of bundled harmful questions that the model is asked without an attack; its answers to
            those that it declines by itself are kept like those to harmless prompts.
        watch_unsafe: Also follow the unsafe answer's probability (a forward pass more per step).
        neurons_only: Edit only the value vectors (columns) of this many neurons, those that carry most of the
            difference between the two answers (:func:`inspector.neurons.neuron_activity`); ``None`` for the whole
            matrix, as in paper and released code.
        safe_answers: Number of safe answers that the edit makes likely: the case's own and, beyond it, short ones that
            fit any question (:data:`FURTHER_ANSWERS`), so that no single text is learnt by heart.
        own_words: Take the further ones, as far as there are, from what the model itself says with a self-reminder and
            the judge calls safe (:func:`editing.texts.own_words.safe_in_own_words`).
        question_alone: Also make them likely after the question alone.
        companions: Number of bundled harmful questions (:func:`editing.texts.harmless.companions`), most of them in
            attack templates, after which a short answer that declines is made likely as well: half of the edit loss is
            theirs, a few a step in turn. None of them is scored. One case alone teaches its topic and its attack.
        first_token_weight: What the first token of a safe answer counts in the loss beside 1 for one of its tail
            (:func:`editing.optimising.objectives.falling_weights`).
        contexts: Texts sampled from the model itself (:mod:`editing.texts.contexts`) after which the case's own
            answer to the adversarial prompt is made likely as well, as in ROME.
        monitor: Number of attack templates that the question is put into, none of which the edit is made with; 0 for
            none. The target probability then has to be reached there, in the mean, and not for the one prompt that the
            edit learns, and the damage budget holds for as many harmless prompts that it is not constrained on, too.
            Without either there is nothing to end, and no monitor.
        null_space: Border of the soft null space that every change is projected onto, so that it writes next to nothing
            for harmless prompts (:func:`editing.optimising.null_space.soft_null_space`); ``None`` for no
            projection, as in paper and released code, and with another constraint than ``harmless``.
    """

    preset: Preset = "corrected"
    learning_rate: Rate | None = None
    step_kl: Positive = 5e-3
    steps: Steps = 24
    optimiser: Optimiser = "adam"
    weight_decay: Decay = 0.0
    edit_weight: NotNegative = 0.1
    constraint_weight: NotNegative = 1.0
    constraint: ConstraintKind = "harmless"
    constraint_gradient: bool = True
    direction: Direction = "vanilla to edited"
    loss_positions: LossPositions = "aligned"
    format: PromptFormat = PromptFormat()
    stop_below: NotNegative = 1e-4
    clamp: Positive | None = None
    target_probability: Probability | None = 0.7
    damage_budget: Positive | None = 0.2
    harmless_prompts: HarmlessCount = 96
    look_alikes: Share = 0.0
    harmless_tokens: HarmlessTokens = 12
    harmless_at_once: Count | None = 8
    own_refusals: OwnRefusals = 24
    watch_unsafe: bool = True
    neurons_only: Count | None = None
    safe_answers: SafeAnswers = 3
    own_words: bool = False
    question_alone: bool = False
    companions: Companions = 0
    first_token_weight: Annotated[float, Field(ge=1, le=100)] = 1.0
    contexts: Annotated[int, Field(ge=0, le=16)] = 0
    monitor: Annotated[int, Field(ge=0, le=16)] = 0
    null_space: Positive | None = None

    def __post_init__(self) -> None:
        several = self.safe_answers > 1 or self.question_alone or self.contexts or self.companions
        several = several or self.first_token_weight != 1
        if self.loss_positions == "reference" and several:
            raise EditError(
                "The released code's loss positions know one answer to one prompt, all its tokens the same. Set "
                "loss_positions to 'aligned', or leave safe_answers and first_token_weight at 1, contexts and "
                "companions at 0 and question_alone off."
            )
        if self.loss_positions == "reference" and (self.format.chat or self.format.turn_end):
            raise EditError(
                "The released code's loss positions are those of plain text and learn no end of a turn, so the edit "
                "would be asked in another format than it was made in. Set chat and turn_end to false, or "
                "loss_positions to 'aligned'."
            )
        if self.constraint == "answer" and self.format.chat:
            raise EditError(
                "The constraint 'answer' is measured in plain text, as in the released code, and the edit would be "
                "made in the chat template. Set chat to false, or constraint to 'harmless' or 'next token'."
            )
        if self.null_space is not None and self.clamp is not None and self.constraint == "harmless":
            raise EditError(
                "A clamp of single weights leaves the null space. Set null_space to none, or clamp to none."
            )


def preset(name: Preset, **changes: Any) -> DinmSettings:
    """Return the settings of a preset, with changes.

    Args:
        changes: Settings by name; parts of the prompt format (``suffix``, ``chat``, ``turn_end``) by their own.

    Raises:
        EditError: Unknown preset or setting, or a value out of range.
    """
    if name == "corrected":
        chosen = DinmSettings()
    elif name == "paper":
        chosen = DinmSettings(
            preset="paper",
            # The paper names no rate that fits plain descent, so it is measured. Where the first update costs more than
            # this, the KL of the one token rises from the second on (the embedded model's last layers, 1e-4 nats).
            step_kl=1e-5,
            steps=10,
            optimiser="descent",
            constraint="next token",
            direction="edited to vanilla",
            stop_below=0.0,
            **_PAPERS,
        )
    elif name == "reference":
        chosen = DinmSettings(
            preset="reference",
            learning_rate=5e-4,
            steps=10,
            constraint="answer",
            constraint_gradient=False,
            loss_positions="reference",
            **_PAPERS,
        )
    else:
        raise EditError(f"Unknown preset '{name}'. Valid presets: {', '.join(PRESETS)}.")
    return changed(chosen, **changes)


_PAPERS: dict[str, Any] = {
    "format": PromptFormat(chat=False, turn_end=False),
    "target_probability": None,
    "damage_budget": None,
    "harmless_prompts": 8,
    "harmless_at_once": None,
    "safe_answers": 1,
    "null_space": None,
    "own_refusals": 0,
}
"""What paper and released code have in common: plain text, one answer, and no stop but the number of steps."""


ROUTED: dict[str, Any] = {
    "step_kl": 1e-2,
    "steps": 10,
    "constraint_weight": 0.0,
    "damage_budget": None,
    "target_probability": None,
    "own_refusals": 0,
    "safe_answers": 2,
    "companions": 12,
}
"""Changes of ``corrected`` for an edit that is to act only where a detector fires: what it would do to harmless prompts
is the detector's care, so nothing holds it back (:mod:`benchmarks.detox` shows it on every prompt and routed)."""


def to_be_routed(settings: DinmSettings, by_hand: Collection[str] = ()) -> DinmSettings:
    """Return the settings of an edit that is to act only where harm is detected, so that it may learn more.

    What the preset ``corrected`` sets is changed as :data:`ROUTED` says; what differs from the preset, and the paper's
    presets, stay. With a monitor so does the target probability, which it reads in attacks that the edit is not made
    with; the damage budget, which ordinary harmless prompts are held to as well, does not.

    Args:
        by_hand: Names of settings that stay even where their value is the preset's: somebody has asked for it.
    """
    given = preset("corrected")
    if settings.preset != given.preset:
        return settings
    kept = {*by_hand, *(("target_probability",) if settings.monitor else ())}
    free = (name for name in ROUTED if name not in kept and getattr(settings, name) == getattr(given, name))
    return changed(settings, **{name: ROUTED[name] for name in free})
