"""Edits that act only where a detector fires: decided once for each prompt, before the first token of its answer.

Where the detector fires the patch's weights answer, else the vanilla ones, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from inspector.model.inspected import InspectedModel
from inspector.model.patch import VANILLA, Row


def decided(model: InspectedModel, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> list[Row]:
    """Return the weights that each prompt is answered with: a routed row's patch where its detector fires.

    Args:
        prompts: Token ids of each prompt.
        rows: The row that each prompt asks for; those without a detector stay as they are.

    Raises:
        PatchError: A detector was made for another base model.
    """
    found = list(rows)
    for detector in dict.fromkeys(row.detector for row in rows if row.detector is not None):
        asking = [n for n, row in enumerate(rows) if row.detector is detector]
        different = list(dict.fromkeys(tuple(prompts[n]) for n in asking))
        scores = dict(zip(different, detector.scores(model, different), strict=True))
        for n in asking:
            fires = detector.fires(scores[tuple(prompts[n])])
            found[n] = replace(rows[n], detector=None) if fires else VANILLA
    return found
