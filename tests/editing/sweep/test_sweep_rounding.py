"""The rounding row of a sweep: made once, kept with it, beside DL in its report, and why there is none."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from sweep_helpers import SHORT, loader, swept, write_cases

from editing.sweep import Store, SweepSettings
from editing.sweep.__main__ import main
from editing.sweep.vanilla import answered, shared_batches
from editing.sweep.work import texts_of
from editing.sweep.yardstick import rounded_of
from inspector.errors import NotFinite, OutOfMemory
from inspector.model import Decoding
from inspector.model.patches.rounded import COMPUTED
from inspector.safeedit.exam import run_exam
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import Size, common_questions
from inspector.safeedit.yardstick import YARDSTICK, rounding_exam, yardstick

ROUNDING = "editing.sweep.yardstick.rounded_exam"


def rounded(folder) -> dict:
    """Return what scores.json says of the rounding row, once the report is made."""
    assert main(["--out", str(folder), "--report"], loader) == 0
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))["rounded"]


def cut(folder) -> None:
    """Leave the first case alone."""
    store = Store(folder)
    with store._database:
        store._database.execute("DELETE FROM results WHERE number > 0")
    store.close()


@pytest.mark.parametrize("vanilla", ["shared", "paired"])
def test_it_is_what_the_same_exam_gives_and_stands_beside_dl(tmp_path, capsys, vanilla):
    folder = tmp_path / "out"
    swept(folder, write_cases(tmp_path, 2), "--harmless", "5", "--vanilla", vanilla)
    told = capsys.readouterr().err
    assert told.count("The same weights in bfloat16 answer 5 harmless prompts once") == 1
    found = rounded(folder)
    report = capsys.readouterr().err
    model, _ = loader(SweepSettings())
    questions = [one for one in common_questions(Size(0, 5, 0, 0)) if one.kind == "harmless"]
    exam = run_exam(
        rounding_exam(model, questions, EmbeddedJudge(), decoding=Decoding(max_new_tokens=6), computed=True)
    )
    by_hand = {score.name: score.edited for score in yardstick(exam)}
    assert (found["weights"], found["prompts"], found["why"]) == (COMPUTED, 5, "")
    assert {score["name"] for score in found["scores"]} == set(YARDSTICK) == set(by_hand)
    for score in found["scores"]:
        assert score["edited"]["value"] == pytest.approx(by_hand[score["name"]].value, rel=1e-3, abs=1e-6)
        assert score["edited"]["n"] == 5
    (head,) = [line for line in report.splitlines() if line.startswith("Beyond the paper")]
    (line,) = [line for line in report.splitlines() if line.startswith("DL, %")]
    place = head.index("rounded") + len("rounded")
    assert line[:place].split()[-1] == f"{by_hand['DL'].value:.4g}"
    (other,) = [line for line in report.splitlines() if line.startswith("degenerate, %")]
    assert other[:place].split()[-1] == "-" and len(other[:place]) == place
    assert f"Rounded: {COMPUTED}, without an edit, on the 5 harmless prompts" in report


def test_it_is_made_once_and_a_sweep_that_goes_on_keeps_it(tmp_path, capsys, monkeypatch):
    cases, folder = write_cases(tmp_path, 2), tmp_path / "out"
    swept(folder, cases)
    before = rounded(folder)
    assert before["scores"]
    cut(folder)
    with monkeypatch.context() as patch:
        patch.setattr(ROUNDING, lambda *_given, **_how: pytest.fail("it is made once"))
        assert [result.status for result in swept(folder, cases)] == ["done"] * 2
    assert rounded(folder) == before
    cut(folder)
    store = Store(folder)
    with store._database:
        store._database.execute("DROP TABLE rounding")  # a sweep of before there was one
    store.close()
    assert rounded(folder) is None, "its report tells of none"
    capsys.readouterr()
    swept(folder, cases)
    assert rounded(folder) == before, "and it gets one where cases are left"


def test_ended_amid_it_nothing_is_kept_and_the_same_command_makes_it(tmp_path, monkeypatch):
    cases, folder = write_cases(tmp_path, 1), tmp_path / "out"

    def ended(*_given, **_how):
        raise KeyboardInterrupt
        yield

    arguments = ["--out", str(folder), "--cases", str(cases), *SHORT]
    with monkeypatch.context() as patch:
        patch.setattr(ROUNDING, ended)
        assert main(arguments, loader) == 130
    store = Store(folder)
    assert store.rounded() is None and not list(store.results())
    store.close()
    assert main(arguments, loader) == 0 and rounded(folder)["scores"]


@pytest.mark.parametrize("error", [OutOfMemory("The device ran out of memory."), NotFinite("No finite number.")])
def test_what_it_cannot_be_had_for_costs_no_case_and_it_is_tried_again(tmp_path, capsys, monkeypatch, error):
    cases, folder = write_cases(tmp_path, 2), tmp_path / "out"

    def fails(*_given, **_how):
        raise error
        yield

    with monkeypatch.context() as patch:
        patch.setattr(ROUNDING, fails)
        assert [result.status for result in swept(folder, cases)] == ["done"] * 2
    assert rounded(folder)["why"] == f"No rounding row: {error.user_message()}"
    assert f"\nNo rounding row: {error.user_message()}\n" in capsys.readouterr().err
    cut(folder)
    swept(folder, cases)
    found = rounded(folder)
    assert found["scores"] and found["why"] == ""


def test_a_sweep_without_harmless_prompts_and_a_model_in_bfloat16_have_none_and_say_why(tmp_path, capsys):
    cases = write_cases(tmp_path, 1)
    swept(tmp_path / "none", cases, "--harmless", "0")
    assert rounded(tmp_path / "none")["why"] == "No rounding row: this sweep asks no harmless prompt"
    assert "rounded" not in next(
        line for line in capsys.readouterr().err.splitlines() if line.startswith("Beyond the paper")
    )

    def halved(settings):
        model, judge = loader(settings)
        model.network.bfloat16()
        return model, judge

    arguments = ["--out", str(tmp_path / "half"), "--cases", str(cases), *SHORT]
    assert main(arguments, halved) == 0
    assert rounded(tmp_path / "half")["why"] == "No rounding row: this model is bfloat16 already"


def test_the_shared_vanilla_answers_are_not_given_again_for_it(tmp_path, monkeypatch):
    asked = []
    known = sys.modules["inspector.safeedit.known"]
    own = known.generate

    def generating(network, *given):
        asked.append(network.name)
        return own(network, *given)

    monkeypatch.setattr(known, "generate", generating)
    settings = SweepSettings(size=Size(0, 3, 0, 0), max_new_tokens=4)
    model, _ = loader(settings)
    texts, given = texts_of(settings), {}
    for batch in shared_batches(model, settings, texts):
        given |= answered(model, batch) or {}
    asked.clear()
    row = rounded_of(model, settings, texts, given)
    assert row.prompts == 3 and set(asked) == {COMPUTED}
    assert not rounded_of(model, replace(settings, size=Size(0, 0, 1, 0)), texts, given).scores
