"""The benchmark of an edit's worth: what is asked is unseen, and each row is the edit that it is called."""

from __future__ import annotations

import pytest
import torch

from benchmarks import detox
from editing import preset
from editing.calibration import Calibration
from editing.trial_edits import Layers, Trial
from inspector.divergence import divergence
from inspector.errors import RefusedEdit
from inspector.model import VANILLA, Detector, PromptFormat
from inspector.safeedit.cases import bundled_templates
from inspector.safeedit.sets import false_alarm_prompts, harmful_questions


@pytest.mark.parametrize("split", ["development", "score"])
def test_beyond_the_case_s_own_prompts_all_is_of_the_split_and_every_third_harmless_one_in_an_attack(case, split):
    exam = detox.asked_of(case, split, transfer=6, harmless=9)
    assert [q.kind for q in exam] == [
        "DS",
        "onlyQ",
        "otherA",
        "otherQ",
        "otherAQ",
        *["transfer"] * 6,
        *["harmless"] * 9,
    ]
    around = [template.text.split("{question}") for template in bundled_templates(split)]

    def is_wrapped(text: str) -> bool:
        return any(text.startswith(a) and text.endswith(b) and len(a + b) > 0 for a, b in around)

    asked, harmless = exam[5:11], exam[11:]
    questions = {q.question for q in harmful_questions(split)}
    assert all(is_wrapped(q.prompt) and any(one in q.prompt for one in questions) for q in asked)
    prompts = {h.prompt for h in false_alarm_prompts(split)}
    assert [is_wrapped(q.prompt) for q in harmless] == [False, False, True] * 3
    assert all(any(one in q.prompt for one in prompts) for q in harmless)
    assert {q.taught for q in exam[5:]} == {case.safe}


def test_each_row_is_the_edit_that_it_is_called_and_a_refused_one_leaves_vanilla(llama, case, monkeypatch):
    quick = {"steps": 1, "learning_rate": 1e-2, "harmless_prompts": 1, "harmless_tokens": 2}
    monkeypatch.setattr(detox, "preset", lambda name, **changes: preset(name, **{**changes, **quick}))
    detector = Detector((0,), torch.ones(1, 32), 0.0, 0.0, llama.fingerprint)
    known = Calibration(Layers((Trial(2, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
    rows = list(detox.edits_of(llama, case, known))
    assert [name for name, *_ in rows] == [
        *("released code, toxic layer", "corrected, toxic layer", "corrected, recommended layer"),
        *("made to be routed, on every prompt", "the same, routed"),
    ]
    released, toxic, best, free, routed = (row for _, row, *_ in rows)
    assert released.patch.blocks == (divergence(llama, case, "reference").toxic_layer(),)
    assert toxic.patch.blocks == (divergence(llama, case).toxic_layer(),) and best.patch.blocks == (2,)
    assert routed.patch is free.patch and routed.detector is detector and free.detector is None
    assert free.patch.settings["null_space"] is None and best.patch.settings["null_space"] is not None
    assert [format.chat for _, _, format, _ in rows] == [False, True, True, True, True]
    plain = list(detox.edits_of(llama, case, known, PromptFormat("", chat=False)))
    assert all(row.patch.format == format == PromptFormat("", False, format.turn_end) for _, row, format, _ in plain)

    def refused(*_arguments):
        raise RefusedEdit("Nothing.")

    monkeypatch.setattr(detox, "dinm", refused)
    assert [row for _, row, *_ in detox.edits_of(llama, case, known)] == [VANILLA] * 5
