"""How probable the model finds given answers, token by token, with any rows of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inspector.model.answers.continuation import continue_prompt
from inspector.model.counted import token_log_probabilities
from inspector.model.encoding import encode
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat


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
    format: PromptFormat = PromptFormat(),
) -> list[list[Likelihood]]:
    """Score several answers to one prompt under several rows of weights, in one batch.

    Args:
        text: The user's text, without suffix.
        answers: The answers; each is scored without the end of a turn.

    Returns:
        ``result[row][answer]``.

    Raises:
        PromptError: Empty or too long texts.
        NotFinite: A log-probability is not a finite number.
    """
    encoded = [encode(model, text, answer, format=format.open()) for answer in answers]
    logits = iter(continue_prompt(model, encoded[0].prompt, [e.response for e in encoded], rows, want_logits=True))
    found = [
        [
            Likelihood(
                token_log_probabilities(next(logits), item.response).cpu().numpy(), model.token_texts(item.response)
            )
            for item in encoded
        ]
        for _ in rows
    ]
    model.require_finite("likelihood", [one.log_probabilities for of_row in found for one in of_row])
    return found
