"""Families: the only place that knows how they name their parts, and what a configuration alone tells of a model.

A family is five dotted paths; :mod:`inspector.model.architecture` resolves and checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from inspector.errors import ArchitectureError


@dataclass(frozen=True)
class Paths:
    """Dotted paths to the parts of one family; ``None`` where a family has no such part.

    Attributes:
        blocks: From the model to the list of decoder blocks.
        down_projection: From a block to its MLP down-projection (``W_V`` in the paper).
        final_norm: From the model to the norm after the last block.
        unembedding: From the model to the unembedding matrix.
        after_attention: From a block to the norm whose *input* is the residual stream after
            attention, where the MLP's output is added to that same stream.
        after_mlp: From a block to a norm between the down-projection and the residual stream.
        project_out: From the model to a projection between the final norm and the unembedding.
    """

    blocks: str
    down_projection: str
    final_norm: str | None
    unembedding: str = "lm_head"
    after_attention: str | None = None
    after_mlp: str | None = None
    project_out: str | None = None


_LLAMA = Paths(
    blocks="model.layers",
    down_projection="mlp.down_proj",
    final_norm="model.norm",
    after_attention="post_attention_layernorm",
)
_GEMMA = replace(
    _LLAMA,
    after_attention="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)

FAMILIES: dict[str, Paths] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3": replace(
        _GEMMA,
        blocks="model.language_model.layers",
        final_norm="model.language_model.norm",
    ),
    "gpt2": Paths(
        blocks="transformer.h",
        down_projection="mlp.c_proj",
        final_norm="transformer.ln_f",
        after_attention="ln_2",
    ),
    # The MLP and the attention of a parallel block read the same input, so there is no
    # "residual stream after attention" to resume from: the whole block is replayed.
    "gpt_neox": Paths(
        blocks="gpt_neox.layers",
        down_projection="mlp.dense_4h_to_h",
        final_norm="gpt_neox.final_layer_norm",
    ),
    "opt": Paths(
        blocks="model.decoder.layers",
        down_projection="fc2",
        final_norm="model.decoder.final_layer_norm",
        project_out="model.decoder.project_out",
    ),
}

OVERRIDES = tuple(f.name for f in fields(Paths))
"""Names of the paths that :func:`inspector.model.load` takes as ``paths={name: dotted path}``."""


def require_supported(config: Any, overrides: Mapping[str, str] | None = None) -> None:
    """Check what a configuration alone tells for certain, before a weight is fetched or read.

    Args:
        config: A transformers configuration.
        overrides: As for :func:`inspector.model.architecture.resolve`.

    Raises:
        ArchitectureError: See :func:`inspector.model.architecture.resolve`, which asks again: a family may call its
            experts otherwise.
    """
    require_dense(config)
    require_paths(config, overrides)


def require_dense(config: Any) -> None:
    """Check that a configuration names no experts.

    Raises:
        ArchitectureError: It is of a mixture of experts.
    """
    if has_experts(config.get_text_config()):
        raise mixture(str(config.model_type))


def require_paths(config: Any, overrides: Mapping[str, str] | None = None) -> None:
    """Check that it is known where the parts of a configuration's family are; one of text within others has two names.

    Raises:
        ArchitectureError: It is not, and the overrides do not say it.
    """
    names = [str(one.model_type) for one in (config, config.get_text_config())]
    paths_of(next((name for name in names if name in FAMILIES), names[0]), dict(overrides or {}))


def paths_of(family: str, overrides: dict[str, str]) -> Paths:
    """Return a family's paths, replaced and completed by others by name.

    Raises:
        ArchitectureError: A name is unknown, or so is the family and the others do not say enough.
    """
    unknown = sorted(set(overrides) - set(OVERRIDES))
    if unknown:
        raise ArchitectureError(f"Unknown path names {unknown}. Valid names: {', '.join(OVERRIDES)}.")
    known = FAMILIES.get(family)
    if known is None and not {"blocks", "down_projection", "final_norm"} <= set(overrides):
        raise ArchitectureError(
            f"The model family '{family}' is not in the architecture map ({', '.join(FAMILIES)}). "
            "Say where its parts are with dotted paths: blocks (for example 'model.layers'), "
            "down_projection (from a block, 'mlp.down_proj'), final_norm ('model.norm') and, where "
            "they differ, unembedding ('lm_head'), after_attention, after_mlp. In Python "
            "load(name, paths={...}), on the command line --path blocks=model.layers."
        )
    if known is None:
        known = Paths(blocks="", down_projection="", final_norm=None)
    return replace(known, **overrides)


def has_experts(config: Any) -> bool:
    """Tell whether a configuration of text names experts."""
    return any(getattr(config, key, None) for key in ("num_local_experts", "num_experts", "n_routed_experts"))


def mixture(family: str) -> ArchitectureError:
    """Return the error that refuses a mixture of experts."""
    return ArchitectureError(
        f"This {family} model is a mixture of experts: it has several down-projections per block, "
        "and DINM edits one. Mixture-of-experts models are not supported; load a dense model."
    )
