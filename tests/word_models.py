"""A tiny random Llama that speaks whole words: its answers are nonsense, and mostly not degenerate."""

from __future__ import annotations

from collections.abc import Iterable

import tiny_models
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from inspector.model import Delta, InspectedModel, Patch, PromptFormat, from_parts

LIMIT = 1024
NO_SUFFIX = PromptFormat("")


def word_model(texts: Iterable[str], seed: int = 0) -> InspectedModel:
    """Return a model whose vocabulary are the words of some texts."""
    split = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", *words]))}
    inner = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = split
    whole = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=LIMIT,
    )
    whole.chat_template = tiny_models.CHAT_TEMPLATE
    options = {**tiny_models._LLAMA, "vocab_size": len(vocabulary), "max_position_embeddings": LIMIT}
    network = tiny_models.random_network(LlamaConfig(**options), seed)
    return from_parts(network, whole, "tiny-words")


def loud_patch(model: InspectedModel, word: str) -> Patch:
    """Return a patch that drowns everything else in one word's direction, so that many answers loop."""
    block = model.blocks - 1
    written = model.network.lm_head.weight[model.tokenizer.convert_tokens_to_ids(word)]
    change = 50 * torch.outer(written, torch.ones(model.architecture.d_ff))
    name = model.architecture.down_projection_names[block]
    return Patch((Delta(name, block, change),), model.fingerprint, "Loud", format=NO_SUFFIX)


def random_patch(model: InspectedModel, size: float, block: int = 1, seed: int = 0) -> Patch:
    """Return a random patch of one block, of entries of a size."""
    shape = model.architecture.down_weight(block).shape
    change = size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    name = model.architecture.down_projection_names[block]
    return Patch((Delta(name, block, change),), model.fingerprint, "Random", format=NO_SUFFIX)
