"""Llamas of well-known shapes with weights drawn on a device, and a tokenizer for them: models without a download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from inspector.errors import ModelLoadError
from inspector.model import SUFFIX, InspectedModel, from_parts, load
from inspector.model.placement import MaxMemory
from inspector.model.quantised import REQUIREMENTS
from inspector.safeedit import bundled_cases, bundled_constraint_prompts

SHAPES: dict[str, dict[str, int]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    "1b": {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 16, "num_attention_heads": 16},
    "medium": {"hidden_size": 768, "intermediate_size": 2064, "num_hidden_layers": 12, "num_attention_heads": 12},
    "tiny": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 4, "num_attention_heads": 4},
    "small": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 8},
}
VOCABULARY = 32_000
SPECIAL = ("<pad>", "<s>", "</s>")


def made_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE that has learnt from the bundled texts: about as many tokens a text as a real one."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    pad, begin, end = SPECIAL
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for case in bundled_cases() for text in (case.adversarial_prompt, case.safe, case.unsafe)]
    inner.train_from_iterator([*texts, *bundled_constraint_prompts(), SUFFIX], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, bos_token=begin, eos_token=end, model_max_length=4096
    )


def random_model(
    shape: str, device: torch.device, dtype: torch.dtype, seed: int = 0, four_bit: bool = False
) -> InspectedModel:
    """Return a Llama of a shape with weights drawn on the device.

    Args:
        four_bit: Quantise each matrix of the blocks to nf4 once it is drawn, so that one block at a time is whole.

    Raises:
        ModelLoadError: bitsandbytes is not installed, for 4 bit.
    """
    config = LlamaConfig(
        **{"vocab_size": VOCABULARY, **SHAPES[shape]},
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    if four_bit:
        network = _four_bit_network(config, device, dtype)
    else:
        with torch.device(device):
            network = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return from_parts(network, made_tokenizer(), f"random Llama, shape {shape}")


@contextmanager
def spread_model(
    shape: str, device: torch.device, dtype: torch.dtype, four_bit: bool, max_memory: MaxMemory | None
) -> Iterator[InspectedModel]:
    """Give a Llama of a shape that is spread as :func:`inspector.model.load` does it; its files go at the end.

    Args:
        four_bit: Quantise it to nf4 while it is read.
        max_memory: What of it each device may hold.

    Raises:
        ModelLoadError: See :func:`inspector.model.load`.
        NoRoom: It is larger than what is free.
    """
    with TemporaryDirectory() as folder:
        drawn = random_model(shape, torch.device("cpu"), dtype)
        drawn.network.save_pretrained(folder)
        drawn.tokenizer.save_pretrained(folder)
        del drawn
        kind = "nf4" if four_bit else str(dtype).removeprefix("torch.")
        yield load(folder, device=str(device), dtype=kind, device_map="auto", max_memory=max_memory)


def _four_bit_network(config: LlamaConfig, device: torch.device, dtype: torch.dtype) -> Any:
    if find_spec("bitsandbytes") is None:
        raise ModelLoadError(f"nf4 needs bitsandbytes. Install it with: pip install -r {REQUIREMENTS}")
    blocks, config.num_hidden_layers = config.num_hidden_layers, 0
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(config, dtype=dtype)
    network.config.num_hidden_layers = blocks
    for number in range(blocks):
        with torch.device(device):
            block = LlamaDecoderLayer(network.config, number).to(dtype)
        for name, part in list(block.named_modules()):
            if isinstance(part, torch.nn.Linear):
                block.set_submodule(name, _in_four_bit(part, network.config.initializer_range))
        network.model.layers.append(block)
    return network


def _in_four_bit(part: torch.nn.Linear, spread: float) -> Any:
    """Return a matrix of the same shape as transformers quantises one to nf4, with weights drawn anew."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    drawn = part.weight.data.normal_(0, spread)
    with torch.device("meta"):
        made = Linear4bit(
            part.in_features,
            part.out_features,
            bias=False,
            compute_dtype=drawn.dtype,
            compress_statistics=False,
            quant_type="nf4",
        )
    weight = Params4bit(drawn, requires_grad=False, compress_statistics=False, quant_type="nf4", module=made)
    made.weight = weight.to(drawn.device)
    return made
