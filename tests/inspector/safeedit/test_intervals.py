"""Intervals of answers that belong together, against what is known by hand and against simulated edits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, t

from inspector.safeedit import intervals
from inspector.safeedit.intervals import (
    Observation,
    clustered_mean,
    clustered_percentage,
    low_end_of_difference,
    low_ends,
    mean,
    percentage,
)


def grid(values: np.ndarray, own: bool) -> list[Observation]:
    """Return marks ``[edits, prompts]``; each edit's prompts are its own, or the same for all."""
    return [
        Observation(float(value), edit, (edit, prompt) if own else prompt)
        for edit, row in enumerate(values)
        for prompt, value in enumerate(row)
    ]


def test_an_edit_whose_answers_are_all_alike_counts_as_one_answer():
    """Six edits, ten equal answers each: the resampled variance is 0.25 / 6, as of six answers, with t of five."""
    marks = np.repeat([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0]], 10, axis=1)
    found = clustered_percentage([grid(marks, own=True)])
    effective = 6 * (1.959964 / 2.570582) ** 2
    square = 1.959964**2 / effective
    half = math.sqrt(0.25 * square + square**2 / 4) / (1 + square)
    assert (found.value, found.n, found.resampled) == (50.0, 60, "6 edits")
    assert found.low == pytest.approx(50 - 100 * half, abs=1.5) and found.high == pytest.approx(
        50 + 100 * half, abs=1.5
    )


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 40), (3, 8), (17, 40), (40, 40), (812, 1000)])
def test_wilson_s_interval_of_a_whole_number_of_samples_is_scipy_s(hits, n):
    whole = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert intervals._wilson(hits / n, n) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_answers_that_stand_alone_have_wilson_s_interval():
    assert clustered_percentage([[Observation(float(n < 3), n, n) for n in range(8)]]) == percentage(3, 8)
    assert clustered_percentage([[Observation(float(n < 3), "one", n) for n in range(8)]]) == percentage(3, 8)


@pytest.mark.parametrize("hits", [0, 1])
def test_where_all_marks_are_equal_each_cluster_counts_once(hits):
    found = clustered_percentage([grid(np.full((5, 40), float(hits)), own=True)])
    alone = percentage(5 * hits, 5)
    assert (found.value, found.low, found.high) == pytest.approx((alone.value, alone.low, alone.high))
    crossed = clustered_percentage([grid(np.full((50, 4), float(hits)), own=False)])
    assert crossed.resampled == "50 edits, 4 prompts"
    assert crossed.high == pytest.approx(percentage(4 * hits, 4).high)


def test_means_of_many_samples_stay_within_them_and_are_the_same_every_time():
    values = np.random.default_rng(5).exponential(0.01, (7, 12)) ** 2
    found = clustered_mean(grid(values, own=False))
    assert 0 <= values.min() <= found.low < found.value < found.high <= values.max()
    assert found == clustered_mean(grid(values, own=False)) and found.resampled == "7 edits, 12 prompts"
    assert clustered_mean(grid(values, own=False), 100.0).high == pytest.approx(100 * found.high)


def test_the_scores_of_the_same_clusters_share_their_resamples(monkeypatch):
    drawn, draw = [], intervals._drawn
    monkeypatch.setattr(intervals, "_drawn", lambda *given: (drawn.append(given[1]), draw(*given))[1])
    intervals._drawn_of.cache_clear()
    marks, values = (np.random.default_rng(seed).random((7, 12)) for seed in (1, 2))
    clustered_percentage([grid(marks > 0.5, own=False)])
    clustered_mean(grid(values, own=False))
    assert drawn == [7, 12]
    clustered_mean(grid(values[:6], own=False))
    assert drawn == [7, 12, 6, 12]


def test_nothing_and_single_answers():
    assert clustered_mean([]).value is None and clustered_percentage([[], []]).value is None
    assert clustered_mean([Observation(3.0, 0, 0)]) == mean([3.0])
    assert clustered_percentage([[Observation(1.0, 0, 0)]]) == percentage(1, 1)
    # Two edits and one prompt: only the edits can be resampled.
    assert clustered_mean([Observation(0.0, 0, "?"), Observation(1.0, 1, "?")]).resampled == "2 edits"


def test_a_mean_of_percentages_weighs_them_alike_and_leaves_out_empty_ones():
    many, few = [Observation(0.0, n % 4, n) for n in range(40)], [Observation(1.0, n, f"few {n}") for n in range(4)]
    found = clustered_percentage([many, few, []])
    assert found.value == 50.0 and found.n == 44 and found.low < 50 < found.high


def test_the_intervals_of_clusters_hold_the_truth_where_those_of_independent_answers_do_not():
    """Simulated: each of 18 edits defends with a chance of its own, 20 prompts each; the mean chance is 0.7."""
    random = np.random.default_rng(11)
    inside = {"clusters": 0, "independent": 0}
    for _ in range(150):
        chance = random.beta(1.4, 0.6, size=(18, 1))
        marks = (random.random((18, 20)) < chance).astype(float)
        clusters, independent = clustered_percentage([grid(marks, own=True)]), percentage(int(marks.sum()), 360)
        inside["clusters"] += clusters.low <= 70 <= clusters.high
        inside["independent"] += independent.low <= 70 <= independent.high
    assert inside["clusters"] >= 0.9 * 150 and inside["independent"] <= 0.7 * 150


def test_crossed_intervals_hold_the_truth_of_prompts_that_all_edits_share():
    """Simulated: 12 edits asked the same 30 prompts, each of which is hard or easy for all of them."""
    random = np.random.default_rng(12)
    inside = 0
    for _ in range(100):
        values = 1.0 + random.normal(0, 0.3, (12, 1)) + random.normal(0, 1.0, (1, 30)) + random.normal(0, 1, (12, 30))
        found = clustered_mean(grid(values, own=False))
        inside += found.low <= 1.0 <= found.high
    assert inside >= 88


def own_and_shared(marks: np.ndarray, shared: int, askers: int) -> list[Observation]:
    """Return marks ``[edits, prompts]`` of own prompts; the last ``shared`` prompts are asked of ``askers`` edits."""
    own = grid(marks[:, : marks.shape[1] - shared], own=True)
    asked = [((number * askers + turn) % len(marks), number) for number in range(shared) for turn in range(askers)]
    return own + [Observation(float(marks[edit, n - shared]), edit, f"shared {n}") for edit, n in asked]


def width(found: intervals.Estimate) -> float:
    return found.high - found.low


def test_a_few_answers_to_prompts_that_two_edits_share_leave_an_interval_as_it_is():
    """18 edits of six own prompts, with none, one, two and four prompts beside them that two edits were asked."""
    random = np.random.default_rng(2)
    marks = (random.random((18, 10)) < random.beta(1.2, 2.2, (18, 1))).astype(float)
    values = 0.02 + 0.002 * random.normal(size=(18, 10))
    for answers, interval in ((marks, lambda some: clustered_percentage([some])), (values, clustered_mean)):
        alone, *beside = (interval(own_and_shared(answers[:, : 6 + shared], shared, 2)) for shared in (0, 1, 2, 4))
        assert [found.resampled for found in beside] == ["18 edits", "18 edits, 2 prompts", "18 edits, 4 prompts"]
        for found in beside:
            assert width(found) == pytest.approx(width(alone), rel=0.12), found
    equal = [clustered_percentage([own_and_shared(np.ones((18, 8)), 2, askers)]) for askers in (2, 18)]
    assert equal[0].low == pytest.approx(percentage(18, 18).low, abs=0.5) and equal[1].low < 50


def test_prompts_count_for_less_the_more_of_the_answers_few_of_them_have():
    """All answers of 18 edits but six own ones each are to two prompts, which more and more edits are asked."""
    random = np.random.default_rng(3)
    marks = random.normal(size=(18, 8))
    counts = [intervals._Clusters([own_and_shared(marks, 2, askers)]).count for askers in range(2, 19)]
    assert counts[0] == pytest.approx(18, abs=0.5) and 2 < counts[-1] < 3
    steps = [before / after for before, after in itertools.pairwise(counts)]
    assert min(steps) > 0.99 and max(steps) < 1.5, "never more, and it does not jump"


@pytest.mark.parametrize(("edits", "prompts"), [(18, 11), (9, 16), (18, 60), (2, 5)])
def test_where_every_edit_is_asked_every_prompt_the_fewer_of_both_count(edits, prompts):
    parts = [grid(np.zeros((edits, prompts)), own=False)]
    assert intervals._Clusters(parts).count == pytest.approx(min(edits, prompts))
    beside = [Observation(0.0, edit, ("own", edit)) for edit in range(edits)]
    assert intervals._Clusters([[*parts[0], *beside]]).count == pytest.approx(min(edits, prompts), rel=0.1)


def test_clusters_that_carry_unlike_much_count_as_fewer_and_two_are_the_least():
    even = grid(np.zeros((6, 5)), own=True)
    most = [*even, *(Observation(0.0, 0, ("more", n)) for n in range(95))]
    assert intervals._Clusters([even]).count == pytest.approx(6) and intervals._Clusters([most]).count == 2
    uneven = [observation for observation in even if observation.edit > 1 or observation.prompt[1] < 3]
    shares = np.array([3, 3, 5, 5, 5, 5]) ** 2
    assert intervals._Clusters([uneven]).count == pytest.approx(shares.sum() ** 2 / (shares**2).sum())


@pytest.mark.parametrize(("own", "shared", "askers"), [(6, 2, 2), (6, 2, 18), (6, 4, 18), (0, 11, 18), (0, 4, 18)])
@pytest.mark.parametrize("of_edits", [0.0, 1.0])
def test_two_crossed_clusterings_hold_the_truth_whichever_decides(own, shared, askers, of_edits):
    """Simulated: answers of 18 edits depend on the prompt alone, or on the edit as much; the true mean is 0."""
    random = np.random.default_rng(17)
    design = own_and_shared(np.zeros((18, own + shared)), shared, askers)
    clusters = intervals._Clusters([design])
    drawn = np.array(
        [
            clusters.means([[*design[:at], replace(design[at], value=1.0), *design[at + 1 :]]])
            for at in range(len(design))
        ]
    )
    prompts = {one.prompt: place for place, one in enumerate(design)}
    wider = intervals._student(clusters.count - 1)[1] / 1.959964
    values = np.empty((400, len(design)))
    for row in values:
        edit, prompt = of_edits * random.normal(size=18), random.normal(size=len(design))
        row[:] = [edit[one.edit] + prompt[prompts[one.prompt]] for one in design]
        row += 0.5 * random.normal(size=len(design))
    centres = values.mean(axis=1)
    low, high = centres + wider * (np.percentile(values @ drawn, (2.5, 97.5), axis=1) - centres)
    assert np.mean((low <= 0) & (high >= 0)) >= 0.925


@pytest.mark.parametrize("edits", [2, 3])
def test_of_few_edits_the_interval_of_a_mean_is_more_than_the_range_of_their_means(edits):
    """Simulated KLs, skewed as such are: each edit has a mean of its own, 20 prompts each; the true mean is 0.05."""
    random, inside, means_hold = np.random.default_rng(13), 0, 0
    for _ in range(60):
        values = 0.05 * random.gamma(4, 1 / 4, (edits, 1)) * random.gamma(2, 1 / 2, (edits, 20))
        found, own = clustered_mean(grid(values, own=True)), values.mean(axis=1)
        assert 0 <= found.low <= own.min() and own.max() <= found.high
        inside += found.low <= 0.05 <= found.high
        means_hold += own.min() <= 0.05 <= own.max()
    assert inside >= 0.9 * 60 > means_hold, "what the percentiles alone hold"
    shares = clustered_mean(grid(np.array([[0.9] * 4, [1.0] * 4]), own=True), 100.0)
    assert 0 <= shares.low < 95 < shares.high == 100.0


def test_what_is_not_a_number_has_no_interval():
    found = clustered_mean([Observation(float("nan"), 0, 0), Observation(0.5, 1, 1), Observation(0.5, 2, 2)])
    assert np.isnan(found.value) and (found.n, found.low, found.high) == (3, None, None)


def test_percentages_and_means_have_scipy_s_own_intervals():
    for n in (1, 2, 5, 27, 100, 4321):
        for hits in {0, 1, n // 3, n - 1, n}:
            found, known = percentage(hits, n), binomtest(hits, n).proportion_ci(0.95, method="wilson")
            assert (found.low, found.high) == pytest.approx((100 * known.low, 100 * known.high), rel=1e-12, abs=1e-12)
    for n in (2, 3, 8, 30, 1000):
        values = np.linspace(-1.0, 2.0, n) ** 3
        low, high = t.interval(0.95, n - 1, values.mean(), values.std(ddof=1) / math.sqrt(n))
        found = mean(list(values))
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_the_low_end_of_one_sum_is_student_s_and_of_the_best_of_many_it_is_lower():
    parts = np.random.default_rng(3).normal(1.0, 2.0, (30, 40))
    error = parts[0].std() * math.sqrt(40)
    (alone,) = low_ends(parts[:1])
    assert alone == pytest.approx(parts[0].sum() - t(39).ppf(0.95) * error, abs=0.1 * error)
    together = low_ends(parts)
    assert together[0] < alone - 0.8 * error, "the largest of thirty lies two deviations up by itself"
    assert parts.sum(axis=1) - together == pytest.approx(np.full(30, parts[0].sum() - together[0])), "one for all"
    assert low_ends(parts[:2, :1]).tolist() == [-math.inf, -math.inf]


def test_low_ends_hold_for_the_best_of_many_sums_that_are_nothing():
    random = np.random.default_rng(4)
    above = sum(bool((low_ends(random.normal(size=(20, 6))) > 0).any()) for _ in range(200))
    assert above <= 0.08 * 200


def test_the_low_end_of_a_difference_is_newcombe_s():
    one, two = (binomtest(hits, 20).proportion_ci(0.90, method="wilson") for hits in (16, 5))
    assert low_end_of_difference(16, 5, 20) == pytest.approx(0.55 - math.hypot(0.8 - one.low, two.high - 0.25))
    one, two = (binomtest(hits, 20).proportion_ci(0.99, method="wilson") for hits in (16, 5))
    assert low_end_of_difference(16, 5, 20, 10) == pytest.approx(0.55 - math.hypot(0.8 - one.low, two.high - 0.25))
