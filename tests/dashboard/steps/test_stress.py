"""The stress test without a browser: scores, a run that streams, cancel, stale scores, lists and downloads."""

from __future__ import annotations

import csv
import gc
import io
import json
import types
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
import torch
from dashboard_helpers import QUICK, Page, Visitor, seen
from example_helpers import open_page

from dashboard import api
from dashboard.kit.door.handing import HandedOut
from dashboard.kit.sharing.parts import Visit, plain
from dashboard.steps.stress import figures as stress_figures
from dashboard.steps.stress import rounding
from dashboard.steps.stress import run as stress
from dashboard.steps.stress import texts as stress_texts
from dashboard.steps.stress.judging import Judges, judges_of
from dashboard.steps.stress.report import parts
from dashboard.steps.stress.run import Examined
from editing.suffixes import SCORES, SUFFIXES, Condition, SuffixStudy
from inspector.errors import EditError
from inspector.model import Detector, PromptFormat, Taught
from inspector.model.memory.memory_need import bytes_of
from inspector.model.patches.detector import DetectorReading
from inspector.model.patches.rounded import COMPUTED
from inspector.safeedit import known
from inspector.safeedit.exam import ExamResult, Marked, Reply
from inspector.safeedit.questions import CASE_PROMPTS, Question
from inspector.safeedit.records import reply_from, reply_record
from inspector.safeedit.scores import Estimate, resampling_told, score_table
from inspector.safeedit.verdict import Verdict
from inspector.safeedit.yardstick import YARDSTICK


@pytest.fixture(scope="module")
def guarded(example_folder) -> Page:
    return open_page(example_folder, read_only=True)


def reply(kind: str, label: str | None, text: str = "Some words.", **options) -> Reply:
    verdict = None if label is None else Verdict(label, 0.25, "Because.", "hand")
    vanilla = Marked(
        "Yes & <b>so</b>.", True, "", None if label is None else Verdict("unsafe", 0.0, "No.", "hand"), False, 1.5, None
    )
    return Reply(
        Question(kind, "How?", "mental harm", 3), vanilla, Marked(text, True, "", verdict, False, 2.0, None), **options
    )


def exam(*replies: Reply) -> ExamResult:
    return ExamResult(replies, "DINM · patch 1", "hand", "By hand.", PromptFormat("S"), "same", 8, False, 1.0)


def suffix_study() -> SuffixStudy:
    """A made-up study of one edit."""
    half = Estimate(50.0, 1)
    conditions = tuple(
        Condition(name, edited, dict.fromkeys(SCORES, half)) for edited in (False, True) for name in SUFFIXES
    )
    return SuffixStudy(conditions, SUFFIXES, 1, {}, "95 % intervals of made-up edits.")


def test_the_example_is_scored_and_its_files_can_be_had_at_start(visitor):
    shown = visitor.session.slot(Examined).exam
    assert shown is not None and len(shown.replies) == 42
    assert "refusal rules" in visitor.standing("stress_head") and shown.weights in visitor.standing("stress_head")
    for name in ("stress_csv", "stress_json"):
        assert Path(visitor.standing(name)).stat().st_size > 1000


def test_a_run_fills_the_table_and_ends_idle(visitor):
    updates = visitor.do("on_stress", stress_size="This case", stress_tokens=16)
    assert any("stress_table" in update for update in updates)
    result = visitor.session.slot(Examined).exam
    assert [r.question.kind for r in result.replies] == list(CASE_PROMPTS)
    assert "5 prompts" in visitor.standing("stress_clock")
    assert visitor.is_free and visitor.standing("stress_rows")[0][1] == "DS"
    written = json.loads(Path(visitor.standing("stress_json")).read_text(encoding="utf-8"))
    assert [reply_from(record) for record in written["replies"]] == list(result.replies)


def test_a_cancelled_run_keeps_what_was_answered(visitor):
    run = visitor.press("on_stress", stress_size="Quick", stress_tokens=16)
    for changed in run:
        if "stress_table" in changed and "<table" in visitor.screen["stress_table"]:
            visitor.session.cancelled.set()
    assert visitor.session.slot(Examined).exam.cancelled and len(visitor.session.slot(Examined).exam.replies) == 5
    assert "Cancelled" in visitor.standing("stress_clock") and visitor.is_free


def test_while_it_runs_the_head_is_of_what_is_scored_and_an_error_brings_the_test_before_back(visitor, monkeypatch):
    visitor.do("on_edit", **QUICK)
    names = ("stress_head", "stress_table", "stress_prompt", "stress_vanilla", "stress_rows")
    before = {name: visitor.standing(name) for name in names}
    assert "These scores belong to other weights" in before["stress_head"]
    real = stress.examine_all

    def breaking(*given, **options):
        for progress in real(*given, **options):
            yield progress
            if progress.fresh:
                raise EditError("It broke. Try again.")

    monkeypatch.setattr(stress, "examine_all", breaking)
    seen = []
    with pytest.raises(gr.Error, match="It broke"):
        for changed in visitor.press("on_stress", stress_size="This case", stress_tokens=4):
            if "stress_table" in changed:
                seen.append({name: visitor.standing(name) for name in (*names, "stress_csv")})
    first, *_, answered, _restored = seen
    for shown in (first, answered):
        assert f"being scored: {visitor.session.row.label()}" in shown["stress_head"]
        assert "other weights" not in shown["stress_head"] and shown["stress_rows"] == []
        assert shown["stress_prompt"] == "" and shown["stress_csv"] is None
    assert "fills as answers come" in first["stress_table"] and "DS" in answered["stress_table"]
    assert {name: visitor.standing(name) for name in names} == before
    assert Path(visitor.standing("stress_csv")).is_file() and visitor.is_free


def test_scores_of_other_weights_are_called_so_and_without_an_edit_there_is_nothing_to_score(visitor):
    visitor.do("on_undo")
    assert "Live now: vanilla" in visitor.standing("stress_head")
    with pytest.raises(gr.Error, match="No edit is live"):
        visitor.do("on_stress", stress_size="This case")
    assert visitor.is_free


def test_a_judge_that_is_nowhere_is_refused_with_the_remedy(visitor):
    with pytest.raises(gr.Error, match=r"cannot be loaded.*embedded"):
        visitor.do("on_stress", stress_judge="/nowhere/judge", stress_size="This case")
    assert visitor.is_free and visitor.session.slot(Examined).exam is not None


def test_the_files_of_a_visitor_go_with_the_next_run_and_with_the_visitor(visitor):
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    first = Path(visitor.screen["stress_csv"])
    assert first.is_file() and first.parent.stat().st_mode & 0o077 == 0, "nobody else may read it"
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    second = Path(visitor.screen["stress_json"])
    assert second.is_file() and not first.parent.exists()
    with visitor.page.context.sessions._lock:
        visitor.page.context.sessions._drop(visitor.key)
    gc.collect()
    assert not second.parent.exists()


def test_two_windows_hand_out_the_same_files_which_are_written_once(visitor):
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    first, exam = visitor.screen["stress_csv"], visitor.session.slot(Examined).exam
    had = visitor.session.slot(HandedOut).files
    paths = stress.write_files(visitor.page.context.model, exam, visitor.session)
    assert paths == (first, visitor.screen["stress_json"]) and visitor.session.slot(HandedOut).files == had
    Path(first).unlink()
    again = stress.write_files(visitor.page.context.model, exam, visitor.session)
    assert Path(again[0]).is_file() and again != paths


def test_files_of_scores_count_among_a_visitor_s_and_where_they_are_too_much_the_scores_are_shown_without(
    visitor, monkeypatch
):
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    had = sum(Path(visitor.screen[name]).stat().st_size for name in ("stress_csv", "stress_json"))
    assert visitor.session.slot(HandedOut).files[-1][1] == had
    for limits, why in (({"files": had}, "files an hour are allowed"), ({"files": None, "free": 2**60}, "stay free")):
        monkeypatch.setattr(visitor.session, "limits", replace(visitor.session.limits, **limits))
        with pytest.warns(UserWarning, match=why):
            visitor.do("on_stress", stress_size="This case", stress_tokens=4)
        assert visitor.screen["stress_csv"] is None and visitor.session.slot(stress.Examined).exam is not None
    assert visitor.is_free


def test_a_read_only_demo_takes_no_judge_of_one_s_own(guarded):
    with pytest.raises(gr.Error, match="read-only"):
        Visitor(guarded).do("on_stress", stress_judge="someone/judge", stress_size="This case")


def test_a_clicked_line_shows_its_answer_whatever_the_order(visitor):
    event = types.SimpleNamespace(row_value=["3", "otherA"], index=[0, 0])
    visitor.select("on_answer", event)
    assert visitor.screen["stress_prompt"] == visitor.session.slot(Examined).exam.replies[2].question.prompt
    assert "blurred" in visitor.classes["stress_vanilla"]


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        ("All", "1234"),
        ("Edited unsafe", "2"),
        ("Verdict changed", "1"),
        ("Degenerate", "3"),
        ("Harmless refused", "4"),
        ("Parroted", "4"),
        ("Quoted", "4"),
        ("Harm missed", "2"),
    ],
)
def test_the_filters_let_through_what_they_say(chosen, numbers):
    whole = Marked("ok", True, "", None, False, 1.0, None)
    broken = Marked("", True, "empty: It is empty.", None, False, 0.0, None)
    refused = Marked("No.", True, "", None, True, 0.0, None, parroted=True, quoted=True)
    replies = (
        reply("DS", "safe"),
        reply("onlyQ", "unsafe", held_back=True),
        Reply(Question("passage", "?"), broken, broken),
        Reply(Question("harmless", "?"), refused, refused, held_back=True),
    )
    assert whole.degenerate == ""
    assert "".join(row[0] for row in stress.answer_rows(replies, chosen).cells) == numbers


def test_the_csv_has_a_line_an_answer_and_no_cell_that_a_spreadsheet_runs():
    result = exam(reply("DS", "safe", text="=1+1"), reply("harmless", None, kl=0.5, likeness=0.25))
    lines = list(csv.DictReader(io.StringIO(stress.as_csv(result))))
    assert len(lines) == 4 and tuple(lines[0]) == stress.COLUMNS
    assert lines[1]["answer"] == "'=1+1" and lines[1]["mark"] == "safe" and lines[1]["reason"] == "Because."
    assert lines[3]["kl_nats"] == "0.500000" and lines[3]["mark"] == "answered"


def test_a_reply_comes_back_from_its_record():
    one = reply("fact", None, kl=0.1)
    assert reply_from(json.loads(json.dumps(reply_record(one)))) == one


def test_what_is_shown_is_escaped_and_names_judge_and_weights():
    result = exam(reply("DS", "safe"))
    table = score_table(result.replies, "<judge>")
    assert "&lt;judge&gt;" in stress_texts.table(table) and "<judge>" not in stress_texts.table(table)
    said = stress_texts.verdict(result.replies[0].question, result.replies[0].edited, True, "hand")
    assert "edited: safe" in said and "judge: hand" in said and "Because." in said
    assert "+100.0" in stress_texts.table(table)


def test_the_charts_show_vanilla_and_edited_with_their_intervals():
    replies = [reply("DS", "safe"), reply("transfer", "unsafe")]
    bars = stress_figures.score_bars(score_table(replies, "hand"))
    edited, vanilla = bars.data
    values = dict(zip(edited.y, edited.x, strict=True))
    assert values["DS ↑"] == 100.0 and values["transfer ↑"] == 0.0 and set(vanilla.x) == {0.0}
    assert dict(zip(edited.y, edited.error_x.arrayminus, strict=True))["DS ↑"] == pytest.approx(79.35, abs=0.01)
    assert stress_figures.category_bars(replies).data[0].y == ("mental harm (2)",)


@pytest.fixture
def no_rows_yet() -> None:
    """No test has asked rounded weights anything."""
    rounding._ROWS.clear()


@pytest.mark.usefixtures("no_rows_yet")
def test_the_rounding_row_comes_with_a_test_and_stands_beside_the_scores_of_the_same_harmless_prompts(
    visitor, monkeypatch
):
    visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
    kept = visitor.session.slot(Examined)
    assert kept.exam.max_new_tokens == 4 and {score.name for score in kept.yardstick} == set(YARDSTICK)
    assert "Rounded</button></th>" in visitor.screen["stress_table"]
    assert f"Rounded: {COMPUTED}." in seen(visitor.screen["stress_table"]), "the tiny model computes in float32"
    assert "bfloat16 by itself does" in visitor.screen["stress_reading"]
    assert "prompts, each answered by" in visitor.screen["stress_clock"]
    assert visitor.screen["rounding"] == "The rounding row is there" and not visitor.usable["rounding"]
    assert [r.question.prompt for r in kept.rounded.replies] == [
        r.question.prompt for r in kept.exam.replies if r.question.kind == "harmless"
    ]
    assert visitor.is_free
    row = kept.rounded
    with monkeypatch.context() as patch:
        patch.setattr(rounding, "rounding_exam", lambda *_given, **_how: pytest.fail("it is asked once a model"))
        visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
        assert kept.rounded.replies == row.replies and kept.yardstick
        patch.setattr(rounding, "why_not_rounded", lambda _model: "No rounding row: this model is bfloat16 already")
        visitor.do("on_stress", stress_size="Quick", stress_tokens=5)
    assert kept.yardstick == (), "answers of another length are no yardstick"
    assert "Rounded</button></th>" not in visitor.screen["stress_table"]
    assert "No rounding row: this model is bfloat16 already." in seen(visitor.screen["stress_table"])


@pytest.mark.usefixtures("no_rows_yet")
def test_the_rounded_weights_alone_are_asked_what_vanilla_has_just_answered(visitor, monkeypatch, model):
    asked = []
    own = known.generate

    def generating(network, *given):
        asked.append(network is model)
        return own(network, *given)

    monkeypatch.setattr(known, "generate", generating)
    monkeypatch.setattr("inspector.safeedit.asking.in_step", lambda *_: pytest.fail("vanilla is asked again"))
    visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
    kept = visitor.session.slot(Examined)
    assert asked and not any(asked) and kept.yardstick
    before = {r.question.prompt: r.vanilla.text for r in kept.exam.replies}
    assert [r.vanilla.text for r in kept.rounded.replies] == [before[r.question.prompt] for r in kept.rounded.replies]


@pytest.mark.usefixtures("no_rows_yet")
def test_memory_that_runs_out_costs_the_rounding_row_and_not_the_test(visitor, monkeypatch):
    monkeypatch.setattr("editing.memory.free_memory", lambda _device: 1)
    visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
    kept = visitor.session.slot(Examined)
    assert kept.exam.max_new_tokens == 4 and kept.yardstick == () and visitor.is_free
    assert "No rounding row: A second network" in seen(visitor.screen["stress_table"])


def test_rounding_without_harmless_prompts_and_without_scores_is_refused_with_the_remedy(visitor):
    visitor.do("on_stress", stress_size="This case", stress_tokens=4)
    with pytest.raises(gr.Error, match="Choose Quick or Full"):
        visitor.do("on_rounding")
    assert visitor.is_free


def test_a_second_network_that_does_not_fit_is_not_begun(visitor, monkeypatch, model):
    visitor.do("on_stress", stress_size="Quick", stress_tokens=4)
    visitor.session.slot(Examined).rounded = None
    rounding._ROWS.clear()
    monkeypatch.setattr("editing.memory.free_memory", lambda _device: sum(bytes_of(model.network).values()) - 1)
    monkeypatch.setattr("inspector.safeedit.yardstick.rounded", lambda _model: pytest.fail("it was begun"))
    with pytest.raises(gr.Error, match=r"second network.*more memory"):
        visitor.do("on_rounding")
    assert visitor.session.slot(Examined).rounded is None and visitor.is_free


def test_the_bytes_of_a_network_are_those_of_its_parameters_and_buffers_tied_ones_once():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    network[1].weight = network[0].weight
    assert sum(bytes_of(network).values()) == 4 * (9 + 3 + 3 + 3 + 3 + 3 + 3) + 8


def test_a_model_that_is_bfloat16_already_or_quantised_has_no_rounding_row_and_says_why(model):
    assert rounding.why_not_rounded(model) is None
    half = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    assert "bfloat16 already" in rounding.why_not_rounded(types.SimpleNamespace(network=half, quantisation=None))
    assert "quantised (nf4)" in rounding.why_not_rounded(types.SimpleNamespace(network=half, quantisation="nf4"))


def test_the_suffix_panel_tells_suffix_alone_weights_alone_and_both(visitor, monkeypatch):
    monkeypatch.setattr(stress, "SUFFIX_SIZE", {"harmless": 2, "max_new_tokens": 3})
    assert "Not asked yet" in visitor.standing("study_reading")
    visitor.do("on_suffixes")
    study = visitor.session.slot(Examined).study
    assert len(study.conditions) == 6
    for words in ("neither", "the paper&#x27;s S alone", "weights alone", "both, the paper&#x27;s S"):
        assert words in visitor.screen["study"], words
    assert "by the edited weights alone" in visitor.screen["study_reading"]
    assert "other weights" not in visitor.screen["study_reading"]
    visitor.do("on_undo")
    assert "made of other weights" in visitor.screen["study_reading"]
    assert visitor.screen["suffixes"] == "No edit to ask with each suffix"
    with pytest.raises(gr.Error, match="no weights to compare"):
        visitor.do("on_suffixes")
    assert visitor.is_free


@pytest.mark.usefixtures("no_rows_yet")
def test_a_cancelled_suffix_study_and_rounding_keep_what_was_there(visitor, monkeypatch):
    monkeypatch.setattr(stress, "SUFFIX_SIZE", {"harmless": 2, "max_new_tokens": 3})
    for handler in ("on_suffixes", "on_rounding"):
        run = visitor.press(handler)
        next(run)
        visitor.session.cancelled.set()
        list(run)
        assert "what was measured before stays" in visitor.screen["stress_clock"]
    kept = visitor.session.slot(Examined)
    assert kept.study is None and kept.rounded is None and visitor.is_free


def test_the_list_says_which_harmless_answers_still_answer_and_what_parrots():
    harmless = Question("harmless", "How do I boil rice?")
    vanilla = Marked("Boil rice in water.", True, "", None, False, 1.0, None)
    away = Marked("Insulting people is hurtful.", True, "", None, False, 1.0, None, parroted=True)
    rows = stress.answer_rows([Reply(harmless, vanilla, vanilla), Reply(harmless, vanilla, away)], "All").cells
    assert [row[6:9] for row in rows] == [["yes", "-", "-"], ["no", "yes", "-"]]


def test_list_and_files_say_of_every_prompt_its_score_and_the_threshold_and_what_the_detector_missed():
    read = {"held_back": True, "reading": DetectorReading(0.1254, 0.5)}, {"reading": DetectorReading(0.75, 0.5)}
    kinds = ("otherQ", "unsafe"), ("harmless", None)
    replies = [reply(*kind, **more) for more in read for kind in kinds] + [reply("DS", "safe")]
    told = [
        "0.125 < 0.500, missed",
        "0.125 < 0.500, no harm",
        "0.750 ≥ 0.500, found",
        "0.750 ≥ 0.500, false alarm",
        "-",
    ]
    place = stress.AnswerRows.HEADERS.index("Detector")
    assert [row[place] for row in stress.answer_rows(replies, "All").cells] == told
    lines = list(csv.DictReader(io.StringIO(stress.as_csv(exam(*replies)))))[1::2]
    found = [(line["detector_score"], line["detector_threshold"]) for line in lines]
    assert found == [("0.125400", "0.500000")] * 2 + [("0.750000", "0.500000")] * 2 + [("", "")]


def test_above_the_edited_answer_stands_what_the_detector_read_of_its_prompt(visitor):
    missed = reply("otherQ", "unsafe", held_back=True, reading=DetectorReading(0.125, 0.5))
    visitor.session.slot(Examined).exam = exam(missed, reply("DS", "safe"))
    visitor.reload()
    for line, told in (("1", True), ("2", False)):
        visitor.select("on_answer", types.SimpleNamespace(row_value=[line], index=[0, 0]))
        said = "Detector: score 0.125, threshold 0.500: no harm detected, the vanilla weights answered"
        assert (said in visitor.screen["stress_edited_head"]) is told
        assert "Detector" not in visitor.screen["stress_vanilla_head"]


def test_the_reading_says_how_many_prompts_get_a_training_sentence():
    def given(kind: str, **marks) -> Reply:
        one = reply(kind, "safe" if kind == "otherQ" else None)
        return replace(
            one, question=replace(one.question, taught=(Taught("No."),)), edited=replace(one.edited, **marks)
        )

    replies = [given("otherQ", quoted=True), given("otherQ"), given("harmless", quoted=True, parroted=True)]
    said = stress_texts.scores_reading(score_table(replies, "hand"))
    assert "33 % parroted; a training sentence given to 50 % of harmful and 100 % of harmless prompts" in said


def test_the_reading_counts_where_a_routed_edit_s_detector_let_it_act_and_calls_false_alarms_so():
    def read(*replies: Reply, routed: bool = True) -> str:
        return stress_texts.scores_reading(score_table(replies, "hand"), replies=replies, routed=routed)

    said = read(reply("DS", "safe"), reply("onlyQ", "safe", held_back=True), reply("harmless", None, held_back=True))
    assert "act on 1 of 2 harmful prompts, 0 of 1 harmless prompts; the others got the vanilla answer" in said
    everywhere = read(reply("DS", "safe"), reply("harmless", None), reply("harmless", None))
    assert "act on 1 of 1 harmful prompts, 2 of 2 harmless prompts (false alarms); it held back none" in everywhere
    assert "detector" not in read(reply("DS", "safe"), reply("harmless", None), routed=False)


def test_page_and_report_tell_of_false_alarms_where_the_detector_fires_on_everything(visitor):
    fires = replace(exam(reply("DS", "safe"), reply("harmless", None)), detector="0" * 16)
    for shown, told in ((fires, True), (replace(fires, detector=""), False)):
        visitor.session.slot(Examined).exam = shown
        (part,) = parts(Visit(visitor.session))
        for said in (part.figures[0].reading, visitor.reload().standing("stress_reading")):
            assert ("1 of 1 harmless prompts (false alarm)" in said) is told


def test_page_and_report_say_below_each_table_what_its_intervals_were_resampled_from(visitor):
    kept = visitor.session.slot(Examined)
    kept.exam = exam(reply("DS", "safe"), reply("harmless", None, kl=0.1))
    told = resampling_told(score_table(kept.exam.replies, "hand"))
    kept.study = suffix_study()
    (part,) = parts(Visit(visitor.session))
    report, page = "".join(part.readings), visitor.reload().standing("stress_table")
    assert "resampled" in told
    for sentence, shown in ((told, report), (told, page), (kept.study.resampled, report)):
        assert sentence.replace(" ", "") in plain(shown).replace(" ", ""), "words that are terms stand in buttons"
    bare = stress_texts.suffix_table(replace(kept.study, resampled=""))
    assert "intervals" not in bare and stress_texts.suffix_table(kept.study).startswith(bare)


def test_page_and_report_say_that_a_routed_edit_s_weights_act_on_every_prompt_in_the_suffix_panel(visitor, model):
    session, kept = visitor.session, visitor.session.slot(Examined)
    kept.study, kept.studied = suffix_study(), session.weights.label()
    for detector in (None, Detector((1,), torch.ones(1, 32), 0.0, 0.0, model.fingerprint)):
        session.detector = detector
        page, (part,) = visitor.reload(), parts(Visit(session))
        for said in (page.standing("study") + page.standing("study_reading"), "".join(part.readings)):
            rows = said.count("edited weights on every prompt, suffix: "), said.count("vanilla weights, suffix: ")
            assert rows == (0 if detector is None else len(SUFFIXES), len(SUFFIXES))
            assert (stress_texts.SUFFIXES_EVERYWHERE in said) is (
                detector is not None
            ) and "other weights: " not in said
    kept.study = None
    assert stress_texts.SUFFIXES_EVERYWHERE in visitor.reload().standing("study_reading"), "before it is asked, too"


def test_a_page_and_its_programs_share_the_judges_that_are_loaded(page, monkeypatch):
    made: list[Judges] = []
    monkeypatch.setattr(api, "judges_of", lambda context: made.append(judges_of(context)) or made[-1])
    with gr.Blocks(analytics_enabled=False):
        api.connect(page.context)
    assert made == [page.house.rooms["stress"].judges]
