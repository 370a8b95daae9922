"""Locate as a run of the page: what it locks, and what stays where it is cancelled or fails."""

from __future__ import annotations

import gradio as gr
import pytest
from dashboard_helpers import assert_idle, own_question

from dashboard.steps.locate import run as locating
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.locate.texts import CANCELLED, CHANGED, LOCATING

pytestmark = pytest.mark.usefixtures("model")


def test_locate_locks_what_cannot_run_beside_it_and_an_error_leaves_the_line_that_reads_the_curve(visitor):
    said = visitor.standing("locate_reading")
    run = visitor.press("on_locate")
    next(run)
    assert visitor.on == {**dict.fromkeys(visitor.on, False), "cancel": True}
    next(run)
    assert LOCATING in visitor.screen["locate_reading"]
    list(run)
    assert_idle(visitor)
    with pytest.raises(gr.Error, match="same text"):
        visitor.do("on_locate", unsafe=visitor.standing("safe"))
    assert CHANGED in visitor.screen["locate_reading"] and "same text" in visitor.screen["clock"]
    assert_idle(visitor)
    visitor.do("on_locate", unsafe=visitor.page.parts.unsafe.value)
    assert visitor.screen["locate_reading"] == said


@pytest.mark.parametrize("when", ["before it measures", "while it measures"])
def test_a_cancelled_locate_leaves_what_was_measured_before(visitor, monkeypatch, when):
    visitor.do("on_locate")
    before, case = visitor.session.slot(LocatedCase).divergence, visitor.session.case
    real = locating.measure

    def measure(*given):
        assert when == "while it measures"
        visitor.do("on_cancel")
        return real(*given)

    monkeypatch.setattr(locating, "measure", measure)
    run = visitor.press("on_locate", **own_question("How do I cheat at cards?"))
    next(run)
    if when == "before it measures":
        visitor.do("on_cancel")
    list(run)
    assert visitor.session.slot(LocatedCase).divergence is before and visitor.session.case is case
    assert CANCELLED in visitor.screen["clock"] and CHANGED in visitor.screen["locate_reading"]
    assert_idle(visitor)
