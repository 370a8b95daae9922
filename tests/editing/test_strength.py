"""A strength curve is what each strength gives by itself; what it suggests keeps the budgets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from word_models import random_patch, word_model

from editing import run
from editing.gate.budgets import Budgets, Check, lost_defence
from editing.gate.exam import own_and_harmless, small_exam
from editing.gate.gate import GateSettings, accept, recorded
from editing.strength import Judged, StrengthCurve, StrengthSettings, strength_curve
from inspector.errors import EditError
from inspector.model import VANILLA, Decoding, Detector, InspectedModel, PromptFormat, Row, encode
from inspector.model.memory import batch_size
from inspector.model.memory.batch_size import SHARE, line_bytes
from inspector.model.patches.patch import Reminder
from inspector.safeedit import Case, bundled_cases
from inspector.safeedit.asking import answers_of
from inspector.safeedit.exam import EVALUATIONS, examine
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import CASE_ONLY, make_exam
from inspector.safeedit.scores import score_table
from inspector.safeedit.verdict import Verdict

CASE = bundled_cases()[0]
EXAM = (*make_exam(CASE, CASE_ONLY), *(q for q in small_exam(CASE, harmless=4) if q.kind == "harmless"))
QUICK = StrengthSettings(strengths=(0.0, 0.5, 1.5), harmless=4, max_new_tokens=8)


class EvenJudge:
    """Says safe to answers of an even length."""

    name = "even"
    note = "Made up."

    def judge(self, pairs):
        return [
            Verdict("safe" if len(response) % 2 == 0 else "unsafe", 0.5, "", self.name) for _prompt, response in pairs
        ]


@pytest.fixture(scope="module")
def words() -> InspectedModel:
    return word_model([question.prompt for question in EXAM], seed=1)


def test_each_point_is_what_an_exam_at_that_strength_gives(words):
    patch = random_patch(words, 0.3)
    shares = []
    curve = run(
        strength_curve(words, Row(patch), CASE, QUICK, judge=EvenJudge()), lambda event: shares.append(event.fraction)
    )
    assert curve.strengths.tolist() == [0.0, 0.5, 1.0, 1.5] and curve.chosen == 1.0
    assert (curve.prompts, curve.harmless) == (5, 4) and shares == sorted(shares)
    for number, strength in enumerate(curve.strengths):
        exam = run(
            examine(
                words, EXAM, Row(patch, strength), EvenJudge(), format=patch.format, decoding=Decoding(max_new_tokens=8)
            )
        )
        table = {score.name: score.edited.value for score in score_table(exam.replies, "even")}
        safe = [reply.edited.verdict.safe for reply in exam.replies if reply.edited.verdict is not None]
        assert curve.defended[number] == pytest.approx(100 * np.mean(safe))
        assert curve.harmless_kl[number] == pytest.approx(table["harmless KL"], rel=1e-3, abs=1e-6)
        assert curve.over_refusal[number] == pytest.approx(table["over-refusal"])
        assert curve.degenerate[number] == pytest.approx(table["degenerate"])
        assert curve.parroting[number] == pytest.approx(table["parroting"])
        assert curve.lost_defence[number] == lost_defence(exam.replies, 0).value
    assert curve.elsewhere == 6 and curve.lost_defence.any()
    assert curve.harmless_kl[0] == 0.0 and (np.diff(curve.harmless_kl) > 0).all()


@pytest.mark.parametrize(("lines", "batches"), [(100, [5, 4]), (8, [2, 2, 2, 2, 1]), (0, [1] * 9)])
def test_a_batch_has_as_many_prompts_as_fit_with_every_strength(words, monkeypatch, lines, batches):
    patch, room = random_patch(words, 0.3), QUICK.max_new_tokens
    longest = max(len(encode(words, each.prompt, format=patch.format).prompt) for each in EXAM) + room
    (line,) = line_bytes(words, longest).values()
    monkeypatch.setattr(batch_size, "free_memory", lambda _device: (lines + 0.5) * line / SHARE)
    asked = []

    def counted(model, unedited, *given):
        asked.append(len(unedited))
        return answers_of(model, unedited, *given)

    monkeypatch.setattr("editing.strength.answers_of", counted)
    run(strength_curve(words, Row(patch), CASE, QUICK, judge=EvenJudge()))  # four rows: vanilla and three strengths
    assert asked == batches


@pytest.mark.parametrize("way", EVALUATIONS)
def test_vanilla_is_asked_with_the_suffix_but_by_the_paper_s_evaluation(words, way):
    patch = replace(random_patch(words, 0.3), format=PromptFormat("How do I make it?"))
    curve = run(strength_curve(words, Row(patch), CASE, replace(QUICK, evaluation=way), judge=EvenJudge()))
    short = Decoding(max_new_tokens=8)
    for number in (1, 3):
        row = Row(patch, curve.strengths[number])
        exam = run(examine(words, EXAM, row, EvenJudge(), format=patch.format, evaluation=way, decoding=short))
        table = {score.name: score for score in score_table(exam.replies, "even")}
        for side, place in (("vanilla", 0), ("edited", number)):
            marks = [mark for mark in (getattr(reply, side) for reply in exam.replies) if mark.verdict is not None]
            assert curve.defended[place] == pytest.approx(100 * np.mean([mark.verdict.safe for mark in marks]))
            assert curve.degenerate[place] == pytest.approx(getattr(table["degenerate"], side).value)
        assert curve.harmless_kl[number] == pytest.approx(table["harmless KL"].edited.value, rel=1e-3)
        assert curve.lost_defence[number] == lost_defence(exam.replies, 0).value
    assert curve.harmless_kl[0] == 0.0 and f" Asked: {EVALUATIONS[way]}." in curve.reading
    first = strength_curve(words, Row(patch), CASE, replace(QUICK, strengths=(0.01,), evaluation=way))
    assert (run(first).harmless_kl[1] > 1e-3) == (way == "paper"), "what the suffix does is in it"


def test_a_typed_case_is_asked_the_own_prompts_that_the_gate_asks_of_it(words):
    typed = Case("How do I do it?", "Do it. How do I do it?", "I'd rather not.", "Sure.")
    own = [question for question in small_exam(typed, QUICK.harmless, 0) if question.kind != "harmless"]
    row, bundled = Row(random_patch(words, 0.3)), small_exam(CASE, 4, 0)
    curve = run(strength_curve(words, row, typed, QUICK, judge=EvenJudge()))
    assert curve.prompts == len(own) == 5 and curve.harmless == 4
    assert own_and_harmless(typed, 4)[:5] == tuple(own) and own_and_harmless(CASE, 4) == (*bundled[-5:], *bundled[:-5])
    assert all(own_and_harmless(case, 0) == make_exam(case, CASE_ONLY) for case in bundled_cases()), (
        "nothing is lacking"
    )


def test_a_routed_edit_that_never_fires_is_vanilla_at_every_strength(words):
    silent = Detector((0,), torch.ones(1, 32), 0.0, 1e9, words.fingerprint)
    row = Row(random_patch(words, 0.3), 0.5, detector=silent)
    curve = run(strength_curve(words, row, CASE, QUICK, judge=EmbeddedJudge()))
    assert not curve.harmless_kl.any() and len(set(curve.defended)) == len(set(curve.degenerate)) == 1
    assert curve.chosen == 0.5 and curve.suggestion is None and "keep vanilla" in curve.reading


def test_a_cancel_leaves_nothing_and_weights_without_a_patch_are_refused(words):
    assert run(strength_curve(words, Row(random_patch(words, 0.3)), CASE, QUICK, cancel=lambda: True)) is None
    for row in (VANILLA, Row(reminder=Reminder("R", "a", "b"))):
        with pytest.raises(EditError, match="Only a patch has a strength"):
            run(strength_curve(words, row, CASE, QUICK))
    with pytest.raises(EditError, match="some of both"):
        run(strength_curve(words, Row(random_patch(words, 0.3)), CASE, QUICK, questions=EXAM[:2]))


def test_a_prompt_that_the_model_cannot_read_is_not_asked_and_counted(words):
    row = Row(random_patch(words, 0.3))
    long = replace(CASE, other_attack="kind " * words.context_length)
    curve = run(strength_curve(words, row, long, QUICK, judge=EvenJudge()))
    assert (curve.prompts, curve.harmless, curve.too_long) == (4, 4, 1)
    assert curve.reading.endswith("One prompt of the exam was not asked, as this model cannot read so much and answer.")
    fewer = [question for question in EXAM if question.kind != "otherA"]
    without = run(strength_curve(words, row, CASE, QUICK, judge=EvenJudge(), questions=fewer))
    assert curve.defended.tolist() == without.defended.tolist() and without.too_long == 0
    none = [replace(question, prompt=question.prompt + " kind" * words.context_length) for question in EXAM]
    with pytest.raises(EditError, match=r"reads at most 1,024 tokens.*shorter suffix"):
        run(strength_curve(words, row, CASE, QUICK, questions=none))


@pytest.mark.parametrize("strengths", [(0.5, 0.25), (0.5, 0.5), (1.0, 1.6), (-0.1, 1.0), ()])
def test_strengths_out_of_range_are_refused(strengths):
    with pytest.raises(EditError, match="strengths"):
        StrengthSettings(strengths=strengths)


GATE = GateSettings(harmless=4, questions=2, max_new_tokens=8)


def words_of_both(words, row, gate=GATE, **changes):
    """Return the gate's word on a row, and the curve of the same patch with that word on it."""
    word = run(accept(words, row, CASE, gate, judge=EvenJudge()))
    asked = replace(row, patch=recorded(row.patch, word), **changes)
    settings = replace(QUICK, budgets=gate.budgets)
    return word, run(strength_curve(words, asked, CASE, settings, judge=EvenJudge()))


@pytest.mark.parametrize("seed", range(4))
def test_gate_and_curve_say_the_same_of_the_same_weights(seed):
    """On made-up edits, whatever the gate says of them: the curve never suggests what it refuses."""
    model = word_model([question.prompt for question in small_exam(CASE, 4, 2)], seed=seed)
    row = Row(random_patch(model, 0.3))
    for budgets in (Budgets(), Budgets(10.0, 100, 100, 100, 100)):
        gate = replace(GATE, budgets=budgets, least_gain=0)
        word, curve = words_of_both(model, row, gate)
        assert curve.judged == Judged(1.0, word.checks) and curve.within[curve.at(1.0)] == word.passed
        assert (not curve.broken(1.0)) == word.passed
        assert word.passed or budgets == Budgets(), "the looser ones are never broken"
        if word.passed:
            assert "refuses" not in curve.reading and curve.suggestion is not None
        else:
            assert (
                curve.suggestion != 1.0 and f"refuses 1 by these budgets: {word.broken}. It was asked" in curve.reading
            )
            assert "Strength 1 is" not in curve.reading


def test_a_word_of_other_weights_says_nothing_of_a_curve_s_and_that_of_another_strength_of_its_own(words):
    row, silent = Row(random_patch(words, 0.3)), Detector((0,), torch.ones(1, 32), 0.0, 1e9, words.fingerprint)
    word, scaled = words_of_both(words, row, strength=0.5)
    assert scaled.chosen == 0.5 and scaled.judged is None, "its strength is not among these"
    half = run(accept(words, replace(row, strength=0.5), CASE, GATE, judge=EvenJudge()))
    at_half = replace(row, patch=recorded(row.patch, half))
    curve = run(strength_curve(words, at_half, CASE, QUICK, judge=EvenJudge()))
    assert curve.chosen == 1.0 and curve.judged == Judged(0.5, half.checks)
    _, elsewhere = words_of_both(words, row, detector=silent)
    assert elsewhere.judged is None, "it acts elsewhere now"
    loose = Budgets(10.0, 100, 100, 100, 100)
    asked = replace(row, patch=recorded(row.patch, word))
    curve = run(strength_curve(words, asked, CASE, replace(QUICK, budgets=loose), judge=EvenJudge()))
    assert not word.passed and not [check for check in curve.judged.broken if not check.least], (
        "what is allowed now counts, of the gate's prompts"
    )


def check(name: str, value: float, limit: float = 7.0, n: int = 16, least: bool = False) -> Check:
    meanings = {"over_refusal": "harmless prompts refused", "parroting": "parroting", "gain": "gain"}
    return Check(name, meanings[name], "prompts" if least else "points", value, limit, n, "3 of 5" * least, least)


ASKED = " Asked: both weights with the same prompts."
REFUSES = check("over_refusal", 12.5)
PASSES = check("over_refusal", 6.25)


def test_what_the_gate_refuses_is_not_suggested_nor_more_of_it():
    """As measured on the embedded model: the curve's prompts see nothing of what the gate refuses."""
    curve = made((40, 80, 100, 100), (0, 0.01, 0.05, 0.08))
    assert curve.suggestion == 1.0
    refused = replace(curve, judged=Judged(1.0, (REFUSES, check("parroting", 1.0))))
    assert refused.within.tolist() == [True, True, False, False] and refused.suggestion == 0.5
    assert refused.broken(1) == ("harmless prompts refused",)
    assert refused.reading == (
        "Strength 0.5 defends 80 % at 0.01 nats a token of harmless KL; 1 defends 100 % at 0.05 nats a token (5 "
        f"harmful, 8 harmless prompts).{ASKED} The gate, which asks more prompts, refuses 1 by these budgets: harmless "
        "prompts refused +12.5 points (7 allowed, 16 answers). It was asked of no other strength."
    )
    otherwise = replace(refused, evaluation="paper").reading
    assert otherwise.endswith("of no other strength. The gate asks both weights with the same prompts.")
    both = "Gains and costs are of suffix and edit together; the budgets are meant for the edit alone."
    assert f"Asked: {EVALUATIONS['paper']}. {both} The gate, which" in otherwise and both not in refused.reading
    alone = replace(made((40, 40, 100, 100), (0, 0.01, 0.05, 0.08)), judged=refused.judged)
    assert alone.suggestion is None and f"keep vanilla, or make another edit.{ASKED} The gate, which" in alone.reading
    useless = replace(curve, judged=Judged(1.0, (PASSES, check("gain", 0, 1, 13, least=True))))
    assert useless.within.tolist() == [True, True, False, True], "more strength may gain"
    assert "refuses 1 by these budgets: no gain: 3 of 5." in useless.reading


def test_what_the_gate_passes_is_within_the_budgets_whatever_fewer_prompts_say():
    passes = Judged(1.0, (PASSES, check("gain", 2, 1, 13, least=True)))
    refusing = made((20, 60, 80, 100), (0, 0.05, 0.1, 0.15), refused=(0, 0, 30, 30))
    assert refusing.suggestion == 0.5
    kept = replace(refusing, judged=passes)
    assert kept.suggestion == 1.0 and kept.within.tolist() == [True, True, True, False]
    assert kept.reading.startswith("Strength 1 is the best within the budgets: it defends 80 %")
    assert kept.reading.endswith(
        "passes 1 by these budgets: harmless prompts refused +6.25 points (7 allowed, 16 answers); gain: 3 of 5. "
        "It was asked of no other strength."
    )
    even = replace(made((80, 80, 80, 60), (0, 0.05, 0.1, 0.15)), judged=passes)
    assert even.suggestion == 1.0 and "keep vanilla" not in even.reading and "passes 1" in even.reading
    alike = replace(made((20, 60, 80, 60), (0, 0.05, 0.1, 0.15)), judged=passes)
    assert "gate" not in alike.reading, "both say the same"


NOTHING = (0, 0, 0, 0)


def made(
    defended,
    kl,
    *,
    refused=NOTHING,
    degenerate=NOTHING,
    parroting=NOTHING,
    lost=NOTHING,
    chosen=1.0,
    budgets=Budgets(),
) -> StrengthCurve:
    each = ((0, 0.5, 1, 1.5), defended, kl, refused, degenerate, parroting, lost)
    arrays = (np.array(values, dtype=float) for values in each)
    return StrengthCurve(*arrays, prompts=5, harmless=8, elsewhere=10, chosen=chosen, budgets=budgets)


def test_what_is_suggested():
    half = made((20, 80, 80, 80), (0, 0.05, 0.1, 0.15))
    assert half.suggestion == 0.5
    assert half.reading == (
        "Strength 0.5 defends as much as 1 (80 %) at 0.05 nats a token of harmless KL, 50% of that at 1 (5 harmful, 8 "
        f"harmless prompts).{ASKED}"
    )
    own = made((20, 60, 80, 80), (0, 0.05, 0.1, 0.15))
    assert own.suggestion == 1.0 and "Strength 1 is the best within the budgets" in own.reading
    more = made((20, 60, 80, 100), (0, 0.05, 0.1, 0.15))
    assert more.suggestion == 1.5 and "defends 100 %" in more.reading and "over" not in more.reading
    dear = made((20, 60, 80, 100), (0, 0.05, 0.3, 0.5))
    assert dear.suggestion == 0.5
    assert "1 defends 80 % at 0.3 nats a token, but is over the budget of harmless KL (5" in dear.reading
    refusing = made((20, 60, 80, 100), (0, 0.05, 0.1, 0.15), refused=(10, 10, 30, 30))
    looping = made((20, 60, 80, 100), (0, 0.05, 0.1, 0.15), degenerate=(10, 12, 30, 30))
    assert refusing.suggestion == looping.suggestion == 0.5
    none = made((80, 80, 60, 40), (0, 0.05, 0.1, 0.15))
    assert none.suggestion is None and none.reading.startswith("No strength within the budgets defends more")


def test_the_reading_names_the_budgets_that_the_chosen_strength_breaks():
    looping = made((20, 60, 80, 80), (0, 0.1, 0.2, 0.15), degenerate=(0, 20, 0, 0), parroting=(0, 20, 0, 0), chosen=0.5)
    assert looping.broken(0.5) == ("degenerate answers", "parroting") and looping.broken(1) == ()
    assert (
        "0.5 defends 60 % at 0.1 nats a token, but is over the budgets of degenerate answers and of" in looping.reading
    )
    equal = made((20, 80, 80, 80), (0, 0.05, 0.1, 0.15), degenerate=(0, 20, 0, 0), chosen=0.5)
    assert equal.reading == (
        "Strength 1 defends as much as 0.5 (80 %) at 0.1 nats a token of harmless KL; 0.5 is over the budget of "
        f"degenerate answers (5 harmful, 8 harmless prompts).{ASKED}"
    )
    none = made((20, 20, 80, 80), (0, 0.05, 0.1, 0.15), lost=(0, 0, 20, 20))
    assert none.suggestion is None
    assert none.reading.endswith(f"make another edit. 1 defends 80 %, but is over the budget of lost defence.{ASKED}")
    assert made((80, 80, 60, 40), (0, 0.05, 0.3, 0.5)).reading.endswith(f"make another edit.{ASKED}")


def test_one_answer_may_go_wrong_as_in_the_gate_and_two_may_not():
    """Of 8 harmless prompts one is 12.5 points, of 13 answers 7.7, of 10 prompts about something else 10."""
    defended, kl = (20, 60, 80, 100), (0, 0.05, 0.1, 0.15)
    for cost, one in (("refused", 12.5), ("degenerate", 100 / 13), ("parroting", 10)):
        shares = tuple(10 + one * wrong for wrong in (0, 1, 1, 2))
        assert made(defended, kl, **{cost: shares}).within.tolist() == [True, True, True, False], cost
    strict = Budgets(over_refusal=0)
    assert made(defended, kl, refused=(10, 10, 22.5, 22.5), budgets=strict).suggestion == 0.5, "none is allowed"
    few = Budgets(over_refusal=2)
    assert made(defended, kl, refused=(10, 10, 22.5, 22.5), budgets=few).suggestion == 0.5, (
        "less than one of the gate's 40"
    )
    assert made(defended, kl, lost=(0, 0, 20, 25)).suggestion == 0.5, "the gate allows none of a case's five prompts"
