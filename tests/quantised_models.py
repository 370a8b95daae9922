"""Tiny quantised models: bitsandbytes' 4 and 8 bit through :func:`load`, FP8 with scales made by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inspector.model import InspectedModel, load

BLOCKS = (16, 24)
"""Rows and columns of an FP8 block: the down-projection's 32 x 48 has two by two of them."""


def saved(family: str, folder: Path) -> Path:
    """Write a tiny model of a family into a folder."""
    tiny_models.network(family).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def quantised(family: str, how: str, folder: Path, dtype: str | None = None) -> InspectedModel:
    """Return a tiny model of a family that is quantised while it is loaded."""
    return load(saved(family, folder), device="cpu", dtype=dtype or how)


def scaled_codes(
    shape: tuple[int, int], seed: int = 0, blocks: tuple[int, int] | None = BLOCKS
) -> tuple[Tensor, Tensor]:
    """Return random FP8 values and their scales: one for each block, or one for all."""
    generator = torch.Generator().manual_seed(seed)
    codes = (50 * torch.randn(shape, generator=generator)).to(torch.float8_e4m3fn)
    count = (1, 1) if blocks is None else (-(-shape[0] // blocks[0]), -(-shape[1] // blocks[1]))
    scales = (0.5 + torch.rand(count, generator=generator)) * 2e-3
    return codes, (scales if blocks is not None else scales.reshape(()))


def by_blocks(codes: Tensor, scales: Tensor, blocks: tuple[int, int] = BLOCKS) -> Tensor:
    """Return values times scales, entry by entry."""
    made = torch.zeros(codes.shape)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            made[row, column] = float(codes[row, column]) * float(scales[row // blocks[0], column // blocks[1]])
    return made


def fp8_layer(codes: Tensor, scales: Tensor, blocks: tuple[int, int] | None = BLOCKS) -> Any:
    """Return transformers' FP8 layer with these values and scales."""
    from transformers.integrations.finegrained_fp8 import FP8Linear

    layer = FP8Linear(codes.shape[1], codes.shape[0], block_size=blocks)
    layer.weight = nn.Parameter(codes, requires_grad=False)
    layer.weight_scale_inv = nn.Parameter(scales, requires_grad=False)
    return layer


def fp8_network(family: str = "llama") -> Any:
    """Return a tiny network whose blocks' linear layers are FP8 layers."""
    network = tiny_models.network(family)
    for number, block in enumerate(network.model.layers):
        for name, module in list(block.named_modules()):
            if type(module) is nn.Linear:
                shape = (module.out_features, module.in_features)
                block.set_submodule(name, fp8_layer(*scaled_codes(shape, seed=number)))
    return network


def fp8_folder(folder: Path) -> Path:
    """Write an FP8 checkpoint: values, scales, and a configuration that says so."""
    saved("llama", folder)
    network = fp8_network()
    own = {name: tensor for name, tensor in network.state_dict().items() if ".layers." in name}
    plain = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if name not in own}
    save_file({**plain, **own}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    about = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(BLOCKS)}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": about}))
    return folder


@contextmanager
def fp8_kernel() -> Iterator[None]:
    """Stand in for the product of FP8 matrices, which is a GPU's: the same on values in float32, inputs unrounded."""

    def product(inputs, weight, scales, block_size, bias, *_rest):
        high, wide = block_size
        spread = scales.repeat_interleave(high, 0).repeat_interleave(wide, 1)[: weight.shape[0], : weight.shape[1]]
        return F.linear(inputs, (weight.float() * spread).to(inputs.dtype), bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.integrations.finegrained_fp8.fp8_linear", product)
        yield
