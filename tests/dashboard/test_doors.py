"""What a real server lets in: visitors' keys, the endpoints for programs, and nothing that goes around the queue."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import gradio as gr
import gradio.routes
import httpx
import pytest
from api_helpers import connect
from dashboard_helpers import SHORT_GATE, free_port, model_at_rest, tiny_model
from example_helpers import served_example, short_examples

from benchmarks.start import WEIGHTS
from dashboard import scripts
from dashboard.early import HEADING
from dashboard.front_end import AT_ONCE
from dashboard.kit.door import doors
from dashboard.kit.door.doors import AGAIN, STARTED, key_of
from dashboard.kit.sessions.typed import texts_of
from dashboard.kit.sessions.visitors import Sessions
from dashboard.page import build_app, launch_options
from dashboard.steps.operate import gating
from inspector.safeedit import bundled_cases

HTML = {"Accept": "text/html"}
FEW = 10
"""Sessions of those who did nothing that the server keeps here; 500 by default."""


@pytest.fixture(autouse=True)
def model() -> Iterator[Any]:
    with model_at_rest() as lent:
        yield lent


@pytest.fixture(scope="module")
def app(example_folder) -> Iterator[gr.Blocks]:
    """The whole page, on a server."""
    folder = served_example(example_folder)
    with short_examples(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(gating, "EXAM", SHORT_GATE)
        patch.setattr("dashboard.page.Sessions", partial(Sessions, empty_ones=FEW))
        app = build_app(tiny_model(), example_folder=folder)
        app.launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), **launch_options())
        yield app
        app.close(verbose=False)


@pytest.fixture
def web(app) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=app.local_url, timeout=60) as client:
        yield client


def cookie_of(answer: httpx.Response) -> str:
    return re.search(r"dinm-visitor-\d+=([^;]+)", answer.headers["set-cookie"]).group(1)


def test_a_browser_gets_a_key_that_scripts_cannot_read_and_keeps_it(web):
    first = web.get("/", headers=HTML)
    assert "HttpOnly" in first.headers["set-cookie"] and "SameSite=Lax" in first.headers["set-cookie"]
    key = cookie_of(first)
    assert key.startswith(STARTED) and len(key) > 32 and not key.endswith(AGAIN)
    assert cookie_of(web.get("/", headers=HTML)) == key, "a reload sends it"
    with httpx.Client(base_url=web.base_url) as other:
        assert cookie_of(other.get("/", headers=HTML)) != key


def test_the_heading_stands_in_the_page_before_its_scripts_and_nowhere_else(web):
    page = web.get("/", headers={**HTML, "Accept-Encoding": "identity"})
    assert page.text.count(HEADING) == 1 and page.text.index(HEADING) < page.text.index("<gradio-app")
    assert int(page.headers["content-length"]) == len(page.content) and page.text.rstrip().endswith("</html>")
    assert "DINM Inspector</h1>" not in web.get("/theme.css").text


def test_the_figures_script_is_asked_for_beside_the_others(web):
    (name,) = re.findall(r'<link rel="modulepreload" href="\./(assets/PlotlyPlot-[^"]+\.js)">', web.get("/").text)
    script = web.get(f"/{name}")
    assert script.status_code == 200 and len(script.text) > 2**20


def test_a_page_is_made_once_for_all_who_come_by_the_same_address_and_anew_for_another(web, app, monkeypatch):
    made: list[Any] = []
    real = gradio.routes.templates.TemplateResponse
    monkeypatch.setattr(
        gradio.routes.templates, "TemplateResponse", lambda **given: made.append(given) or real(**given)
    )
    as_it_is = {**HTML, "Accept-Encoding": "identity", "Host": "one.example"}
    first = web.get("/", headers=as_it_is)
    packed = web.get("/", headers={**as_it_is, "Accept-Encoding": "gzip, br"})
    assert len(made) == 1 and packed.headers["content-encoding"] == "gzip" and packed.text == first.text
    assert cookie_of(first) and int(packed.headers["content-length"]) < len(first.content) / 3
    assert '"root":"http://one.example' in first.text
    other = web.get("/", headers={**as_it_is, "Host": "two.example"}).text
    assert '"root":"http://two.example' in other and "one.example" not in other and len(made) == 2
    with httpx.Client(base_url=web.base_url) as another:
        assert cookie_of(another.get("/", headers=as_it_is)) != cookie_of(first), "the key is still each one's own"
    web.get("/", params={"__theme": "dark"}, headers=as_it_is)
    assert len(made) == 3, "an address that asks for something may be somebody's own"


def test_whoever_may_have_logged_in_gets_a_page_of_their_own(web, app, monkeypatch):
    monkeypatch.setattr(app.server_app, "auth", {"user": "word"})
    page = web.get("/", headers={**HTML, "Host": "one.example"})
    assert '"auth_required":true' in page.text and '"components":[]' in page.text


def test_browsers_get_nothing_of_what_only_programs_call_and_programs_all_of_it(web, app):
    told = json.loads(re.search(r"window\.gradio_config = (.*?);</script>", web.get("/", headers=HTML).text)[1])
    whole = web.get("/config").json()
    assert "api" not in {part["type"] for part in told["components"]}
    assert 'gradio_api_info = {"named_endpoints":{},"unnamed_endpoints":{}};' in web.get("/").text
    left_out = {event["id"] for event in whole["dependencies"]} - {event["id"] for event in told["dependencies"]}
    named = {event["api_name"] for event in whole["dependencies"] if event["id"] in left_out and not event["targets"]}
    assert named == {name.removeprefix("/") for name in web.get("/gradio_api/info").json()["named_endpoints"]}
    assert all(event["targets"] for event in told["dependencies"])
    standing, numbers = list(told["layout"]["children"]), set[int]()
    while standing:
        one = standing.pop()
        numbers.add(one["id"])
        standing += one.get("children", [])
    known = {part["id"] for part in told["components"]}
    assert len(numbers) > 100 and numbers <= known, "a browser draws nothing where a part is unknown to it"
    used = {number for event in told["dependencies"] for number in (*event["inputs"], *event["outputs"])}
    later = {part._id for container in app.later.containers for part in app.later.parts(container)}
    assert used <= known | later and not known & later
    assert len(told["components"]) <= WEIGHTS["components"], "the first load"


def test_a_script_is_compressed_once_and_browsers_may_keep_it(web, monkeypatch):
    (name,) = re.findall(r'src="\./assets/(index-[^"]+\.js)"', web.get("/", headers=HTML).text)
    packed: list[str] = []
    real = scripts._packed
    monkeypatch.setattr(scripts.Scripts, "packed", {})
    monkeypatch.setattr(scripts, "_packed", lambda path: packed.append(path.name) or real(path))
    found = [web.get(f"/assets/{name}", headers={"Accept-Encoding": "gzip, br"}) for _ in range(2)]
    plain = web.get(f"/assets/{name}", headers={"Accept-Encoding": "identity"})
    assert packed == [name] and {one.headers["content-encoding"] for one in found} == {"br"}
    assert {one.content for one in found} == {AT_ONCE + plain.content} and "content-encoding" not in plain.headers
    assert "immutable" in found[0].headers["cache-control"]
    for outside in ("../index.html", "%2e%2e/index.html", "none.js"):
        assert web.get(f"/assets/{outside}", headers={"Accept-Encoding": "br"}).status_code in (403, 404), outside


def test_a_page_that_nobody_uses_looks_for_events_a_hundred_times_a_second_and_not_a_thousand(app):
    assert app._queue.sleep_when_free >= 0.01 and app._queue.progress_update_sleep_when_free >= 0.05


def test_what_is_no_page_brings_no_key(web):
    assert "set-cookie" not in web.get("/config").headers
    assert "set-cookie" not in web.get("/", headers={"Accept": "*/*"}).headers


@pytest.mark.parametrize(
    "sent", ["nonsense", "../../etc", f"{STARTED}.short", "x" * 5000], ids=["a word", "a path", "too short", "too long"]
)
def test_a_key_that_was_not_made_here_is_replaced(web, sent):
    name = f"dinm-visitor-{web.base_url.port}"
    given = cookie_of(web.get("/", headers={**HTML, "Cookie": f"{name}={sent}"}))
    assert given.startswith(STARTED) and not given.endswith(AGAIN)


def test_a_key_of_an_earlier_start_is_replaced_by_one_that_says_so(web):
    name = f"dinm-visitor-{web.base_url.port}"
    given = cookie_of(web.get("/", headers={**HTML, "Cookie": f"{name}=00000000.{'k' * 32}"}))
    assert given.startswith(STARTED) and given.endswith(AGAIN) and doors.is_from_before(given)
    again = cookie_of(web.get("/", headers={**HTML, "Cookie": f"{name}={given}"}))
    assert again == given


@pytest.mark.parametrize(
    ("scheme", "space", "kind"),
    [
        ("http", "", "HttpOnly; SameSite=Lax"),
        ("https", "", "HttpOnly; Secure; SameSite=Lax"),
        ("https", "me/mine", "HttpOnly; Secure; SameSite=None; Partitioned"),
    ],
)
def test_the_key_is_sent_to_this_site_only_and_on_a_space_inside_its_frame(monkeypatch, scheme, space, kind):
    monkeypatch.setenv("SPACE_ID", space)
    assert doors._cookie({"server": ("h", 1), "scheme": scheme}, "").endswith(kind)


def asked(page: str, user: str | None = None, **cookies: str) -> Any:
    """A request as Gradio hands it on."""
    inner = types.SimpleNamespace(cookies=cookies, scope={"server": ("127.0.0.1", 7860)})
    return types.SimpleNamespace(request=inner, session_hash=page, username=user)


def test_a_visitor_is_known_by_the_cookie_of_their_port_and_their_login_a_program_by_its_session():
    key = f"{STARTED}.{'k' * 32}"
    first = key_of(asked("page 1", **{"dinm-visitor-7860": key}))
    assert first == key_of(asked("page 2", **{"dinm-visitor-7860": key}))
    assert first != key_of(asked("page 1", "ann", **{"dinm-visitor-7860": key}))
    assert key_of(asked("page 1", **{"dinm-visitor-7861": key})) == "page 1" == key_of(asked("page 1"))
    assert key_of(None) == "" and key_of(types.SimpleNamespace(session_hash="hash")) == "hash"


@pytest.mark.parametrize("route", ["run", "api"])
@pytest.mark.parametrize("name", ["on_edit", "on_texts", "on_cancel", "status", "predict", "edit/"])
def test_direct_posts_are_refused_with_the_way_that_works(web, route, name):
    answer = web.post(f"/gradio_api/{route}/{name}", json={"data": [], "fn_index": 0, "session_hash": "mine"})
    assert answer.status_code == 403 and "Post to /gradio_api/call/NAME" in answer.json()["detail"]


@pytest.mark.parametrize("route", ["call", "call/v2"])
@pytest.mark.parametrize("name", ["on_edit", "on_texts", "on_arrival", "leave", "nonsense"])
def test_private_handlers_are_no_endpoints(web, route, name):
    answer = web.post(f"/gradio_api/{route}/{name}", json={"data": []})
    assert answer.status_code == 404 and "lists those" in answer.json()["detail"]


def test_a_private_handler_in_the_queue_does_nothing_for_who_has_no_page_open(app, web):
    (number,) = [n for n, fn in app.fns.items() if fn.name == "on_undo"]
    inputs = len(app.fns[number].inputs)
    body = {"data": [None] * inputs, "fn_index": number, "session_hash": "stranger"}
    assert web.post("/gradio_api/queue/join", json=body).status_code == 200
    said = web.get("/gradio_api/queue/data", params={"session_hash": "stranger"}).text
    assert "Your session is gone" in said or "process_completed" in said
    assert "patch" not in said


def result_of(web: httpx.Client, name: str, *data: Any) -> Any:
    """Call an endpoint as Gradio documents it for curl."""
    event = web.post(f"/gradio_api/call/{name}", json={"data": list(data)}).json()["event_id"]
    answer = web.get(f"/gradio_api/call/{name}/{event}").text
    return json.loads(re.search(r"event: complete\ndata: (.*)", answer).group(1))


def test_named_endpoints_work_through_the_documented_queue_call_and_through_the_client(app, web):
    assert result_of(web, "status")[0]["model"] == "tiny-llama"
    client = connect(app)
    texts = texts_of(bundled_cases()[0])
    case = texts.question, texts.template, texts.safe, texts.unsafe
    last = list(client.submit(*case, 1, "corrected", 2, api_name="/edit"))[-1]
    if not last["live"]:
        client.predict(api_name="/keep")
    status = client.predict(api_name="/status")
    assert status["edits"] == 2 and last["patch"] in status["weights"], "its calls belong to one session"


def test_more_posts_without_a_session_than_are_kept_do_not_make_an_edit_vanish(app, web):
    client = connect(app)
    client.predict(api_name="/undo")
    assert client.predict(api_name="/status")["weights"] == "vanilla"

    def post(_number: int) -> int:
        return web.post("/gradio_api/call/status", json={"data": []}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(post, range(3 * FEW))) == {200}
    assert client.predict(api_name="/status")["weights"] == "vanilla", "a forgotten visitor would have the example's"
