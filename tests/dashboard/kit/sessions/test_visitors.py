"""Who is kept and for how long, what sessions may hold together, and what is said of those that are gone."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from dashboard_helpers import Clock
from made_up import result

from dashboard.kit.limits import Limits
from dashboard.kit.sessions import visitors
from dashboard.kit.sessions.controls import remember
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sessions.visitors import Sessions
from inspector.errors import CaseError
from inspector.safeedit import bundled_cases

HOUR = 3600.0


@dataclass
class Store:
    """Sessions whose clock is at hand."""

    clock: Clock = field(default_factory=Clock)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sessions = Sessions(**{"grace": 2 * HOUR, **self.options}, now=self.clock)

    def worked(self, key: str, size: int = 0) -> Session:
        """Return a visitor's session in which something was run that takes so many bytes."""
        session = self.sessions.of(key)
        session.begin()
        session.end()
        session.bytes = size
        return session

    def after(self, hours: float) -> Sessions:
        """Let time pass and look for what is too old."""
        self.clock.seconds += hours * HOUR
        self.sessions.sweep()
        return self.sessions


def test_each_visitor_has_one_session_of_their_own():
    sessions = Sessions()
    assert sessions.of("a") is sessions.of("a") and sessions.of("a") is not sessions.of("b")
    assert len(sessions) == 2


def test_a_page_that_lost_its_connection_finds_the_same_session_within_the_grace_and_so_does_a_reload():
    store = Store()
    session = store.worked("visitor")
    store.sessions.arrive("page", "visitor")
    store.sessions.leave("page")
    assert store.after(1.9).at("page", "visitor") is session, "the sleeping page itself"
    store.sessions.leave("page")
    assert store.after(1.9).arrive("reloaded", "visitor") is session


def test_after_the_grace_it_is_gone_and_why_is_told_once():
    store = Store()
    session = store.worked("visitor")
    store.sessions.arrive("page", "visitor")
    store.sessions.leave("page")
    sessions = store.after(2.1)
    assert len(sessions) == 0 and session.cancelled.is_set()
    assert sessions.at("page", "visitor") is None
    assert sessions.why_gone("visitor") == "it was not used for 2 hours" and sessions.why_gone("visitor") is None


def test_of_a_visitor_who_did_nothing_nothing_is_told_to_be_gone():
    store = Store()
    store.sessions.of("visitor")
    assert store.after(3).why_gone("visitor") is None and len(store.sessions) == 0


def test_an_open_page_keeps_a_session_beyond_the_grace_but_not_for_ever():
    store = Store()
    session = store.worked("visitor")
    store.sessions.arrive("page", "visitor")
    assert store.after(5).at("page", "visitor") is session
    assert store.after(25).at("page", "visitor") is None


def test_a_page_belongs_to_the_visitor_who_opened_it():
    sessions = Sessions()
    sessions.arrive("page", "visitor")
    sessions.of("other")
    assert sessions.at("page", "other") is None and sessions.at("unknown", "visitor") is None


def test_a_page_that_goes_ends_the_run_that_belongs_to_it_and_no_other():
    sessions = Sessions()
    session = sessions.arrive("first", "visitor")
    sessions.arrive("second", "visitor")
    session.begin()
    session.page = "second"
    sessions.leave("first")
    assert not session.cancelled.is_set()
    sessions.leave("second")
    assert session.cancelled.is_set() and len(sessions) == 1
    assert not session.broken, "it may still come to its own end"
    sessions.leave("never there")


def test_a_program_that_goes_ends_its_run_and_keeps_its_session_for_the_grace():
    sessions = Sessions()
    program = sessions.of("hash")
    program.begin()
    program.page = "hash"
    sessions.leave("hash")
    assert program.cancelled.is_set() and sessions.of("hash") is program


def test_a_page_is_stale_once_another_one_of_the_same_visitor_has_run_something():
    sessions = Sessions()
    session = sessions.arrive("first", "visitor")
    sessions.arrive("second", "visitor")
    session.begin()
    session.end()
    sessions.drew("second", session.runs)
    assert sessions.is_stale("first", session) and not sessions.is_stale("second", session)
    assert not sessions.is_stale(sessions.arrive("third", "visitor") and "third", session)


def test_what_goes_wrong_at_one_look_is_noted_and_there_is_another(monkeypatch, caplog):
    monkeypatch.setattr(visitors, "SWEEP", 0.01)
    store, looks, twice = Store(), [], threading.Event()

    def tidy() -> None:
        looks.append(len(looks))
        if len(looks) > 1:
            twice.set()
        raise KeyError("a text of somebody's")

    gone_on: list[int] = []
    store.sessions.tidy = (tidy, lambda: gone_on.append(1))
    with caplog.at_level("ERROR", logger="dinm_inspector"):
        store.sessions.sweep_in_background()
        assert twice.wait(20)
    assert gone_on, "what one look meets ends no other one"
    (first, *_) = [record.told for record in caplog.records]
    assert (first["error"], first["cause"]) == ("NoTidying", "KeyError") and "tidy" in first["at"]
    assert "somebody" not in str(first)


def test_a_flood_of_newcomers_lets_no_visitor_s_edit_go():
    store = Store(options={"empty_ones": 20})
    session = store.worked("visitor", 10)
    for number in range(210):
        store.sessions.of(f"passer-by {number}")
    assert store.sessions.of("visitor") is session and len(store.sessions) <= 22
    assert store.sessions.why_gone("visitor") is None


def test_what_all_hold_together_is_bounded_and_the_longest_unseen_goes_first():
    store = Store(options={"most_bytes": 100})
    for number in range(4):
        store.clock.seconds += 1
        store.worked(f"visitor {number}", 40)
    store.sessions.sweep()
    assert len(store.sessions) == 2 and store.sessions.why_gone("visitor 0") == (
        "its memory was needed for other visitors"
    )
    assert store.sessions.of("visitor 3").bytes == 40 and store.sessions.of("visitor 2").bytes == 40


def test_who_has_a_page_open_goes_after_those_who_have_not():
    store = Store(options={"most_bytes": 100})
    there = store.worked("there", 40)
    store.sessions.arrive("page", "there")
    for name in ("left", "new"):
        store.clock.seconds += 1
        store.worked(name, 40)
    store.sessions.sweep()
    assert store.sessions.at("page", "there") is there and store.sessions.why_gone("left") is not None


@pytest.mark.parametrize("how", ["runs", "waits in line"])
def test_who_is_at_work_never_goes_by_bytes_or_by_age(how):
    store = Store(options={"most_bytes": 100})
    at_work = store.worked("at work", 80)
    if how == "runs":
        at_work.begin()
    else:
        at_work.queued = True
    store.clock.seconds += 1
    store.worked("other", 80)
    store.worked("third", 10)
    assert store.sessions.of("at work") is at_work and store.sessions.why_gone("other") is not None
    store.clock.seconds += 100 * HOUR
    store.sessions.sweep()
    assert store.sessions.of("at work") is at_work and len(store.sessions) == 1


def test_the_one_that_is_asked_for_stays_even_if_it_alone_is_too_large():
    store = Store(options={"most_bytes": 100})
    session = store.worked("large", 500)
    store.sessions.sweep()
    assert store.sessions.of("large") is session


def test_whoever_is_let_go_is_closed_once_other_visitors_are_served_again():
    """Closing waits for the disk: of the ledger's file for up to ten seconds."""
    store, served = Store(), []

    def close() -> None:
        asked = threading.Event()
        threading.Thread(target=lambda: (store.sessions.unused(), asked.set()), daemon=True).start()
        served.append(asked.wait(5))

    store.worked("visitor").closing.append(close)
    store.after(3)
    assert served == [True]
    store.worked("visitor").closing.append(close)
    store.sessions.end()
    assert served == [True, True]


def test_one_whose_end_fails_keeps_no_other_from_ending_and_is_nothing_for_whoever_comes_then(caplog):
    store, ended = Store(), []

    def fail() -> None:
        raise OSError("a disk that refuses")

    for name in ("first", "second"):
        closing = store.worked(name).closing
        closing += [lambda: ended.append("before"), *([fail] if name == "first" else []), lambda: ended.append("after")]
    store.clock.seconds += 3 * HOUR
    with caplog.at_level("ERROR", logger="dinm_inspector"):
        assert store.sessions.of("another") is store.sessions.of("another"), "the lock is free"
    assert sorted(ended) == ["after", "after", "before", "before"] and len(store.sessions) == 1
    (told,) = [record.told for record in caplog.records]
    assert (told["error"], told["cause"]) == ("NoTidying", "OSError") and "refuses" not in str(told)


@pytest.mark.parametrize("how", ["runs", "waits in line", "has a page open", "has done something", "is on the way"])
def test_a_page_where_somebody_is_closes_for_nobody_but_the_end_of_the_program(how):
    store = Store()
    session = store.sessions.of("visitor")
    store.clock.seconds += HOUR
    if how == "runs":
        session.begin()
        session.own = False
    elif how == "waits in line":
        session.enqueue("a request")
    elif how == "has a page open":
        store.sessions.arrive("page", "visitor")
    elif how == "has done something":
        session.own = True
    else:
        store.sessions.expect()
    assert not store.sessions.end(1800.0) and store.sessions.unused() == 0
    assert store.sessions.of("visitor") is session and not session.cancelled.is_set()
    assert store.sessions.end() and session.cancelled.is_set() and len(store.sessions) == 0


def test_a_page_where_nobody_is_closes_once_and_tells_who_comes_late():
    store = Store()
    other = Sessions(beside=store.sessions)
    store.sessions.of("visitor")
    assert not store.sessions.end(60.0), "they were there a moment ago"
    store.clock.seconds += 61
    assert store.sessions.end(60.0) and not store.sessions.end(60.0) and not store.sessions.end()
    assert other.stores == [other]
    with pytest.raises(CaseError, match=r"just been closed.*Choose the model.*again"):
        store.sessions.of("visitor")


def test_a_session_weighs_its_own_edits_and_results_and_nothing_that_all_share():
    example, session = Session(), Session()
    example.add(LiveEdit(bundled_cases()[0], result(1, seed=0)))
    session.start_from(example)
    sessions = Sessions()
    sessions.weigh(session, example)
    assert session.bytes == 0
    mine = LiveEdit(bundled_cases()[0], result(1, seed=1))
    session.add(mine)
    sessions.weigh(session, example)
    patch = mine.patch.bytes
    assert patch <= session.bytes <= patch + 20_000
    session.undo()
    sessions.weigh(session, example)
    assert session.bytes < patch


def test_texts_that_are_too_long_are_not_kept_and_those_that_are_kept_are_counted_where_they_are_kept():
    sessions = Sessions(limits=Limits(characters=100))
    session, part, other = sessions.of("types"), object(), object()
    both = (part, other)
    remember(both, session, {part: "a" * 100, other: {"safe": ("b" * 100, "typed")}})
    assert session.controls == {part: "a" * 100, other: {"safe": ("b" * 100, "typed")}}
    assert 200 <= session.typed == sessions.bytes, "nothing was run"
    held = session.typed
    remember(both, session, {part: "a" * 101})
    assert part not in session.controls, "a reload must not bring an older text back in its place"
    assert session.typed < held
    remember(both, session, {other: ["b" * 100] * 100})
    assert session.controls == {} and session.typed == 0


@pytest.mark.parametrize("number", [10**400, 2**63, -(2**63), 1e308])
def test_a_number_that_no_page_could_be_sent_again_is_not_kept_nor_the_one_before_it(number):
    session, part = Session(), object()
    remember([part], session, {part: 0.5})
    assert session.controls == {part: 0.5}
    remember([part], session, {part: number})
    assert session.controls == {}
    remember([part], session, {part: {"steps": [number]}})
    assert session.controls == {}
    remember([part], session, {part: -(2**62)})
    assert session.controls == {part: -(2**62)}


def test_visitors_who_only_type_go_first_where_memory_is_short():
    sessions, part = Sessions(most_bytes=1000), object()
    worked = sessions.of("worked")
    worked.begin()
    worked.end()
    worked.bytes = 900
    for number in range(3):
        remember([part], sessions.of(f"types {number}"), {part: "a" * 500})
    sessions.of("last")
    assert sum(one.typed for one in sessions) <= 100, "what is typed and what is measured fill the same room"
    assert sessions.of("worked") is worked


def test_what_is_kept_of_texts_that_are_typed_is_forgotten_with_the_visit_of_whoever_has_run_something(monkeypatch):
    ended: list[str] = []
    monkeypatch.setattr("dashboard.kit.sessions.session.forget_visits", lambda: ended.append("forgotten"))
    store = Store()
    store.sessions.of("only looks")
    store.after(3)
    assert ended == []
    store.worked("works")
    store.after(1)
    assert ended == [], "the visit is not over"
    store.after(2)
    assert ended == ["forgotten"]
