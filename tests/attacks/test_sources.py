"""Attacks by names: judges, datasets, paths and hub ids that a visitor gives, and downloads that hold others up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from dashboard.kit.limits import DEMO, OTHERS, Limits
from dashboard.kit.queue import Elsewhere, Line
from dashboard.kit.session import Session
from dashboard.steps.stress import judging
from dashboard.steps.stress.judging import AT_ONCE, KEPT, Judges
from dashboard.steps.stress.run import JUDGES
from inspector.errors import CaseError, ModelLoadError
from inspector.safeedit.judges import MatcherJudge

STRANGE = [
    "zjunlp/SafeEdit-Safety-Classifier",
    "/etc",
    "../..",
    "~/.ssh",
    "file:///etc/passwd",
    "\x00",
    "",
    "a" * 10_000,
]


def ended(run: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    """Run something to its end and return what it yields and returns."""
    events = []
    while True:
        try:
            events.append(next(run))
        except StopIteration as end:
            return events, end.value


@pytest.fixture
def loader(monkeypatch) -> dict[str, Any]:
    """Loads judges when they are let; counts what was loaded."""
    told: dict[str, Any] = {"names": [], "let": threading.Event(), "slow": set()}

    def load(name: str) -> Any:
        told["names"].append(name)
        if name in told["slow"]:
            told["let"].wait(30)
        if name == "broken":
            raise ModelLoadError("It cannot be loaded.")
        return MatcherJudge()

    monkeypatch.setattr(judging, "load_judge", load)
    return told


@pytest.mark.parametrize("name", STRANGE)
def test_where_others_reach_the_page_no_name_of_a_visitor_is_looked_at(loader, name):
    with pytest.raises(CaseError, match="reads no judge that a visitor names") as caught:
        ended(Judges(False, OTHERS).of(name))
    assert loader["names"] == [] and "/etc" not in str(caught.value)


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_that_is_there_is_refused_with_the_words_of_one_that_is_not(tmp_path, name):
    said = set()
    for source in (name, str(tmp_path), str(tmp_path / "nothing")):
        with pytest.raises(CaseError) as caught:
            OTHERS.require_source(source, "dataset")
        said.add(str(caught.value))
    assert len(said) == 1


def test_what_the_operator_allows_is_read_and_nothing_else(loader):
    judges = Judges(False, Limits(sources=frozenset(("mine/judge",))))
    assert ended(judges.of("mine/judge"))[1].name == "plain matcher"
    with pytest.raises(CaseError, match="Allowed: mine/judge"):
        ended(judges.of("other/judge"))
    for name in JUDGES:
        assert ended(judges.of(name))[1] is not None
    assert loader["names"] == ["mine/judge", *JUDGES.values()]


def test_a_read_only_page_has_the_embedded_judges_only_and_no_packages(loader):
    with pytest.raises(CaseError, match="read-only"):
        ended(Judges(True, DEMO).of("mine/judge"))
    with pytest.raises(CaseError, match="Attacks of other packages are off"):
        DEMO.require_packages()
    assert loader["names"] == []


def test_one_visitors_download_stops_nobody_elses_test(loader):
    loader["slow"].add("slow")
    judges, line = Judges(False), Line(slice=60)

    def stress(name: str, count: int) -> Generator[Any, None, None]:
        judge = yield from judges.of(name, said="loading")
        assert judge is not None
        yield from range(count)

    first = line.turns(stress("slow", 1), "stress", tell=lambda place: place)
    assert next(first) == "loading"
    begun = time.monotonic()
    assert [event for event in line.turns(stress("embedded", 3), "stress") if not isinstance(event, str)] == [0, 1, 2]
    assert time.monotonic() - begun < 5
    loader["let"].set()
    assert [event for event in first if event != "loading"][-1] == 0 and len(line) == 0


def test_a_judge_that_many_want_at_once_is_loaded_once_and_few_are_kept(loader):
    judges = Judges(False)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(ended(judges.of("one"))[1])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loader["names"] == ["one"] and len(set(map(id, found))) == 1
    for number in range(5):
        ended(judges.of(f"judge {number}"))
    assert len(judges._known) == KEPT and "one" not in judges._known


def test_a_wait_for_a_judge_can_be_cancelled_and_too_many_are_refused(loader):
    judges, session = Judges(False), Session()
    waiting = []
    for number in range(AT_ONCE):
        loader["slow"].add(f"slow {number}")
        run = judges.of(f"slow {number}", session.cancelled.is_set)
        assert isinstance(next(run), Elsewhere)
        waiting.append(run)
    with pytest.raises(CaseError, match="Other judges are being loaded"):
        ended(judges.of("one more"))
    session.cancelled.set()
    assert [ended(run)[1] for run in waiting] == [None] * AT_ONCE
    loader["let"].set()


def test_a_judge_that_cannot_be_loaded_is_told_to_all_who_wait_and_asked_for_anew(loader):
    judges = Judges(False)
    for _ in range(2):
        with pytest.raises(ModelLoadError):
            ended(judges.of("broken"))
    assert loader["names"] == ["broken"] * 2


REFUSED: list[tuple[Callable[[Limits], Any], str]] = [
    (lambda limits: limits.require_tokens(257), "At most 256 tokens"),
    (lambda limits: limits.require_tokens(10**400), "far more were asked for"),
    (lambda limits: limits.require_tokens(float("inf")), "whole number"),
    (lambda limits: limits.require_tokens(float("nan")), "whole number"),
    (lambda limits: limits.require_tokens("many"), "whole number"),
    (lambda limits: limits.require_tokens(None), "whole number"),
    (lambda limits: limits.require_steps(101), "At most 100 steps"),
    (lambda limits: limits.require_prompts(201), "At most 200 prompts"),
    (lambda limits: limits.require_short("short", "x" * 20_001), "At most 20,000 characters"),
]


@pytest.mark.parametrize(("ask", "words"), REFUSED)
def test_more_than_one_visitor_may_have_is_refused_with_what_is_allowed(ask, words):
    with pytest.raises(CaseError, match=words):
        ask(OTHERS)


def test_fewer_than_one_token_is_one():
    assert OTHERS.require_tokens(-5) == OTHERS.require_tokens(0) == 1 and OTHERS.require_tokens("12") == 12
