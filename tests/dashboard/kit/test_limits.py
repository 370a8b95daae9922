"""What one visitor may have an hour, and what they may hold."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from dashboard_helpers import Clock

from dashboard.kit.door.handing import handed_out, promised, room_for_files, room_on_disk
from dashboard.kit.limits import BURST, HOUR, KNOWN, OTHERS, SHARED_BY, Limits, Pace, Runs
from dashboard.kit.sessions.session import Session
from inspector.errors import CaseError


def test_on_a_page_of_ones_own_nothing_is_counted():
    runs = Runs(Limits().runs_an_hour)
    for _ in range(1000):
        runs.begin("me", "127.0.0.1")
    assert not runs._known


def test_a_visitor_has_so_many_runs_an_hour_and_is_told_when_the_next_one_is_possible():
    clock = Clock()
    runs = Runs(3, clock)
    for _ in range(3):
        runs.begin("a", None)
        clock.seconds += 600
    with pytest.raises(CaseError, match=r"3 runs an hour are allowed here.*in 30 min"):
        runs.begin("a", None)
    runs.begin("b", None)
    clock.seconds = HOUR
    runs.begin("a", None)
    with pytest.raises(CaseError, match="in 10 min"):
        runs.begin("a", None)


def test_many_keys_of_one_address_have_no_more_than_a_few_visitors_have():
    runs, had = Runs(3, Clock()), 0
    with pytest.raises(CaseError):
        for number in range(1000):
            runs.begin(f"key {number}", "1.2.3.4")
            had += 1
    assert had == 3 * SHARED_BY
    kept = len(runs._known)
    for number in range(100):
        with pytest.raises(CaseError, match="your address has had those of all who share it"):
            runs.begin(f"another key {number}", "1.2.3.4")
    assert len(runs._known) == kept, "a refusal keeps nothing"
    runs.begin("key 5", "5.6.7.8")


def test_what_is_remembered_of_visitors_is_bounded():
    runs = Runs(1, Clock())
    for number in range(KNOWN + 100):
        runs.begin(f"key {number}", f"address {number}")
    assert len(runs._known) == KNOWN


def test_files_are_bounded_by_the_hour_and_leave_some_of_the_disk_free(tmp_path, monkeypatch):
    limits = replace(OTHERS, files=10 * 10**6, free=10**9)
    session, clock, room = Session(limits=limits), Clock(), SimpleNamespace(free=10**10)
    monkeypatch.setattr("dashboard.kit.door.handing.shutil.disk_usage", lambda folder: room)

    def ask(size: int, of: Session = session) -> None:
        with room_for_files(of, tmp_path, size, 3 * size, clock):
            pass

    with pytest.raises(CaseError, match=r"This file has 11 MB; 10 MB of files an hour .* Take a smaller form"):
        ask(11 * 10**6)
    ask(6 * 10**6)
    handed_out(session, 6 * 10**6, clock)
    clock.seconds += 600
    with pytest.raises(CaseError, match=r"6 MB of which you have had. Take .* patch, or try again in 50 min"):
        ask(6 * 10**6)
    ask(6 * 10**6, Session(limits=limits))  # another visitor, as long as the disk has room
    ask(4 * 10**6)
    clock.seconds += HOUR - 600
    ask(6 * 10**6)
    room.free = 10**9 + 17 * 10**6
    with pytest.raises(CaseError, match=r"needs 18 MB of disk space for a while, of a disk of which 1 GB stay free"):
        ask(6 * 10**6, Session(limits=limits))


def test_what_is_being_written_is_no_room_for_others_until_it_is_written_or_given_up(tmp_path, monkeypatch):
    room = SimpleNamespace(free=OTHERS.free + 20 * 10**6)
    monkeypatch.setattr("dashboard.kit.door.handing.shutil", SimpleNamespace(disk_usage=lambda _: room))
    first, second = Session(limits=OTHERS), Session(limits=OTHERS)

    def fits() -> bool:
        try:
            with room_on_disk(second, tmp_path, 6 * 10**6, "Try again later."):
                return True
        except CaseError as refused:
            assert "needs 6 MB of disk space for a while" in str(refused)
            return False

    with room_for_files(first, tmp_path, 5 * 10**6, 15 * 10**6):
        assert not fits() and promised() == 15 * 10**6
    assert fits() and promised() == 0
    with pytest.raises(ZeroDivisionError), room_for_files(first, tmp_path, 5 * 10**6, 15 * 10**6):
        raise ZeroDivisionError
    assert fits() and promised() == 0


def test_of_many_that_begin_to_write_in_the_same_instant_as_many_do_as_the_disk_has_room_for(tmp_path, monkeypatch):
    room = SimpleNamespace(free=OTHERS.free + 35)
    monkeypatch.setattr("dashboard.kit.door.handing.shutil", SimpleNamespace(disk_usage=lambda _: room))
    began, tried, found = threading.Barrier(8), threading.Barrier(8), list[bool]()

    def write() -> None:
        began.wait()
        try:
            with room_for_files(Session(limits=OTHERS), tmp_path, 10, 10):
                found.append(True)
                tried.wait(20)
        except CaseError:
            found.append(False)
            tried.wait(20)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 5 + [True] * 3 and promised() == 0


def test_who_holds_all_that_they_may_is_told_what_gives_room():
    session = Session(limits=OTHERS)
    session.require_room()
    session.bytes = OTHERS.stored + 1
    with pytest.raises(CaseError, match="512 MiB are allowed here"):
        session.require_room()


def test_events_come_as_fast_as_is_allowed_and_a_burst_of_them_at_once():
    clock = Clock()
    pace, at_once = Pace(60, clock), int(BURST)
    assert [pace.admits("a", "1.2.3.4") for _ in range(at_once + 1)] == [True] * at_once + [False]
    assert pace.admits("b", "1.2.3.4")
    clock.seconds += 1
    assert [pace.admits("a", "1.2.3.4") for _ in range(2)] == [True, False], "what was refused has cost nothing"
    clock.seconds += HOUR
    assert sum(pace.admits("a", "1.2.3.4") for _ in range(100)) == at_once


@pytest.mark.parametrize("visitor", ["key {}", ""], ids=["many keys", "nobody in particular"])
def test_events_of_many_visitors_of_one_address_are_bounded_together(visitor):
    pace = Pace(60, Clock())
    had = sum(pace.admits(visitor.format(number), "1.2.3.4") for number in range(1000))
    assert had == SHARED_BY * BURST and pace.admits("key", "5.6.7.8")


def test_what_is_remembered_of_events_is_bounded_and_nothing_where_they_are_not():
    pace, free = Pace(60, Clock()), Pace(Limits().events)
    for number in range(KNOWN):
        assert pace.admits(f"key {number}", f"address {number}")
    assert len(pace._known) == KNOWN
    assert all(free.admits("me", "127.0.0.1") for _ in range(1000)) and not free._known
