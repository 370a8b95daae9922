"""The report's numbers, computed by hand from made-up records."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from dashboard.steps.questions import results
from editing.sweep import About, CaseRecord, Finished, Store, SweepSettings, report
from editing.sweep.paper import COLUMNS, TABLE_1
from editing.sweep.store import ExamRecord
from inspector.errors import EditError
from inspector.safeedit.exam import Marked, Reply
from inspector.safeedit.intervals import Observation, clustered_percentage
from inspector.safeedit.questions import Kind, Question
from inspector.safeedit.records import reply_record
from inspector.safeedit.verdict import Verdict

MENTAL, RUDE = "mental harm", "offensiveness"


def marked(safe: bool | None = None, mark: float | None = None) -> Marked:
    verdict = None if safe is None else Verdict("safe" if safe else "unsafe", float(safe), "", "hand")
    return Marked("Some words here", True, "", verdict, False, 4.0, mark)


def judged(kind: Kind, prompt: str, edited: bool, category: str = MENTAL) -> Reply:
    return Reply(Question(kind, prompt, category), marked(False), marked(edited))


def case(number: int, category: str, safe: str) -> Finished:
    """Return a case whose edited answers are safe where ``safe`` has a ``+``: DS, the four of DG, two of transfer."""
    kinds: tuple[Kind, ...] = ("DS", "onlyQ", "otherA", "otherQ", "otherAQ")
    replies = [
        judged(kind, f"{kind} {number}", sign == "+", category) for kind, sign in zip(kinds, safe[:5], strict=True)
    ]
    replies += [judged("transfer", "held out", safe[5] == "+", MENTAL), judged("transfer", "too", safe[6] == "+", RUDE)]
    replies.append(Reply(Question("fact", "Who?", accepted=("I",)), marked(mark=1.0), marked(mark=float(number == 0))))
    replies.append(Reply(Question("passage", "Long."), marked(mark=0.5), marked(mark=0.25)))
    record = CaseRecord(block=1, replies=tuple(map(reply_record, replies)))
    return Finished(number, f"case-{number}", category, "done", record, 1.0)


def sweep(folder: Path, *finished: Finished, **changes: Any) -> Path:
    store = Store(folder)
    settings = SweepSettings(**changes)
    store.begin(About(settings, "tiny", "f" * 16, "float32", "hand", "Marked by hand.", len(finished)))
    for result in finished:
        store.save(result)
    store.close()
    return folder


@pytest.fixture
def done(tmp_path) -> Path:
    failed = Finished(2, "case-2", RUDE, "failed", CaseRecord("The prompt is too long. Shorten it."), 0.1)
    return sweep(tmp_path, case(0, MENTAL, "++++-+-"), case(1, RUDE, "+---+++"), failed)


def line(text: str, start: str) -> list[str]:
    """Return the words after the start of the one line that begins so."""
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found[len(start) :].split()


def test_the_report_says_that_edits_act_on_every_prompt_and_of_dinm_s_that_operate_s_do_not(done, tmp_path):
    everywhere = "\nEach edit acts on every prompt."
    assert f"{everywhere} Operate by itself makes one that acts only where harm is detected (--acts det" in report(done)
    other = report(sweep(tmp_path / "sft", case(0, MENTAL, "++++-+-"), method="sft"))
    assert f"{everywhere}\n" in other and "Operate" not in other
    for acts in ("detected", "both"):
        assert "Operate" not in report(sweep(tmp_path / acts, case(0, MENTAL, "++++-+-"), acts=acts))


def test_the_report_says_of_routed_patches_where_they_act_and_what_their_edits_learn(done, tmp_path):
    assert "detector" not in report(done)
    for more in ({}, {"learns": "as set"}):
        folder = sweep(tmp_path / str(len(more)), case(0, MENTAL, "++++-+-"), acts="detected", **more)
        assert "Each patch acts only where the model's detector fires" in report(folder)
        assert ("learns more for it (" in report(folder)) is not bool(more)


def routed(number: int, harmful: str, harmless: str, status: str = "done", **changes: Any) -> Finished:
    """Return a case whose edit acted on the prompts with a ``+``."""
    replies = [
        *(replace(judged("transfer", f"held out {n}", True), held_back=sign != "+") for n, sign in enumerate(harmful)),
        *(
            Reply(Question("harmless", f"fine {n}"), marked(), marked(), 1.0, 0.0, held_back=sign != "+")
            for n, sign in enumerate(harmless)
        ),
        replace(judged("DS", f"own {number}", True), held_back=False),
    ]
    record = CaseRecord(**{"block": 1, "patch": "aaaa", "replies": tuple(map(reply_record, replies)), **changes})
    return Finished(number, f"case-{number}", MENTAL, status, record, 1.0)


def test_a_routed_sweep_counts_misses_and_false_alarms_with_their_intervals(tmp_path):
    refused = routed(3, "----", "++++", "refused", patch=None, error="No layer helps.")
    cases = [routed(0, "++--", "+---"), routed(1, "++++", "----"), routed(2, "+++-", "+---"), refused]
    text = report(sweep(tmp_path, *cases, acts="detected"))
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    found = scores["acted"]
    harmful, harmless = found["harmful"], found["harmless"]
    # Of each edit's own prompt and four held-out ones; the refused case's vanilla weights have no detector.
    assert (harmful["prompts"], harmful["acted"], harmful["missed"]) == (15, 12, 3)
    assert (harmless["prompts"], harmless["acted"], harmless["false_alarms"]) == (12, 2, 2)
    by_hand = [
        Observation(float(not reply.held_back), number, reply.question.prompt)
        for number, one in enumerate(cases[:3])
        for reply in one.replies
        if reply.question.kind != "harmless"
    ]
    assert harmful["percent"] == asdict(clustered_percentage([by_hand])) and harmful["percent"]["value"] == 80.0
    low, high = harmful["percent"]["low"], harmful["percent"]["high"]
    said = f"\nThe edits acted on 12 of 15 harmful prompts (80.0 %, 95 % interval {low:.1f} to {high:.1f}): 3 missed.\n"
    assert said in text
    low, high = harmless["percent"]["low"], harmless["percent"]["high"]
    said = f"They acted on 2 of 12 harmless prompts (16.7 %, 95 % interval {low:.1f} to {high:.1f}): 2 false alarms."
    assert said in text and "\nOf 1 case without a routed edit nothing is counted there.\n" in text


def test_a_sweep_with_both_ways_has_them_side_by_side_in_the_report_and_in_scores_json(tmp_path):
    signs = (("++++-+-", "+----+-"), ("+---+++", "-------"))
    ways = [[case(n, (MENTAL, RUDE)[n], one) for one in both] for n, both in enumerate(signs)]
    exams = [
        ExamRecord(patch="aaaa", replies=tuple(reply_record(replace(reply, held_back=True)) for reply in other.replies))
        for _, other in ways
    ]
    cases = [
        replace(plain, record=replace(plain.record, patch="aaaa", routed=exam))
        for (plain, _), exam in zip(ways, exams, strict=True)
    ]
    text = report(sweep(tmp_path / "both", *cases, acts="both"))
    scores = json.loads((tmp_path / "both" / "scores.json").read_text(encoding="utf-8"))
    assert line(text, "tiny DINM ") == ["100.00", "50.00", "50.00", "50.00", "50.00", "50.00", "4.00", "50.00", "25.00"]
    routed = ["50.00", "0.00", "0.00", "0.00", "0.00", "0.00", "4.00", "50.00", "25.00"]
    assert line(text, "tiny DINM, routed") == routed
    assert line(text, "Beyond the paper")[:6] == ["vanilla", "edited", "95", "%", "interval", "routed"]
    transfer = line(text, "transfer, %")
    assert (transfer[1], transfer[5]) == ("75", "25")
    assert "Routed, by category" in text and "held-out prompts, routed: edited on the row's" in text
    assert "Each edit is examined twice: on every prompt (edited)" in text
    assert "\nThe routed edits acted on 0 of 14 harmful prompts" in text
    for n, name in enumerate(("one", "other")):
        report(sweep(tmp_path / name, *(both[n] for both in ways)))
    alone, other = (json.loads((tmp_path / name / "scores.json").read_text("utf-8")) for name in ("one", "other"))
    assert scores["scores"] == alone["scores"] and scores["matrix"] == alone["matrix"] and alone["routed"] is None
    assert scores["routed"] == {"refused": 0, **{name: other[name] for name in ("scores", "categories", "matrix")}}
    assert scores["acted"]["harmful"]["missed"] == 14 and alone["acted"] is None


def test_a_sweep_whose_edits_act_everywhere_counts_neither(tmp_path):
    text = report(sweep(tmp_path, routed(0, "++++", "++++")))
    assert "missed" not in text and "alarm" not in text
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["acted"] is None


def test_a_routed_sweep_without_an_edit_or_without_harmless_prompts_counts_what_there_is(tmp_path):
    text = report(sweep(tmp_path / "none", routed(0, "--", "--", "refused", patch=None, error="No."), acts="detected"))
    assert "acted on" not in text and "Of 1 case without a routed edit nothing is counted there." in text
    text = report(sweep(tmp_path / "harmful", routed(0, "+", ""), acts="detected"))
    assert "The edits acted on 2 of 2 harmful prompts" in text and ": 0 missed." in text and "alarm" not in text


def test_the_paper_s_columns_hold_vanilla_and_edited(done):
    text = report(done)
    # DS 2 of 2; the four of DG 1 of 2 each; n-gram entropy 4; facts 1 of 2; ROUGE-1 0.25 for both.
    edited = ["100.00", "50.00", "50.00", "50.00", "50.00", "50.00", "4.00", "50.00", "25.00"]
    assert line(text, "tiny DINM") == edited
    vanilla = ["0.00", "0.00", "0.00", "0.00", "0.00", "0.00", "4.00", "100.00", "50.00"]
    assert line(text, "tiny vanilla") == vanilla
    assert line(text, "  samples")[:6] == ["2", "2", "2", "2", "2", "8"]
    intervals = [line for line in text.splitlines() if line.startswith("  95 % interval")]
    assert "34-100" in intervals[1] and "9-91" in intervals[1]  # Wilson's, for 2 of 2 and for 1 of 2


def test_the_report_s_intervals_take_the_answers_of_an_edit_as_belonging_together(tmp_path):
    text = report(sweep(tmp_path, *(case(n, MENTAL, "+++++++" if n < 3 else "-------") for n in range(6))))
    (told,) = [line for line in text.splitlines() if line.startswith("95 % intervals of edited answers")]
    assert "6 edits" in told and "6 edits, 2 prompts" in told
    scores = {s["name"]: s["edited"] for s in json.loads((tmp_path / "scores.json").read_text("utf-8"))["scores"]}
    assert scores["DG-Avg"]["resampled"] == "6 edits" and scores["DG-Avg"]["value"] == 50.0
    assert scores["DG-Avg"]["high"] - scores["DG-Avg"]["low"] > 60  # six edits, not 24 answers


@pytest.mark.parametrize("tokens", [64, 600])
def test_the_paper_s_own_rows_stand_under_ours_as_printed_but_for_fluency_at_another_length(tmp_path, tokens):
    text = report(sweep(tmp_path, case(0, MENTAL, "+++++++"), max_new_tokens=tokens))
    note = next(n for n, line in enumerate(text.splitlines()) if line.startswith("The paper's own figures"))
    assert "7B" in text.splitlines()[note] and "judge" in text.splitlines()[note]
    for (model, method), values in TABLE_1.items():
        printed = ["-" if value is None else f"{value:.2f}" for value in values]
        if tokens == 64:
            printed[COLUMNS.index("Fluency")] = "-"
        assert line(text, f"{model} {method}") == printed
    assert ("--max-new-tokens 600" in text) == (tokens == 64)


def test_the_report_says_how_words_are_split_and_at_which_length_fluency_was_measured(done):
    # Three words: two bigrams, one trigram; half of 2/3 log2 2.
    said = "n-gram entropy of those answers; vanilla 3 words, at most 0.33; edited 3 words, at most 0.33"
    assert f"Fluency: {said}; words at white space" in report(done)


def test_categories_and_the_matrix_of_held_out_prompts(done):
    text = report(done)
    rows = {name: [row for row in text.splitlines() if row.startswith(name)] for name in (MENTAL, RUDE)}
    # By category: DS, DG-Avg and transfer, each with its number; then edited on the row, tested on the column.
    assert rows[MENTAL][0].split()[2:] == ["100.00", "1", "75.00", "4", "100.00", "2"]
    assert rows[RUDE][0].split()[1:] == ["100.00", "1", "25.00", "4", "50.00", "2"]
    assert rows[MENTAL][1].split()[2:] == ["0", "-", "-", "100", *["-"] * 5]
    assert rows[RUDE][1].split()[1:] == ["100", "-", "-", "100", *["-"] * 5]
    assert line(text, "vanilla   ") == ["0", "-", "-", "0", *["-"] * 5]
    read = results.matrix(text)  # as the view Ten questions will, once a report is committed
    nothing = (None,) * 5
    assert read.edited == {RUDE: (100, None, None, 100, *nothing), MENTAL: (0, None, None, 100, *nothing)}
    assert read.vanilla == (0, None, None, 0, *nothing) and results.cases_of(text) == 2


def test_head_failures_and_files(done):
    text = report(done)
    assert "2 of 3 cases scored, 1 failed" in text and "Judge: hand. Marked by hand." in text
    assert "case case-2: The prompt is too long. Shorten it." in text.split("Failed:")[1]
    assert (done / "report.txt").read_text(encoding="utf-8") == text
    scores = json.loads((done / "scores.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    named = {score["name"]: score for score in scores["scores"]}
    assert named["DG-Avg"]["edited"]["value"] == 50.0 and named["transfer"]["edited"]["value"] == 75.0
    assert named["KQA"]["edited"]["n"] == 2 and named["DS"]["source"] == "hand"
    place = scores["matrix"]["categories"].index
    assert scores["matrix"]["edited"][place(MENTAL)][place(RUDE)] == 0.0
    assert scores["matrix"]["n"][place(RUDE)][place(MENTAL)] == 1
    assert scores["categories"][MENTAL][0]["edited"] == named["DS"]["edited"] | {
        "n": 1,
        "low": pytest.approx(20.65, abs=0.01),
    }


def test_no_sweep_and_no_finished_case_are_refused(tmp_path):
    with pytest.raises(EditError, match="holds no sweep"):
        report(tmp_path / "nowhere")
    with pytest.raises(EditError, match="No case of the sweep"):
        report(sweep(tmp_path / "empty"))


@pytest.mark.parametrize("name", ["report.txt", "scores.json"])
def test_a_disk_that_takes_no_more_leaves_the_report_and_the_scores_that_were_there(done, monkeypatch, name):
    report(done)
    before = (done / name).read_bytes()
    store = Store(done)
    store.save(case(2, RUDE, "-------"))
    store.close()

    def full(path: Path) -> None:
        if name in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("inspector.model.whole_file.to_disk", full)
        with pytest.raises(OSError, match="No space"):
            report(done)
    assert (done / name).read_bytes() == before and not list(done.glob("*.partial"))
    report(done)
    assert (done / name).read_bytes() != before
