"""Attacks on the server's routes: what Gradio offers and this page does not use, and more than it can take."""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote, urlsplit

import gradio as gr
import httpx
import pytest
from attack_helpers import CLOSED, HTML, call, opened, press, serve, told
from dashboard_helpers import free_port
from starlette.middleware import Middleware

from dashboard.kit.door import posts
from dashboard.kit.door.doors import Doors
from dashboard.kit.door.posts import LONGEST_NAME
from dashboard.kit.door.refused import Refused
from dashboard.kit.door.routes import GUESSES, POSTED, Guard
from dashboard.kit.limits import DEMO, Pace

PROMPT = "a prompt that must not be found on any disk"

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_a_route_that_the_page_does_not_use_is_closed(web, method, path):
    answer = web.request(method, path)
    assert answer.status_code in (403, 404) and "detail" in answer.json()


@pytest.fixture(scope="module")
def demo():
    """A read-only page, which takes no files, on a server."""
    with serve(DEMO, read_only=True) as page, httpx.Client(base_url=page.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/upload/"),
        ("POST", "/gradio_api/upload?upload_id=1"),
        ("GET", "/gradio_api/upload_progress?upload_id=1"),
    ],
)
def test_a_page_without_a_part_that_takes_files_has_no_route_for_them(demo, web, method, path):
    answer = demo.request(method, path, **({"files": {"files": b"a file"}} if method == "POST" else {}))
    assert answer.status_code == 404 and "no such address" in answer.json()["detail"]
    if method == "POST":
        assert web.post("/gradio_api/upload", files={"files": b"a file"}).status_code == 200, "Keep takes files"
    assert web.post("//gradio_api/upload", files={"files": b"a file"}).status_code == 404


def file_of(**named: str) -> dict:
    return {"meta": {"_type": "gradio.FileData"}, **named}


@pytest.mark.parametrize(
    "given",
    [
        file_of(path="{url}/a"),
        file_of(path=" {URL}/a"),
        file_of(path="", url="{url}/a"),
        file_of(path="/tmp/own", url="{url}/gradio_api/file=/tmp/other"),
        file_of(path="/tmp/own", url="{url}/a?/gradio_api/file=/tmp/own"),
        file_of(path="/tmp/own", url="http://[/gradio_api/file=/tmp/own"),
        [[{"deep": file_of(path="{url}/a")}]],
        {"path": "a", "meta": {"_type": "gradio.FileData", "more": file_of(path="{url}/a")}},
    ],
)
@pytest.mark.parametrize("route", ["queue/join", "call/status", "call/v2/status"])
def test_nothing_is_fetched_that_a_post_names_as_a_file(served, web, given, route):
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def do_HEAD(self) -> None:
            self.do_GET()

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        text = json.dumps(given).replace("{url}", url).replace("{URL}", url.upper())
        data = [json.loads(text)] * len(served.app.fns[served.number("on_texts")].inputs)
        body = {"data": data, "fn_index": served.number("on_texts"), "session_hash": "fetches"}
        answer = web.post(f"/gradio_api/{route}", json=body)
        other.shutdown()
    assert answer.status_code == 422 and "fetches nothing" in answer.json()["detail"] and asked == []


def test_a_file_that_was_sent_to_this_page_is_taken_under_its_address_here(web):
    (path,) = web.post("/gradio_api/upload", files={"files": ("ä b.json", b"{}")}).json()
    for shown in (path, quote(path)):
        posts.check_files({"data": [[file_of(path=path, url=f"https://page.example/root/gradio_api/file={shown}")]]})
    posts.check_files({"data": [file_of(path=path), {"path": "http://a text of a visitor"}, "http://too"]})


@pytest.mark.parametrize(
    "path",
    ["/config", "/theme.css", "/gradio_api/info", "/gradio_api/openapi.json", "/robots.txt", "/manifest.json"],
)
def test_what_the_page_and_programs_use_is_open(web, path):
    assert web.get(path).status_code == 200


def test_all_that_a_browser_loads_with_the_page_is_open(web):
    page = web.get("/", headers=HTML).text
    found = {part.split('"')[0] for part in page.split('src="')[1:] + page.split('href="')[1:]}
    paths = [part.lstrip(".") for part in found if part.startswith(("./assets", "/assets", "./static", "/static"))]
    assert paths and {web.get(path).status_code for path in paths} == {200}


def test_nothing_that_a_browser_loads_with_the_page_comes_from_elsewhere_no_font_either(served, web):
    page, config = web.get("/", headers=HTML).text, web.get("/config").json()
    loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"([^\"]*)\"", page)
    here = [urlsplit(one).netloc in ("", urlsplit(served.url).netloc) for one in loaded]
    assert len(loaded) > 3 and all(here), loaded
    assert config["stylesheets"] == []
    assert not config["css"], "no browser writes a style sheet anew"
    for sheet in (web.get("/theme.css").text, "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))):
        assert len(sheet) > 100 and "@import" not in sheet
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//", sheet)


def test_the_state_of_a_page_is_not_written_to_disk(served, web):
    opened(served, web, "deep")
    press(served, web, "deep", "on_texts", question=PROMPT)
    assert web.get("/gradio_api/deep_link", params={"session_hash": "deep"}).status_code == 404
    folder = Path(served.app.app.uploaded_file_dir)
    assert not [path for path in folder.rglob("*") if path.is_file() and PROMPT.encode() in path.read_bytes()]


@pytest.mark.parametrize("honest", [True, False], ids=["its size said before", "chunk by chunk"])
def test_a_post_of_any_size_is_cut_off_whatever_its_headers_say(web, honest):
    part = b" " * (POSTED // 16)
    content = part * 17 if honest else (part for _ in range(400))
    try:
        answer = web.post("/gradio_api/queue/join", content=content, headers={"Content-Type": "application/json"})
    except httpx.WriteError:  # the server has hung up
        return
    assert answer.status_code == 413 and "more than this page takes" in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"[", b"[" * 100_000, b"null", b'"text"', b"\xff\xfe", b'{"session_hash": 5}'])
def test_a_post_that_is_no_event_is_refused_and_the_page_goes_on(web, body):
    answer = web.post("/gradio_api/queue/join", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500 and call(web, "status")[0] == "complete"


@pytest.mark.parametrize("written", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1.5", b"1e308"])
def test_what_is_no_number_is_no_part_of_a_post(web, written):
    """Python reads it, and every comparison with a bound would then be false."""
    body, kind = b'{"data": [{"deep": [' + written + b"]}]}", {"Content-Type": "application/json"}
    status = web.post("/gradio_api/call/status", content=body, headers=kind).status_code
    assert status == (200 if written in (b"1.5", b"1e308") else 422)


def test_passwords_cannot_be_tried_without_end():
    guard = Guard()
    for _ in range(GUESSES):
        guard._guess("1.2.3.4")
    with pytest.raises(Refused, match="Too many wrong passwords"):
        guard._guess("1.2.3.4")
    guard._guess("5.6.7.8")


def test_a_password_that_is_right_is_no_guess():
    with gr.Blocks() as page:
        gr.Textbox()
    page.launch(
        prevent_thread_lock=True,
        quiet=True,
        server_port=free_port(),
        auth=("ann", "right"),
        app_kwargs={"middleware": [Middleware(Doors)]},
    )
    try:
        with httpx.Client(base_url=page.local_url, timeout=60) as web:

            def tried(password: str) -> int:
                return web.post("/login", data={"username": "ann", "password": password}).status_code

            assert {tried("right") for _ in range(GUESSES + 2)} == {200}
            assert [tried("wrong"), tried("right"), *(tried("wrong") for _ in range(GUESSES - 1))] == [
                400,
                200,
                *[400] * (GUESSES - 1),
            ], "one that is right forgives none that was wrong"
            assert tried("right") == tried("wrong") == 429
    finally:
        page.close(verbose=False)


def test_a_private_endpoint_is_not_found_by_a_strange_spelling(web):
    for path in ("call/on_edit/", "call/v2/on_edit/", "call//on_edit", "call/v2//on_texts", "call/%6fn_edit"):
        assert web.post(f"/gradio_api/{path}", json={"data": []}).status_code == 404


def test_nothing_of_the_machine_is_read_by_a_path(web, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (str(secret), "/etc/passwd", "../../etc/passwd", "/proc/self/environ", __file__):
        answer = web.get(f"/gradio_api/file={path}")
        assert answer.status_code in (403, 404) and "secret" not in answer.text and "root:" not in answer.text


def test_a_flood_of_posts_leaves_the_page_in_a_moment(web):
    began = time.monotonic()
    for number in range(100):
        web.post("/gradio_api/queue/join", json={"data": [], "fn_index": 10**9, "session_hash": f"flood {number}"})
    kind, said = call(web, "status")
    assert kind == "complete" and said[0]["model"] == "tiny-llama" and time.monotonic() - began < 30


def test_who_asks_faster_than_is_allowed_is_refused_in_words_and_others_go_on(served, web, monkeypatch):
    monkeypatch.setattr(served.app.guard, "pace", Pace(60))
    opened(served, web, "asks too fast")
    body = {"data": served.values("on_texts"), "fn_index": served.number("on_texts"), "session_hash": "asks too fast"}
    answers = [web.post("/gradio_api/queue/join", json=body) for _ in range(40)]
    assert [answer.status_code for answer in answers].count(200) < 40
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert refused.status_code == 429 and "Wait some seconds" in refused.json()["detail"]
    with httpx.Client(base_url=served.url, timeout=60) as other:
        opened(served, other, "asks as others do")
        assert "process_completed" in json.dumps(press(served, other, "asks as others do", "on_texts"))
    assert "process_completed" in json.dumps(told(web, "asks too fast")), "what was let in is answered"


@pytest.mark.parametrize(("longer", "status"), [(0, 200), (1, 422)])
def test_a_page_or_a_program_with_a_name_of_any_length_is_none(web, longer, status):
    """Much is kept under its name."""
    name = "x" * (LONGEST_NAME + longer)
    assert web.post("/gradio_api/call/status", json={"data": [], "session_hash": name}).status_code == status


def test_an_answer_that_is_refused_holds_no_path_and_no_trace(web):
    for answer in (web.get("/nowhere"), web.post("/gradio_api/queue/join", json={"fn_index": "x"})):
        said = json.dumps(answer.json())
        assert "Traceback" not in said and str(ROOT) not in said and "site-packages" not in said
