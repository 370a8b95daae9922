"""Which layer a calibrated model's page edits: the recommended, the toxic, one picked by hand, or none."""

from __future__ import annotations

from html import unescape

import pytest
import torch
from dashboard_helpers import BRIEF, Page, Visitor, assert_idle, seen, tiny_model
from example_helpers import open_page
from routing_helpers import ABOUT

from dashboard.edit_events import act, asked_for
from dashboard.kit.sessions.acting import Acting
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.operate.gating import Gated
from editing import preset
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate.turns import attempts
from editing.methods.dinm import ROUTED, to_be_routed
from inspector.errors import CaseError, PatchError
from inspector.model import Detector

pytestmark = pytest.mark.usefixtures("model", "without_a_reading_of_the_case", "any_pass_is_enough")


def test_locate_picks_the_layer_where_trial_edits_work_and_the_paper_s_presets_the_toxic_one(detecting, request):
    visitor = Visitor(detecting[0], request.node.name)
    visitor.do("on_locate", locate_preset="corrected")
    assert visitor.screen["block"] == 1
    assert "Trial edits work best at layer 1: 75 % defended" in seen(visitor.screen["locate_reading"])
    said = [note.text for note in visitor.screen["curve"].layout.annotations]
    assert any("recommended, picked" in text for text in said) and any("toxic layer" in text for text in said)
    visitor.do("on_locate", locate_preset="reference")
    assert visitor.screen["block"] == visitor.session.slot(LocatedCase).divergence.toxic_layer()


def test_operate_picks_the_layer_by_the_edit_s_preset_unless_a_person_has_picked_one(detecting, request):
    visitor = Visitor(detecting[0], request.node.name)
    visitor.session.slot(Acting).wish = "everywhere"

    def operated(preset_name: str) -> int:
        visitor.do("on_operate", **BRIEF, edit_preset=preset_name, loss_positions="aligned")
        block = visitor.session.live.result.block
        assert visitor.screen["block"] == block and visitor.session.live.patch.blocks == (block,)
        return block

    assert operated("corrected") == 1 and "is picked" not in visitor.screen["locate_reading"]
    toxic = visitor.session.slot(LocatedCase).divergence.toxic_layer()
    for name in ("paper", "reference"):
        assert operated(name) == toxic != 1, "whatever preset Locate has"
        said = unescape(visitor.screen["locate_reading"])
        assert f"Layer {toxic} is picked: the edit's preset {name} edits the toxic" in said
    visitor.do("on_hand", block=0)
    assert "Layer 0 is picked by hand" in visitor.screen["locate_reading"]
    assert operated(name) == operated("corrected") == 0 and "by hand" in visitor.reload().screen["locate_reading"]
    visitor.do("on_pick", block=2)
    assert "by hand" not in visitor.screen["locate_reading"], "another layer came there from elsewhere"
    assert operated("corrected") == 1
    visitor.do("on_hand", block=0)
    visitor.do("on_locate")
    assert operated("corrected") == 1, "Locate picks anew"


def test_a_layer_that_is_chosen_once_stays_and_says_so(detecting, request):
    visitor = Visitor(detecting[0], request.node.name)
    visitor.do("on_locate", once=True)
    visitor.do("on_locate", locate_preset="reference")
    assert visitor.screen["block"] == 1 and "Layer 1 stays picked" in visitor.screen["locate_reading"]


@pytest.fixture(scope="module")
def helpless(example_folder) -> Page:
    """A page on a calibrated model whose trial edits helped at no layer."""
    layers = Layers((Trial(0, 0.25, 0.1, 1.0), Trial(1, 0.3, 0.1, 2.0)), 0.25, 5, 20)
    made = Detector((1,), torch.ones(1, 32), 0.0, 0.0, tiny_model().fingerprint, about=ABOUT)
    return open_page(example_folder, calibration=Calibration(layers, made))


NO_LAYER = "at layer 1, defend 30 % of 20 unseen prompts of 5 cases and vanilla 25 %"


@pytest.mark.parametrize("handler", ["on_edit", "on_operate"])
def test_where_no_layer_helps_corrected_edits_none_and_says_why(helpless, request, handler):
    visitor = Visitor(helpless, request.node.name)
    visitor.do("on_undo", max_new_tokens=2)
    visitor.do(handler, **BRIEF)
    assert visitor.session.live is None and visitor.session.slot(Gated).held is None
    assert "No layer helps, so nothing was edited" in visitor.screen["clock"] and NO_LAYER in visitor.screen["clock"]
    assert "Live is still: vanilla." in visitor.screen["clock"] and "paper or reference" in visitor.screen["clock"]
    visitor.do("on_edit_columns", **BRIEF)
    assert "No layer helps" in visitor.screen["why_clock"], "it is said where the button stands"
    visitor.do("on_locate")
    assert NO_LAYER in visitor.screen["locate_reading"] and "corrected edits none" in visitor.screen["locate_reading"]
    assert_idle(visitor)


@pytest.mark.parametrize("handler", ["on_edit", "on_operate"])
def test_where_no_layer_helps_one_that_is_picked_by_hand_is_edited(helpless, request, handler):
    visitor = Visitor(helpless, request.node.name)
    visitor.do("on_undo", max_new_tokens=2)
    visitor.do("on_hand", block=2)
    visitor.do(handler, **BRIEF)
    held = visitor.session.slot(Gated).held
    made = visitor.session.live or held.edit
    assert made.result.block == 2 and made.result.settings.preset == "corrected"
    visitor.do("on_pick", block=0)
    visitor.do("on_edit", **BRIEF)
    assert "No layer helps, so nothing was edited" in visitor.screen["clock"], "nobody has picked this one"
    assert "pick it by hand" in visitor.screen["clock"]
    assert_idle(visitor)


def test_where_no_layer_helps_the_paper_s_presets_edit_the_toxic_layer_by_choice(helpless, request):
    visitor = Visitor(helpless, request.node.name)
    before = visitor.session.live
    visitor.do("on_operate", **BRIEF, edit_preset="reference", loss_positions="aligned")
    assert visitor.session.live is not before
    assert visitor.session.live.result.block == visitor.session.slot(LocatedCase).divergence.toxic_layer()


def test_programs_edit_the_layer_that_they_name_and_ask_for_a_place_in_the_same_words(helpless, visitor, request):
    context, session, given = helpless.context, Visitor(helpless, request.node.name).session, preset("corrected")
    named = asked_for(context, session, given, None)
    assert named == attempts(given, context.detector), "no layer helps, but the program has named one by hand"
    paper = preset("paper")
    for routed, wish in ((True, "where harm"), (False, "everywhere"), (None, "gate")):
        assert asked_for(context, session, paper, routed) == (paper,) and session.slot(Acting).wish == wish
    assert {name: getattr(to_be_routed(given), name) for name in ROUTED} == ROUTED
    with pytest.raises(CaseError, match=r"editing\.calibrate"):
        asked_for(visitor.page.context, visitor.session, given, True)
    act(context, session, 0.5, True)
    label = session.row.label()
    assert "strength 0.5" in label and "only where harm" in label
    act(context, session, None, None)
    assert session.row.label() == label
    with pytest.raises(PatchError, match="out of range"):
        act(context, session, 9.0, False)
    assert session.row.label() == label, "what is refused changes nothing"
