"""Every locator gives the score that it names, asked in turn it can be stopped, and agreement is plain arithmetic."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pytest
import real_tokenizers
import tiny_models
import torch

from inspector.errors import CaseError, NotFinite
from inspector.locators import LOCATORS, Located, NotLocated, Setup, agreement, locate_with, toxic_writing
from inspector.model import PromptFormat, from_parts
from inspector.safeedit import Case
from inspector.toxicity import Labelled, Probe, kept_probe

CONSTRAINTS = Path(__file__).parents[2] / "assets" / "cases" / "constraints.json"
TOPICS = ("bread", "the tram", "my garden", "a parcel", "rain", "chess")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Keep probes in a folder of this test."""
    monkeypatch.setattr("inspector.toxicity.probe.probe_folder", lambda: tmp_path / "probes")
    return tmp_path


def labelled(count: int = 12) -> Labelled:
    """Return a few twins of which the toxic one has a marker word, so that a probe is trained in no time."""
    base = [f"Today {number} people talked of {TOPICS[number % len(TOPICS)]}" for number in range(count)]
    texts = tuple(text for one in base for text in (f"{one} ZZZZZZ ZZZZZZ.", f"{one} and so on, all of it."))
    return Labelled("twins", texts, (True, False) * count, tuple(n // 2 for n in range(2 * count)))


SETUP = Setup(labelled=labelled())
OTHER = replace(SETUP, format=PromptFormat("", chat=False), padding="left")
"""All other choices of a setup."""


def finish(generator: Generator[float, None, Any]) -> tuple[list[float], Any]:
    """Return all shares that a measurement tells, and what it returns."""
    shares = []
    while True:
        try:
            shares.append(next(generator))
        except StopIteration as end:
            return shares, end.value


def scores(model, case: Case, name: str, setup: Setup = SETUP) -> np.ndarray:
    return finish(LOCATORS[name].measure(model, case, setup))[1]


def probe_of(model) -> Probe:
    return finish(kept_probe(model, SETUP.labelled))[1]


def test_every_locator_scores_every_block_of_every_family(model, case):
    for name in LOCATORS:
        shares, found = finish(LOCATORS[name].measure(model, case, SETUP))
        assert found.shape == (model.blocks,) and np.isfinite(found).all(), name
        assert np.ptp(found) > 0, f"{name} tells blocks apart"
        kept = name == "region toxicity"  # the probe has been trained for "toxic writing"
        assert shares == sorted(shares) and (shares == [] if kept else 0 < shares[-1] <= 1), name


def test_every_locator_scores_without_a_suffix_and_with_pads_on_the_left(llama, case):
    setup = replace(SETUP, format=PromptFormat(""), padding="left")
    for name in LOCATORS:
        found = scores(llama, case, name, setup)
        assert found.shape == (llama.blocks,) and np.isfinite(found).all() and np.ptp(found) > 0, name


def test_every_locator_says_what_it_is():
    for name, locator in LOCATORS.items():
        assert locator.name == name and locator.reason.endswith(".") and len(locator.reason) > 20
    assert len({locator.reason for locator in LOCATORS.values()}) == len(LOCATORS)


def ids_of(model, case: Case, setup: Setup) -> tuple[list[int], list[int], list[int]]:
    """Return the ids of the prompt and of both answers as a setup asks for them."""
    suffix, chat = setup.format.suffix and f" {setup.format.suffix}", setup.format.chat
    before = "" if chat else " "
    if chat:
        prompt = by_hand.prompt(model, case.adversarial_prompt, suffix)
    else:
        prompt = model.tokenizer(case.adversarial_prompt + suffix)["input_ids"]
    return prompt, *(by_hand.bytes_of(model, before + text) for text in (case.safe, case.unsafe))


@torch.no_grad()
def pooled(model, case: Case, preset: str, setup: Setup) -> list[list[torch.Tensor]]:
    """Return for each answer what the presets compare, entering block 0 and after each block.

    ``corrected``: the mean over the answer's tokens after the prompt. ``reference``: ``hidden_states`` of both answers
    as the tokenizer pads them. ``paper``: the states of each answer alone, zeros where the other one is longer.
    """
    texts = [case.safe, case.unsafe]
    if preset == "corrected":
        prompt, *answers = ids_of(model, case, setup)
        return [
            [state[len(prompt) :].mean(dim=0) for state in by_hand.states(model.network, prompt + answer)]
            for answer in answers
        ]
    if preset == "reference":
        batch = model.tokenizer(texts, padding=True, padding_side=setup.padding, return_tensors="pt")
        # The released code pads with the end-of-sequence token.
        batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, tiny_models.END)
        states = model.network(**batch, output_hidden_states=True).hidden_states
        return [[state[n] for state in states] for n in (0, 1)]
    alone = [by_hand.states(model.network, model.tokenizer(text)["input_ids"]) for text in texts]
    longest = max(len(states[0]) for states in alone)
    found = []
    for states in alone:
        pads = longest - len(states[0])
        sides = (0, 0, pads, 0) if setup.padding == "left" else (0, 0, 0, pads)
        found.append([torch.nn.functional.pad(state, sides) for state in states])
    return found


def distances(safe: list[torch.Tensor], unsafe: list[torch.Tensor]) -> dict[str, np.ndarray]:
    """Return ``[blocks]`` of each distance."""
    l2 = np.array([float((one - two).norm()) for one, two in zip(safe, unsafe, strict=True)])
    sizes = np.array([(float(one.norm()), float(two.norm())) for one, two in zip(safe, unsafe, strict=True)])
    dots = np.array([float((one * two).sum()) for one, two in zip(safe, unsafe, strict=True)])
    return {
        "l2": l2[1:],
        "relative": (l2 / sizes.mean(axis=1))[1:],
        "cosine": (1 - dots / sizes.prod(axis=1))[1:],
        "growth": np.diff(l2),
    }


def test_the_divergence_locators_are_distances_of_plain_passes(model, case):
    for setup in (SETUP, OTHER):
        plain = {name: distances(*pooled(model, case, name, setup)) for name in ("corrected", "paper", "reference")}
        expected = {
            "divergence": plain["corrected"]["l2"],
            "divergence, paper": plain["paper"]["l2"],
            "divergence, reference": plain["reference"]["l2"],
            "relative divergence": plain["corrected"]["relative"],
            "cosine divergence": plain["corrected"]["cosine"],
            "growth": plain["corrected"]["growth"],
        }
        for name, known in expected.items():
            assert np.allclose(scores(model, case, name, setup), known, rtol=1e-4, atol=1e-5), (name, setup)


@pytest.mark.parametrize("preset", ["paper", "reference"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_divergences_of_answers_alone_read_what_sentencepiece_makes_of_each(case, preset, padding):
    """With the space that it puts before every text, and its begin marker."""
    model = from_parts(tiny_models.network("llama"), real_tokenizers.sentencepiece(), "SentencePiece")
    setup = replace(SETUP, padding=padding)
    expected = distances(*pooled(model, case, preset, setup))["l2"]
    assert np.allclose(scores(model, case, f"divergence, {preset}", setup), expected, rtol=1e-4, atol=1e-5)


def edit_loss_gradient(model, case: Case) -> np.ndarray:
    """Return the norm of the edit loss's gradient in each down-projection over that matrix's own norm.

    The loss is the mean cross-entropy of the safe answer and its end, from one pass of a copy that may be trained.
    """
    copied = copy.deepcopy(model.network)
    modules = [copied.get_submodule(by_hand.down_name(copied, n)) for n in range(model.blocks)]
    for module in modules:
        module.weight.requires_grad_(True)
    prompt = by_hand.prompt(model, case.adversarial_prompt)
    answer = [*by_hand.response(model, case.safe), tiny_models.END]
    scored = copied(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0].log_softmax(dim=-1)
    (-torch.stack([scored[len(prompt) - 1 + n, token] for n, token in enumerate(answer)]).mean()).backward()
    return np.array([float(m.weight.grad.norm() / m.weight.detach().norm()) for m in modules])


def test_the_edit_loss_gradient_is_that_of_a_trained_parameter(model, case):
    assert np.allclose(scores(model, case, "edit-loss gradient"), edit_loss_gradient(model, case), rtol=1e-3)


def test_the_edit_loss_gradient_does_not_see_the_unsafe_answer(llama, case):
    other = replace(case, unsafe="Something else.")
    assert np.array_equal(scores(llama, case, "edit-loss gradient"), scores(llama, other, "edit-loss gradient"))


def unsafe_gain(network, prompt: list[int], safe: list[int], unsafe: list[int]) -> float:
    """Return mean log P of the unsafe answer's tokens minus that of the safe one's, from two plain passes."""
    means = []
    for answer in (safe, unsafe):
        scored = by_hand.logits(network, prompt + answer).double().log_softmax(dim=-1)
        means.append(np.mean([float(scored[len(prompt) - 1 + n, token]) for n, token in enumerate(answer)]))
    return means[1] - means[0]


@contextmanager
def writing(network, block: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Let a block's down-projection write ``change(what it writes [tokens, d_model])``."""
    module = network.get_submodule(by_hand.down_name(network, block))
    handle = module.register_forward_hook(lambda _m, _a, out: change(out.reshape(-1, 32).clone()).reshape(out.shape))
    try:
        yield
    finally:
        handle.remove()


def written_at(model, block: int, ids: list[int]) -> torch.Tensor:
    """Return what a block's down-projection writes on one sequence, ``[tokens, d_model]``."""
    seen: list[torch.Tensor] = []
    with writing(model.network, block, lambda states: seen.append(states) or states):
        by_hand.logits(model.network, ids)
    return seen[0]


CHOICES = pytest.mark.parametrize("setup", [SETUP, OTHER], ids=["default", "other"])


@CHOICES
def test_gradient_times_activation_is_how_fast_the_unsafe_answer_gains_as_the_mlp_grows(llama, case, setup):
    """Without any gradient: what the MLP writes times 1.01 and 0.99, known to about 2e-4."""
    texts, expected = ids_of(llama, case, setup), []
    for block in range(llama.blocks):
        gains = []
        for factor in (1.01, 0.99):
            with writing(llama.network, block, lambda states, factor=factor: factor * states):
                gains.append(unsafe_gain(llama.network, *texts))
        expected.append((gains[0] - gains[1]) / 0.02)
    assert np.abs(expected).max() > 0.05
    assert np.allclose(scores(llama, case, "gradient x activation", setup), expected, rtol=0.02, atol=1e-3)


@CHOICES
def test_knocking_out_tells_what_the_unsafe_answer_loses_without_the_mlp(llama, case, setup):
    """Its mean over all positions but the first of eight harmless requests stands at those of the prompt."""
    texts = ids_of(llama, case, setup)
    harmless = json.loads(CONSTRAINTS.read_text(encoding="utf-8"))[:8]
    requests = [ids_of(llama, replace(case, adversarial_prompt=text), setup)[0] for text in harmless]
    expected = []
    for block in range(llama.blocks):
        mean = torch.cat([written_at(llama, block, ids)[1:] for ids in requests]).double().mean(dim=0).float()

        def replaced(states: torch.Tensor, mean=mean) -> torch.Tensor:
            states[1 : len(texts[0])] = mean
            return states

        with writing(llama.network, block, replaced):
            without = unsafe_gain(llama.network, *texts)
        expected.append(unsafe_gain(llama.network, *texts) - without)
    assert np.abs(expected).max() > 1e-2
    assert np.allclose(scores(llama, case, "knock-out", setup), expected, rtol=1e-3, atol=5e-5)


@CHOICES
@torch.no_grad()
def test_logit_attribution_is_what_the_mlp_writes_for_the_unsafe_answer_s_first_token(llama, case, setup):
    """Where the answers part, through the final norm's gain, along the difference of two unembedding rows."""
    prompt, safe, unsafe = ids_of(llama, case, setup)
    shared = 0 if setup.format.chat else 1
    assert safe[:shared] == unsafe[:shared] and safe[shared] != unsafe[shared], "after a space without template"
    ids, head, norm = prompt + safe[:shared], llama.network.lm_head.weight, llama.network.model.norm
    last = by_hand.states(llama.network, ids)[-1][-1]
    gain = norm.weight / (last.square().mean() + norm.variance_epsilon).sqrt()
    direction = gain * (head[unsafe[shared]] - head[safe[shared]])
    expected = [float(written_at(llama, block, ids)[-1] @ direction) for block in range(llama.blocks)]
    assert np.abs(expected).max() > 1e-2
    assert np.allclose(scores(llama, case, "logit attribution", setup), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["gradient x activation", "logit attribution", "knock-out", "toxic writing"])
def test_with_the_answers_exchanged_the_signs_turn(llama, case, name):
    exchanged = replace(case, safe=case.unsafe, unsafe=case.safe)
    one, two = scores(llama, case, name), scores(llama, exchanged, name)
    # Each is a difference of float32 numbers of order 1.
    assert np.allclose(one, -two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_toxic_writing_is_what_the_mlp_adds_along_the_direction(tiny, case, family):
    """Means over the answers' own tokens, from unpadded passes. Projections of order 1 in float32: 1e-4."""
    model = tiny(family)
    network, toxic = model.network, probe_of(model).weight[1]
    direction = torch.from_numpy(toxic / np.sqrt((toxic**2).sum()))
    prompt, expected = by_hand.prompt(model, case.adversarial_prompt), []
    for block in range(model.blocks):
        writer = network.get_submodule(by_hand.down_name(network, block))
        if family == "gemma2":
            writer = network.model.layers[block].post_feedforward_layernorm
        seen: list[torch.Tensor] = []
        handle = writer.register_forward_hook(lambda _m, _a, out, seen=seen: seen.append(out.reshape(-1, 32)))
        try:
            for text in (case.safe, case.unsafe):
                by_hand.logits(network, prompt + by_hand.response(model, text))
        finally:
            handle.remove()
        safe, unsafe = (float((written[len(prompt) :] @ direction).mean()) for written in seen)
        expected.append(unsafe - safe)
    assert np.allclose(scores(model, case, "toxic writing"), expected, rtol=1e-3, atol=1e-4)


def test_region_toxicity_is_the_mean_cosine_and_knows_no_case(model, case):
    toxic = probe_of(model).weight[1].astype(np.float64)
    expected = []
    for block in range(model.blocks):
        columns = by_hand.down_weight(model.network, block).detach().double().numpy()
        expected.append(((toxic @ columns) / np.linalg.norm(columns, axis=0)).mean() / np.linalg.norm(toxic))
    found = scores(model, case, "region toxicity")
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-6)
    other = replace(case, adversarial_prompt="Hello.", safe="No.", unsafe="Yes.")
    assert np.array_equal(scores(model, other, "region toxicity"), found)


def test_the_probe_is_trained_once_and_kept_in_the_cache(llama, case, cache_folder):
    first, _ = finish(LOCATORS["toxic writing"].measure(llama, case, SETUP))
    second, _ = finish(LOCATORS["region toxicity"].measure(llama, case, SETUP))
    assert len(first) > 0 and second == []
    assert len(list(cache_folder.rglob("*.safetensors"))) == 1


def test_locators_are_asked_in_turn_with_progress_before_each_result(llama, case):
    names = ("growth", "region toxicity", "knock-out")
    events = list(locate_with(llama, case, names, SETUP))
    located = [event for event in events if isinstance(event, Located)]
    assert [one.locator for one in located] == list(names)
    start = 0
    for one in located:
        stop = events.index(one)
        steps = events[start:stop]
        assert steps[0] == (one.locator, 0.0) and {name for name, _ in steps} == {one.locator}
        assert [share for _, share in steps] == sorted(share for _, share in steps)
        assert one.unit == LOCATORS[one.locator].unit and one.reason == LOCATORS[one.locator].reason
        assert np.array_equal(one.scores, scores(llama, case, one.locator))
        assert one.seconds > 0
        assert one.block == max(range(llama.blocks), key=lambda block, one=one: one.scores[block])
        start = stop + 1
    assert start == len(events)


def test_all_locators_are_asked_by_default(llama, case):
    events = locate_with(llama, case, setup=SETUP)
    assert [event.locator for event in events if isinstance(event, Located)] == list(LOCATORS)


def test_unknown_names_are_refused_before_anything_is_measured(llama, case):
    with pytest.raises(CaseError, match=r"Unknown locators best, worst\. Choose from: divergence, .*knock-out"):
        next(locate_with(llama, case, ("worst", "divergence", "best"), SETUP))


def test_a_padding_side_that_no_locator_knows_is_refused():
    with pytest.raises(CaseError, match=r"The setting padding = 'middle' is unknown\. Valid values: right, left\."):
        Setup(padding="middle")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"format": "plain"}, "format"),
        ({"probe": 3}, "probe"),
        ({"cancel": True}, "cancel"),
        ({"side": "left"}, "side"),
    ],
)
def test_a_setup_is_checked_when_it_is_made_and_keeps_what_it_is_given(wrong, told):
    with pytest.raises(CaseError, match=told):
        Setup(**wrong)
    texts, never = labelled(), lambda: False
    made = Setup(PromptFormat(""), "left", labelled=texts, cancel=never)
    assert made.labelled is texts and made.cancel is never and made.format == PromptFormat("")


def test_a_case_without_answers_is_refused(llama, case):
    for name in LOCATORS:
        if name == "region toxicity":
            continue  # the case plays no part
        with pytest.raises(CaseError, match=r"safe answer is empty"):
            list(locate_with(llama, replace(case, safe=" "), (name,), SETUP))


@pytest.mark.parametrize("name", LOCATORS)
def test_a_cancelled_locator_says_nothing_and_no_other_is_asked(llama, case, name, cache_folder):
    setup = replace(SETUP, cancel=lambda: True)
    events = list(locate_with(llama, case, (name, "divergence"), setup))
    assert events and {event[0] for event in events} == {name}
    assert not list(cache_folder.rglob("*.safetensors")), "a cancelled probe is not kept"


def test_cancelling_between_locators_keeps_what_is_done(llama, case):
    cancelled: list[bool] = []
    setup = replace(SETUP, cancel=lambda: bool(cancelled))
    done = []
    for event in locate_with(llama, case, ("divergence", "growth", "knock-out"), setup):
        if isinstance(event, Located):
            done.append(event.locator)
            cancelled.append(True)
    assert done == ["divergence"]


def located(*values: float) -> Located:
    return Located("made up", "", "Because.", np.array(values), 0.0)


def test_agreement_of_a_typed_example():
    """Ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15). Chosen 30, best 40, mean 25."""
    found = agreement(located(0.1, 0.2, 0.5, 9.0), np.array([10.0, 20.0, 40.0, 30.0]))
    assert (found.locator, found.block) == ("made up", 3)
    assert found.correlation == pytest.approx(0.8)
    assert found.regret == pytest.approx(10) and found.share == pytest.approx(10 / 15)


def test_agreement_with_ties_uses_mean_ranks():
    """Ranks 1.5 1.5 3 against 1 2 3: 1.5 over the root of 1.5 * 2."""
    found = agreement(located(1, 1, 2), np.array([1.0, 2.0, 3.0]))
    assert found.correlation == pytest.approx(1.5 / math.sqrt(3))


def test_the_best_block_has_no_regret_and_the_worst_is_worse_than_chance():
    achieved = np.array([-5.0, 1.0, 7.0])
    best = agreement(located(1, 2, 3), achieved)
    assert (best.block, best.regret, best.share) == (2, 0, 0) and best.correlation == pytest.approx(1)
    worst = agreement(located(3, 2, 1), achieved)
    assert (worst.block, worst.regret) == (0, 12) and worst.share == pytest.approx(2)
    assert worst.correlation == pytest.approx(-1)


def test_blocks_without_an_edit_play_no_part():
    """The highest score has no edit. Ranks 1 2 3 against 3 1 2: 1 - 6 * 6 / 24. Chosen 3, best 5, mean 3."""
    found = agreement(located(9, 1, 2, 3), np.array([np.nan, 5.0, 1.0, 3.0]))
    assert found.block == 3, "numbered among all blocks"
    assert found.correlation == pytest.approx(-0.5)
    assert found.regret == pytest.approx(2) and found.share == pytest.approx(1)


def test_constant_scores_have_no_correlation_but_a_regret():
    found = agreement(located(2, 2, 2), np.array([1.0, 2.0, 6.0]))
    assert math.isnan(found.correlation) and found.block == 0
    assert found.regret == pytest.approx(5) and found.share == pytest.approx(5 / 3)


@pytest.mark.parametrize("value", [50.0, 0.35, 0.7])
def test_where_all_blocks_achieve_the_same_there_is_nothing_to_share(value):
    """The mean of 0.35, 0.35 and 0.35 rounds to a little less than 0.35: that is no difference between blocks."""
    found = agreement(located(1, 2, 3), np.full(3, value))
    assert math.isnan(found.correlation) and found.regret == 0
    assert math.isnan(found.share)


def test_two_blocks_are_too_few_for_a_correlation():
    found = agreement(located(1, 2, 3), np.array([4.0, np.nan, 2.0]))
    assert math.isnan(found.correlation) and found.block == 2
    assert found.regret == pytest.approx(2) and found.share == pytest.approx(2)


def test_an_atlas_without_a_block_is_refused():
    with pytest.raises(CaseError, match="no block yet"):
        agreement(located(1, 2), np.array([np.nan, np.nan]))


def test_a_locator_whose_scores_are_not_finite_says_so_and_the_others_go_on(overflowing, llama, case):
    probe = probe_of(llama)
    for setup in (SETUP, Setup(probe=probe)):  # a probe that has to be learnt of such states, and one that is there
        found = [answer for answer in locate_with(overflowing, case, setup=setup) if not isinstance(answer, tuple)]
        by_name = {answer.locator: answer for answer in found}
        assert list(by_name) == list(LOCATORS)
        if setup.probe is not None:
            assert isinstance(by_name.pop("region toxicity"), Located), "it reads weights alone"
        assert all(isinstance(one, NotLocated) and "not a finite number" in one.why for one in by_name.values())
    with pytest.raises(NotFinite, match="toxic writing"):
        toxic_writing(overflowing, case, probe)
