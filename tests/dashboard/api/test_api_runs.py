"""Runs of programs: cancelled, one at a time, given up, refused with the remedy; the read-only demo."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from api_helpers import LONG, TYPED, case, connect, weights
from gradio_client import Client
from gradio_client.exceptions import AppError

from dashboard.kit.shelf import Shelf


def test_a_cancelled_edit_ends_without_a_patch_and_the_edit_before_stays_live(client):
    before = weights(client)
    events: list[dict[str, Any]] = []
    job = client.submit(*case(0), 1, *LONG.values(), api_name="/edit")
    for event in job:
        if not events:
            assert client.predict(api_name="/cancel") == {"cancelled": True}
        events.append(event)
    assert events[-1]["stop_reason"] == "cancelled" and events[-1]["patch"] is None and len(events) < 1000
    assert weights(client) == before
    list(client.submit(*case(0), 1, "corrected", 2, api_name="/edit"))
    assert weights(client) != before, "a new edit is not cancelled by the old press"


def test_a_cancel_reaches_only_the_client_that_asked(app, client):
    other = connect(app)
    job = client.submit(*case(0), 1, "reference", 50, api_name="/edit")
    next(job)
    other.predict(api_name="/cancel")
    assert list(job)[-1]["stop_reason"] == "step limit"


def test_a_client_does_one_thing_at_a_time(client):
    job = client.submit(*case(0), 1, *LONG.values(), api_name="/edit")
    next(job)
    with pytest.raises(AppError, match=r"still running for you. Wait for it, or press Cancel"):
        client.predict(*case(0), api_name="/locate")
    client.predict(api_name="/cancel")
    assert list(job)[-1]["stop_reason"] == "cancelled"


def test_a_program_whose_run_waits_in_line_is_told_its_place_and_its_wait_and_others_are_not(app, client):
    def told(who: Client) -> tuple[int | None, float | None]:
        status = who.predict(api_name="/status")
        return status["ahead"], status["wait_seconds"]

    other = connect(app)
    assert told(client) == told(other) == (None, None)
    running = other.submit(*case(0), 1, *LONG.values(), api_name="/edit")
    next(running)
    waiting = client.submit(*case(0), 1, "corrected", 2, api_name="/edit")
    ahead, seconds = told(client)
    while ahead is None and not waiting.done():
        ahead, seconds = told(client)
    assert ahead == 1 and seconds is not None and seconds > 0
    assert told(other) == (None, None), "it is the other one's turn"
    other.predict(api_name="/cancel")
    assert list(running)[-1]["stop_reason"] == "cancelled" and list(waiting)[-1]["done"]
    assert told(client) == (None, None)


@pytest.mark.parametrize("asked", [("FT-L", "/load_method"), ("merged model", "/save")], ids=lambda asked: asked[1])
def test_what_a_program_is_answered_once_waits_in_line_where_it_is_long(app, client, monkeypatch, asked):
    ahead, before = app.line.turns((one for one in ["ahead"]), "edit"), weights(client)
    monkeypatch.setattr(app.line, "rest", 60.0)
    assert next(ahead) == "ahead"
    waiting = client.submit(asked[0], api_name=asked[1])
    try:
        while client.predict(api_name="/status")["ahead"] is None and not waiting.done():
            pass
        assert client.predict(api_name="/status")["ahead"] == 1
        client.predict(api_name="/cancel")
        with pytest.raises(AppError, match="Cancelled while it waited in line"):
            waiting.result(60)
    finally:
        ahead.close()
    assert weights(client) == before and len(app.line) == 0


def test_closing_the_page_stops_what_runs_for_it_and_keeps_the_session(app, client):
    client.predict(api_name="/undo")
    with httpx.stream("GET", f"{app.local_url}gradio_api/heartbeat/{client.session_hash}") as page:
        alive = page.iter_raw()
        next(alive)
        job = client.submit(*case(0), 1, *LONG.values(), api_name="/edit")
        next(job)
    assert list(job)[-1]["stop_reason"] == "cancelled"
    assert weights(client) == "vanilla", "who comes back finds what was done"


def test_a_job_that_its_client_gives_up_frees_the_session(client):
    before = weights(client)
    job = client.submit(*case(0), 1, *LONG.values(), api_name="/edit")
    next(job)
    job.cancel()
    for _ in range(200):
        try:
            assert client.predict(*case(0), api_name="/locate")["blocks"] == 3
            break
        except AppError as error:
            assert "still running" in str(error)
            time.sleep(0.05)
    assert weights(client) == before


REFUSED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("/locate", ("", *TYPED[1:]), "Write one or pick an example"),
    ("/locate", (*TYPED[:3], TYPED[2]), "Change one of them"),
    ("/locate", (*TYPED[:2], "", TYPED[3]), "The safe answer is empty. Write one"),
    ("/locate", ("word " * 20_000, *TYPED[1:]), "Shorten it by at least"),
    ("/locate", (*TYPED, "nonsense"), "Unknown preset 'nonsense'. Valid presets: corrected, paper, reference"),
    ("/edit", (*TYPED, 99), "blocks 0 to 2. Pick one of those"),
    ("/edit", (*TYPED, 1, "corrected", -1), "steps = -1 is out of range: it should be greater than or equal to 1"),
    ("/edit", ("", *TYPED[1:], 1), "Write one or pick an example"),
    ("/prompt", ("word " * 20_000, ""), "Shorten it by at least"),
    ("/prompt", ("Why?", "no slot"), "Put the slot where the question belongs"),
    ("/ask", (" ",), "The prompt is empty. Write a question"),
    ("/ask", ("Why?", -0.5), "Choose one from 0 to 1.5"),
    ("/ask", ("word " * 20_000,), "Shorten it by at least"),
)


def test_what_cannot_be_done_is_refused_with_the_remedy_and_the_server_goes_on(client):
    example, wrong = weights(client), []
    for endpoint, arguments, remedy in REFUSED:
        with pytest.raises(AppError) as caught:
            client.predict(*arguments, api_name=endpoint)
        is_free = client.predict(*TYPED, api_name="/locate")["blocks"] == 3
        if remedy not in str(caught.value) or weights(client) != example or not is_free:
            wrong.append((endpoint, remedy, str(caught.value)))
    assert wrong == []


def test_the_read_only_demo_refuses_typed_text_and_serves_bundled_cases(demo):
    client = connect(demo)
    assert client.predict(*case(4), api_name="/locate")["blocks"] == 3
    done = list(client.submit(*case(4), 1, "corrected", 2, api_name="/edit"))[-1]
    assert done["patch"] and weights(client).endswith(done["patch"])
    typed: list[tuple[str, tuple]] = [
        ("/locate", TYPED),
        ("/locate", (*case(4), "corrected", "right", "My suffix.")),
        ("/edit", (*TYPED, 1)),
        ("/prompt", TYPED[:2]),
        ("/ask", ("Why?",)),
    ]
    for endpoint, arguments in typed:
        with pytest.raises(AppError, match="read-only"):
            client.predict(*arguments, api_name=endpoint)
    assert client.predict(api_name="/undo")["edits"] == 1


def test_the_look_for_what_nobody_uses_any_more_includes_the_models_beside_the_page_s_own(app, monkeypatch):
    swept: list[Shelf] = []
    monkeypatch.setattr(Shelf, "sweep", lambda shelf: swept.append(shelf))
    app.guard.sessions.look()
    assert len(swept) == 1
