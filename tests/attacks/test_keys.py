"""Attacks on sessions: calls without one, with someone else's, with a thousand, and handlers called by their number."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from attack_helpers import call, opened, press, told
from dashboard_helpers import tiny_model
from gradio import processing_utils

from dashboard.kit.door.copies import COPIES, FILES_FOR
from dashboard.kit.door.doors import TOOL_HEADER
from dashboard.kit.sessions.session import FOLDER, LiveEdit
from dashboard.kit.sessions.typed import texts_of
from dashboard.kit.sessions.visitors import EMPTY_ONES, Sessions
from editing import dinm, preset, run
from inspector.model import SUFFIX
from inspector.safeedit import bundled_cases


@pytest.fixture
def victim(served, request):
    """A visitor with a page open and a case of theirs."""
    page = f"victim of {request.node.name}"
    with httpx.Client(base_url=served.url, timeout=60) as client:
        opened(served, client, page)
        press(served, client, page, "on_locate")
        client.page, client.session = page, served.sessions.of(served.sessions.owner(page))
        assert client.session.case is not None
        yield client


def test_a_page_answers_only_who_opened_it(served, victim, web):
    asked = [
        web.get("/gradio_api/queue/data", params={"session_hash": victim.page}),
        web.get(f"/gradio_api/heartbeat/{victim.page}"),
        web.post(
            "/gradio_api/queue/join",
            json={"data": [], "fn_index": served.number("on_cancel"), "session_hash": victim.page},
        ),
        web.post("/gradio_api/cancel", json={"session_hash": victim.page, "fn_index": 1, "event_id": "x"}),
        web.post("/gradio_api/call/undo", json={"data": [], "session_hash": victim.page}),
    ]
    assert {answer.status_code for answer in asked} == {404}
    opened(served, web, "stranger's page")  # with a key of their own it is the same
    answer = web.get("/gradio_api/queue/data", params={"session_hash": victim.page})
    assert answer.status_code == 404 and "opened elsewhere" in answer.json()["detail"]
    said = press(served, victim, victim.page, "on_texts")
    assert any(message["msg"] == "process_completed" for message in said), "the victim's own page goes on"


def test_a_stranger_cannot_end_a_victims_run_by_leaving_in_their_name(served, victim, web):
    session = victim.session
    assert session.begin()
    session.page = victim.page
    try:
        with pytest.raises(httpx.HTTPStatusError):
            web.get(f"/gradio_api/heartbeat/{victim.page}").raise_for_status()
        assert not session.cancelled.is_set()
        served.sessions.leave(victim.page)
        assert session.cancelled.is_set(), "the page's own end does"
    finally:
        session.end()


@pytest.mark.parametrize("handler", ["on_undo", "on_edit", "on_locate", "on_ask", "on_stress", "on_train", "on_cancel"])
def test_a_handler_called_by_number_without_a_page_does_nothing(served, handler):
    with httpx.Client(base_url=served.url, timeout=60) as web:
        said = press(served, web, f"nobody {handler}", handler)
    session = served.sessions.of(f"nobody {handler}")
    assert session.case is None and session.edits == [] and not session.busy
    done = [message for message in said if message["msg"] == "process_completed"]
    assert len(done) == 1 and "Traceback" not in str(done)


@pytest.mark.parametrize("handler", ["on_return", "on_waking", "on_over"])
def test_a_page_whose_visitor_has_nothing_is_drawn_anew_without_an_error(served, web, handler):
    opened(served, web, f"a fresh page, {handler}")
    (end,) = (
        message
        for message in press(served, web, f"a fresh page, {handler}", handler)
        if message["msg"] == "process_completed"
    )
    assert end["success"]


def test_calls_without_a_session_share_nothing(served, web):
    texts = texts_of(bundled_cases()[1])
    with served.sessions._lock:
        before = set(served.sessions._sessions)
    case = texts.question, texts.template, texts.safe, texts.unsafe
    assert call(web, "locate", *case, "corrected", "right", SUFFIX, True)[0] == "complete"
    assert call(web, "status")[0] == "complete"
    with served.sessions._lock:
        new = {key: served.sessions._sessions[key] for key in set(served.sessions._sessions) - before}
    assert len(new) == 2 and sum(session.case is not None for session in new.values()) == 1


@pytest.mark.parametrize("header", [("X-Gradio-User", "mcp"), (TOOL_HEADER[0], "mcp")], ids=["gradio's", "ours"])
def test_nobody_passes_for_a_tool_to_have_other_limits_and_a_session_for_each_call(served, header):
    texts = texts_of(bundled_cases()[1])
    page = f"no tool {header[0]}"
    with httpx.Client(base_url=served.url, timeout=60, headers=dict([header])) as web:
        case = texts.question, texts.template, texts.safe, texts.unsafe
        assert call(web, "locate", *case, "corrected", "right", SUFFIX, True, session_hash=page)[0] == "complete"
    session = served.sessions.of(page)
    assert session.case is not None and session.limits == served.sessions.limits and session.runs == 1


def test_a_thousand_keys_that_work_drop_no_visitor_who_holds_something():
    sessions = Sessions(most=100)
    with_edit = sessions.of("someone at work")
    with_edit.begin()
    with_edit.end()
    with_edit.bytes = 10
    sessions.arrive("their page", "someone at work")

    def attack(number: int) -> None:
        session = sessions.of(f"attacker {number}")
        session.begin()
        session.end()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attack, range(1000)))
    assert len(sessions) <= 101 and sessions.of("someone at work") is with_edit
    assert sessions.at("their page", "someone at work") is with_edit


def test_more_keys_over_the_server_than_are_kept_leave_the_victims_edit_and_page_and_few_copies(
    served, victim, monkeypatch
):
    """210 plain posts, ten times as many as empty sessions are kept, once dropped every visitor's edits."""
    holder, sessions = served.app.state_holder, served.sessions
    monkeypatch.setattr(holder, "capacity", 50)
    monkeypatch.setattr(sessions, "_empty_ones", 20)
    assert COPIES >= 50 and EMPTY_ONES >= 20
    edit = LiveEdit(victim.session.case, run(dinm(tiny_model(), victim.session.case, 1, preset("corrected", steps=2))))
    victim.session.add(edit)
    began = time.process_time()

    def attack(number: int) -> int:
        body = {"data": [], "session_hash": f"attacker {number}"}
        return client.post("/gradio_api/call/status", json=body).status_code

    with ThreadPoolExecutor(4) as pool, httpx.Client(base_url=served.url, timeout=60) as client:
        assert set(pool.map(attack, range(210))) == {200}
    while any(
        event.session_hash.startswith("attacker") for event in list(served.app._queue.event_ids_to_events.values())
    ):
        time.sleep(0.01)
    kept = [number for number in range(210) if sessions.knows(f"attacker {number}")]
    assert 0 < len(kept) <= 21, "most of the attackers' own sessions are gone"
    assert sessions.of(sessions.owner(victim.page)) is victim.session and victim.session.live is edit
    kind, said = call(victim, "status")
    assert kind == "complete" and said[0]["edits"] == 1 and edit.patch.identifier in said[0]["weights"]
    assert len(holder.session_data) <= 51 and victim.page in holder.session_data
    assert time.process_time() - began < 60, "each costs a moment, not a third of a second"


def test_what_is_handed_out_is_no_copy_of_gradios_and_goes_with_its_visitor(served, victim, monkeypatch):
    """Gradio would make one within the loop that serves everyone, and it would outlive the visitor."""
    copied, copy = [], processing_utils.save_file_to_cache
    monkeypatch.setattr(
        processing_utils, "save_file_to_cache", lambda path, cache_dir: copied.append(path) or copy(path, cache_dir)
    )

    def fetched(file: Path) -> int:
        return victim.get(f"/gradio_api/file={file}").status_code

    kind, said = call(victim, "report", True)
    assert kind == "complete", said
    first = Path(said[0]["file"]["path"])
    assert fetched(first) == 200
    press(served, victim, victim.page, "on_waking")  # the page is drawn anew after what a program has run
    press(served, victim, victim.page, "on_report")
    (folder,) = (Path(folder.name) for folder in victim.session.folders.values())
    file = next(folder.glob("*.html"))
    assert fetched(file) == 200 and copied == [] and not first.exists()
    assert re.fullmatch(rf"{FOLDER}[\w-]{{24}}-\w+", folder.name), "nobody guesses where it lies"

    old = file.lstat().st_ctime + FILES_FOR + 1
    monkeypatch.setattr("dashboard.kit.door.copies.time", SimpleNamespace(time=lambda: old))
    served.sessions.tidy[-1]()  # what the look of each minute calls last
    assert fetched(file) == 200, "as long as its visitor is there"
    with served.sessions._lock:
        served.sessions._drop(served.sessions.owner(victim.page))
    assert not folder.exists() and fetched(file) in (403, 404)


def test_a_copy_that_gradio_has_made_all_the_same_goes_after_an_hour(served, tmp_path, monkeypatch):
    made = tmp_path / "a file.txt"
    made.write_text("a text of a visitor")
    copy = Path(processing_utils.save_file_to_cache(str(made), served.app.app.uploaded_file_dir))
    served.app.temp_file_sets[0].add(str(copy))
    aged = copy.lstat().st_ctime
    for passed, there in ((FILES_FOR - 60, True), (FILES_FOR + 1, False)):
        monkeypatch.setattr("dashboard.kit.door.copies.time", SimpleNamespace(time=lambda now=aged + passed: now))
        served.sessions.tidy[-1]()
        assert copy.exists() == there


def test_gradios_copies_of_a_page_go_with_its_visitor(served):
    with httpx.Client(base_url=served.url, timeout=60) as web:
        opened(served, web, "brief page")
        press(served, web, "brief page", "on_texts", question="A question that is to be forgotten?")
    assert "brief page" in served.app.state_holder.session_data
    state = served.app.state_holder.session_data["brief page"]
    assert state.config_values == {}, "no value is kept for links to a page's state"
    key = served.sessions.owner("brief page")
    while any(event.session_hash == "brief page" for event in served.app._queue.event_ids_to_events.values()):
        time.sleep(0.01)
    with served.sessions._lock:
        served.sessions._drop(key)
    assert "brief page" not in served.app.state_holder.session_data
    assert "brief page" not in served.app._queue.pending_messages_per_session
    assert served.sessions.owner("brief page") is None


def test_calls_that_know_no_session_leave_nothing_once_nobody_has_taken_their_answers(served, victim, monkeypatch):
    queue = served.app._queue
    with ThreadPoolExecutor(4) as pool, httpx.Client(base_url=served.url, timeout=60) as web:
        body = {"data": ["A question?", "", SUFFIX, True]}
        posts = list(pool.map(lambda _: web.post("/gradio_api/call/prompt", json=body), range(300)))
    events = {post.json()["event_id"] for post in posts}
    assert len(events) == 300
    while queue.event_ids_to_events:
        time.sleep(0.01)
    assert events <= set(queue.pending_event_ids_session) and events <= set(queue.pending_messages_per_session)
    served.sessions.look()
    assert events <= set(queue.pending_event_ids_session), "who asked may still come for the answer"
    monkeypatch.setattr("dashboard.kit.door.copies.UNASKED", 0.0)
    served.sessions.look()
    for kept in (queue.pending_event_ids_session, queue.pending_messages_per_session):
        assert not events & set(kept)
    assert victim.page in served.app.state_holder.session_data


def test_what_cannot_be_forgotten_while_it_runs_is_forgotten_afterwards(served):
    with httpx.Client(base_url=served.url, timeout=60) as web:
        opened(served, web, "page of a run")
    queue, event = served.app._queue, SimpleNamespace(session_hash="page of a run")
    while queue.event_ids_to_events:  # of its opening
        time.sleep(0.01)
    queue.event_ids_to_events["running"] = event
    try:
        with served.sessions._lock:
            served.sessions._drop(served.sessions.owner("page of a run"))
        assert "page of a run" in queue.pending_messages_per_session
    finally:
        del queue.event_ids_to_events["running"]
    served.sessions.look()
    assert "page of a run" not in queue.pending_messages_per_session


def test_one_visitor_opens_a_thousand_pages_and_few_are_remembered():
    sessions, forgotten = Sessions(), []
    sessions.forget = forgotten.append
    for number in range(1000):
        sessions.arrive(f"page {number}", "visitor")
    assert len(sessions._pages) <= 100 and len(forgotten) >= 900 and sessions.owner("page 999") == "visitor"


def test_two_runs_of_one_visitor_started_in_the_same_instant_are_one(served):
    session, began = served.sessions.of("twice"), threading.Barrier(8)
    won: list[bool] = []

    def begin() -> None:
        began.wait()
        won.append(session.begin())

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.end()
    assert sorted(won) == [False] * 7 + [True]


def test_messages_of_an_event_go_to_its_own_page_only(served, victim):
    with httpx.Client(base_url=served.url, timeout=60) as web:
        opened(served, web, "own page")
        said: list[dict[str, Any]] = press(served, web, "own page", "on_texts", question="Mine alone?")
        assert "Mine alone?" in str(said)
    with pytest.raises(httpx.HTTPStatusError):
        told(victim, "own page")
