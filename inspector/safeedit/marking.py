"""Marks of single answers that need no judge: accepted fact answers, ROUGE, and the KL on harmless prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from inspector.kl import kl_by_token, told
from inspector.model.counted import Counted
from inspector.model.encoding import Encoded
from inspector.model.hooks import observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.patch import VANILLA, Row
from inspector.model.routing import decided

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]")


def as_fact_answer(text: str) -> str:
    """Return a text as fact answers are compared: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub(" ", text.lower())).split())


def is_accepted(answer: str, accepted: Sequence[str]) -> bool:
    """Tell whether an answer has one of the accepted ones in it as whole words."""
    said = f" {as_fact_answer(answer)} "
    return any(f" {wanted} " in said for text in accepted if (wanted := as_fact_answer(text)))


@cache
def _scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=True)


def rouge(kind: str, reference: str, text: str) -> float:
    """Return the F1, 0 to 1, of ``rouge1`` or ``rougeL`` with Porter stems, from the package rouge-score."""
    return float(_scorer(kind).score(reference, text)[kind].fmeasure)


@torch.no_grad()
def harmless_kl(
    model: InspectedModel, answers: Sequence[Encoded], row: Row, prompted: Sequence[Encoded] | None = None
) -> list[float]:
    """Return KL(vanilla to edited) on the tokens of given answers, one mean a sequence, nats a token, never below zero.

    Args:
        answers: Prompts with the vanilla model's own answers, the id that ended one left out; an empty answer counts
            the prompt's last position.
        row: The edited weights.
        prompted: The same answers after the prompts as the row gets them, where they differ.
    """
    if not answers:
        return []
    blocks, head = model.architecture.blocks, model.architecture.final_norm or model.architecture.unembedding
    states: list[torch.Tensor] = []
    asked = [*answers, *(answers if prompted is None else prompted)]
    tokens = [answer.tokens for answer in asked]
    edited = decided(model, [answer.prompt for answer in asked[len(answers) :]], [row.weights()] * len(answers))
    with (
        model.running([VANILLA] * len(answers) + edited),
        stopping_before(head),
        observe_outputs(blocks[-1:], lambda _n, output: states.append(output)),
    ):
        model.network(input_ids=model.batch(*tokens), use_cache=False)
    counted = Counted([list(answer.predicting) or [len(answer.prompt) - 1] for answer in asked])
    each = counted.split(counted.of(states[0]))
    found: list[float] = []
    for pair in zip(each[: len(answers)], each[len(answers) :], strict=True):
        with model.lock:
            before, after = (model.architecture.logits(kept).double().log_softmax(dim=-1) for kept in pair)
        found.append(told(kl_by_token(before, after)))
    return found
