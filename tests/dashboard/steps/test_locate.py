"""Locate: what it shows of the case, and when that is out of date."""

from __future__ import annotations

from dataclasses import replace

import gradio as gr
import numpy as np
import pytest

from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.locate.texts import NO_PROMPT
from inspector.divergence import DISTANCES, PRESETS, divergence
from inspector.model import PromptFormat

STALE = "The texts have changed since this was measured. Press Locate"

pytestmark = pytest.mark.usefixtures("model")


def test_the_example_s_own_measurement_is_not_called_stale(visitor):
    visitor.do("on_texts")
    assert STALE not in visitor.standing("locate_reading")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"question": " "}, NO_PROMPT),
        ({"template": "No slot."}, NO_PROMPT),
        ({"question": "word " * 20_000}, STALE),
    ],
    ids=["no question", "no slot", "too long"],
)
def test_texts_that_make_no_prompt_leave_no_reading_as_current_also_after_a_reload(visitor, typed, said):
    before = {name: visitor.standing(name) for name in typed}
    visitor.do("on_texts", **typed)
    assert said in visitor.screen["locate_reading"] and "Press Locate" not in NO_PROMPT
    again = visitor.reload()
    again.screen.update(typed)
    again.do("on_texts")
    assert said in again.screen["locate_reading"]
    again.do("on_texts", **before)
    assert "warn" not in again.screen["locate_reading"]


@pytest.mark.parametrize("name", ["question", "template", "suffix", "safe", "unsafe"])
def test_a_changed_text_makes_locate_stale_until_it_is_pressed(visitor, name):
    visitor.do("on_texts", **{name: visitor.standing(name) + " More."})
    assert STALE in visitor.screen["locate_reading"]
    visitor.do("on_keep_answers")
    visitor.do("on_locate")
    assert STALE not in visitor.screen["locate_reading"]
    visitor.do("on_texts")
    assert STALE not in visitor.screen["locate_reading"]


def test_a_text_that_is_changed_back_is_not_stale(visitor):
    before = visitor.standing("safe")
    visitor.do("on_texts", safe="Other.")
    visitor.do("on_texts", safe=before)
    assert STALE not in visitor.screen["locate_reading"]


@pytest.mark.parametrize("name", PRESETS)
def test_locate_shows_the_divergence_of_what_is_typed_and_picks_its_toxic_layer(visitor, model, name):
    typed = {"question": "How do I cheat at cards?", "safe": "No, I will not.", "unsafe": "Mark the aces."}
    visitor.do("on_locate", **typed, locate_preset=name, padding="left")
    case = visitor.session.case
    assert (case.question, case.safe, case.unsafe) == tuple(typed.values())
    expected = divergence(model, case, name, padding="left", format=PromptFormat(visitor.standing("suffix")))
    assert np.allclose(visitor.screen["curve"].data[0].y, expected.l2)
    assert visitor.screen["block"] == int(np.argmax(expected.l2))
    assert f"layer {np.argmax(expected.l2)} of 0-2" in visitor.screen["locate_reading"]
    assert np.allclose(visitor.screen["heatmap"].data[0].z, expected.token_relative)


def test_another_distance_redraws_the_same_measurement(visitor):
    measured = visitor.session.slot(LocatedCase).divergence
    for distance in DISTANCES:
        visitor.do("on_distance", distance=distance)
        assert np.allclose(visitor.screen["curve"].data[0].y, measured.by(distance))
        assert visitor.screen["block"] == measured.toxic_layer(distance)
    assert visitor.session.slot(LocatedCase).divergence is measured


def test_another_distance_keeps_a_layer_that_was_picked_by_hand(visitor):
    other = (visitor.session.slot(LocatedCase).divergence.toxic_layer("cosine") + 1) % 3
    visitor.do("on_hand", block=other)
    visitor.do("on_distance", distance="cosine")
    kept = visitor.session.slot(LocatedCase)
    assert visitor.screen["block"] == other == kept.by_hand == kept.picked
    assert f"Layer {other} is picked by hand" in visitor.screen["locate_reading"]
    assert any("picked" in note.text for note in visitor.screen["curve"].layout.annotations)
    visitor.do("on_locate")
    assert visitor.screen["block"] == kept.divergence.toxic_layer("cosine") and kept.by_hand is None


def test_another_distance_changes_nothing_where_nothing_is_measured_and_hides_nothing_that_is_out_of_date(visitor):
    visitor.do("on_texts", safe="Other.")
    visitor.do("on_distance", distance="cosine")
    assert STALE in visitor.screen["locate_reading"]
    visitor.session.slot(LocatedCase).divergence = None
    assert visitor.do("on_distance", distance="l2") == [set()]


def test_a_layer_chosen_once_stays_for_later_cases(visitor):
    first = visitor.session.slot(LocatedCase).divergence.toxic_layer()
    visitor.do("on_distance", once=True)
    visitor.session.slot(LocatedCase).divergence = replace(
        visitor.session.slot(LocatedCase).divergence, l2=np.roll(visitor.session.slot(LocatedCase).divergence.l2, 1)
    )
    visitor.do("on_distance")
    assert visitor.screen["block"] == first != visitor.session.slot(LocatedCase).divergence.toxic_layer()
    visitor.do("on_distance", once=False)
    assert visitor.screen["block"] == visitor.session.slot(LocatedCase).divergence.toxic_layer()


def test_equal_answers_are_refused_and_the_last_divergence_stays(visitor):
    before = visitor.session.slot(LocatedCase).divergence
    with pytest.raises(gr.Error, match="same text"):
        visitor.do("on_locate", unsafe=visitor.standing("safe"))
    assert visitor.session.slot(LocatedCase).divergence is before and visitor.is_free


def test_a_picked_layer_is_marked_and_one_out_of_range_refused(visitor):
    toxic = visitor.session.slot(LocatedCase).divergence.toxic_layer()
    other = (toxic + 1) % 3
    visitor.do("on_pick", block=other)
    assert f"<b>{other}</b> picked" in [note.text for note in visitor.screen["curve"].layout.annotations]
    for block in (3, 99, -1):
        with pytest.raises(gr.Error, match=r"blocks 0 to 2. Pick one of those"):
            visitor.do("on_pick", block=block)
    drawn = visitor.screen["curve"]
    visitor.do("on_pick", block=None)
    assert visitor.screen["curve"] is drawn, "an emptied field changes nothing"
