"""The port is open before the model is loaded: what the waiting page says, how it ends, and what it lets through."""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from dashboard_helpers import free_port, tiny_model

import app
import inspector.model
from dashboard import opening as waiting
from dashboard.front_end import content_of, folder_of_scripts, needed_first
from dashboard.opening import Opening
from inspector.errors import ModelLoadError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def opening() -> Iterator[Opening]:
    """A waiting page at a free port."""
    made = Opening("127.0.0.1", free_port())
    yield made
    made.close()


def at(port: int, path: str = "") -> str:
    return f"http://127.0.0.1:{port}/{path}"


def status(port: int) -> dict[str, Any]:
    return httpx.get(at(port, "opening.json")).json()


def test_it_says_what_is_being_loaded_and_how_far_that_is(opening):
    assert status(opening.port)["text"] == "Starting"
    opening.say("Loading <model>", 0.4)
    said = status(opening.port)
    assert (said["text"], said["share"], said["failed"]) == ("Loading <model>", 0.4, False) and said["seconds"] >= 0


def test_a_browser_gets_the_waiting_page_a_program_gets_a_503_and_nothing_is_cached(opening):
    page = httpx.get(at(opening.port), headers={"Accept": "text/html"})
    assert page.text == waiting.page() and page.status_code == 503 and page.headers["cache-control"] == "no-store"
    asked = httpx.post(at(opening.port, "gradio_api/call/locate"), json={})
    assert asked.status_code == 503 and "still loading" in asked.json()["detail"] and asked.headers["retry-after"]
    assert httpx.head(at(opening.port)).content == b""


def test_the_dashboard_s_scripts_can_be_had_meanwhile_as_they_are_later_and_nothing_else(opening):
    page = httpx.get(at(opening.port), headers={"Accept": "text/html"}).text
    for name in needed_first():
        assert f'"{name}"' in page
        found = httpx.get(at(opening.port, f"assets/{name}"), headers={"Accept-Encoding": "gzip, br"})
        assert found.status_code == 200 and found.content == content_of(folder_of_scripts() / name)
        assert found.headers["content-encoding"] == "gzip" and "immutable" in found.headers["cache-control"]
    for without in ("identity", "br, gzip;q=0"):
        plain = httpx.get(at(opening.port, f"assets/{name}"), headers={"Accept-Encoding": without})
        assert plain.content == found.content and "content-encoding" not in plain.headers, without
    for outside in ("none.js", "%2e%2e/index.html", "../index.html", ""):
        assert httpx.get(at(opening.port, f"assets/{outside}")).status_code == 503, outside


def test_a_script_is_compressed_once_however_often_it_is_asked_for(opening, monkeypatch):
    packed: list[int] = []
    monkeypatch.setattr(waiting, "_gzip", lambda content: packed.append(len(content)) or gzip.compress(content, 1))
    name = needed_first()[0]
    answers = {httpx.get(at(opening.port, f"assets/{name}")).content for _ in range(3)}
    assert answers == {content_of(folder_of_scripts() / name)} and len(packed) == 1


def test_the_port_is_free_again_once_it_is_closed_even_after_visits(opening):
    httpx.get(at(opening.port))
    opening.close()
    opening.close()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", opening.port))


def test_without_a_port_the_first_free_one_is_taken(monkeypatch):
    monkeypatch.delenv("GRADIO_SERVER_PORT", raising=False)
    first, second = Opening("127.0.0.1"), Opening("127.0.0.1")
    assert 7860 <= first.port < second.port
    first.close()
    second.close()
    port = free_port()
    monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
    third = Opening("127.0.0.1")
    assert third.port == port
    third.close()


def test_a_failure_waits_for_a_page_that_is_open_and_for_nobody_else(opening):
    began = time.monotonic()
    unseen = Opening("127.0.0.1", free_port())
    unseen.fail("There is no file. Check the path.")
    assert time.monotonic() - began < 2
    status(opening.port)
    told: list[dict[str, Any]] = []

    def ask() -> None:
        while not told or not told[-1]["failed"]:
            told.append(status(opening.port))
            time.sleep(0.05)

    page = threading.Thread(target=ask)
    page.start()
    opening.fail("There is no file. Check the path.")
    page.join(10)
    assert told[-1]["text"] == "There is no file. Check the path."


def test_a_model_that_cannot_be_loaded_is_told_on_the_page_and_on_the_command_line(monkeypatch, capsys):
    port, told = free_port(), []
    visited = threading.Event()

    def load(*_names: Any, **_options: Any) -> None:
        assert visited.wait(20)
        raise ModelLoadError("There is no such model. Check the spelling.")

    def visit() -> None:
        while not told or not told[-1]["failed"]:
            try:
                told.append(status(port))
                if told[-1]["text"] == "Loading mine":
                    visited.set()
            except httpx.TransportError:
                if told:
                    return
            time.sleep(0.05)

    monkeypatch.setattr(inspector.model, "load", load)
    page = threading.Thread(target=visit)
    page.start()
    assert app.main(["--model", "mine", "--port", str(port)]) == 2
    page.join(10)
    assert "Error: There is no such model. Check the spelling." in capsys.readouterr().err
    assert "Loading mine" in [said["text"] for said in told] and told[-1]["text"].startswith("There is no such model")


def test_how_far_the_model_is_that_has_to_be_made_is_told_while_the_page_s_modules_are_imported(monkeypatch):
    told: list[tuple[str, float]] = []
    threads: list[threading.Thread] = []

    def load(*_names: Any, tell: Any, **_options: Any) -> None:
        threads.append(threading.current_thread())
        tell("Downloading the embedded model: 10 of 93 MB (once)", 0.1)
        raise ModelLoadError("There is no room.")

    monkeypatch.setattr(Opening, "say", lambda _self, text, share: told.append((text, share)))
    monkeypatch.setattr(inspector.model, "load", load)
    assert app.main(["--port", str(free_port())]) == 2
    shares = [share for _text, share in told]
    assert ("Downloading the embedded model: 10 of 93 MB (once)", pytest.approx(0.33)) in told
    assert shares == sorted(shares) and threads != [threading.main_thread()] and not threads[0].is_alive()


def test_whoever_must_log_in_is_not_told_which_model_it_is(monkeypatch, capsys):
    said: list[str] = []
    monkeypatch.setattr(Opening, "say", lambda _self, text, _share: said.append(text))
    monkeypatch.setattr(inspector.model, "load", lambda *_n, **_o: (_ for _ in ()).throw(ModelLoadError("No.")))
    assert app.main(["--model", "secret", "--auth", "user:word", "--port", str(free_port())]) == 2
    assert said and not any("secret" in text for text in said)


def test_the_page_that_was_built_takes_the_port_over(monkeypatch):
    port, seen = free_port(), []

    def build(model: Any, **_options: Any) -> gr.Blocks:
        seen.extend((status(port)["text"], gc.isenabled()))
        with gr.Blocks() as page:
            gr.Markdown(model.name)
        return page

    monkeypatch.setattr(inspector.model, "load", lambda *_names, **_options: tiny_model())
    monkeypatch.setattr("dashboard.page.build_app", build)
    served: list[gr.Blocks] = []
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda page: served.append(page))
    assert app.main(["--port", str(port)]) == 0 and seen == ["Building the page", False]
    answer = httpx.get(at(port))
    assert answer.status_code == 200 and "X-DINM-Inspector" not in answer.headers
    assert httpx.get(at(port, "opening.json")).headers.get("X-DINM-Inspector") is None
    served[0].close(verbose=False)


def test_ctrl_c_while_loading_ends_it_without_a_traceback():
    port = free_port()
    running = subprocess.Popen(
        [sys.executable, "app.py", "--model", "/no/such/folder", "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        began, said = time.monotonic(), ""
        while "Loading" not in said:
            assert time.monotonic() - began < 20 and running.poll() is None
            try:
                said = status(port)["text"]
            except httpx.TransportError:
                time.sleep(0.02)
        assert said == "Loading the program", "the port was open before torch was"
        os.kill(running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 130 and errors == "Stopped.\n"


def test_an_interrupt_that_an_import_swallows_still_ends_the_program():
    with pytest.raises(KeyboardInterrupt), app.no_interrupt_missed(), contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_of_which_an_import_makes_another_error_ends_the_program():
    with pytest.raises(KeyboardInterrupt), app.no_interrupt_missed():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("cannot import name 'x'") from error
    with pytest.raises(ImportError), app.no_interrupt_missed():
        raise ImportError("cannot import name 'x'")


def test_an_interrupt_that_python_drops_in_a_callback_ends_the_program_and_only_other_errors_are_printed(monkeypatch):
    class Gone:
        """Something that weak references can name."""

    def dropped(raises: Callable[[], object]) -> None:
        gone = Gone()
        _weak = weakref.ref(gone, lambda _: raises())
        del gone

    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda said: told.append(said.exc_type))
    with pytest.raises(KeyboardInterrupt), app.no_interrupt_missed():
        dropped(lambda: signal.raise_signal(signal.SIGINT))
    assert told == []
    with app.no_interrupt_missed():
        dropped(lambda: 1 / 0)
    dropped(lambda: int("none"))
    assert told == [ZeroDivisionError, ValueError], "within and after"


def test_garbage_is_sought_again_once_the_program_is_loaded_and_what_was_made_meanwhile_is_found():
    class Made:
        """Part of a circle."""

    with pytest.raises(ValueError, match="not loaded"), app.no_garbage_sought():
        assert not gc.isenabled()
        made = Made()
        made.circle = made
        raise ValueError("not loaded")
    found = weakref.ref(made)
    del made
    assert gc.isenabled() and gc.get_freeze_count() == 0
    gc.collect()
    assert found() is None


def test_make_demo_starts_the_program_at_once_which_fetches_the_model_behind_its_open_port(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("bin/python", ".ready"):
        (tmp_path / name).touch()
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    how: dict[str, Any] = {"cwd": ROOT, "env": alone, "capture_output": True, "text": True}
    made = subprocess.run(["make", "--dry-run", "demo", f"VENV={tmp_path}", "ARGS=--read-only"], **how)
    assert made.stdout.splitlines() == [f"{tmp_path}/bin/python app.py --open --read-only"], made.stderr
