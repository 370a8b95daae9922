"""Vanilla answers that the cases of a sweep share: made once, the paired ones to the token, and said in the report."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from sweep_helpers import SHORT, finished, loader, write_cases

from editing.sweep import SweepSettings
from editing.sweep.__main__ import main
from editing.sweep.vanilla import AT_ONCE, Batch, answered, shared_batches
from editing.sweep.work import texts_of
from inspector.model import Decoding
from inspector.safeedit.known import Pairing
from inspector.safeedit.questions import Size
from inspector.safeedit.sets import Passage

VANILLA, WORK = (sys.modules[f"editing.sweep.{name}"] for name in ("vanilla", "work"))


def swept(folder, cases, *options: str) -> list:
    assert main(["--out", str(folder), "--cases", str(cases), *SHORT, *options], loader) == 0
    return finished(folder)


def answers(results: list) -> list:
    """Return all that is read off the replies but the KL, which is rounded in another way in another batch."""
    return [[replace(reply, kl=None) for reply in result.replies] for result in results]


@pytest.mark.parametrize(
    ("evaluation", "harmless", "transfer", "batches"), [("same", 14, 1, (9, 12, 2)), ("paper", 3, 0, (3, 1))]
)
def test_shared_vanilla_answers_give_the_replies_of_paired_ones_and_the_report_says_so(
    tmp_path, capsys, evaluation, harmless, transfer, batches
):
    """Each case compares another batch of what is shared: transfer prompts, harmless ones, then the fact."""
    cases, common = write_cases(tmp_path, len(batches)), 9 * transfer + harmless + 1
    options = ("--harmless", str(harmless), "--transfer", str(transfer), "--evaluation", evaluation)
    shared = swept(tmp_path / "shared", cases, *options)
    told = capsys.readouterr()
    assert f"The vanilla weights answer {common} prompts once, for all cases." in told.err
    assert "asked again" not in told.err and json.loads(told.out)["pairing"]["compared"] == sum(batches)
    paired = swept(tmp_path / "paired", cases, *options, "--vanilla", "paired")
    assert f"answer {common} prompts" not in capsys.readouterr().err
    assert answers(shared) == answers(paired) and len(shared[0].replies) == 5 + common
    for one, other in zip(shared, paired, strict=True):
        kls = [[reply.kl for reply in result.replies if reply.kl is not None] for result in (one, other)]
        assert kls[0] == pytest.approx(kls[1], rel=1e-3, abs=1e-6)
    compared = [result.record.pairing for result in shared]
    assert compared == [Pairing(compared=n) for n in batches], "batches in turn"
    assert [result.record.pairing.compared for result in paired] == [0] * len(batches)

    for name, said in (
        ("shared", f"shared by the cases. Compared with paired batches: {sum(batches)} answers of each, all the same."),
        ("paired", "Vanilla answers: anew beside every edit, in one batch with it."),
    ):
        assert main(["--out", str(tmp_path / name), "--report"], loader) == 0
        assert said in capsys.readouterr().err
        told = json.loads((tmp_path / name / "scores.json").read_text(encoding="utf-8"))
        assert told["settings"]["vanilla"] == name and told["pairing"]["compared"] == (
            sum(batches) if name == "shared" else 0
        )


def test_answers_that_differ_from_paired_ones_are_counted_in_the_report(tmp_path, capsys, monkeypatch):
    """A near tie that a batch of another shape flips, made by hand: one token of one answer."""
    own = VANILLA.answer_once

    def flipped(model, prompts, decoding):
        known = own(model, prompts, decoding)
        asked = next(iter(known))
        last = (known[asked].tokens[-1] + 1) % 256
        return known | {asked: replace(known[asked], tokens=(*known[asked].tokens[:-1], last))}

    monkeypatch.setattr(VANILLA, "answer_once", flipped)
    found = swept(tmp_path / "out", write_cases(tmp_path, 2), "--harmless", "3")
    assert [result.record.pairing.vanilla for result in found] == [1, 1], "one harmless prompt, one fact"
    told = capsys.readouterr()
    assert "Of 4 answers asked again with both weights in one batch, 2 vanilla and 0 edited differ" in told.err
    assert json.loads(told.out)["pairing"] == {"compared": 4, "vanilla": 2, "edited": 0}
    assert main(["--out", str(tmp_path / "out"), "--report"], loader) == 0
    said = capsys.readouterr().err
    assert "4 answers of each, 2 vanilla (by token) and 0 edited (by text) DIFFER" in said
    assert "--vanilla paired asks anew" in said


def test_each_prompt_is_answered_as_vanilla_once_whatever_the_number_of_cases(tmp_path, monkeypatch):
    made: list[tuple[tuple[int, ...], int]] = []
    own = VANILLA.answer_once

    def noting(model, prompts, decoding):
        made.extend((prompt, decoding.max_new_tokens) for prompt in prompts)
        return own(model, prompts, decoding)

    monkeypatch.setattr(VANILLA, "answer_once", noting)
    swept(tmp_path / "out", write_cases(tmp_path, 2), "--harmless", "25")
    assert len(made) == len(set(made)) == 26


def test_a_sweep_that_goes_on_gives_what_one_without_a_break_gives(tmp_path):
    """Shared answers depend on the settings, not on which cases are left."""
    cases = write_cases(tmp_path, 2)
    whole = swept(tmp_path / "whole", cases, "--harmless", "5")
    swept(tmp_path / "out", cases, "--harmless", "5")
    database = sys.modules["editing.sweep.store"].Store(tmp_path / "out")
    with database._database:
        database._database.execute("DELETE FROM results WHERE number > 0")
    database.close()
    again = swept(tmp_path / "out", cases, "--harmless", "5")
    assert [result.replies for result in again] == [result.replies for result in whole]
    assert [result.record.pairing for result in again] == [result.record.pairing for result in whole]


def test_batches_are_of_what_exams_have_in_common_and_bounded():
    settings = SweepSettings(size=Size(2, 40, 5, 1), max_new_tokens=20)
    model, _ = loader(settings)
    batches = shared_batches(model, settings, texts_of(settings))
    assert [len(batch.prompts) for batch in batches] == [18, AT_ONCE, 16, 5, 1]
    assert [batch.decoding.max_new_tokens for batch in batches] == [20, 20, 20, 12, 20]
    assert shared_batches(model, settings, texts_of(settings)) == batches
    bound = (18 + AT_ONCE) * 20
    assert shared_batches(model, settings, texts_of(settings), bound) == batches[:2]
    assert shared_batches(model, settings, texts_of(settings), bound - 1) == batches[:1]
    assert shared_batches(model, replace(settings, vanilla="paired"), texts_of(settings)) == ()


def test_prompts_beyond_the_bound_are_asked_as_ever(tmp_path, monkeypatch):
    cases = write_cases(tmp_path, 2)
    plain = swept(tmp_path / "plain", cases, "--harmless", "25", "--vanilla", "paired")
    own = VANILLA.shared_batches
    engines = sys.modules["editing.sweep.engines"]
    monkeypatch.setattr(engines, "shared_batches", lambda *asked: own(*asked, AT_ONCE * 6))
    found = swept(tmp_path / "out", cases, "--harmless", "25")
    assert answers(found) == answers(plain)
    assert 0 < sum(result.record.pairing.compared for result in found) <= 24


def test_what_cannot_be_answered_once_is_asked_as_ever(tmp_path, monkeypatch):
    def lacking(model, prompts, decoding):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model, _ = loader(SweepSettings())
    monkeypatch.setattr(VANILLA, "answer_once", lacking)
    assert answered(model, Batch(((1, 2),), Decoding(3))) is None
    (found,) = swept(tmp_path / "out", write_cases(tmp_path, 1))
    assert found.status == "done" and found.record.pairing.compared == 0


def test_a_shared_question_that_is_too_long_is_asked_in_no_case_and_counted(tmp_path, capsys, monkeypatch):
    """The other passage and all the rest are asked; what fits is still answered once for all cases."""
    short, long = Passage("Leaves fall in autumn.", "Leaves fall."), Passage("word " * 9000, "Words.")
    monkeypatch.setattr(WORK, "passages", lambda source: (short, long))
    found = swept(tmp_path / "out", write_cases(tmp_path, 2), "--passages", "2")
    said = "Asked in no case, as this model cannot read so much and answer: 1 passage."
    assert said in capsys.readouterr().err
    for result in found:
        assert result.status == "done" and result.record.pairing.compared > 0
        assert [r.question.reference for r in result.replies if r.question.kind == "passage"] == [short.summary]
    assert main(["--out", str(tmp_path / "out"), "--report"], loader) == 0
    assert said in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))["left_out"] == {"passage": 1}


def test_settings_from_before_answers_were_shared_are_paired_and_no_sweep_mixes_both(tmp_path, capsys):
    told = json.loads(SweepSettings().as_json())
    assert told.pop("vanilla") == "shared"
    assert SweepSettings.from_json(json.dumps(told)).vanilla == "paired"
    cases = write_cases(tmp_path, 1)
    swept(tmp_path / "out", cases)
    arguments = ["--out", str(tmp_path / "out"), "--cases", str(cases), *SHORT, "--vanilla", "paired"]
    assert main(arguments, loader) == 2
    assert "vanilla = 'shared' there, 'paired' here" in capsys.readouterr().err
