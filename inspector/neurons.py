"""Neurons of a block's MLP: which of them carry the difference of the two answers, and what their vectors say.

A neuron is one input of the down-projection; its value vector is the column it is multiplied with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from inspector.attribution import freeze_norm
from inspector.errors import PatchError
from inspector.margin import answer_pair, mlp_trace
from inspector.model.architecture import canonical_weight
from inspector.model.inspected import InspectedModel
from inspector.model.offloaded import place
from inspector.model.patches.patch import VANILLA, Delta, Patch, Row
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.cases import Case


@dataclass(frozen=True, eq=False)
class NeuronActivity:
    """What every neuron of every block does on the two answers of a case.

    Attributes:
        safe: ``[blocks, d_ff]`` mean activation over the positions that predict the safe answer.
        unsafe: ``[blocks, d_ff]`` the same for the unsafe answer.
        contribution: ``[blocks, d_ff]`` gradient x activation of log P(unsafe) - log P(safe), summed over all
            positions of both sequences, nats a token; positive where the neuron pushes to the unsafe answer.
        margin: log P(safe) - log P(unsafe), nats a token.
    """

    safe: np.ndarray
    unsafe: np.ndarray
    contribution: np.ndarray
    margin: float

    @property
    def difference(self) -> np.ndarray:
        """``[blocks, d_ff]`` activation on the unsafe answer minus that on the safe one."""
        return self.unsafe - self.safe

    def carrying(self, block: int, count: int) -> list[int]:
        """Return the neurons of a block with the largest contribution of either sign, largest first."""
        return [int(neuron) for neuron in np.argsort(np.abs(self.contribution[block]))[::-1][:count]]

    def pushing(self, block: int, count: int) -> list[int]:
        """Return the neurons of a block that push hardest to the unsafe answer, hardest first."""
        order = np.argsort(self.contribution[block])[::-1][:count]
        return [int(neuron) for neuron in order if self.contribution[block, neuron] > 0]


def neuron_activity(
    model: InspectedModel, case: Case, row: Row = VANILLA, *, format: PromptFormat = PromptFormat()
) -> NeuronActivity:
    """Measure every neuron on a case, with one forward and one backward pass.

    Raises:
        CaseError: An answer is empty, or both are the same.
        PromptError: A text is empty or too long.
    """
    texts = answer_pair(model, case, format=format.open())
    trace = mlp_trace(model, texts.sequences, texts.counted, texts.margin, row)
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    pushes = []
    for block in range(model.blocks):
        inner = trace.inputs[block].float()
        for found, number, counted in zip(sides, (0, 1), texts.counted, strict=True):
            found.append(inner[number, counted.start : counted.stop].mean(dim=0).cpu().numpy())
        weight = _weight_of(model, block, row)
        pushes.append(-((trace.gradients[block].float() @ weight) * inner).sum(dim=(0, 1)).cpu().numpy())
    return NeuronActivity(np.stack(sides[0]), np.stack(sides[1]), np.stack(pushes), trace.value)


def _weight_of(model: InspectedModel, block: int, row: Row) -> Tensor:
    """Return a block's down-projection ``[d_model, d_ff]`` with a row's patch, float32."""
    weight = model.architecture.down_weight(block).detach().float()
    for delta in row.patch.deltas if row.patch else ():
        if delta.module == model.architecture.down_projection_names[block]:
            weight = weight + row.strength * delta.dense().to(weight.device)
    return weight


@dataclass(frozen=True)
class Neuron:
    """One line of the table of neurons.

    Attributes:
        index: Number of the neuron in its block.
        safe: Mean activation on the safe answer.
        unsafe: Mean activation on the unsafe answer.
        contribution: See :class:`NeuronActivity`.
        toxicity: Cosine of its value vector with the toxic direction; ``None`` without a probe.
        moved: Norm of the edit's change of its column over the column's norm; ``None`` without an edit here.
        promoted: Tokens that its value vector makes likelier, most first.
        suppressed: Tokens that it makes less likely, most first.
    """

    index: int
    safe: float
    unsafe: float
    contribution: float
    toxicity: float | None
    moved: float | None
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]

    @property
    def difference(self) -> float:
        """Activation on the unsafe answer minus that on the safe one."""
        return self.unsafe - self.safe


KNOCK_OUT = "neuron knock-out"
"""How a knock-out is called among the methods of edits."""
ORDERS = ("contribution", "difference", "toxicity", "moved")
"""What the table can be ordered by; all but ``contribution`` by size without sign, toxicity with it."""


def neuron_table(
    model: InspectedModel,
    activity: NeuronActivity,
    block: int,
    *,
    toxicity: np.ndarray | None = None,
    moved: np.ndarray | None = None,
    order: str = "contribution",
    count: int = 40,
    tokens: int = 5,
) -> list[Neuron]:
    """Return the first neurons of a block by one quantity, the largest first.

    Args:
        toxicity: ``[d_ff]`` from :func:`inspector.toxicity.neuron_toxicity`.
        moved: ``[d_ff]`` relative change from :func:`inspector.columns.neuron_profile`.
        order: One of :data:`ORDERS`; falls back to ``contribution`` where the quantity is not given.
        count: Lines of the table.
        tokens: Promoted and suppressed tokens of each.
    """
    model.architecture.check_block(block)
    keys = {
        "contribution": np.abs(activity.contribution[block]),
        "difference": np.abs(activity.difference[block]),
        "toxicity": toxicity,
        "moved": moved,
    }
    by = keys.get(order)
    chosen = [int(n) for n in np.argsort(keys["contribution"] if by is None else by)[::-1][:count]]
    words = token_effects(model, block, chosen, tokens)
    return [
        Neuron(
            index=n,
            safe=float(activity.safe[block, n]),
            unsafe=float(activity.unsafe[block, n]),
            contribution=float(activity.contribution[block, n]),
            toxicity=None if toxicity is None else float(toxicity[n]),
            moved=None if moved is None else float(moved[n]),
            promoted=promoted,
            suppressed=suppressed,
        )
        for n, (promoted, suppressed) in zip(chosen, words, strict=True)
    ]


@torch.no_grad()
def token_effects(
    model: InspectedModel, block: int, neurons: Sequence[int], tokens: int = 5
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the tokens that each neuron's value vector promotes and suppresses, by the unembedding alone.

    The value vector goes through the norm that the family may have after its MLP (Gemma), the final norm's centring
    and gain, and the unembedding; the norms' scales play no part.
    """
    architecture = model.architecture
    vectors = architecture.down_weight(block)[:, list(neurons)].detach().float().T
    with model.lock:
        for norm in (architecture.part_of_block(block, architecture.paths.after_mlp), architecture.final_norm):
            vectors = _through(norm, vectors)
    for projection in (architecture.project_out, architecture.unembedding):
        if projection is not None:
            weight = canonical_weight(projection).float()
            vectors = vectors.to(weight.device) @ weight.T
    scores = vectors
    high, low = scores.topk(tokens, dim=-1).indices, (-scores).topk(tokens, dim=-1).indices
    return [
        (model.token_texts(one.tolist()), model.token_texts(two.tolist())) for one, two in zip(high, low, strict=True)
    ]


def _through(norm: nn.Module | None, vectors: Tensor) -> Tensor:
    """Return what a norm makes of vectors ``[..., d_model]`` that are added to its input, its scale left out."""
    device = vectors.device if norm is None or next(norm.parameters(), None) is None else place(norm)
    state = torch.linspace(0.5, 2.0, vectors.shape[-1], device=device)  # its mean is not zero, so centring shows
    return freeze_norm(norm, state)(vectors.to(device))


def column_delta(name: str, block: int, change: Tensor, columns: Tensor, d_ff: int) -> Delta:
    """Return the low-rank delta that changes some columns of a down-projection.

    Args:
        change: ``[d_model, columns]`` what is added to them.
        columns: Their numbers.
        d_ff: Number of columns of the matrix.
    """
    right = torch.zeros(len(columns), d_ff, device=change.device)
    right[torch.arange(len(columns)), columns] = 1.0
    return Delta(name, block, change.contiguous(), right)


def neuron_knock_out(model: InspectedModel, block: int, neurons: Sequence[int]) -> Patch:
    """Return the patch that takes these neurons' value vectors away: their activations no longer count.

    Raises:
        PatchError: No neuron is given, one is given twice, or one does not exist.
        ArchitectureError: The block does not exist.
    """
    architecture = model.architecture
    architecture.check_block(block)
    chosen = sorted(set(neurons))
    if not chosen or len(chosen) != len(neurons):
        raise PatchError("Give at least one neuron, and each only once.")
    if chosen[0] < 0 or chosen[-1] >= architecture.d_ff:
        raise PatchError(f"Neurons of this model are numbered 0 to {architecture.d_ff - 1}. Choose some of those.")
    change = -architecture.down_weight(block)[:, chosen].detach().float()
    name = architecture.down_projection_names[block]
    delta = column_delta(name, block, change, torch.tensor(chosen), architecture.d_ff)
    return Patch((delta,), model.fingerprint, KNOCK_OUT, {"block": block, "neurons": chosen})
