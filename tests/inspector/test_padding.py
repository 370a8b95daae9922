"""What padding does to the released locator, against passes of one answer at a time."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import numpy as np
import pytest
import tiny_models
import torch
from torch import Tensor

from inspector.divergence import divergence
from inspector.errors import CaseError
from inspector.model import from_parts
from inspector.padding import padding_study

WAYS = [(side, masked) for side in ("left", "right") for masked in (False, True)]
# Distances of order 0.1 to 100; two correct ways (batch size, with or without a mask) differ by a few 1e-6 relative.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def speaking_pad(family: str):
    """Return a tiny model whose padding, the end-of-sequence token, has an embedding unlike others'.

    Fresh models have zeros there, and a Llama without biases then leaves zero at a pad that sees no token.
    """
    network = tiny_models.network(family)
    with torch.no_grad():
        weight = network.get_input_embeddings().weight
        weight[tiny_models.END] = weight[tiny_models.BEGIN + 1 :].std() * torch.randn(weight.shape[1])
    return from_parts(network, tiny_models.tokenizer(), f"pad-{family}")


def answers(model, case) -> list[list[int]]:
    return [model.tokenizer(text)["input_ids"] for text in (case.safe, case.unsafe)]


@torch.no_grad()
def alone(network, ids: list[int], before: int = 0, after: int = 0) -> list[Tensor]:
    """Return ``hidden_states`` of one answer with pads around it, hidden by an attention mask of one row.

    The last entry is after the final norm, as the released code reads it.
    """
    mask = [0] * before + [1] * len(ids) + [0] * after
    given = torch.tensor([[tiny_models.END] * before + ids + [tiny_models.END] * after])
    return [
        state[0]
        for state in network(
            input_ids=given, attention_mask=torch.tensor([mask]), output_hidden_states=True, use_cache=False
        ).hidden_states
    ]


@torch.no_grad()
def unpadded(network, ids: list[int], first_position: int = 0) -> list[Tensor]:
    """Return ``hidden_states`` of one answer without any pad or mask, counted from a position."""
    positions = torch.arange(first_position, first_position + len(ids)).unsqueeze(0)
    found = network(
        input_ids=torch.tensor([ids]), position_ids=positions, output_hidden_states=True, use_cache=False
    ).hidden_states
    return [state[0] for state in found]


def frobenius(one: list[Tensor], two: list[Tensor]) -> np.ndarray:
    """Return the norm of the difference of two slabs, block by block, the embeddings left out."""
    return np.array([float((a - b).square().sum().sqrt()) for a, b in zip(one, two, strict=True)])[1:]


def pads_of(ids: list[int], longest: int, side: str) -> tuple[int, int]:
    return (longest - len(ids), 0) if side == "left" else (0, longest - len(ids))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("longer", ["safe", "unsafe"])
def test_the_four_ways_are_passes_of_each_answer_with_its_pads_hidden(case, family, longer):
    """Pads' states count as the model leaves them; masked, only positions count where neither answer has a pad."""
    model = speaking_pad(family)
    case = replace(case, **{longer: getattr(case, longer) + " And then a good deal more."})
    both = answers(model, case)
    longest = max(map(len, both))
    study = padding_study(model, case)
    assert set(study.curves) == set(WAYS)
    found = {}
    for side, masked in WAYS:
        slabs = []
        for ids in both:
            before, after = pads_of(ids, longest, side)
            states = alone(model.network, ids, before, after)
            slabs.append(states)
        if masked:
            real = slice(longest - min(map(len, both)), longest) if side == "left" else slice(0, min(map(len, both)))
            slabs = [[state[real] for state in slab] for slab in slabs]
        expected = frobenius(*slabs)
        measured = study.curves[side, masked]
        assert np.allclose(measured.l2, expected, **CLOSE), (side, masked)
        for block in range(model.blocks):
            by_token = (slabs[0][block + 1] - slabs[1][block + 1]).norm(dim=-1)
            found_by_token = measured.token_l2[block]
            if masked:
                assert not found_by_token[[n for n in range(longest) if n not in range(longest)[real]]].any()
                found_by_token = found_by_token[real]
            assert np.allclose(found_by_token, by_token, **CLOSE)
        assert study.toxic_layers()[side, masked] == int(np.argmax(expected))
        assert (measured.preset, measured.padding) == ("reference", side)
        found[side, masked] = expected
    for one in WAYS:
        for two in WAYS:
            assert one == two or not np.allclose(found[one], found[two], rtol=1e-2), "the four ways must differ"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_right_padding_masked_is_unpadded_passes_that_start_together(case, family):
    model = speaking_pad(family)
    both = answers(model, case)
    shortest = min(map(len, both))
    slabs = [[state[:shortest] for state in unpadded(model.network, ids)] for ids in both]
    assert np.allclose(padding_study(model, case).curves["right", True].l2, frobenius(*slabs), **CLOSE)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_left_padding_masked_is_unpadded_passes_that_end_together(case, family):
    """A Llama sees relative positions only; GPT-2 has learnt its positions, and pads on the left shift them."""
    model = speaking_pad(family)
    both = answers(model, case)
    longest, shortest = max(map(len, both)), min(map(len, both))

    def expected(shift: bool) -> np.ndarray:
        slabs = []
        for ids in both:
            pads = longest - len(ids)
            slabs.append([state[-shortest:] for state in unpadded(model.network, ids, pads if shift else 0)])
        return frobenius(*slabs)

    measured = padding_study(model, case).curves["left", True].l2
    assert np.allclose(measured, expected(shift=True), **CLOSE)
    assert np.allclose(expected(shift=False), expected(shift=True), **CLOSE) == (family == "llama")


def test_masked_counts_nothing_where_one_answer_has_a_pad(case):
    llama = speaking_pad("llama")
    study = padding_study(llama, case)
    longest = max(map(len, answers(llama, case)))
    assert study.pads > 0
    for side, pads in (("left", slice(0, study.pads)), ("right", slice(longest - study.pads, None))):
        assert not study.curves[side, True].token_l2[:, pads].any()
        assert (study.curves[side, False].token_l2[:, pads] > 1e-3).all()


def test_real_tokens_hide_nothing_when_pads_are_masked(case):
    """Masking changes no distance at a position that both answers fill."""
    llama = speaking_pad("llama")
    study = padding_study(llama, case)
    longest = max(map(len, answers(llama, case)))
    for side, real in (("left", slice(study.pads, None)), ("right", slice(0, longest - study.pads))):
        one, two = (study.curves[side, masked].token_l2[:, real] for masked in (True, False))
        assert np.array_equal(one, two) and one.shape[1] > 5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_answers_of_one_length_have_no_pads_and_the_four_ways_agree(tiny, case, family):
    model = tiny(family)
    same = replace(case, safe="I will not do it.", unsafe="Tell lies to them"[:17])
    both = answers(model, same)
    assert len(both[0]) == len(both[1])
    study = padding_study(model, same)
    assert study.pads == 0
    expected = frobenius(*(unpadded(model.network, ids) for ids in both))
    for way in WAYS:
        assert np.allclose(study.curves[way].l2, expected, **CLOSE)
    assert len(set(study.toxic_layers().values())) == 1


@pytest.mark.parametrize("longer", ["safe", "unsafe"])
def test_the_norms_are_those_of_the_longer_answer_without_pads(model, case, longer):
    """Block outputs, the last one before the final norm; an odd number of other positions, so the median is one."""
    case = replace(case, **{longer: getattr(case, longer) + " And more of it, and more."})
    both = answers(model, case)
    ids = both[0 if longer == "safe" else 1]
    if len(ids) % 2:
        case = replace(case, **{longer: getattr(case, longer) + "!"})
        both = answers(model, case)
        ids = both[0 if longer == "safe" else 1]
    assert len(ids) == max(map(len, both)) and len(both[0]) != len(both[1]) and len(ids) % 2 == 0
    study = padding_study(model, case)
    norms = [state.norm(dim=-1).numpy() for state in by_hand.states(model.network, ids)[1:]]
    assert np.allclose(study.first_norm, [norm[0] for norm in norms], **CLOSE)
    assert np.allclose(study.typical_norm, [np.median(norm[1:]) for norm in norms], **CLOSE)
    assert study.pads == abs(len(both[0]) - len(both[1]))


def test_of_an_even_number_of_positions_the_lower_middle_one_is_typical(llama, case):
    """PyTorch's median; either of the two middle ones would do, but not another."""
    case = replace(case, safe="I will not help you, sorry", unsafe="Lie")
    ids = llama.tokenizer(case.safe)["input_ids"]
    assert len(ids) % 2 == 1
    study = padding_study(llama, case)
    for block, state in enumerate(by_hand.states(llama.network, ids)[1:]):
        norms = np.sort(state[1:].norm(dim=-1).numpy())
        assert study.typical_norm[block] == pytest.approx(norms[(len(norms) - 1) // 2], rel=1e-4)


def test_an_answer_of_one_token_is_its_own_typical_position(tiny, case):
    model = tiny("llama", begin=False)
    study = padding_study(model, replace(case, safe="a", unsafe="b"))
    norms = [float(state[0].norm()) for state in by_hand.states(model.network, by_hand.bytes_of(model, "a"))[1:]]
    assert study.pads == 0
    assert np.allclose(study.first_norm, norms, **CLOSE) and np.array_equal(study.typical_norm, study.first_norm)


def test_masking_belongs_to_the_reference_preset_alone(llama, case):
    for preset in ("paper", "corrected"):
        one, two = (divergence(llama, case, preset, masked=masked).l2 for masked in (True, False))
        assert np.array_equal(one, two)
    one, two = (divergence(llama, case, "reference", masked=masked).l2 for masked in (True, False))
    assert not np.allclose(one, two)


def test_the_study_needs_two_different_answers(llama, case):
    with pytest.raises(CaseError, match="unsafe answer is empty"):
        padding_study(llama, replace(case, unsafe=""))
