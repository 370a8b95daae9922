"""What each block's MLP causes: the margin of the safe answer with that MLP's writing replaced by its mean.

Mean ablation: at the prompt's positions the down-projection of one block writes what it writes on average on
harmless requests, and everything above runs on. The first position is left as it is: models park a massive
activation there which all later positions attend to, and taking it away measures that and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from inspector.margin import answer_pair
from inspector.model.encoding import encode
from inspector.model.hooks import observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.memory.halving import halved
from inspector.model.memory.recent import Recent, named
from inspector.model.passes.tails import Change, Tails, with_weight
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.cases import Case, bundled_constraint_prompts

MOST_FORMATS = 8
"""Formats whose means are kept."""
_MEANS: WeakKeyDictionary[InspectedModel, Recent[str, tuple[Tensor, ...]]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class KnockOut:
    """Margins with one block's MLP ablated at a time.

    Attributes:
        vanilla: log P(safe) - log P(unsafe) of the whole model, nats a token.
        ablated: ``[blocks]`` the same with this block's MLP replaced by its mean on the prompt.
    """

    vanilla: float
    ablated: np.ndarray

    @property
    def effect(self) -> np.ndarray:
        """``[blocks]`` change of the margin; positive where the MLP had pushed to the unsafe answer."""
        return self.ablated - self.vanilla


@torch.no_grad()
def mean_writings(model: InspectedModel, format: PromptFormat = PromptFormat()) -> tuple[Tensor, ...]:
    """Return each block's mean down-projection output ``[d_model]`` on bundled harmless requests.

    The mean is over all positions but the first of each request; it is kept per model.
    """
    known, key = _MEANS.setdefault(model, Recent(MOST_FORMATS)), named(format)
    means = known.get(key)
    if means is None:
        architecture = model.architecture
        prompts = [encode(model, text, format=format).prompt for text in bundled_constraint_prompts()[:8]]

        def summed(some: Sequence[Sequence[int]]) -> list[dict[int, Tensor]]:
            sums: dict[int, Tensor] = {}
            shape = (len(some), max(map(len, some)), -1)

            def add(block: int, written: Tensor) -> None:
                rows = written.reshape(shape).float()
                sums[block] = torch.stack([rows[n, 1 : len(p)].sum(dim=0) for n, p in enumerate(some)]).sum(dim=0)

            with (
                model.running(),
                stopping_before(architecture.final_norm or architecture.unembedding),
                observe_outputs(architecture.down_projections, add),
            ):
                model.network(input_ids=model.batch(*some), use_cache=False)
            return [sums]

        count = sum(len(prompt) - 1 for prompt in prompts)
        found = halved(summed, prompts)
        sums = [torch.stack([part[block] for part in found]).sum(dim=0) for block in range(model.blocks)]
        known[key] = means = tuple(one / count for one in sums)
    return means


def knock_out_mlps(
    model: InspectedModel,
    case: Case,
    *,
    format: PromptFormat = PromptFormat(),
    together: int = 6,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, KnockOut | None]:
    """Mean-ablate every block's MLP in turn.

    Args:
        together: Blocks whose tails share a batch.
        cancel: Asked between batches.

    Yields:
        The share that is done, 0 to 1.

    Returns:
        The margins; ``None`` when cancelled.

    Raises:
        CaseError: An answer is empty, or both are the same.
        PromptError: A text is empty or too long.
    """
    texts = answer_pair(model, case, format=format.open())
    means = mean_writings(model, format)
    with torch.no_grad():
        tails = Tails(model, texts.sequences, texts.counted, counted_only=False)
    places = slice(1, len(texts.prompt))
    with torch.no_grad():
        last = model.architecture.last_block
        whole = tails.changed(last, with_weight(model.architecture.down_weight(last).detach().float()))
        vanilla = float(texts.margin(tails.logits({last: whole})[last]))
    ablated = np.zeros(model.blocks)

    @torch.no_grad()
    def margins(blocks: Sequence[int]) -> list[float]:
        changes = {b: tails.changed(b, _replaced(model.architecture.down_weight(b), means[b], places)) for b in blocks}
        found = tails.logits(changes)
        return [float(texts.margin(found[block])) for block in blocks]

    for start in range(0, model.blocks, together):
        chosen = range(start, min(start + together, model.blocks))
        ablated[list(chosen)] = halved(margins, chosen)
        yield chosen.stop / model.blocks
        if cancel():
            return None
    return KnockOut(vanilla, ablated)


def _replaced(weight: Tensor, mean: Tensor, places: slice) -> Change:
    """Return the change that writes ``mean`` at ``places`` of every sequence and what it wrote elsewhere."""
    project = with_weight(weight.detach().float())

    def change(module: nn.Module, inner: Tensor) -> Tensor:
        written = project(module, inner).clone()
        written[:, places] = mean.to(written.dtype)
        return written

    return change
