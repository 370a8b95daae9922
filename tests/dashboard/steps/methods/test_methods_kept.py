"""Methods: standings kept on disk and in the history of edits, and how their scores are told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dashboard_helpers import GENEROUS, seen, tiny_model

from dashboard.kit.sessions.session import LARGEST_HISTORY, LiveEdit, Session
from dashboard.steps.methods import run as methods
from dashboard.steps.methods import texts as methods_texts
from dashboard.steps.methods.state import Compared
from editing.standing import Standing
from editing.standing_file import load_standings, save_standings
from inspector.errors import CaseError, PatchError
from inspector.model import Delta, Patch
from inspector.safeedit import bundled_cases

pytestmark = pytest.mark.usefixtures("model")


def test_loading_a_patch_again_drops_no_other_edit_from_undo(visitor, monkeypatch):
    monkeypatch.setattr("dashboard.kit.sessions.session.HISTORY", 2)
    first = visitor.session.live
    for _ in range(3):
        visitor.do("on_method_load", methods_picked="FT-L", **GENEROUS)
    assert [edit.patch.method for edit in visitor.session.edits] == ["DINM", "FT-L"]
    assert visitor.session.edits[0] is first


def test_companions_are_one_case_of_each_other_category_and_none_that_is_scored():
    case = bundled_cases()[3]
    found = methods.companions(case, methods.TOGETHER)
    assert len({c.category for c in found}) == len(found) == 8 and case.category not in {c.category for c in found}
    assert all(c.split == "edit" for c in found) and methods.companions(case, methods.ALONE) == ()


def test_standings_come_back_from_disk_with_and_without_patches(visitor, tmp_path):
    made = visitor.session.slot(Compared).contest.standings
    further = bundled_cases()
    made = tuple(
        replace(s, result=replace(s.result, learnt_from=further[:n], closing=n == 1)) for n, s in enumerate(made)
    )
    for patches in (True, False):
        folder = tmp_path / str(patches)
        save_standings(made, folder, patches)
        read = load_standings(folder)
        assert methods_texts.rows(read) == methods_texts.rows(made)
        assert [s.exam for s in read] == [s.exam for s in made]
        assert [s.result.settings for s in read] == [s.result.settings for s in made]
        assert [s.result.closing for s in read] == [n == 1 for n in range(len(made))]
        assert [s.result.learnt_from for s in read] == [s.result.learnt_from for s in made]
        for one, two in zip(read, made, strict=True):
            kept = one.result.patch.identifier if one.result.patch else None
            assert kept == (two.result.patch.identifier if patches and two.result.patch else None)
            assert np.allclose(one.shift.vanilla, two.shift.vanilla, rtol=1e-4)
            assert np.allclose(one.toxicity.after, two.toxicity.after, rtol=1e-4)
    with pytest.raises(PatchError, match="Run the contest again"):
        load_standings(tmp_path / "nowhere")


def test_scores_that_are_so_by_construction_are_marked(visitor):
    known = replace(visitor.session.slot(Compared).contest, rounded=None, unrounded="No rounding row: it is off")
    text = methods_texts.all_scores(known)
    assert text.count(" *</td>") == 2 and "* so by construction" in text, "vanilla against itself: DL and KL"
    said = "what bfloat16 by itself does to it, is the column Rounded of a stress test. No rounding row: it is off."
    assert said in seen(text) and "Rounded</button></th>" not in text


def test_each_method_s_fluency_has_its_own_length_and_its_own_number_of_answers(visitor):
    contest = visitor.session.slot(Compared).contest
    known = contest.standings[0]
    exam = known.exam

    def scores_of(*standings: Standing) -> list[str]:
        return methods_texts.all_scores(replace(contest, standings=standings, rounded=None)).split("<tr>")

    judged = [n for n, reply in enumerate(exam.replies) if reply.edited.verdict is not None]

    def saying(text: str, count: int) -> Standing:
        chosen = [exam.replies[n] for n in judged[:count]]
        said = tuple(replace(one, edited=replace(one.edited, text=text, fluency=1.0)) for one in chosen)
        return replace(known, exam=replace(exam, replies=said))

    short, long = saying("No thanks", 2), saying("I would rather not do that", 3)
    (line,) = [line for line in scores_of(short, long) if "those answers" in line]
    head, _, *cells = line.split("<td>")
    assert "words at white space" in head and "edited" not in head and "n 2" not in head and "n 3" not in head
    assert "edited 2 words" in cells[0] and "n 2<" in cells[0]
    assert "edited 6 words" in cells[1] and "n 3<" in cells[1]
    (line,) = [line for line in scores_of(short, short) if "those answers" in line]
    assert "edited 2 words" in line.split("<td>")[0] and "n 2;" in line.split("<td>")[0], "what they share stands once"


def test_the_history_of_edits_has_a_limit_in_bytes(visitor, monkeypatch):
    monkeypatch.setattr("dashboard.kit.sessions.session.LARGEST_HISTORY", 3 * 32 * 48 * 4)
    session, made = Session(), visitor.session.live.result
    for number in range(5):
        delta = Delta("model.layers.1.mlp.down_proj", 1, made.patch.deltas[0].dense() * (number + 1))
        session.add(LiveEdit(bundled_cases()[0], replace(made, patch=Patch((delta,), made.patch.fingerprint, "DINM"))))
    assert len(session.edits) == 3 and LARGEST_HISTORY == 2**30


def test_a_patch_that_was_not_kept_cannot_be_loaded(visitor):
    session = visitor.session
    known = session.slot(Compared).contest
    lost = tuple(replace(s, result=replace(s.result, patch=None)) for s in known.standings)
    session.slot(Compared).contest = replace(known, standings=lost)
    with pytest.raises(CaseError, match="Press Run methods"):
        next(methods.patch_of(tiny_model(), session, "SFT"))
    session.slot(Compared).contest = known
    for kept, title, why in (
        (True, "SFT", ""),
        (False, "SFT", "not kept: run it first"),
        (True, "Self-Reminder", "it has none"),
    ):
        session.slot(Compared).contest = known if kept else replace(known, standings=lost)
        visitor.do("on_method_picked", methods_picked=title)
        assert visitor.usable["methods_load"] is (why == "") and why in visitor.screen["methods_load"]
        drawn = visitor.reload()
        assert why in drawn.standing("methods_load")
