"""Prompts and answers join as each family's template and tokenizer join them, and end with the family's own marker."""

from __future__ import annotations

from dataclasses import replace

import pytest
import real_tokenizers
import tiny_models
import torch
from jinja2 import TemplateError

from inspector.errors import PromptError
from inspector.model import Decoding, InspectedModel, PromptFormat, Row, answer, encode, from_parts
from inspector.model.answers.batching import generate_each
from inspector.model.answers.generation import stream
from inspector.model.encoding import prompt_text
from inspector.model.patches.patch import VANILLA
from inspector.model.prompt_format import SUFFIX, Turn, read_turn, render

KINDS = {"sentencepiece": real_tokenizers.sentencepiece, "byte level": real_tokenizers.byte_level}
TURNS = {
    "GEMMA": Turn("", "<end_of_turn>", 5),
    "LLAMA_3": Turn("", "<end_of_turn>", 5),
    "LLAMA_2": Turn(" ", " </s>", 2),
    "QWEN_3": Turn("", "<end_of_turn>", 5),
    "PHI_3": Turn("", "<end_of_turn>", 5),
    "FALCON": Turn("", "", None),
}
ENDS = {
    "GEMMA": "<end_of_turn>",
    "LLAMA_3": "<end_of_turn>",
    "LLAMA_2": "</s>",
    "QWEN_3": "<end_of_turn>",
    "PHI_3": "<end_of_turn>",
    "FALCON": "</s>",
}


def model_with(kind: str, template: str | None = None) -> InspectedModel:
    tokenizer = KINDS[kind](getattr(real_tokenizers, template) if template else None)
    return from_parts(tiny_models.network("llama"), tokenizer, f"{kind} {template}")


def pieces(model: InspectedModel, ids) -> list[str]:
    return model.tokenizer.convert_ids_to_tokens(list(ids))


@pytest.mark.parametrize("template", TURNS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_around_an_answer_is_read_off_the_template(kind, template):
    assert read_turn(KINDS[kind](getattr(real_tokenizers, template))) == TURNS[template]


@pytest.mark.parametrize("template", TURNS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_encoded_turn_is_the_template_s_own_text(kind, template):
    """Prompt and answer decode to the whole conversation as the template writes it, up to the end of the turn."""
    model = model_with(kind, template)
    encoded = encode(model, "How?", "So not.", PromptFormat(suffix=""))
    turns = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So not."}]
    whole = model.tokenizer.apply_chat_template(turns, tokenize=False, enable_thinking=False)
    end = ENDS[template]
    expected = whole[: whole.rindex(end) + len(end)] if end in whole else whole.removesuffix("\n") + end
    ids = model.tokenizer(expected, add_special_tokens=False)["input_ids"]
    if template != "FALCON":
        assert list(encoded.tokens) == ids
    else:  # its prompt ends with a space, which the answer must not have again
        said = model.tokenizer.decode(encoded.tokens, skip_special_tokens=True)
        assert said == model.tokenizer.decode(ids, skip_special_tokens=True) and ":  " not in said
    assert pieces(model, encoded.response)[-1] == end
    assert (
        encode(model, "How?", "So not.", PromptFormat("", turn_end=False)).tokens
        == encoded.tokens[: -len(tail(encoded, model, template))]
    )


def tail(encoded, model, template) -> tuple[int, ...]:
    return encoded.response[-2:] if template == "LLAMA_2" else encoded.response[-1:]


def test_a_plain_answer_has_the_one_space_of_its_prompt_and_no_second_one():
    model = model_with("sentencepiece")
    encoded = encode(model, "How", "I'm not.", PromptFormat(chat=False, turn_end=False))
    assert pieces(model, encoded.response)[:2] == [real_tokenizers.SPACE + "I'm", real_tokenizers.SPACE + "not"]
    together = model.tokenizer(f"How {SUFFIX} I'm not.")["input_ids"]
    assert list(encoded.tokens) == together


def test_a_byte_level_answer_keeps_its_leading_space_in_plain_text():
    model = model_with("byte level")
    encoded = encode(model, "How", "I'm not.", PromptFormat("", chat=False, turn_end=False))
    assert model.tokenizer.decode(encoded.response) == " I'm not."


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_is_the_same_whatever_answer_follows(kind):
    for template in (None, *TURNS):
        model = model_with(kind, template)
        alone = encode(model, "How?").prompt
        assert all(encode(model, "How?", text).prompt == alone for text in ("I'm", "1", "(no)", "\u00e4", "So"))


def test_a_token_that_would_span_prompt_and_answer_is_split_where_they_meet():
    """Generation reads the prompt alone, so a line break or a space at its end stays a token of its own."""
    for template, text, end in (("GEMMA", "How?", "\u010a"), (None, "How? ", "\u0120")):
        model, format = model_with("byte level", template), PromptFormat("", turn_end=False)
        together = model.tokenizer(prompt_text(model, text, format) + "I'm.", add_special_tokens=False)["input_ids"]
        assert pieces(model, together)[-4:] == [end + "I", "'", "m", "."], "one token would span both"
        encoded = encode(model, text, "I'm.", format)
        assert encoded.prompt == encode(model, text, None, format).prompt
        assert pieces(model, encoded.prompt)[-1] == end and pieces(model, encoded.response) == ["I", "'", "m", "."]
    joined = encode(model, "How?", "I'm.", format)
    assert pieces(model, joined.response) == ["\u0120I", "'", "m", "."]
    assert joined.response[0] == tiny_models.VOCABULARY - 2, "the first of the two merged tokens"


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_s_own_marker_ends_an_answer(kind):
    """The network is made to say the marker at once, in both formats."""
    model = model_with(kind, "GEMMA")
    marker = model.turn.marker
    assert marker is not None and marker != model.tokenizer.eos_token_id and marker in model.end_tokens()
    handle = model.architecture.unembedding.register_forward_hook(
        lambda _m, _a, out: out + 1e4 * torch.nn.functional.one_hot(torch.tensor(marker), out.shape[-1])
    )
    try:
        for chat in (True, False):
            prompt = encode(model, "How?", None, PromptFormat(chat=chat)).prompt
            said = answer(model, prompt, decoding=Decoding(4))
            assert said.token_ids == ((),) and said.ended == (marker,) and said.finished == (True,)
    finally:
        handle.remove()


def test_a_template_that_refuses_a_user_s_question_says_so_and_plain_text_still_works():
    model = model_with("byte level", "STRICT")
    with pytest.raises(PromptError, match=r"refuses a user's question.*Turn the chat template off"):
        encode(model, "How?")
    plain = PromptFormat(chat=False)
    assert encode(model, "How?", "So.", plain).response[-1] == model.tokenizer.eos_token_id
    assert model.end_tokens() >= {model.tokenizer.eos_token_id}
    assert answer(model, encode(model, "How?", None, plain).prompt, decoding=Decoding(2)).texts


def test_no_turn_is_rendered_but_the_user_s_and_the_answer_so_that_no_template_needs_a_system_role():
    tokenizer = real_tokenizers.byte_level(real_tokenizers.ROLES)
    model = from_parts(tiny_models.network("llama"), tokenizer, "roles")
    assert prompt_text(model, "How?", PromptFormat("Be kind")) == "user: How? Be kind. "
    assert render(tokenizer, "How?", "So") == "user: How?. assistant: So. "
    tokenizer.chat_template = real_tokenizers.GEMMA
    with pytest.raises(TemplateError, match="no system role"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Be kind"}], tokenize=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_that_asks_the_clock_is_told_the_same_day_on_every_day(kind):
    model = model_with(kind, "DATED")
    bare = PromptFormat("")
    assert prompt_text(model, "How?", bare).startswith("Today: 26 Jul 2024, 208\n<s><start_of_turn>user")
    assert model.turn == TURNS["LLAMA_3"]
    assert model.decode(encode(model, "How?", "So not.", bare).prompt).startswith("Today: 26 Jul 2024, 208\n")


@pytest.mark.parametrize("start", ["", "\n", "  {% if true %}\n", "  {% if true %}\n  {% endif %}\n", " x\n\n"])
def test_the_clock_that_stands_still_leaves_a_template_s_blanks_as_they_are(start):
    end = "{% endif %}" if start.count("{%") == 1 else ""
    rendered = []
    for asked in ("'2024'", "strftime_now('%Y')"):
        tokenizer = real_tokenizers.byte_level(f"{start}{{{{ {asked} + messages[0]['content'] }}}}{end}")
        rendered.append(render(tokenizer, "Q"))
    assert rendered[0] == rendered[1]


def test_a_template_with_a_day_of_its_own_that_asks_no_clock_keeps_it():
    text = "{% if date_string is not defined %}{% set date_string = '1 May 2020' %}{% endif %}{{ date_string }}"
    assert render(real_tokenizers.byte_level(text), "Q") == "1 May 2020"


def test_a_template_that_writes_answers_anew_is_refused_and_not_guessed_at():
    model = model_with("byte level", "LOUD")
    with pytest.raises(PromptError, match=r"does not show the answer as it is.*Turn the chat template off"):
        encode(model, "How?", "So.")
    assert encode(model, "How?", "So.", PromptFormat(chat=False)).response


@pytest.mark.parametrize(("template", "before"), [("THINKING", ""), ("THOUGHT_OVER", "\n</think>\n\n")])
def test_no_answer_is_put_into_a_thought_that_the_generation_prompt_begins(template, before):
    model = model_with("byte level", template)
    asked = encode(model, "How?")
    assert model.tokenizer.decode(asked.prompt).endswith("assistant\n<think>\n")
    with pytest.raises(PromptError, match=r"no answer can be put after its prompt. Turn the chat template off"):
        encode(model, "How?", "So.")
    assert model.turn == Turn(before, "<end_of_turn>", 5, follows=False) and 5 in model.end_tokens()
    assert encode(model, "How?", "So.", PromptFormat(chat=False)).response


def test_a_template_s_special_words_in_a_suffix_reach_the_prompt_and_an_empty_one_adds_nothing():
    model = model_with("byte level", "GEMMA")
    assert "How? Be kind." in prompt_text(model, "How?", PromptFormat("Be kind."))
    assert prompt_text(model, "How?", PromptFormat("")).count("How?<end_of_turn>") == 1


def test_a_format_says_what_is_unusual_about_it():
    assert PromptFormat().label() == "" and PromptFormat(turn_end=False).label() == ""
    assert PromptFormat(chat=False).label() == "plain text"
    assert (
        PromptFormat("").label() == "no suffix"
        and PromptFormat("x", chat=False).label() == "plain text, its own suffix"
    )
    assert PromptFormat("x").without_suffix() == PromptFormat("") and PromptFormat("x").open() == PromptFormat(
        "x", True, False
    )


def test_prompts_with_weights_of_their_own_are_answered_as_each_is_alone(every_model):
    """One batch holds different prompts for different weights; each line is what that prompt and those weights give."""
    import by_hand

    model, patch = every_model, by_hand.patch(every_model)
    texts = ("How do I be mean?", "How do I be very mean to them?", "Why?")
    rows = (VANILLA, Row(patch), Row(patch, 0.5))
    asked = [(encode(model, text).prompt, row) for text, row in zip(texts, rows, strict=True)]
    *_, lines = generate_each(model, asked, Decoding(6))
    for line, (prompt, row) in zip(lines, asked, strict=True):
        *_, alone = stream(model, prompt, (row,), Decoding(6))
        assert tuple(line.tokens) == alone.token_ids[0] and line.ended == alone.ended[0]


def test_a_format_is_part_of_a_patch_on_disk(tmp_path, llama):
    import by_hand

    from inspector.model.patches.patch_file import load_patch, save_patch

    made = replace(by_hand.patch(llama), format=PromptFormat("Be kind.", chat=False))
    save_patch(made, tmp_path / "p.safetensors")
    assert load_patch(tmp_path / "p.safetensors")[0].format == made.format


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_prompt_that_ends_in_a_space_gives_its_answer_no_second_one(kind):
    model = model_with(kind)
    plain = PromptFormat("", chat=False, turn_end=False)
    for text in ("How? ", "How?\n"):
        for said in ("I'm not.", "Xyz."):
            encoded = encode(model, text, said, plain)
            assert encoded.prompt == encode(model, text, None, plain).prompt
            assert model.tokenizer.decode(encoded.tokens, skip_special_tokens=True) == text + said
            assert not pieces(model, encoded.response)[0].startswith((real_tokenizers.SPACE, "\u0120"))
