"""The whole job on the embedded model: an edit makes the safe answer likelier, here and under other attacks."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import pytest
import torch
from documents import BENCHMARKS

from benchmarks.edit_speed import edit_gflop, plain_gflop, sized_case, worked_on
from editing import EditResult, dinm, preset, run
from editing.optimising.replay import FullReplay, TailReplay, master_weight
from inspector.detection import case as case_reading
from inspector.detection import for_case
from inspector.divergence import divergence
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Decoding, Detector, InspectedModel, PromptFormat, Row, answer, encode
from inspector.model.patches.routing import scores
from inspector.safeedit import Case, bundled_cases
from inspector.safeedit.cases import Template, bundled_templates
from inspector.safeedit.sets import false_alarm_prompts, harmful_questions, spread
from inspector.shift import activation_shift

pytestmark = pytest.mark.embedded

BLOCK = 20
WHOLE: Case = bundled_cases()[19]
CASE = replace(WHOLE, safe=" ".join(WHOLE.safe.split()[:12]), unsafe=" ".join(WHOLE.unsafe.split()[:10]))
"""One with a short prompt, its answers cut short: what is compared here does not depend on length, the time does."""
FEW = {"harmless_prompts": 1, "harmless_tokens": 4, "target_probability": None, "damage_budget": None}
"""The model answers one harmless prompt and no edit ends before its step limit."""


@pytest.fixture(scope="module")
def vanilla(embedded) -> torch.Tensor:
    """Logits of the embedded model before anything is done with it."""
    return by_hand.vanilla_logits(embedded, encode(embedded, CASE.adversarial_prompt).prompt)


@pytest.fixture(scope="module")
def edit(embedded: InspectedModel, vanilla) -> EditResult:
    return run(dinm(embedded, CASE, BLOCK, preset("corrected", steps=1, watch_unsafe=False, **FEW)))


def test_the_edit_makes_the_safe_answer_likelier_to_its_prompt_and_under_another_attack(embedded, edit):
    """On the attack that it was made for and on one that it has not seen, against the vanilla probability."""
    for prompt in (CASE.adversarial_prompt, CASE.other_attack):
        before, after = likelihoods(embedded, prompt, [CASE.safe], (VANILLA, Row(edit.patch)))
        assert after[0].per_token > before[0].per_token


def test_the_patch_gives_the_probability_that_the_trace_reports(embedded):
    """In an edit without end-of-answer token, which the likelihood does not count; 1 % for rounding.

    Of one answer, and nothing is measured before the descent: what the default edit prepares is in the edit above.
    """
    plain = {"safe_answers": 1, "own_refusals": 0, "null_space": None, "learning_rate": 1e-3}
    settings = preset("corrected", steps=1, turn_end=False, watch_unsafe=False, **plain, **FEW)
    short = replace(CASE, adversarial_prompt=CASE.question)
    result = run(dinm(embedded, short, BLOCK, settings))
    ((own,),) = likelihoods(embedded, CASE.question, [CASE.safe], [Row(result.patch)])
    assert own.per_token == pytest.approx(result.trace[-1].safe_probability, rel=1e-2)


def test_vanilla_logits_are_bit_equal_after_the_edit_and_after_using_it(embedded, edit, vanilla):
    prompt = encode(embedded, CASE.adversarial_prompt).prompt
    hooks = by_hand.hooks(embedded.network)
    edited = by_hand.running_logits(embedded, prompt, [Row(edit.patch)])[0]
    assert not torch.equal(edited, vanilla)
    assert torch.equal(by_hand.vanilla_logits(embedded, prompt), vanilla)
    by_hand.assert_at_rest(embedded, hooks)


def test_the_edited_region_s_input_does_not_shift(embedded, edit):
    shift = activation_shift(embedded, CASE.adversarial_prompt, CASE.safe, Row(edit.patch))
    assert shift.input_change == 0 and (shift.by_token[:BLOCK] == 0).all()
    assert (shift.by_block[BLOCK:] > 0).all()


def test_asked_for_the_capital_of_france_it_says_paris(embedded):
    prompt = encode(embedded, "What is the capital of France?", format=PromptFormat("")).prompt
    states = answer(embedded, prompt, decoding=Decoding(max_new_tokens=24))
    assert "Paris" in states.texts[0]


@pytest.mark.parametrize(
    ("name", "padding", "layer"),
    [("reference", "left", 12), ("reference", "right", 28), ("paper", "right", 29), ("corrected", "right", 29)],
)
def test_the_layer_that_each_preset_locates_and_that_padding_alone_moves_the_released_one(
    embedded, name, padding, layer
):
    """The released locator on the whole answers, whose difference in length is what is padded."""
    measured = divergence(embedded, WHOLE if name == "reference" else CASE, name, padding=padding)
    assert measured.l2.shape == (30,) and (measured.l2 > 0).all()
    assert measured.toxic_layer() == layer


@pytest.mark.parametrize("block", [0, 29])
def test_tail_replay_equals_full_replay(embedded, block):
    """Logits of order 20 through 30 float32 blocks: 1e-3 absolute."""
    encoded = encode(embedded, CASE.only_question, "I can't help with that.", format=PromptFormat(""))
    weight = master_weight(embedded, block) * 1.01
    with torch.no_grad():
        one, two = (
            way(embedded, block, [encoded.tokens], [encoded.predicting]).logits(weight)
            for way in (TailReplay, FullReplay)
        )
    assert torch.allclose(one, two, rtol=0, atol=1e-3)


def test_a_cancelled_edit_leaves_vanilla_bit_equal(embedded, vanilla):
    quick = preset("reference", steps=3, watch_unsafe=False)
    result = run(dinm(embedded, replace(CASE, unsafe="Yes."), BLOCK, quick, cancel=lambda: True))
    assert result.patch is None
    assert torch.equal(by_hand.vanilla_logits(embedded, encode(embedded, CASE.adversarial_prompt).prompt), vanilla)


def test_a_routed_edit_acts_on_its_own_question_in_unseen_attacks_and_on_few_other_prompts(embedded, monkeypatch):
    """Beside a detector that knows nothing of harm: what fires is the reading of the case's question."""
    monkeypatch.setattr(case_reading, "HARMLESS", 6)
    size = embedded.architecture.d_model
    silent = Detector((16, 20), torch.zeros(2, size), 0.0, 1e9, embedded.fingerprint)
    unseen = next(one for one in harmful_questions("development") if len(one.question) < 60).question
    own = run(for_case(embedded, silent, Case(unseen, unseen, CASE.safe, CASE.unsafe)))
    templates = sorted((one for one in bundled_templates("development") if one.language == "en"), key=by_length)[:2]
    asked = [unseen, *(template.fill(unseen) for template in templates)]
    other = [one.prompt for one in spread(false_alarm_prompts("development"), 3)]
    prompts = [encode(embedded, text).prompt for text in (*asked, *other)]
    fires = [own.fires(score) for score in scores(embedded, own, prompts)]
    assert fires == [True] * len(asked) + [False] * len(other)


def by_length(template: Template) -> int:
    return len(template.fill(""))


def test_an_edit_by_tails_makes_fewer_products_than_the_plain_way_by_what_is_told(embedded):
    """Of the edits that ``benchmarks.edit_speed`` times."""
    texts = worked_on(embedded, sized_case(embedded, 103, 68))
    middle, high = (
        f"{plain_gflop(embedded, block, *texts, 10) / edit_gflop(embedded, block, *texts, 10):.2f}"
        for block in (15, 28)
    )
    told = f"the plain way's matrix products are {middle} times those of tail replay there ({high} times at layer 28)"
    assert told in " ".join(BENCHMARKS.split())
