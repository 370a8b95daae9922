"""A patch as a LoRA adapter that peft loads, exact or of a lower rank, and back."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from editing.saved.files import check_adapter
from inspector.errors import PatchError
from inspector.model import Delta, InspectedModel, Patch
from inspector.model.whole_file import replacing, write_whole

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""peft's names of an adapter's files."""
BESIDE = "dinm-edit.json"
"""The record beside an adapter and in a merged model; whoever loads those passes over it."""
_BASE, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def save_adapter(model: InspectedModel, patch: Patch, folder: Path, strength: float = 1.0) -> None:
    """Write a patch as an adapter: ``peft.PeftModel.from_pretrained(network, folder)`` gives the edited model.

    Low-rank deltas keep their rank; a dense one becomes itself times an identity, so nothing is lost.

    Args:
        model: The base model of the patch.
        strength: Factor on the deltas, 0 to 1.5.

    Neither of its two files is ever half there.

    Raises:
        PatchError: The patch belongs to another base model, or the strength is out of range.
        OSError, SafetensorError: It cannot be written.
    """
    from peft import LoraConfig, TaskType

    from inspector.model.patches.patch import Row

    strength = Row(patch, strength).strength
    if patch.fingerprint != model.fingerprint:
        raise PatchError(f"Patch {patch.identifier} was made for another base model. Load that model or edit anew.")
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for delta in patch.deltas:
        outer, inner = factors(delta)
        ranks[delta.module] = inner.shape[0]
        tensors[f"{_BASE}{delta.module}{_A}"] = inner.cpu().clone().contiguous()
        tensors[f"{_BASE}{delta.module}{_B}"] = (strength * outer).cpu().clone().contiguous()
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
    with replacing(folder / WEIGHTS) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    with tempfile.TemporaryDirectory() as made:  # peft names its file itself
        config.save_pretrained(made)
        told = Path(made, CONFIG).read_text(encoding="utf-8")
    write_whole(folder / CONFIG, told)


def check_rank(rank: int) -> None:
    """Refuse a rank that no matrix has.

    Raises:
        PatchError: It is below 1.
    """
    if rank < 1:
        raise PatchError(f"The rank {rank} is out of range. Choose 1 or more.")


def of_rank(patch: Patch, rank: int) -> tuple[Patch, float]:
    """Return the closest patch whose deltas have at most a rank, and how far it is from the patch.

    Each delta's largest singular values are kept (Eckart and Young 1936).

    Args:
        rank: Most rank of a delta; one that has no more stays as it is.

    Returns:
        The patch, and the Frobenius norm of what is lost as a share of the patch's, 0 to 1.

    Raises:
        PatchError: The rank is below 1.
    """
    check_rank(rank)
    deltas, lost = [], 0.0
    for delta in patch.deltas:
        smaller = min(delta.shape) if delta.right is None else delta.right.shape[0]
        if smaller <= rank:
            deltas.append(delta)
            continue
        left, sizes, right = torch.linalg.svd(delta.dense(), full_matrices=False)
        lost += float(sizes[rank:].double().square().sum())
        outer, inner = left[:, :rank] * sizes[:rank], right[:rank]
        deltas.append(Delta(delta.module, delta.block, outer.contiguous(), inner.contiguous()))
    return replace(patch, deltas=tuple(deltas)), (lost**0.5 / patch.norm if patch.norm else 0.0)


def read_adapter(model: InspectedModel, folder: Path, method: str = "LoRA adapter") -> Patch:
    """Return an adapter that was written by :func:`save_adapter` as a patch; its strength is in its deltas.

    Raises:
        PatchError: The file cannot be read, is another than the record beside it tells of, or names a part that the
            model lacks.
    """
    check_adapter(folder / WEIGHTS, folder / BESIDE)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise PatchError("The adapter cannot be read. Choose another folder.", f"{folder}: {error}") from error
    blocks = {name: n for n in range(model.blocks) for name in model.architecture.projections(n)}
    deltas = []
    for name in sorted(name.removesuffix(_A) for name in tensors if name.endswith(_A)):
        module = name.removeprefix(_BASE)
        if module not in blocks or f"{name}{_B}" not in tensors:
            raise PatchError(f"This model has no part '{module}' that the adapter changes. Choose another folder.")
        deltas.append(Delta(module, blocks[module], tensors[f"{name}{_B}"].float(), tensors[f"{name}{_A}"].float()))
    return Patch(tuple(deltas), model.fingerprint, method)


def factors(delta: Delta) -> tuple[Tensor, Tensor]:
    """Return a delta as ``outer [out, rank]`` and ``inner [rank, in]``, exactly."""
    if delta.right is not None:
        return delta.left, delta.right
    rows, columns = delta.shape
    if rows <= columns:
        return torch.eye(rows), delta.left
    return delta.left, torch.eye(columns)
