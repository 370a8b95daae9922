"""The finished example that a visitor starts with: made once per model, read back exactly, made again when in doubt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pytest
import torch
from dashboard_helpers import tiny_model
from example_helpers import make_example
from safetensors import safe_open
from safetensors.torch import save_file

from dashboard.example import store
from dashboard.example.make import CASE, Example
from dashboard.example.store import PARTS, Store
from dashboard.kit.sessions.acting import route
from dashboard.kit.sessions.session import Session
from dashboard.steps.compare import run as compare_run
from dashboard.steps.compare.run import Measured
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.methods.state import Compared
from dashboard.steps.operate.gating import Gated, Made
from dashboard.steps.stress.run import Examined
from dashboard.steps.why.state import Looked
from editing import run
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.gate.budgets import checks_of
from editing.gate.gate import Acceptance, GateSettings
from editing.standing_file import load_standings
from editing.texts.harmless import harmless_answers, harmless_texts, known_answer, known_answers
from inspector.detection import for_case
from inspector.errors import PatchError
from inspector.model import Decoding, Detector, PromptFormat
from inspector.model.patches.patch_file import load_row
from inspector.safeedit import Constraint, bundled_cases
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import Size, common_questions
from inspector.safeedit.yardstick import rounding_exam

SHORT = Decoding(max_new_tokens=6)

pytestmark = pytest.mark.usefixtures("model", "quick_methods")


def file_in(folder: Path) -> Path:
    (path,) = folder.glob("*/edit.safetensors")
    return path


def assert_same(one: Example, two: Example) -> None:
    first, second = one.session, two.session
    assert first.live.patch.identifier == second.live.patch.identifier
    assert dict(first.live.patch.settings) == dict(second.live.patch.settings)
    assert first.live.result.trace == second.live.result.trace
    kept = ("kept", "stop_reason", "block", "settings", "seconds")
    for name in kept:
        assert getattr(first.live.result, name) == getattr(second.live.result, name), name
    assert (
        first.slot(Measured).answers == second.slot(Measured).answers
        and one.texts == two.texts
        and one.block == two.block
    )
    assert np.array_equal(first.slot(LocatedCase).divergence.l2, second.slot(LocatedCase).divergence.l2)
    assert first.slot(Measured).comparison.after[0].per_token == second.slot(Measured).comparison.after[0].per_token


@pytest.fixture(scope="module")
def first(tmp_path_factory, quick_methods) -> tuple[Example, Path]:
    """An example and the folder in which it was kept."""
    folder = tmp_path_factory.mktemp("first")
    return make_example(tiny_model(), SHORT, folder), folder


@pytest.fixture
def kept(first, tmp_path) -> tuple[Example, Path]:
    """The same with a copy of the folder, for a test to damage."""
    example, folder = first
    return example, Path(shutil.copytree(folder, tmp_path / "copy"))


def test_the_verdicts_on_its_answers_are_kept_with_it_and_given_anew_where_they_are_not(kept, monkeypatch):
    example, folder = kept
    prompt, answers = example.session.case.adversarial_prompt, example.session.slot(Measured).answers
    given = compare_run.judged(prompt, answers)
    monkeypatch.setattr(compare_run, "_KEPT", {})
    real = store.load_row
    with monkeypatch.context() as patch:
        patch.setattr(store, "load_row", lambda path: (real(path)[0], {**real(path)[1], "verdicts": None}))
        assert Example(tiny_model(), SHORT, folder).session.live is not None and compare_run._KEPT == {}
    monkeypatch.setattr(compare_run, "EmbeddedJudge", lambda: pytest.fail("the judge was asked"))
    Example(tiny_model(), SHORT, folder)
    assert compare_run.judged(prompt, answers) == given
    for other, of in ((f"{prompt}!", answers), (prompt, replace(answers, texts=("No.", "Yes.")))):
        with pytest.raises(pytest.fail.Exception, match="was asked"):
            compare_run.judged(other, of)


def test_the_example_is_one_whole_operation_on_a_bundled_case(first):
    example, _ = first
    session, case = example.session, bundled_cases()[CASE]
    assert (example.texts.question, session.case.adversarial_prompt) == (case.question, case.adversarial_prompt)
    assert example.block == session.live.result.block == session.slot(LocatedCase).divergence.toxic_layer()
    assert session.slot(Measured).comparison is not None and session.slot(Measured).comparison.strength == 1.0
    assert all(session.slot(Measured).answers.texts) and not session.cancelled.is_set()


def test_a_calibrated_model_s_example_is_edited_at_the_recommended_layer_and_kept_apart(model, kept, edits):
    made, folder = kept
    other = (made.block + 1) % model.blocks
    layers = Layers((Trial(other, 1.0, 0.1, 1.0),), 0.25, 5, 20)
    known = Calibration(layers, Detector((0,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint))
    example = make_example(model, SHORT, folder, known)
    assert example.block == example.session.live.result.block == other and edits
    attempts = len(edits)  # a second one where the first defends too little
    again = make_example(model, SHORT, folder, known)
    assert again.block == other and len(edits) == attempts
    tested = again.session.slot(Examined)
    ways = {bool(tested.exam.detector), bool(tested.other.detector)}
    assert ways == {True, False}, "on every prompt and only where harm is detected, as the page examines it"
    assert tested.other == example.session.slot(Examined).other
    assert make_example(model, SHORT, folder).block == made.block and len(edits) == attempts


def test_a_refused_edit_comes_back_with_the_number_of_prompts_that_were_not_asked(kept, model, tmp_path):
    made, _ = kept
    live, exam = made.session.live, made.session.slot(Examined).exam
    kept_in, settings = Store(model, made.texts, tmp_path), GateSettings()
    for count in (2, 0):
        held, again = Session(), Session()
        word = Acceptance(checks_of(exam.replies), exam, settings, too_long=count)
        held.slot(Gated).held = Made(live, acceptance=word)
        kept_in.write("edit", held)
        assert kept_in.read("edit", again) and again.slot(Gated).held.acceptance.too_long == count
    assert "too_long" not in load_row(tmp_path / "edit.safetensors")[1], "most files have nothing to say of it"


def test_a_second_start_reads_it_back_exactly_without_an_edit(model, kept, edits):
    made, folder = kept
    assert_same(make_example(model, SHORT, folder), made)
    assert edits == []


def test_a_second_start_knows_the_answers_to_the_harmless_prompts_of_its_edit_and_of_no_visitor(model, kept, tmp_path):
    example, folder = kept
    edit = example.session.live
    tokens, format = edit.result.settings.harmless_tokens, edit.format
    texts = harmless_texts(edit.case, edit.result.settings.harmless_prompts)
    before = [known_answer(model, text, tokens, format) for text in texts]
    assert len(before) >= 8 and None not in before
    known_answers(model).clear()
    make_example(model, SHORT, folder)
    assert [known_answer(model, text, tokens, format) for text in texts] == before
    visitor = replace(edit.case, constraint=Constraint("Why do owls hoot?", "They call."))
    run(harmless_answers(model, visitor, 2, tokens, PromptFormat("Typed here.")))
    Store(model, example.texts, tmp_path / "again").write("edit", example.session)
    written = (tmp_path / "again" / "edit.safetensors").read_bytes()
    assert texts[1].encode() in written and b"owls" not in written and b"Typed here" not in written


def test_a_visitor_starts_with_it_and_their_edits_leave_it_alone(first):
    example, _ = first
    session = Session()
    example.fill(session)
    assert (
        session.live is example.session.live
        and session.slot(Measured).answers is example.session.slot(Measured).answers
    )
    assert (
        session.case is example.session.case
        and session.slot(Measured).comparison is example.session.slot(Measured).comparison
    )
    session.undo()
    assert session.live is None and example.session.live is not None


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the record of a patch file and leave everything else as it was."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no iterator
    metadata.pop("sha256")  # of an earlier version
    record = json.loads(metadata["record"])
    change(record)
    save_file(tensors, path, metadata={**metadata, "record": json.dumps(record)})


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "one bit": lambda path: by_hand.flip_bit(path),
    "no safetensors": lambda path: path.write_text("<html>404</html>"),
    "another format": lambda path: save_file({}, path, metadata={"format": "other", "record": "{}"}),
    "no record": lambda path: rewrite(path, dict.clear),
    "no trace": lambda path: rewrite(path, lambda record: record["extra"].pop("trace")),
    "a step of another version": lambda path: rewrite(path, lambda record: record["extra"]["trace"][0].pop("seconds")),
    "harmless of another version": lambda path: rewrite(path, lambda record: record["extra"].update(harmless=[[1]])),
    "answers of another version": lambda path: rewrite(path, lambda record: record["extra"].update(answers=None)),
}


def test_every_damage_of_the_file_is_seen_and_told(model, kept, capsys):
    made, folder = kept
    path = file_in(folder)
    whole, unseen = path.read_bytes(), []
    store = Store(model, made.texts, path.parent)
    assert store.read("edit", Session())
    for name, damage in DAMAGE.items():
        damage(path)
        if store.read("edit", Session()) or "it is made again" not in capsys.readouterr().err:
            unseen.append(name)
        path.write_bytes(whole)
    assert unseen == []


def test_a_routed_edit_comes_back_acting_by_the_models_detector_and_its_own_question(model, kept, tmp_path, capsys):
    made, _ = kept
    general = Detector((1,), torch.ones(1, model.architecture.d_model), 0.0, 0.5, model.fingerprint)
    session = Session(edits=list(made.session.edits), case=made.session.case)
    live = session.live
    route(session, run(for_case(model, general, live.case, live.format)))
    session.slot(Measured).answers = made.session.slot(Measured).answers
    Store(model, made.texts, tmp_path, detector=general).write("edit", session)
    again = Session(case=made.session.case)
    assert Store(model, made.texts, tmp_path, detector=general).read("edit", again)
    assert again.detector.digest == session.detector.digest and again.detector.weights is general.weights
    other = replace(general, threshold=0.75)
    assert not Store(model, made.texts, tmp_path, detector=other).read("edit", Session(case=made.session.case))
    assert "another detector fires" in capsys.readouterr().err


def test_one_bit_of_any_part_is_seen(model, kept, capsys):
    made, folder = kept
    store = Store(model, made.texts, file_in(folder).parent)
    for part in PARTS:
        by_hand.flip_bit(store.folder / f"{part}.safetensors")
        assert not store.read(part, Session()), part
        assert f"cannot be used, {part}" in capsys.readouterr().err


def test_a_damaged_file_is_made_again(model, kept, edits, capsys):
    made, folder = kept
    DAMAGE["no trace"](file_in(folder))
    again = make_example(model, SHORT, folder)
    assert len(edits) == 1 and "it is made again" in capsys.readouterr().err
    assert again.session.live.patch.identifier == made.session.live.patch.identifier
    make_example(model, SHORT, folder)
    assert len(edits) == 1, "the file is whole again"


def test_the_rounding_row_of_its_methods_is_kept_with_it_and_made_for_the_shipped_one_alone(model, kept, monkeypatch):
    made, folder = kept
    several = made.session.slot(Compared)
    assert several.contest.rounded is None and several.contest.rounded_as == "", "it takes a second network"
    questions = common_questions(Size(transfer=0, harmless=2, facts=0, passages=0))
    row = run(rounding_exam(model, questions, EmbeddedJudge(), decoding=SHORT, computed=True))
    monkeypatch.setattr(several, "contest", replace(several.contest, rounded=row))
    store.Store(model, made.texts, file_in(folder).parent).write("contest", made.session)
    found = make_example(model, SHORT, folder).session.slot(Compared).contest
    assert found.rounded == row and found.yardstick and found.rounded_as == f"Rounded: {row.weights}."


@pytest.mark.parametrize("content", ["{}"])
def test_damaged_standings_are_made_again(model, kept, edits, capsys, content):
    made, folder = kept
    (path,) = folder.glob("*/contest/standings.json")
    for other in ("", '{"format": "dinm-inspector standings 1"}'):
        path.write_text(other)
        with pytest.raises(PatchError, match=r"Run the contest again|holds no standings"):
            load_standings(path.parent)
    path.write_text(content)
    again = make_example(model, SHORT, folder)
    assert edits == [] and "it is made again" in capsys.readouterr().err, "the edit is whole"
    (first,), (second,) = made.session.slot(Compared).contest.standings, again.session.slot(Compared).contest.standings
    assert first.scores == second.scores and first.result.trace[1].edit_loss == second.result.trace[1].edit_loss


def test_a_file_of_another_model_is_not_used(model, kept, edits):
    _, folder = kept
    rewrite(file_in(folder), lambda record: record.update(fingerprint="0123456789abcdef"))
    example = make_example(model, SHORT, folder)
    assert len(edits) == 1 and example.session.live.patch.fingerprint == model.fingerprint


def test_another_model_has_a_file_of_its_own(model, kept):
    _, folder = kept
    first = file_in(folder)
    assert model.fingerprint in first.parent.name
    other = replace(model, fingerprint="0123456789abcdef")
    make_example(other, SHORT, folder)
    assert len(list(folder.glob("*/edit.safetensors"))) == 2 and first.exists()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_an_example_that_cannot_be_kept_is_shown_all_the_same(model, kept, tmp_path, capsys, what):
    made, folder = kept
    if what == "folder":
        (tmp_path / "blocked").write_text("a file where the folder should be")
    else:  # a folder where the file should be; a full disk gives the same kind of error
        file = file_in(folder)
        (tmp_path / "blocked" / file.parent.name / file.name).mkdir(parents=True)
    shown = make_example(model, SHORT, tmp_path / "blocked")
    assert shown.session.live.patch.identifier == made.session.live.patch.identifier
    assert "could not be kept" in capsys.readouterr().err


def test_every_measurement_comes_back_as_it_was(kept, model):
    made, folder = kept
    again = Example(model, SHORT, folder).session
    one, two = made.session.slot(Looked).why, again.slot(Looked).why
    assert [item.locator for item in two.located] == [item.locator for item in one.located]
    assert all(np.array_equal(a.scores, b.scores) for a, b in zip(one.located, two.located, strict=True))
    assert np.array_equal(one.activity.contribution, two.activity.contribution)
    assert one.padding.toxic_layers() == two.padding.toxic_layers() and two.atlas.curve("safe gain").shape == (3,)
    assert one.tokens.keys() == two.tokens.keys() and two.tokens["vanilla"].user == one.tokens["vanilla"].user
    assert made.session.slot(Examined).exam == again.slot(Examined).exam
    assert np.array_equal(made.session.probe.weight, again.probe.weight)
    before, after = (s.slot(Measured).comparison for s in (made.session, again))
    assert np.array_equal(before.shift.by_token, after.shift.by_token)
    assert before.after[1].per_token == after.after[1].per_token


def test_one_that_is_not_wanted_is_neither_read_nor_made(kept, model, edits):
    _, folder = kept
    example = Example(model, SHORT, folder, wanted=False)
    example.start()
    assert example.ended and example.parts == frozenset() and edits == [] and example.session.live is None
