"""Keep: what leaves, in which form, and what does not."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from dashboard_helpers import QUICK, seen, tiny_model
from keep_helpers import STRICT, edit, rows, unpacked, written
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from dashboard.kit.door.handing import promised
from dashboard.kit.sessions.acting import route
from dashboard.steps.keep.kept import Kept
from dashboard.steps.keep.saving import model_bytes, record_for
from dashboard.steps.keep.texts import saved_line
from dashboard.steps.operate.texts import _live_line
from dashboard.steps.stress.texts import head
from editing.gate import budgets, gate
from editing.gate.budgets import Budgets
from editing.gate.exam import small_exam
from editing.gate.gate import RECORD
from editing.saved import handed_out, load_edit
from editing.saved.adapter import read_adapter
from editing.saved.checking import largest_difference, probes
from inspector.model import Decoding, Detector, Row, encode
from inspector.safeedit.exam import examine, run_exam
from inspector.safeedit.judges import EmbeddedJudge

pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture(autouse=True)
def no_gain_asked(monkeypatch):
    """An edit of the tiny model gains nothing that the gate could see once it is cut to a rank."""

    def accepted(model, row, case, settings, **options):
        return gate.accept(model, row, case, replace(settings, least_gain=0), **options)

    monkeypatch.setattr(handed_out, "accept", accepted)


def test_with_no_edit_there_is_nothing_to_keep_and_it_says_what_to_do(page):
    parts = page.house.rooms["keep"]
    assert "Press Operate" in parts.saving.this_edit.value
    assert all(button.interactive is False for button in parts.saving.writers.values())
    assert "Nothing was made yet" in parts.history.rows_note.value and parts.beside.ask_two.interactive is False


def test_a_patch_leaves_as_the_live_edit_bit_for_bit_with_its_record(visitor, tmp_path):
    identifier = edit(visitor)
    file = written(visitor)
    assert file.name.startswith("dinm-layer") and file.name.endswith(f"{identifier}.zip")
    folder = unpacked(file, tmp_path)
    row, record = load_edit(next(folder.glob("*.json")), visitor.page.context.model)
    live = visitor.session.live
    assert all(torch.equal(one.left, two.left) for one, two in zip(row.patch.deltas, live.patch.deltas, strict=True))
    assert record.case == live.case and record.gate["passed"] and record.may_leave
    assert "no logit differs" in visitor.screen["line_patch"] and visitor.shown["file_patch"] is True
    assert visitor.screen["file_patch"] == str(file) and "patch is there" in visitor.screen["keep_clock"]


def test_an_adapter_is_exact_or_says_what_a_smaller_rank_loses(visitor):
    edit(visitor)
    exact = written(visitor, "adapter", adapter_rank="exact").stat().st_size
    assert visitor.session.slot(Kept).saved["adapter"].lost == 0
    smaller = written(visitor, "adapter", adapter_rank="4").stat().st_size
    saved = visitor.session.slot(Kept).saved["adapter"]
    assert smaller < exact and 0 < saved.lost < 1 and saved.difference > 0


def test_a_merged_model_is_loaded_again_and_answers_as_the_live_edit(visitor, tmp_path):
    edit(visitor)
    folder = unpacked(written(visitor, "model"), tmp_path)
    model, row = visitor.page.context.model, visitor.session.row
    prompt = encode(model, visitor.session.live.case.adversarial_prompt).prompt
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad(), model.running([row]):
        live = model.network(torch.tensor([prompt])).logits
    with torch.no_grad():
        assert torch.allclose(loaded(torch.tensor([prompt])).logits, live, atol=1e-4)


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_what_leaves_has_the_strength_at_which_the_edit_is_live(visitor, tmp_path, kind):
    edit(visitor)
    visitor.session.scale(0.5)
    visitor.do("on_examine", **QUICK)
    model, row = visitor.page.context.model, visitor.session.row
    typed = {"adapter_rank": "exact"} if kind == "adapter" else {}
    folder = unpacked(written(visitor, kind, **typed), tmp_path)
    back = Row(read_adapter(model, folder)) if kind == "adapter" else AutoModelForCausalLM.from_pretrained(folder)
    difference, spread = largest_difference(model, row, back, probes(model, row))
    assert difference < 1e-4 * spread + 1e-5
    at_one, _ = largest_difference(model, replace(row, strength=1.0), back, probes(model, row))
    assert at_one > max(10 * difference, 1e-4), "the strength shows"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("unexamined", "Press Examine in Operate"),
        ("refused", "Keep it anyway"),
        ("scaled", "Examine again"),
        ("none", "no edit is live|No edit is live"),
        ("zero", "strength is 0"),
    ],
)
def test_what_the_gate_has_not_passed_does_not_leave_and_the_remedy_is_named(visitor, change, match):
    if change != "none":
        edit(visitor)
    session = visitor.session
    if change in ("unexamined", "refused"):
        live = session.live
        word = {RECORD: {**live.patch.settings[RECORD], "passed": False}} if change == "refused" else {}
        others = {name: value for name, value in live.patch.settings.items() if name != RECORD}
        patch = replace(live.patch, settings={**others, **word})
        session.edits = [replace(live, result=replace(live.result, patch=patch))]
    elif change in ("scaled", "zero"):
        session.scale(0.5 if change == "scaled" else 0)
    for handler in ("on_write_patch", "on_write_adapter", "on_write_model"):
        with pytest.raises(gr.Error, match=match):
            visitor.do(handler)
    assert session.slot(Kept).saved == {} and session.folders == {}
    assert not visitor.page.house.rooms["keep"].saving._can(session, "patch")


def reading(threshold: float) -> Detector:
    """Return a detector of the tiny model that differs from others in its threshold alone."""
    return Detector((1,), torch.ones(1, 32), 0.0, threshold, tiny_model().fingerprint)


def test_the_gate_s_word_and_a_stress_test_s_scores_are_those_of_one_detector(visitor):
    edit(visitor)
    session, model = visitor.session, visitor.page.context.model
    route(session, reading(1e9))  # never fires, as a file may bring it
    visitor.do("on_examine", **QUICK)
    word = session.live.patch.settings[RECORD]
    assert word["passed"] and word["detector"] == reading(1e9).digest
    decoding, asked = Decoding(max_new_tokens=2), small_exam(session.live.case, 2, 1)
    exam = run_exam(examine(model, asked, session.row, EmbeddedJudge(), decoding=decoding))
    record = record_for(model, session, exam)
    assert record.scores and record.asked == exam.asked and exam.key == session.row.key
    written(visitor)
    history = visitor.page.house.rooms["keep"].desk.history
    assert history.note(session, exam=exam)[0].scores
    label = session.row.label()
    route(session, reading(-1e9))
    assert session.row.label() == label, "what people read is the same"
    with pytest.raises(gr.Error, match="another detector now"):
        visitor.do("on_write_patch")
    assert "another detector" in _live_line(word, session.row, "") and "another detector" in head(exam, session.row)
    assert "another detector" in seen(saved_line(session.slot(Kept).saved["patch"], session.row))
    visitor.do("on_examine", **QUICK)
    record = record_for(model, session, exam)
    assert record.scores == {} and record.asked == "" and written(visitor).exists()
    (row,) = history.note(session, exam=exam)
    assert row.scores and row.scores_of == f"{label}, by another detector"


def test_what_a_person_keeps_against_the_gate_leaves_with_that_on_its_record(visitor, tmp_path):
    visitor.do("on_edit", **STRICT)
    assert [row.gate for row in rows(visitor)] == ["refused"] and visitor.session.live is None
    visitor.do("on_keep")
    assert [(row.gate, row.live) for row in rows(visitor)] == [("kept by hand", True)]
    record = json.loads(next(unpacked(written(visitor), tmp_path).glob("*.json")).read_text())["record"]
    assert record["gate"]["overridden"] and not record["gate"]["passed"]


def test_a_pass_under_budgets_that_the_visitor_has_loosened_leaves_as_kept_by_hand(visitor, tmp_path, monkeypatch):
    monkeypatch.setattr(budgets, "DEFAULTS", Budgets(harmless_kl=0))  # no edit that changes anything keeps them
    edit(visitor)
    said = "Passed under looser budgets, kept by hand"
    assert said in visitor.screen["gate"] and [row.gate for row in rows(visitor)] == ["kept by hand"]
    record = json.loads(next(unpacked(written(visitor), tmp_path).glob("*.json")).read_text())["record"]
    assert record["gate"]["reason"].startswith(said) and record["gate"]["loosened"] == ["harmless_kl"]
    assert record["gate"]["overridden"] and not record["gate"]["passed"]
    visitor.do("on_examine", **STRICT)
    with pytest.raises(gr.Error, match="Keep it anyway"):  # looser budgets are no answer to a refusal
        visitor.do("on_write_patch")


def test_a_live_edit_that_the_gate_refuses_later_can_be_kept_on_the_record(visitor):
    edit(visitor)
    visitor.do("on_examine", **STRICT)
    with pytest.raises(gr.Error, match="Keep it anyway"):
        visitor.do("on_write_patch")
    assert visitor.shown["keep"] is True
    visitor.do("on_keep")
    assert visitor.session.live.patch.settings[RECORD]["overridden"] and written(visitor).exists()


def test_files_go_with_the_next_of_their_kind_and_with_the_session(visitor):
    edit(visitor)
    first, adapter = written(visitor), written(visitor, "adapter", adapter_rank="4")
    second = written(visitor)
    assert not first.exists() and second.exists() and adapter.exists()
    visitor.session.close()
    assert not second.exists() and not adapter.exists()


def test_what_is_written_counts_and_is_refused_where_it_is_too_much(visitor, monkeypatch):
    edit(visitor)
    session = visitor.session
    first = written(visitor)
    monkeypatch.setattr(session, "limits", replace(session.limits, files=first.stat().st_size))
    with pytest.raises(gr.Error, match="files an hour are allowed here"):
        visitor.do("on_write_patch")
    assert first.exists() and visitor.is_free, "the one before stays"
    monkeypatch.setattr(session, "limits", replace(session.limits, files=None, free=2**60))
    with pytest.raises(gr.Error, match="stay free"):
        visitor.do("on_write_model")
    assert list(session.folders) == ["patch"]


def test_a_merged_model_is_written_only_where_the_disk_has_room_for_its_files_and_their_zip(visitor, monkeypatch):
    edit(visitor)
    need = 2 * model_bytes(tiny_model())
    room = SimpleNamespace(free=visitor.session.limits.free + need - 1)
    monkeypatch.setattr("dashboard.kit.door.handing.shutil", SimpleNamespace(disk_usage=lambda _: room))
    with pytest.raises(gr.Error, match="disk space for a while"):
        visitor.do("on_write_model")
    assert visitor.session.folders == {} and visitor.is_free
    room.free += 1
    run = visitor.press("on_write_model")
    while not promised():
        next(run)
    assert promised() == need, "for as long as it is written nobody else is given that room"
    run.close()
    assert promised() == 0 and visitor.session.folders == {}
    assert written(visitor, "model").exists() and promised() == 0


WRITES_TENSORS = {
    "patch": "inspector.model.tensor_file.save_file",
    "adapter": "editing.saved.adapter.save_file",
    "model": "transformers.modeling_utils.safe_save_file",
}
"""Where safetensors writes each form; a full disk is an error of its own there."""


def test_another_fault_of_the_disk_is_told_with_a_remedy_that_is_not_the_visitor_s(visitor, monkeypatch):
    edit(visitor)

    def broken(*_given: Any, **_named: Any) -> Any:
        raise SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)")

    monkeypatch.setattr(WRITES_TENSORS["adapter"], broken)
    with pytest.raises(gr.Error, match="Whoever runs this page has to look at its disk") as caught:
        visitor.do("on_write_adapter", adapter_rank="exact")
    assert "folder" not in caught.value.message and "os error" not in caught.value.message


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_a_file_whose_writing_is_cancelled_leaves_the_one_that_was_there(visitor, kind):
    edit(visitor)
    before = written(visitor, kind)
    content = before.read_bytes()
    for _ in visitor.press(f"on_write_{kind}"):
        if "Writing the" not in visitor.screen["keep_clock"]:  # it is written, and is to be read back
            visitor.do("on_cancel")
    assert "Cancelled; nothing was written" in visitor.screen["keep_clock"]
    assert before.read_bytes() == content and visitor.screen[f"file_{kind}"] == str(before) and visitor.is_free
    assert [path.name for path in before.parent.iterdir()] == [before.name]


@pytest.mark.parametrize("kind", ["patch", "adapter", "model"])
def test_a_disk_that_is_full_leaves_the_file_that_was_there_and_is_told_in_words(visitor, monkeypatch, kind):
    edit(visitor)
    before = written(visitor, kind)
    content = before.read_bytes()

    system = OSError(errno.ENOSPC, "No space left on device", "/srv/secret")
    tensors = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def full(error: Exception) -> Any:
        def write(*_given: Any, **_named: Any) -> Any:
            raise error

        return write

    errors = {"inspector.model.whole_file.os.fsync": system, "dashboard.steps.keep.saving._zip": system}
    errors[WRITES_TENSORS[kind]] = tensors
    for place, error in errors.items():
        with monkeypatch.context() as patch:
            patch.setattr(place, full(error))
            with pytest.raises(gr.Error, match="disk is full") as caught:
                visitor.do(f"on_write_{kind}")
        assert "/srv" not in caught.value.message and "Errno" not in caught.value.message
        assert before.read_bytes() == content and visitor.screen[f"file_{kind}"] == str(before)
        assert "disk is full" in visitor.screen["keep_clock"] and visitor.is_free
    assert written(visitor, kind).exists() and not before.exists()
