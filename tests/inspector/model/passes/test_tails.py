"""Tails of several blocks that share one batch give what each block gives alone and what a changed network gives."""

from __future__ import annotations

import gc
import threading
import weakref
from weakref import WeakKeyDictionary

import by_hand
import pytest
import tiny_models
import torch

from inspector.errors import ArchitectureError
from inspector.model import from_parts
from inspector.model.memory.halving import let_go
from inspector.model.memory.memory_need import bytes_in
from inspector.model.memory.recent import named
from inspector.model.passes import tails as tails_module
from inspector.model.passes.captured import observed
from inspector.model.passes.tails import MOST_KEPT, Tails, with_weight

# Three sequences of unlike length, so that two are padded, longer than the sliding window; of one nothing counts.
SEQUENCES = ([1, *range(20, 60)], [1, *range(100, 125)], [1, *range(200, 232)])
COUNTED = (range(30, 40), (0, 3, 24, 25), ())
# Logits of order 1 to 5 from float32 sums in another order: a few 1e-6 relative.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def changed_weight(model, block: int) -> torch.Tensor:
    """Return a weight that differs visibly from the base one, another one for each block."""
    weight = by_hand.down_weight(model.network, block).detach().clone()
    generator = torch.Generator().manual_seed(block)
    return weight + 0.1 * torch.randn(weight.shape, generator=generator)


def by_copies(model, block: int, weight: torch.Tensor) -> torch.Tensor:
    """Return the counted logits from writing the weight into a copy, sequence by sequence without padding."""
    copied = by_hand.written(model.network, (block, weight - by_hand.down_weight(model.network, block)))
    pairs = zip(SEQUENCES, COUNTED, strict=True)
    return torch.cat([by_hand.logits(copied, ids)[list(places)] for ids, places in pairs])


def group(tails: Tails, weights: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Return the logits of several changed blocks from one call."""
    return tails.logits({block: tails.changed(block, with_weight(weight)) for block, weight in weights.items()})


def loss(logits: torch.Tensor) -> torch.Tensor:
    """Return a number that weighs every logit differently."""
    mixture = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)
    return (logits.log_softmax(dim=-1) * mixture).sum()


def test_all_blocks_in_one_call_equal_writing_each_weight_into_a_copy(every_model):
    model = every_model
    weights = {block: changed_weight(model, block) for block in range(model.blocks)}
    expected = {block: by_copies(model, block, weight) for block, weight in weights.items()}
    for counted_only in (True, False):
        found = group(Tails(model, SEQUENCES, COUNTED, counted_only=counted_only), weights)
        assert sorted(found) == list(range(model.blocks))
        for block, logits in found.items():
            assert logits.dtype == torch.float32
            assert torch.allclose(logits, expected[block], **CLOSE), f"block {block}, {counted_only=}"


def test_the_changes_of_different_blocks_show(llama):
    """Without this the comparisons with copies could pass with logits that no change reaches."""
    weights = {block: changed_weight(llama, block) for block in range(llama.blocks)}
    expected = [by_copies(llama, block, weight) for block, weight in weights.items()]
    expected.append(by_copies(llama, 0, by_hand.down_weight(llama.network, 0)))
    for number, one in enumerate(expected):
        assert all((one - other).abs().max() > 0.1 for other in expected[number + 1 :])


def test_a_choice_of_blocks_in_any_order_and_with_gaps_gives_the_same(every_model):
    """The lowest block may lie above block 0, a block between two changed ones may be unchanged."""
    model, last = every_model, every_model.blocks - 1
    weights = {block: changed_weight(model, block) for block in (0, 1, last)}
    expected = {block: by_copies(model, block, weight) for block, weight in weights.items()}
    for chosen in ((last, 0), (last, 1), (1,)):
        found = group(Tails(model, SEQUENCES, COUNTED, blocks=chosen), {block: weights[block] for block in chosen})
        for block in chosen:
            assert torch.allclose(found[block], expected[block], **CLOSE), f"{block} of {chosen}"


def test_a_single_sequence_with_several_changes_equals_copies(every_model):
    """Nothing is tiled then: what was recorded for a batch of one serves any number of changes."""
    model = every_model
    weights = {block: changed_weight(model, block) for block in range(model.blocks)}
    found = group(Tails(model, SEQUENCES[:1], COUNTED[:1]), weights)
    for block, weight in weights.items():
        assert torch.allclose(found[block], by_copies(model, block, weight)[: len(COUNTED[0])], **CLOSE)


def test_as_many_sequences_as_attention_heads_or_blocks_are_tiled_rightly(model):
    """A recorded tensor whose first dimension happens to equal the number of sequences must not be mistaken."""
    for count in (3, 4):
        sequences = [[1, *range(10 + 5 * n, 40 + 8 * n)] for n in range(count)]
        counted = [(len(ids) - 2, len(ids) - 1) for ids in sequences]
        weights = {block: changed_weight(model, block) for block in range(model.blocks)}
        found = group(Tails(model, sequences, counted), weights)
        for block, weight in weights.items():
            copied = by_hand.written(model.network, (block, weight - by_hand.down_weight(model.network, block)))
            expected = torch.cat([by_hand.logits(copied, ids)[-2:] for ids in sequences])
            assert torch.allclose(found[block], expected, **CLOSE), f"block {block}, {count} sequences"


def test_the_gradient_of_a_group_is_each_block_s_own(model):
    """A sum of losses in one backward pass; the changes must not leak into each other."""
    together = {block: changed_weight(model, block).requires_grad_(True) for block in range(model.blocks)}
    found = group(Tails(model, SEQUENCES, COUNTED), together)
    sum(loss(logits) for logits in found.values()).backward()
    for block, weight in together.items():
        alone = changed_weight(model, block).requires_grad_(True)
        loss(group(Tails(model, SEQUENCES, COUNTED, blocks=[block]), {block: alone})[block]).backward()
        scale = alone.grad.abs().max()
        assert scale > 1e-3
        assert torch.allclose(weight.grad / scale, alone.grad / scale, rtol=0, atol=1e-5), f"block {block}"


def test_the_gradient_of_a_group_is_that_of_copies_whose_parameter_is_trained(every_model):
    """Autograd through unpadded passes of a copy. Two correct ways differ by a few 1e-6 of the largest value."""
    model, gradients = every_model, []
    for counted_only in (True, False):
        together = {block: changed_weight(model, block).requires_grad_(True) for block in range(model.blocks)}
        found = group(Tails(model, SEQUENCES, COUNTED, counted_only=counted_only), together)
        sum(loss(logits) for logits in found.values()).backward()
        gradients.append([weight.grad for weight in together.values()])
    for block in range(model.blocks):
        change = changed_weight(model, block) - by_hand.down_weight(model.network, block)
        copied = by_hand.written(model.network, (block, change))
        parameter = copied.get_submodule(by_hand.down_name(copied, block)).weight.requires_grad_(True)
        pairs = zip(SEQUENCES, COUNTED, strict=True)
        rows = [copied(input_ids=torch.tensor([ids]), use_cache=False).logits[0, list(at)] for ids, at in pairs]
        loss(torch.cat(rows)).backward()
        own = parameter.grad.T if _transposed(copied, block) else parameter.grad
        scale = own.abs().max()
        for counted_only, found in zip((True, False), gradients, strict=True):
            close = torch.allclose(found[block] / scale, own / scale, rtol=0, atol=2e-5)
            assert close, f"block {block}, {counted_only=}"


def _transposed(network, block: int) -> bool:
    return type(network.get_submodule(by_hand.down_name(network, block))).__name__ == "Conv1D"


def test_the_base_weights_give_the_unchanged_logits_whatever_else_shares_the_batch(model):
    base = {
        0: by_hand.down_weight(model.network, 0).detach(),
        model.blocks - 1: changed_weight(model, model.blocks - 1),
    }
    found = group(Tails(model, SEQUENCES, COUNTED), base)[0]
    pairs = zip(SEQUENCES, COUNTED, strict=True)
    vanilla = torch.cat([by_hand.logits(model.network, ids)[list(places)] for ids, places in pairs])
    assert torch.allclose(found, vanilla, **CLOSE)


def test_evaluating_again_in_other_company_gives_the_same(model):
    """Tails keep nothing of one call for the next. Batches of other sizes may sum in another order."""
    tails, weights = Tails(model, SEQUENCES, COUNTED), {b: changed_weight(model, b) for b in range(model.blocks)}
    first = group(tails, weights)
    for block, weight in weights.items():
        assert torch.allclose(group(tails, {block: weight})[block], first[block], **CLOSE)


def test_inner_is_what_enters_the_down_projection(every_model):
    """At the last block the counted positions only, where asked for and possible; else all of every sequence."""
    model = every_model
    tails = Tails(model, SEQUENCES, COUNTED, counted_only=False)
    for block in range(model.blocks):
        projection, seen = model.network.get_submodule(by_hand.down_name(model.network, block)), []
        handle = projection.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
        try:
            for ids in SEQUENCES:
                by_hand.logits(model.network, ids)
        finally:
            handle.remove()
        for row, inner in enumerate(seen):
            inner = inner.reshape(len(SEQUENCES[row]), -1)
            assert torch.allclose(tails.inner(block)[row, : len(inner)], inner, **CLOSE)


def test_blocks_below_the_lowest_changed_one_do_not_run_again(model):
    tails, ran = Tails(model, SEQUENCES, COUNTED), set()
    handles = [
        module.register_forward_hook(lambda _m, _a, _o, number=number: ran.add(number))
        for number, module in enumerate(by_hand.blocks(model.network))
    ]
    try:
        group(tails, {block: changed_weight(model, block) for block in range(1, model.blocks)})
    finally:
        for handle in handles:
            handle.remove()
    assert 0 not in ran


@pytest.mark.parametrize("block", [0, 1])
def test_making_tails_computes_nothing_above_the_highest_block(model, block):
    """Of the blocks above, what they are called with is kept, and it is what they get in a whole pass."""
    ran: set[int] = set()
    hooks = by_hand.hooks(model.network)
    handles = [
        projection.register_forward_hook(lambda _m, _a, _o, number=number: ran.add(number))
        for number, projection in enumerate(model.architecture.down_projections)
    ]
    try:
        tails = Tails(model, SEQUENCES, COUNTED, blocks=[block])
    finally:
        for handle in handles:
            handle.remove()
    assert ran == set(range(block + 1))
    assert by_hand.hooks(model.network) == hooks and all("forward" not in vars(b) for b in model.architecture.blocks)
    weight = changed_weight(model, block)
    found = group(tails, {block: weight})[block]
    assert torch.equal(
        found, group(Tails(model, SEQUENCES, COUNTED, blocks=[block, model.blocks - 1]), {block: weight})[block]
    )


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("llama", {"after_attention": "input_layernorm"}),  # reads the stream before attention
        ("gemma2", {"after_attention": "post_feedforward_layernorm"}),  # reads the MLP's output
        ("gpt_neox", {"after_attention": "post_attention_layernorm"}),  # parallel: the block's input
    ],
)
def test_a_wrong_place_to_resume_costs_time_only(name, paths):
    """Tails compare with the block's own output and run whole blocks where it is not met."""
    model = from_parts(tiny_models.network(name), tiny_models.tokenizer(), name, paths)
    weights = {block: changed_weight(model, block) for block in range(model.blocks)}
    found = group(Tails(model, SEQUENCES, COUNTED), weights)
    for block, weight in weights.items():
        assert torch.allclose(found[block], by_copies(model, block, weight), **CLOSE)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_tails_keep_no_state_that_enters_a_block_above_the_changed_one(tiny, family):
    """Of a block that is resumed none at all; GPT-NeoX's are run whole, from what enters the changed one on."""
    model, entered = tiny(family), {}

    def hook_for(number: int):
        def hook(_module, args, kwargs):
            entered[number] = weakref.ref(args[0] if args else kwargs["hidden_states"])

        return hook

    handles = [
        block.register_forward_pre_hook(hook_for(number), with_kwargs=True)
        for number, block in enumerate(model.architecture.blocks)
    ]
    try:
        tails = Tails(model, SEQUENCES, COUNTED, blocks=[1])
    finally:
        for handle in handles:
            handle.remove()
    kept = {number for number, states in entered.items() if states() is not None}
    assert kept == ({1} if family == "gpt_neox" else set())
    assert set(entered) == set(range(model.blocks)) and tails.blocks == (1,)


def test_tails_of_texts_that_are_kept_read_them_once_and_give_the_same_bits(model, monkeypatch):
    passed: list[int] = []
    monkeypatch.setattr(
        tails_module, "observed", lambda *given, **further: (passed.append(1), observed(*given, **further))[1]
    )
    monkeypatch.setattr(tails_module, "_KEPT", WeakKeyDictionary())
    last = model.blocks - 1
    for block in (1, last):
        weight = changed_weight(model, block)
        wanted = group(Tails(model, SEQUENCES, COUNTED, [block]), {block: weight})[block]
        passed.clear()
        for keep in (True, True, False):
            found = Tails(model, SEQUENCES, COUNTED, [block], keep=keep)
            assert torch.equal(group(found, {block: weight})[block], wanted)
        assert len(passed) == 1
        for other in ((SEQUENCES[::-1], COUNTED[::-1], [block]), (SEQUENCES, COUNTED[1:] + COUNTED[:1], [block])):
            Tails(model, *other)
        Tails(model, SEQUENCES, COUNTED, [block], counted_only=False)
        assert len(passed) == 4, "other texts, other positions, and all of them"


def test_few_texts_are_kept_those_used_last_and_no_longer_than_their_model(llama, monkeypatch):
    kept = WeakKeyDictionary()
    monkeypatch.setattr(tails_module, "_KEPT", kept)
    for token in range(3, 3 + MOST_KEPT + 2):
        Tails(llama, [[1, token]], [[0]], [1], keep=True)
        Tails(llama, [[1, 3]], [[0]], [1], keep=True)
        Tails(llama, [[2, token]], [[0]], [1])
    assert len(kept[llama]) == MOST_KEPT and ((1,), True, False, named(((1, 3),), ((0,),))) in kept[llama]
    each = bytes_in(kept[llama][(1,), True, False, named(((1, 3),), ((0,),))])
    assert each > 2 * (48 + 32) * 4, "of two tokens what enters the down-projection, what is added to it, and calls"
    monkeypatch.setattr(tails_module, "MOST_BYTES", 3 * each)
    Tails(llama, [[1, 4]], [[0]], [1], keep=True)
    assert len(kept[llama]) == 3
    made = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "goes")
    Tails(made, [[1, 3]], [[0]], [1], keep=True)
    assert len(kept) == 2
    del made
    gc.collect(1)  # what is older than this test is many times as much
    assert len(kept) == 1, "what is kept does not keep its model"


def test_where_memory_runs_out_kept_texts_are_let_go(llama):
    Tails(llama, [[1, 3]], [[0]], [1], keep=True)
    assert tails_module._KEPT[llama]
    let_go(MemoryError())
    assert llama not in tails_module._KEPT


def test_where_a_block_can_be_resumed_is_confirmed_once_for_a_model(monkeypatch):
    """Another model of the same shape has its own; a block that was never asked for has none."""
    asked: list[int] = []
    own = Tails._confirms

    def confirms(tails: Tails, block: int, output: torch.Tensor) -> bool:
        asked.append(block)
        return own(tails, block, output)

    monkeypatch.setattr(Tails, "_confirms", confirms)
    for _ in range(2):
        model = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "llama")
        for blocks in ([1], [1, 2], [0, 1, 2]):
            Tails(model, SEQUENCES, COUNTED, blocks=blocks)
    assert asked == [1, 2, 0] * 2


@pytest.mark.parametrize("block", [-1, 3, 17])
def test_a_block_out_of_range_is_refused(llama, block):
    with pytest.raises(ArchitectureError, match="0 to 2"):
        Tails(llama, SEQUENCES, COUNTED, blocks=[0, block])


def test_a_norm_after_the_mlp_runs_under_the_lock_since_it_may_carry_another_visitor_s_hooks(tiny):
    model = tiny("gemma2")
    tails, weight = Tails(model, SEQUENCES, COUNTED), changed_weight(model, 1)
    free: list[bool] = []

    def look(*_) -> None:
        def another_visitor() -> None:
            free.append(model.lock.acquire(blocking=False))
            if free[-1]:
                model.lock.release()

        thread = threading.Thread(target=another_visitor)
        thread.start()
        thread.join()

    hook = model.network.model.layers[1].post_feedforward_layernorm.register_forward_hook(look)
    try:
        tails.changed(1, with_weight(weight))
    finally:
        hook.remove()
    assert free == [False]


def test_what_was_recorded_for_each_sequence_stands_change_after_change():
    rows, shared = torch.tensor([[1, 0], [2, 0], [3, 0]]), torch.arange(3)
    tiles: dict[tuple[int, int], torch.Tensor] = {}
    found, flat = tails_module._tile((rows, shared), 3, 2, tiles)
    assert found[:, 0].tolist() == [1, 2, 3, 1, 2, 3], "as the states of several changes are put together"
    assert flat is shared
    assert tails_module._tile({"mask": [rows]}, 3, 2, tiles)["mask"][0] is found, "once for all blocks"
