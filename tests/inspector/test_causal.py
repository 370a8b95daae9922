"""Knocking out a block's MLP moves the margin as plain passes with a hook do, and finds a planted toxic block."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pytest
import tiny_models
import torch
from transformers import LlamaConfig

from inspector.causal import KnockOut, knock_out_mlps, mean_writings
from inspector.errors import CaseError, PromptError
from inspector.locators import LOCATORS, Setup
from inspector.model import PromptFormat, from_parts
from inspector.safeedit import Case

CONSTRAINTS = Path(__file__).parents[2] / "assets" / "cases" / "constraints.json"
FAMILIES = ("llama", "gemma2", "gpt2", "gpt_neox", "opt")
# Margins are of order 1 nat, effects of order 0.01 to 1. Tails, batching and padding change the order of float32
# sums; two correct ways differ by a few 1e-6.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def finish(generator: Generator[float, None, Any]) -> tuple[list[float], Any]:
    """Return all shares that a measurement tells, and what it returns."""
    shares = []
    while True:
        try:
            shares.append(next(generator))
        except StopIteration as end:
            return shares, end.value


def harmless() -> list[str]:
    """Return the eight harmless requests whose mean is written in place of an MLP."""
    return json.loads(CONSTRAINTS.read_text(encoding="utf-8"))[:8]


@torch.no_grad()
def writings(model, block: int, ids: list[int]) -> torch.Tensor:
    """Return what a block's down-projection writes on one sequence, ``[tokens, d_model]``."""
    seen = []
    projection = model.network.get_submodule(by_hand.down_name(model.network, block))
    handle = projection.register_forward_hook(lambda _m, _a, output: seen.append(output.reshape(len(ids), -1).clone()))
    try:
        by_hand.logits(model.network, ids)
    finally:
        handle.remove()
    return seen[0]


def mean_by_hand(model, block: int, suffix: str) -> torch.Tensor:
    """Return the mean over all positions but the first of every harmless request, each position counting once."""
    rows = [writings(model, block, by_hand.prompt(model, text, suffix))[1:] for text in harmless()]
    return torch.cat(rows).double().mean(dim=0).float()


def margin_by_hand(network, prompt: list[int], safe: list[int], unsafe: list[int]) -> float:
    """Return mean log P of the safe answer's tokens minus that of the unsafe one's, from two plain passes."""
    means = []
    for answer in (safe, unsafe):
        found = by_hand.logits(network, prompt + answer).double().log_softmax(dim=-1)
        means.append(np.mean([float(found[len(prompt) - 1 + n, token]) for n, token in enumerate(answer)]))
    return means[0] - means[1]


def knocked_out_by_hand(model, block: int, mean: torch.Tensor, *texts: list[int]) -> float:
    """Return the margin while a hook of this test writes ``mean`` at positions 1 to the prompt's last."""
    stop = len(texts[0])

    def hook(_module, _args, output):
        changed = output.reshape(1, -1, output.shape[-1]).clone()
        changed[:, 1:stop] = mean
        return changed.reshape(output.shape)

    handle = model.network.get_submodule(by_hand.down_name(model.network, block)).register_forward_hook(hook)
    try:
        return margin_by_hand(model.network, *texts)
    finally:
        handle.remove()


def texts_of(model, case: Case, suffix: str) -> tuple[list[int], list[int], list[int]]:
    prompt = by_hand.prompt(model, case.adversarial_prompt, suffix)
    return prompt, by_hand.response(model, case.safe), by_hand.response(model, case.unsafe)


def assert_as_by_hand(model, case: Case, found: KnockOut, suffix: str) -> None:
    texts = texts_of(model, case, suffix)
    vanilla = margin_by_hand(model.network, *texts)
    # A single block's effect may happen to be nothing (at the last block one position counts); not every block's.
    assert np.abs(found.effect).max() > 1e-3, "the knock-out must show for this test to mean anything"
    assert found.vanilla == pytest.approx(vanilla, rel=1e-4, abs=2e-5)
    for block in range(model.blocks):
        ablated = knocked_out_by_hand(model, block, mean_by_hand(model, block, suffix), *texts)
        assert found.ablated[block] == pytest.approx(ablated, rel=1e-4, abs=2e-5), f"block {block}"
        assert found.effect[block] == pytest.approx(ablated - vanilla, rel=1e-4, abs=4e-5), f"block {block}"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_effect_of_every_block_is_that_of_plain_passes_with_a_hook(tiny, case, name):
    model = tiny(name)
    _, found = finish(knock_out_mlps(model, case))
    assert found.ablated.shape == (model.blocks,)
    assert_as_by_hand(model, case, found, by_hand.SUFFIX)


@pytest.mark.parametrize("chat", [True, False])
def test_another_suffix_and_no_template_have_means_of_their_own(tiny, case, chat):
    """Means are kept per model: those of one suffix must not serve another."""
    model = tiny("llama", chat=chat)
    _, other = finish(knock_out_mlps(model, case))
    _, found = finish(knock_out_mlps(model, case, format=PromptFormat("")))
    assert not np.allclose(found.ablated, other.ablated, **CLOSE)
    assert_as_by_hand(model, case, found, "")
    assert_as_by_hand(model, case, other, by_hand.SUFFIX)


@pytest.mark.parametrize("longer", ["safe", "unsafe"])
def test_the_shorter_answer_s_padding_is_not_seen(llama, case, longer):
    stretched = replace(case, **{longer: getattr(case, longer) + " And then some more of it." * 6})
    assert_as_by_hand(llama, stretched, finish(knock_out_mlps(llama, stretched))[1], by_hand.SUFFIX)


def test_means_are_those_of_plain_passes(model):
    """The mean of a few hundred values of order 1: 1e-5 is rounding."""
    for block, mean in enumerate(mean_writings(model)):
        assert torch.allclose(mean, mean_by_hand(model, block, by_hand.SUFFIX), rtol=1e-4, atol=1e-5)


def test_how_many_blocks_share_a_batch_changes_nothing_but_the_steps(model, case):
    alone, one = finish(knock_out_mlps(model, case, together=1))
    shared, six = finish(knock_out_mlps(model, case, together=6))
    pairs, two = finish(knock_out_mlps(model, case, together=2))
    assert alone == pytest.approx([(n + 1) / model.blocks for n in range(model.blocks)]) and shared == [1.0]
    assert len(pairs) == (model.blocks + 1) // 2 and pairs[-1] == 1.0
    assert one.vanilla == six.vanilla == two.vanilla
    assert np.allclose(one.ablated, six.ablated, **CLOSE) and np.allclose(one.ablated, two.ablated, **CLOSE)


def test_a_cancelled_knock_out_returns_nothing(llama, case):
    asked: list[int] = []
    shares, found = finish(knock_out_mlps(llama, case, together=1, cancel=lambda: len(asked.append(1) or asked) > 1))
    assert found is None and len(shares) == 2 and shares[-1] < 1


def test_a_case_that_cannot_be_measured_is_refused(llama, case):
    with pytest.raises(CaseError, match="same text"):
        next(knock_out_mlps(llama, replace(case, unsafe=case.safe)))
    with pytest.raises(CaseError, match="The safe answer is empty"):
        next(knock_out_mlps(llama, replace(case, safe=" ")))
    with pytest.raises(PromptError, match="at most 512"):
        next(knock_out_mlps(llama, replace(case, adversarial_prompt="a" * 600)))


TRIGGER = Case("?", "#" * 60, safe="No, never.", unsafe="Aye, matey!")
"""A prompt of one byte that no harmless request consists of."""


@torch.no_grad()
def network_with_a_planted_block(planted: int | None) -> Any:
    """Return a six-block Llama in which one MLP alone writes the unsafe answer's tokens when it reads ``#``.

    All attentions average what lies before them (queries are zero, values are passed on as they are), so that
    what an MLP writes on the prompt reaches the answer. The plant is a rank-one part of the down-projection: from
    how this block's neurons differ between ``#`` and harmless requests to the unsafe tokens' unembedding rows.
    """
    width, heads = 32, 4
    config = LlamaConfig(
        vocab_size=tiny_models.VOCABULARY,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=tiny_models.CONTEXT,
        initializer_range=0.1,
        tie_word_embeddings=False,
        pad_token_id=tiny_models.PAD,
        bos_token_id=tiny_models.BEGIN,
        eos_token_id=tiny_models.END,
    )
    network = tiny_models.random_network(config)
    network.model.embed_tokens.weight.mul_(10)  # states of length 6, MLPs write a twentieth of that
    for block in by_hand.blocks(network):
        block.self_attn.q_proj.weight.zero_()
        block.self_attn.v_proj.weight.copy_(torch.eye(width))
        block.self_attn.o_proj.weight.copy_(torch.eye(width))
    if planted is not None:
        model = from_parts(network, tiny_models.tokenizer(), "to plant in")
        prompt, safe, unsafe = texts_of(model, TRIGGER, "")
        head = network.lm_head.weight
        towards = head[unsafe].mean(dim=0) - head[safe].mean(dim=0)
        fires = inner_of(network, planted, prompt) - torch.stack(
            [inner_of(network, planted, by_hand.prompt(model, text, "")) for text in harmless()]
        ).mean(dim=0)
        plant = torch.outer(towards / towards.norm(), fires / fires.square().sum())
        by_hand.down_weight(network, planted).add_(6 * plant)
    return network


def inner_of(network, block: int, ids: list[int]) -> torch.Tensor:
    """Return the mean of what enters a block's down-projection at all positions but the first."""
    seen = []
    projection = network.get_submodule(by_hand.down_name(network, block))
    handle = projection.register_forward_pre_hook(lambda _m, args: seen.append(args[0][0, 1:].mean(dim=0)))
    try:
        by_hand.logits(network, ids)
    finally:
        handle.remove()
    return seen[0]


def effects(planted: int | None) -> np.ndarray:
    """Return the causal locator's scores of a network with a planted block."""
    model = from_parts(network_with_a_planted_block(planted), tiny_models.tokenizer(), f"planted-{planted}")
    return finish(LOCATORS["knock-out"].measure(model, TRIGGER, Setup(format=PromptFormat(""))))[1]


@pytest.mark.parametrize("planted", [0, 1, 3, 4])
def test_a_planted_toxic_block_is_found(planted):
    """Its effect stands out: at least twice any other block's, and many times what the same block has unplanted."""
    found, without = effects(planted), effects(None)
    assert int(np.argmax(found)) == planted, found.round(4)
    assert found[planted] > 0.05, "taking a toxic MLP away makes the safe answer gain"
    assert found[planted] > 2 * np.abs(np.delete(found, planted)).max(), found.round(4)
    assert found[planted] > 5 * np.abs(without[planted]), (found.round(4), without.round(4))


def test_planting_the_opposite_is_not_taken_for_toxic():
    """An MLP that pushes to the safe answer has a negative effect: the safe answer loses when it is gone."""
    planted = 3
    network = network_with_a_planted_block(planted)
    plain = network_with_a_planted_block(None)
    with torch.no_grad():
        weight, base = by_hand.down_weight(network, planted), by_hand.down_weight(plain, planted)
        weight.copy_(2 * base - weight)
    model = from_parts(network, tiny_models.tokenizer(), "opposite")
    found = finish(LOCATORS["knock-out"].measure(model, TRIGGER, Setup(format=PromptFormat(""))))[1]
    assert int(np.argmin(found)) == planted and found[planted] < -0.05
