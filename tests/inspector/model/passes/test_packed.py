"""Texts that begin alike and share a row give what each gives by itself."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import by_hand
import pytest
import torch

from inspector.model import from_parts
from inspector.model.passes import packed as packing
from inspector.model.passes import tails as tails_module
from inspector.model.passes.packed import packed
from inspector.model.passes.tails import Tails, with_weight

# Within the sliding window of 16. Three texts of one prompt, the first the prompt alone; then another prompt with two
# answers, of which one counts its last token only.
PROMPT, OTHER = [1, *range(20, 28)], [3, *range(40, 47)]
SEQUENCES = (PROMPT, [*PROMPT, 50, 51, 52, 53], [*PROMPT, 60, 61], [*OTHER, 70, 71, 72], [*OTHER, 80, 70, 71, 72])
COUNTED = (range(7, 9), range(8, 12), (0, 8, 10), range(7, 10), (11,))
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def changed(tails: Tails, model) -> dict[int, torch.Tensor]:
    """Return the logits that tails give of a change of each block."""
    weights = {
        block: by_hand.down_weight(model.network, block).detach() * (1.1 + block) for block in range(model.blocks)
    }
    return tails.logits({block: tails.changed(block, with_weight(weight)) for block, weight in weights.items()})


def test_every_family_computes_the_same_of_texts_in_one_row(every_model):
    rows = packed(every_model, SEQUENCES, COUNTED)
    assert rows is not None and rows.ids.shape[0] == 2, "two prompts, two rows"
    by_itself = changed(Tails(every_model, SEQUENCES, COUNTED), every_model)
    for block, logits in changed(Tails(every_model, SEQUENCES, COUNTED, alike=True), every_model).items():
        assert torch.allclose(logits, by_itself[block], **CLOSE), block


@pytest.mark.parametrize("sequences", [SEQUENCES[1:3], (SEQUENCES[3], SEQUENCES[4])])
def test_texts_of_one_row_have_their_own_gradient(llama, sequences):
    counted = [range(7, len(ids)) for ids in sequences]
    found = []
    for alike in (False, True):
        weight = by_hand.down_weight(llama.network, 0).detach().clone().requires_grad_(True)
        tails = Tails(llama, sequences, counted, [0], alike=alike)
        logits = tails.logits({0: tails.changed(0, with_weight(weight))})[0]
        mixture = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)
        (logits.log_softmax(dim=-1) * mixture).sum().backward()
        found.append(weight.grad)
    assert found[0].norm() > 0.1 and torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_what_is_shared_stands_once_and_places_go_on_from_it(llama):
    rows = packed(llama, SEQUENCES[1:3], COUNTED[1:3])
    assert rows.ids.tolist() == [[*PROMPT, 50, 51, 52, 53, 60, 61]]
    assert rows.positions.tolist() == [[*range(9), 9, 10, 11, 12, 9, 10]]
    assert rows.counted == [[8, 9, 10, 11, 0, 8, 14]], "of the second text a later place of the row"
    seen = rows.mask[0, 0] == 0
    assert seen[14].nonzero().flatten().tolist() == [*range(9), 13, 14], "the beginning and itself"
    assert seen[3].nonzero().flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "sequences",
    [(PROMPT,), (PROMPT, OTHER), ([1, 2, *range(30, 44)], [1, 2, *range(50, 64)])],
    ids=["one text", "nothing alike", "too little alike"],
)
def test_texts_are_left_apart_where_it_does_not_pay(llama, sequences):
    assert packed(llama, sequences, [[0]] * len(sequences)) is None


def test_long_texts_of_a_model_that_looks_back_only_so_far_are_left_apart(tiny):
    longer = tuple([*ids, *range(90, 100)] for ids in SEQUENCES[1:3])
    assert packed(tiny("llama"), longer, [[0], [0]]) is not None
    assert packed(tiny("mistral_sliding"), longer, [[0], [0]]) is None


@pytest.mark.parametrize("fault", ["another mask", "no places", "no such argument"])
def test_a_family_that_would_compute_something_else_is_left_apart(llama, monkeypatch, fault):
    """Tried once a model: it ignores the mask or the places, or does not take them."""
    model = from_parts(llama.network, llama.tokenizer, "told apart")
    forward = model.network.forward

    def other(**given):
        if fault == "no such argument" and "position_ids" in given:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
        if fault == "another mask":
            given.pop("attention_mask", None)
        if fault == "no places":
            given.pop("position_ids", None)
        return forward(**given)

    monkeypatch.setattr(packing, "_PACKS", WeakKeyDictionary())
    monkeypatch.setattr(model.network, "forward", other)
    assert packed(model, SEQUENCES, COUNTED) is None


def test_a_model_is_tried_once(llama, monkeypatch):
    monkeypatch.setattr(packing, "_PACKS", WeakKeyDictionary())
    tried = []
    monkeypatch.setattr(packing, "_tried", lambda model: tried.append(model) or True)
    assert packed(llama, SEQUENCES, COUNTED) is not None and packed(llama, SEQUENCES, COUNTED) is not None
    assert tried == [llama]


def test_a_kept_pass_of_packed_texts_is_no_pass_of_the_same_texts_apart(llama, monkeypatch):
    monkeypatch.setattr(tails_module, "_KEPT", WeakKeyDictionary())
    together = changed(Tails(llama, SEQUENCES, COUNTED, keep=True, alike=True), llama)
    apart = changed(Tails(llama, SEQUENCES, COUNTED, keep=True), llama)
    assert all(torch.allclose(together[block], logits, **CLOSE) for block, logits in apart.items())
    assert len(tails_module._KEPT[llama]) == 2
