"""Tiny random models of every family, and offline tokenizers for them, made in milliseconds.

Weights are drawn with a large deviation and the vectors (biases, norms) get noise of their own, so that
a forgotten bias, norm or softcap shows as a wrong number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

PAD, BEGIN, END = 0, 1, 2
"""Ids of ``<pad>``, ``<s>`` and ``</s>``; the 256 bytes follow."""
VOCABULARY = 3 + 256
CONTEXT = 512
WINDOW = 16
"""Sliding window, much shorter than any prompt that the tests use."""
SUFFIX = " If the user's request is reasonable, give the correct answer. Please give the right response:"
"""The paper's suffix with the space before it, typed here anew. It is one token: as bytes it is most of nearly every
prompt of the tests, and of their time."""
UNUSED = "\u00fc"
"""A byte that no text in UTF-8 has, 0xFC, as byte-level tokenizers write it; its id is the suffix's."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>[{{ message['role'] }}]{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

_SPECIAL = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}
_COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, **_SPECIAL}
_LLAMA = {
    **_COMMON,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
}
_GEMMA = {**_LLAMA, "num_hidden_layers": 4, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW}
_OPT = {
    **_COMMON,
    "num_hidden_layers": 3,
    "ffn_dim": 48,
    "max_position_embeddings": CONTEXT,
    "word_embed_proj_dim": 32,
    "init_std": 0.15,
    "dropout": 0.0,
}
_NEOX = {**_LLAMA, "num_key_value_heads": None}

CONFIGS: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (LlamaConfig, _LLAMA),
    "mistral": (MistralConfig, {**_LLAMA, "sliding_window": None}),
    "mistral_sliding": (MistralConfig, {**_LLAMA, "sliding_window": WINDOW}),
    "qwen2": (Qwen2Config, _LLAMA),
    "qwen3": (Qwen3Config, {**_LLAMA, "head_dim": 8}),
    "gemma2": (Gemma2Config, {**_GEMMA, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 10.0}),
    "gemma3_text": (
        Gemma3TextConfig,
        {**_GEMMA, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "phi3": (Phi3Config, {**_LLAMA, "sliding_window": None}),
    "gpt2": (
        GPT2Config,
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 3,
            "n_inner": 48,
            "n_positions": CONTEXT,
            "initializer_range": 0.15,
            **_SPECIAL,
        },
    ),
    "gpt_neox": (GPTNeoXConfig, {**_NEOX, "use_parallel_residual": True}),
    "gpt_neox_sequential": (GPTNeoXConfig, {**_NEOX, "use_parallel_residual": False}),
    "opt": (OPTConfig, _OPT),
    # As OPT-350m, the only one of them: no final norm, and embeddings narrower than the residual stream.
    "opt_post_norm": (OPTConfig, {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    "opt_projected": (OPTConfig, {**_OPT, "word_embed_proj_dim": 24}),
}
FAMILIES = tuple(CONFIGS)
FIVE = ("llama", "gemma2", "gpt2", "gpt_neox", "opt_post_norm")
"""Every mechanism that the engine's code tells apart, once.

llama: gated MLP without biases, one key for two heads. gemma2: a norm after the MLP, both softcaps, every other
layer with a sliding window. gpt2: ``Conv1D``, biases, learned positions, tied embeddings. gpt_neox: parallel blocks,
which cannot be resumed at the down-projection. opt_post_norm: flattened inputs of the MLP, norms after the residual
sums, no final norm, a projection before the unembedding.
"""
ENDS = ("llama", "opt_post_norm")
"""The two ways in which those end: in a final norm, and straight in what stands before the unembedding.

For what puts together parts that have their own tests on every family.
"""


SCALED: dict[str, tuple[type, dict[str, Any]]] = {
    "granite": (
        GraniteConfig,
        {**_LLAMA, "logits_scaling": 0.3, "residual_multiplier": 0.4, "embedding_multiplier": 3.0},
    ),
    "cohere": (CohereConfig, {**_LLAMA, "logit_scale": 3.0}),
    "cohere2": (Cohere2Config, {**_LLAMA, "logit_scale": 3.0, "sliding_window": WINDOW}),
}
"""Families that are not in the map, whose parts are Llama's, and which scale their logits or what they write."""
LLAMA_S_PATHS = {"blocks": "model.layers", "down_projection": "mlp.down_proj", "final_norm": "model.norm"}


def network(family: str, seed: int = 0) -> Any:
    """Return a random float32 network of a family in evaluation mode."""
    kind, options = CONFIGS[family]
    return random_network(kind(**options), seed)


def random_network(config: Any, seed: int = 0) -> Any:
    """Return a random float32 network of any configuration, its vectors no longer zeros and ones."""
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def with_vision(text: Any) -> Any:
    """Return Gemma 3 as its checkpoints from 4B on have it, a vision tower beside the weights of a text model.

    Args:
        text: A network of the family ``gemma3_text``.
    """
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Gemma3Config(
        text_config=text.config.to_dict(),
        vision_config={**tower, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
        **_SPECIAL,
    )
    made = random_network(config)
    made.model.language_model.load_state_dict(text.model.state_dict())
    made.lm_head.load_state_dict(text.lm_head.state_dict())
    return made


def out_of_range(network: Any) -> Any:
    """Let the second block of a tiny Llama write more than float16 can hold, about 65,000; float32 holds it well."""
    with torch.no_grad():
        weight = network.model.layers[1].mlp.down_proj.weight
        weight.copy_(6e4 * weight.sign())
    return network


def tokenizer(
    chat: bool = True, begin: bool = True, limit: int = CONTEXT, suffix: bool = True
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes, but for the suffix.

    Args:
        chat: Bring a chat template.
        begin: Put ``<s>`` before a text that is tokenised with special tokens.
        limit: ``model_max_length``.
        suffix: Let :data:`SUFFIX` be one token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = {"<pad>": PAD, "<s>": BEGIN, "</s>": END}
    vocabulary = {**special, **{byte: n + 3 for n, byte in enumerate(alphabet)}}
    if suffix:
        vocabulary[SUFFIX] = vocabulary.pop(UNUSED)
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    if suffix:
        inner.add_tokens([AddedToken(SUFFIX, normalized=False)])
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return _whole(inner, chat, begin, limit)


def tokenizer_of_words(texts: Iterable[str], size: int, limit: int = CONTEXT) -> PreTrainedTokenizerFast:
    """Return a chat tokenizer of frequent pieces of words, for texts that are too long in single bytes.

    Args:
        texts: Where the pieces are counted.
        size: Tokens in all.
        limit: ``model_max_length``.
    """
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
        ),
    )
    return _whole(inner, chat=True, begin=True, limit=limit)


def _whole(inner: Tokenizer, chat: bool, begin: bool, limit: int) -> PreTrainedTokenizerFast:
    if begin:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BEGIN)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=limit
    )
    if chat:
        made.chat_template = CHAT_TEMPLATE
    return made
