"""The finished example while it is made: part by part, behind visitors, and what no layer helps or the gate refuses."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dashboard_helpers import SHORT_GATE
from example_helpers import make_example

from dashboard.example import make as making
from dashboard.example import store
from dashboard.example.make import Example, ship
from dashboard.example.record import read_record_file, write_record
from dashboard.example.store import PARTS, Store
from dashboard.kit.running.queue import BEHIND
from dashboard.kit.running.run import drain
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import case_of
from dashboard.steps.compare.run import Measured
from dashboard.steps.methods.further import LEARNS_MORE
from dashboard.steps.methods.state import Compared
from dashboard.steps.operate.gating import Gated, keep
from dashboard.steps.operate.texts import gate_line
from dashboard.steps.stress.run import Examined
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.contest import ROUTED
from editing.gate.budgets import Budgets
from editing.gate.gate import GateSettings
from editing.methods.registry import METHODS
from inspector.errors import EditError
from inspector.model import Decoding, Detector
from inspector.safeedit.questions import FULL, Size
from inspector.safeedit.sets import harmless_prompts

SHORT = Decoding(max_new_tokens=6)

pytestmark = pytest.mark.usefixtures("model", "quick_methods")


def test_an_example_s_edit_that_the_gate_refuses_waits_and_is_never_live_not_after_a_restart_either(
    model, tmp_path, edits, monkeypatch
):
    strict = GateSettings(budgets=Budgets(harmless_kl=0), **SHORT_GATE)
    monkeypatch.setattr(making.gating, "settings_of", lambda _budgets: strict)
    made = make_example(model, SHORT, tmp_path)
    again = make_example(model, SHORT, tmp_path)
    assert len(edits) == 1
    for example in (made, again):
        visitor = Session()
        example.fill(visitor)
        held = visitor.slot(Gated).held
        assert visitor.live is None and visitor.slot(Measured).answers is None and example.ended
        assert not held.acceptance.passed and "Refused by the gate: harmless KL" in gate_line(visitor).replace(
            "</b>", ""
        )
        assert "gate has refused" in example.said and example.parts == frozenset(PARTS) - {"comparison", "exam"}
        assert keep(visitor).patch.identifier == held.edit.patch.identifier, "a visitor may keep it by hand"
    assert made.session.slot(Gated).held.edit.patch.identifier == held.edit.patch.identifier
    assert made.session.live is None


def test_where_no_layer_helps_the_example_makes_no_edit_and_says_why(model, tmp_path, edits):
    make_example(model, SHORT, tmp_path)
    edits.clear()
    layers = Layers((Trial(0, 0.25, 0.1, 1.0),), 0.25, 5, 20)
    known = Calibration(layers, Detector((0,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint))
    example = make_example(model, SHORT, tmp_path, known)
    assert edits == [] and example.session.live is None, "not that of the uncalibrated model either"
    assert "No layer helps" in example.said and "defend 25 %" in example.said
    assert not example.parts & {"edit", "comparison", "exam", "contest"} and {"located", "atlas"} <= example.parts


def test_a_part_that_stops_half_way_goes_on_where_it_was_and_nothing_is_made_twice(model, tmp_path, edits, monkeypatch):
    atlas = making.why_run.atlas

    def refused(*_arguments: Any) -> Iterator[Any]:
        raise EditError("Enough.")
        yield

    monkeypatch.setattr(making.why_run, "atlas", refused)
    first = Example(model, SHORT, tmp_path)
    first.make()
    done = frozenset(PARTS[: PARTS.index("atlas")])
    assert first.ended and "could not be finished: Enough." in first.said and first.parts == done and len(edits) == 1
    monkeypatch.setattr(making.why_run, "atlas", atlas)
    made: list[str] = []
    second = Example(model, SHORT, tmp_path)
    assert second.parts == done and not second.ended
    real = second._make
    monkeypatch.setattr(second, "_make", lambda part: made.append(part) or real(part))
    second.make()
    assert made == ["atlas", "contest"] and second.parts == frozenset(PARTS) and second.said == ""
    assert second.session.live.patch.identifier == first.session.live.patch.identifier


def test_a_stopped_one_keeps_whole_parts_only(model, tmp_path):
    example = Example(model, SHORT, tmp_path)
    real = making._MAKERS["edit"]

    def stopping(*arguments: Any) -> Iterator[str]:
        for said in real(*arguments):
            example.stop()
            yield said

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(making._MAKERS, "edit", stopping)
        example.make()
    assert example.ended and "stopped" in example.said and example.parts == {"located"}
    assert [path.name for path in tmp_path.glob("*/*")] == ["located.safetensors"]


def test_it_looks_at_the_line_before_each_part_and_after_every_step(model, tmp_path):
    example = Example(model, SHORT, tmp_path)
    looks: list[str] = []
    steps = Counter[str]()

    def counted(module: Any, name: str) -> Callable[..., Iterator[Any]]:
        real = getattr(module, name)

        def run(*given: Any) -> Iterator[Any]:
            return (yield from drain(real(*given), lambda event: steps.update([name]) or event))

        return run

    def somebody_is_there(_cancelled: Callable[[], bool]) -> None:
        run = example.line.turns((step for step in ("first", "second")), "edit")
        next(run)
        looks.append(example.said)
        run.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example.line, "give_way", somebody_is_there)
        for module, name in ((making.gating, "examined"), (making.stress_run, "stress"), (making.compare_run, "ask")):
            patch.setattr(module, name, counted(module, name))
        example.make()
    assert example.parts == frozenset(PARTS) and all(said.endswith(BEHIND) for said in looks)
    told = (said.removesuffix(BEHIND).removeprefix("Making the example: ") for said in looks)
    of = Counter(re.sub(r"\d+", "n", said) for said in told)
    assert set(making._TITLES.values()) <= set(of), "before each part"
    assert of["the edit and its answers. Step n of at most n"] == len(example.session.live.result.trace) > 1
    assert of["the edit and its answers. The gate's small exam"] == steps["examined"] > 1
    assert of["the edit and its answers. Answers of both weights"] == steps["ask"] > 1
    assert of["the stress test. n of n prompts"] == steps["stress"] > 1


def test_it_makes_nothing_while_a_visitor_runs_says_so_and_ends_all_the_same(model, tmp_path):
    example = Example(model, SHORT, tmp_path)
    run = example.line.turns((step for step in ("first", "second")), "edit")
    next(run)
    example.start()
    assert not example.wait(0.2) and example.said == f"Making the example: where the answers part{BEHIND}"
    example.stop()
    assert example.wait(30) and example.said == "The example was stopped." and example.parts == frozenset()
    run.close()


def test_the_shipped_example_is_small_read_without_an_edit_and_dropped_for_another_model(
    model, tmp_path, edits, monkeypatch
):
    monkeypatch.setitem(making.stress_run.SIZES, "Full", Size(0, FULL.harmless, 0, 0))
    shipped = tmp_path / "assets"
    folder = ship(model, shipped)
    assert len(edits) == 1 and not list(folder.glob("contest/*.safetensors")), "no patches of the contest"
    assert {path.stem for path in folder.glob("*.safetensors")} == set(PARTS)
    example = Example(model, folder=tmp_path / "cache", shipped=shipped)
    assert example.parts == frozenset(PARTS)
    tested = example.session.slot(Examined)
    asked = sum(reply.question.kind == "harmless" for reply in tested.exam.replies)
    assert asked == len(harmless_prompts()) and tested.yardstick, "the full test, with its rounding row"
    other = Example(replace(model, fingerprint="0123456789abcdef"), folder=tmp_path / "cache", shipped=shipped)
    assert other.parts == frozenset() and len(edits) == 1
    # Under another model's name it is not believed either.
    folder.rename(folder.with_name(folder.name.replace(model.fingerprint, "0123456789abcdef")))
    other = Example(replace(model, fingerprint="0123456789abcdef"), folder=tmp_path / "cache", shipped=shipped)
    assert other.parts == frozenset()


def test_routed_lines_and_what_regions_write_are_of_the_methods_where_there_is_a_detector_and_come_back(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(making, "CONTEST", ("dinm", "self-reminder"))
    layers = Layers((Trial(1, 1.0, 0.1, 1.0),), 0.25, 5, 20)
    known = Calibration(layers, Detector((0,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint))
    example = Example(model, SHORT, tmp_path / "own", known)
    session = Session(case=case_of(example.texts), format=example.texts.format)
    said = [*example.contest(session)]
    kept, more = session.slot(Compared), f"{LEARNS_MORE}{ROUTED}"
    made = kept.contest.standings
    assert [one.method.title for one in made] == ["DINM", "Self-Reminder", f"DINM{ROUTED}", more]
    assert set(kept.written) == {"DINM", more} and kept.shows_writing
    assert f"Routed lines, {more}" in said and not any(char.isdigit() for char in "".join(said)), "told once a line"
    for patches in (True, False):
        folder = Store(model, example.texts, tmp_path / str(patches), patches=patches)
        folder.write("contest", session)
        again = Session(case=session.case)
        assert folder.read("contest", again)
        found = again.slot(Compared)
        read = found.contest.standings
        for name in ("title", "card"):
            assert [getattr(one.method, name) for one in read] == [getattr(one.method, name) for one in made]
        assert [one.exam for one in read] == [one.exam for one in made] and read[2].exam.detector
        assert read[2].result is read[0].result is not read[3].result, "a routed line is about the plain one's edit"
        assert [one.result.settings for one in read] == [one.result.settings for one in made]
        ids = [one.result.patch and one.result.patch.identifier for one in read]
        plain, _, _, own = (one.result.patch and one.result.patch.identifier for one in made)
        assert ids == ([plain, None, plain, own] if patches else [None] * 4) and plain != own
        assert found.contest.elsewhere == kept.contest.elsewhere
        assert found.shows_writing and found.written.keys() == kept.written.keys()
        assert all(np.array_equal(found.written[title].prompt, one.prompt) for title, one in kept.written.items())


def test_the_methods_of_an_example_that_was_kept_before_it_had_routed_lines_still_come_back(model, tmp_path):
    example = make_example(model, SHORT, tmp_path)
    (path,) = tmp_path.glob("*/contest.safetensors")
    told = read_record_file(path, store._kind("contest"))
    del told["content"]["written"]
    write_record(path, store._kind("contest"), told)
    standings = path.parent / "contest" / "standings.json"
    content = json.loads(standings.read_text(encoding="utf-8"))
    for record in content["standings"]:
        for name in ("title", "card", "edit_of"):
            del record[name]
    standings.write_text(json.dumps(content), encoding="utf-8")
    session = Session(case=example.session.case, edits=list(example.session.edits))
    assert Store(model, example.texts, path.parent).read("contest", session)
    (one,), kept = session.slot(Compared).contest.standings, session.slot(Compared)
    assert one.method == METHODS["self-reminder"] and kept.written is None and not kept.shows_writing
