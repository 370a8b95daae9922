"""Scores with their 95 % intervals, and what those take as belonging together.

Answers that one edit gave share its luck, and one prompt asked of many edits is hard or easy for all of them. So where
there are several edits, their answers are resampled in clusters: edits are drawn with replacement, and so are, by
themselves, the prompts that more than one edit was asked (the pigeonhole bootstrap of Owen 2007, Annals of Applied
Statistics 1:386, a little too wide rather than too narrow). Where answers stand alone, percentages have Wilson's
interval and means Student's.

Intervals of clusters take Student's quantile for the fewer of both kinds (Cameron, Gelbach and Miller 2011, Journal of
Business & Economic Statistics 29:238). Clusters that carry unlike much count as fewer: as many as equal ones that would
tell as much of their variance (:func:`_effective`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

RESAMPLES, SEED = 2000, 0
"""Number of resamples of a bootstrap, and the seed that they are drawn with."""
_NORMAL = 1.959963984540054
"""97.5 % of a standard normal distribution lie below it."""
_ONE_SIDED = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True)
class Estimate:
    """A score with its uncertainty.

    Attributes:
        value: The score; ``None`` without observations.
        n: Number of observations.
        low: Lower end of the 95 % interval, in the score's unit; ``None`` where there is none (a mean of one
            observation, a forced value).
        high: Upper end.
        resampled: The clusters that the interval was resampled from, with their number: ``18 edits`` or ``18 edits, 60
            prompts``, of which those that carry little count for little; empty where it takes observations as
            independent.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    resampled: str = ""


def percentage(hits: int, n: int) -> Estimate:
    """Return a percentage of independent observations with Wilson's 95 % interval (as scipy's ``binomtest`` has it).

    Args:
        hits: How many of the observations count, 0 to ``n``.
        n: Number of observations.
    """
    if n == 0:
        return Estimate(None, 0)
    low, high = _wilson(hits / n, n)
    # The limits that are exact in the formula are so in the number as well.
    return Estimate(100 * (hits / n), n, 100 * low if hits else 0.0, 100 * high if hits < n else 100.0)


def mean(values: Sequence[float], factor: float = 1.0, least: float = -math.inf, most: float = math.inf) -> Estimate:
    """Return a mean, times a factor, with Student's 95 % interval; of shares as percentages, within 0 and the factor.

    Args:
        values: Independent observations.
        factor: 100 for shares that are shown as percentages.
        least: What no value of this kind is below, in the result's unit: the interval's lower end is cut there.
        most: What none is above, likewise; 1 for shares that are shown as such, which values alone do not tell.
    """
    if not values:
        return Estimate(None, 0)
    data = factor * np.asarray(values, dtype=float)
    centre = float(data.mean())
    if len(data) == 1:
        return Estimate(centre, 1)
    # Of the standard distribution, then scaled: there is no interval for a scale of 0, equal values.
    error = float(data.std(ddof=1)) / math.sqrt(len(data))
    low, high = (centre + end * error for end in _student(len(data) - 1))
    if min(values) >= 0 and max(values) <= 1 < factor:
        low, high = max(0.0, low), min(factor, high)
    return Estimate(centre, len(data), max(low, least), min(high, most))


@lru_cache
def _student(freedom: float, level: float = 0.975) -> tuple[float, float]:
    """Return the 95 % interval of Student's standard distribution, or that of another share below its upper end.

    Of scipy the special functions alone: its statistics take half a second to import, at every start of the page.
    """
    from scipy.special import stdtrit

    high = float(stdtrit(freedom, level))
    return -high, high


def average(parts: Sequence[Estimate]) -> Estimate:
    """Return the plain mean of independent percentages; parts without observations are left out.

    Its 95 % interval is that of Zou and Donner (2008, "Construction of confidence limits about effect measures"):
    from the mean, the root of the squared distances of the parts' limits from their values, by their number, each way.
    """
    known = [part for part in parts if part.value is not None]
    if not known:
        return Estimate(None, 0)
    centre = sum(part.value or 0.0 for part in known) / len(known)
    below = math.sqrt(sum(((part.value or 0.0) - (part.low or 0.0)) ** 2 for part in known)) / len(known)
    above = math.sqrt(sum(((part.high or 0.0) - (part.value or 0.0)) ** 2 for part in known)) / len(known)
    return Estimate(centre, sum(part.n for part in known), max(0.0, centre - below), min(100.0, centre + above))


@dataclass(frozen=True)
class Observation:
    """One marked answer as a number, with what it belongs to.

    Attributes:
        value: The mark; for a percentage 0 to 1.
        edit: The edit that gave it.
        prompt: The prompt that it answers.
    """

    value: float
    edit: Hashable
    prompt: Hashable


def clustered_percentage(parts: Sequence[Sequence[Observation]]) -> Estimate:
    """Return a percentage of answers, or the plain mean of several, with an interval that respects clusters.

    The interval is Wilson's for as many independent answers as would spread like the resampled ones (Korn and Graubard
    1998), so that it neither leaves 0 to 100 nor vanishes at either end. It takes Student's quantile for the effective
    number of clusters. Where all marks are equal nothing can be learnt of how they go together: each of these clusters
    counts once.

    Args:
        parts: The observations of each percentage, 0 or 1 each; those without observations are left out.
    """
    known = [part for part in parts if part]
    if not known:
        return Estimate(None, 0)
    clusters = _Clusters(known)
    if len(known) == 1 and clusters.alone:
        return percentage(round(sum(observation.value for observation in known[0])), len(known[0]))
    share, n = _centre(known), sum(map(len, known))
    spread = clusters.means(known)
    variance = float(np.var(spread, ddof=1)) if len(spread) > 1 else 0.0
    if clusters.count < 2:
        return Estimate(100 * share, n)
    effective = clusters.count
    if variance > 1e-12:
        effective = min(n, share * (1 - share) / variance) * (_NORMAL / _student(clusters.count - 1)[1]) ** 2
    low, high = _wilson(share, effective)
    return Estimate(100 * share, n, 100 * low, 100 * high, clusters.told)


def clustered_mean(observations: Sequence[Observation], factor: float = 1.0) -> Estimate:
    """Return a mean, times a factor, with the percentile interval of resampled clusters.

    Resamples of few clusters spread too little, as do their percentiles: each limit is moved from the mean by Student's
    quantile for the effective number of clusters over the normal one, as percentages are. Where no observation is
    negative the interval does not reach below zero, as that of a KL, and of shares not above the factor.

    Args:
        observations: Their values of any size.
        factor: 100 for shares that are shown as percentages.
    """
    if not observations:
        return Estimate(None, 0)
    centre = factor * _centre([observations])
    clusters = _Clusters([observations])
    if clusters.count < 2 or not math.isfinite(centre):  # what is not a number has no interval
        return Estimate(centre, len(observations))
    found = np.percentile(factor * clusters.means([observations]), (2.5, 97.5))
    wider = _student(clusters.count - 1)[1] / _NORMAL
    low, high = (centre + wider * (float(limit) - centre) for limit in found)
    values = [observation.value for observation in observations]
    if min(values) >= 0:
        low = max(0.0, low)
        if max(values) <= 1 < factor:
            high = min(factor, high)
    # Resamples of equal values differ by rounding.
    return Estimate(centre, len(observations), min(low, centre), max(high, centre), clusters.told)


def low_ends(parts: np.ndarray) -> np.ndarray:
    """Return low ends of one-sided 95 % intervals of several sums that hold together, so that the best may be picked.

    The clusters are resampled for all sums at once, and of each resample the largest excess of any sum over its own
    value counts (the bootstrap's max statistic, Romano and Wolf 2005, Econometrica 73:1237): what the luckiest of as
    many sums that are nothing would show. Resamples of few clusters spread too little: the excess is stretched by
    Student's quantile for their number over the normal one.

    Args:
        parts: ``[sums, clusters]`` what each cluster adds to each sum.

    Returns:
        ``[sums]``; minus infinity where fewer than two clusters say nothing of how they differ.
    """
    totals, clusters = parts.sum(axis=1), parts.shape[1]
    if clusters < 2:
        return np.full(len(totals), -math.inf)
    excess = (_drawn(np.random.default_rng(SEED), clusters) @ parts.T - totals).max(axis=1)
    wider = _student(clusters - 1, 0.95)[1] / _ONE_SIDED
    return totals - wider * np.percentile(excess, 95)


def low_end_of_difference(hits: int, others: int, n: int, compared: int = 1) -> float:
    """Return the low end of the one-sided 95 % interval of a difference of two shares of independent observations.

    It is from -1 to 1, and Newcombe's (1998, Statistics in Medicine 17:873, method 10), from Wilson's limits.

    Args:
        hits: How many of ``n`` observations count.
        others: How many of as many others do.
        compared: Number of such differences of which the best is picked: Bonferroni's level.
    """
    normal = NormalDist().inv_cdf(1 - 0.05 / compared)
    share, other = hits / n, others / n
    below, above = share - _wilson(share, n, normal)[0], _wilson(other, n, normal)[1] - other
    return share - other - math.hypot(below, above)


def _centre(parts: Sequence[Sequence[Observation]]) -> float:
    return float(np.mean([np.mean([observation.value for observation in part]) for part in parts]))


def _wilson(share: float, n: float, normal: float = _NORMAL) -> tuple[float, float]:
    """Return Wilson's limits of a share for a number of observations that need not be whole, as scipy's must."""
    square = normal**2 / n
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def _effective(carried: Sequence[float]) -> float:
    """Return as how many equal clusters unlike ones count: from 2, as a variance takes two, to their number.

    A cluster of share w adds w^2 to a mean's variance where all its observations are alike, and the sum of these is
    known as well as one of (sum of w^2)^2 / (sum of w^4) equal parts (Satterthwaite 1946, Biometrics Bulletin 2:110).
    Carter, Schnepel and Steigerwald (2017, Review of Economics and Statistics 99:698) call it the effective number of
    clusters. Where observations are less alike it is rather too few.

    Args:
        carried: The share of the mean that is each cluster's.
    """
    squares = np.square(carried)
    return max(2.0, float(squares.sum() ** 2 / np.square(squares).sum()))


class _Clusters:
    """Edits and prompts as clusters, and how often each is drawn in every resample.

    Several edits are resampled, with the prompts that more than one of them was asked; of a single edit, its prompts.
    """

    def __init__(self, parts: Sequence[Sequence[Observation]]) -> None:
        observations = [observation for part in parts for observation in part]
        asked: dict[Hashable, set[Hashable]] = {}
        for observation in observations:
            asked.setdefault(observation.prompt, set()).add(observation.edit)
        edits = dict.fromkeys(observation.edit for observation in observations)
        self.edits = {edit: place for place, edit in enumerate(edits)}
        several = len(self.edits) > 1
        chosen = [prompt for prompt, askers in asked.items() if len(askers) > 1 or not several]
        # Place 0 is for prompts that belong to their edit; they are drawn with it.
        self.prompts = {prompt: place for place, prompt in enumerate(chosen, start=1)}
        drawn = {"edits": len(self.edits), "prompts": len(chosen)}
        drawn = {name: size for name, size in drawn.items() if size > 1}
        # A prompt that one edit was asked is one more, of one answer: where few are shared they decide little.
        carried: dict[str, dict[Hashable, float]] = {"edits": {}, "prompts": {}}
        for part in parts:
            for observation in part:
                for name, cluster in (("edits", observation.edit), ("prompts", observation.prompt)):
                    carried[name][cluster] = carried[name].get(cluster, 0.0) + 1 / len(part)
        self.count = min((_effective([*carried[name].values()]) for name in drawn), default=1.0)
        self.alone = len(drawn) < 2 and len(observations) == (len(self.edits) if several else len(chosen))
        self.told = ", ".join(f"{size} {name}" for name, size in drawn.items())

    def means(self, parts: Sequence[Sequence[Observation]]) -> np.ndarray:
        """Return the mean of the parts' means in each resample; resamples that draw nothing of a part leave it out."""
        edits, prompts = _drawn_of(len(self.edits), len(self.prompts))
        found = []
        for part in parts:
            sums = np.zeros((len(self.edits), len(self.prompts) + 1))
            counts = np.zeros_like(sums)
            for observation in part:
                cell = self.edits[observation.edit], self.prompts.get(observation.prompt, 0)
                sums[cell] += observation.value
                counts[cell] += 1
            total, n = (((edits @ table) * prompts).sum(axis=1) for table in (sums, counts))
            found.append(np.divide(total, n, out=np.full(RESAMPLES, np.nan), where=n > 0))
        kept = np.array(found)
        kept = kept[:, ~np.isnan(kept).all(axis=0)]
        return np.nanmean(kept, axis=0)


@lru_cache(maxsize=4)
def _drawn_of(edits: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each edit, and each prompt after a one for those of its edit, is drawn in every resample.

    The scores of a table ask the same of the same clusters, one after the other.
    """
    random = np.random.default_rng(SEED)
    return _drawn(random, edits), np.concatenate([np.ones((RESAMPLES, 1)), _drawn(random, prompts)], axis=1)


def _drawn(random: np.random.Generator, clusters: int) -> np.ndarray:
    """Return ``[resamples, clusters]`` how often each is drawn; a single one always once."""
    if clusters < 2:
        return np.ones((RESAMPLES, clusters))
    return random.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES).astype(float)
