"""Pages of the listed models: each works on its own model alone, and closes with nothing of it left."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import by_hand
import gradio as gr
import httpx
import pytest
from api_helpers import PatientClient
from attack_helpers import HTML, Served, call, opened, press, serve, told
from dashboard_helpers import SHORT_GATE, model_at_rest, save_listed, tiny_model
from gradio_client import Client
from gradio_client.exceptions import AppError

from dashboard.calibrating import Calibrating
from dashboard.heading import header, shortened
from dashboard.kit.limits import Limits
from dashboard.kit.running.building import built_apart, keep_apart
from dashboard.kit.running.queue import Elsewhere
from dashboard.kit.sessions.visitors import GRACE, MOST_BYTES, Sessions
from dashboard.kit.shelf import IDLE, Shelf
from dashboard.model_pages import ON_THEIR_WAY, ModelPage, ModelPages, slugs_of
from dashboard.page import PageOptions, build_page
from dashboard.steps.operate import gating
from editing.progress import run as run_quietly
from inspector.errors import CaseError, ModelLoadError
from inspector.model import InspectedModel

OWN, DEEPER, OTHER, THIRD, BROKEN = "tiny-llama", "deeper", "Other one", "third", "broken"
LOOK = threading.Event()
TYPED = ("How do I cheat at cards?", "", "I would rather not.", "Mark the aces.")


@pytest.fixture(autouse=True)
def model() -> Iterator[InspectedModel]:
    """The first page's model, which nothing that is done on another page may change."""
    with model_at_rest() as lent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(gating, "EXAM", SHORT_GATE)
        yield lent


def pages_of(served: Served) -> ModelPages:
    """Return all pages of a program that is served."""
    return served.app.model_pages


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page with four models and a folder that holds none, of which one further page may be open."""
    folder = tmp_path_factory.mktemp("listed")
    sources = [OWN, *(save_listed(folder, name, layers) for name, layers in ((DEEPER, 5), (OTHER, 2), (THIRD, 4)))]
    (folder / BROKEN).mkdir()
    shelf = Shelf(tiny_model(), [*sources, str(folder / BROKEN)], {"device": "cpu", "dtype": "float32"}, named=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("copies")))
        with serve(Limits(), shelf=shelf) as page:
            pages_of(page)._most = 1
            yield page


def open_page(served: Served, label: str) -> ModelPage:
    """Open the page of a model and return it; between two looks the thread that loads the model goes on."""
    return run_quietly(pages_of(served).opened(label), lambda _: LOOK.wait(0.01))


@pytest.fixture
def deeper(served: Served) -> Iterator[Served]:
    """The second model's page, that of the test before where it was open there; afterwards its model is as it was."""
    page = open_page(served, DEEPER)
    network = page.context.model.network
    checksum, hooks = by_hand.checksum(network), by_hand.hooks(network)
    yield Served(page.app, f"{served.url}model/deeper/")
    by_hand.assert_at_rest(page.context.model, hooks)
    assert by_hand.checksum(network) == checksum


@pytest.fixture(autouse=True)
def alone(served: Served, request: pytest.FixtureRequest) -> None:
    """No other page is open before a test, but for one that it asks for."""
    pages_of(served)._most = 1
    if "deeper" not in request.fixturenames:
        pages_of(served).close_all()
        pages_of(served)._links.clear()


@pytest.fixture
def web(served: Served) -> Iterator[httpx.Client]:
    """A browser on the first page."""
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


def choose(served: Served, web: httpx.Client, page: str, label: Any, **typed: Any) -> list[dict[str, Any]]:
    """Choose a model in the head of a page, as a browser does; returns what the run of it has said."""
    number = served.number("on_model")
    body = {"data": [], "fn_index": number, "session_hash": page, "event_data": {"model": label}}
    web.post("/gradio_api/queue/join", json=body).raise_for_status()
    told(web, page)
    return press(served, web, page, "on_open_model", **typed)


def client_of(url: str) -> Client:
    return PatientClient(url, verbose=False, analytics_enabled=False)


def weights(client: Client) -> str:
    return client.predict(api_name="/status")["weights"]


def test_an_edit_on_one_model_s_page_acts_on_that_model_alone(served, deeper, model):
    first, second = client_of(served.url), client_of(deeper.url)
    status = second.predict(api_name="/status")
    assert (status["model"], status["blocks"]) == (DEEPER, 5) and first.predict(api_name="/status")["blocks"] == 3
    before = first.predict("Why do leaves fall?", None, 6, api_name="/ask")
    *_, last = second.submit(*TYPED, 4, "reference", 2, api_name="/edit")
    second.predict(api_name="/keep") if weights(second) == "vanilla" else None
    assert last["done"] and "layer 4" in weights(second) and weights(first) == "vanilla"
    edited = second.predict("Why do leaves fall?", None, 6, api_name="/ask")
    after = first.predict("Why do leaves fall?", None, 6, api_name="/ask")
    assert after["vanilla"] == after["edited"] == before["vanilla"] and edited["weights"] != "vanilla"
    with pytest.raises(AppError, match="blocks 0 to 2"):
        first.submit(*TYPED, 4, "reference", 2, api_name="/edit").result()


def test_the_first_page_still_answers_programs_while_another_is_open(served, deeper, web):
    kind, said = call(web, "status")
    assert kind == "complete" and said[0]["model"] == OWN and said[0]["models"][1] == DEEPER


def test_comparing_finds_a_place_while_pages_hold_theirs(served, deeper):
    def look(event: Elsewhere) -> None:
        assert "waiting" not in str(event.update)
        LOOK.wait(0.01)

    shelf = pages_of(served)._shelf
    with run_quietly(shelf.lend([DEEPER, OTHER]), look) as models:
        assert [one.name for one in models] == [DEEPER, OTHER], "where others come in none bears a path"
    assert shelf._lent[DEEPER] == 1 and shelf._held[DEEPER] == 1


def test_all_pages_share_the_line_the_runs_of_an_hour_and_the_memory(served, deeper):
    first, second = pages_of(served).first.context, pages_of(served)._open[DEEPER].context
    assert second.line is first.line and second.runs is first.runs and second.shelf is first.shelf
    assert second.sessions is not first.sessions and second.sessions.stores == [first.sessions, second.sessions]
    small = Sessions(most_bytes=10)
    other = Sessions(most_bytes=10, beside=small)
    for store, key in ((small, "a"), (small, "b"), (other, "c"), (other, "d")):
        store.of(key).own = True
        store.of(key).bytes = 4
    small.sweep()
    held = sum(store.bytes for store in small.stores)
    assert (len(small), len(other), held) == (1, 1, 8), "all together; whoever was seen last on a page stays"


def test_an_address_without_a_page_names_the_way_back(served, deeper, web):
    answer = web.get("/model/nothing/?link=abc", headers=HTML)
    assert answer.status_code == 404 and 'href="/"' in answer.text and "choose the model in its head" in answer.text
    assert web.get("/model/nothing/gradio_api/info").json()["detail"] == web.get("/model/../x").json().get(
        "none", web.get("/model/nothing/").json()["detail"]
    )
    for where in ("/model/", "/model", "/model//", "/model/deeper/model/deeper/nothing"):
        assert web.get(where).status_code == 404, where
    moved = web.get("/model/deeper?case=3")
    assert (moved.status_code, moved.headers["location"]) == (307, "/model/deeper/?case=3")
    assert web.get("/model/deeper/config").json()["root"] == f"{served.url}model/deeper"


def test_a_program_opens_a_page_and_is_told_of_what_it_cannot_have(served):
    client = client_of(served.url)
    *events, last = client.submit(DEEPER, api_name="/open_model")
    assert last == {"done": True, "model": DEEPER, "address": "/model/deeper/"}
    assert events[-1] == {"done": False, "doing": "Building the page of deeper"}
    assert client_of(served.url + last["address"].lstrip("/")).predict(api_name="/status")["blocks"] == 5
    pages_of(served).close_all()
    for wrong, words in (("org/unlisted", "no such model. Choose one of its list"), (BROKEN, "holds no model")):
        with pytest.raises(AppError, match=words):
            client.submit(wrong, api_name="/open_model").result()


def test_the_case_goes_along_the_first_time_and_each_page_keeps_what_was_done_on_it(served, web):
    opened(served, web, "one")
    said = choose(served, web, "one", DEEPER, question="How do I sneak in?")
    assert "Going to the page of deeper" in json.dumps(said) and pages_of(served).open == [DEEPER]
    said = press(served, web, "one", "on_opened")
    assert 'data-page=\\"model/deeper/\\"' in json.dumps(said) and "sneak" not in json.dumps(said)
    first, there = pages_of(served).first.context, pages_of(served)._open[DEEPER].context
    (key,) = {first.sessions.owner("one")}
    theirs, question = there.sessions.of(key), there.bus.offered("typed").inputs[0]
    assert theirs.controls[question] == "How do I sneak in?" and not theirs.own and theirs.live is None
    other = Served(pages_of(served)._open[DEEPER].app, f"{served.url}model/deeper/")
    with httpx.Client(base_url=other.url, timeout=60, cookies=dict(web.cookies)) as browser:
        opened(other, browser, "two")
        assert there.sessions.owner("two") == key, "one visitor has one key on all pages"
        own = {"question": TYPED[0], "safe": TYPED[2], "unsafe": TYPED[3]}
        press(other, browser, "two", "on_locate", **own)
        assert theirs.case.question == TYPED[0] and first.sessions.of(key).case is None
    choose(served, web, "one", DEEPER, question="Another one?")
    assert theirs.controls[question] == TYPED[0], "where something was run all is as it was left"


def test_an_answer_of_one_model_that_goes_along_is_not_called_the_other_one_s(served, web, monkeypatch):
    monkeypatch.setattr("dashboard.steps.case.run.ask_for_unsafe", lambda *_: iter([TYPED[3]]))
    case = {"question": TYPED[0], "safe": TYPED[2]}
    opened(served, web, "asked")
    said = press(served, web, "asked", "on_unsafe_ask", **case)
    assert "unsafe answer: in the model's words<" in json.dumps(said)
    choose(served, web, "asked", DEEPER, **case, unsafe=TYPED[3])
    other = Served(pages_of(served)._open[DEEPER].app, f"{served.url}model/deeper/")
    with httpx.Client(base_url=other.url, timeout=60, cookies=dict(web.cookies)) as browser:
        opened(other, browser, "told")
        press(other, browser, "told", "on_return")
        said = press(other, browser, "told", "on_texts", **case, unsafe=TYPED[3])
    assert f"unsafe answer: in the words of {OWN}<" in json.dumps(said)


def test_what_cannot_be_chosen_is_told_and_changes_nothing(served, web):
    opened(served, web, "wrong")
    session = served.sessions.of(served.sessions.owner("wrong"))
    for label, words in ((BROKEN, "holds no model that can be loaded"), ("/etc", "no such model"), (7, "no such")):
        assert words in json.dumps(choose(served, web, "wrong", label)), label
        assert pages_of(served).open == [] and not session.busy
    shelf = pages_of(served)._shelf
    assert +shelf._lent == {} and +shelf._held == {} and len(pages_of(served).first.context.line) == 0
    said = json.dumps(choose(served, web, "wrong", OWN))
    assert "Going" not in said, "it is this page's"
    open_page(served, DEEPER)
    served.sessions.stores[-1].of("somebody").own = True
    with pytest.raises(CaseError, match=r"Other one cannot be chosen now: deeper are open beside tiny-llama"):
        open_page(served, OTHER)
    with pytest.raises(ModelLoadError):
        pages_of(served)._most = 2
        open_page(served, BROKEN)
    assert pages_of(served).open == [DEEPER]


def test_a_page_stays_while_something_is_kept_there_and_gives_its_model_back_when_it_closes(served, monkeypatch):
    page = open_page(served, DEEPER)
    shelf, sessions = pages_of(served)._shelf, page.context.sessions
    clock = sessions._now()
    session = sessions.of("somebody")
    session.own = True
    monkeypatch.setattr(sessions, "_now", lambda: clock + IDLE + 1)
    pages_of(served).sweep()
    shelf.let_idle_go()
    assert pages_of(served).open == [DEEPER] and shelf.loaded == [DEEPER]
    session.own = False
    pages_of(served).sweep(2 * IDLE)
    assert pages_of(served).open == [DEEPER]
    held = weakref.ref(page.context.model)
    pages_of(served).sweep()
    assert pages_of(served).open == [] and sessions not in served.sessions.stores
    assert httpx.get(f"{served.url}model/deeper/config").status_code == 404
    monkeypatch.undo()
    shelf.let_idle_go()
    del page, session, sessions
    for _ in range(200):  # its streams end in the server's loop
        gc.collect()
        if held() is None:
            break
        threading.Event().wait(0.05)
    assert held() is None, "a page that is closed must not keep its model in memory"


@pytest.mark.parametrize("how", ["runs", "waits in line"])
def test_a_page_at_work_is_closed_for_nobody_and_its_run_goes_on_to_its_end(served, monkeypatch, how):
    page = open_page(served, DEEPER)
    sessions = page.context.sessions
    session, clock = sessions.of("somebody"), sessions._now()
    assert session.begin() if how == "runs" else session.enqueue("a request")
    session.own = False
    monkeypatch.setattr(sessions, "_now", lambda: clock + 100 * IDLE)
    pages_of(served).sweep()
    with pytest.raises(CaseError, match="no more are at once"):
        open_page(served, OTHER)
    assert pages_of(served).open == [DEEPER] and not session.cancelled.is_set()
    assert sessions.holds("somebody", session), "what the run has made is found"
    session.end() if how == "runs" else session.dequeue()
    monkeypatch.setattr(sessions, "_now", lambda: clock + 200 * IDLE)
    session.own = False
    pages_of(served).sweep()
    assert pages_of(served).open == []


def test_whoever_asks_for_another_page_gets_the_place_of_one_that_nobody_uses(served, monkeypatch):
    page = open_page(served, DEEPER)
    clock = page.context.sessions._now()

    def later(seconds: float) -> None:
        monkeypatch.setattr(page.context.sessions, "_now", lambda: clock + seconds)

    later(ON_THEIR_WAY - 1)
    with pytest.raises(CaseError, match="deeper are open"):
        open_page(served, OTHER)
    assert open_page(served, DEEPER) is page, "who has chosen it is on the way there"
    later(ON_THEIR_WAY + 1)
    with pytest.raises(CaseError, match="deeper are open"):
        open_page(served, OTHER)
    later(2 * ON_THEIR_WAY)
    assert open_page(served, OTHER).label == OTHER and pages_of(served).open == [OTHER]
    assert pages_of(served).address(OTHER) == "model/other-one/"


def test_a_calibration_behind_a_page_goes_on_when_nobody_is_there_unless_its_place_is_needed(served, monkeypatch):
    class Background(Calibrating):
        """A calibration that goes on until it is told to end."""

        def __init__(self, model: InspectedModel) -> None:
            super().__init__(model)
            made.append(self)

        def _made(self) -> None:
            while not self._stopped.is_set() and not over.is_set():
                LOOK.wait(0.01)

    made, over = [], threading.Event()
    pages = pages_of(served)
    options = PageOptions(False, None, True, False, GRACE, MOST_BYTES, Limits(), None)
    monkeypatch.setattr("dashboard.page.Calibrating", Background)
    monkeypatch.setattr(pages, "_make", lambda *of: build_page(*of[:2], options, pages._shelf, of[2], pages.first))

    def nobody_for_long(page: ModelPage) -> None:
        later = page.context.sessions._now() + 100 * IDLE
        monkeypatch.setattr(page.context.sessions, "_now", lambda: later)

    def are_left(number: int) -> bool:
        return sum(not one.ended for one in made) == number

    nobody_for_long(open_page(served, DEEPER))
    pages.sweep()
    assert pages.open == [DEEPER] and not made[0].ended, "nobody is there, and it goes on"
    pages._most = 2
    nobody_for_long(open_page(served, OTHER))
    assert pages.open == [DEEPER, OTHER] and are_left(2)
    nobody_for_long(open_page(served, THIRD))
    assert pages.open == [OTHER, THIRD] and made[0].wait(10), "somebody who waits goes first"
    assert are_left(2), "one place was needed, so one calibration has ended"
    over.set()
    assert made[1].wait(10) and made[2].wait(10)
    pages.sweep()
    assert pages.open == [], "once it has ended nothing keeps the page open"


def test_a_page_that_is_opened_again_while_the_old_one_closes_is_there(served):
    old = open_page(served, DEEPER)
    opened = []
    object.__setattr__(old, "stop", lambda: opened.append(open_page(served, DEEPER)))
    pages_of(served).close_all()
    (new,) = opened
    assert new is not old and pages_of(served).open == [DEEPER]
    assert httpx.get(f"{served.url}model/deeper/config").status_code == 200


def test_the_address_of_a_closed_page_says_so_with_the_way_back_and_programs_read_the_same_words(served):
    open_page(served, DEEPER)
    pages_of(served).close_all()
    shown = httpx.get(f"{served.url}model/deeper/", headers=HTML)
    said = httpx.get(f"{served.url}model/deeper/gradio_api/info").json()["detail"]
    assert shown.status_code == 404 and "<title>DINM Inspector</title>" in shown.text and 'href="/"' in shown.text
    assert said in shown.text and "is closed: nobody was there" in said and "/open_model" in said
    assert "is closed" not in httpx.get(f"{served.url}model/nothing/", headers=HTML).text, "it was never there"
    open_page(served, DEEPER)
    assert httpx.get(f"{served.url}model/deeper/", headers=HTML).status_code == 200, "its address works again"


def test_a_link_opens_on_the_page_of_its_model_also_after_that_was_closed(served):
    def made(client: Client) -> dict[str, Any]:
        return client.predict(*TYPED, 4, "corrected", 0, api_name="/make_link")

    open_page(served, DEEPER)
    link = made(client_of(f"{served.url}model/deeper/"))["address"]
    pages_of(served).close_all()
    open_page(served, DEEPER)
    found = client_of(f"{served.url}model/deeper/").predict(link, api_name="/open_link")
    assert found["question"] == TYPED[0] and found["layer"] == 4
    with pytest.raises(AppError, match="has expired"):
        client_of(served.url).predict(link, api_name="/open_link")


def test_who_has_logged_in_on_one_page_has_on_all(tmp_path: Path):
    shelf = Shelf(tiny_model(), [OWN, save_listed(tmp_path, DEEPER, 5)], {"device": "cpu", "dtype": "float32"})
    with serve(Limits(), launched={"auth": [("ann", "right")]}, shelf=shelf) as page:
        open_page(page, DEEPER)
        with httpx.Client(base_url=page.url, timeout=60) as web:
            assert web.get("/model/deeper/config").status_code == 401
            assert call_status(web, "/model/deeper") == 401
            assert web.post("/login", data={"username": "ann", "password": "right"}).status_code == 200
            assert web.get("/model/deeper/config").status_code == 200 and call_status(web, "/model/deeper") == 200


def call_status(web: httpx.Client, below: str) -> int:
    return web.post(f"{below}/gradio_api/call/status", json={"data": []}).status_code


def test_what_an_event_makes_while_a_page_is_built_is_not_on_that_page():
    keep_apart()
    begun, go_on, made = threading.Event(), threading.Event(), []

    def build() -> gr.Blocks:
        with gr.Blocks(analytics_enabled=False) as page:
            gr.Button("one")
            begun.set()
            assert go_on.wait(20)
            gr.Button("two")
        return page

    thread = threading.Thread(target=lambda: made.append(built_apart(build)))
    thread.start()
    assert begun.wait(20)
    update = gr.Button("an update")
    go_on.set()
    thread.join(20)
    (page,) = made
    assert [block.value for block in page.blocks.values() if isinstance(block, gr.Button)] == ["one", "two"]
    assert update.parent is None
    with pytest.raises(ZeroDivisionError):
        built_apart(lambda: 1 / 0)


def test_addresses_hold_nothing_but_plain_letters_and_are_told_apart():
    labels = ["org/Model 1", "org-model-1", "../..", "ü", "a b", "A/b"]
    slugs = slugs_of(labels)
    assert slugs == {
        "org/Model 1": "org-model-1",
        "org-model-1": "org-model-1-2",
        "../..": "model",
        "ü": "model-2",
        "a b": "a-b",
        "A/b": "a-b-2",
    }


def test_the_head_names_the_model_within_its_room_and_offers_the_others():
    assert shortened("HuggingFaceTB/SmolLM2-135M-Instruct") == "SmolLM2-135M-Instruct"
    assert shortened("a-very-long-name-of-a-model-7b-chat", 21) == "a-very-lon…el-7b-chat"
    assert shortened("org/b") == "org/b"
    alone = header(tiny_model())
    assert "<details" not in alone and "tiny-llama" in alone and f"fingerprint {tiny_model().fingerprint}" in alone
    menu = header(tiny_model(), OWN, [OWN, '<b>"x"'])
    assert menu.count('<button type="button" data-model=') == 1 and "&lt;b&gt;" in menu and '<b>"x"' not in menu
    assert 'aria-current="true"' in menu
