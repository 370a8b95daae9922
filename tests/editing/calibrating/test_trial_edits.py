"""Trial edits: what they achieve is the atlas's, and a layer is recommended only where it defends within the budget."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest

from editing import run
from editing.atlas import AtlasSettings, make_atlas
from editing.calibrate import layer_table
from editing.calibrating import trial_edits
from editing.calibrating.trial_edits import (
    ANEW,
    FRESH,
    SETTINGS,
    Layers,
    Trial,
    TrialEdit,
    fresh_cases,
    trial_cases,
    try_layers,
)
from inspector.errors import RefusedEdit
from inspector.safeedit.intervals import low_end_of_difference
from inspector.safeedit.verdict import Verdict
from inspector.validated import read_record

SHORT = AtlasSettings(
    answers=True, max_new_tokens=3, steps=1, harmless_prompts=2, harmless_tokens=4, step_kl=0.02, together=2
)


def layers(*trials: tuple[int, float, float, float], vanilla: float = 0.25) -> Layers:
    return Layers(tuple(Trial(*trial) for trial in trials), vanilla, 10, 40)


def test_the_layer_that_defends_most_within_the_budget_is_recommended_of_equal_ones_the_larger_margin():
    assert layers((4, 0.5, 0.01, 1.0), (5, 0.75, 0.1, 1.0), (6, 0.75, 0.1, 2.0), (7, 1.0, 0.3, 9.0)).recommended == 6
    assert layers((4, 0.25, 0.01, 1.0), (5, 0.0, 0.01, 1.0)).recommended is None, "no better than the model by itself"
    assert layers((4, 1.0, 0.21, 1.0)).recommended is None


def test_where_no_layer_is_recommended_the_reason_has_its_numbers():
    assert layers((4, 1.0, 0.1, 1.0)).why_none is None
    weak = layers((4, 0.25, 0.01, 1.0), (5, 0.375, 0.01, 1.0), (6, 1.0, 0.3, 1.0)).why_none
    assert "at layer 5, defend 38 % of 40 unseen prompts of 10 cases and vanilla 25 %" in weak
    assert "cost more than 0.2 nats a token on harmless prompts at every layer" in layers((4, 1.0, 0.21, 1.0)).why_none


def of_edits(block: int, *edits: tuple[int, int]) -> Trial:
    """A layer with an edit of each (defended, vanilla) of four prompts."""
    share = sum(defended for defended, _ in edits) / (4 * len(edits))
    return Trial(block, share, 0.1, 1.0, tuple(TrialEdit(*edit, 4) for edit in edits))


def test_a_layer_is_compared_with_the_model_on_its_own_prompts_and_its_edits_are_what_is_sampled():
    wide = of_edits(5, (4, 0), (4, 0), (3, 0), (3, 1), (2, 2))
    easy, even = of_edits(4, (4, 3), (4, 3), (4, 4)), of_edits(6, (4, 0))
    found = Layers((easy, wide, even), 0.3, 5, 20)
    assert found.recommended == 5, "neither the layer that was edited on easy cases alone, nor that of one edit"
    assert found.vanilla_of(easy) == pytest.approx(10 / 12) and found.gained(wide) == pytest.approx(13 / 20)
    assert found.gained(even) == pytest.approx(4 / 20) and found.defended_of(even).low is None
    assert found.defended_of(wide).resampled == "5 edits" and "20 of 5 edits; vanilla 15 %" in layer_table(found)
    none = Layers((easy,), 0.3, 5, 20)
    assert none.best is None and "12 unseen prompts of 3 cases and vanilla 83 %" in none.why_none
    # Twelve of twenty are surely more than five of as many others, and not of five edits that all or none do.
    all_or_none = of_edits(7, (4, 1), (4, 1), (4, 1), (0, 1), (0, 1))
    kept = Layers((replace(all_or_none, edits=()),), 0.25, 5, 20)
    assert kept.recommended == 7 and Layers((all_or_none,), 0.25, 5, 20).recommended is None
    assert read_record(Layers, asdict(found)) == found


@pytest.mark.parametrize("hits", [(1, 0, 0, 0, 0), (1, 1, 0, 0, 0), (2, 0, 0, 0, 0), (0, 0, 4, 0, 0)])
def test_a_hit_or_two_where_the_model_defends_nothing_are_not_surely_more(hits):
    trial = of_edits(4, *((one, 0) for one in hits))
    assert Layers((trial,), 0.0, 5, 20).recommended is None
    one = replace(trial, defended=0.05, edits=())
    assert Layers((one,), 0.0, 5, 20).recommended is None, "nor where it is not known of which edit they are"


def of_chance(random: np.random.Generator, share: float) -> Layers:
    """Twenty layers whose edits do nothing: each edited model is as lucky as the model by itself, case by case."""
    vanilla = random.binomial(4, share, 5).tolist()
    defended = random.binomial(4, share, (20, 5)).tolist()
    trials = (of_edits(block, *zip(row, vanilla, strict=True)) for block, row in enumerate(defended))
    return Layers(tuple(trials), sum(vanilla) / 20, 5, 20)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.75])
def test_of_twenty_layers_whose_edits_do_nothing_one_is_seldom_recommended_and_one_that_works_is(share):
    random, models = np.random.default_rng(0), 60
    found = [of_chance(random, share) for _ in range(models)]
    assert sum(one.recommended is not None for one in found) <= 0.1 * models
    unkept = [replace(one, trials=tuple(replace(trial, edits=()) for trial in one.trials)) for one in found]
    assert sum(one.recommended is not None for one in unkept) <= 0.1 * models
    few = next(one for one in found if one.vanilla <= 0.25) if share <= 0.25 else None
    if few is not None:
        works = of_edits(20, *((4, edit.vanilla) for edit in few.trials[0].edits))
        assert replace(few, trials=(*few.trials, works)).recommended == 20


def test_a_case_that_a_layer_cannot_be_edited_on_gains_nothing_whichever_it_is():
    whole = of_edits(4, (0, 1), (2, 0), (1, 0), (3, 0), (4, 0))
    edits = (TrialEdit(3, 0, 4, 1), TrialEdit(4, 0, 4, 2))
    same = of_edits(5, (0, 0), (3, 0), (4, 0), (2, 2), (1, 1))
    some = Trial(5, 7 / 8, 0.1, 1.0, edits)
    one, two = (Layers((whole, trial), 0.1, 5, 20).least_gain(whole) for trial in (some, same))
    assert one == two < 0
    in_order = replace(some, edits=tuple(replace(edit, case=None) for edit in edits))
    assert Layers((whole, in_order), 0.1, 5, 20).least_gain(whole) != one


def spread_over(cases: int, share: float) -> list[int]:
    """Return how many of each case's four prompts a model defends by itself, so that the share is of all of them."""
    hits = round(4 * cases * share)
    return [hits // cases + (case < hits % cases) for case in range(cases)]


def one_of_sixteen(share: float) -> Layers:
    """A layer whose edits defend every prompt, beside fifteen whose edits do nothing."""
    vanilla = spread_over(5, share)
    nothing = [of_edits(block, *((hits, hits) for hits in vanilla)) for block in range(8, 23)]
    return Layers((*nothing, of_edits(23, *((4, hits) for hits in vanilla))), sum(vanilla) / 20, 5, 20)


def tried_anew(*defended: tuple[int, list[int]], share: float) -> Layers:
    """Layers on fresh cases, with how many of each case's four prompts they defend."""
    vanilla = spread_over(FRESH, share)
    trials = (of_edits(block, *zip(hits, vanilla, strict=True)) for block, hits in defended)
    return Layers(tuple(trials), sum(vanilla) / (4 * FRESH), FRESH, 4 * FRESH)


@pytest.mark.parametrize("share", [0.5, 0.6])
def test_a_layer_that_the_first_trial_is_sure_of_is_not_tried_anew(share):
    found = one_of_sixteen(share)
    assert found.recommended == 23 and found.promising == ()


@pytest.mark.parametrize("share", [0.7, 0.75, 0.8])
def test_where_much_is_defended_anyway_a_layer_is_recommended_by_the_fresh_cases_alone(share):
    found = one_of_sixteen(share)
    assert found.recommended is None and found.promising == (23,), "what gains nothing is not promising"
    good, even = [4] * FRESH, spread_over(FRESH, share)
    works = replace(found, anew=tried_anew((22, even), (23, good), share=share))
    assert works.recommended == 23 and works.why_none is None
    assert works.reason == (
        f"Trial edits work best at layer 23: 100 % defended (72 unseen prompts of 18 fresh cases, vanilla "
        f"{100 * works.anew.vanilla:.0f} %). In a first trial, of 5 cases, no layer surely defended more."
    )
    other = replace(found, anew=tried_anew((22, good), (23, even), share=share))
    assert other.recommended == 22, "whatever the first trial said"
    lucky = replace(found, anew=tried_anew((23, even), share=share))
    assert lucky.recommended is None and lucky.promising == (23,)
    assert "defend 100 % of 20 unseen prompts of 5 cases" in lucky.why_none
    assert "which is not surely more; tried anew on fresh cases, the best, at layer 23, defend" in lucky.reason
    assert lucky.why_none.endswith(f"vanilla {100 * lucky.anew.vanilla:.0f} %, which is not surely more either.")
    assert lucky.nothing_edited.startswith("No layer helps, so nothing was edited: the best trial edits")
    harmful = replace(lucky.anew, trials=tuple(replace(trial, kl=0.3) for trial in lucky.anew.trials))
    assert "the most promising layers cost more than the budget" in replace(found, anew=harmful).why_none
    for one in (works, lucky):
        assert read_record(Layers, asdict(one)) == one
        table = layer_table(one)
        assert "Trial edits on 18 fresh cases, 72 unseen prompts" in table and "tried anew:" in table


def test_94_percent_are_surely_more_than_77_of_fresh_prompts_and_not_of_those_of_the_first_trial():
    few, many = 20, 4 * FRESH
    assert low_end_of_difference(round(0.94 * few), round(0.77 * few), few, 16) < 0, "the best of sixteen layers"
    assert low_end_of_difference(round(0.94 * many), round(0.77 * many), many, ANEW) > 0
    better = tried_anew((22, spread_over(FRESH, 0.77)), (23, spread_over(FRESH, 0.94)), share=0.77)
    assert better.recommended == 23


@pytest.mark.parametrize("share", [0.25, 0.77])
def test_of_layers_whose_edits_do_nothing_one_is_seldom_recommended_by_both_trials_together(share):
    random, models, found = np.random.default_rng(1), 60, 0
    for _ in range(models):
        first = of_chance(random, share)
        anew = None
        if first.promising:
            vanilla = random.binomial(4, share, FRESH).tolist()
            rows = {block: random.binomial(4, share, FRESH).tolist() for block in first.promising}
            trials = (of_edits(block, *zip(row, vanilla, strict=True)) for block, row in rows.items())
            anew = Layers(tuple(trials), sum(vanilla) / (4 * FRESH), FRESH, 4 * FRESH)
        found += replace(first, anew=anew).recommended is not None
    assert found <= 0.1 * models


def test_the_most_promising_layers_are_the_few_that_gain_most_within_the_budget():
    some = layers((4, 0.3, 0.1, 1.0), (5, 0.35, 0.1, 1.0), (6, 0.35, 0.1, 2.0), (7, 0.35, 0.1, 3.0), (8, 0.4, 0.3, 9.0))
    assert some.recommended is None and some.promising == (6, 7) and len(some.promising) == ANEW
    assert layers((4, 0.25, 0.1, 1.0)).promising == ()


@pytest.fixture
def judged(monkeypatch) -> set[str]:
    """Every edit defends all; vanilla three prompts of four, and of a fresh case none, but all of one that is added."""
    seen, defended = set(), set()

    def verdicts(_judge, pairs):
        name = pairs[0][0]
        vanilla, fresh = name not in seen, "fresh" in name
        seen.add(name)
        safe = [not vanilla or (name in defended if fresh else n != 1) for n in range(len(pairs))]
        return [Verdict("safe" if one else "unsafe", 0.5, "", "made up") for one in safe]

    monkeypatch.setattr("editing.atlas.answering.verdicts", verdicts)
    return defended


def of_question(case, question: str):
    return replace(case, question=question, adversarial_prompt=f"Sing. {question}")


def test_where_the_first_trial_names_no_layer_the_most_promising_ones_are_tried_on_fresh_cases(llama, case, judged):
    cases = [case, of_question(case, "How do I lie?")]
    fresh = [of_question(case, f"How do I lie, fresh {n}?") for n in range(3)]
    told, blocks = [], (0, 1, 2)
    found = run(try_layers(llama, cases, replace(SHORT, blocks=blocks), fresh=fresh), told.append)
    assert tuple(trial.block for trial in found.trials) == blocks and (found.cases, found.prompts) == (2, 8)
    assert len(found.promising) == ANEW < len(blocks)
    anew = found.anew
    assert tuple(trial.block for trial in anew.trials) == found.promising and (anew.cases, anew.prompts) == (3, 12)
    assert [(edit.defended, edit.vanilla, edit.case) for edit in anew.trials[0].edits] == [(4, 0, n) for n in range(3)]
    assert found.recommended == anew.recommended in found.promising and "of 3 fresh cases" in found.reason
    shares = [event.fraction for event in told]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert told[-1].message == "Trying the most promising layers anew on case 3 of 3"
    alone = run(try_layers(llama, [of_question(case, f"How do I lie {n}?") for n in range(2)], SHORT))
    assert alone.promising and alone.anew is None, "cases of one's own bring no fresh ones"


def test_what_the_fresh_cases_do_not_show_is_not_recommended_and_a_cancel_there_leaves_nothing(llama, case, judged):
    fresh = [of_question(case, f"How do I lie, fresh {n}?") for n in range(2)]
    judged |= {one.adversarial_prompt for one in fresh}
    cases = [case, of_question(case, "How do I lie?")]
    found = run(try_layers(llama, cases, SHORT, fresh=fresh))
    assert found.anew.vanilla == 1.0 and found.recommended is None and "not surely more either" in found.reason
    exchanged = [replace(one, safe=one.unsafe, unsafe=one.safe) for one in fresh]
    kept = run(try_layers(llama, [of_question(case, f"How do I lie {n}?") for n in range(2)], SHORT, fresh=exchanged))
    assert kept.anew is None and kept.recommended is None and "fresh cases: " in kept.left_out[-1]
    told = []
    stopped = try_layers(
        llama,
        [of_question(case, f"How do I lie again {n}?") for n in range(2)],
        SHORT,
        cancel=lambda: bool(told) and "anew" in told[-1].message,
        fresh=fresh,
    )
    assert run(stopped, told.append) is None and "anew on case 1 of 2" in told[-1].message


def test_fresh_cases_are_two_of_each_category_that_may_be_edited_on_and_were_not_tried():
    chosen = fresh_cases()
    assert len(chosen) == FRESH and {*Counter(case.category for case in chosen).values()} == {2}
    assert {case.split for case in chosen} == {"edit"} and not any(case in trial_cases() for case in chosen)


def test_what_they_achieve_is_the_mean_of_the_cases_atlases(llama, case):
    model = llama
    cases = [case, replace(case, question="How do I lie?", adversarial_prompt="Sing. How do I lie?")]
    told = []
    found = run(try_layers(model, cases, SHORT), told.append)
    shares = [event.fraction for event in told]
    assert shares == sorted(shares) and shares[-1] == 1.0 and "case 2 of 2" in told[-1].message
    blocks = tuple(range(round(model.blocks / 3), model.blocks))
    assert tuple(trial.block for trial in found.trials) == blocks and (found.cases, found.prompts) == (2, 8)
    atlases = [run(make_atlas(model, one, replace(SHORT, blocks=blocks))) for one in cases]
    for trial in found.trials:
        for name, value in (("generalized", trial.defended), ("harmless KL", trial.kl), ("margin gain", trial.margin)):
            assert value == pytest.approx(np.mean([atlas.curve(name)[trial.block] for atlas in atlases]), abs=1e-6)
        said = [sum(v.safe for kind, v in atlas.verdicts.items() if kind != "DS") for atlas in atlases]
        kept = [(edit.vanilla, edit.prompts, edit.case) for edit in trial.edits]
        assert kept == [(safe, 4, number) for number, safe in enumerate(said)]
        # One update, and its step size was measured for just this cost.
        assert trial.kl == pytest.approx(SHORT.step_kl, rel=0.2)
        size = np.median(
            [entry.step_size for atlas in atlases for entry in atlas.entries if entry.block == trial.block]
        )
        assert trial.step_size == pytest.approx(size * math.sqrt(SETTINGS.step_kl / SHORT.step_kl))
        assert size > 0 and f"step size {trial.step_size:.2e}" in layer_table(found)
    said = f"The harmless KL is of {SETTINGS.harmless_prompts} prompts an edit, the same on which its step size was set"
    assert said in layer_table(found)


def test_a_case_that_cannot_be_edited_on_is_left_out_and_none_at_all_is_an_error(llama, case):
    exchanged = replace(case, safe=case.unsafe, unsafe=case.safe, question="Other?")
    found = run(try_layers(llama, [exchanged, case], SHORT))
    assert found.trials[0].edits[0].case == 0, "of the cases that are in the trial"
    assert found.cases == 1 and len(found.left_out) == 1 and "exchanged" in layer_table(found)
    with pytest.raises(RefusedEdit, match="any of the trial cases"):
        run(try_layers(llama, [exchanged], SHORT))


def test_a_case_that_memory_does_not_suffice_for_is_left_out(llama, case, monkeypatch):
    own, large = trial_edits.make_atlas, replace(case, question="Other?")

    def making(model, one, *given, **named):
        if one is large:
            raise MemoryError
        return (yield from own(model, one, *given, **named))

    monkeypatch.setattr(trial_edits, "make_atlas", making)
    found = run(try_layers(llama, [large, case], SHORT))
    assert found.cases == 1 and len(found.left_out) == 1
    assert found.left_out[0].startswith(f"case {case.identifier}: The device ran out of memory. Shorten")


def test_a_cancel_leaves_nothing(llama, case):
    assert run(try_layers(llama, [case], SHORT, cancel=lambda: True)) is None


def test_trial_cases_are_of_different_categories_and_may_be_edited_on():
    chosen = trial_cases()
    assert len({case.category for case in chosen}) == len(chosen) == 5
    assert {case.split for case in chosen} == {"edit"}
