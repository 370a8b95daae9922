"""The margin that causes and attributions explain: log P(safe answer) minus log P(unsafe answer).

Both are means over the answer's tokens (nats a token), so that a longer answer does not weigh more. What
explains it (locators, neurons, tokens) turns its sign, so that a block, a neuron or a token with a high score pushes
the model to the *unsafe* answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inspector.errors import CaseError
from inspector.gradients import scaled_gradients
from inspector.model.counted import Counted, only_counted, token_log_probabilities
from inspector.model.encoding import encode
from inspector.model.hooks import observe_inputs, observe_outputs
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.cases import Case


@dataclass(frozen=True)
class AnswerPair:
    """Token ids of one prompt and its two answers.

    Attributes:
        prompt: Ids of the prompt.
        safe: Ids of the safe answer.
        unsafe: Ids of the unsafe answer.
    """

    prompt: tuple[int, ...]
    safe: tuple[int, ...]
    unsafe: tuple[int, ...]

    @property
    def sequences(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompt with the safe and prompt with the unsafe answer."""
        return self.prompt + self.safe, self.prompt + self.unsafe

    @property
    def counted(self) -> tuple[range, range]:
        """Positions of both sequences whose next-token prediction is an answer token."""
        start = len(self.prompt) - 1
        return range(start, start + len(self.safe)), range(start, start + len(self.unsafe))

    def margin(self, logits: Tensor) -> Tensor:
        """Return log P(safe) - log P(unsafe) from the counted positions' logits ``[positions, vocabulary]``."""
        found = token_log_probabilities(logits, self.safe + self.unsafe)
        return found[: len(self.safe)].mean() - found[len(self.safe) :].mean()

    @property
    def parting(self) -> int:
        """Number of tokens that both answers start with.

        Raises:
            CaseError: The answers have the same tokens.
        """
        pairs = enumerate(zip(self.safe, self.unsafe, strict=False))
        found = next((n for n, (one, two) in pairs if one != two), None)
        if found is None:
            raise CaseError("One answer starts with all of the other. Write answers that differ in a word.")
        return found


def answer_pair(
    model: InspectedModel, case: Case, *, format: PromptFormat = PromptFormat(turn_end=False)
) -> AnswerPair:
    """Tokenise a case's adversarial prompt and both answers.

    Args:
        format: How they are put together; with ``turn_end`` both answers have the end of a turn.

    Raises:
        CaseError: An answer is empty, or both are the same.
        PromptError: A text is empty or too long.
    """
    case.require_answers()
    safe, unsafe = (
        encode(model, case.adversarial_prompt, answer, format=format) for answer in (case.safe, case.unsafe)
    )
    return AnswerPair(safe.prompt, safe.response, unsafe.response)


def embedded_tokens(model: InspectedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return the token embeddings ``[sequences, tokens, width]``, shorter sequences padded on the right."""
    with torch.no_grad():
        return model.network.get_input_embeddings()(model.batch(*sequences)).detach()


@dataclass(frozen=True, eq=False)
class MlpTrace:
    """What a scalar's gradient says of every block's MLP, from one forward and one backward pass.

    Attributes:
        value: The scalar.
        inputs: For each block ``[sequences, tokens, d_ff]``, what enters its down-projection: the neurons.
        gradients: For each block ``[sequences, tokens, d_model]``, the scalar's gradient at its output.
    """

    value: float
    inputs: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    def weight_gradient(self, block: int) -> Tensor:
        """Return the scalar's gradient in the block's down-projection ``[d_model, d_ff]``, float32."""
        return torch.einsum("sto,sti->oi", self.gradients[block].float(), self.inputs[block].float())


def mlp_trace(
    model: InspectedModel,
    sequences: Sequence[Sequence[int]],
    counted: Sequence[Sequence[int]],
    objective: Callable[[Tensor], Tensor],
    row: Row = VANILLA,
    *,
    every_block: bool = True,
) -> MlpTrace:
    """Differentiate ``objective(logits [counted positions, vocabulary])`` at every down-projection's output.

    No parameter needs a gradient for this and none gets one.

    Args:
        sequences: Token ids; shorter ones are padded on the right.
        counted: The positions of each sequence whose logits the objective gets.
        objective: The scalar.
        row: The weights.
        every_block: Without it the gradients of some blocks may be no finite numbers.

    Raises:
        PromptError: The scalar, or a gradient, is not a finite number; in float16 whatever scale it is given.
    """
    architecture = model.architecture
    shape = (len(sequences), max(map(len, sequences)), -1)
    inputs: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    embeddings = embedded_tokens(model, sequences).requires_grad_(True)
    with (
        torch.enable_grad(),
        model.running([row] * len(sequences)),
        only_counted(architecture.unembedding, Counted(counted)),
        observe_inputs(architecture.down_projections, lambda n, x: inputs.__setitem__(n, x.detach())),
        observe_outputs(architecture.down_projections, outputs.__setitem__),
    ):
        value = objective(model.network(inputs_embeds=embeddings, use_cache=False).logits)
        order = range(model.blocks)
        scale, gradients = scaled_gradients(value, [outputs[block] for block in order], model.gradient_scale)
    model.require_finite("gradient", (value, *gradients) if every_block else (value,))
    return MlpTrace(
        float(value.detach()),
        tuple(inputs[block].reshape(shape) for block in order),
        tuple(gradient.detach().float().div(scale).reshape(shape) for gradient in gradients),
    )
