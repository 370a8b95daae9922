"""Products of few rows are those of ``nn.Linear`` but for rounding, and nothing is left of them after a step."""

from __future__ import annotations

import by_hand
import pytest
import torch

from inspector.model import VANILLA, Decoding, Row
from inspector.model.batching import generate
from inspector.model.thin_products import FEWEST, MOST, thin, thin_products


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", range(1, MOST + 2))
def test_they_are_the_plain_products(rows, bias):
    torch.manual_seed(0)
    matrix = torch.nn.Linear(96, 64, bias=bias)
    states = torch.randn(rows, 1, 96)
    with torch.no_grad():
        found, plain = thin(matrix, states), matrix(states)
    assert found.shape == plain.shape and torch.allclose(found, plain, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "opt"])
def test_a_model_s_logits_are_the_plain_ones_and_its_modules_are_as_before(tiny, family):
    model = tiny(family)
    ids = torch.tensor([[5], [9], [33]])
    with torch.no_grad():
        plain = model.network(ids, use_cache=False).logits
        with thin_products(model, 3):
            assert any("forward" in vars(module) for module in model.network.modules())
            found = model.network(ids, use_cache=False).logits
    assert torch.allclose(found, plain, atol=1e-4)
    assert not any("forward" in vars(module) for module in model.network.modules())


@pytest.mark.parametrize("rows", [FEWEST - 1, MOST + 1])
def test_one_row_and_many_rows_stay_as_they_are(llama, rows):
    with thin_products(llama, rows):
        assert not any("forward" in vars(module) for module in llama.network.modules())


def test_between_two_tokens_the_modules_are_as_before(llama):
    running = generate(llama, [[1, 2, 3]], (VANILLA, Row(by_hand.patch(llama))), Decoding(4))
    for _ in running:
        assert not any("forward" in vars(module) for module in llama.network.modules())
