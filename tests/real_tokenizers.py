"""Tokenizers like those of real families, built offline: SentencePiece's leading space, turn ends of their own.

Every one fits the vocabulary of the tiny models (:data:`tiny_models.VOCABULARY`).
"""

from __future__ import annotations

import string

import tiny_models
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPACE = "\u2581"
"""SentencePiece's sign for a space."""

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
"""A turn ends with a marker that is not the end-of-sequence token; a system turn, which no prompt has, is refused."""

ROLES = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '. ' }}{% endfor %}"
"""Shows who says what."""

LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] + '\\n\\n' + message['content'] | trim + '<end_of_turn>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n\\n' }}{% endif %}"
)

DATED = (
    "{% if date_string is not defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y, %-j') %}{% else %}{% set date_string = 'no clock' %}"
    "{% endif %}{% endif %}{{ 'Today: ' + date_string + '\\n' }}" + LLAMA_3
)
"""Puts the day before the conversation, as Llama 3.2 does."""

LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""A space stands before the answer and one before the end-of-sequence token."""

QWEN_3 = (
    "{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
"""The generation prompt ends with an empty thought."""

PHI_3 = (
    "{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] + '\\n' + message['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""The turn's marker is an added token that is not special, and the end of sequence follows it."""

FALCON = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""No marker at all."""

THINKING = (
    "{% for message in messages %}"
    "{{ '<start_of_turn>' + message['role'] + '\\n' + message['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n<think>\\n' }}{% endif %}"
)
"""The generation prompt begins a thought that answers of earlier turns do not have."""

THOUGHT_OVER = (
    "{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n<think>\\n' }}{% endif %}"
)
"""The generation prompt begins a thought, and answers of earlier turns stand after an empty one."""

LOUD = "{% for message in messages %}{{ message['content'] | upper }}{% endfor %}"
"""Writes answers anew."""

STRICT = "{{ raise_exception('Conversation roles must start with a system message') }}"

MARKERS = ("<start_of_turn>", "<end_of_turn>")
"""Special tokens that no attribute of the tokenizer names."""


MERGES = (("\u0120", "I"), ("\u010a", "I"))
"""A space and a line break with the letter after them: tokens that can span where a prompt and its answer meet."""


def sentencepiece(template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a Unigram tokenizer with a space put before every text, as Llama 2 and Mistral 0.1 have it."""
    pieces = ["<unk>", "<s>", "</s>", "<pad>", *MARKERS, SPACE, "\n"]
    words = [SPACE + word for word in ("I", "I'm", "So", "How", "will", "not", "help", "the", "right", "response")]
    letters = [*string.ascii_letters, *string.digits, *string.punctuation]
    vocabulary = [(piece, 0.0) for piece in pieces[:6]]
    vocabulary += [(piece, -4.0) for piece in [*pieces[6:], *letters]] + [(word, -2.0) for word in words]
    assert len(vocabulary) <= tiny_models.VOCABULARY
    inner = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
    inner.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrapped(inner, template)


def byte_level(template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer whose words carry their space, as Llama 3, Qwen and SmolLM have it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special, merged = ["<unk>", "<s>", "</s>", "<pad>", *MARKERS], ["".join(pair) for pair in MERGES]
    # The 256 bytes do not fit beside these: the last ones, which no text of the tests has, are left out.
    bytes_used = alphabet[: tiny_models.VOCABULARY - len(special) - len(merged)]
    vocabulary = {token: n for n, token in enumerate([*special, *bytes_used, *merged])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=list(MERGES), unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrapped(inner, template)


def _wrapped(inner: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    special = template != PHI_3
    add = inner.add_special_tokens if special else inner.add_tokens
    add([AddedToken(marker, special=special, normalized=False) for marker in MARKERS])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=tiny_models.CONTEXT,
    )
    if template is not None:
        made.chat_template = template
    return made
