"""What one visitor has measured of a case's layers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

from editing.atlas import Atlas
from inspector.divergence import Padding
from inspector.lens import Lens
from inspector.locators import Agreement, Located, NotLocated, agreement
from inspector.model import PromptFormat
from inspector.neurons import NeuronActivity
from inspector.padding import PaddingStudy
from inspector.safeedit import Case
from inspector.token_attribution import TokenAttribution


@dataclass(frozen=True)
class Panel:
    """What the controls of the step are set to; a run draws what they say when it draws, not when it began.

    Attributes:
        block: The picked layer.
        order: What the neurons are listed by.
        answer: The answer that the lens reads.
        weights: Whose lens is shown, ``vanilla`` or ``edited``.
        place: The lens's column, counted from 0.
        way: How the prompt's tokens are attributed.
        ig_steps: Steps of integrated gradients.
    """

    block: int = 0
    order: str = "contribution"
    answer: str = "safe answer"
    weights: str = "vanilla"
    place: int = 0
    way: Any = "gradient x input"
    ig_steps: int = 32


@dataclass(frozen=True, eq=False)
class Why:
    """What was measured of one case's layers. Parts that are not measured yet are empty.

    Attributes:
        case: The case.
        format: Prompt format that it was measured with.
        located: What each locator says, in their order.
        refused: The locators that the model's architecture does not allow.
        atlas: What the same edit achieves at each block.
        activity: The neurons of all blocks.
        lenses: Vanilla and edited lens, on the safe and on the unsafe answer.
        lens_weights: The edited weights of the lenses.
        padding: The released locator, padded both ways.
        side: Side on which the locators have padded.
        tokens: Attribution of the unsafe answer to the prompt's tokens, by the weights' name.
    """

    case: Case | None = None
    format: PromptFormat = PromptFormat()
    located: tuple[Located, ...] = ()
    refused: tuple[NotLocated, ...] = ()
    atlas: Atlas | None = None
    activity: NeuronActivity | None = None
    lenses: dict[str, tuple[Lens, Lens]] = field(default_factory=dict)
    lens_weights: str = "vanilla"
    padding: PaddingStudy | None = None
    side: Padding = "right"
    tokens: dict[str, TokenAttribution] = field(default_factory=dict)

    def agreements(self) -> list[Agreement]:
        """Compare every locator with the atlas, if both are there."""
        if self.atlas is None or not self.atlas.entries:
            return []
        achieved = self.atlas.curve(self.atlas.truth)
        return [agreement(item, achieved) for item in self.located]


@dataclass
class Looked:
    """What a visitor has measured of the layers of whichever case it names, and what the controls are set to."""

    why: Why = field(default_factory=Why)
    panel: Panel = field(default_factory=Panel)
    _learning: threading.Lock = field(default_factory=threading.Lock, init=False)

    def learn(self, case: Case | None, format: PromptFormat, *, only_current: bool = False, **measured: Any) -> Why:
        """Add what was measured of a case's layers; of another case nothing is kept.

        Args:
            only_current: Drop it if another case has been measured meanwhile.
            measured: Parts of :class:`Why` by name.
        """
        with self._learning:
            known = self.why
            if (known.case, known.format) != (case, format):
                if only_current:
                    return known
                known = Why(case, format)
            self.why = replace(known, **measured)
            return self.why
