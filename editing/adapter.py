"""A patch as a LoRA adapter that peft loads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from inspector.errors import PatchError
from inspector.model import Delta, InspectedModel, Patch

WEIGHTS = "adapter_model.safetensors"
"""peft's name of an adapter's file."""


def save_adapter(model: InspectedModel, patch: Patch, folder: Path, strength: float = 1.0) -> None:
    """Write a patch as an adapter: ``peft.PeftModel.from_pretrained(network, folder)`` gives the edited model.

    Low-rank deltas keep their rank; a dense one becomes itself times an identity, so nothing is lost.

    Args:
        model: The base model of the patch.
        strength: Factor on the deltas, 0 to 1.5.

    Raises:
        PatchError: The patch belongs to another base model, or the strength is out of range.
    """
    from peft import LoraConfig, TaskType

    from inspector.model.patch import Row

    strength = Row(patch, strength).strength
    if patch.fingerprint != model.fingerprint:
        raise PatchError(f"Patch {patch.identifier} was made for another base model. Load that model or edit anew.")
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for delta in patch.deltas:
        outer, inner = factors(delta)
        ranks[delta.module] = inner.shape[0]
        tensors[f"base_model.model.{delta.module}.lora_A.weight"] = inner.cpu().clone().contiguous()
        tensors[f"base_model.model.{delta.module}.lora_B.weight"] = (strength * outer).cpu().clone().contiguous()
    common = max(ranks.values())
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=model.name,
        r=common,
        lora_alpha=common,
        rank_pattern={name: rank for name, rank in ranks.items() if rank != common},
        alpha_pattern={name: rank for name, rank in ranks.items() if rank != common},
        target_modules=list(ranks),
        fan_in_fan_out=any(type(model.network.get_submodule(name)).__name__ == "Conv1D" for name in ranks),
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS)
    config.save_pretrained(str(folder))


def factors(delta: Delta) -> tuple[Tensor, Tensor]:
    """Return a delta as ``outer [out, rank]`` and ``inner [rank, in]``, exactly."""
    if delta.right is not None:
        return delta.left, delta.right
    rows, columns = delta.shape
    if rows <= columns:
        return torch.eye(rows), delta.left
    return delta.left, torch.eye(columns)
