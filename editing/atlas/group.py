"""Edits of neighbouring blocks that descend side by side, and the tails that they are evaluated and measured on."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from editing.atlas.made import AtlasSettings, Entry
from editing.calibrating.step_size import adam, first_size, measured_sizes
from editing.optimising.descent import Descent, Signs, Stops, fused, laid_out
from editing.optimising.replay import master_weight
from editing.progress import Step
from inspector.errors import RefusedEdit
from inspector.kl import kl_by_token, not_negative
from inspector.model import Encoded, InspectedModel
from inspector.model.counted import token_log_probabilities
from inspector.model.passes.tails import Tails, with_weight
from inspector.model.waiting import gathered, read


class AtlasTails:
    """The tails of everything that is measured, for all chosen blocks.

    Attributes:
        model: The model.
        vanilla: ``[positions, vocabulary]`` vanilla log-probabilities on the harmless answers.
        before: Mean log-probability of the safe and of the unsafe answer, vanilla, nats.
    """

    def __init__(
        self,
        model: InspectedModel,
        safe: Encoded,
        unsafe: Encoded,
        harmless: Sequence[Encoded],
        blocks: Sequence[int],
    ) -> None:
        self.model = model
        self.safe = Tails(model, [safe.tokens], [safe.predicting], blocks)
        self.both = _alike(model, (safe, unsafe), blocks)
        self.harmless = _alike(model, harmless, blocks)
        device = model.architecture.head_device  # where the logits are: no copy a step
        self.safe_labels, self.unsafe_labels = (torch.tensor(one.response, device=device) for one in (safe, unsafe))
        last = blocks[-1]
        whole = {last: master_weight(model, last)}
        safe_before, unsafe_before = self.likelihoods(_run(self.both, whole)[last])
        self.before = (float(safe_before), float(unsafe_before))
        self.vanilla = _run(self.harmless, whole)[last].log_softmax(dim=-1)

    def likelihoods(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean log-probability of the safe and of the unsafe answer from the logits of both, nats."""
        safe, unsafe = logits.split([len(self.safe_labels), len(self.unsafe_labels)])
        return likelihood(safe, self.safe_labels), likelihood(unsafe, self.unsafe_labels)


class Group:
    """The down-projections of neighbouring blocks that descend side by side
    (:class:`~editing.optimising.descent.Trained`).

    Their losses are summed up, so that each gets the gradient of its own.

    Args:
        value: The loss of the unedited weights.
        gradients: Its gradient in each of the matrices, by block; emptied with the first update, when they are used.

    Attributes:
        sizes: The step size of each block, as far as one was measured and found.
    """

    def __init__(self, model: InspectedModel, value: float, gradients: dict[int, Tensor]) -> None:
        self.weights = {block: master_weight(model, block).requires_grad_(True) for block in gradients}
        self._value, self._gradients = value, gradients
        self.parameters = list(self.weights.values())
        self.sizes: dict[int, float] = {}

    def delta_norm(self) -> float:
        """Not followed step by step: each block's is measured at the end."""
        return 0.0

    def kept(self) -> list[Tensor]:
        """See :class:`~editing.optimising.descent.Trained`."""
        return [weight.detach().clone() for weight in self.parameters]

    @torch.no_grad()
    def restore(self, kept: Sequence[Tensor]) -> None:
        """See :class:`~editing.optimising.descent.Trained`."""
        for weight, value in zip(self.parameters, kept, strict=True):
            weight.copy_(value)

    def signs(self, tails: AtlasTails, number: int) -> Signs:
        """Evaluate all of them; before the first update they are all vanilla and one backward pass serves them all."""
        if number > 0:
            self._gradients.clear()
            found = _run(tails.safe, self.weights)
            loss = torch.stack([-likelihood(logits, tails.safe_labels) for logits in found.values()]).sum()
            mean = loss.detach() / len(self.weights)
            return Signs(loss, mean, 0.0, mean, (-mean).exp())

        def put() -> None:
            for block, weight in self.weights.items():
                weight.grad = laid_out(self._gradients[block].to(weight.device), weight)

        loss = torch.tensor(self._value * len(self.weights))
        return Signs(loss, self._value, 0.0, self._value, math.exp(-self._value), backward=put)

    def optimiser(self, tails: AtlasTails, settings: AtlasSettings) -> torch.optim.Optimizer:
        """Return Adam with the settings' step size, or with the size of each block that is measured."""
        if settings.learning_rate is not None:
            return torch.optim.Adam(self.parameters, lr=settings.learning_rate, fused=fused(self.parameters))
        gradients = {block: self._gradients[block].to(weight.device) for block, weight in self.weights.items()}

        blocks = list(self.weights)

        @torch.no_grad()
        def cost(tried: np.ndarray, sizes: np.ndarray) -> np.ndarray:
            stepped = {
                blocks[place]: self.weights[blocks[place]] - size * gradients[blocks[place]].sign()
                for place, size in zip(tried.tolist(), sizes.tolist(), strict=True)
            }
            with tails.model.lock:  # for one trial at a time: others take turns
                found = _run(tails.harmless, stepped)
            return np.array(read([kl_by_token(tails.vanilla, found[b].log_softmax(dim=-1)) for b in stepped]))

        start = np.array([first_size(weight.detach()) for weight in self.parameters])
        sizes = measured_sizes(cost, start, settings.step_kl)
        self.sizes = {
            block: size for block, size in zip(self.weights, sizes.tolist(), strict=True) if math.isfinite(size)
        }
        # Where no size is found, the first trial is as good as any: what its edit costs is measured.
        return adam(self.parameters, list(gradients.values()), np.where(np.isnan(sizes), start, sizes).tolist())

    def edited(self) -> dict[int, Tensor]:
        """Return the edited matrices by block."""
        return {block: weight.detach() for block, weight in self.weights.items()}

    def entries(self, tails: AtlasTails) -> list[Entry]:
        """Measure what the edits achieve."""
        return [
            replace(entry, step_size=self.sizes.get(entry.block))
            for entry in measured(tails.model, tails, self.edited())
        ]


@dataclass(frozen=True, eq=False)
class Descended:
    """What has become of a group.

    Attributes:
        weights: The edited matrices by block.
        entries: What they achieve.
        cancelled: It ended early; there are none, then.
        refused: Why it has no edits, empty where no update could be kept; ``None`` where it has.
    """

    weights: Mapping[int, Tensor] = field(default_factory=dict)
    entries: Sequence[Entry] = ()
    cancelled: bool = False
    refused: str | None = None


def descended(
    model: InspectedModel,
    tails: AtlasTails,
    value: float,
    gradients: dict[int, Tensor],
    settings: AtlasSettings,
    cancel: Callable[[], bool],
) -> Generator[Step, None, Descended]:
    """Let a group descend and measure it; yields its steps.

    A block by itself keeps what any edit keeps: the updates before the one that led out of the finite numbers. Blocks
    that share their steps keep none then, as one of them has spoilt the others' way.

    Args: ``value`` and ``gradients`` as for :class:`Group`.
    """
    group = Group(model, value, gradients)
    descent = Descent(group, model.lock, model.gradient_scale)
    optimiser = group.optimiser(tails, settings)

    def evaluate(number: int, _gradient: bool) -> Signs:
        return group.signs(tails, number)

    try:
        yield from descent.run(evaluate, optimiser, settings.steps, Stops(), cancel, measure_last=False)
    except RefusedEdit as error:
        return Descended(refused=error.user_message())
    if descent.reason == "cancelled":
        return Descended(cancelled=True)
    weights = group.edited()
    if descent.reason != "not finite":
        entries = group.entries(tails)
        if all(entry.finite for entry in entries):
            return Descended(weights, entries)
    if len(weights) > 1:
        return Descended(refused="")
    descent.undo()  # the last update, which nothing has measured on the way down
    return Descended(weights, group.entries(tails)) if descent.updates else Descended(refused="")


def likelihood(logits: Tensor, labels: Sequence[int] | Tensor) -> Tensor:
    """Return the mean log-probability of the labels."""
    return token_log_probabilities(logits, labels).mean()


def _alike(model: InspectedModel, texts: Sequence[Encoded], blocks: Sequence[int]) -> Tails:
    """Return the tails of texts that begin alike."""
    return Tails(model, [text.tokens for text in texts], [text.predicting for text in texts], blocks, alike=True)


def _run(tails: Tails, weights: dict[int, Tensor]) -> dict[int, Tensor]:
    return tails.logits({block: tails.changed(block, with_weight(weight)) for block, weight in weights.items()})


@torch.no_grad()
def measured(model: InspectedModel, tails: AtlasTails, weights: dict[int, Tensor]) -> list[Entry]:
    """Measure the edits of some blocks; the edited matrices by block."""
    with model.lock:
        answers, harmless = (_run(each, weights) for each in (tails.both, tails.harmless))
    numbers: list[Tensor] = []
    for block, weight in weights.items():
        cost = not_negative(kl_by_token(tails.vanilla, harmless[block].log_softmax(dim=-1)))
        numbers += [*tails.likelihoods(answers[block]), cost, (weight - master_weight(model, block)).norm()]
    rows = gathered(numbers).view(-1, 4).tolist()  # one wait for the device
    return [
        Entry(block=block, safe=safe, unsafe=unsafe, kl=kl, delta_norm=norm)
        for block, (safe, unsafe, kl, norm) in zip(weights, rows, strict=True)
    ]
