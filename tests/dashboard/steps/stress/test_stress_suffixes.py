"""The suffix panel: suffix alone, weights alone and both, on the page and in a report."""

from __future__ import annotations

from dataclasses import replace

import gradio as gr
import pytest
import torch

from dashboard.kit.sharing.parts import Visit
from dashboard.steps.stress import run as stress
from dashboard.steps.stress.report import parts
from dashboard.steps.stress.run import Examined
from editing.suffixes import SUFFIXES
from inspector.model import Detector


def test_the_suffix_panel_tells_suffix_alone_weights_alone_and_both(visitor, monkeypatch):
    monkeypatch.setattr(stress, "SUFFIX_SIZE", {"harmless": 2, "max_new_tokens": 3})
    assert "Not asked yet" in visitor.standing("study_reading")
    visitor.do("on_suffixes")
    study = visitor.session.slot(Examined).study
    assert len(study.conditions) == 8
    for words in ("neither", "the paper&#x27;s S alone", "weights alone", "both, the paper&#x27;s second"):
        assert words in visitor.screen["study"], words
    assert visitor.screen["study"].count("rounding alone") == 1
    assert "on the 2 harmless prompts" in visitor.screen["study"]
    of_rounded = study.of_rounded
    assert of_rounded["DS"].value is None and of_rounded["DL"].value is not None
    assert "by the edited weights alone" in visitor.screen["study_reading"]
    assert "other weights" not in visitor.screen["study_reading"]
    visitor.do("on_undo")
    assert "made of other weights" in visitor.screen["study_reading"]
    assert visitor.screen["suffixes"] == "No edit to ask with each suffix"
    with pytest.raises(gr.Error, match="no weights to compare"):
        visitor.do("on_suffixes")
    assert visitor.is_free


def test_a_routed_edit_is_asked_as_it_acts_and_page_and_report_say_which(visitor, model, monkeypatch):
    monkeypatch.setattr(stress, "SUFFIX_SIZE", {"harmless": 2, "max_new_tokens": 3})
    session, kept = visitor.session, visitor.session.slot(Examined)
    never = Detector((1,), torch.zeros(1, 32), 0.0, 1.0, model.fingerprint)
    for detector, acting in ((None, "on every prompt"), (never, "where harm is detected")):
        session.detector = detector
        visitor.do("on_suffixes")
        assert kept.study.routed is (detector is not None) and kept.studied == session.row.key
        page, (part,) = visitor.reload(), parts(Visit(session))
        for said in (page.standing("study") + page.standing("study_reading"), "".join(part.readings)):
            rows = said.count(f"edited weights {acting}, suffix: "), said.count("vanilla weights, suffix: ")
            assert rows == (len(SUFFIXES), len(SUFFIXES)) and "other weights: " not in said
            assert ("act only where the" in said) is (detector is not None)
        if detector is not None:
            assert kept.study.grid("harmless KL")[1].tolist() == [0.0] * len(SUFFIXES)
    session.detector = replace(never, threshold=2.0)
    assert "other weights: the same patch by another detector" in visitor.reload().standing("study_reading")
    session.detector = None
    assert "other weights: " in visitor.reload().standing("study_reading"), "it acts otherwise now"
    kept.study = replace(kept.study, rounded=None, unrounded="No rounding row: this model is bfloat16 already")
    without = visitor.reload().standing("study")
    assert "No rounding row: this model is bfloat16 already." in without and "rounding alone" not in without
    kept.study = None
    assert "by the live edit as it acts" in visitor.reload().standing("study_reading"), "before it is asked, too"
