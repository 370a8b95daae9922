"""Attacks by names: judges, datasets, paths and hub ids that a visitor gives, and downloads that hold others up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest
from attack_helpers import Served, call, opened, press, serve, told
from dashboard_helpers import Clock, tiny_model

from dashboard.kit.limits import DEMO, OTHERS, Limits
from dashboard.kit.running.fetching import AT_ONCE, LONGEST, Fetching
from dashboard.kit.running.queue import Elsewhere, Line
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sessions.typed import texts_of
from dashboard.steps.methods.run import TITLES
from dashboard.steps.stress import judging
from dashboard.steps.stress.judging import KEPT, Judges
from dashboard.steps.stress.run import JUDGES, NO_ATTACKS
from editing import dinm, preset, run
from inspector.errors import CaseError, ModelLoadError
from inspector.model import SUFFIX
from inspector.safeedit import bundled_cases
from inspector.safeedit.judges import MatcherJudge
from inspector.toxicity import labelled_texts

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
    judges, line = Judges(False), Line(slice=60, rest=0.2)

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


def test_one_visitors_dataset_stops_nobody_elses_run_and_can_be_cancelled(served, web, monkeypatch):
    begun, let, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(source: str = "bundled") -> Any:
        if source != "bundled":
            begun.set()
            let.wait(20)
            ended.set()
        return labelled_texts()

    monkeypatch.setattr("dashboard.steps.why.view.labelled_texts", slow)
    opened(served, web, "page with a dataset")
    mine = served.sessions.of(served.sessions.owner("page with a dataset"))
    mine.limits = Limits()
    body = {"fn_index": served.number("on_train"), "data": served.values("on_train", why_source="someone/texts")}
    web.post("/gradio_api/queue/join", json={**body, "session_hash": "page with a dataset"}).raise_for_status()
    assert begun.wait(20)
    with httpx.Client(base_url=served.url, timeout=60) as other:
        opened(served, other, "other page")
        assert "Probe trained" in str(press(served, other, "other page", "on_train"))
    assert not ended.is_set(), "nobody waited for it"
    said = str(press(served, web, "page with a dataset", "on_cancel"))
    assert "Cancelled before the texts were there" in said and not ended.is_set() and mine.probe is None
    let.set()


def test_two_datasets_are_fetched_at_a_time_and_who_wants_another_is_told(served, monkeypatch):
    let, begun = threading.Event(), threading.Semaphore(0)

    def slow(_source: str) -> Any:
        begun.release()
        let.wait(30)
        return labelled_texts()

    monkeypatch.setattr("dashboard.steps.why.view.labelled_texts", slow)
    with ExitStack() as stack:
        stack.callback(let.set)
        for number in range(3):
            web, page = stack.enter_context(httpx.Client(base_url=served.url, timeout=60)), f"wants dataset {number}"
            opened(served, web, page)
            served.sessions.of(served.sessions.owner(page)).limits = Limits()
            values = served.values("on_train", why_source=f"someone/texts {number}")
            body = {"fn_index": served.number("on_train"), "data": values, "session_hash": page}
            web.post("/gradio_api/queue/join", json=body).raise_for_status()
            if number < 2:
                assert begun.acquire(timeout=20)
        assert "Other texts are being loaded just now" in str(told(web, page))
        assert not begun.acquire(blocking=False), "nothing was begun for it"


def test_what_never_comes_keeps_its_place_for_half_an_hour_and_no_longer():
    clock, let = Clock(), threading.Event()
    fetching: Fetching[str] = Fetching("judges", clock)
    hanging = [fetching.get(f"slow {n}", lambda: let.wait(30) and "late", said="loading") for n in range(AT_ONCE)]
    assert [isinstance(next(run), Elsewhere) for run in hanging] == [True] * AT_ONCE
    assert LONGEST == 30 * 60
    clock.seconds = LONGEST - 1
    with pytest.raises(CaseError, match="Other judges are being loaded"):
        next(fetching.get("quick", lambda: "there"))
    clock.seconds = LONGEST
    with pytest.raises(CaseError, match="has not come"):
        next(hanging[0])
    assert ended(fetching.get("quick", lambda: "there"))[1] == "there"
    let.set()


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
    assert len(judges._known) == KEPT == 2 and "one" not in judges._known


def test_a_wait_for_a_judge_can_be_cancelled_and_too_many_are_refused(loader):
    judges, session = Judges(False), Session()
    waiting = []
    assert AT_ONCE == 2, "what SECURITY.md promises"
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
    (lambda limits: limits.require_harmless(129, 8), "At most 128 harmless prompts an edit"),
    (lambda limits: limits.require_harmless(33, None), "At most 32 harmless prompts a step.*or let a step meet 32"),
    (lambda limits: limits.require_harmless(96, 64), "At most 32 harmless prompts a step are allowed here, 64 were"),
    (lambda limits: limits.require_prompts(201), "At most 200 prompts"),
    (lambda limits: limits.require_short("short", "x" * 20_001), "At most 20,000 characters"),
]


@pytest.mark.parametrize(("ask", "words"), REFUSED)
def test_more_than_one_visitor_may_have_is_refused_with_what_is_allowed(ask, words):
    with pytest.raises(CaseError, match=words):
        ask(OTHERS)


def test_fewer_than_one_token_is_one():
    assert OTHERS.require_tokens(-5) == OTHERS.require_tokens(0) == 1 and OTHERS.require_tokens("12") == 12


CASE = texts_of(bundled_cases()[0])
TYPED = CASE.question, CASE.template, CASE.safe, CASE.unsafe
EDIT = SUFFIX, False, None, True, None
TEST = next(iter(JUDGES)), NO_ATTACKS, 8, None, "same prompts", None, True
CONTEST = "LoRA", "this case", "Brief", 40, SUFFIX, "same prompts", True, False


def with_an_edit(page: Served, web: httpx.Client, key: str) -> Session:
    """Return the session of a program in which an edit is live."""
    assert call(web, "status", session_hash=key)[0] == "complete"
    session, case = page.sessions.of(key), bundled_cases()[0]
    session.add(LiveEdit(case, run(dinm(tiny_model(), case, 1, preset("corrected", steps=2)))))
    assert session.live is not None
    return session


def test_an_edit_of_more_steps_than_one_visitor_may_have_is_not_made(served, web):
    kind, said = call(web, "edit", *TYPED, 1, "corrected", 101, *EDIT, session_hash="many steps")
    assert kind == "error" and "At most 100 steps an edit" in said["error"]
    assert served.sessions.of("many steps").edits == []


def test_a_test_of_more_prompts_than_one_visitor_may_have_asks_none(served, web):
    session = with_an_edit(served, web, "many prompts")
    session.limits = replace(OTHERS, prompts=41)
    kind, said = call(web, "stress_test", "Quick", *TEST, session_hash="many prompts")
    assert kind == "error" and "At most 41 prompts a test" in said["error"]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [({"prompts": 16}, "At most 16 prompts"), ({"steps": 19}, "At most 19 steps"), ({"tokens": 39}, "At most 39")],
)
def test_several_methods_are_held_to_the_same_bounds(served, web, bounds, words):
    assert call(web, "status", session_hash=str(bounds))[0] == "complete"
    session = served.sessions.of(str(bounds))
    session.limits = replace(OTHERS, **bounds)
    kind, said = call(web, "methods", *TYPED, 1, list(TITLES), *CONTEST, session_hash=str(bounds))
    assert kind == "error" and words in said["error"] and session.runs == 1


def test_a_dataset_that_is_not_allowed_is_not_read_by_who_trains_a_probe(served, web, monkeypatch):
    read: list[str] = []
    monkeypatch.setattr("dashboard.steps.why.view.labelled_texts", lambda *source: read.append(source))
    opened(served, web, "page of a trainer")
    said = str(press(served, web, "page of a trainer", "on_train", why_source="someone/texts"))
    assert "reads no dataset that a visitor names" in said and read == []


@pytest.fixture(scope="module")
def demo():
    """A read-only page on a server."""
    with serve(DEMO, read_only=True) as page:
        yield page


def test_a_read_only_page_asks_no_texts_of_other_packages(demo, monkeypatch):
    read: list[str] = []
    monkeypatch.setattr("dashboard.steps.stress.run.more_texts", lambda name: read.append(name) or ((), ()))
    with httpx.Client(base_url=demo.url, timeout=60) as web:
        with_an_edit(demo, web, "with packages")
        judge, _, *others = TEST
        kind, said = call(web, "stress_test", "This case", judge, "garak", *others, session_hash="with packages")
    assert kind == "error" and "Attacks of other packages are off" in said["error"] and read == []


def test_a_read_only_page_offers_the_sizes_that_are_possible_there(demo, served):
    def offered(page: Served) -> list[list[str]]:
        radios = [part for part in page.app.blocks.values() if getattr(part, "label", "") in ("Exam", "Size")]
        return [[name for name, _ in part.choices] for part in radios]

    assert sorted(offered(demo)) == [["Brief", "Quick"], ["This case", "Quick"]]
    assert sorted(offered(served)) == [["Brief", "Quick", "Full"], ["This case", "Quick", "Full"]]
