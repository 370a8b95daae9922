"""Scores as they are drawn and read, on the page and in a report."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stress_helpers import exam, reply, suffix_study

from dashboard.kit.sharing.parts import Visit, plain
from dashboard.steps.stress import figures as stress_figures
from dashboard.steps.stress import texts as stress_texts
from dashboard.steps.stress.report import parts
from dashboard.steps.stress.run import Examined
from inspector.model import Taught
from inspector.safeedit.exam import Reply
from inspector.safeedit.scores import resampling_told, score_table


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
