"""Attacks by uploads: more than there is room for, by one or by many at once, broken off, slow, or never read."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import pytest
from dashboard_helpers import Clock, tiny_model

from dashboard.kit.door.copies import delete_files
from dashboard.kit.door.handing import give_back, keep_free, promised, room_on_disk
from dashboard.kit.door.refused import Refused
from dashboard.kit.door.routes import check_route
from dashboard.kit.door.upload_room import AT_ONCE, FILES_OF_ONE, GRACE, MOST_FILES, OF_ONE, UPLOADED, UploadRoom
from dashboard.kit.door.uploads import PIECE_FOR, PIECES, drop_gone, taken
from dashboard.kit.limits import OTHERS
from dashboard.kit.sessions.session import Session
from dashboard.kit.shelf import Shelf
from dashboard.page import build_app
from inspector.errors import CaseError


def test_a_part_that_takes_files_opens_upload_up_to_its_limit_and_as_long_as_there_is_room(tmp_path):
    with gr.Blocks() as plain:
        gr.Textbox()
    with gr.Blocks() as takes:
        gr.UploadButton()
    with pytest.raises(Refused, match="no such address"):
        check_route("POST", "/gradio_api/upload", plain)
    check_route("POST", "/gradio_api/upload", takes)
    check_route("GET", "/gradio_api/upload_progress", takes)
    room, most, one, large = UploadRoom(), 2**20, tmp_path / "one", tmp_path / "large"
    one.write_bytes(b"1")
    with large.open("wb") as file:
        file.truncate(UPLOADED * most)
    room.end(room.begin("1.2.3.4", 10, most, [str(one), str(tmp_path / "gone")]))
    with pytest.raises(Refused, match="room"):
        room.begin("1.2.3.4", 10, most, [str(one), str(large)])


def test_what_is_handed_out_does_not_close_the_way_in(served, web):
    folder = Path(served.app.app.uploaded_file_dir)
    with (folder / "merged model.zip").open("wb") as file:
        file.truncate(UPLOADED * served.sessions.limits.upload + 1)
    sent = web.post("/gradio_api/upload", files={"files": ("edit.json", b"{}")})
    (folder / "merged model.zip").unlink()
    assert sent.status_code == 200 and Path(sent.json()[0]).read_bytes() == b"{}"
    with Path(sent.json()[0]).open("wb") as file:  # of theirs, it does
        file.truncate(UPLOADED * served.sessions.limits.upload + 1)
    refused = web.post("/gradio_api/upload", files={"files": ("edit.json", b"{}")})
    Path(sent.json()[0]).unlink()
    assert refused.status_code == 507 and "room" in refused.json()["detail"]


def test_a_piece_of_a_file_that_was_broken_off_counts_and_is_deleted_later(served, tmp_path):
    before = PIECES.names()
    address = urlsplit(served.url)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 200000\r\n"
    with socket.create_connection((address.hostname, address.port)) as line:
        line.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode())
        line.sendall(b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.zip"\r\n\r\n' + b"1" * 90_000)
        until(lambda: PIECES.names() - before)
    (piece,) = PIECES.names() - before
    until(lambda: taken([])[0] >= 80_000)
    other = tmp_path / "tmpabcdefgh"
    other.write_bytes(b"somebody else's")
    PIECES.sweep()
    assert Path(piece).exists(), "it may still come in"
    os.utime(piece, (time.time() - 3600,) * 2)
    os.utime(other, (time.time() - 3600,) * 2)
    PIECES.sweep()
    assert not Path(piece).exists() and other.exists() and PIECES.names() == before


def test_many_uploads_that_begin_in_the_same_instant_get_no_more_room_than_there_is(monkeypatch):
    monkeypatch.setattr("dashboard.kit.door.upload_room.taken", lambda _: (0, 0))
    room, began = UploadRoom(), threading.Barrier(12)
    found: list[Any] = []

    def begin(number: int) -> None:
        began.wait()
        try:
            found.append(room.begin(f"10.0.0.{number}", 100, 100, []))
        except Refused as refused:
            found.append(refused.status)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(507) == 12 - UPLOADED and len(room) == UPLOADED
    coming = next(one for one in found if one != 507)
    coming.came = 100  # on the disk now, where it counts
    room.begin("10.0.1.1", 100, 100, [])
    with pytest.raises(Refused, match="room"):
        room.begin("10.0.1.2", 1, 100, [])


def test_one_address_cannot_take_all_the_room_and_has_its_own_again_later(monkeypatch):
    monkeypatch.setattr("dashboard.kit.door.upload_room.taken", lambda _: (0, 0))
    clock = Clock()
    room = UploadRoom(now=clock)
    for _ in range(OF_ONE):
        coming = room.begin("1.2.3.4", 90, 100, [])
        coming.came = 90
        room.end(coming)
    with pytest.raises(Refused, match="your address"):
        room.begin("1.2.3.4", 90, 100, [])
    room.end(room.begin("1.2.3.4", 20, 100, []))  # broken off before its first byte: it costs nothing
    room.begin("5.6.7.8", 100, 100, [])
    clock.seconds += PIECE_FOR + 1
    slow = room.begin("1.2.3.4", 100, 100, [])
    assert room.begin("1.2.3.4", 100, 100, []).missing == 100
    clock.seconds += PIECE_FOR + 1
    assert slow.late and slow.missing == 0, "who sends a byte a minute keeps no room"


def test_what_was_announced_and_does_not_come_holds_room_only_while_its_connection_stands(served, web, monkeypatch):
    guard, address = served.app.guard, urlsplit(served.url)
    monkeypatch.setattr(guard, "room", UploadRoom())  # nothing came from here yet
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {guard.limits.upload}\r\n"
    with ExitStack() as open_lines:
        for _ in range(OF_ONE):
            line = open_lines.enter_context(socket.create_connection((address.hostname, address.port)))
            line.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode())
        until(lambda: len(guard.room) == OF_ONE)
        refused = web.post("/gradio_api/upload", files={"files": ("edit.json", b"{}")})
        assert refused.status_code == 429 and "your address" in refused.json()["detail"]
    until(lambda: not len(guard.room))
    assert web.post("/gradio_api/upload", files={"files": ("edit.json", b"{}")}).status_code == 200


def test_what_is_announced_and_does_not_come_holds_its_room_for_half_a_minute(monkeypatch):
    monkeypatch.setattr("dashboard.kit.door.upload_room.taken", lambda _: (0, 0))
    clock, most = Clock(), 6000
    room = UploadRoom(now=clock)
    slow, *stalled = [room.begin(f"10.0.0.{number}", most, most, []) for number in range(UPLOADED)]
    clock.seconds += GRACE
    with pytest.raises(Refused, match="room"):
        room.begin("5.6.7.8", 1, most, [])
    clock.seconds += PIECE_FOR / 10
    slow.came = most // 10
    assert not slow.late and slow.missing == most - slow.came, "it is whole in ten minutes"
    assert [(one.late, one.missing, one.missing_files) for one in stalled] == [(True, 0, 0)] * (UPLOADED - 1)
    room.begin("5.6.7.8", most, most, [])


def test_what_has_come_of_files_that_stall_counts_for_their_address_as_long_as_they_are_open(monkeypatch):
    monkeypatch.setattr("dashboard.kit.door.upload_room.taken", lambda _: (0, 0))
    clock = Clock()
    room = UploadRoom(now=clock)
    for _ in range(OF_ONE):
        room.begin("1.2.3.4", 100, 100, []).came = 95
    clock.seconds += 2 * PIECE_FOR
    with pytest.raises(Refused, match="your address"):
        room.begin("1.2.3.4", 20, 100, [])
    room.begin("5.6.7.8", 100, 100, [])


def test_what_is_announced_is_no_room_on_the_disk_for_what_is_written_until_it_is_given_up(
    served, web, monkeypatch, tmp_path
):
    guard, address = served.app.guard, urlsplit(served.url)
    most, disk = guard.limits.upload, SimpleNamespace(free=2**50)
    monkeypatch.setattr(guard, "room", UploadRoom())
    monkeypatch.setattr("dashboard.kit.door.handing.shutil", SimpleNamespace(disk_usage=lambda _: disk))

    def fits() -> bool:
        try:
            with room_on_disk(Session(limits=OTHERS), tmp_path, 2**20, "Try again later."):
                return True
        except CaseError as refused:
            assert "disk space" in refused.user_message()
            return False

    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {most}\r\n"
    with socket.create_connection((address.hostname, address.port)) as line:
        line.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode())
        until(lambda: most - 100 < promised() < most)
        disk.free = OTHERS.free + most
        assert not fits()
        refused = web.post("/gradio_api/upload", files={"files": ("edit.json", b"1" * 1000)})
        assert refused.status_code == 507 and "disk" in refused.json()["detail"]
    until(lambda: not promised())
    assert fits() and not len(guard.room)


def test_a_file_that_nobody_has_read_is_deleted_after_ten_minutes(served, web):
    old, new = (Path(web.post("/gradio_api/upload", files={"files": (n, n.encode())}).json()[0]) for n in "ab")
    os.utime(old, (time.time() - PIECE_FOR - 60,) * 2)
    served.sessions.look()
    assert not old.exists() and new.exists()


def test_many_tiny_files_are_bounded_by_post_by_address_and_for_all(tmp_path):
    room, clock = UploadRoom(), Clock()
    coming = room.begin("1.2.3.4", 10, 2**20, [])
    for _ in range(AT_ONCE):
        coming.file()
    with pytest.raises(Refused, match="at once"):
        coming.file()
    room = UploadRoom(now=clock)
    for _ in range(FILES_OF_ONE // AT_ONCE):
        coming = room.begin("1.2.3.4", 10, 2**20, [])
        coming.files = AT_ONCE
        room.end(coming)
    with pytest.raises(Refused, match="your address"):
        room.begin("1.2.3.4", 10, 2**20, [])
    clock.seconds += PIECE_FOR + 1
    room.end(room.begin("1.2.3.4", 10, 2**20, []))
    lying = [tmp_path / str(number) for number in range(MOST_FILES - AT_ONCE + 1)]
    for file in lying:
        file.touch()
    with pytest.raises(Refused, match="is full"):
        room.begin("5.6.7.8", 10, 2**20, [str(file) for file in lying])
    lying[0].unlink()
    room.begin("5.6.7.8", 10, 2**20, [str(file) for file in lying])


def test_a_post_of_many_files_is_refused_by_the_server_and_its_pieces_go(served, web, monkeypatch):
    monkeypatch.setattr(served.app.guard, "room", UploadRoom())
    before = PIECES.names()
    many = [("files", (f"{number}.json", b"{}")) for number in range(AT_ONCE + 1)]
    refused = web.post("/gradio_api/upload", files=many)
    assert refused.status_code == 413 and "at once" in refused.json()["detail"]
    for piece in PIECES.names() - before:
        os.utime(piece, (time.time() - PIECE_FOR - 60,) * 2)
    served.sessions.look()
    assert PIECES.names() == before
    assert web.post("/gradio_api/upload", files=many[:AT_ONCE]).status_code == 200


@pytest.mark.parametrize("written", [0, 10**6])
def test_what_comes_leaves_as_much_of_the_disk_free_as_the_operator_wants(served, web, monkeypatch, written):
    """What others are written just now is no room any more, either."""
    free = served.app.guard.limits.free + written
    monkeypatch.setattr(served.app.guard, "room", UploadRoom())
    monkeypatch.setattr(
        "dashboard.kit.door.handing.shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=free))
    )
    assert keep_free("what is written", lambda: written, ".", 0)
    try:
        refused = web.post("/gradio_api/upload", files={"files": ("edit.json", b"{}")})
        assert refused.status_code == 507 and "disk" in refused.json()["detail"] and not len(served.app.guard.room)
    finally:
        give_back("what is written")
    monkeypatch.undo()
    assert web.post("/gradio_api/upload", files={"files": ("edit.json", b"{}")}).status_code == 200


def test_a_file_that_was_read_leaves_neither_its_name_nor_its_folder(served, web, monkeypatch):
    monkeypatch.setattr(served.app.guard, "room", UploadRoom())
    read, kept = (Path(web.post("/gradio_api/upload", files={"files": (n, n.encode())}).json()[0]) for n in "cd")
    read.unlink()
    served.sessions.look()
    assert str(read) not in served.app.upload_file_set and not read.parent.exists()
    assert str(kept) in served.app.upload_file_set and kept.exists()


def test_a_file_that_comes_in_again_while_its_name_is_taken_out_stays_known(tmp_path, monkeypatch):
    file, asked = tmp_path / "edit.zip", []

    def exists(name: str) -> bool:
        asked.append(name)
        there = Path(name).exists()
        if len(asked) == 1:
            file.touch()  # it comes in now, and its name is there already
        return there

    monkeypatch.setattr("dashboard.kit.door.uploads.os.path", SimpleNamespace(exists=exists))
    names = {str(file)}
    assert drop_gone(names) == names == {str(file)}


def test_old_files_are_deleted_while_others_come_in(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    names: set[str] = set()
    for number in range(3):
        file = tmp_path / f"hash{number}" / "edit.zip"
        file.parent.mkdir()
        file.touch()
        names.add(str(file))
    looked = os.lstat

    def while_one_comes(name: Any) -> Any:
        names.add(f"{name} comes now")
        return looked(name)

    monkeypatch.setattr("dashboard.kit.door.copies.os.lstat", while_one_comes)
    delete_files(SimpleNamespace(blocks={}, temp_file_sets=[names]), None)
    assert list(tmp_path.iterdir()) == []


def test_the_schedule_deletes_old_files_and_goes_on_after_a_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr("dashboard.kit.sessions.visitors.SWEEP", 0.01)
    monkeypatch.setattr("dashboard.kit.door.copies.FILES_FOR", -1.0)
    faults = []

    def broken(_shelf: Any) -> None:
        faults.append(1)
        raise RuntimeError("Set changed size during iteration")

    monkeypatch.setattr(Shelf, "sweep", broken)
    app = build_app(tiny_model(), example=False)
    try:
        for number in range(2):
            file = tmp_path / f"hash{number}" / "edit.zip"
            file.parent.mkdir()
            file.touch()
            before = len(faults)
            app.upload_file_set.add(str(file))
            until(lambda before=before: len(faults) > before and not app.upload_file_set)
            assert not file.parent.exists()
    finally:
        app.guard.sessions.end()


def until(look) -> None:
    for _ in range(500):
        if look():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")
