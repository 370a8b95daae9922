"""The suffix panel: suffix alone, weights alone and both, on the page and in a report."""

from __future__ import annotations

import gradio as gr
import pytest
import torch
from stress_helpers import suffix_study

from dashboard.kit.sharing.parts import Visit
from dashboard.steps.stress import run as stress
from dashboard.steps.stress import texts as stress_texts
from dashboard.steps.stress.report import parts
from dashboard.steps.stress.run import Examined
from editing.suffixes import SUFFIXES
from inspector.model import Detector


def test_the_suffix_panel_tells_suffix_alone_weights_alone_and_both(visitor, monkeypatch):
    monkeypatch.setattr(stress, "SUFFIX_SIZE", {"harmless": 2, "max_new_tokens": 3})
    assert "Not asked yet" in visitor.standing("study_reading")
    visitor.do("on_suffixes")
    study = visitor.session.slot(Examined).study
    assert len(study.conditions) == 6
    for words in ("neither", "the paper&#x27;s S alone", "weights alone", "both, the paper&#x27;s S"):
        assert words in visitor.screen["study"], words
    assert "by the edited weights alone" in visitor.screen["study_reading"]
    assert "other weights" not in visitor.screen["study_reading"]
    visitor.do("on_undo")
    assert "made of other weights" in visitor.screen["study_reading"]
    assert visitor.screen["suffixes"] == "No edit to ask with each suffix"
    with pytest.raises(gr.Error, match="no weights to compare"):
        visitor.do("on_suffixes")
    assert visitor.is_free


def test_page_and_report_say_that_a_routed_edit_s_weights_act_on_every_prompt_in_the_suffix_panel(visitor, model):
    session, kept = visitor.session, visitor.session.slot(Examined)
    kept.study, kept.studied = suffix_study(), session.weights.label()
    for detector in (None, Detector((1,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint)):
        session.detector = detector
        page, (part,) = visitor.reload(), parts(Visit(session))
        for said in (page.standing("study") + page.standing("study_reading"), "".join(part.readings)):
            rows = said.count("edited weights on every prompt, suffix: "), said.count("vanilla weights, suffix: ")
            assert rows == (0 if detector is None else len(SUFFIXES), len(SUFFIXES))
            assert (stress_texts.SUFFIXES_EVERYWHERE in said) is (
                detector is not None
            ) and "other weights: " not in said
    kept.study = None
    assert stress_texts.SUFFIXES_EVERYWHERE in visitor.reload().standing("study_reading"), "before it is asked, too"
