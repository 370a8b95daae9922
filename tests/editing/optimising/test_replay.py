"""Tail replay gives the logits and the gradient of the full computation, without running what lies below."""

from __future__ import annotations

import by_hand
import pytest
import tiny_models
import torch

from editing.optimising.replay import FullReplay, TailReplay, master_weight
from inspector.errors import ArchitectureError
from inspector.model import from_parts

# Two sequences of unlike length, so that one is padded, longer than the sliding window; positions at the start,
# in the middle and at the end count.
SEQUENCES = ([1, *range(20, 60)], [1, *range(100, 125)])
COUNTED = (range(30, 40), (0, 3, 24, 25))
# Logits of order 1 to 5, gradients of order 0.1 to 10, from float32 sums in another order: a few 1e-6 relative.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture
def model(every_model):
    """Every family: these are numbers of the low-level engine."""
    return every_model


def changed_weight(model, block: int) -> torch.Tensor:
    """Return a weight that differs visibly from the base one."""
    weight = master_weight(model, block)
    generator = torch.Generator().manual_seed(block)
    return (weight + 0.1 * torch.randn(weight.shape, generator=generator)).requires_grad_(True)


def outcome(way, model, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and the gradient of a loss that weighs every logit differently."""
    weight = changed_weight(model, block)
    logits = way(model, block, SEQUENCES, COUNTED).logits(weight)
    mixture = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)
    (logits.log_softmax(dim=-1) * mixture).sum().backward()
    return logits.detach(), weight.grad


def test_tail_replay_equals_full_replay_in_logits_and_gradient_at_every_block(model):
    for block in range(model.blocks):
        tail, full = outcome(TailReplay, model, block), outcome(FullReplay, model, block)
        assert torch.allclose(tail[0], full[0], **CLOSE), f"logits at block {block}"
        scale = full[1].abs().max()
        assert scale > 1e-3
        assert torch.allclose(tail[1] / scale, full[1] / scale, rtol=0, atol=1e-5), f"gradient at block {block}"


def test_full_replay_equals_writing_the_weight_into_a_copy(model):
    """Sequence by sequence without padding; counted positions come in the order in which they were given."""
    for block in range(model.blocks):
        weight = changed_weight(model, block).detach()
        copied = by_hand.written(model.network, (block, weight - by_hand.down_weight(model.network, block)))
        expected = [by_hand.logits(copied, ids)[list(places)] for ids, places in zip(SEQUENCES, COUNTED, strict=True)]
        for way in (FullReplay, TailReplay):
            replay = way(model, block, SEQUENCES, COUNTED)
            assert torch.allclose(replay.logits(weight), torch.cat(expected), **CLOSE)


def test_the_base_weight_replays_vanilla(model):
    for block in range(model.blocks):
        replayed = TailReplay(model, block, SEQUENCES[:1], COUNTED[:1]).logits(master_weight(model, block))
        assert torch.allclose(replayed, by_hand.logits(model.network, SEQUENCES[0])[list(COUNTED[0])], **CLOSE)


def test_evaluating_twice_and_out_of_order_gives_the_same(model):
    """A replay keeps no state between steps."""
    replay, base = TailReplay(model, 1, SEQUENCES, COUNTED), master_weight(model, 1)
    with torch.no_grad():
        first = replay.logits(base)
        replay.logits(changed_weight(model, 1))
        assert torch.equal(replay.logits(base), first)


def blocks_run(model, block: int) -> set[int]:
    """Return the blocks that run to their end in one evaluation of a replay that stands ready."""
    replay, ran = TailReplay(model, block, SEQUENCES, COUNTED), set()
    handles = [
        module.register_forward_hook(lambda _m, _a, _o, number=number: ran.add(number))
        for number, module in enumerate(by_hand.blocks(model.network))
    ]
    try:
        replay.logits(master_weight(model, block))
    finally:
        for handle in handles:
            handle.remove()
    return ran


def test_only_the_edited_block_and_those_above_run(model):
    for block in range(model.blocks):
        assert blocks_run(model, block) <= set(range(block, model.blocks))


@pytest.mark.parametrize(
    "name", ["llama", "mistral", "mistral_sliding", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt2"]
)
def test_families_with_a_norm_after_attention_resume_at_the_edited_matrix(tiny, name):
    """The attention of the edited block does not run again: that is what makes a step cheap."""
    assert 1 not in blocks_run(tiny(name), 1)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("llama", {"after_attention": "input_layernorm"}),  # reads the stream before attention
        ("gemma2", {"after_attention": "post_feedforward_layernorm"}),  # reads the MLP's output
        ("gpt_neox", {"after_attention": "post_attention_layernorm"}),  # parallel: the block's input
    ],
)
def test_a_wrong_place_to_resume_is_noticed_and_costs_time_only(name, paths):
    """The replay compares with the block's own output and falls back to whole blocks."""
    model = from_parts(tiny_models.network(name), tiny_models.tokenizer(), name, paths)
    for block in range(model.blocks):
        tail, full = outcome(TailReplay, model, block), outcome(FullReplay, model, block)
        assert torch.allclose(tail[0], full[0], **CLOSE)
        assert torch.allclose(tail[1], full[1], rtol=1e-3, atol=1e-4 * float(full[1].abs().max()))
        assert block in blocks_run(model, block)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_with_a_bfloat16_base_tail_replay_equals_full_replay(name):
    """Every state is rounded to 8 bits: logits of order 3 within 0.06, gradients alike in direction."""
    model = from_parts(tiny_models.network(name).to(torch.bfloat16), tiny_models.tokenizer(), name)
    for block in range(model.blocks):
        tail, full = outcome(TailReplay, model, block), outcome(FullReplay, model, block)
        assert tail[0].dtype == tail[1].dtype == torch.float32
        assert torch.allclose(tail[0], full[0], rtol=0, atol=0.06)
        assert torch.cosine_similarity(tail[1].flatten(), full[1].flatten(), dim=0) > 0.995


def test_the_master_weight_is_a_float32_copy_in_canonical_form(model):
    for block in range(model.blocks):
        master = master_weight(model, block)
        assert torch.equal(master, by_hand.down_weight(model.network, block)) and master.dtype == torch.float32
        master.add_(1.0)  # must not reach the model, which the fixture checks


@pytest.mark.parametrize("way", [TailReplay, FullReplay])
def test_a_block_that_does_not_exist_is_refused(llama, way):
    with pytest.raises(ArchitectureError, match="0 to 2"):
        way(llama, 3, SEQUENCES, COUNTED)
