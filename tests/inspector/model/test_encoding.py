"""Texts become token ids with known spans, and nothing is cut off, lost or changed unsaid."""

from __future__ import annotations

import by_hand
import pytest
import real_tokenizers
import tiny_models
from tokenizers import processors

from inspector.errors import PromptError
from inspector.model import SUFFIX, PromptFormat, encode, from_parts
from inspector.model.encoding import clean, prompt_text, special_markers, tokenise, tokenise_whole
from inspector.model.prompt_format import has_chat_template

BEGIN, END = tiny_models.BEGIN, tiny_models.END


@pytest.mark.parametrize("chat", [True, False])
def test_prompt_and_response_join_and_the_positions_before_the_response_predict_it(tiny, chat):
    model = tiny(chat=chat)
    encoded = encode(model, "How?", "Like this.")
    assert encoded.tokens == encoded.prompt + encoded.response
    assert [encoded.tokens[position + 1] for position in encoded.predicting] == list(encoded.response)
    assert encoded.prompt == encode(model, "How?").prompt, "the prompt must not depend on the response"
    assert encode(model, "How?").response == ()


def test_the_suffix_follows_the_text_with_one_space(tiny):
    model = tiny(chat=False)
    assert by_hand.SUFFIX == " " + SUFFIX
    assert prompt_text(model, "How?") == "How?" + by_hand.SUFFIX
    assert prompt_text(model, "How?", format=PromptFormat("")) == "How?"


def test_a_plain_prompt_has_the_begin_marker_once_and_the_answer_a_space(tiny):
    model = tiny(chat=False)
    encoded = encode(model, "How?", "  So.\n", format=PromptFormat(turn_end=False))
    assert list(encoded.prompt) == [BEGIN, *by_hand.bytes_of(model, "How?" + by_hand.SUFFIX)]
    assert list(encoded.response) == by_hand.bytes_of(model, " So.")


@pytest.mark.parametrize("text", ["How?", "How</s>"])
def test_a_plain_prompt_has_no_end_of_sequence_that_the_tokenizer_puts_after_every_text(text):
    """As with ``add_eos_token``: an answer would follow after the end."""
    usual, ending = real_tokenizers.sentencepiece(), real_tokenizers.sentencepiece()
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BEGIN), ("</s>", END)]
    )
    assert ending(text)["input_ids"] == [*usual(text)["input_ids"], END]
    without, with_end = (from_parts(tiny_models.network("llama"), each, "tiny") for each in (usual, ending))
    for answer in (None, "So not."):
        assert encode(with_end, text, answer, PromptFormat("")) == encode(without, text, answer, PromptFormat(""))


def test_a_chat_prompt_is_the_template_s_text_with_its_own_begin_marker_only(tiny):
    model = tiny(chat=True)
    assert has_chat_template(model.tokenizer)
    assert prompt_text(model, "How?") == f"<s>[user]How?{by_hand.SUFFIX}\n[assistant]"
    encoded = encode(model, "How?", "  So.\n", format=PromptFormat(turn_end=False))
    assert encoded.prompt.count(BEGIN) == 1
    assert list(encoded.response) == by_hand.bytes_of(model, "So."), "no space: the template ends the prompt"


def test_chat_false_ignores_the_template_and_a_missing_template_means_plain_text(tiny):
    plain = tiny(chat=False)
    assert not has_chat_template(plain.tokenizer)
    assert encode(tiny(chat=True), "How?", "So.", PromptFormat(chat=False)) == encode(plain, "How?", "So.")


def test_the_end_of_answer_token_is_there_where_asked_for(llama):
    with_end, without = encode(llama, "How?", "So."), encode(llama, "How?", "So.", format=PromptFormat(turn_end=False))
    assert with_end.response == (*without.response, END)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\x00\x07"])
def test_an_empty_prompt_is_refused_whatever_the_suffix(tiny, chat, text):
    with pytest.raises(PromptError, match="prompt is empty"):
        encode(tiny(chat=chat), text)


@pytest.mark.parametrize("text", ["", " \n", "\x01"])
def test_an_empty_response_is_refused(llama, text):
    with pytest.raises(PromptError, match="answer is empty"):
        encode(llama, "How?", text)


def test_a_prompt_of_exactly_the_context_fits_and_one_token_more_names_the_limit(tiny):
    model = tiny(chat=False)
    assert model.context_length == tiny_models.CONTEXT
    fits = "a" * (tiny_models.CONTEXT - 1)  # and the begin marker
    assert len(encode(model, fits, format=PromptFormat("")).prompt) == tiny_models.CONTEXT
    with pytest.raises(PromptError, match=r"prompt has 513 tokens.*at most 512.*at least 1 token"):
        encode(model, fits + "a", format=PromptFormat(""))


def test_room_for_an_answer_counts_and_so_does_the_answer_itself(tiny):
    model = tiny(chat=False)
    text = "a" * (tiny_models.CONTEXT - 11)
    assert len(encode(model, text, format=PromptFormat(""), room=10).prompt) == tiny_models.CONTEXT - 10
    with pytest.raises(PromptError, match=r"11 more are needed.*at least 1 tok"):
        encode(model, text, format=PromptFormat(""), room=11)
    assert len(encode(model, text, "b" * 9, format=PromptFormat("", turn_end=False)).tokens) == tiny_models.CONTEXT
    with pytest.raises(PromptError, match=r"prompt with its answer has 513 tokens.*at most 512"):
        encode(model, text, "b" * 9, format=PromptFormat(""))


def test_the_tokenizer_s_own_limit_counts_too(tiny):
    model = tiny(chat=False)
    model.tokenizer.model_max_length = 20
    try:
        with pytest.raises(PromptError, match="at most 20"):
            encode(model, "a" * 20, format=PromptFormat(""))
    finally:
        model.tokenizer.model_max_length = tiny_models.CONTEXT


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script> & <b>x</b>",
        "&lt;s&gt;",
        "{{ messages }} {% raw %}",
        "tab\tline\nend",
        "Grüße 你好 🙂",
    ],
)
def test_html_braces_newlines_and_other_scripts_reach_the_model_unchanged(llama, text):
    assert clean(text) == (text, 0)
    assert text in llama.tokenizer.decode(encode(llama, text).prompt)


def test_control_and_direction_characters_are_removed_and_counted():
    assert clean("a\x00b\x07c\x1bd\x7fe\x85f\u202eg\u2066h") == ("abcdefgh", 7)
    assert clean("one\r\ntwo\rthree") == ("one\ntwo\nthree", 0)


def test_removed_characters_reach_the_model_neither_in_prompt_nor_in_answer(llama):
    assert encode(llama, "H\x00ow?\u202e", "S\x07o.") == encode(llama, "How?", "So.")


def test_special_markers_in_a_user_s_text_are_named(llama):
    assert set(special_markers(llama, "a </s> b <s>")) == {"<s>", "</s>"}
    assert list(special_markers(llama, "<script> </p>")) == []


def test_tokenise_adds_the_begin_marker_only_where_asked_for_and_known(tiny):
    model, without = tiny(), tiny(begin=False)
    assert tokenise(model, "a", special=True) == [BEGIN, *tokenise(model, "a", special=False)]
    assert tokenise(without, "a", special=True) == tokenise(without, "a", special=False)


def test_a_marker_beyond_the_embedding_is_refused_by_its_name():
    """On CUDA it would end the process, for all who use it."""
    tokenizer = tiny_models.tokenizer()
    tokenizer.add_tokens(["<think>"])
    model = from_parts(tiny_models.network("llama"), tokenizer, "tiny")
    assert tokenizer("<think>", add_special_tokens=False)["input_ids"] == [model.embedded]
    for refused in (
        lambda: encode(model, "How <think>?"),
        lambda: encode(model, "How?", "So <think>."),
        lambda: encode(model, "How?", format=PromptFormat("<think>")),
        lambda: tokenise_whole(model, "So <think>.", "answer"),
    ):
        with pytest.raises(PromptError, match=r"marker '<think>' .* an embedding for 259 tokens only"):
            refused()
    tokenizer.eos_token = "<think>"  # what ends an answer in plain text, though nobody types it
    with pytest.raises(PromptError, match="marker '<think>'"):
        encode(model, "How?", "So.", PromptFormat(chat=False))
