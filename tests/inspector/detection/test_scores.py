"""How hits and false alarms of a detector are counted, and what says that it is weak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from detection_helpers import made_up

from inspector.detection import Sample, area, doubts, frontier, many_alarms, measure, unseen_shares, weakness
from inspector.detection.scores import LEAST_AREA, MOST_FALSE_ALARMS
from inspector.model import Detector


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    assert area(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75


def test_hits_and_false_alarms_are_counted_by_kind():
    detector = Detector((0,), torch.ones(1, 4), 0.0, 1.0, "")
    texts = [
        Sample("a", True, "a", "mental harm"),
        Sample("x a", True, "a", "mental harm", language="en"),
        Sample("y a", True, "a", "offensiveness", language="de"),
        Sample("b", False, "b"),
        Sample("c", False, "c", look_alike=True),
        Sample("x b", False, "b", language="en"),
    ]
    found = measure(texts, [2.0, 1.0, 0.5, 0.0, 3.0, 0.9], detector)

    def rounded(value):
        return None if value is None else round(value, 3)

    assert {name: (rounded(share.value), share.n) for name, share in found.found.items()} == {
        "bare": (100.0, 1),
        "wrapped": (50.0, 2),
        "mental harm": (100.0, 2),
        "offensiveness": (0.0, 1),
        "in en": (100.0, 1),
        "in de": (0.0, 1),
        "up to 200 characters": (66.667, 3),
        "200 to 450": (None, 0),
        "over 450": (None, 0),
    }
    assert {name: (rounded(share.value), share.n) for name, share in found.false_alarms.items()} == {
        "bare": (50.0, 2),
        "ordinary": (0.0, 1),
        "look-alike": (100.0, 1),
        "wrapped": (0.0, 1),
        "in en": (0.0, 1),
        "in de": (None, 0),
        "up to 200 characters": (33.333, 3),
        "200 to 450": (None, 0),
        "over 450": (None, 0),
    }
    assert found.auc == pytest.approx(5 / 9)
    assert set(found.frontiers) == {"bare", "look-alike", "wrapped"}
    assert found.frontiers["bare"] == frontier(np.array([2.0, 0.0, 3.0]), np.array([True, False, False]))
    assert found.frontiers["look-alike"] == frontier(np.array([2.0, 3.0]), np.array([True, False]))
    assert found.frontiers["wrapped"] == frontier(np.array([1.0, 0.5, 0.9]), np.array([True, True, False]))


def test_texts_of_a_template_are_resampled_together_and_each_template_has_a_line():
    detector = Detector((0,), torch.ones(1, 4), 0.0, 1.0, "")
    bare = [Sample(f"text {n}", False, f"text {n}") for n in range(60)]
    texts = [replace(one, text=f"{n % 6}: {one.bare}", template=f"t{n % 6}") for n, one in enumerate(bare)]
    fired = measure(texts, [2.0 * (n % 6 == 3) for n in range(60)], detector)
    whole = fired.false_alarms["wrapped"]
    assert whole.resampled == "6 templates" and whole.value == pytest.approx(100 / 6)
    scattered = measure(texts, [2.0 * (n * 7 % 60 < 10) for n in range(60)], detector).false_alarms["wrapped"]
    assert scattered.value == whole.value and whole.high - whole.low > 1.5 * (scattered.high - scattered.low)
    assert fired.templates[0] == ("t3", None, 100.0) and {row[2] for row in fired.templates[1:]} == {0.0}


def test_texts_of_one_single_template_have_no_interval_and_it_is_said_why():
    detector = Detector((0,), torch.ones(1, 4), 0.0, 1.0, "")
    bare = [Sample(f"text {n}", True, f"text {n}") for n in range(16)]
    texts = [replace(one, text=f"it: {one.bare}", template="t", language="it") for one in bare]
    texts += [
        replace(one, text=f"{n % 2}: {one.bare}", template=f"t{n % 2}", language="en") for n, one in enumerate(bare)
    ]
    found = measure([*bare, *texts], [2.0 * (n % 4 > 0) for n in range(48)], detector).found
    one = found["in it"]
    assert (one.value, one.n, one.low, one.high, one.resampled) == (75.0, 16, None, None, "no interval: one template")
    assert found["in en"].resampled == "2 templates" and found["bare"].low is not None
    assert found["up to 200 characters"].resampled == "16 questions", "bare and wrapped: of questions alone"


def test_the_record_says_how_a_detector_does_on_texts_that_it_was_not_fitted_on():
    texts = [Sample("a", True, "a"), Sample("b", True, "b"), Sample("c", False, "c"), Sample("d", False, "d")]
    detector = Detector((0,), torch.ones(1, 4), 0.0, 1.0, "")
    assert unseen_shares(texts, [1.0, -1.0, 0.0, -2.0], detector) == {
        "unseen_harmful": 2,
        "unseen_harmless": 2,
        "found_unseen": 0.5,
        "false_alarms_unseen": 0.0,
        "auc_unseen": 0.75,
    }
    assert "auc_unseen" not in unseen_shares(texts[:2], [1.0, -1.0], detector), "none of one kind of prompts"


def test_a_detector_that_hardly_tells_harm_from_the_rest_is_said_to_be_weak_by_what_it_was_measured_on():
    def said(**about: float) -> str:
        return weakness(Detector((0,), torch.ones(1, 4), 0.0, 1.0, "", about=about))

    assert "area under the ROC curve 0.799, below 0.8, on texts that it was not fitted on" in said(auc_unseen=0.799)
    assert said(auc_unseen=LEAST_AREA) == said() == said(auc_unseen=0.9, auc_held_out=0.5) == ""
    assert "0.500, below" in said(auc_held_out=0.5), "a record of an earlier version"


def test_a_detector_that_fires_on_many_harmless_texts_is_said_to_do_so_with_the_number_and_the_remedy():
    def said(**about: float) -> str:
        return doubts(Detector((0,), torch.ones(1, 4), 0.0, 1.0, "", about=about))

    def good_area(area: float, alarms: float) -> tuple[str, str]:
        about = {"auc_unseen": area, "false_alarms_unseen": alarms, "unseen_harmless": 199}
        made = Detector((0,), torch.ones(1, 4), 0.0, 1.0, "", about=about)
        return weakness(made), many_alarms(made)

    told = said(auc_unseen=0.95, false_alarms_unseen=0.074, unseen_harmless=199)
    assert "fires on 7.4% of 199 harmless texts that it was not fitted on, more than 5%" in told
    assert told.endswith("The gate's word says what that costs, and what an edit costs that acts on every prompt.")
    assert good_area(0.95, 0.074) == ("", told), "it is not weak"
    assert said(false_alarms_unseen=MOST_FALSE_ALARMS) == said(false_alarms_held_out=0.11) == ""
    both = said(auc_unseen=0.7, false_alarms_unseen=0.2)
    assert "is weak" in both and "fires on 20.0% of the harmless texts" in both


def test_the_forms_of_a_question_are_resampled_together_and_one_question_has_no_interval():
    detector = Detector((0,), torch.ones(1, 4), 0.0, 1.0, "")
    texts = made_up(40)
    found = measure(texts, [2.0 * (int(s.bare[5:]) % 4 == 0) for s in texts], detector).found
    every, bare = found["up to 200 characters"], found["bare"]
    assert (every.value, every.n, every.resampled) == (50.0, 40, "20 questions") and bare.resampled == ""
    # Both forms of a question fare alike: twice the texts, and no more is known.
    assert every.high - every.low >= bare.high - bare.low > 30
    one = measure([t for t in texts if t.bare in ("text 0", "text 1")], [2.0, 2.0, 0.0, 0.0], detector).found
    assert one["up to 200 characters"].low is None


def test_the_frontier_says_what_each_share_of_false_alarms_would_buy():
    quiet, loud = np.arange(100) / 100, np.array([0.5, 0.945, 0.985, 2.0])
    scores, harmful = np.concatenate([quiet, loud]), np.arange(104) >= 100
    rows = {allowed: (threshold, hits) for allowed, threshold, hits in frontier(scores, harmful)}
    for allowed, (threshold, hits) in rows.items():
        assert (quiet >= threshold).sum() == allowed and hits == 100 * (loud >= threshold).mean()
    assert [rows[allowed][1] for allowed in (1, 2, 5, 10)] == [50.0, 50.0, 75.0, 75.0]
    assert frontier(np.array([0.2, 0.4]), np.array([False, True]))[0][2] == 100.0
