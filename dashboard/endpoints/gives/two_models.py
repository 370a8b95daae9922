"""What the endpoints for the list of models answer."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict


class OneOfTwo(TypedDict):
    """What one model does with a case, with its vanilla weights.

    Attributes:
        model: Its name on the operator's list.
        fingerprint: Of its weights.
        parameters: How many numbers it has learnt.
        dtype: Type of its weights.
        templated: Whether it was asked in a chat template of its own; else in plain text.
        blocks: How many layers it has.
        toxic_layer: The layer after which its two answers are farthest apart (l2).
        distances: One number a layer: l2, relative, cosine and growth, as /locate has them.
        answer: What it answers to the case's prompt.
        finished: Whether it ended by itself.
        verdict: label, safe_probability, reason and judge: what the embedded judge says of the answer.
        seconds: Time of its measurement and of its answer.
    """

    model: str
    fingerprint: str
    parameters: int
    dtype: str
    templated: bool
    blocks: int
    toxic_layer: int
    distances: dict[str, list[float]]
    answer: str
    finished: bool
    verdict: dict[str, Any]
    seconds: float


class ComparedModels(TypedDict, total=False):
    """How far a comparison of two models is; the last one, with done, has what was found.

    Attributes:
        done: Whether this is the last event.
        doing: What goes on, in plain words; not in the last event.
        fraction: How far the whole is at least, 0 to 1.
        answers: Both answers so far.
        models: Both models, in the order in which they were named.
    """

    done: bool
    doing: str
    fraction: float
    answers: list[str]
    models: list[OneOfTwo]


class OpenedPage(TypedDict, total=False):
    """How far the page of a model is; the last one, with done, says where it is.

    Attributes:
        done: Whether this is the last event.
        doing: What goes on, in plain words; not in the last event.
        model: The model's name on the operator's list.
        address: Where its page is, below this program's own address.
    """

    done: bool
    doing: str
    model: str
    address: str
