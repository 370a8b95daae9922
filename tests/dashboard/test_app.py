"""The command line: what it refuses and with which words, and a page that it really serves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from dashboard_helpers import free_port, model_at_rest, tiny_model
from example_helpers import short_examples

import app
import inspector.model
from dashboard.kit.limits import DEMO, OTHERS, Limits
from dashboard.opening import Opening
from editing import run
from inspector.errors import EditError, ModelLoadError

ROOT = Path(__file__).resolve().parents[2]

Serve = Callable[..., gr.Blocks]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, cache) -> Iterator[None]:
    """A cache for these tests alone, no host from the environment, and the model left as it was."""
    monkeypatch.setenv("DINM_INSPECTOR_CACHE", str(cache))
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
    with model_at_rest(), short_examples():
        yield


@pytest.fixture
def serve(monkeypatch) -> Iterator[Serve]:
    """Run ``app.main`` on the tiny model until it would wait for Ctrl+C; the page stays up for the test."""
    loaded: dict[str, Any] = {}
    served: list[gr.Blocks] = []

    def load(name: str | None, **options: Any) -> inspector.model.InspectedModel:
        loaded.update(options, name=name)
        return tiny_model()

    monkeypatch.setattr(inspector.model, "load", load)
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda page: served.append(page))

    def started(*arguments: str) -> tuple[gr.Blocks, dict[str, Any]]:
        port = free_port()
        assert app.main([*arguments, "--no-calibration", "--no-example", "--port", str(port)]) == 0
        assert served[-1].server_port == port
        return served[-1], loaded

    yield started
    for page in served:
        page.close(verbose=False)


@pytest.fixture
def small_page(monkeypatch) -> None:
    """Let a page of one line be served, where only the server is looked at: the whole one takes seconds to build."""

    def build(model: inspector.model.InspectedModel, **_options: Any) -> gr.Blocks:
        with gr.Blocks() as page:
            gr.Markdown(model.name)
        return page

    monkeypatch.setattr("dashboard.page.build_app", build)


def listening(page: gr.Blocks) -> list[str]:
    return [entry.getsockname()[0] for server in page.server.servers for entry in server.sockets]


def test_options_of_the_environment_stand_before_those_of_the_command_line(monkeypatch):
    asked: list[Any] = []

    def serve(chosen: Any, *_: Any) -> int:
        asked.append((chosen.read_only, chosen.keep_for))
        return 0

    monkeypatch.setattr(app, "serve", serve)
    monkeypatch.setenv("INSPECTOR_OPTIONS", "--read-only --keep-for 20")
    assert app.main([]) == app.main(["--keep-for", "30"]) == 0 and asked == [(True, 20), (True, 30)]


def test_a_model_is_calibrated_behind_its_page_unless_one_says_no(monkeypatch):
    asked: list[bool] = []

    def build(_model, *, calibrate: bool, **_options: Any):
        asked.append(calibrate)
        raise EditError("Enough.")

    monkeypatch.setattr(inspector.model, "load", lambda *_names, **_options: tiny_model())
    monkeypatch.setattr("dashboard.page.build_app", build)
    assert app.main([]) == app.main(["--no-calibration"]) == 2 and asked == [True, False]


def test_how_long_and_how_much_is_kept_of_visitors_reaches_the_page(monkeypatch):
    asked: list[tuple[float, float, float, Path | None]] = []

    def build(_model, *, grace: float, most_bytes: float, links_for: float, ledger: Path | None, **_options: Any):
        asked.append((grace, most_bytes, links_for, ledger))
        raise EditError("Enough.")

    monkeypatch.setattr(inspector.model, "load", lambda *_names, **_options: tiny_model())
    monkeypatch.setattr("dashboard.page.build_app", build)
    chosen = ["--keep-for", "30", "--session-memory", "1.5", "--links-for", "2", "--ledger", "edits.sqlite"]
    assert app.main([]) == app.main(chosen) == 2
    assert asked == [(7200, 4e9, 604800, None), (1800, 1.5e9, 7200, Path("edits.sqlite"))]


@pytest.mark.parametrize(
    ("chosen", "limits"),
    [
        ([], Limits()),
        (["--public", "--runs-an-hour", "7"], replace(OTHERS, runs_an_hour=7)),
        (["--read-only", "--events-a-minute", "5", "--runs-in-line", "2"], replace(DEMO, events=5, in_line=2)),
    ],
    ids=["of one's own", "public", "demo"],
)
def test_what_one_visitor_may_ask_reaches_the_page_and_its_server(monkeypatch, chosen, limits):
    asked: list[Limits] = []

    def build(_model: Any, *, limits: Limits, **_options: Any) -> None:
        asked.append(limits)

    def launch(_model: Any, _read_only: bool, _mcp: bool, limits: Limits) -> None:
        asked.append(limits)
        raise EditError("Enough.")

    monkeypatch.setattr(inspector.model, "load", lambda *_names, **_options: tiny_model())
    monkeypatch.setattr("dashboard.page.build_app", build)
    monkeypatch.setattr("dashboard.page.launch_options", launch)
    assert app.main(chosen) == 2 and asked == [limits, limits]


@pytest.mark.parametrize(
    ("opened", "told"),
    [
        ([], True),
        (["--public"], False),  # behind a proxy, as OPERATING.md has it
        (["--auth", "user:word"], False),
        (["--host", "0.0.0.0", "--public"], False),
    ],
    ids=["of one's own", "behind a proxy", "with a login", "to all"],
)
def test_a_folder_s_path_is_told_on_a_page_of_one_s_own_only(monkeypatch, tmp_path, opened, told):
    names: list[str] = []
    waiting: list[str] = []

    def load(name: str, **_options: Any) -> inspector.model.InspectedModel:
        if Path(name).name == "gone":
            raise ModelLoadError(f"There is no folder {name}. Check the path.")
        return replace(tiny_model(), name=name)

    def build(_model: inspector.model.InspectedModel, *, shelf: Any, **_options: Any) -> gr.Blocks:
        with run(shelf.lend(shelf.labels)) as models:
            names.extend(one.name for one in models)
        raise EditError("Enough.")

    monkeypatch.setattr(inspector.model, "load", load)
    monkeypatch.setattr("dashboard.kit.shelf.load", load)
    monkeypatch.setattr("dashboard.kit.shelf.Shelf._make_room", lambda *_: None)
    monkeypatch.setattr("dashboard.page.build_app", build)
    monkeypatch.setattr(Opening, "say", lambda _self, text, _share: waiting.append(text))
    monkeypatch.setattr(Opening, "fail", lambda _self, text: waiting.append(text))
    folders = [tmp_path / name for name in ("my-model", "listed", "gone")]
    for folder in folders:
        folder.mkdir()
    mine, listed, gone = ([f"--model={folder}"] for folder in folders)
    assert app.main([*mine, *listed, *opened]) == app.main([*gone, *opened]) == 2
    assert names == ([str(folder) for folder in folders[:2]] if told else ["my-model", "listed"])
    assert any(str(tmp_path) in text for text in waiting) is told


def test_no_telemetry_is_sent_unless_the_environment_asks_for_it():
    names = ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY")
    code = f"import app, os; print(*map(os.environ.get, {names}))"
    for asked, told in (({}, "False 1"), (dict.fromkeys(names, "asked"), "asked asked")):
        surroundings = {name: value for name, value in os.environ.items() if name not in names} | asked
        ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=surroundings, capture_output=True, text=True)
        assert ended.stdout.strip() == told


@pytest.mark.parametrize("auth", ["nonsense", "user:", ":password", ":"])
def test_a_login_without_user_or_password_is_a_usage_error(auth, capsys):
    with pytest.raises(SystemExit) as ended:
        app.main(["--auth", auth])
    assert ended.value.code == 2 and "--auth needs USER:PASSWORD" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "many"],
        ["--device-map", "manual"],
        ["--nonsense"],
        ["--keep-for", "0"],
        ["--keep-for", "long"],
        ["--session-memory", "-1"],
        ["--links-for", "0"],
    ],
)
def test_what_cannot_be_parsed_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        app.main(arguments)
    assert ended.value.code == 2 and "usage: app.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--dtype", "float8"],
            "'float8' is no data type here. Use auto, float32, bfloat16, float16, nf4, fp4, int8 or fp8.",
        ),
        (["--device", "toaster"], "'toaster' is no device. Use auto, cpu, cuda or cuda:1."),
        (["--model", "missing.gguf"], "There is no file missing.gguf. Check the path."),
    ],
)
def test_a_wrong_choice_ends_with_code_2_and_the_remedy(arguments, words, capsys):
    assert app.main(arguments) == 2
    assert f"Error: {words}" in capsys.readouterr().err


def test_a_model_that_is_nowhere_ends_with_code_2_and_the_remedy_and_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert app.main(["--model", "no/such-model"]) == 2
    said = capsys.readouterr().err
    assert "'no/such-model'" in said and "start without --model" in said and "Traceback" not in said


def test_the_page_is_served_to_this_machine_and_says_where(serve, capsys):
    page, loaded = serve("--model", "mine", "--device", "cpu", "--dtype", "float32", "--revision", "v1")
    assert listening(page) == ["127.0.0.1"] and page.share is False
    assert httpx.get(page.local_url).status_code == 200
    assert "Read-only demo" not in httpx.get(f"{page.local_url}config").text
    printed = capsys.readouterr()
    assert f"running at {page.local_url}" in printed.out and "Warning" not in printed.err
    assert callable(loaded.pop("tell")) and loaded == {
        "name": "mine",
        "device": "cpu",
        "dtype": "float32",
        "revision": "v1",
        "device_map": None,
        "max_memory": None,
        "paths": None,
    }


def test_models_that_are_named_after_the_first_are_listed_and_cost_nothing_at_the_start(monkeypatch):
    asked: list[Any] = []
    loaded: list[Any] = []

    def build(_model, *, shelf: Any, **_options: Any):
        asked.append((shelf.labels, shelf.loaded, shelf._options["dtype"]))
        raise EditError("Enough.")

    monkeypatch.setattr(inspector.model, "load", lambda name, **_options: loaded.append(name) or tiny_model())
    monkeypatch.setattr("dashboard.page.build_app", build)
    several = ["--model", "org/first", "--model", "/nowhere/second", "--model", "org/third", "--dtype", "float32"]
    assert app.main(several) == app.main([]) == 2
    monkeypatch.setenv("INSPECTOR_OPTIONS", "--model org/a --model org/b --dtype bfloat16")
    assert app.main([]) == app.main(["--model", "org/c"]) == 2
    assert loaded == ["org/first", None, "org/a", "org/c"]
    assert asked == [
        (["org/first", "second", "org/third"], [], "float32"),
        (["SmolLM2-135M-Instruct"], [], "auto"),
        (["org/a", "org/b"], [], "bfloat16"),
        (["org/c"], [], "bfloat16"),
    ]


@pytest.mark.usefixtures("small_page")
def test_an_address_that_others_reach_needs_a_login_or_an_explicit_word(serve, capsys, monkeypatch):
    elsewhere = "127.0.0.2"  # not the default address, yet only this machine reaches it
    with pytest.raises(SystemExit):
        serve("--host", elsewhere)
    assert "--public" in capsys.readouterr().err
    page, _ = serve("--host", elsewhere, "--public")
    assert listening(page) == [elsewhere] and "Warning" not in capsys.readouterr().err
    monkeypatch.setenv("DINM_INSPECTOR_AUTH", "user:pass:word")
    page, _ = serve("--host", elsewhere)
    assert "Warning" not in capsys.readouterr().err
    assert httpx.get(f"{page.local_url}health").status_code == 200
    assert httpx.get(f"{page.local_url}config").status_code == 401
    wrong, right = ({"username": "user", "password": password} for password in ("pass", "pass:word"))
    assert httpx.post(f"{page.local_url}login", data=wrong).status_code == 400
    assert httpx.post(f"{page.local_url}login", data=right).status_code == 200


@pytest.mark.usefixtures("small_page")
def test_a_port_that_cannot_be_had_ends_with_code_2_and_the_remedy(serve, capsys):
    page, _ = serve()
    for wanted in (str(page.server_port), "99999"):  # taken by the page that is up, and none
        assert app.main(["--port", wanted]) == 2
        assert f"cannot be served at 127.0.0.1, port {wanted}. Choose another --port" in capsys.readouterr().err


@pytest.mark.usefixtures("small_page")
def test_paths_of_an_unknown_family_reach_the_loader_by_name(serve):
    _, loaded = serve("--path", "blocks=model.layers", "--path", "final_norm=model.norm")
    assert loaded["paths"] == {"blocks": "model.layers", "final_norm": "model.norm"}


def test_the_read_only_page_says_so(serve):
    page, _ = serve("--read-only")
    assert "Read-only demo" in httpx.get(f"{page.local_url}config").text
