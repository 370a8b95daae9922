"""Texts that begin alike and share a row give what each gives by itself."""

from __future__ import annotations

import random
from weakref import WeakKeyDictionary

import by_hand
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, GPTNeoConfig

from inspector.model import from_parts
from inspector.model.passes import shared_rows as sharing
from inspector.model.passes import tails as tails_module
from inspector.model.passes.shared_rows import Alike, batched, counted_in, laid_out, shared_rows
from inspector.model.passes.tails import Tails, with_weight

# Within the sliding window of 16, whose rows are longer. Three texts of one prompt, the first the prompt alone; then
# another prompt with two answers, of which one counts its last token only.
PROMPT, OTHER = [1, *range(20, 28)], [3, *range(40, 47)]
SEQUENCES = (
    PROMPT,
    [*PROMPT, 50, 51, 52, 53, 54],
    [*PROMPT, 60, 61, 62],
    [*OTHER, 70, 71, 72, 73],
    [*OTHER, 80, 70, 71, 72, 75, 76],
)
COUNTED = (range(7, 9), range(8, 13), (0, 8, 11), range(7, 10), (13,))
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def changed(tails: Tails, model) -> dict[int, torch.Tensor]:
    """Return the logits that tails give of a change of each block."""
    weights = {
        block: by_hand.down_weight(model.network, block).detach().float() * (1.1 + block)
        for block in range(model.blocks)
    }
    return tails.logits({block: tails.changed(block, with_weight(weight)) for block, weight in weights.items()})


def difference(model) -> float:
    """Return how far the logits of shared rows are from those of the texts by themselves."""
    apart = changed(Tails(model, SEQUENCES, COUNTED), model)
    together = changed(Tails(model, SEQUENCES, COUNTED, alike=True), model)
    return max(float((together[block] - logits).abs().max()) for block, logits in apart.items())


def test_every_family_computes_the_same_of_texts_in_one_row(every_model):
    """Also where rows are longer than a sliding window, within which each text stays."""
    rows = shared_rows(every_model, SEQUENCES)
    assert rows is not None and [len(row.texts) for row in rows] == [3, 2], "two prompts, two rows"
    assert rows[0].tokens > 16 >= max(map(len, SEQUENCES))
    assert difference(every_model) < 5e-5


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_shared_rows_are_within_the_rounding_of_half_precision(name, dtype):
    model = from_parts(tiny_models.network(name).to(dtype), tiny_models.tokenizer(), "half")
    assert shared_rows(model, SEQUENCES) is not None
    assert difference(model) < (0.2 if dtype == torch.bfloat16 else 0.03)


@pytest.mark.parametrize("sequences", [SEQUENCES[1:3], SEQUENCES[3:]])
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
    rows = shared_rows(llama, SEQUENCES[1:3])
    assert counted_in(rows, COUNTED[1:3]) == [[8, 9, 10, 11, 12, 0, 8, 16]], "of the second text a later place"
    whole = laid_out(llama, rows)
    assert whole.ids.tolist() == [[*PROMPT, 50, 51, 52, 53, 54, 60, 61, 62]]
    assert whole.positions.tolist() == [[*range(9), 9, 10, 11, 12, 13, 9, 10, 11]]
    seen = whole.mask[0, 0] == 0
    assert seen[16].nonzero().flatten().tolist() == [*range(9), 14, 15, 16], "the beginning and itself"
    assert seen[3].nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_a_pad_sees_itself_alone_and_no_place_lies_beyond_a_text(llama):
    whole = laid_out(llama, shared_rows(llama, SEQUENCES))
    used = 8 + 4 + 6
    assert whole.ids.shape == (2, used) and whole.positions.max() == 13
    shorter = laid_out(llama, [*shared_rows(llama, SEQUENCES[3:]), *shared_rows(llama, SEQUENCES[1:3])])
    assert (shorter.mask[1, 0, -1] == 0).nonzero().flatten().tolist() == [used - 1] and shorter.positions[1, -1] == 0


@pytest.mark.parametrize(
    "sequences",
    [(PROMPT,), (PROMPT, OTHER), ([1, 2, *range(30, 44)], [1, 2, *range(50, 64)])],
    ids=["one text", "nothing alike", "too little alike"],
)
def test_texts_are_left_apart_where_it_does_not_pay(llama, sequences):
    assert shared_rows(llama, sequences) is None


def test_texts_are_left_apart_where_the_mask_would_be_too_large(llama, monkeypatch):
    assert shared_rows(llama, SEQUENCES[1:3]) is not None
    monkeypatch.setattr(sharing, "MOST_MASK", 17 * 17 * 4 - 1)
    assert shared_rows(llama, SEQUENCES[1:3]) is None


def test_long_texts_of_a_model_that_looks_back_only_so_far_are_left_apart(tiny):
    longer = tuple([*ids, *range(90, 100)] for ids in SEQUENCES[1:3])
    assert shared_rows(tiny("llama"), longer) is not None
    assert shared_rows(tiny("mistral_sliding"), longer) is None


def test_a_family_whose_window_is_one_of_rows_is_left_apart():
    """GPT-Neo's local layers cut rows, not texts, and a try on short texts would not show it."""
    config = GPTNeoConfig(
        vocab_size=128,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        window_size=16,
        attention_types=[[["global", "local"], 1]],
    )
    network = AutoModelForCausalLM.from_config(config).eval()
    paths = {
        "blocks": "transformer.h",
        "down_projection": "mlp.c_proj",
        "final_norm": "transformer.ln_f",
        "unembedding": "lm_head",
    }
    model = from_parts(network, tiny_models.tokenizer(), "gpt-neo", paths)
    assert shared_rows(model, SEQUENCES) is None


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "fault", ["another mask", "no places", "the first row's places", "no such argument", "no names"]
)
def test_a_family_that_would_compute_something_else_is_left_apart(llama, monkeypatch, fault, half):
    """Tried once a model: it ignores the mask or the places, or does not take them."""
    network = tiny_models.network("llama")
    model = from_parts(network.bfloat16() if half else network, llama.tokenizer, "told apart")
    forward = model.network.forward

    def other(**given):
        if fault == "no such argument" and "position_ids" in given:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
        if fault == "no names" and "position_ids" in given:
            raise AttributeError("position_ids")
        if fault == "another mask":
            given.pop("attention_mask", None)
        if fault == "no places":
            given.pop("position_ids", None)
        if fault == "the first row's places" and "position_ids" in given:
            given["position_ids"] = given["position_ids"][:1].expand_as(given["position_ids"])
        return forward(**given)

    assert shared_rows(model, SEQUENCES) is not None
    monkeypatch.setattr(sharing, "_COMPUTES_THE_SAME", WeakKeyDictionary())
    monkeypatch.setattr(model.network, "forward", other)
    assert shared_rows(model, SEQUENCES) is None


def test_in_half_precision_what_is_left_out_has_to_show(monkeypatch):
    """Where neither mask nor places made a difference larger than the rounding, the try would say nothing."""
    model = from_parts(tiny_models.network("llama").bfloat16(), tiny_models.tokenizer(), "half")
    monkeypatch.setattr(sharing, "_COMPUTES_THE_SAME", WeakKeyDictionary())
    monkeypatch.setattr(sharing, "TOLD_APART", 1e6)
    assert shared_rows(model, SEQUENCES) is None


def test_a_model_is_tried_once_and_again_where_its_memory_ran_out(llama, monkeypatch):
    monkeypatch.setattr(sharing, "_COMPUTES_THE_SAME", WeakKeyDictionary())
    own, tried = sharing._states, []

    def full(*given):
        tried.append(given)
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(sharing, "_states", full)
    with pytest.raises(torch.OutOfMemoryError):
        shared_rows(llama, SEQUENCES)
    monkeypatch.setattr(sharing, "_states", lambda *given: (tried.append(given), own(*given))[1])
    for _ in range(2):
        assert shared_rows(llama, SEQUENCES) is not None
    assert len(tried) == 3, "a full memory, then both ways once"


def of_lengths(shared: int, lengths: list[int], seed: int = 0) -> list[tuple[int, ...]]:
    """Return made-up texts that share their first tokens."""
    drawn = random.Random(seed)
    begun = tuple(drawn.choices(range(20, 120), k=shared))
    return [(*begun, *drawn.choices(range(20, 120), k=length - shared)) for length in lengths]


def run_by(batches: list[list[Alike]]) -> int:
    """Return how many positions run, pads among them."""
    return sum(len(rows) * max(row.tokens for row in rows) for rows in batches)


def positions(model, texts: list[tuple[int, ...]]) -> int:
    """Return how many positions run of the texts, each of which is in one row."""
    batches = batched(model, texts, MOST)
    assert sorted(n for rows in batches for row in rows for n in row) == list(range(len(texts)))
    return run_by([[Alike.of([texts[n] for n in row]) for row in rows] for rows in batches])


@pytest.fixture
def wide(monkeypatch) -> None:
    """Let attention be as small a share of the work as in a model of the usual width."""
    own = sharing._work
    monkeypatch.setattr(sharing, "_work", lambda rows, tokens, _width: own(rows, tokens, 1024))


MOST = 12
LENGTHS = [10 + 7 * n % 90 for n in range(100)]
UNLIKE = run_by(
    [[Alike.of([range(n)]) for n in sorted(LENGTHS)[start : start + MOST]] for start in range(0, 100, MOST)]
)


def dozens(texts: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Return the texts in batches of those that stand next to each other by what they begin with."""
    return [sorted(texts)[start : start + MOST] for start in range(0, len(texts), MOST)]


def apart(texts: list[tuple[int, ...]]) -> list[Alike]:
    return [Alike.of([text]) for text in texts]


@pytest.mark.usefixtures("wide")
def test_texts_that_share_little_run_in_no_more_positions_than_by_length(llama):
    """In the order of what they begin with the lengths of a batch are mixed."""
    texts = of_lengths(2, LENGTHS)
    assert positions(llama, texts) == UNLIKE < 0.8 * run_by(list(map(apart, dozens(texts))))


@pytest.mark.usefixtures("wide")
def test_texts_that_share_much_share_rows_over_all_of_them(llama):
    """In fewer positions than where each dozen of them shares rows by itself; no batch has more tokens than apart."""
    lengths = [50 + 7 * n % 40 for n in range(9)]
    texts = [text for seed in range(12) for text in of_lengths(30 + seed, lengths, seed)]
    by_dozen = run_by([shared_rows(llama, some) or apart(some) for some in dozens(texts)])
    assert positions(llama, texts) < 0.9 * by_dozen < 0.9 * run_by(list(map(apart, dozens(texts))))
    for rows in batched(llama, texts, MOST):
        longest = max(Alike.of([texts[n] for n in row]).tokens for row in rows)
        assert len(rows) <= MOST and len(rows) * longest <= MOST * max(lengths)


@pytest.mark.usefixtures("wide")
def test_texts_that_share_much_pay_though_others_share_little(llama):
    much = of_lengths(40, [50 + n % 40 for n in range(50)])
    texts = [*much, *of_lengths(0, LENGTHS, seed=1)]
    by_dozen = run_by([shared_rows(llama, some) or apart(some) for some in dozens(texts)])
    assert positions(llama, texts) < min(by_dozen, 0.9 * (sum(map(len, much)) + UNLIKE))


def test_as_many_texts_as_one_batch_has_stay_one(llama):
    for texts in (of_lengths(0, LENGTHS[:MOST]), of_lengths(20, [25 + 3 * n for n in range(MOST)])):
        (rows,) = batched(llama, texts, MOST)
        alike = shared_rows(llama, sorted(texts))
        assert [len(row) for row in rows] == ([1] * MOST if alike is None else [len(row.texts) for row in alike])
        assert [n for row in rows for n in row] == sorted(range(MOST), key=texts.__getitem__)
    assert batched(llama, [], MOST) == []


def test_texts_that_a_sliding_window_would_cut_are_in_no_batch_with_shared_rows(tiny):
    model = tiny("mistral_sliding")
    texts = of_lengths(10, [12 + n % 9 for n in range(45)])
    for rows in batched(model, texts, MOST):
        assert max(map(len, rows)) == 1 or max(len(texts[n]) for row in rows for n in row) <= 16
    assert any(len(row) > 1 for rows in batched(model, texts, MOST) for row in rows)


@pytest.mark.usefixtures("wide")
def test_masks_of_a_batch_of_shared_rows_stay_within_their_bound(llama, monkeypatch):
    texts = of_lengths(20, [25 + n % 20 for n in range(60)])
    most = 2 * 130**2 * 4
    monkeypatch.setattr(sharing, "MOST_MASK", most)
    batches = [[Alike.of([texts[n] for n in row]) for row in rows] for rows in batched(llama, texts, MOST)]
    assert any(len(row.texts) > 1 for rows in batches for row in rows)
    for rows in batches:
        if any(len(row.texts) > 1 for row in rows):
            assert len(rows) * max(row.tokens for row in rows) ** 2 * 4 <= most


def test_a_kept_pass_of_shared_rows_is_no_pass_of_the_same_texts_apart(llama, monkeypatch):
    monkeypatch.setattr(tails_module, "_KEPT", WeakKeyDictionary())
    laid = []
    monkeypatch.setattr(tails_module, "laid_out", lambda *given: (laid.append(1), laid_out(*given))[1])
    together = [changed(Tails(llama, SEQUENCES, COUNTED, keep=True, alike=True), llama) for _ in range(2)]
    apart = changed(Tails(llama, SEQUENCES, COUNTED, keep=True), llama)
    for block, logits in apart.items():
        assert torch.allclose(together[0][block], logits, **CLOSE)
        assert torch.equal(together[0][block], together[1][block])
    assert len(tails_module._KEPT[llama]) == 2 and len(laid) == 1


def test_the_masks_of_kept_passes_count_among_what_they_take(llama, monkeypatch):
    monkeypatch.setattr(tails_module, "_KEPT", WeakKeyDictionary())
    whole = laid_out(llama, shared_rows(llama, SEQUENCES))
    monkeypatch.setattr(tails_module, "MOST_BYTES", 2 * whole.mask.nbytes)
    for token in (50, 51, 52):
        Tails(llama, [[*ids, token] for ids in SEQUENCES], COUNTED, [2], keep=True, alike=True)
    assert len(tails_module._KEPT[llama]) == 1
