"""Each preset of the divergence is what it says, computed here anew without cache, batch or hooks of ours."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import numpy as np
import pytest
import torch
from torch import Tensor

from inspector.divergence import DISTANCES, PRESETS, Divergence, divergence
from inspector.errors import CaseError, NotFinite, PromptError
from inspector.model import PromptFormat, Row

# Distances here are of order 0.1 to 10. Prompt cache, batching and right padding change the order of
# float32 sums over at most 160 positions; two correct ways differ by a few 1e-6 relative.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def answer_states(model, network, case) -> tuple[list[Tensor], list[Tensor]]:
    """Return, for the safe and the unsafe answer, the states ``[tokens, d_model]`` entering block 0 and after each."""
    prompt = by_hand.prompt(model, case.adversarial_prompt)
    both = []
    for text in (case.safe, case.unsafe):
        ids = by_hand.response(model, text)
        both.append([state[-len(ids) :] for state in by_hand.states(network, prompt + ids)])
    return both[0], both[1]


def distances(safe: list[Tensor], unsafe: list[Tensor]) -> dict[str, np.ndarray]:
    """Return the four curves from pooled states, the first of which is the embeddings'."""
    l2 = np.array([float((a - b).norm()) for a, b in zip(safe, unsafe, strict=True)])
    sizes = np.array([[float(a.norm()), float(b.norm())] for a, b in zip(safe, unsafe, strict=True)])
    dots = np.array([float((a * b).sum()) for a, b in zip(safe, unsafe, strict=True)])
    return {
        "l2": l2[1:],
        "relative": (l2 / sizes.mean(axis=1))[1:],
        "cosine": (1 - dots / sizes.prod(axis=1))[1:],
        "growth": np.diff(l2),
    }


def assert_curves(measured: Divergence, expected: dict[str, np.ndarray]) -> None:
    for name in DISTANCES:
        assert np.allclose(measured.by(name), expected[name], **CLOSE), name
        assert measured.toxic_layer(name) == int(np.argmax(expected[name]))


def slabs(model, network, case, padding: str) -> tuple[list[Tensor], list[Tensor]]:
    """Return the answers' states of unpadded passes, placed in zeros at their side."""
    rows = [by_hand.states(network, model.tokenizer(text)["input_ids"]) for text in (case.safe, case.unsafe)]
    longest = max(len(row[0]) for row in rows)
    placed = []
    for row in rows:
        zeros = longest - len(row[0])
        sides = (0, 0, zeros, 0) if padding == "left" else (0, 0, 0, zeros)
        placed.append([torch.nn.functional.pad(state, sides) for state in row])
    return placed[0], placed[1]


@torch.no_grad()
def padded_hidden_states(model, case, padding: str) -> tuple[list[Tensor], list[Tensor]]:
    """Return what the released code reads: ``hidden_states`` of both answers, padded with the end-of-sequence token."""
    batch = model.tokenizer([case.safe, case.unsafe], padding=True, padding_side=padding, return_tensors="pt")
    ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, model.tokenizer.eos_token_id)
    own = model.network(input_ids=ids, attention_mask=batch["attention_mask"], output_hidden_states=True).hidden_states
    return [state[0] for state in own], [state[1] for state in own]


def test_corrected_equals_full_forward_passes_of_prompt_and_answer(every_model, case):
    model = every_model
    safe, unsafe = answer_states(model, model.network, case)
    measured = divergence(model, case)
    assert_curves(measured, distances([s.mean(dim=0) for s in safe], [s.mean(dim=0) for s in unsafe]))
    shared = min(len(safe[0]), len(unsafe[0]))
    for block in range(model.blocks):
        one, two = safe[block + 1][:shared], unsafe[block + 1][:shared]
        by_token = (one - two).norm(dim=-1)
        assert np.allclose(measured.token_l2[block], by_token, **CLOSE)
        sizes = (one.norm(dim=-1) + two.norm(dim=-1)) / 2
        assert np.allclose(measured.token_relative[block], by_token / sizes, **CLOSE)


@pytest.mark.parametrize("longer", ["safe", "unsafe"])
def test_corrected_does_not_see_that_the_shorter_answer_is_padded(model, case, longer):
    """With one answer six times as long as the other, the curve is still that of unpadded passes."""
    stretched = replace(case, **{longer: getattr(case, longer) + " And then some more of it." * 8})
    safe, unsafe = answer_states(model, model.network, stretched)
    measured, own = divergence(model, stretched), divergence(model, case).token_l2
    assert_curves(measured, distances([s.mean(dim=0) for s in safe], [s.mean(dim=0) for s in unsafe]))
    assert np.allclose(measured.token_l2[:, : own.shape[1]], own, **CLOSE)


def test_corrected_without_chat_template_uses_plain_text(tiny, case):
    model = tiny("llama", chat=False)
    safe, unsafe = answer_states(model, model.network, case)
    assert_curves(divergence(model, case), distances([s.mean(dim=0) for s in safe], [s.mean(dim=0) for s in unsafe]))
    assert np.array_equal(
        divergence(tiny("llama"), case, format=PromptFormat(chat=False)).l2, divergence(model, case).l2
    )


@pytest.mark.parametrize("padding", ["right", "left"])
def test_reference_equals_the_padded_hidden_states_of_the_model_itself(every_model, case, padding):
    """Pads, the padding side and the last entry after the final norm included."""
    model = every_model
    safe, unsafe = padded_hidden_states(model, case, padding)
    measured = divergence(model, case, "reference", padding=padding)
    assert np.isfinite(measured.l2).all()
    assert_curves(measured, distances(safe, unsafe))
    for block in range(model.blocks):
        expected = (safe[block + 1] - unsafe[block + 1]).norm(dim=-1)
        assert np.allclose(measured.token_l2[block], expected, **CLOSE)


def test_reference_s_last_entry_is_not_a_block_output(llama, case):
    """It is after the final norm: another number than ``paper``'s, all other blocks being pads apart alike."""
    same_length = replace(case, safe="Oh no.", unsafe="Oh yes"[:6])
    reference, paper = (divergence(llama, same_length, preset) for preset in ("reference", "paper"))
    assert np.allclose(reference.l2[:-1], paper.l2[:-1], **CLOSE)
    assert abs(reference.l2[-1] - paper.l2[-1]) > 0.1


@pytest.mark.parametrize("padding", ["right", "left"])
def test_paper_equals_unpadded_passes_in_zero_slabs(every_model, case, padding):
    model = every_model
    safe, unsafe = slabs(model, model.network, case, padding)
    measured = divergence(model, case, "paper", padding=padding)
    assert_curves(measured, distances(safe, unsafe))
    for block in range(model.blocks):
        expected = (safe[block + 1] - unsafe[block + 1]).norm(dim=-1)
        assert np.allclose(measured.token_l2[block], expected, **CLOSE)


@pytest.mark.parametrize("preset", ["paper", "reference"])
def test_paper_and_reference_see_neither_prompt_nor_suffix_nor_template(llama, tiny, case, preset):
    own = divergence(llama, case, preset).l2
    other = replace(case, adversarial_prompt="Something else entirely")
    assert np.array_equal(divergence(llama, other, preset, format=PromptFormat("", chat=False)).l2, own)
    assert np.array_equal(divergence(tiny("llama", chat=False), case, preset).l2, own)
    assert not np.allclose(divergence(llama, other).l2, divergence(llama, case).l2)


@pytest.mark.parametrize("padding", ["right", "left"])
def test_labels_stand_where_the_tokens_stand(llama, case, padding):
    measured = divergence(llama, case, "paper", padding=padding)
    pads = ["(pad)"] * (len(measured.safe_tokens) - len(case.unsafe) - 1)
    unsafe = ["<s>", *case.unsafe]
    assert list(measured.safe_tokens) == ["<s>", *case.safe]
    assert list(measured.unsafe_tokens) == (pads + unsafe if padding == "left" else unsafe + pads)
    corrected = divergence(llama, case)
    assert "".join(corrected.unsafe_tokens) == case.unsafe
    assert "".join(corrected.safe_tokens) == case.safe[: len(case.unsafe)]


@pytest.mark.parametrize("preset", PRESETS)
def test_growth_sums_telescopically_from_the_embeddings(llama, case, preset):
    measured = divergence(llama, case, preset)
    start = measured.l2[0] - measured.growth[0]
    assert start > 0
    # Sums and differences of doubles of order 10.
    assert np.allclose(start + np.cumsum(measured.growth), measured.l2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_patched_row_changes_the_edited_block_and_those_above_only(model, case, preset):
    block = 1
    patch = by_hand.patch(model, block)
    vanilla, edited = (divergence(model, case, preset, row=row) for row in (Row(), Row(patch)))
    assert np.array_equal(vanilla.l2[:block], edited.l2[:block])
    assert np.array_equal(vanilla.token_l2[:block], edited.token_l2[:block])
    assert (np.abs(vanilla.l2[block:] - edited.l2[block:]) > 1e-4).all()


def test_a_patched_row_measures_the_edited_model(every_model, case):
    model = every_model
    patch = by_hand.patch(model)
    copied = by_hand.written(model.network, (patch.deltas[0].block, patch.deltas[0].dense()))
    safe, unsafe = answer_states(model, copied, case)
    expected = distances([s.mean(dim=0) for s in safe], [s.mean(dim=0) for s in unsafe])
    assert_curves(divergence(model, case, row=Row(patch)), expected)
    safe, unsafe = slabs(model, copied, case, "right")
    assert_curves(divergence(model, case, "paper", row=Row(patch)), distances(safe, unsafe))


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_and_empty_answers_are_refused(llama, case, preset):
    with pytest.raises(CaseError, match="same text"):
        divergence(llama, replace(case, unsafe=f"  {case.safe}\n"), preset)
    for name in ("safe", "unsafe"):
        with pytest.raises(CaseError, match=f"The {name} answer is empty"):
            divergence(llama, replace(case, **{name: " \n"}), preset)


def test_an_unknown_preset_is_answered_with_the_valid_ones(llama, case):
    with pytest.raises(CaseError, match=r"'best'.*corrected, paper, reference"):
        divergence(llama, case, "best")


@pytest.mark.parametrize("preset", PRESETS)
def test_an_unknown_padding_side_is_answered_with_the_valid_ones(llama, case, preset):
    with pytest.raises(CaseError, match=r"'middle'.*right, left"):
        divergence(llama, case, preset, padding="middle")


def test_an_empty_or_too_long_prompt_is_refused(llama, case):
    with pytest.raises(PromptError, match="empty"):
        divergence(llama, replace(case, adversarial_prompt=" "))
    with pytest.raises(PromptError, match="at most 512"):
        divergence(llama, replace(case, adversarial_prompt="a" * 600))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("longer", ["safe", "unsafe"])
def test_an_answer_longer_than_the_context_is_refused(tiny, case, preset, longer):
    """GPT-2 has no positions beyond its context: without the check it ends in an index error."""
    with pytest.raises(PromptError, match="at most 512"):
        divergence(tiny("gpt2"), replace(case, **{longer: "a" * 600}), preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_control_characters_in_answers_do_not_reach_the_model(llama, case, preset):
    dirty = replace(case, safe=f"\x00{case.safe}\x07", unsafe=f"{case.unsafe}\u202e")
    assert np.array_equal(divergence(llama, dirty, preset).l2, divergence(llama, case, preset).l2)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_layer_is_not_read_off_states_that_left_the_type_s_range(overflowing, case, preset):
    with pytest.raises(NotFinite, match=r"divergence .*not a finite number in float16.*--dtype float32"):
        divergence(overflowing, case, preset)
