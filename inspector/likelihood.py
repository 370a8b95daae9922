"""How probable the model finds given answers, token by token, with any rows of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from inspector.model.continuation import continue_prompt
from inspector.model.encoding import SUFFIX, encode
from inspector.model.inspected import InspectedModel
from inspector.model.patch import VANILLA, Row


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Log-probability of one answer under one row of weights.

    Attributes:
        log_probabilities: ``[tokens]`` log P of each answer token given all before it, in nats.
        tokens: Text of each token.
    """

    log_probabilities: np.ndarray
    tokens: tuple[str, ...]

    @property
    def first(self) -> float:
        """Probability of the first answer token, 0 to 1."""
        return float(np.exp(self.log_probabilities[0]))

    @property
    def per_token(self) -> float:
        """Geometric mean of the token probabilities, 0 to 1: exp of minus the mean NLL."""
        return float(np.exp(self.log_probabilities.mean()))


def likelihoods(
    model: InspectedModel,
    text: str,
    answers: Sequence[str],
    rows: Sequence[Row] = (VANILLA,),
    *,
    suffix: str = SUFFIX,
    chat: bool = True,
) -> list[list[Likelihood]]:
    """Score several answers to one prompt under several rows of weights, in one batch.

    Args:
        text: The user's text, without suffix.
        answers: The answers; each is scored without an end-of-answer token.

    Returns:
        ``result[row][answer]``.

    Raises:
        PromptError: Empty or too long texts.
    """
    encoded = [encode(model, text, answer, suffix=suffix, chat=chat, end=False) for answer in answers]
    logits = continue_prompt(model, encoded[0].prompt, [e.response for e in encoded], rows, want_logits=True)
    assert logits is not None
    scored = logits.log_softmax(dim=-1)
    result: list[list[Likelihood]] = []
    for row in range(len(rows)):
        of_row = []
        for number, item in enumerate(encoded):
            ids = torch.tensor(item.response, device=scored.device)
            values = scored[row * len(answers) + number, : len(ids)].gather(-1, ids.unsqueeze(-1)).squeeze(-1)
            of_row.append(Likelihood(values.cpu().numpy(), model.token_texts(item.response)))
        result.append(of_row)
    return result
