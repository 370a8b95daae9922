"""The top blocks of a model, run again with changed matrices from states that were computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from editing.methods.mend.network import Factors
from inspector.gradients import scaled_gradients
from inspector.model.counted import Counted, token_log_probabilities
from inspector.model.encoding import Encoded
from inspector.model.hooks import record_calls, rewrite_output, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.passes.tails import call_block, without_states

Rewrite = Callable[[Tensor, Tensor], Tensor]
"""From the input and the output of a matrix to its new output."""


class TopBlocks:
    """Blocks ``first`` and above on some sequences with their responses.

    Args:
        model: The base model.
        answers: Prompts with responses; the logits are those that predict response tokens.
        first: The lowest block with a changed matrix.
    """

    def __init__(self, model: InspectedModel, answers: Sequence[Encoded], first: int) -> None:
        self.model, self._first, self.scale = model, first, model.gradient_scale
        self.labels = [token for answer in answers for token in answer.response]
        self._counted = Counted([answer.predicting for answer in answers])
        architecture = model.architecture
        with (
            torch.no_grad(),
            model.running(),
            stopping_before(architecture.final_norm or architecture.unembedding),
            record_calls(architecture.blocks[first:]) as calls,
        ):
            model.network(input_ids=model.batch(*(answer.tokens for answer in answers)), use_cache=False)
        self._calls = [calls[0], *(without_states(calls[number]) for number in range(1, len(calls)))]

    @property
    def kept(self) -> object:
        """All that is kept of the pass: the arguments of each block's call."""
        return self._calls

    def logits(self, rewrites: Mapping[str, Rewrite]) -> Tensor:
        """Return float32 logits ``[response tokens, vocabulary]`` with the named matrices' outputs rewritten."""
        architecture = self.model.architecture
        with self.model.lock, ExitStack() as stack:
            for name, rewrite in rewrites.items():
                stack.enter_context(rewrite_output(self.model.network.get_submodule(name), rewrite))
            args, kwargs = self._calls[0]
            states = args[0] if args else kwargs["hidden_states"]
            for number, block in enumerate(architecture.blocks[self._first :]):
                args, kwargs = self._calls[number]
                states = call_block(block, states, args, kwargs)
            return architecture.logits(self._counted.of(states)).float()

    def loss(self, rewrites: Mapping[str, Rewrite]) -> Tensor:
        """Return the mean negative log-likelihood of the response tokens, nats."""
        return -token_log_probabilities(self.logits(rewrites), self.labels).mean()


def adding(left: Tensor, right: Tensor) -> Rewrite:
    """Return the rewrite that adds a low-rank change of the matrix, differentiable in its factors."""

    def rewrite(inputs: Tensor, output: Tensor) -> Tensor:
        given = inputs.float()
        return output + (given @ right.T.to(given.device) @ left.T.to(given.device)).to(output.dtype)

    return rewrite


def gradient_factors(top: TopBlocks, names: Sequence[str]) -> dict[str, Factors]:
    """Return the factors of the fine-tuning gradient of each matrix; tokens without a gradient are left out.

    The gradient of a matrix ``[out, in]`` is ``delta.T @ u``.
    """
    inputs: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}

    def probing(name: str) -> Rewrite:
        def rewrite(given: Tensor, output: Tensor) -> Tensor:
            inputs[name] = given.detach().reshape(-1, given.shape[-1]).float()
            probes[name] = torch.zeros_like(output, requires_grad=True)
            return output + probes[name]

        return rewrite

    with top.model.lock, torch.enable_grad():  # where weights are offloaded the gradient fetches them as well
        loss = top.loss({name: probing(name) for name in names})
        scale, gradients = scaled_gradients(loss, [probes[name] for name in names], top.scale)
    top.model.require_finite("gradient", gradients)
    flat = [gradient.reshape(-1, gradient.shape[-1]).float() / scale for gradient in gradients]
    # Read all at once: a choice by truth values would wait for the device at each matrix.
    differ = torch.stack([(each != 0).any(dim=-1).to(flat[0].device) for each in flat]).tolist()
    found = {}
    for name, gradient, used in zip(names, flat, differ, strict=True):
        tokens = torch.tensor([n for n, is_used in enumerate(used) if is_used], dtype=torch.long).to(gradient.device)
        found[name] = (inputs[name][tokens], gradient[tokens])
    return found
