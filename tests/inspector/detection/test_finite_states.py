"""What a detector is learnt from is finite numbers: a state that float16 could not hold is no window of a prompt."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from editing import run
from inspector.detection import Sample, readings_of
from inspector.errors import NotFinite
from inspector.model import InspectedModel, PromptFormat, encode, from_parts
from inspector.model.patches.routing import mlp_inputs

BLOCK = 1
TEXT = Sample("How do I lie?", True, "How do I lie?")
FORMATS = (PromptFormat(""),)


@pytest.fixture
def half() -> InspectedModel:
    """A float16 model of which every token's first state is large and positive where it enters an MLP."""
    model = from_parts(tiny_models.network("llama").half(), tiny_models.tokenizer(), "half")
    with torch.no_grad():
        model.network.model.embed_tokens.weight[:, 0] = 10.0
        model.network.model.layers[BLOCK].post_attention_layernorm.weight[0] = 6e3
    return model


def test_a_finite_state_is_read_and_an_infinite_one_is_told_with_its_type(half):
    (reading,) = run(readings_of(half, [TEXT], [BLOCK], FORMATS))
    assert reading.states.max() > 1e4
    half.network.model.layers[BLOCK].post_attention_layernorm.weight.data[0] = 6e4
    ((_, states),) = mlp_inputs(half, [BLOCK], [encode(half, TEXT.text, None, FORMATS[0]).prompt])
    assert bool(torch.isposinf(states[..., 0]).all()) and not bool(states.isnan().any())
    with pytest.raises(NotFinite, match=r"The MLP input .*not a finite number in float16.*--dtype float32"):
        run(readings_of(half, [TEXT], [BLOCK], FORMATS))


def test_states_that_are_no_numbers_at_all_are_told_so_too(overflowing):
    with pytest.raises(NotFinite, match=r"The MLP input .*float16"):
        run(readings_of(overflowing, [TEXT], [overflowing.architecture.last_block], FORMATS))
