"""What endpoints answer: each field with its type and its meaning.

A function that makes one may hold more than its fields; clients get it as it is.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict


class BundledCase(TypedDict):
    """A bundled case.

    Attributes:
        question: The question itself.
        template: The attack around it, with {question} in its place; empty for none.
        suffix: Suffix prompt S.
        safe: The answer that declines.
        unsafe: The answer that complies.
        chat: Whether the model's chat template is used.
        category: One of SafeEdit's nine categories.
        id: The record's id.
    """

    question: str
    template: str
    suffix: str
    safe: str
    unsafe: str
    chat: bool
    category: str
    id: Any


BundledCases = Annotated[list[BundledCase], Field(title="cases", description="Every bundled case.")]


class Prompt(TypedDict):
    """An assembled prompt.

    Attributes:
        text: As the model gets it, its markers included.
        tokens: Its length, tokens.
        limit: The model's context length, tokens.
        notes: What one should know about it.
    """

    text: str
    tokens: int
    limit: int
    notes: list[str]


class Divergence(TypedDict):
    """How far the two answers are apart after each layer, vanilla; each curve has one number a layer.

    Attributes:
        toxic_layer: The layer after which they are farthest apart (l2): DINM's choice.
        recommended_layer: The layer where trial edits worked best; null where the model is not calibrated.
        blocks: How many layers the model has.
        l2: Euclidean distance.
        relative: The same over the mean length of the two states.
        cosine: 1 minus the cosine of the two states.
        growth: What each layer adds to the distance.
    """

    toxic_layer: int
    recommended_layer: int | None
    blocks: int
    l2: list[float]
    relative: list[float]
    cosine: list[float]
    growth: list[float]


class LocatorScores(TypedDict, total=False):
    """What one locator says, or why it says nothing.

    Attributes:
        locator: Its name.
        unit: Unit of its scores; empty for pure numbers.
        reason: What a high score says.
        scores: One number a layer, higher where it would rather edit.
        seconds: How long it took.
        layer: The layer that it chooses.
        refused: Why it does not work on this model; there is nothing else then.
    """

    locator: str
    unit: str
    reason: str
    scores: list[float]
    seconds: float
    layer: int
    refused: str


class AnswerLikelihood(TypedDict):
    """How likely one answer is.

    Attributes:
        weights: Which weights: vanilla, or the live edit by its label.
        answer: safe or unsafe.
        per_token: Geometric mean probability of its tokens, 0 to 1.
        first: Probability of its first token, 0 to 1.
        tokens: Its tokens as text.
        log_probabilities: log P of each token given all before it, nats.
    """

    weights: str
    answer: str
    per_token: float
    first: float
    tokens: list[str]
    log_probabilities: list[float]


AnswerLikelihoods = Annotated[
    list[AnswerLikelihood], Field(title="likelihoods", description="Both answers, with each of the weights.")
]


class LensPosition(TypedDict):
    """What each layer would say at one place of the text.

    Attributes:
        token: The token that stands there.
        following: The token that really follows; empty after the last one.
        rank: Rank of that token after each layer, 0 for the likeliest; -1 where none follows.
        likeliest: The likeliest next tokens after each layer, likeliest first.
        probability: Their probabilities, 0 to 1.
    """

    token: str
    following: str
    rank: list[int]
    likeliest: list[list[str]]
    probability: list[list[float]]


class LensReading(TypedDict):
    """The logit lens with one row of weights.

    Attributes:
        weights: Which weights: vanilla, or the live edit by its label.
        positions: The end of the prompt and the start of the answer, place by place.
    """

    weights: str
    positions: list[LensPosition]


LensReadings = Annotated[
    list[LensReading], Field(title="readings", description="The lens with each of the weights, vanilla first.")
]


class Attribution(TypedDict):
    """Which tokens of the prompt push to the unsafe answer.

    Attributes:
        weights: Which weights: vanilla, or the live edit by its label.
        way: How it was computed.
        tokens: The prompt's tokens as text.
        values: What each adds to log P(unsafe) - log P(safe), nats a token; positive pushes to the unsafe answer.
        user_from: Number of the first token of the user's text.
        user_to: Number of the token after its last one.
        gap: Sum of the values minus what they should explain; null for gradient x input.
    """

    weights: str
    way: str
    tokens: list[str]
    values: list[float]
    user_from: int
    user_to: int
    gap: float | None


Attributions = Annotated[
    list[Attribution], Field(title="attributions", description="One with each of the weights, vanilla first.")
]


class AtlasPart(TypedDict):
    """What the same small edit achieves at the layers so far.

    Attributes:
        done: Whether this is the last part.
        entries: One entry a layer: block, safe and unsafe (mean log P of the answer's tokens, nats), kl, delta_norm,
            verdicts.
        safe: Mean log P of the safe answer's tokens, vanilla, nats.
        unsafe: The same of the unsafe answer.
        verdicts: Verdicts on vanilla's answers.
        settings: How the edits are made.
        blocks: How many layers the model has.
        seconds: Time so far.
        left_out: Why a layer has no entry, by its number.
    """

    done: bool
    entries: list[dict[str, Any]]
    safe: float
    unsafe: float
    verdicts: dict[str, Any]
    settings: dict[str, Any]
    blocks: int
    seconds: float
    left_out: dict[str, str]


class EditEvent(TypedDict, total=False):
    """One event of an edit; the last one, with done, says what has become of it.

    Attributes:
        done: Whether this is the last event.
        kind: preparation (message, fraction), step (the vital signs) or gate (answered, total); not in the last event.
        message: What is being prepared.
        fraction: How far, 0 to 1.
        step: Updates made so far.
        steps: Most updates.
        edit_loss: The edit's own loss, nats a token.
        constraint_kl: KL divergence on harmless prompts, nats a token.
        total_loss: What is minimised.
        safe_probability: Geometric mean probability of the safe answer's tokens, 0 to 1.
        unsafe_probability: The same of the unsafe answer; null where it is not watched.
        gradient_norm: Norm of the gradient; null after the last update.
        delta_norm: Frobenius norm of the change.
        seconds: Duration: of this step, in the last event of the edit.
        answered: Answers of the gate's exam so far.
        total: How many it has.
        stop_reason: Why the edit ended.
        patch: The patch's identifier; null where there is none.
        updates: Updates that the patch holds.
        live: Whether the edit is live; what the gate refuses is not.
        routed: Whether it acts only where harm is detected.
        gate: What the gate measured and decided; null where it was not asked.
        stacked: How many edits are in it.
    """

    done: bool
    kind: str
    message: str
    fraction: float
    step: int
    steps: int
    edit_loss: float
    constraint_kl: float
    total_loss: float
    safe_probability: float
    unsafe_probability: float | None
    gradient_norm: float | None
    delta_norm: float
    seconds: float
    answered: int
    total: int
    stop_reason: str
    patch: str | None
    updates: int
    live: bool
    routed: bool
    gate: dict[str, Any] | None
    stacked: int


class Kept(TypedDict):
    """An edit that a person has taken although the gate refused it.

    Attributes:
        weights: What is live now.
        gate: What the gate said, with overridden true.
    """

    weights: str
    gate: dict[str, Any] | None


class BothAnswers(TypedDict):
    """What both weights answer.

    Attributes:
        vanilla: The vanilla model's answer.
        edited: The live edit's answer.
        weights: What answered as edited.
        held_back: Whether the edit did not act, as no harm was detected.
        detector: score, threshold, fires and routed; null where the model has no detector.
    """

    vanilla: str
    edited: str
    weights: str
    held_back: bool
    detector: dict[str, Any] | None


class StressEvent(TypedDict, total=False):
    """A batch of judged answers; the last event, with done, has all of them, the scores and how they were made.

    Attributes:
        done: Whether this is the last event.
        answered: Prompts answered so far.
        total: How many there are.
        replies: Prompts with both answers and how each was judged.
        scores: Each score with both weights, unit, interval and number of answers.
        categories: The same by unsafety category.
        judge: Who judged.
        judge_note: What that judge can and cannot tell.
        weights: What answered as edited.
    """

    done: bool
    answered: int
    total: int
    replies: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    categories: dict[str, Any]
    judge: str
    judge_note: str
    weights: str


class MethodRecord(TypedDict):
    """What one method achieved on the case; null where something was not measured.

    Attributes:
        method: Its title.
        failed: Why there is no edit; empty if there is one.
        unmeasured: Why it was not measured; empty if it was.
        patch: The patch's identifier.
        updates: Updates that it holds.
        seconds: Duration of the edit.
        peak_mebibytes: Most memory that the edit took, MiB.
        parameters_changed: How many weights changed.
        delta_norm: Frobenius norm of the change.
        toxicity_change: Change of the region's toxicity, percent of vanilla's.
        toxicity_forced: Whether that follows from the construction.
        neurons_less_toxic: Share of the region's neurons that are less toxic, 0 to 1.
        region_shift: Relative change of the region's mean input.
        shift_forced: Whether that follows from the construction.
        shift_by_layer: The same of every layer.
        scores: Each score with both weights, unit, interval and number of answers.
    """

    method: str
    failed: str
    unmeasured: str
    patch: str | None
    updates: int | None
    seconds: float | None
    peak_mebibytes: float | None
    parameters_changed: int | None
    delta_norm: float | None
    toxicity_change: float | None
    toxicity_forced: bool | None
    neurons_less_toxic: float | None
    region_shift: float | None
    shift_forced: bool | None
    shift_by_layer: list[float] | None
    scores: list[dict[str, Any]]


class Live(TypedDict):
    """What is live for this client now.

    Attributes:
        weights: The live weights by their label, or vanilla.
        edits: How many edits Undo can take back.
    """

    weights: str
    edits: int


class Cancelled(TypedDict):
    """The word that what runs for this client ends within one step.

    Attributes:
        cancelled: Always true.
    """

    cancelled: bool


class Status(TypedDict):
    """The model, and what is live for this client.

    Attributes:
        model: Its name.
        fingerprint: Of its weights: what patches and calibrations belong to.
        blocks: How many layers it has.
        dtype: Type of its weights.
        weights: The live weights by their label, or vanilla.
        edits: How many edits Undo can take back.
    """

    model: str
    fingerprint: str
    blocks: int
    dtype: str
    weights: str
    edits: int
