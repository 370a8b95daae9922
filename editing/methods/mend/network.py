"""The editor network of MEND: from the factors of a fine-tuning gradient to those of an edit.

Mitchell et al. 2022, "Fast Model Editing at Scale", arXiv 2110.11309. The gradient of one matrix is a sum over tokens
of the outer product of two vectors: what went into the matrix, u, and the loss's gradient by what came out, delta. One
network per shape of matrix, shared by all matrices of that shape, maps each (u, delta) to a pseudo (u, delta):

    h = z + relu(s1 * (U1 V1 z + b1) + o1),   g = h + relu(s2 * (U2 V2 h + b2) + o2)      (equations 2a, 2b)

with z the normalised pair, U, V of low rank, and the scales s and offsets o of its own for each matrix. U starts at
zero, so an untrained network is the identity on normalised gradients. The edit is -alpha * sum of delta u^T with a
learned alpha a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Factors = tuple[Tensor, Tensor]
"""``u`` ``[tokens, in]`` and ``delta`` ``[tokens, out]`` of one matrix."""


class _Layer(nn.Module):
    """One residual layer of low rank with a scale and an offset for each matrix."""

    def __init__(self, width: int, rank: int, matrices: int) -> None:
        super().__init__()
        self.outer = nn.Parameter(torch.zeros(width, rank))
        self.inner = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(matrices, width))
        self.offset = nn.Parameter(torch.zeros(matrices, width))

    def forward(self, pairs: Tensor, matrix: int) -> Tensor:
        inside = pairs @ self.inner.T @ self.outer.T + self.bias
        # clamp has a gradient at zero, where an untrained layer stands; relu has none.
        return pairs + (self.scale[matrix] * inside + self.offset[matrix]).clamp(min=0)


class _Transform(nn.Module):
    """The network of one shape of matrix."""

    def __init__(self, shape: tuple[int, int], rank: int, matrices: int) -> None:
        super().__init__()
        self.width_in = shape[1]
        width = shape[0] + shape[1]
        self.layers = nn.ModuleList(_Layer(width, rank, matrices) for _ in range(2))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, factors: Factors, matrix: int) -> Factors:
        pairs = (torch.cat(factors, dim=-1) - self.mean) / self.deviation
        for layer in self.layers:
            pairs = layer(pairs, matrix)
        return pairs[:, : self.width_in], pairs[:, self.width_in :]


@dataclass(frozen=True)
class EditorShape:
    """What an editor network edits.

    Attributes:
        matrices: Full names of the matrices with their shapes ``(out, in)``.
        first: The lowest block that has one of them.
        rank: Rank of the network's layers.
        alpha: Initial step size of every matrix; 1e-4 in Mitchell et al.
    """

    matrices: tuple[tuple[str, tuple[int, int]], ...]
    first: int
    rank: int = 64
    alpha: float = 1e-4


class EditorNetwork(nn.Module):
    """MEND's editor for some matrices of one model."""

    def __init__(self, shape: EditorShape) -> None:
        super().__init__()
        self.shape = shape
        self._places: dict[str, tuple[str, int]] = {}
        groups: dict[tuple[int, int], list[str]] = {}
        for name, size in shape.matrices:
            groups.setdefault(size, []).append(name)
        self.transforms = nn.ModuleDict()
        for size, names in groups.items():
            key = f"{size[0]}x{size[1]}"
            self.transforms[key] = _Transform(size, shape.rank, len(names))
            self._places |= {name: (key, number) for number, name in enumerate(names)}
        self.alphas = nn.Parameter(torch.full((len(shape.matrices),), shape.alpha))

    @property
    def device(self) -> torch.device:
        """Where it computes, wherever the matrices are that it edits."""
        return self.alphas.device

    def normalise_by(self, seen: Sequence[Mapping[str, Factors]]) -> None:
        """Take mean and deviation of each entry from the factors of many cases."""
        for key, transform in self.transforms.items():
            names = [name for name, place in self._places.items() if place[0] == key]
            pairs = torch.cat([torch.cat(factors[name], dim=-1).to(self.device) for factors in seen for name in names])
            transform.mean = pairs.mean(dim=0)
            deviation = pairs.std(dim=0)
            # An entry that was the same in every case, such as a neuron that never fired, keeps its own scale.
            transform.deviation = torch.where(deviation > 1e-12, deviation, torch.ones_like(deviation))

    def forward(self, factors: Mapping[str, Factors]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the edit of every matrix as ``left [out, tokens]`` and ``right [tokens, in]``, where it computes."""
        edits = {}
        for alpha, (name, _) in zip(self.alphas, self.shape.matrices, strict=True):
            key, number = self._places[name]
            given, by_output = (part.to(self.device) for part in factors[name])
            inputs, gradients = self.transforms[key]((given, by_output), number)
            edits[name] = (-alpha * gradients.T, inputs)
        return edits
