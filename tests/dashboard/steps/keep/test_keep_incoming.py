"""Keep: what comes in as a file is checked whole, held to the gate, and bounded in size."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from dashboard_helpers import QUICK, Visitor, tiny_model
from keep_helpers import copied, edit, rows, taken_in, written
from starlette.requests import Request

from dashboard.kit.limits import Limits
from dashboard.lighter import LighterBlocks
from dashboard.page import launch_options
from dashboard.steps.keep.incoming import not_read, own_copies
from dashboard.steps.keep.incoming_part import IncomingPart
from dashboard.steps.keep.kept import Kept
from dashboard.steps.operate.gating import Gated
from editing.gate.gate import RECORD
from editing.saved.incoming import most_upload

pytestmark = pytest.mark.usefixtures("model")


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


def test_a_stack_comes_back_with_the_cases_of_all_its_edits(visitor, page, tmp_path):
    edit(visitor)
    edit(visitor, on_top=True)
    below = visitor.session.live.below
    assert len(below) == 1
    file = copied(written(visitor), tmp_path / "edit.zip")
    other = Visitor(page, "one with a stack")
    taken_in(other, file)
    assert other.session.live.below == below, "where it is to act only where harm is detected, its detector reads them"


def test_a_stack_on_a_case_that_the_model_cannot_read_is_refused(visitor, page, tmp_path):
    edit(visitor)
    edit(visitor, on_top=True)
    (below,) = visitor.session.live.below
    text = "a b " * visitor.page.context.model.context_length
    long = replace(below, question=text, adversarial_prompt=text)
    visitor.session.edits[-1] = replace(visitor.session.live, below=(long,))
    file = copied(written(visitor), tmp_path / "edit.zip")
    other = Visitor(page, "one with a long stack")
    with pytest.raises(gr.Error, match="tokens"):
        taken_in(other, file)
    assert other.session.live is None and other.is_free


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


def test_a_file_whose_run_never_began_does_not_stay(visitor, page, tmp_path, monkeypatch):
    def cancelled(*_given, **_named):
        yield from ()
        return False

    edit(visitor)
    file = copied(written(visitor), tmp_path / "edit.zip")
    monkeypatch.setattr(page.context.line, "turns", cancelled)
    other = Visitor(page, "one who leaves the line")
    run = other.press("on_take_in", **QUICK, upload=[str(file)])
    next(run)
    folder = Path(other.session.folders["incoming"].name)
    assert list(folder.rglob("*.zip"))
    list(run)
    assert "incoming" not in other.session.folders and not folder.exists()
    assert other.session.slot(Kept).incoming == [] and other.is_free


def test_nor_does_that_of_a_program(page, tmp_path, monkeypatch):
    def cancelled(*_given, **_named):
        assert session.slot(Kept).incoming[0].exists()
        yield from ()
        return False

    def take_in(request):
        yield request

    monkeypatch.setattr(page.context.line, "turns", cancelled)
    asked = gr.Request(request=Request({"type": "http", "headers": []}), session_hash="a program that leaves the line")
    session, file = page.context.session(asked), tmp_path / "edit.zip"
    file.write_bytes(b"an edit")
    run = page.context.in_line(take_in, lambda session, *_given: own_copies(session, [file]), not_read)
    with pytest.raises(gr.Error, match="waited in line"):
        list(run(asked))
    assert "incoming" not in session.folders and session.slot(Kept).incoming == [] and not session.busy


def test_a_file_is_copied_only_where_enough_of_the_disk_stays_free(visitor, tmp_path, monkeypatch):
    file = tmp_path / "edit.zip"
    file.write_bytes(b"1" * 1000)
    room = SimpleNamespace(free=visitor.session.limits.free + 1999)
    monkeypatch.setattr("dashboard.kit.door.handing.shutil", SimpleNamespace(disk_usage=lambda _: room))
    with pytest.raises(gr.Error, match="disk space") as caught:
        taken_in(visitor, file)
    assert "smaller form" not in caught.value.message and "incoming" not in visitor.session.folders
    room.free += 1
    with pytest.raises(gr.Error, match="cannot be unpacked"):
        taken_in(visitor, file)


def test_a_zip_is_unpacked_only_where_the_disk_has_room_for_all_that_it_says_it_holds(visitor, tmp_path, monkeypatch):
    file, unpacked = tmp_path / "edit.zip", 2**20
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("edit.json", bytes(unpacked))
    content, limits = file.read_bytes(), visitor.session.limits
    assert 2 * len(content) < unpacked / 10
    room = SimpleNamespace(free=limits.free + unpacked - 1)
    monkeypatch.setattr("dashboard.kit.door.handing.shutil", SimpleNamespace(disk_usage=lambda _: room))
    with pytest.raises(gr.Error, match=r"needs 1\.05 MB of disk space"):
        taken_in(visitor, file)
    assert "incoming" not in visitor.session.folders and visitor.is_free
    room.free += 1
    file.write_bytes(content)
    with pytest.raises(gr.Error, match="no patch in what was given"):
        taken_in(visitor, file)


def test_no_file_is_told(visitor):
    with pytest.raises(gr.Error, match="No file is given"):
        taken_in(visitor)


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
    with LighterBlocks(analytics_enabled=False) as app:
        IncomingPart(page.context, page.house.rooms["keep"].desk).build()
    assert "at most 2 kB" in str([getattr(block, "value", "") for block in app.blocks.values()])
