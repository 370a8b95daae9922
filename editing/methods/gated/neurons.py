"""The neurons of an MLP as gates: which rows decide when one writes, which can be spared, and a change of some.

A neuron writes act(g x) (u x) times its column in a gated MLP, act(g x + b) times its column in another one. Where the
activation is next to nothing below zero and next to the identity above, the row g is a threshold: what a change of the
down-projection alone, linear in its input, cannot have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inspector.errors import EditError
from inspector.model import Delta, InspectedModel
from inspector.model.architecture import canonical_shape, canonical_weight
from inspector.model.hooks import observe_inputs, rewrite_output, stopping_before
from inspector.model.offloaded import held

_FAR = 30.0
"""Where an activation that can hold a gate is all but zero on one side and all but the identity on the other."""
_CLOSE = 0.02
"""Share of :data:`_FAR` that either may differ by."""


@dataclass(frozen=True)
class Rows:
    """Rows of a projection that belong to the neurons of a block, one each, in their order.

    Attributes:
        module: Full dotted name of the projection.
        start: The first neuron's row: a fused projection holds gates and ups one after the other.
    """

    module: str
    start: int = 0


@dataclass(frozen=True)
class Wiring:
    """How the neurons of a block are switched.

    Attributes:
        gate: The rows whose product with the input goes through the activation.
        up: The rows that the activation is multiplied with; ``None`` in an MLP that is not gated.
    """

    gate: Rows
    up: Rows | None


@torch.no_grad()
def wiring(model: InspectedModel, block: int) -> Wiring:
    """Find the gates of a block's MLP by what it does, not by how its family names them.

    Each way that it could be wired is tried: what would be the gate is set far below zero, then far above, with one at
    what would be the up-projection, and the neurons have to write nothing, then just that.

    Raises:
        EditError: No way fits: the activation is no threshold, or the MLP has other parts.
    """
    names = list(model.architecture.mlp_projections(block))[:-1]
    neurons = model.architecture.d_ff
    sizes = [canonical_shape(model.network.get_submodule(name))[0] for name in names]
    ways: list[Wiring] = []
    if sizes == [neurons]:
        ways = [Wiring(Rows(names[0]), None)]
    elif sizes == [2 * neurons]:
        halves = Rows(names[0]), Rows(names[0], neurons)
        ways = [Wiring(*halves), Wiring(*reversed(halves))]
    elif sizes == [neurons, neurons]:
        both = Rows(names[0]), Rows(names[1])
        ways = [Wiring(*both), Wiring(*reversed(both))]
    for way in ways:
        if all(_does(model, block, way, value, max(value, 0.0)) for value in (-_FAR, _FAR)):
            return way
    raise EditError(
        f"The MLP of block {block} of this {model.architecture.family} model cannot hold a gate: its neurons are not "
        "switched off below a threshold and on above it. Use another method, DINM for example."
    )


def _does(model: InspectedModel, block: int, way: Wiring, value: float, expected: float) -> bool:
    """Tell whether the neurons write a value where their gates are set to one and their ups to 1."""
    wanted: dict[str, list[tuple[int, float]]] = {way.gate.module: [(way.gate.start, value)]}
    if way.up is not None:
        wanted.setdefault(way.up.module, []).append((way.up.start, 1.0))
    seen: dict[int, Tensor] = {}
    ids = torch.tensor([[1, min(5, model.architecture.vocabulary - 1)]], device=model.device)
    with ExitStack() as stack:
        stack.enter_context(model.running())
        for name, entries in wanted.items():
            stack.enter_context(_set(model, name, entries))
        stack.enter_context(observe_inputs([model.architecture.down_projections[block]], seen.__setitem__))
        stack.enter_context(stopping_before(model.architecture.final_norm or model.architecture.unembedding))
        model.network(input_ids=ids, use_cache=False)
    return bool((seen[0].float() - expected).abs().max() <= _CLOSE * _FAR)


@contextmanager
def _set(model: InspectedModel, name: str, entries: Sequence[tuple[int, float]]) -> Iterator[None]:
    neurons = model.architecture.d_ff

    def rewrite(_inputs: Tensor, output: Tensor) -> Tensor:
        output = output.clone()
        for start, value in entries:
            output[..., start : start + neurons] = value
        return output

    with rewrite_output(model.network.get_submodule(name), rewrite):
        yield


def spare_neurons(model: InspectedModel, block: int, moment: Tensor, count: int) -> Tensor:
    """Return the neurons that write least for harmless prompts, the least first.

    Args:
        moment: ``[d_ff, d_ff]`` of :func:`editing.optimising.null_space.harmless_moment`: its diagonal is how strongly
            each neuron fires, squared, in the mean.
        count: How many.

    Returns:
        ``[count]`` their numbers.

    Raises:
        EditError: The block has no more neurons than that.
    """
    if count >= model.architecture.d_ff:
        raise EditError(
            f"Layer {block} has {model.architecture.d_ff} neurons and {count} of them would become gates. Take fewer "
            "gates."
        )
    columns = model.architecture.down_weight(block).detach().float().square().sum(dim=0)
    return (moment.diagonal().to(columns.device) * columns).argsort()[:count].cpu()


def rows_replaced(model: InspectedModel, block: int, rows: Rows, neurons: Tensor, values: Tensor) -> Delta:
    """Return the change that gives neurons other rows.

    Args:
        neurons: ``[count]`` their numbers.
        values: ``[count, d_model]`` float32, the new rows.
    """
    weight = canonical_weight(_projection(model, rows.module)).detach().float()
    places = neurons.to(weight.device) + rows.start
    left = torch.zeros(weight.shape[0], len(neurons))
    left[neurons + rows.start, torch.arange(len(neurons))] = 1.0
    return Delta(rows.module, block, left, (values.to(weight.device) - weight[places]).cpu())


def bias_of(model: InspectedModel, rows: Rows, neurons: Tensor) -> Tensor:
    """Return what a projection adds for neurons whatever the input, ``[count]`` float32; a change cannot reach it."""
    bias = held(_projection(model, rows.module), "bias")
    return torch.zeros(len(neurons)) if bias is None else bias.detach().float().cpu()[neurons + rows.start]


def merged(deltas: Sequence[Delta]) -> tuple[Delta, ...]:
    """Return low-rank changes with those of one matrix put together: a fused projection holds gates and ups."""
    found: dict[str, Delta] = {}
    for delta in deltas:
        earlier = found.get(delta.module)
        if earlier is not None:
            assert earlier.right is not None and delta.right is not None
            sides = torch.cat([earlier.left, delta.left], dim=1), torch.cat([earlier.right, delta.right])
            delta = Delta(delta.module, delta.block, *sides)
        found[delta.module] = delta
    return tuple(found.values())


def _projection(model: InspectedModel, name: str) -> nn.Module:
    return model.network.get_submodule(name)
