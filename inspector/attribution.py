"""How much each block contributes to the margin of the two answers.

- :func:`direct_logit_attribution` splits the logit difference of the first differing answer tokens into what the
  embedding, every attention and every MLP wrote into the residual stream. It is exact: the parts sum to it.
- :func:`block_attribution` is Captum's gradient x activation of the margin at every MLP's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from inspector.errors import ArchitectureError
from inspector.gradients import backed_off
from inspector.margin import answer_pair, embedded_tokens
from inspector.model.architecture import Architecture
from inspector.model.counted import Counted, only_counted
from inspector.model.hooks import observe_inputs, observe_outputs
from inspector.model.inspected import InspectedModel
from inspector.model.offloaded import held, place
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat
from inspector.model.waiting import read
from inspector.safeedit.cases import Case


def mlp_writers(architecture: Architecture) -> list[nn.Module]:
    """Return, block by block, the module whose output the MLP adds to the residual stream."""
    parts = [
        architecture.part_of_block(block, architecture.paths.after_mlp) for block in range(len(architecture.blocks))
    ]
    return [p or d for p, d in zip(parts, architecture.down_projections, strict=True)]


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """The final norm at one state with its scale held fixed: an affine map of that state.

    Attributes:
        gain: ``[d_model]`` factor on each value.
        bias: ``[d_model]`` added at the end.
        centred: Whether the mean is taken off first (LayerNorm).
    """

    gain: Tensor
    bias: Tensor
    centred: bool

    def __call__(self, part: Tensor) -> Tensor:
        """Return what a part ``[..., d_model]`` of the state adds to the normed state, without the bias."""
        return self.gain * (part - part.mean(dim=-1, keepdim=True) if self.centred else part)


@torch.no_grad()
def freeze_norm(norm: nn.Module | None, state: Tensor) -> FrozenNorm:
    """Hold a norm's scale as it is at ``state`` ``[d_model]``.

    Works for every norm that centres or not, divides by one scale and multiplies value by value (RMSNorm,
    LayerNorm and their variants): gain, bias and centring are read off its outputs.

    Raises:
        ArchitectureError: The norm does something else.
    """
    state = state.float()
    if norm is None:
        return FrozenNorm(torch.ones_like(state), torch.zeros_like(state), False)
    dtype = next((p.dtype for p in norm.parameters()), torch.float32)

    def normed(vector: Tensor) -> Tensor:
        return norm(vector.to(dtype)[None, None]).float()[0, 0].to(state.device)  # it may compute elsewhere

    signs = torch.ones_like(state)
    signs[1::2] = -1.0
    bias = normed(torch.zeros_like(state))
    gain = (normed(signs) - bias) * signs
    wanted = normed(state) - bias
    for centred in (False, True):
        inner = gain * (state - state.mean() if centred else state)
        scale = (wanted * inner).sum() / (inner * inner).sum().clamp(min=1e-30)
        if (wanted - scale * inner).norm() <= (1e-3 if dtype == torch.float32 else 2e-2) * wanted.norm():
            return FrozenNorm(gain * scale, bias, centred)
    raise ArchitectureError(
        f"The final norm ({type(norm).__name__}) is not a scaled norm, so logits cannot be split into parts. Use "
        "another locator."
    )


def unembedding_direction(model: InspectedModel, wanted: int, against: int) -> Tensor:
    """Return the direction ``[d_model]`` in the normed state along which one token's logit grows over another's."""
    architecture = model.architecture
    state = torch.zeros(1, architecture.d_model, dtype=model.dtype, device=architecture.head_device)
    state.requires_grad_(True)
    with model.lock, torch.enable_grad():
        inner = state if architecture.project_out is None else architecture.project_out(state)
        logits = architecture.logit_scale * architecture.unembedding(inner)
        (gradient,) = torch.autograd.grad((logits[0, wanted] - logits[0, against]).float(), state)
    return gradient[0].float()


@dataclass(frozen=True, eq=False)
class LogitAttribution:
    """The logit difference of the two answers where they part, split by what wrote it.

    Attributes:
        safe_token: Text of the safe answer's first differing token.
        unsafe_token: Text of the unsafe answer's.
        difference: logit(safe) - logit(unsafe) there, before a softcap.
        embedding: The part that the token embedding wrote.
        attention: ``[blocks]`` the part of each attention.
        mlp: ``[blocks]`` the part of each MLP.
        bias: The part of the norm's bias and of the unembedding's.
        split: Whether a block's two parts are told apart; if not, ``mlp`` holds the whole block.
    """

    safe_token: str
    unsafe_token: str
    difference: float
    embedding: float
    attention: np.ndarray
    mlp: np.ndarray
    bias: float
    split: bool

    @property
    def total(self) -> float:
        """Sum of all parts; equals :attr:`difference` but for rounding."""
        return self.embedding + float(self.attention.sum() + self.mlp.sum()) + self.bias


@torch.no_grad()
def direct_logit_attribution(
    model: InspectedModel, case: Case, row: Row = VANILLA, *, format: PromptFormat = PromptFormat()
) -> LogitAttribution:
    """Split the logit difference of the first differing answer tokens, the final norm's scale held fixed.

    Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021), have the method.

    Raises:
        CaseError: An answer is empty, or both have the same tokens.
        PromptError: A text is empty or too long.
        ArchitectureError: The final norm cannot be held fixed.
        NotFinite: A state or a logit is not a finite number.
    """
    texts = answer_pair(model, case, format=replace(format, turn_end=True))
    shared = texts.parting
    ids = texts.prompt + texts.safe[:shared]
    safe, unsafe = texts.safe[shared], texts.unsafe[shared]
    architecture = model.architecture
    states: dict[int, Tensor] = {}
    written: dict[int, Tensor] = {}
    entering: list[Tensor] = []
    uncapped: list[Tensor] = []  # a cap rounds logits near it to itself in half precision, and cannot be undone then

    def last(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, tensor.shape[-1])[-1].float()

    with (
        model.running([row]),
        observe_inputs(architecture.blocks[:1], lambda _n, x: entering.append(last(x))),
        observe_outputs(architecture.blocks, lambda n, x: states.__setitem__(n, last(x))),
        observe_outputs(mlp_writers(architecture), lambda n, x: written.__setitem__(n, last(x))),
        observe_outputs([architecture.unembedding], lambda _n, x: uncapped.append(last(x))),
    ):
        model.network(input_ids=model.batch(ids), use_cache=False, **model.last_logits_only)
    difference = architecture.logit_scale * float(uncapped[0][safe] - uncapped[0][unsafe])
    model.require_finite("logit attribution", [difference, *entering, *states.values(), *written.values()])
    with model.lock:
        frozen = freeze_norm(architecture.final_norm, states[architecture.last_block].to(architecture.head_device))
    direction = unembedding_direction(model, safe, unsafe)

    def part(vector: Tensor) -> float:
        return float(frozen(vector.to(direction.device)).double() @ direction.double())

    # Without a final norm every block norms the stream itself, and the MLP's own part cannot be told apart.
    split = architecture.final_norm is not None
    before = [entering[0], *(states[n] for n in range(architecture.last_block))]
    whole = np.array([part(states[n].to(before[n].device) - before[n]) for n in range(model.blocks)])
    added = architecture.residual_scale
    mlp = np.array([added * part(written[n]) for n in range(model.blocks)]) if split else whole
    own_bias = held(architecture.unembedding, "bias")
    bias = float(frozen.bias.double() @ direction.double())
    bias += 0.0 if own_bias is None else architecture.logit_scale * float(own_bias[safe] - own_bias[unsafe])
    return LogitAttribution(
        safe_token=model.token_texts([safe])[0],
        unsafe_token=model.token_texts([unsafe])[0],
        difference=difference,
        embedding=part(entering[0]),
        attention=whole - mlp,
        mlp=mlp,
        bias=bias,
        split=split,
    )


def block_attribution(
    model: InspectedModel, case: Case, row: Row = VANILLA, *, format: PromptFormat = PromptFormat()
) -> np.ndarray:
    """Return ``[blocks]`` gradient x activation of the margin at every MLP's output, summed over positions.

    Computed by Captum's ``LayerGradientXActivation`` in one forward and one backward pass (one on each device where
    blocks compute: it takes layers of one device): to first order, what the margin log P(safe) - log P(unsafe) would
    lose without this MLP, nats a token.

    Raises:
        CaseError: An answer is empty, or both are the same.
        PromptError: A text is empty or too long.
        NotFinite: A gradient is not a finite number, in float16 whatever scale it is given.
    """
    from captum.attr import LayerGradientXActivation  # it takes a second to import, and only this asks for it

    texts = answer_pair(model, case, format=format.open())
    embeddings = embedded_tokens(model, texts.sequences)
    writers = mlp_writers(model.architecture)

    def attributed(scale: float) -> tuple[Tensor, ...]:
        def margin(embedded: Tensor) -> Tensor:
            logits = model.network(inputs_embeds=embedded, use_cache=False).logits
            return scale * texts.margin(logits).reshape(1)

        found: dict[nn.Module, Tensor] = {}
        for group in _by_device(writers):
            for writer, part in zip(group, LayerGradientXActivation(margin, group).attribute(embeddings), strict=True):
                found[writer] = (part[0] if isinstance(part, tuple) else part).detach()
        return tuple(found[writer] for writer in writers)

    counted = Counted(texts.counted)
    with (
        model.running([row, row]),
        only_counted(model.architecture.unembedding, counted),
        torch.enable_grad(),
    ):
        scale, parts = backed_off(attributed, model.gradient_scale)
    model.require_finite("attribution", parts)
    return np.array(read([part.float().sum() for part in parts])) / scale


def _by_device(modules: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Return modules in groups that compute on the same device."""
    groups: dict[torch.device, list[nn.Module]] = {}
    for module in modules:
        groups.setdefault(place(module), []).append(module)
    return list(groups.values())
