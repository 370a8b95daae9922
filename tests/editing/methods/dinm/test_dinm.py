"""DINM's presets compute what their descriptions say, and tail replay changes nothing but the time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import by_hand
import numpy as np
import pytest
import real_tokenizers
import tiny_models
import torch
from torch import Tensor

from editing import DinmSettings, EditResult, Step, dinm, preset, run
from editing.methods.dinm import FURTHER_ANSWERS, prepare_terms, term_values
from editing.optimising.replay import FullReplay, TailReplay, master_weight
from editing.texts.harmless import harmless_answers, harmless_texts
from inspector.errors import EditError
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Decoding, Row, answer, encode, from_parts
from inspector.safeedit import Case

BLOCK = 1
SMALL = {"harmless_prompts": 2, "harmless_tokens": 4}
# Losses are means of float32 log-probabilities near -5; two correct ways differ by a few 1e-6.
LOSS = 2e-5


def small(name: str, **changes) -> DinmSettings:
    """Return a preset that is quick on a tiny model and never ends before its step limit."""
    limits = {"target_probability": None, "damage_budget": None, "stop_below": 0.0}
    plain = {"learning_rate": 1e-3, "safe_answers": 1, "harmless_at_once": None, "null_space": None, "own_refusals": 0}
    return preset(name, **{**SMALL, **limits, **(plain if name == "corrected" else {}), **changes})


def delta(result: EditResult) -> Tensor:
    assert result.patch is not None
    return result.patch.deltas[0].dense()


def reference_nll(model, network, case: Case, grad: bool = False) -> Tensor:
    """Return the released code's loss: two spaces, labels of " "+Y alone, the last T positions before the final one."""
    target = " " + case.safe
    tokens = model.tokenizer(case.adversarial_prompt + by_hand.SUFFIX + " " + target)["input_ids"]
    labels = torch.tensor(model.tokenizer(target)["input_ids"])
    with torch.set_grad_enabled(grad):
        logits = network(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -len(labels) - 1 : -1]
        return torch.nn.functional.cross_entropy(logits, labels, ignore_index=model.tokenizer.eos_token_id)


def aligned_nll(model, network, prompt: list[int], response: list[int]) -> Tensor:
    """Return the mean NLL of a response after a prompt; call it under ``no_grad`` or not."""
    logits = network(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(response))


def plain_prompt(model, text: str) -> list[int]:
    return model.tokenizer(text + by_hand.SUFFIX)["input_ids"]


def kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first to second) of two sets of logits ``[positions, vocabulary]``, mean per position."""
    one, two = first.log_softmax(dim=-1), second.log_softmax(dim=-1)
    return (one.exp() * (one - two)).sum(dim=-1).mean()


def answer_logits(model, network, case: Case) -> Tensor:
    """Return the logits at the answer's positions of ``[q_c; S] a_c``: its tokens themselves, begin marker counted."""
    ids = model.tokenizer(f"{case.constraint.prompt}{by_hand.SUFFIX} {case.constraint.answer}")["input_ids"]
    return by_hand.logits(network, ids)[-len(model.tokenizer(case.constraint.answer)["input_ids"]) :]


def descended(model, block: int, loss: Callable[..., Tensor], rate: float, steps: int) -> Tensor:
    """Return the delta of plain gradient descent on one matrix of a copy of the network."""
    network = copy.deepcopy(model.network)
    weight = network.get_submodule(by_hand.down_name(network, block)).weight.requires_grad_(True)
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss(network), weight)
        with torch.no_grad():
            weight.sub_(rate * gradient)
    return (by_hand.down_weight(network, block) - by_hand.down_weight(model.network, block)).detach()


def test_presets_differ_as_the_table_says():
    reference, paper, corrected = preset("reference"), preset("paper"), preset("corrected")
    assert [s.preset for s in (reference, paper, corrected)] == ["reference", "paper", "corrected"]
    assert corrected == DinmSettings()
    for settings in (reference, paper, corrected):
        assert (settings.edit_weight, settings.constraint_weight, settings.weight_decay) == (0.1, 1.0, 0.0)
        assert settings.format.suffix == by_hand.SUFFIX.strip() and settings.clamp is None
    assert (reference.format.chat, paper.format.chat, corrected.format.chat) == (False, False, True)
    assert (reference.loss_positions, paper.loss_positions, corrected.loss_positions) == (
        "reference",
        "aligned",
        "aligned",
    )
    assert [s.format.turn_end for s in (reference, paper, corrected)] == [False, False, True]
    assert (reference.constraint, paper.constraint, corrected.constraint) == ("answer", "next token", "harmless")
    assert (reference.constraint_gradient, paper.constraint_gradient, corrected.constraint_gradient) == (
        False,
        True,
        True,
    )
    assert (reference.direction, paper.direction) == ("vanilla to edited", "edited to vanilla")
    assert (reference.optimiser, paper.optimiser, corrected.optimiser) == ("adam", "descent", "adam")
    assert (reference.learning_rate, reference.steps, reference.stop_below) == (5e-4, 10, 1e-4)
    assert (paper.learning_rate, paper.step_kl, paper.steps) == (None, 1e-5, 10)
    for settings in (reference, paper):
        assert settings.target_probability is None and settings.damage_budget is None
    assert corrected.target_probability and corrected.damage_budget


def start(model, case, name: str) -> Step:
    """Return the first step of an edit, which is vanilla: a KL of zero up to rounding of sums over 259 tokens."""
    first = run(dinm(model, case, BLOCK, small(name, steps=1))).trace[0]
    assert (first.step, first.delta_norm) == (0, 0.0)
    assert first.constraint_kl == pytest.approx(0, abs=1e-6)
    assert first.gradient_norm > 0
    return first


def test_reference_s_loss_on_step_zero_is_the_released_code_s(tiny, family, case):
    """With a tokenizer that adds a begin marker, which becomes a label, one without, and SentencePiece's space."""
    spaced = from_parts(tiny_models.network(family), real_tokenizers.sentencepiece(), "SentencePiece")
    for model in (tiny(family, begin=True), tiny(family, begin=False), spaced):
        first = start(model, case, "reference")
        with torch.no_grad():
            assert first.edit_loss == pytest.approx(float(reference_nll(model, model.network, case)), abs=LOSS)
        assert first.total_loss == pytest.approx(0.1 * first.edit_loss, abs=LOSS)


def test_reference_s_oddities_change_its_loss(llama, case):
    """Were the begin marker not a label, or the positions aligned, the number would be another one."""
    short = replace(case, safe="No")  # one label of few weighs much
    loss = run(dinm(llama, short, BLOCK, small("reference", steps=1))).trace[0].edit_loss
    aligned = run(dinm(llama, short, BLOCK, small("reference", steps=1, loss_positions="aligned"))).trace[0].edit_loss
    assert abs(loss - aligned) > 1e-2


def test_reference_leaves_out_labels_equal_to_the_token_that_the_released_code_pads_with(case):
    """The end-of-sequence token: where that is the begin marker, the label on the prompt does not count."""
    model = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "end is begin")
    model.tokenizer.eos_token = "<s>"
    loss = run(dinm(model, case, BLOCK, small("reference", steps=1))).trace[0].edit_loss
    with torch.no_grad():
        assert loss == pytest.approx(float(reference_nll(model, model.network, case)), abs=LOSS)
    model.tokenizer.eos_token, model.tokenizer.pad_token = "</s>", "<s>"  # the tokenizer's own pad plays no part
    assert abs(run(dinm(model, case, BLOCK, small("reference", steps=1))).trace[0].edit_loss - loss) > 1e-3


def test_paper_s_loss_on_step_zero_is_the_nll_of_the_safe_answer(model, case):
    first = start(model, case, "paper")
    with torch.no_grad():
        prompt, response = plain_prompt(model, case.adversarial_prompt), by_hand.bytes_of(model, " " + case.safe)
        assert first.edit_loss == pytest.approx(float(aligned_nll(model, model.network, prompt, response)), abs=LOSS)


def test_corrected_s_loss_on_step_zero_counts_template_and_end_of_answer(model, case):
    first = start(model, case, "corrected")
    prompt = by_hand.prompt(model, case.adversarial_prompt)
    with torch.no_grad():
        for text, loss in ((case.safe, first.edit_loss), (case.unsafe, None)):
            response = [*by_hand.response(model, text), tiny_models.END]
            expected = float(aligned_nll(model, model.network, prompt, response))
            if loss is not None:
                assert loss == pytest.approx(expected, abs=LOSS)
                assert first.safe_probability == pytest.approx(torch.tensor(-expected).exp().item(), rel=1e-4)
            else:
                assert first.unsafe_probability == pytest.approx(torch.tensor(-expected).exp().item(), rel=1e-4)


def edited_copy(model, case, settings: DinmSettings):
    """Return the last step of a one-step edit and a copy of the network with its delta written."""
    result = run(dinm(model, case, BLOCK, settings))
    assert result.trace[1].constraint_kl > 1e-4, "the step must do something for this test to mean anything"
    return result.trace[1], by_hand.written(model.network, (BLOCK, delta(result)))


def test_reference_s_kl_is_that_of_vanilla_to_edited_on_the_constraint_s_answer(model, case):
    step, copied = edited_copy(model, case, small("reference", steps=1, learning_rate=0.05))
    expected = kl(answer_logits(model, model.network, case), answer_logits(model, copied, case))
    assert step.constraint_kl == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    with torch.no_grad():
        assert step.edit_loss == pytest.approx(float(reference_nll(model, copied, case)), abs=LOSS)


def test_paper_s_kl_is_that_of_edited_to_vanilla_on_the_next_token_after_the_constraint(model, case):
    step, copied = edited_copy(model, case, small("paper", steps=1, learning_rate=10.0))
    ids = plain_prompt(model, case.constraint.prompt)
    edited, vanilla = by_hand.logits(copied, ids)[-1:], by_hand.logits(model.network, ids)[-1:]
    assert step.constraint_kl == pytest.approx(float(kl(edited, vanilla)), rel=1e-3, abs=1e-6)
    assert step.total_loss == pytest.approx(0.1 * step.edit_loss + step.constraint_kl, rel=1e-5)


def test_corrected_s_kl_is_that_on_the_model_s_own_answers_to_harmless_prompts(model, case):
    """The case's constraint first, then the bundled ones; positions of all prompts weigh the same."""
    step, copied = edited_copy(model, case, small("corrected", steps=1, learning_rate=0.05))
    vanilla, edited = [], []
    for text in harmless_texts(case, 2):
        prompt = by_hand.prompt(model, text)
        own = answer(model, prompt, decoding=Decoding(SMALL["harmless_tokens"]))
        response = [*own.token_ids[0], *([tiny_models.END] if own.finished[0] else [])]
        for network, logits in ((model.network, vanilla), (copied, edited)):
            logits.append(by_hand.logits(network, prompt + response)[len(prompt) - 1 : -1])
    expected = kl(torch.cat(vanilla), torch.cat(edited))
    assert step.constraint_kl == pytest.approx(float(expected), rel=1e-3, abs=1e-6)


def test_paper_is_plain_gradient_descent_on_its_two_terms(model, case):
    """Three steps of autograd on a copy; the KL weighs 5, so that leaving out its gradient would show."""
    prompt, response = plain_prompt(model, case.adversarial_prompt), by_hand.bytes_of(model, " " + case.safe)
    ids = torch.tensor([plain_prompt(model, case.constraint.prompt)])
    vanilla = by_hand.vanilla_logits(model, ids[0].tolist())[-1:]

    def loss(network) -> Tensor:
        constraint = kl(network(input_ids=ids, use_cache=False).logits[0, -1:], vanilla)
        return 0.1 * aligned_nll(model, network, prompt, response) + 5 * constraint

    expected = descended(model, BLOCK, loss, rate=0.5, steps=3)
    own = delta(run(dinm(model, case, BLOCK, small("paper", steps=3, learning_rate=0.5, constraint_weight=5.0))))
    assert expected.norm() > 1e-3
    # Gradients of two correct computations differ by about 1e-5 of their size.
    assert (own - expected).norm() < 1e-3 * expected.norm()


def test_paper_goes_down_its_loss_with_a_step_size_that_costs_the_same_on_any_model(model, case):
    """With nothing changed, as on a real model; a larger step makes the KL rise from the second update on."""
    settings = preset("paper")
    result = run(dinm(model, case, BLOCK, settings))
    losses = [step.total_loss for step in result.trace]
    assert np.isfinite(losses).all() and bool(torch.isfinite(delta(result)).all())
    assert result.trace[1].constraint_kl == pytest.approx(settings.step_kl, rel=0.3)
    assert (result.kept, result.stop_reason) == (10, "step limit") and losses == sorted(losses, reverse=True)


def test_reference_s_kl_has_no_gradient(model, case):
    """Descent with a heavy constraint equals descent on the edit loss alone; with its gradient it does not."""

    def loss(network) -> Tensor:
        return 0.1 * reference_nll(model, network, case, grad=True)

    expected = descended(model, BLOCK, loss, rate=2.0, steps=3)
    settings = small("reference", steps=3, optimiser="descent", learning_rate=2.0, constraint_weight=5.0)
    logged = delta(run(dinm(model, case, BLOCK, settings)))
    assert (logged - expected).norm() < 1e-3 * expected.norm()
    constrained = delta(run(dinm(model, case, BLOCK, replace(settings, constraint_gradient=True))))
    assert (constrained - expected).norm() > 1e-2 * expected.norm()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_reference_s_delta_is_that_of_plain_adam_on_the_released_code_s_loss(tiny, case, name):
    """Whole passes of a copy and torch's own optimiser; a step is 5e-4 per weight, so 1e-6 is a 500th of one."""
    model = tiny(name)
    network = copy.deepcopy(model.network)
    weight = network.get_submodule(by_hand.down_name(network, BLOCK)).weight.requires_grad_(True)
    optimiser = torch.optim.Adam([weight], lr=5e-4)
    for _ in range(4):
        optimiser.zero_grad()
        (0.1 * reference_nll(model, network, case, grad=True)).backward()
        optimiser.step()
    expected = (by_hand.down_weight(network, BLOCK) - by_hand.down_weight(model.network, BLOCK)).detach()
    for way in (TailReplay, FullReplay):
        made = delta(run(dinm(model, case, BLOCK, small("reference", steps=4, watch_unsafe=False), replay=way)))
        assert expected.abs().max() > 1e-3 and (made - expected).abs().max() < 1e-6


def test_tail_replay_gives_the_delta_of_the_full_computation(model, case):
    """Three steps of Adam at every block; a step is 5e-4 per weight, so 1e-6 is a 500th of one.

    Adam divides each gradient by its own size, which magnifies rounding where a gradient is tiny: that is
    why the tolerance is not smaller.
    """
    for block in range(model.blocks):
        settings = small("corrected", steps=3, learning_rate=5e-4, watch_unsafe=False)
        tail, full = (delta(run(dinm(model, case, block, settings, replay=way))) for way in (TailReplay, FullReplay))
        difference = (tail - full).abs()
        assert tail.norm() > 1e-2
        assert difference.max() < 1e-6


@pytest.mark.parametrize("family", tiny_models.ENDS)
def test_the_same_edit_twice_gives_the_same_delta_bit_for_bit(model, case):
    settings = small("corrected", steps=3)
    one, two = (run(dinm(model, case, BLOCK, settings)) for _ in range(2))
    assert torch.equal(delta(one), delta(two))
    assert one.patch.identifier == two.patch.identifier


@pytest.mark.parametrize("family", tiny_models.ENDS)
@pytest.mark.parametrize("name", ["corrected", "reference", "paper"])
def test_an_edit_raises_the_safe_answer_s_probability(model, case, name):
    settings = small(name, steps=8, learning_rate=None if name == "paper" else 1e-2)
    trace = run(dinm(model, case, BLOCK, settings)).trace
    assert trace[-1].edit_loss < trace[0].edit_loss - 0.02
    assert trace[-1].safe_probability > trace[0].safe_probability


def test_the_patch_gives_the_probabilities_that_the_trace_reports(model, case):
    """The trace comes from tail replay, the likelihood from hooks: same weights, same numbers (1e-3 relative)."""
    result = run(dinm(model, case, BLOCK, small("corrected", steps=5, learning_rate=1e-2, turn_end=False)))
    answers = (case.safe, case.unsafe)
    vanilla, edited = likelihoods(model, case.adversarial_prompt, answers, (VANILLA, Row(result.patch)))
    for step, own in ((result.trace[0], vanilla), (result.trace[-1], edited)):
        assert own[0].per_token == pytest.approx(step.safe_probability, rel=1e-3)
        assert own[1].per_token == pytest.approx(step.unsafe_probability, rel=1e-3)


def test_a_trace_has_a_step_before_each_update_and_one_after_the_last(llama, case):
    events = []
    result = run(dinm(llama, case, BLOCK, small("corrected", steps=4)), events.append)
    assert [step.step for step in result.trace] == [0, 1, 2, 3, 4]
    assert [event for event in events if isinstance(event, Step)] == list(result.trace)
    assert all(step.gradient_norm for step in result.trace[:-1]) and result.trace[-1].gradient_norm is None
    assert result.trace[-1].delta_norm == pytest.approx(result.patch.norm, rel=1e-5)
    assert (result.kept, result.stop_reason, result.block) == (4, "step limit", BLOCK)


def test_a_bfloat16_base_is_edited_through_a_float32_master_copy(case):
    """Steps of 1e-5 are far below bfloat16's spacing and must not be lost."""
    network = tiny_models.network("llama").to(torch.bfloat16)
    model = from_parts(network, tiny_models.tokenizer(), "tiny-llama")
    checksum = by_hand.checksum(network)
    change = delta(run(dinm(model, case, BLOCK, small("reference", steps=3, learning_rate=1e-5))))
    assert change.dtype == torch.float32 and (change != 0).float().mean() > 0.9
    assert change.abs().max() < 1e-4
    assert by_hand.checksum(network) == checksum


def test_the_unsafe_answer_is_followed_only_where_asked_for(llama, case):
    watched, alone = (run(dinm(llama, case, BLOCK, small("corrected", steps=1, watch_unsafe=w))) for w in (True, False))
    assert all(step.unsafe_probability is not None for step in watched.trace)
    assert all(step.unsafe_probability is None for step in alone.trace)
    assert torch.equal(delta(watched), delta(alone))


def test_the_patch_records_its_settings(llama, case):
    settings = small("corrected", steps=2, learning_rate=3e-3)
    patch = run(dinm(llama, case, 2, settings)).patch
    assert (patch.method, patch.fingerprint, patch.blocks) == ("DINM", llama.fingerprint, (2,))
    recorded = dict(patch.settings)
    assert (recorded.pop("block"), recorded.pop("updates")) == (2, 2)
    assert DinmSettings(**recorded) == settings
    assert encode(llama, case.adversarial_prompt).prompt  # the model is as usable as before


def test_several_answers_and_the_question_alone_are_learnt_as_the_mean_over_all_their_tokens(llama, case):
    settings = small("corrected", safe_answers=3, question_alone=True, watch_unsafe=False)
    base = master_weight(llama, BLOCK)
    terms = run(prepare_terms(llama, case, BLOCK, settings, base, TailReplay, lambda: False))
    loss, probability, *_ = term_values(terms, base, settings, gradient=False)
    every, first = [], []
    for asked in (case.adversarial_prompt, case.question):
        for text in (case.safe, *FURTHER_ANSWERS[:2]):
            own = encode(llama, asked, text)
            logits = by_hand.vanilla_logits(llama, own.tokens)[len(own.prompt) - 1 : -1]
            each = torch.nn.functional.cross_entropy(logits, torch.tensor(own.response), reduction="none")
            every.append(each)
            first = first or [each.mean()]
    assert float(loss) == pytest.approx(float(torch.cat(every).mean()), abs=LOSS)
    assert probability == pytest.approx(float(torch.exp(-first[0])), abs=LOSS)


def test_harmless_prompts_take_turns(llama, case):
    settings = small("corrected", harmless_at_once=1, watch_unsafe=False)
    base = master_weight(llama, BLOCK)
    terms = run(prepare_terms(llama, case, BLOCK, settings, base, TailReplay, lambda: False))
    changed = base + by_hand.patch(llama, BLOCK).deltas[0].dense()
    network = by_hand.written(llama.network, (BLOCK, changed - base))
    own = run(harmless_answers(llama, case, 2, 4, settings.format))
    expected = []
    for answered in own:
        before, after = (
            by_hand.logits(n, answered.tokens)[list(answered.predicting)] for n in (llama.network, network)
        )
        expected.append(float(kl(before, after)))
    found = [float(term_values(terms, changed, settings, gradient=False, number=n)[2]) for n in range(3)]
    assert expected[0] != pytest.approx(expected[1], rel=1e-2)
    assert sorted(found[:2]) == pytest.approx(sorted(expected), abs=LOSS) and found[2] == found[0]


def test_the_released_code_s_positions_take_one_answer_to_one_prompt():
    for wrong in ({"safe_answers": 2}, {"question_alone": True}):
        with pytest.raises(EditError, match="know one answer to one prompt"):
            preset("reference", **wrong)
