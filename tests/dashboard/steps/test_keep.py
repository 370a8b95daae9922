"""Keep: what leaves, what comes in, the rows of a visit, two edits side by side. The page starts without an example."""

from __future__ import annotations

import errno
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from dashboard_helpers import QUICK, Page, Visitor, own_question, tiny_model

from dashboard.example.make import Example
from dashboard.kit.limits import OTHERS, Limits
from dashboard.kit.session import Session
from dashboard.kit.visitors import Sessions
from dashboard.page import House, launch_options
from dashboard.steps.keep.history import Kept
from dashboard.steps.keep.incoming_part import IncomingPart
from dashboard.steps.keep.ledger import LedgerError
from dashboard.steps.operate.gating import Gated
from editing.gate import RECORD
from editing.saved import load_edit
from editing.saved.incoming import most_upload
from inspector.model import VANILLA, Decoding, answer, encode

pytestmark = pytest.mark.usefixtures("model")
STRICT = {**QUICK, "allowed_harmless_kl": 0}
"""Any edit that changes anything is refused."""


def page_of(folder: Path, **options: Any) -> Page:
    """Build a page that shows no example."""
    model = tiny_model()
    with gr.Blocks(analytics_enabled=False) as app:
        example = Example(model, Decoding(max_new_tokens=8), folder, wanted=False)
        house = House(model, Sessions(), example, options.pop("read_only", False), **options)
        house.build()
        house.connect_to(app)
    return Page(app, house)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page, built once: what a visitor does stays theirs."""
    return page_of(tmp_path_factory.mktemp("keep"))


def edit(visitor: Visitor, **changes: Any) -> str:
    """Make an edit and return its patch's name."""
    visitor.do("on_edit", **{**QUICK, **changes})
    return visitor.session.live.patch.identifier


def rows(visitor: Visitor) -> list[Any]:
    """Return the visitor's rows in the ledger."""
    room = visitor.page.house.rooms["keep"]
    return room.desk.ledger.entries(visitor.session.slot(Kept).visit)


def written(visitor: Visitor, kind: str = "patch", **typed: Any) -> Path:
    """Write the live edit and return the zip that can be downloaded."""
    visitor.do(f"on_write_{kind}", **typed)
    return Path(visitor.session.slot(Kept).saved["merged model" if kind == "model" else kind].path)


def unpacked(file: Path, folder: Path) -> Path:
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    return folder


def taken_in(visitor: Visitor, *files: Path, **changes: Any) -> None:
    """Bring copies of files in, as a browser does."""
    visitor.do("on_take_in", **{**QUICK, **changes}, upload=[str(file) for file in files])


def copied(file: Path, target: Path) -> Path:
    target.write_bytes(file.read_bytes())
    return target


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
    from transformers import AutoModelForCausalLM

    edit(visitor)
    folder = unpacked(written(visitor, "model"), tmp_path)
    model, row = visitor.page.context.model, visitor.session.row
    prompt = encode(model, visitor.session.live.case.adversarial_prompt).prompt
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad(), model.running([row]):
        live = model.network(torch.tensor([prompt])).logits
    with torch.no_grad():
        assert torch.allclose(loaded(torch.tensor([prompt])).logits, live, atol=1e-4)


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


def test_what_a_person_keeps_against_the_gate_leaves_with_that_on_its_record(visitor, tmp_path):
    visitor.do("on_edit", **STRICT)
    assert [row.gate for row in rows(visitor)] == ["refused"] and visitor.session.live is None
    visitor.do("on_keep")
    assert [(row.gate, row.live) for row in rows(visitor)] == [("kept by hand", True)]
    record = json.loads(next(unpacked(written(visitor), tmp_path).glob("*.json")).read_text())["record"]
    assert record["gate"]["overridden"] and not record["gate"]["passed"]


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


def test_a_saved_edit_comes_back_after_a_reload_and_is_held_to_the_gate(visitor, page, tmp_path):
    identifier = edit(visitor)
    file = copied(written(visitor), tmp_path / "edit.zip")
    other = Visitor(page, "another one")
    taken_in(other, file)
    session = other.session
    assert session.live.patch.identifier == identifier and session.live.patch.settings[RECORD]["passed"]
    assert session.live.patch.settings[RECORD]["weights"] == session.row.label()
    assert not file.exists(), "what was sent is deleted"
    (row,) = rows(other)
    assert (row.origin, row.live, row.gate) == ("uploaded", True, "passed") and "is live" in other.screen["keep_clock"]
    assert written(other).exists(), "and it can leave again"


def test_an_edit_that_the_gate_refuses_comes_in_held_back_and_can_be_kept(visitor, page, tmp_path):
    identifier = edit(visitor)
    file = copied(written(visitor), tmp_path / "edit.zip")
    other = Visitor(page, "a strict one")
    taken_in(other, file, allowed_harmless_kl=0)
    assert other.session.live is None and other.session.slot(Gated).held.edit.patch.identifier == identifier
    assert "held back" in other.screen["keep_clock"] and "Refused by the gate" in other.screen["gate"]
    other.do("on_keep")
    assert other.session.live.patch.identifier == identifier


def test_a_strength_comes_back_as_it_was_saved_and_examined(visitor, page, tmp_path):
    edit(visitor)
    visitor.session.scale(0.5)
    visitor.do("on_examine", **QUICK)
    file = copied(written(visitor), tmp_path / "edit.zip")
    other = Visitor(page, "a half one")
    taken_in(other, file)
    assert other.session.strength == 0.5 and "strength 0.5" in other.session.live.patch.settings[RECORD]["weights"]
    assert other.screen["strength"] == 0.5 and written(other).exists()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("edit.zip", b"PK not really", "cannot be unpacked"),
        ("edit.safetensors", b"nothing", "cannot be read"),
        ("edit.json", b"{}", "no patch in what was given"),
        ("edit.exe", b"", "neither a patch nor"),
    ],
)
def test_a_bad_file_changes_nothing_and_says_why(visitor, tmp_path, name, content, match):
    before = edit(visitor)
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(gr.Error, match=match):
        taken_in(visitor, file)
    assert visitor.session.live.patch.identifier == before and visitor.session.slot(Gated).held is None
    assert [row.patch for row in rows(visitor)] == [before] and not file.exists() and visitor.is_free


def test_a_file_that_cannot_be_read_is_told_without_a_path_and_without_the_library_s_words(visitor, tmp_path):
    path = tmp_path / "edit.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(gr.Error, match="Choose another file") as caught:
        taken_in(visitor, path)
    assert "/" not in caught.value.message and "header" not in caught.value.message.lower()


def test_two_visitors_who_send_the_same_file_share_it_and_neither_breaks_the_other(visitor, page, tmp_path):
    """Gradio stores a file under the hash of its content: both have the same path."""
    identifier = edit(visitor)
    file = copied(written(visitor), tmp_path / "edit.zip")
    content = file.read_bytes()
    one, other = Visitor(page, "first sender"), Visitor(page, "second sender")
    given = {**QUICK, "upload": [str(file)]}
    slow = one.press("on_take_in", **given)
    next(slow)  # the first one's copy is its own by now, and the upload is gone
    assert not file.exists()
    with pytest.raises(gr.Error, match="Choose the file again"):
        other.do("on_take_in", **given)
    file.write_bytes(content)
    waiting = other.press("on_take_in", **given)
    next(waiting)
    list(slow)
    list(waiting)
    for session in (one.session, other.session):
        assert session.live.patch.identifier == identifier and "incoming" not in session.folders


def test_no_file_is_told(visitor):
    with pytest.raises(gr.Error, match="No file is given"):
        taken_in(visitor)


def test_every_edit_has_a_row_and_one_is_live(visitor):
    first = edit(visitor, block=0)
    second = edit(visitor, block=1)
    visitor.do("on_edit", **STRICT, block=2)
    listed = rows(visitor)
    assert [row.patch for row in listed[:2]] == [first, second] and len(listed) == 3
    assert [row.live for row in listed] == [False, True, False] and [row.gate for row in listed][2] == "refused"
    assert [row.where for row in listed] == ["layer 0", "layer 1", "layer 2"]
    assert all(row.settings["steps"] == 3 and row.updates == 3 for row in listed)
    table = visitor.screen["rows_table"]
    assert [line[0] for line in table] == ["3", "2", "1"]
    assert [line[-1] for line in table] == ["held back", "live", "under Undo"]
    edit(visitor, block=1)
    assert len(rows(visitor)) == 3, "the same edit, to the bit, has one row"


def test_a_program_s_edits_are_written_down_as_well(visitor):
    from dashboard.kit.acting import make_live

    edit(visitor, block=0)
    live = visitor.session.live
    with visitor.page.context.reserved(visitor.request) as session:
        other = replace(live.patch, deltas=tuple(replace(d, left=0.5 * d.left) for d in live.patch.deltas))
        make_live(session, replace(live, result=replace(live.result, patch=other)), None)
    assert [row.live for row in rows(visitor)] == [False, True]


def test_undo_redo_and_a_new_edit_that_ends_redo(visitor):
    first, second = edit(visitor, block=0), edit(visitor, block=1)
    visitor.do("on_undo_here")
    assert visitor.session.live.patch.identifier == first and visitor.screen["redo_edit"] == "Redo"
    visitor.do("on_redo")
    assert visitor.session.live.patch.identifier == second and visitor.screen["redo_edit"] == "Nothing to redo"
    assert second in visitor.screen["edited_head"], "both answers are asked anew"
    visitor.do("on_undo")
    visitor.do("on_undo")
    assert visitor.session.live is None
    visitor.do("on_redo")
    assert visitor.session.live.patch.identifier == first
    edit(visitor, block=2)
    with pytest.raises(gr.Error, match="nothing to redo"):
        visitor.do("on_redo")


def test_a_row_is_made_live_again_only_when_that_is_asked_for(visitor):
    first, second = edit(visitor, block=0), edit(visitor, block=1)
    before = [edit.patch.identifier for edit in visitor.session.edits]
    visitor.select("on_row_clicked", SimpleNamespace(row_value=["1"]))
    assert first in visitor.screen["row_details"] and visitor.screen["again"] == "Make live again"
    visitor.do("on_row_picked", row_picked=2)
    assert second in visitor.screen["row_details"] and visitor.screen["again"] == "It is live"
    assert [edit.patch.identifier for edit in visitor.session.edits] == before, "looking at rows changes nothing"
    with pytest.raises(gr.Error, match="live already"):
        visitor.do("on_again", row_picked=2)
    visitor.do("on_again", row_picked=1)
    assert visitor.session.live.patch.identifier == first
    assert [row.live for row in rows(visitor)] == [True, False]


def test_a_refused_row_has_to_pass_the_gate_before_it_is_live(visitor):
    visitor.do("on_edit", **STRICT, block=0)
    edit(visitor, block=1)
    assert visitor.session.slot(Gated).held is None
    visitor.do("on_row_picked", row_picked=1)
    assert visitor.screen["again"] == "Ask the gate again"
    visitor.do("on_again", **STRICT, row_picked=1)
    assert visitor.session.live.patch.identifier == rows(visitor)[1].patch and rows(visitor)[0].gate == "refused"
    visitor.do("on_again", **QUICK, row_picked=1)
    assert visitor.session.live.patch.identifier == rows(visitor)[0].patch and rows(visitor)[0].gate == "passed"


def test_a_row_is_named_and_deleted_and_nothing_that_is_live_changes(visitor):
    first, second = edit(visitor, block=0), edit(visitor, block=1)
    visitor.do("on_rename_row", row_picked=1, row_name="  my <b>first</b>\n try ")
    assert rows(visitor)[0].name == "my <b>first</b> try" and visitor.screen["row_name"] == ""
    with pytest.raises(gr.Error, match="at most 60"):
        visitor.do("on_rename_row", row_picked=1, row_name="x" * 61)
    with pytest.raises(gr.Error, match="never changes what is live"):
        visitor.do("on_delete_row", row_picked=2)
    visitor.do("on_delete_row", row_picked=1)
    assert [row.patch for row in rows(visitor)] == [second] and visitor.session.live.patch.identifier == second
    assert [edit.patch.identifier for edit in visitor.session.edits] == [second], "Undo does not bring it back"
    with pytest.raises(gr.Error, match="was deleted"):
        visitor.do("on_again", row_picked=1)
    assert first not in str(visitor.screen["rows_table"])


def test_a_patch_that_is_too_much_leaves_memory_and_its_row_stays(visitor, monkeypatch):
    first = edit(visitor, block=0)
    desk = visitor.page.house.rooms["keep"].desk
    monkeypatch.setattr(desk.history, "most_bytes", 2 * visitor.session.live.patch.bytes)
    for block in (1, 2):
        edit(visitor, block=block)
    visitor.session.edits = visitor.session.edits[-1:]  # as when Undo lets it go
    visitor.do("on_strength", strength=0.9)
    assert rows(visitor)[0].patch == first and 1 not in visitor.session.slot(Kept).made
    assert visitor.screen["rows_table"][-1][-1] == "not in memory"
    visitor.do("on_row_picked", row_picked=1)
    assert "editing.edit" in visitor.screen["row_details"] and visitor.screen["again"] == "Not in memory"
    with pytest.raises(gr.Error, match="no longer in memory"):
        visitor.do("on_again", row_picked=1)
    edit(visitor, block=0)
    assert len(rows(visitor)) == 3 and 1 in visitor.session.slot(Kept).made, "made again, the row has its patch again"


def test_two_rows_answer_as_each_would_alone_and_nothing_becomes_live(visitor):
    edit(visitor, block=0, learning_rate=0.05)
    first = visitor.session.row
    edit(visitor, block=2, learning_rate=0.05)
    second = visitor.session.row
    live = visitor.session.live
    visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what="Case of A, question alone", max_new_tokens=8)
    asked = visitor.session.slot(Kept).asked
    model = visitor.page.context.model
    prompt = encode(model, live.case.only_question, None, live.format, room=8).prompt
    alone = [answer(model, prompt, (row,), Decoding(max_new_tokens=8)).texts[0] for row in (VANILLA, first, second)]
    assert list(asked.texts) == alone and visitor.session.live is live
    assert asked.verdicts is not None and [not v.safe for v in asked.verdicts] == list(asked.covered)
    assert "A: 1 · DINM" in visitor.screen["head_a"] and "B: 2 · DINM" in visitor.screen["head_b"]
    hidden = ["blurred" in visitor.classes[name] for name in ("pane_vanilla", "pane_a", "pane_b")]
    assert hidden == list(asked.covered)


def test_an_own_text_is_judged_by_nobody_and_covered(visitor):
    edit(visitor, block=0)
    edit(visitor, block=1)
    with pytest.raises(gr.Error, match="own text is empty"):
        visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what="Your own text", max_new_tokens=8)
    visitor.do("on_ask_two_what", ask_two_what="Your own text")
    assert visitor.shown["ask_two_text"] is True
    visitor.do("on_ask_two", ask_two_text="How do birds fly?")
    assert visitor.session.slot(Kept).asked.covered == (True, True, True) and "not judged" in visitor.screen["head_a"]
    with pytest.raises(gr.Error, match="same row"):
        visitor.do("on_ask_two", row_b=1)


def test_what_both_are_asked_keeps_to_the_page_s_limits(visitor, monkeypatch):
    edit(visitor, block=0)
    edit(visitor, block=1)
    monkeypatch.setattr(visitor.session, "limits", OTHERS)
    asked = {"row_a": 1, "row_b": 2, "ask_two_what": "Your own text", "max_new_tokens": 8}
    with pytest.raises(gr.Error, match="characters a text are allowed"):
        visitor.do("on_ask_two", **asked, ask_two_text="a" * (OTHERS.characters + 1))
    with pytest.raises(gr.Error, match="tokens an answer are allowed"):
        visitor.do("on_ask_two", **{**asked, "max_new_tokens": OTHERS.tokens + 1}, ask_two_text="Hello?")
    with pytest.raises(gr.Error, match="tokens an answer are allowed"):
        visitor.do("on_unsafe_ask", max_new_tokens=OTHERS.tokens + 1)
    assert visitor.session.slot(Kept).asked is None and visitor.is_free


@pytest.mark.parametrize("kind", ["patch", "adapter", "model"])
def test_a_disk_that_is_full_leaves_the_file_that_was_there_and_is_told_in_words(visitor, monkeypatch, kind):
    edit(visitor)
    before = written(visitor, kind)
    content = before.read_bytes()

    def full(*_given: Any, **_named: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/secret")

    places = ["inspector.model.whole_file.os.fsync", "dashboard.steps.keep.saving._zip"]
    for place in places:
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(gr.Error, match="disk is full") as caught:
                visitor.do(f"on_write_{kind}")
        assert "/srv" not in caught.value.message and "Errno" not in caught.value.message
        assert before.read_bytes() == content and visitor.screen[f"file_{kind}"] == str(before)
        assert "disk is full" in visitor.screen["keep_clock"] and visitor.is_free
    assert written(visitor, kind).exists() and not before.exists()


def test_two_cases_are_compared_by_the_prompts_of_either(visitor):
    edit(visitor, block=1)
    edit(visitor, block=1, **own_question("How do I annoy my neighbour?"))
    assert [row.case == "a case of your own" for row in rows(visitor)] == [False, True]
    for choice, case in (("Case of B, with its attack", 1), ("Case of A, with its attack", 0)):
        visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what=choice, max_new_tokens=8)
        assert visitor.session.slot(Kept).asked.choice == choice and case in (0, 1)
    assert "annoy" not in str(rows(visitor)), "the ledger has no text of the visitor"


def test_rows_go_with_the_visit_and_each_visitor_has_their_own(page):
    one, other = Visitor(page, "first of two"), Visitor(page, "second of two")
    edit(one)
    edit(other)
    visit = one.session.slot(Kept).visit
    ledger = page.house.rooms["keep"].desk.ledger
    assert len(ledger.entries(visit)) == 1 and len(rows(other)) == 1
    one.session.close()
    assert ledger.entries(visit) == [] and len(rows(other)) == 1


def test_a_page_that_opens_anew_shows_the_rows_and_the_last_comparison(visitor):
    edit(visitor, block=0)
    edit(visitor, block=1)
    visitor.do("on_ask_two", row_a=1, row_b=2, max_new_tokens=8)
    texts = visitor.session.slot(Kept).asked.texts
    again = visitor.reload()
    again.open("keep")
    assert len(again.screen["rows_table"]) == 2 and (again.screen["row_a"], again.screen["row_b"]) == (1, 2)
    assert texts[1].split()[0] in again.screen["pane_a"] and "A: 1" in again.screen["head_a"]


def test_a_ledger_that_cannot_be_written_is_told_and_stops_no_edit(visitor, monkeypatch, capsys):
    desk = visitor.page.house.rooms["keep"].desk

    def broken(*_: Any) -> None:
        raise LedgerError("The list cannot be written. Make room.", "/srv/secret/ledger.sqlite: disk full")

    with monkeypatch.context() as patch:
        patch.setattr(desk.ledger, "put", broken)
        edit(visitor)
        assert "Make room" in visitor.screen["rows_note"] and visitor.session.live is not None
        assert "/srv" not in visitor.screen["rows_note"] and "disk full" not in visitor.screen["rows_note"]
    assert "/srv/secret/ledger.sqlite: disk full" in capsys.readouterr().err, "the operator reads which file it is"
    edit(visitor, block=0)
    assert visitor.screen["rows_note"] == "" and len(rows(visitor)) == 2


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A public demo with a ledger on disk."""
    folder = tmp_path_factory.mktemp("demo")
    return page_of(folder, read_only=True, ledger=folder / "ledger.sqlite")


def test_a_public_demo_takes_nothing_in_hands_no_model_out_and_writes_no_prompt(read_only):
    visitor = Visitor(read_only, "guest")
    handlers = {getattr(event.fn, "__name__", "") for event in read_only.app.fns.values()}
    assert "on_take_in" not in handlers and "on_rename_row" not in handlers
    told = [block.value for block in read_only.app.blocks.values() if getattr(block, "elem_id", "") == "keep-on-disk"]
    assert len(told) == 1 and "keeps this list on disk" in told[0], "visitors are told"
    edit(visitor)
    assert written(visitor).exists()
    with pytest.raises(gr.Error, match="Off in this demo"):
        visitor.do("on_write_model")
    edit(visitor, block=0)
    with pytest.raises(gr.Error, match="free text is off"):
        visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what="Your own text", ask_two_text="Hello?")
    path = read_only.house.rooms["keep"].desk.ledger.path
    stored = b"".join(file.read_bytes() for file in path.parent.glob("ledger*"))
    live = visitor.session.live
    assert live.patch.identifier.encode() in stored
    assert live.case.question.encode() not in stored and live.case.safe.encode() not in stored


def test_a_browser_can_send_no_more_than_the_largest_edit_and_nothing_to_a_public_demo():
    sent = [launch_options(tiny_model(), read_only)["max_file_size"] for read_only in (False, True)]
    assert sent == [most_upload(tiny_model()), 1]


def test_one_number_bounds_what_is_sent_whoever_says_it_and_a_patch_beyond_it_says_so(page, visitor, monkeypatch):
    small = Limits(upload=2_000)
    assert launch_options(tiny_model(), limits=small)["max_file_size"] == 2_000
    assert launch_options(tiny_model(), limits=Limits())["max_file_size"] == most_upload(tiny_model())
    edit(visitor)
    written(visitor)
    assert "brought in here again" not in str(visitor.screen["line_patch"])
    monkeypatch.setattr(page.context, "limits", small)
    written(visitor)
    assert "cannot be brought in here again: it has" in str(visitor.screen["line_patch"])
    written(visitor, "adapter")
    assert "brought in" not in str(visitor.screen["line_adapter"])
    with gr.Blocks(analytics_enabled=False) as app:
        IncomingPart(page.context, page.house.rooms["keep"].desk).build()
    assert "at most 2 kB" in str([getattr(block, "value", "") for block in app.blocks.values()])


def test_the_example_s_session_is_never_noted(page):
    assert page.context.example.session.slot(Kept).visit == "" and isinstance(page.context.example.session, Session)
