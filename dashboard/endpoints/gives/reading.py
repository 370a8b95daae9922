"""What endpoints answer that read the model."""

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
        toxic_reason: Why that one, in a sentence.
        recommended_layer: The layer where trial edits worked best; null where none helped or none were made.
        recommended_reason: Why that one, or why none.
        blocks: How many layers the model has.
        l2: Euclidean distance.
        relative: The same over the mean length of the two states.
        cosine: 1 minus the cosine of the two states.
        growth: What each layer adds to the distance.
    """

    toxic_layer: int
    toxic_reason: str
    recommended_layer: int | None
    recommended_reason: str
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
