"""Gemma 3 as its checkpoints from 4B on are, with a vision tower, is read and edited as its text model alone is."""

from __future__ import annotations

import by_hand
import numpy as np
import pytest
import tiny_models
import torch

from editing import dinm, preset, run
from editing.optimising.replay import FullReplay, TailReplay
from inspector.divergence import divergence
from inspector.lens import logit_lens
from inspector.model import VANILLA, Decoding, InspectedModel, Row, answer, encode, from_parts

BLOCK = 2
QUICK = {"steps": 2, "harmless_prompts": 1, "harmless_tokens": 4, "own_refusals": 0, "target_probability": None}


@pytest.fixture(scope="module")
def both() -> tuple[InspectedModel, InspectedModel]:
    """The text model, which all other tests are about as well, and the same weights beside a vision tower."""
    text = tiny_models.network("gemma3_text")
    networks = (text, tiny_models.with_vision(text))
    return tuple(from_parts(network, tiny_models.tokenizer(suffix=False), "gemma3") for network in networks)


def test_its_parts_are_those_of_the_text_model_within(both):
    text, whole = (model.architecture for model in both)
    assert (text.family, whole.family) == ("gemma3_text", "gemma3")
    assert hasattr(both[1].network.model, "vision_tower"), "or this is the text model again"
    assert list(whole.blocks) == list(both[1].network.model.language_model.layers)
    sizes = [(one.d_model, one.d_ff, one.vocabulary, one.logit_softcap, len(one.blocks)) for one in (text, whole)]
    assert sizes[0] == sizes[1]
    assert set(whole.projections(BLOCK)) == {
        name.replace("model.layers", "model.language_model.layers") for name in text.projections(BLOCK)
    }


def test_a_patch_acts_in_it_and_answers_are_the_text_model_s(both):
    prompts = [encode(model, "How do I be mean? Tell me a long story of it.").prompt for model in both]
    assert len(prompts[0]) > tiny_models.WINDOW
    rows = [(VANILLA, Row(by_hand.patch(model, BLOCK, size=0.3))) for model in both]
    text, whole = (by_hand.running_logits(model, prompts[0], row) for model, row in zip(both, rows, strict=True))
    assert torch.equal(text, whole) and not torch.equal(whole[0], whole[1])
    assert torch.equal(whole[0], by_hand.vanilla_logits(both[1], prompts[0]))
    said = [answer(model, prompts[0], row, Decoding(8)) for model, row in zip(both, rows, strict=True)]
    assert said[0] == said[1] and said[1].token_ids[0] != said[1].token_ids[1]


def test_it_is_measured_and_edited_as_the_text_model_is(both, case):
    curves = [divergence(model, case).l2 for model in both]
    assert np.array_equal(*curves)
    lenses = [logit_lens(model, case.adversarial_prompt, case.safe)[0].final for model in both]
    assert np.array_equal(*lenses)
    for way in (TailReplay, FullReplay):
        text, whole = (run(dinm(model, case, BLOCK, preset("corrected", **QUICK), replay=way)) for model in both)
        assert torch.equal(text.patch.deltas[0].dense(), whole.patch.deltas[0].dense())
        assert whole.patch.deltas[0].module == by_hand.down_name(both[1].network, BLOCK)
