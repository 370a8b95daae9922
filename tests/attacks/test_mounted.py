"""Attacks on the page of a further model: its doors are the first page's, and no visitor's name is good on both."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from attack_helpers import CLOSED, HTML, Served, call, opened, press, serve
from dashboard_helpers import save_listed, tiny_model

from dashboard.kit.door.refused import Refused
from dashboard.kit.door.routes import GUESSES, POSTED
from dashboard.kit.limits import DEMO
from dashboard.kit.shelf import Shelf
from editing.progress import run as run_quietly

DEEPER = "deeper"
PROMPT = "a prompt that is nobody else's"


def shelf_in(folder) -> Shelf:
    options = {"device": "cpu", "dtype": "float32"}
    return Shelf(tiny_model(), ["tiny-llama", save_listed(folder, DEEPER, 5)], options, named=True)


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Iterator[Served]:
    """The first page, with another one open beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("copies")))
        with serve(shelf=shelf_in(tmp_path_factory.mktemp("listed"))) as page:
            run_quietly(page.app.model_pages.opened(DEEPER))
            yield page


@pytest.fixture
def mounted(first) -> Served:
    """The other page."""
    return Served(first.app.model_pages._open[DEEPER].app, f"{first.url}model/{DEEPER}/")


@pytest.fixture
def web(mounted) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mounted.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_a_route_that_is_closed_on_the_first_page_is_closed_there(web, method, path):
    answer = web.request(method, path)
    assert answer.status_code in (403, 404) and "detail" in answer.json()


def test_nothing_goes_around_the_queue_and_no_private_handler_is_called(mounted, web):
    for kind in ("run", "api"):
        assert web.post(f"/gradio_api/{kind}/status", json={"data": []}).status_code == 403
    for path in ("call/on_edit", "call/v2/on_open_model", "call//status", "call/%6fn_edit"):
        assert web.post(f"/gradio_api/{path}", json={"data": []}).status_code == 404
    assert call(web, "status")[1][0]["model"] == DEEPER
    assert web.post("/gradio_api/queue/join", content=b" " * (POSTED + 1)).status_code == 413


def test_a_path_of_this_machine_and_tricks_with_the_address_read_nothing(first, web, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    assert web.get(f"/gradio_api/file={secret}").status_code == 404
    with httpx.Client(base_url=first.url, timeout=60) as other:
        for path in (
            "/model/deeper/model/deeper/monitoring",
            "/model/deeper//monitoring",
            "/model/%2e%2e/monitoring",
            "/model/deeper/%2e%2e/monitoring",
            "//model/deeper/config",
            "/MODEL/deeper/config",
        ):
            assert other.get(path).status_code == 404, path


def test_a_visitor_s_page_answers_nobody_else_and_is_none_of_the_other_page_s(first, mounted, web):
    opened(mounted, web, "victim")
    press(mounted, web, "victim", "on_texts", question=PROMPT)
    with httpx.Client(base_url=mounted.url, timeout=60) as stranger:
        stranger.get("/", headers=HTML)
        asked = [
            stranger.get("/gradio_api/queue/data", params={"session_hash": "victim"}),
            stranger.get("/gradio_api/heartbeat/victim"),
            stranger.post("/gradio_api/call/undo", json={"data": [], "session_hash": "victim"}),
        ]
        assert {answer.status_code for answer in asked} == {404}
    with httpx.Client(base_url=first.url, timeout=60) as stranger:
        assert call(stranger, "status", session_hash="victim")[1][0]["model"] == "tiny-llama"
    assert first.sessions.owner("victim") is None


def test_the_key_of_a_visitor_is_one_and_is_not_read_by_scripts(first, web):
    cookie = web.get("/", headers=HTML).headers["set-cookie"]
    assert "Path=/;" in cookie and "HttpOnly" in cookie
    key = cookie.partition(";")[0]
    again = httpx.get(first.url, headers={**HTML, "Cookie": key}).headers["set-cookie"]
    assert again.partition(";")[0] == key


def test_passwords_and_files_are_counted_for_all_pages_together(first, mounted, monkeypatch):
    guards = first.app.guard, mounted.app.guard
    monkeypatch.setattr(guards[0], "_guesses", guards[0]._guesses)
    for number in range(GUESSES):
        guards[number % 2]._guess("9.9.9.9")
    for guard in guards:
        with pytest.raises(Refused, match="Too many wrong passwords"):
            guard._guess("9.9.9.9")
    assert guards[0].room is guards[1].room and guards[0].sent is guards[1].sent
    assert mounted.app.upload_file_set in guards[0].sent and len(guards[0].sent) == 2


def test_a_read_only_program_is_read_only_on_every_page(tmp_path):
    with serve(DEMO, read_only=True, shelf=shelf_in(tmp_path)) as page:
        run_quietly(page.app.model_pages.opened(DEEPER))
        with httpx.Client(base_url=f"{page.url}model/{DEEPER}", timeout=60) as web:
            assert web.post("/gradio_api/upload", files={"files": b"a file"}).status_code == 404
            kind, _ = call(web, "ask", PROMPT)
            assert kind == "error"
