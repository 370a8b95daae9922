"""The line of long runs: who goes first, in which slices, what whoever waits is told, and how a run leaves it."""

from __future__ import annotations

import threading
import time
import types
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from dashboard.kit.limits import OTHERS, Limits
from dashboard.kit.running.queue import OPENING, PLACES, UNDER_WAY, Line, Place
from inspector.errors import CaseError

Told = list[Any]


def steps(name: str, count: int, seconds: float = 0.0) -> Generator[str, None, None]:
    """A run of some steps."""
    for number in range(count):
        time.sleep(seconds)
        yield f"{name}{number}"


def told(place: Place) -> Place:
    return place


def until(run: Iterator[Any], kind: type) -> Any:
    """Take what a run yields until something of a kind comes."""
    return next(event for event in run if isinstance(event, kind))


def taking(run: Iterator[Any], kept: Told) -> threading.Thread:
    """Take all that a run yields, in a thread."""
    thread = threading.Thread(target=lambda: kept.extend(run))
    thread.start()
    return thread


def test_a_run_alone_never_waits_and_ends_with_all_its_steps():
    line = Line()
    assert list(line.turns(steps("a", 3), "edit", tell=told)) == ["a0", "a1", "a2"] and len(line) == 0


def test_who_comes_while_another_runs_is_told_at_once_how_many_are_ahead(monkeypatch):
    line = Line(rest=60)
    first = line.turns(steps("a", 2), "edit", tell=told)
    assert next(first) == "a0"
    waiting = [line.turns(steps(name, 1), "edit", tell=told) for name in "bc"]
    began = time.monotonic()
    places = [next(run) for run in waiting]
    assert time.monotonic() - began < 0.5, "a first word needs no wait"
    assert [place.ahead for place in places] == [1, 2] and not any(place.begun for place in places)
    assert places[0].text().startswith("In line, place 2: starts in about ")
    assert "Cancel leaves the line" in places[1].text()
    list(first)
    monkeypatch.setattr("dashboard.kit.running.queue.LOOK", 0.1)
    assert until(waiting[0], str) == "b0" and next(waiting[1]).ahead == 1
    waiting[0].close()
    assert list(waiting[1])[-1] == "c0" and len(line) == 0


def test_whoever_asks_for_it_is_told_where_their_run_stands_while_it_waits_and_only_then():
    line, first, second = Line(rest=60), object(), object()
    runs = [line.turns(steps(name, 2), "edit", tell=told, whose=whose) for name, whose in (("a", first), ("b", second))]
    assert line.place_of(first) is None
    assert next(runs[0]) == "a0"
    shown = next(runs[1])
    place = line.place_of(second)
    assert isinstance(place, Place) and (place.ahead, place.begun) == (shown.ahead, False) == (1, False)
    assert place.seconds == pytest.approx(shown.seconds) and place.seconds > 0
    assert line.place_of(first) is None and line.place_of(object()) is None
    runs[0].close()
    assert until(runs[1], str) == "b0" and line.place_of(second) is None
    runs[1].close()
    assert line.place_of(second) is None


def test_first_come_is_first_served():
    line, order = Line(rest=60), []

    def one(number: int) -> Generator[int, None, None]:
        order.append(number)
        time.sleep(0.01)
        yield number

    first = line.turns(steps("a", 2), "edit")
    next(first)
    threads = []
    for number in range(5):
        run = line.turns(one(number), "edit", tell=told)
        next(run)  # it stands in line from here on
        threads.append(taking(run, []))
    list(first)
    for thread in threads:
        thread.join(20)
    assert order == list(range(5))


def test_a_long_run_lets_others_have_their_turn_after_its_slice_and_goes_on_after_them():
    line, long_one, short_one = Line(slice=0.1, rest=60), [], []
    runs = (
        line.turns(steps("long", 15, 0.02), "atlas", tell=told),
        line.turns(steps("short", 3, 0.02), "edit", tell=told),
    )
    events: list[str] = []

    def take(run: Iterator[Any], kept: Told) -> None:
        for event in run:
            kept.append(event)
            if isinstance(event, str):
                events.append(event)

    threads = [threading.Thread(target=take, args=pair) for pair in zip(runs, (long_one, short_one), strict=True)]
    threads[0].start()
    while not events:
        time.sleep(0.005)
    threads[1].start()
    for thread in threads:
        thread.join(30)
    place = events.index("short2")
    assert events.index("short0") > 0 and place < events.index("long14"), "it did not wait for the end of the long one"
    assert events[-1] == "long14" and sum(isinstance(event, str) for event in long_one) == 15
    assert any(isinstance(event, Place) and event.begun for event in long_one), (
        "it was told that others have their turn"
    )


def all_at_once(line: Line, runs: dict[str, tuple[int, str]]) -> list[str]:
    """Put runs of so many steps and of a kind in line before any makes a step; return all steps in order."""
    order: list[str] = []

    def one(name: str, count: int) -> Generator[str, None, None]:
        for number in range(count):
            order.append(f"{name}{number}")
            yield f"{name}{number}"

    ahead = line.turns(steps("ahead", 2), "ahead")
    next(ahead)
    threads = []
    for name, (count, kind) in runs.items():
        run = line.turns(one(name, count), kind, tell=told)
        next(run)
        threads.append(taking(run, []))
    ahead.close()
    for thread in threads:
        thread.join(30)
    assert len(line) == 0
    return order


def test_long_runs_end_one_after_the_other_and_few_are_under_way_at_a_time():
    order = all_at_once(Line(slice=1e-9, rest=60), dict.fromkeys("abcdefgh", (8, "edit")))
    ends = [step[0] for step in order if step.endswith("7")]
    assert ends == list("abcdefgh"), "not all of them at the very end"
    under_way, most = set[str](), 0
    for step in order:
        under_way.add(step[0])
        most = max(most, len(under_way))
        if step.endswith("7"):
            under_way.remove(step[0])
    assert most == UNDER_WAY
    assert order[:8] == ["a0", "b0", "a1", "c0", "a2", "d0", "a3", "a4"], "newcomers have every other slice"


def test_a_run_that_is_known_to_be_brief_begins_though_as_many_as_may_are_under_way():
    line = Line(slice=1e-9, rest=60)
    line._took["locate"] = deque([0.0])
    runs = dict.fromkeys("abcdef", (6, "edit"))
    order = all_at_once(line, {**runs, "z": (1, "locate")})
    assert order.index("z0") < order.index("a5") < order.index("e0"), "the fifth long one waits for an end"


def test_who_leaves_the_line_does_not_end_the_turn_of_a_run_in_the_middle_of_a_step():
    line, going, order = Line(rest=0.1), threading.Event(), []

    def slow() -> Generator[str, None, None]:
        going.set()
        time.sleep(0.4)
        order.append("slow")
        yield "slow"

    taking(line.turns(slow(), "edit", tell=told), [])
    going.wait(10)
    leaving, other = (line.turns(steps(name, 1), "edit", tell=told) for name in "bc")
    next(leaving)
    next(other)

    def take() -> None:
        for event in other:
            if isinstance(event, str):
                order.append(event)

    thread = threading.Thread(target=take)
    thread.start()
    leaving.close()
    thread.join(20)
    assert order == ["slow", "c0"], "one run at a time"


def test_who_stays_away_does_not_keep_others_from_beginning():
    line = Line(slice=1e-9, rest=0.05)
    away = [line.turns(steps("away", 3), "edit", tell=told) for _ in range(UNDER_WAY)]
    for run in away:
        assert until(run, str) == "away0"
        time.sleep(0.06)
    assert list(line.turns(steps("mine", 2), "edit"))[-1] == "mine1"
    for run in away:
        run.close()


def test_the_wait_is_foreseen_as_the_turns_will_come():
    line = Line(slice=10, rest=60)
    for kind, seconds in (("edit", 30.0), ("locate", 4.0)):
        line._took[kind] = deque([seconds])
    first = line.turns(steps("a", 3), "edit")
    next(first)
    second, brief = line.turns(steps("b", 1), "edit", tell=told), line.turns(steps("c", 1), "locate", tell=told)
    assert (place := next(second)).ahead == 1 and place.seconds == pytest.approx(10, abs=0.5)
    # The first's slice, the second's, the first's next, then it.
    assert (place := next(brief)).ahead == 2 and place.seconds == pytest.approx(30, abs=0.5)
    for run in (brief, second, first):
        run.close()


def test_the_wait_is_expected_from_what_such_runs_took_and_never_more_than_a_slice_each():
    line = Line(slice=10, rest=60)
    list(line.turns(steps("a", 2, 0.05), "edit"))
    first = line.turns(steps("a", 2, 0.05), "edit")
    next(first)
    second, third = line.turns(steps("b", 1), "never ran", tell=told), line.turns(steps("c", 1), "edit", tell=told)
    assert next(second).seconds == 1.0, "a run of a known kind: what is left of it, at least a second"
    assert next(third).seconds == 11.0, "and a slice for one of which nothing is known"
    for run in (third, second, first):
        run.close()
    assert len(line) == 0


def test_a_run_that_is_cancelled_while_it_waits_leaves_the_line_and_was_never_begun():
    line, cancelled, made = Line(rest=60), threading.Event(), []

    def run() -> Generator[str, None, None]:
        made.append("begun")
        yield "step"

    first = line.turns(steps("a", 2), "edit")
    next(first)
    waiting = line.turns(run(), "edit", cancelled.is_set, told)
    next(waiting)
    assert len(line) == 2
    threading.Timer(0.05, cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(StopIteration) as ended:
        while True:
            next(waiting)
    assert ended.value.value is False and made == [] and len(line) == 1
    assert time.monotonic() - began < 0.9
    assert list(first) == ["a1"]


def test_a_cancelled_run_that_has_begun_ends_itself_at_once_though_it_is_not_its_turn():
    line, cancelled = Line(slice=0.0, rest=60), threading.Event()

    def run() -> Generator[str, None, None]:
        yield "begun"
        yield "cancelled" if cancelled.is_set() else "went on"

    mine = line.turns(run(), "edit", cancelled.is_set, told)
    assert next(mine) == "begun"
    other = line.turns(steps("b", 2), "edit")
    taking(other, [])
    while len(line) < 2:
        time.sleep(0.005)
    cancelled.set()
    assert "cancelled" in list(mine)


def test_who_stays_away_loses_the_turn_while_others_wait_and_goes_on_later():
    line = Line(rest=0.1)
    away = line.turns(steps("a", 2), "edit", tell=told)
    next(away)  # a page that has gone, or is very slow
    assert list(line.turns(steps("b", 2), "edit"))[-1] == "b1"
    assert until(away, str) == "a1"


def test_a_run_that_fails_or_is_given_up_frees_its_place():
    line = Line()

    def failing() -> Generator[str, None, None]:
        yield "step"
        raise CaseError("No.")

    with pytest.raises(CaseError, match=r"No\."):
        list(line.turns(failing(), "edit"))
    closed = []

    def given_up() -> Generator[str, None, None]:
        try:
            yield "step"
            yield "never"
        finally:
            closed.append(True)

    run = line.turns(given_up(), "edit")
    next(run)
    run.close()
    assert len(line) == 0 and closed == [True]


def test_a_full_line_is_refused_with_the_remedy():
    line = Line(rest=60)
    first = line.turns(steps("a", 2), "edit")
    next(first)
    waiting = [line.turns(steps("b", 1), "edit", tell=told) for _ in range(PLACES - 1)]
    for run in waiting:
        next(run)
    with pytest.raises(CaseError, match=r"stand in line already. Try again"):
        next(line.turns(steps("c", 1), "edit"))
    for run in [*waiting, first]:
        run.close()


def test_one_address_has_no_more_than_its_places_and_others_still_come_in():
    line, cancelled = Line(rest=60, of_one=2), threading.Event()

    def ask(address: str | None) -> Generator[Any, None, bool]:
        return line.turns(steps("a", 2), "edit", cancelled.is_set, told, address)

    standing = [ask("1.2.3.4") for _ in range(2)]
    for run in standing:
        next(run)
    with pytest.raises(CaseError, match=r"^2 runs from your address .* Try again when one .*--runs-in-line"):
        next(ask("1.2.3.4"))
    standing += [ask("5.6.7.8"), *(ask(None) for _ in range(3))]  # nobody in particular is no address
    for run in standing[2:]:
        assert isinstance(next(run), Place)
    standing.pop(1).close()  # who leaves gives the place to another one of theirs
    standing.append(ask("1.2.3.4"))
    assert isinstance(next(standing[-1]), Place) and len(line) == 6
    for run in reversed(standing):
        run.close()
    assert len(line) == 0


def test_on_a_page_of_ones_own_an_address_may_fill_the_line():
    line = Line(rest=60, of_one=Limits().in_line)
    standing = [line.turns(steps("a", 2), "edit", tell=told, address="127.0.0.1") for _ in range(OTHERS.in_line + 1)]
    for run in standing:
        next(run)
    for run in reversed(standing):
        run.close()


def test_what_is_done_in_the_background_waits_until_nobody_is_in_line_or_it_is_to_end():
    line, stopped = Line(), threading.Event()
    line.give_way()
    first, other = (line.turns(steps(name, 2), "edit", tell=told) for name in "ab")
    next(first), next(other)
    order: list[str] = []

    def behind(cancelled: Callable[[], bool]) -> threading.Thread:
        def wait() -> None:
            line.give_way(cancelled)
            order.append("background")

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    background, ended = behind(lambda: False), behind(stopped.is_set)
    stopped.set()
    ended.join(20)
    assert order == ["background"], "what is to end waits for nobody"
    for run in (first, other):
        order.append("visitor")
        run.close()
    background.join(20)
    assert order == ["background", "visitor", "visitor", "background"]


def test_a_run_that_leaves_before_its_turn_tells_how_long_it_waited(monkeypatch):
    told_of: list[dict[str, Any]] = []
    monkeypatch.setattr("dashboard.kit.running.queue.note", lambda event, **fields: told_of.append(fields))
    line, cancelled = Line(rest=60), threading.Event()
    first = line.turns(steps("a", 2), "edit")
    next(first)
    waits = line.turns(steps("b", 1), "edit", cancelled.is_set, told)
    next(waits)
    time.sleep(0.05)
    cancelled.set()
    assert list(waits) == [] and told_of[0]["outcome"] == "cancelled" and told_of[0]["waited"] >= 0.05
    assert told_of[0]["seconds"] == 0
    first.close()
    assert len(line) == 0


def test_a_run_that_fails_as_it_is_closed_leaves_the_line_all_the_same():
    def stubborn() -> Generator[str, None, None]:
        try:
            yield "begun"
        finally:
            raise CaseError("It does not close.")

    line = Line()
    run = line.turns(stubborn(), "edit")
    assert next(run) == "begun"
    with pytest.raises(CaseError, match="does not close"):
        run.close()
    assert len(line) == 0


def test_what_is_done_in_the_background_waits_while_a_page_opens_or_it_is_to_end(monkeypatch):
    line, clock = Line(), [100.0]
    waits: list[float] = []
    monkeypatch.setattr("dashboard.kit.running.queue.time", types.SimpleNamespace(monotonic=lambda: clock[0]))

    def wait(seconds: float) -> None:
        waits.append(clock[0])
        clock[0] += seconds

    monkeypatch.setattr(line._changed, "wait", wait)
    line.give_way()
    assert waits == []
    line.page_opens()
    line.give_way(lambda: True)
    assert waits == [], "what is to end waits for nobody"
    line.give_way()
    assert clock[0] >= 100 + OPENING and len(waits) > 1
    line.give_way()
    assert max(waits) < 100 + OPENING
