"""What one visitor has measured of a case's layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from editing.atlas import Atlas
from inspector.lens import Lens
from inspector.locators import Agreement, Located, NotLocated, agreement
from inspector.model import PromptFormat
from inspector.neurons import NeuronActivity
from inspector.padding import PaddingStudy
from inspector.safeedit import Case
from inspector.token_attribution import TokenAttribution
from inspector.toxicity import Probe


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

    @classmethod
    def of(cls, values: Any) -> Panel:
        """Read the controls, in the order of the attributes; an emptied number is the default."""
        block, order, answer, weights, place, way, steps = values
        return cls(int(block or 0), order, answer, weights, int(place or 0), way, int(steps or 32))


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
        probe: The toxicity probe of the base model.
        lenses: Vanilla and edited lens, on the safe and on the unsafe answer.
        lens_weights: The edited weights of the lenses.
        padding: The released locator, padded both ways.
        tokens: Attribution of the unsafe answer to the prompt's tokens, by the weights' name.
    """

    case: Case | None = None
    format: PromptFormat = PromptFormat()
    located: tuple[Located, ...] = ()
    refused: tuple[NotLocated, ...] = ()
    atlas: Atlas | None = None
    activity: NeuronActivity | None = None
    probe: Probe | None = None
    lenses: dict[str, tuple[Lens, Lens]] = field(default_factory=dict)
    lens_weights: str = "vanilla"
    padding: PaddingStudy | None = None
    tokens: dict[str, TokenAttribution] = field(default_factory=dict)

    def agreements(self) -> list[Agreement]:
        """Compare every locator with the atlas, if both are there."""
        if self.atlas is None or not self.atlas.entries:
            return []
        achieved = self.atlas.curve(self.atlas.truth)
        return [agreement(item, achieved) for item in self.located]
