"""What every part of the engine relies on: the network runs under the lock only, and nothing yields with it held."""

from __future__ import annotations

from collections.abc import Callable

import by_hand
import numpy as np
import pytest
import tiny_models
import torch
from waits import counted_waits

from editing import dinm, preset, run
from editing.optimising.replay import FullReplay
from inspector.divergence import divergence
from inspector.errors import NotFinite
from inspector.likelihood import likelihoods
from inspector.margin import answer_pair, mlp_trace
from inspector.model import VANILLA, Decoding, InspectedModel, Row, answer, encode, from_parts
from inspector.safeedit import Case
from inspector.shift import activation_shift

QUICK = {"steps": 2, "harmless_prompts": 1, "harmless_tokens": 3}


def everything(model: InspectedModel, case: Case) -> dict[str, Callable]:
    """Return one call of each operation that runs the network.

    The default edit prepares most and descends like the others: of one block, the others of each.
    """
    rows = (VANILLA, Row(by_hand.patch(model)))
    prompt = encode(model, case.question).prompt
    operations: dict[str, Callable] = {
        "answer": lambda: answer(model, prompt, rows, Decoding(3)),
        "likelihoods": lambda: likelihoods(model, case.question, [case.safe, case.unsafe], rows),
        "shift": lambda: activation_shift(model, case.question, case.safe, rows[1]),
        "full replay": lambda: run(dinm(model, case, 1, preset("reference", **QUICK), replay=FullReplay)),
    }
    for name in ("corrected", "paper", "reference"):
        operations[f"divergence, {name}"] = lambda name=name: divergence(model, case, name)
        for block in range(model.blocks) if name != "corrected" else (1,):
            operations[f"edit of block {block}, {name}"] = lambda name=name, block=block: run(
                dinm(model, case, block, preset(name, **QUICK))
            )
    return operations


def test_every_module_of_the_network_runs_under_the_lock_only(model, case):
    """A hook of one visitor can therefore never act in another visitor's forward pass."""
    unlocked: set[str] = set()
    ran: set[str] = set()
    operation = ""

    def look(_module, _args) -> None:
        ran.add(operation)
        if not model.lock._is_owned():
            unlocked.add(operation)

    operations = everything(model, case)
    handles = [module.register_forward_pre_hook(look) for module in model.network.modules()]
    try:
        for operation, call in operations.items():  # noqa: B007, look() reads it
            call()
    finally:
        for handle in handles:
            handle.remove()
    assert ran == set(operations)
    assert unlocked == set()


def test_the_network_is_in_evaluation_mode_and_its_weights_take_no_gradient(model, case):
    run(dinm(model, case, 1, preset("corrected", **QUICK)))
    assert not any(module.training for module in model.network.modules())
    assert not any(p.requires_grad or p.grad is not None for p in model.network.parameters())


@pytest.mark.parametrize("limit", [20, int(1e30)])
def test_the_context_is_the_smaller_limit_of_network_and_tokenizer(llama, monkeypatch, limit):
    monkeypatch.setattr(llama.tokenizer, "model_max_length", limit)
    assert llama.context_length == min(limit, 512)


def test_rotary_factors_that_change_with_the_length_are_read_up_to_where_they_change(tiny):
    """Beyond it the same tokens have other logits beside a longer text, and in a cache's next step."""
    kind, options = tiny_models.CONFIGS["phi3"]
    size = options["hidden_size"] // options["num_attention_heads"] // 2
    factors = {"rope_type": "longrope", "short_factor": [1.0] * size, "long_factor": [4.0] * size}
    network = tiny_models.random_network(
        kind(**options, original_max_position_embeddings=24, rope_parameters={**factors, "rope_theta": 1e4})
    )
    model = from_parts(network, tiny_models.tokenizer(), "long Phi-3")
    assert (tiny("phi3").context_length, model.context_length) == (tiny_models.CONTEXT, 24)
    long = [1, *range(40, 64)]

    def logits(last: int) -> torch.Tensor:
        return by_hand.vanilla_logits(model, long[:last])[:20]

    assert torch.allclose(logits(20), logits(model.context_length), atol=2e-5)
    assert not torch.allclose(logits(20), logits(model.context_length + 1), atol=1e-2)


def test_a_batch_is_padded_on_the_right_and_pads_are_not_seen_by_real_positions(every_model):
    model, ids = every_model, ([1, 40, 80, 120, 160], [1, 50])
    batch = model.batch(*ids)
    assert batch[1].tolist() == [1, 50, 0, 0, 0]
    with torch.no_grad(), model.running():
        logits = model.network(input_ids=batch, use_cache=False).logits
    for row, alone in zip(logits, ids, strict=True):
        # Another batch size and length: float32 logits of order 1 to 5 differ by a few 1e-6.
        assert torch.allclose(row[: len(alone)], by_hand.vanilla_logits(model, alone), atol=2e-5)


def test_a_pad_beyond_the_embedding_fills_no_batch():
    """As in copies of Llama 2 whose <pad> comes after the vocabulary."""
    tokenizer = tiny_models.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<late pad>"})
    model = from_parts(tiny_models.network("llama"), tokenizer, "tiny")
    assert (tokenizer.pad_token_id, model.embedded) == (tiny_models.VOCABULARY, tiny_models.VOCABULARY)
    batch = model.batch([1, 40, 80], [1])
    assert batch.tolist() == [[1, 40, 80], [1, 0, 0]]
    with torch.no_grad(), model.running():
        assert model.network(input_ids=batch).logits.isfinite().all()


def test_markers_are_left_out_of_answers_and_shown_in_token_texts(llama):
    ids = [1, *by_hand.bytes_of(llama, "Hi"), 2]
    assert llama.decode(ids) == "Hi"
    assert llama.token_texts(ids) == ("<s>", "H", "i", "</s>")


def test_what_has_to_be_finite_is_looked_at_together(llama, monkeypatch):
    values = [torch.ones(3), 2.0, np.ones(2), torch.zeros(2, dtype=torch.float16)]
    with counted_waits(monkeypatch) as waits:
        llama.require_finite("gradient", values)
        assert waits.since() == 1
    llama.require_finite("gradient", [])
    for broken in (torch.tensor([1.0, float("nan")]), float("inf"), np.array([0.0, -np.inf])):
        with pytest.raises(NotFinite, match=r"The gradient of these texts .* \(--dtype float32\)"):
            llama.require_finite("gradient", [*values, broken])


def test_what_is_differentiated_in_every_block_is_read_with_the_same_waits_as_in_one(tiny, case, monkeypatch):
    found = []
    for family in ("llama", "gemma2"):  # of three and of four blocks
        model = tiny(family)
        texts = answer_pair(model, case)
        with counted_waits(monkeypatch) as waits:
            mlp_trace(model, texts.sequences, texts.counted, texts.margin)
            found.append(waits.since())
    assert found == [2, 2], "whether all is finite, and the value"
