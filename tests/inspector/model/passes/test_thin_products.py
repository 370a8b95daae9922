"""Products of few rows are those of ``nn.Linear`` but for rounding, and nothing is left of them after a step."""

from __future__ import annotations

from collections.abc import Iterator

import by_hand
import pytest
import tiny_models
import torch

from inspector.model import VANILLA, Decoding, InspectedModel, Row, from_parts
from inspector.model.answers.batching import generate
from inspector.model.passes import thin_products as thin_products_of
from inspector.model.passes.thin_products import FEWEST, MOST, MOST_PACKED, Packed, packed, thin, thin_products


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", range(1, MOST + 2))
def test_they_are_the_plain_products(rows, bias):
    torch.manual_seed(0)
    matrix = torch.nn.Linear(96, 64, bias=bias)
    states = torch.randn(rows, 1, 96)
    with torch.no_grad():
        found, plain = thin(matrix, states), matrix(states)
    assert found.shape == plain.shape and torch.allclose(found, plain, atol=1e-5)


@pytest.fixture(autouse=True)
def nothing_is_packed_yet() -> Iterator[None]:
    """Tiny models are shared by all tests."""
    thin_products_of._PACKED.clear()
    yield
    thin_products_of._PACKED.clear()


@pytest.fixture
def small_ones_too(monkeypatch) -> None:
    """Pack the matrices of tiny models, too."""
    monkeypatch.setattr(thin_products_of, "LEAST_PACKED", 1)


def replaced(model: InspectedModel) -> list[torch.nn.Module]:
    return [module for module in model.network.modules() if "forward" in vars(module)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, MOST_PACKED])
def test_packed_ones_are_the_plain_products(rows, bias, dtype):
    torch.manual_seed(0)
    matrix = torch.nn.Linear(96, 64, bias=bias, dtype=dtype)
    states = torch.randn(rows, 1, 96, dtype=dtype)
    with torch.no_grad():
        found, plain = Packed.of(matrix)(states), matrix(states)
    close = {"atol": 1e-5} if dtype == torch.float32 else {"atol": 1e-2, "rtol": 2**-7}
    assert found.shape == plain.shape and found.dtype == dtype and torch.allclose(found, plain, **close)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "opt"])
def test_a_model_s_logits_are_the_plain_ones_and_its_modules_are_as_before(tiny, family, pack, monkeypatch):
    monkeypatch.setattr(thin_products_of, "LEAST_PACKED", 1 if pack else 2**40)
    model = tiny(family)
    ids = torch.tensor([[5], [9], [33]])
    with torch.no_grad():
        plain = model.network(ids, use_cache=False).logits
        with thin_products(model, 3):
            assert {isinstance(vars(module)["forward"], Packed) for module in replaced(model)} == {pack}
            found = model.network(ids, use_cache=False).logits
    assert torch.allclose(found, plain, atol=1e-4) and replaced(model) == []


@pytest.mark.parametrize("rows", [FEWEST - 1, MOST + 1])
def test_one_row_and_many_rows_stay_as_they_are_where_nothing_is_packed(llama, rows, monkeypatch):
    monkeypatch.setattr(thin_products_of, "free_memory", lambda _device: 0)
    monkeypatch.setattr(thin_products_of, "LEAST_PACKED", 1)
    with torch.no_grad(), thin_products(llama, rows):
        assert replaced(llama) == []


@pytest.mark.usefixtures("small_ones_too")
def test_rows_that_compute_longer_than_they_pack_and_what_wants_a_gradient_stay_as_they_are(llama):
    with torch.no_grad(), thin_products(llama, MOST_PACKED + 1):
        assert replaced(llama) == []
    with torch.enable_grad(), thin_products(llama, 1):
        assert replaced(llama) == []
    with torch.no_grad(), thin_products(llama, 1):
        assert replaced(llama) != []


@pytest.mark.usefixtures("small_ones_too")
def test_a_weight_that_was_changed_is_packed_anew_and_others_are_packed_once():
    model = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "changed")
    first = packed(model)
    assert first and packed(model) is first
    with torch.no_grad():
        model.architecture.down_projections[1].weight.mul_(2)
    ids = torch.tensor([[5], [9]])
    with torch.no_grad():
        plain = model.network(ids, use_cache=False).logits
        with thin_products(model, 2):
            assert packed(model) is not first
            assert torch.allclose(model.network(ids, use_cache=False).logits, plain, atol=1e-4)


@pytest.mark.usefixtures("small_ones_too")
def test_answers_are_those_of_the_plain_products(llama):
    prompts, rows = [[1, 2, 3], [7, 4, 9, 2, 2]], (VANILLA, Row(by_hand.patch(llama, size=0.3)))
    answers = []
    for most in (0, MOST_PACKED):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(thin_products_of, "MOST_PACKED", most)
            *_, lines = generate(llama, prompts, rows, Decoding(8))
        answers.append([list(line.tokens) for line in lines])
    assert answers[0] == answers[1] and len(answers[0]) == 4


def test_between_two_tokens_the_modules_are_as_before(llama):
    running = generate(llama, [[1, 2, 3]], (VANILLA, Row(by_hand.patch(llama))), Decoding(4))
    for _ in running:
        assert not any("forward" in vars(module) for module in llama.network.modules())


@pytest.mark.usefixtures("small_ones_too")
def test_where_memory_was_short_for_one_answer_matrices_are_packed_for_the_next(llama, monkeypatch):
    asked, free = [], [0]
    monkeypatch.setattr(thin_products_of, "free_memory", lambda device: asked.append(device) or free[0])
    list(generate(llama, [[1, 2, 3]], (VANILLA,), Decoding(5)))
    assert packed(llama) == [] and len(asked) == 1, "not looked at for every token"
    free[0] = 2**40
    list(generate(llama, [[1, 2, 3]], (VANILLA,), Decoding(5)))
    assert packed(llama) != [] and len(asked) == 2
    known = packed(llama)
    list(generate(llama, [[1, 2, 3]], (VANILLA,), Decoding(5)))
    assert packed(llama) is known
