"""A network that can be trained while the base stays as it is: modules of its own on the shared base tensors.

:func:`trainee` copies the module tree, not the weights. The copy's matrices then get LoRA factors (through peft) or
float32 masters; the inspected model's modules, hooks and tensors are never touched, so other visitors' answers in
between two steps are vanilla bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from editing.memory import require_free_memory
from editing.optimising.replay import require_in_memory
from editing.optimising.smaller import parts_of, together
from inspector.errors import EditError
from inspector.model import Delta, InspectedModel
from inspector.model.architecture import canonical_shape, canonical_weight
from inspector.model.counted import Counted, logits_at, token_log_probabilities
from inspector.model.encoding import Encoded
from inspector.model.offloaded import place, stores
from inspector.model.patches.patch import square_norm
from inspector.model.quantised import shared_with_copies
from inspector.model.waiting import read
from inspector.validated import settings as checked

Scope = Literal["LoRA", "full"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
Rank = Annotated[int, Field(ge=1, le=1024)]
Alpha = Annotated[int, Field(gt=0, le=4096)]
COPIES = 7
"""Float32 copies of the trained weights that full training takes: master, gradient, two moments of Adam, the last good
step, the patch, and one in passing; ``benchmarks/methods.py --cost`` measures it."""


@checked(EditError)
class TrainedScope:
    """What of the model is trained: every matrix of every block, as low-rank factors or whole.

    Embeddings, norms and biases stay as they are.

    Attributes:
        scope: ``LoRA`` (Hu et al. 2021, through peft) or ``full``, every weight of the matrices.
        rank: Rank of the LoRA factors.
        alpha: LoRA's alpha; the product of the factors is scaled by alpha / rank.
        seed: Seed of LoRA's first factors.
    """

    scope: Scope = "LoRA"
    rank: Rank = 8
    alpha: Alpha = 16
    seed: int = 0


class Trainee:
    """A trainable copy of an inspected model; see :func:`trainee`.

    A training asks the same few batches again and again: their ids are copied to the device once.

    Attributes:
        parameters: What an optimiser trains.
    """

    def __init__(
        self,
        model: InspectedModel,
        network: nn.Module,
        matrices: dict[str, tuple[int, nn.Module]],
        smaller: bool = False,
    ) -> None:
        self._model = model
        self._network = network
        self._matrices = matrices
        self._smaller = smaller
        self._batches: dict[tuple[Any, Any], tuple[Tensor, Counted]] = {}
        self._labels: dict[tuple[Encoded, ...], Tensor] = {}
        self.parameters: list[nn.Parameter] = [
            p for _, module in matrices.values() for p in module.parameters() if p.requires_grad
        ]

    def logits(self, sequences: Sequence[Sequence[int]], counted: Sequence[Sequence[int]]) -> Tensor:
        """Return float32 logits ``[positions, vocabulary]`` at the counted positions, sequence after sequence.

        Args:
            sequences: Token ids; shorter ones are padded on the right, where no real position looks.
            counted: Positions of each sequence.
        """

        def whole(sequences: Sequence[Sequence[int]], counted: Sequence[Sequence[int]]) -> Tensor:
            asked = tuple(map(tuple, sequences)), tuple(map(tuple, counted))
            if asked not in self._batches:
                self._batches[asked] = self._model.batch(*sequences), Counted(counted)
            return logits_at(self._model, *self._batches[asked], self._network)

        if not self._smaller:
            return whole(sequences, counted)
        return together([partial(whole, *part) for part in parts_of(sequences, counted)])

    def log_probabilities(self, answers: Sequence[Encoded]) -> list[Tensor]:
        """Return the log-probability of every response token of each sequence, ``[tokens]`` in nats."""
        logits = self.logits([answer.tokens for answer in answers], [answer.predicting for answer in answers])
        asked = tuple(answers)
        if asked not in self._labels:
            labels = [token for answer in answers for token in answer.response]
            self._labels[asked] = torch.tensor(labels, device=logits.device)
        chosen = token_log_probabilities(logits, self._labels[asked])
        return list(chosen.split([len(answer.response) for answer in answers]))

    @torch.no_grad()
    def deltas(self) -> tuple[Delta, ...]:
        """Return the change of every trained matrix so far; matrices that have not changed are left out."""
        found = {name: _factors(module) for name, (_, module) in self._matrices.items()}
        changed = read([(left != 0).any() for left, _ in found.values()])
        return tuple(
            Delta(name, self._matrices[name][0], left.clone(), None if right is None else right.clone())
            for (name, (left, right)), differs in zip(found.items(), changed, strict=True)
            if differs
        )

    @torch.no_grad()
    def delta_norm(self) -> Tensor:
        """Return the Frobenius norm over all changes so far, a single number; low-rank ones stay in their factors."""
        squares = [square_norm(*_factors(module)) for _, module in self._matrices.values()]
        return torch.stack([square.to(squares[0].device) for square in squares]).sum().sqrt()

    @torch.no_grad()
    def kept(self) -> list[Tensor]:
        """Return a copy of what is trained."""
        return [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def restore(self, kept: Sequence[Tensor]) -> None:
        """Go back to what :meth:`kept` returned."""
        for parameter, value in zip(self.parameters, kept, strict=True):
            parameter.copy_(value)


def trainee(model: InspectedModel, trained: TrainedScope = TrainedScope(), smaller: bool = False) -> Trainee:
    """Copy a model so that its matrices can be trained.

    Args:
        smaller: Half of what it gets at once is in memory at a time (:mod:`editing.optimising.smaller`).

    Raises:
        EditError: A weight is offloaded or, for full training, quantised, or that needs more memory than is free.
        ArchitectureError: A matrix is quantised in a way that is not known.
    """
    names = {name: block for block in range(model.blocks) for name in model.architecture.projections(block)}
    for block in range(model.blocks):
        for module in model.architecture.projections(block).values():
            canonical_shape(module)  # refuses what cannot be trained on
            require_in_memory(module, block)
    if trained.scope == "full":
        if model.quantisation is not None:
            raise EditError(
                f"The weights of this model are quantised ({model.quantisation}), and whole ones are not trained on "
                "them. Set scope to 'LoRA', or load the model with --dtype bfloat16."
            )
        weights: Counter[torch.device] = Counter()
        for name in names:
            module = model.network.get_submodule(name)
            weights[place(module)] += math.prod(canonical_shape(module))
        for device, count in weights.items():
            require_free_memory(device, COPIES * 4 * count)
    with model.lock:  # no hook of a running measurement is copied
        network = shared_copy(model.network)
    if trained.scope == "full":
        put = {name: (block, _Master.put(network, name)) for name, block in names.items()}
        return Trainee(model, network, put, smaller)
    _inject_lora(network, list(names), trained)
    put = {name: (block, network.get_submodule(name)) for name, block in names.items()}
    return Trainee(model, network, put, smaller)


def shared_copy(network: nn.Module) -> nn.Module:
    """Return a copy of the module tree that shares every parameter and buffer.

    It also shares quantised weights' scales and what offloaded ones are kept in. Hold the model's lock meanwhile, so
    that no hook of a running measurement is copied.
    """
    besides = (*shared_with_copies(network), *stores(network))
    shared: dict[int, object] = {id(part): part for part in (*network.parameters(), *network.buffers(), *besides)}
    copied = copy.deepcopy(network, shared)
    for name, parameter in copied.named_parameters():
        assert parameter is network.get_parameter(name)
    return copied


def _inject_lora(network: nn.Module, names: list[str], trained: TrainedScope) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=trained.rank,
        lora_alpha=trained.alpha,
        target_modules=names,
        fan_in_fan_out=any(type(network.get_submodule(name)).__name__ == "Conv1D" for name in names),
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trained.seed)
        inject_adapter_in_model(config, network)
    # peft gives the factors the base's data type, in which a small step would be rounded away; its layers cast their
    # input to the factors' own.
    for name in names:
        layer = network.get_submodule(name)
        layer.lora_A.float()
        layer.lora_B.float()


class _Master(nn.Module):
    """A projection with a float32 master weight ``[out, in]`` in place of its own; the bias is the base's."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = canonical_weight(base).detach()
        self.bias = getattr(base, "bias", None)
        self.weight = nn.Parameter(self.base.float().clone())

    @classmethod
    def put(cls, network: nn.Module, name: str) -> _Master:
        parent, _, child = name.rpartition(".")
        made = cls(network.get_submodule(name))
        setattr(network.get_submodule(parent), child, made)
        return made

    def forward(self, inputs: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return F.linear(inputs.float(), self.weight, bias).to(inputs.dtype)


def _factors(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return a trained matrix's change as a delta's two sides; low-rank ones may share the trained tensors' memory."""
    if isinstance(module, _Master):
        return (module.weight - module.base.float()).detach(), None
    (adapter,) = module.active_adapters
    left = module.lora_B[adapter].weight.float() * module.scaling[adapter]
    return left.detach(), module.lora_A[adapter].weight.float().detach()
