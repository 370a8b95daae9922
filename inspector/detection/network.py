"""Small networks that read windows of a prompt: one hidden layer on the largest components of the states.

A network is fitted on whole prompts, of which only some window asks for harm (multiple-instance learning): a prompt's
score is a soft maximum over its windows, of a harmful prompt over those on its question. Several networks, each fitted
without one group of texts, read as one: their hidden layers stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from inspector.detection.reading import Reading
from inspector.model import Hidden

COMPONENTS = 192
"""Largest components of each block's states that a network sees."""
MOST_BYTES = 2**30
"""Size of the states that they are found from: every third window, fewer of a large model."""
UNITS = 64
"""Hidden units of a network."""
EPOCHS, AT_ONCE = 12, 64
RATE, DECAY, DROPOUT = 2e-3, 0.1, 0.5
"""Of AdamW, falling to nothing; dropout of hidden units."""
SHARPNESS, LENGTH = 4.0, 0.5
"""Of the soft maximum over windows, and how much of what many windows add to it is taken away again."""


@dataclass(frozen=True, eq=False)
class Components:
    """The largest components of each block's states, somewhat whitened.

    Attributes:
        mean: ``[features]`` of the states.
        matrix: ``[features, components]``, block by block.
    """

    mean: np.ndarray
    matrix: np.ndarray

    def of(self, states: np.ndarray) -> Tensor:
        """Return the components of states ``[windows, features]``."""
        return torch.from_numpy((states.astype(np.float32) - self.mean) @ self.matrix)


def components_of(readings: Sequence[Reading], blocks: int, count: int = COMPONENTS) -> Components:
    """Find the largest components of each block's states over all texts.

    Args:
        blocks: Number of blocks that were read.
        count: Most components of a block.
    """
    size = 4 * sum(reading.states[::3].size for reading in readings)
    step = 3 * math.ceil(size / MOST_BYTES)
    some = np.concatenate([reading.states[::step] for reading in readings]).astype(np.float32)
    mean, scale = some.mean(axis=0), some.std(axis=0) + 1e-3
    size = len(mean) // blocks
    parts = []
    for block in range(blocks):
        own = slice(block * size, (block + 1) * size)
        standard = (some[:, own] - mean[own]) / scale[own]
        values, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
        kept = values[::-1][:count] > 1e-6 * values[-1]
        values, vectors = values[::-1][:count][kept], vectors[:, ::-1][:, :count][:, kept]
        parts.append(vectors * values**-0.25 / scale[own, None])
    matrix = np.zeros((len(mean), sum(part.shape[1] for part in parts)), dtype=np.float32)
    column = 0
    for block, part in enumerate(parts):
        matrix[block * size : (block + 1) * size, column : column + part.shape[1]] = part
        column += part.shape[1]
    return Components(mean, matrix)


class Network(nn.Module):
    """One hidden layer and a number."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(inputs, units), nn.Linear(units, 1)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return a number a window."""
        return self.outer(self.dropout(nn.functional.gelu(self.inner(inputs)))).squeeze(-1)


def fitted(
    inputs: Sequence[Tensor],
    readings: Sequence[Reading],
    harmful: np.ndarray,
    chosen: np.ndarray,
    seed: int,
    units: int = UNITS,
    epochs: int = EPOCHS,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, Network | None]:
    """Fit one network.

    Args:
        inputs: Components of each text's windows.
        readings: The texts'.
        harmful: Whether each text is.
        chosen: Numbers of the texts that it is fitted on.
        seed: Of weights, order and dropout.

    Yields:
        The share that is done.

    Returns:
        The network; ``None`` when cancelled.
    """
    order = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(inputs[0].shape[1], units)
        state = torch.get_rng_state()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    labels = torch.tensor(harmful).float()
    for epoch in range(epochs):
        shuffled = order.permutation(chosen)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(state)
            for start in range(0, len(shuffled), AT_ONCE):
                numbers = shuffled[start : start + AT_ONCE].tolist()
                seen = [inputs[n][list(readings[n].asking)] if harmful[n] else inputs[n] for n in numbers]
                windows = network(torch.cat(seen)).split([len(one) for one in seen])
                scores = torch.stack([_soft_maximum(one) for one in windows])
                loss = nn.functional.binary_cross_entropy_with_logits(scores, labels[numbers])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            state = torch.get_rng_state()
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - (epoch + 1) / epochs)
        yield (epoch + 1) / epochs
        if cancel():
            return None
    return network.eval()


def _soft_maximum(windows: Tensor) -> Tensor:
    return (torch.logsumexp(SHARPNESS * windows, 0) - LENGTH * np.log(len(windows))) / SHARPNESS


def windows_read(network: Network, inputs: Tensor) -> np.ndarray:
    """Return what a network reads in each window of a text."""
    with torch.no_grad():
        return network(inputs).numpy()


def side_by_side(networks: Sequence[Network], components: Components, blocks: int) -> tuple[Hidden, float]:
    """Return the mean of several networks as one hidden layer on the states themselves, and its bias.

    Args:
        blocks: Number of blocks that were read.
    """
    matrix, mean = torch.from_numpy(components.matrix), torch.from_numpy(components.mean)
    with torch.no_grad():
        inner = torch.cat([network.inner.weight for network in networks]) @ matrix.T
        inner = inner.half().float()  # half the size in a file, with every patch that is routed
        biases = torch.cat([network.inner.bias for network in networks]) - inner @ mean
        outer = torch.cat([network.outer.weight[0] for network in networks]) / len(networks)
        bias = sum(float(network.outer.bias) for network in networks) / len(networks)
    return Hidden(inner.reshape(len(inner), blocks, -1), biases, outer), bias
