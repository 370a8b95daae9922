"""A sweep with both ways: an edit is made once and examined on every prompt, and only where the detector fires."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from sweep_helpers import BRIEF, SHORT, finished, huge, loader, refusing, write_cases

from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.methods.registry import METHODS
from editing.sweep import SweepSettings, engines, report
from editing.sweep.__main__ import main, sweep
from editing.sweep.work import cases_of, chosen_layer
from inspector.errors import NotFinite
from inspector.model import Detector, InspectedModel

WORK = sys.modules[chosen_layer.__module__]


@pytest.fixture
def detecting(monkeypatch):
    """Give a model a detector that fires for nothing but an edit's own case, and return the function that does so."""

    def give(model: InspectedModel) -> Detector:
        detector = Detector((0,), torch.ones(1, 32), 0.0, 1e6, model.fingerprint)
        known = Calibration(Layers((Trial(2, 0.75, 0.05, 1.0),), 0.25, 5, 20), detector)
        for module in (sys.modules["editing.sweep.__main__"], WORK):
            monkeypatch.setattr(module, "load_calibration", lambda _: known)
        return detector

    return give


def settings(folder, **changes: Any) -> SweepSettings:
    return SweepSettings(**{"cases": write_cases(folder, 1), "block": "1", "acts": "both", **BRIEF, **changes})


def edited(records) -> list[dict[str, Any]]:
    return [record["edited"] for record in records]


def untimed(edit) -> dict[str, Any]:
    return {name: value for name, value in edit.items() if name != "seconds"}


@pytest.mark.parametrize("vanilla", ["shared", "paired"])
def test_both_ways_are_the_exams_of_the_two_sweeps_that_have_one_each(tmp_path, monkeypatch, detecting, vanilla):
    both = settings(tmp_path, vanilla=vanilla)
    model, judge = loader(both)
    digest = detecting(model).digest
    edits, own = [], METHODS["dinm"]

    def counted(*given, **options):
        """Make DINM's edit, so strong that answers change."""
        made = yield from own.run(*given, **options)
        edits.append(made)
        (delta,) = made.patch.deltas
        return replace(made, patch=replace(made.patch, deltas=(replace(delta, left=100 * delta.left),)))

    monkeypatch.setitem(METHODS, "dinm", replace(own, run=counted))

    def done(chosen):
        (found,) = engines.local(model, judge, chosen, list(enumerate(cases_of(chosen))), digest)
        assert found.status == "done"
        return found

    found = done(both)
    assert len(edits) == 1
    always, routed = done(replace(both, acts="always")), done(replace(both, acts="detected", learns="as set"))
    assert found.record.replies == always.record.replies and found.record.pairing == always.record.pairing
    assert found.routed.record.replies == routed.record.replies and found.routed.record.pairing == routed.record.pairing
    assert found.record.patch == found.routed.record.patch == always.record.patch == routed.record.patch is not None
    assert untimed(found.record.edit) == untimed(always.record.edit) == untimed(routed.record.edit)
    assert edited(found.record.replies) != edited(found.routed.record.replies)
    assert always.routed is None and routed.routed is None


def swept(folder, chosen) -> tuple[Any, str, dict[str, Any]]:
    """Return the one finished case of a sweep, the report and what scores.json holds."""
    sweep(chosen, folder, loader=loader)
    (found,) = finished(folder)
    text = report(folder)
    return found, text, json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def test_the_command_tells_the_scores_of_both_ways_and_goes_on_with_neither_one_alone(tmp_path, capsys, detecting):
    cases = write_cases(tmp_path, 1)
    digest = detecting(loader(SweepSettings(cases=cases))[0]).digest
    options = ["--out", str(tmp_path / "out"), "--cases", cases, *SHORT, "--layer", "1", "--report", "--acts"]
    assert main([*options, "both"], loader=loader) == 0
    told = capsys.readouterr()
    given = json.loads(told.out)
    assert [score["name"] for score in given["routed"]["scores"]] == [score["name"] for score in given["scores"]]
    assert given["cases"]["done"] == 1 and given["routed"]["refused"] == 0
    assert f"fires (routed). The detector is {digest}." in told.err and "tiny-llama DINM, routed" in told.err
    assert main([*options, "always"], loader=loader) == 2 and "acts = 'both' there" in capsys.readouterr().err


def test_an_edit_that_is_refused_is_so_both_ways_and_counted_once(tmp_path, monkeypatch, detecting):
    chosen = settings(tmp_path)
    detecting(loader(chosen)[0])
    monkeypatch.setitem(METHODS, "dinm", replace(METHODS["dinm"], run=refusing))
    found, text, scores = swept(tmp_path / "out", chosen)
    assert found.status == found.routed.status == "refused" and found.record.edit is None
    assert found.routed.record.replies == found.record.replies and found.routed.record.error == found.record.error
    assert scores["cases"] == scores["refused"] == scores["routed"]["refused"] == 1 and scores["acted"] == {}
    assert "\n1 of them refused: no edit was kept" in text and text.count(found.record.error) == 1


def test_an_edit_that_is_refused_as_a_routed_one_alone_is_told_and_done_on_every_prompt(
    tmp_path, monkeypatch, detecting
):
    chosen = settings(tmp_path)
    detecting(loader(chosen)[0])

    def unread(*_given):
        raise NotFinite("The MLP input of these texts is not a finite number.")
        yield

    monkeypatch.setattr(WORK, "acts_by", unread)
    found, text, scores = swept(tmp_path / "out", chosen)
    assert found.status == "done" and found.record.patch and found.record.edit
    assert found.routed.status == "refused" and found.routed.record.patch is None
    assert all(reply.edited == reply.vanilla for reply in found.routed.replies)
    assert (scores["refused"], scores["routed"]["refused"]) == (0, 1)
    assert "\n0 of them refused (1 as routed edits): no edit" in text
    assert f"\nRefused, routed:\n  case 0: {found.routed.record.error}\n" in text


def test_an_edit_that_breaks_the_model_on_every_prompt_may_be_done_where_it_is_routed(tmp_path, monkeypatch, detecting):
    monkeypatch.setitem(METHODS, "overflowing", replace(METHODS["dinm"], run=huge))
    chosen = settings(tmp_path, method="overflowing")
    model, judge = loader(chosen)
    model.network.half()
    detector = detecting(model)

    def nowhere(*_given):
        return detector
        yield

    monkeypatch.setattr(WORK, "acts_by", nowhere)
    (found,) = engines.local(model, judge, chosen, list(enumerate(cases_of(chosen))), detector.digest)
    assert found.status == "refused" and "With this edit (DINM · layer 1" in found.record.error
    assert found.record.patch is None and found.record.edit is not None
    assert found.routed.status == "done" and found.routed.record.patch
    assert all(reply.held_back for reply in found.routed.replies)
