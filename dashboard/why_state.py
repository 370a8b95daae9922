"""What one visitor has measured of a case's layers."""

from __future__ import annotations

from dataclasses import dataclass, field

from editing.atlas import Atlas
from inspector.lens import Lens
from inspector.locators import Agreement, Located, agreement
from inspector.neurons import NeuronActivity
from inspector.padding import PaddingStudy
from inspector.probe import Probe
from inspector.safeedit import Case
from inspector.token_attribution import TokenAttribution


@dataclass(frozen=True, eq=False)
class Why:
    """What was measured of one case's layers. Parts that are not measured yet are empty.

    Attributes:
        case: The case.
        suffix: Suffix prompt that it was measured with.
        located: What each locator says, in their order.
        atlas: What the same edit achieves at each block.
        activity: The neurons of all blocks.
        probe: The toxicity probe of the base model.
        lenses: Vanilla and edited lens, on the safe and on the unsafe answer.
        lens_weights: The edited weights of the lenses.
        padding: The released locator, padded both ways.
        tokens: Attribution of the unsafe answer to the prompt's tokens, by the weights' name.
    """

    case: Case | None = None
    suffix: str = ""
    located: tuple[Located, ...] = ()
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
