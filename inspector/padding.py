"""What padding does to the released locator: the same case, padded left and right, pads counted or not.

The released code compares the two answers as one padded batch and counts the pads' states. With left padding they
sit on the first positions, where models park a massive activation (its norm can be a hundred times that of other
states), so the distance there can outweigh that of all real tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inspector.divergence import Divergence, Padding, divergence
from inspector.model.encoding import tokenise_whole
from inspector.model.hooks import observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.safeedit.cases import Case


@dataclass(frozen=True, eq=False)
class PaddingStudy:
    """The reference preset on one case, four ways.

    Attributes:
        curves: Divergence by (padding side, whether only positions of both answers count).
        pads: Number of pads of the shorter answer.
        first_norm: ``[blocks]`` norm of the longer answer's first position, without padding.
        typical_norm: ``[blocks]`` median norm of its other positions.
    """

    curves: dict[tuple[Padding, bool], Divergence]
    pads: int
    first_norm: np.ndarray
    typical_norm: np.ndarray

    def toxic_layers(self) -> dict[tuple[Padding, bool], int]:
        """Return the toxic layer of each way."""
        return {way: measured.toxic_layer() for way, measured in self.curves.items()}


@torch.no_grad()
def padding_study(model: InspectedModel, case: Case) -> PaddingStudy:
    """Measure the reference preset with both paddings, masked and not.

    Raises:
        CaseError: An answer is empty, or both are the same.
        PromptError: An answer is too long.
    """
    curves = {
        (padding, masked): divergence(model, case, "reference", padding=padding, masked=masked)
        for padding in ("left", "right")
        for masked in (False, True)
    }
    answers = [tokenise_whole(model, text, "answer") for text in (case.safe, case.unsafe)]
    longest = max(answers, key=len)
    first, typical = np.zeros(model.blocks), np.zeros(model.blocks)

    def on_block(block: int, states: Tensor) -> None:
        norms = states[0].float().norm(dim=-1)
        first[block] = float(norms[0])
        typical[block] = float(norms[1:].median()) if len(norms) > 1 else float(norms[0])

    architecture = model.architecture
    with (
        model.running(),
        stopping_before(architecture.final_norm or architecture.unembedding),
        observe_outputs(architecture.blocks, on_block),
    ):
        model.network(input_ids=model.batch(longest), use_cache=False)
    return PaddingStudy(curves, abs(len(answers[0]) - len(answers[1])), first, typical)  # type: ignore[arg-type]
