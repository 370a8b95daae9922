"""The architecture map: the parts of one model, found by its family's paths (:mod:`inspector.model.families`).

The paths are resolved and *checked at load*: shapes must agree and a two-token forward through hooks must give the
model's own hidden states and logits, so that a wrong guess fails there with a clear message and not later as a wrong
number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from inspector.errors import ArchitectureError, ModelLoadError
from inspector.model.families import Paths, has_experts, mixture, paths_of
from inspector.model.hooks import observe_inputs, observe_outputs
from inspector.model.offloaded import held, place
from inspector.model.quantised import dequantised, quantisation, shape_of


@dataclass(frozen=True)
class Architecture:
    """The resolved parts of one model.

    Attributes:
        family: ``config.model_type``.
        blocks: The decoder blocks, numbered from 0.
        down_projections: The MLP down-projection of each block (``nn.Linear``, ``Conv1D`` or a quantised one).
        down_projection_names: Their full dotted names in the model.
        final_norm: The norm after the last block, or ``None``.
        unembedding: The module that turns normed states into logits.
        project_out: A projection before the unembedding, or ``None``.
        paths: The paths that were used.
        d_model: Width of the residual stream.
        d_ff: Width of the MLP, the number of its neurons.
        vocabulary: Number of logits.
        logit_softcap: ``c`` of ``c * tanh(logits / c)``, or ``None``.
        logit_scale: Factor on what the unembedding gives, before a softcap (Cohere, Granite).
        residual_scale: Factor on what attention and MLP write before it is added to the residual stream (Granite).
    """

    family: str
    blocks: tuple[nn.Module, ...]
    down_projections: tuple[nn.Module, ...]
    down_projection_names: tuple[str, ...]
    final_norm: nn.Module | None
    unembedding: nn.Module
    project_out: nn.Module | None
    paths: Paths
    d_model: int
    d_ff: int
    vocabulary: int
    logit_softcap: float | None
    logit_scale: float = 1.0
    residual_scale: float = 1.0

    @property
    def last_block(self) -> int:
        """Number of the last block."""
        return len(self.blocks) - 1

    @cached_property
    def head_device(self) -> torch.device:
        """Device on which the unembedding computes."""
        return place(self.unembedding)

    def check_block(self, block: int) -> int:
        """Return ``block`` if the model has it.

        Raises:
            ArchitectureError: It is out of range.
        """
        if not 0 <= block <= self.last_block:
            raise ArchitectureError(
                f"Block {block} does not exist: this model has blocks 0 to {self.last_block}. Pick one of those."
            )
        return block

    def down_weight(self, block: int) -> Tensor:
        """Return the down-projection of a block as ``[d_model, d_ff]``; see :func:`canonical_weight`."""
        return canonical_weight(self.down_projections[self.check_block(block)])

    def projections(self, block: int) -> dict[str, nn.Module]:
        """Return every weight matrix of a block, attention's and MLP's, by its full dotted name in the model."""
        start = f"{self.paths.blocks}.{self.check_block(block)}"
        return {
            f"{start}.{name}": module for name, module in self.blocks[block].named_modules() if is_projection(module)
        }

    def mlp_projections(self, block: int) -> dict[str, nn.Module]:
        """Return the MLP's matrices of a block (gate, up and down in a gated MLP), the down-projection last."""
        down = self.down_projection_names[self.check_block(block)]
        beside = down.rpartition(".")[0]
        found = {n: m for n, m in self.projections(block).items() if n.rpartition(".")[0] == beside and n != down}
        return {**found, down: self.down_projections[block]}

    def logits(self, states: Tensor) -> Tensor:
        """Turn last-block outputs ``[..., d_model]`` into logits ``[..., vocabulary]``."""
        states = states.to(self.head_device)
        if self.final_norm is not None:
            states = self.final_norm(states)
        if self.project_out is not None:
            states = self.project_out(states)
        logits = self.unembedding(states)
        if self.logit_scale != 1:
            logits = self.logit_scale * logits
        if self.logit_softcap is not None:
            logits = self.logit_softcap * torch.tanh(logits / self.logit_softcap)
        return logits

    def part_of_block(self, block: int, path: str | None) -> nn.Module | None:
        """Return a part of a block by its dotted path, ``None`` for no path."""
        return None if path is None else self.blocks[block].get_submodule(path)


def is_projection(module: nn.Module) -> bool:
    """Tell whether a module is a matrix that a patch can change: ``nn.Linear``, ``Conv1D`` or a quantised one."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def canonical_weight(module: nn.Module) -> Tensor:
    """Return a projection's weight as ``[out, in]``.

    A plain one's (``nn.Linear`` or ``Conv1D``) is a view of the base weight, a quantised one's a float32 copy made at
    each call (:mod:`inspector.model.quantised`): ask for one at a time, and for :func:`canonical_shape` where that will
    do.

    An offloaded one is fetched to where its module computes.

    Raises:
        ArchitectureError: The module is no projection, or quantised in a way that is not known.
    """
    return _canonical(module, held(module))


def canonical_shape(module: nn.Module) -> tuple[int, int]:
    """Return the shape ``(out, in)`` of :func:`canonical_weight`; nothing is fetched or dequantised.

    Raises:
        ArchitectureError: See there.
    """
    if isinstance(module, nn.Linear) and quantisation(module) is not None:
        return shape_of(module)
    out, into = _canonical(module, getattr(module, "weight", None)).shape
    return int(out), int(into)


def _canonical(module: nn.Module, weight: Tensor | None) -> Tensor:
    if isinstance(module, nn.Linear) and weight is not None:
        return weight if quantisation(module) is None else dequantised(module)
    if type(module).__name__ == "Conv1D" and weight is not None:
        return weight.T
    raise ArchitectureError(
        f"A down-projection of type {type(module).__name__} cannot be edited. Load the model with "
        "plain (unquantised) nn.Linear or Conv1D weights, with --dtype nf4 or int8, or an FP8 checkpoint."
    )


def resolve(model: nn.Module, overrides: Mapping[str, str] | None = None) -> Architecture:
    """Find the parts of a causal language model and check that they are what they should be.

    Args:
        model: A transformers causal language model.
        overrides: Dotted paths by name (:data:`inspector.model.families.OVERRIDES`) that replace or complete the map.

    Raises:
        ArchitectureError: Unknown family, mixture of experts, a path that leads nowhere, shapes
            that disagree, or hooks that do not reproduce the model's own states.
        ModelLoadError: The model's own states are not finite numbers in its data type.
    """
    config = model.config.get_text_config()
    family = str(model.config.model_type)
    _refuse_mixture_of_experts(model, config, family)
    paths = paths_of(family, dict(overrides or {}))

    blocks = tuple(_find(model, paths.blocks, "blocks", overrides))
    downs, names = [], []
    for number, block in enumerate(blocks):
        downs.append(_find(block, paths.down_projection, "down_projection", overrides))
        names.append(f"{paths.blocks}.{number}.{paths.down_projection}")
    shapes = {canonical_shape(down) for down in downs}
    if len(shapes) != 1:
        raise ArchitectureError(
            f"The down-projections of this {family} model have different shapes {sorted(shapes)}. "
            "Models whose blocks differ in width are not supported."
        )
    ((d_model, d_ff),) = shapes
    if d_model != config.hidden_size:
        raise ArchitectureError(
            f"'{paths.down_projection}' writes {d_model} values but the residual stream has "
            f"{config.hidden_size}. Give the right path with paths={{'down_projection': ...}}."
        )
    final_norm = _find(model, paths.final_norm, "final_norm", overrides, optional=True)
    unembedding = _find(model, paths.unembedding, "unembedding", overrides)
    if blocks:
        if paths.after_attention:
            _find(blocks[0], paths.after_attention, "after_attention", overrides)
        if paths.after_mlp:
            _find(blocks[0], paths.after_mlp, "after_mlp", overrides)
    architecture = Architecture(
        family=family,
        blocks=blocks,
        down_projections=tuple(downs),
        down_projection_names=tuple(names),
        final_norm=final_norm,
        unembedding=unembedding,
        project_out=_find(model, paths.project_out, "project_out", overrides, optional=True),
        paths=paths,
        d_model=d_model,
        d_ff=d_ff,
        vocabulary=canonical_shape(unembedding)[0],
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        # Cohere multiplies by the one, Granite divides by the other.
        logit_scale=(getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0),
        residual_scale=getattr(config, "residual_multiplier", None) or 1.0,
    )
    _check_against_forward(model, architecture)
    return architecture


def _find(root, path, name, overrides=None, optional=False):
    """Resolve a dotted path from ``root``; a missing part is an error that names the override."""
    if path is None:
        return None
    part = root
    for step in path.split("."):
        if not hasattr(part, step):
            if optional and name not in (overrides or {}):
                return None
            raise ArchitectureError(
                f"{type(part).__name__} has no part '{step}' on the path '{path}' for {name}. Give "
                f"the right dotted path with paths={{'{name}': ...}} or --path {name}=..."
            )
        part = getattr(part, step)
    return part


def _refuse_mixture_of_experts(model: nn.Module, config, family: str) -> None:
    if has_experts(config) or any(name.endswith(".experts") for name, _ in model.named_modules()):
        raise mixture(family)


@torch.no_grad()
def _check_against_forward(model: nn.Module, architecture: Architecture) -> None:
    """Run two tokens and compare every hooked state with what the model itself reports."""
    device = place(model.get_input_embeddings())
    token_ids = torch.tensor([[1, min(5, architecture.vocabulary - 1)]], device=device)
    outputs: dict[int, Tensor] = {}
    inner: dict[int, Tensor] = {}
    with (
        observe_outputs(architecture.blocks, outputs.__setitem__),
        observe_inputs(architecture.down_projections, inner.__setitem__),
    ):
        result = model(input_ids=token_ids, output_hidden_states=True, use_cache=False)
    missing = [n for n in range(len(architecture.blocks)) if n not in outputs or n not in inner]
    if missing:
        raise ArchitectureError(
            f"Blocks {missing} never ran or never used their down-projection in a forward pass. Give "
            "the right 'blocks' and 'down_projection' paths."
        )
    own = result.hidden_states
    for number in range(len(architecture.blocks) - 1):
        _require_close(outputs[number], own[number + 1], f"The output of block {number}")
    if inner[0].shape[-1] != architecture.d_ff:
        raise ArchitectureError(
            f"The down-projection reads {inner[0].shape[-1]} values but its weight has "
            f"{architecture.d_ff} columns. Give the right 'down_projection' path."
        )
    _require_close(
        architecture.logits(outputs[architecture.last_block]),
        result.logits,
        "Final norm and unembedding of the last block's output",
    )


def _require_close(hooked: Tensor, own: Tensor, what: str) -> None:
    """Compare states ``[..., values]`` position by position: one may be a thousand times longer than the others.

    Raises:
        ModelLoadError: What the model reports is not finite, so that nothing can be compared.
        ArchitectureError: The two differ.
    """
    kind = str(own.dtype).removeprefix("torch.")
    own = own.to(hooked.device).float()
    hooked = hooked.float()
    if not bool(torch.isfinite(own).all()):
        raise ModelLoadError(
            f"{what} is not a finite number in {kind}. "
            + (
                "The weights are damaged: get the model's files anew."
                if kind == "float32"
                else "This model leaves the range of that type, or its weights are damaged. Load it with --dtype "
                "bfloat16 or float32."
            )
        )
    if hooked.shape != own.shape or not bool(
        ((hooked - own).abs().amax(dim=-1) <= 1e-3 * own.abs().amax(dim=-1).clamp(min=1e-6)).all()
    ):
        raise ArchitectureError(
            f"{what} is not what the model itself reports (shapes {tuple(hooked.shape)} and "
            f"{tuple(own.shape)}). The architecture map does not fit this model: give the right "
            "paths with paths={...} or --path name=dotted.path. A family that does more with its states or logits than "
            "norms, a softcap and the scales of Cohere and Granite is not supported."
        )
