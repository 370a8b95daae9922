"""A visit without measurements, and a made-up study of the suffix, for tests of the ten questions."""

from __future__ import annotations

import itertools

from dashboard.kit.sessions.session import Session
from dashboard.steps.questions.panel import Held
from editing.suffixes import SCORES, SUFFIXES, Condition, SuffixStudy
from inspector.safeedit.intervals import Estimate

NOBODY = Held(Session(), lambda name: None)


def study() -> SuffixStudy:
    """A made-up study of two edits, each of its numbers another one."""
    conditions = []
    for edited, (place, suffix) in itertools.product((False, True), enumerate(SUFFIXES)):
        first = 50 * edited + 10 * place
        scores = {name: Estimate(first + n, 8, first, first + n + 5) for n, name in enumerate(SCORES)}
        conditions.append(Condition(suffix, edited, scores | {"over-refusal": Estimate(None, 0)}))
    return SuffixStudy(tuple(conditions), SUFFIXES, 2, {})
