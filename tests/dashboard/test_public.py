"""Opening the page to others: a login or an explicit word, bounds of each visitor, numbers without texts."""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from attack_helpers import call, serve
from dashboard_helpers import free_port, model_at_rest

import app
from dashboard import public
from dashboard.kit.limits import DEMO, OTHERS, Limits
from dashboard.kit.notes import note
from dashboard.kit.running.queue import Line
from dashboard.kit.sessions.typed import texts_of
from dashboard.kit.sessions.visitors import Sessions
from dashboard.metrics import Metrics, serve_metrics
from inspector.model import SUFFIX
from inspector.safeedit import bundled_cases

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch) -> None:
    """Nothing from the environment."""
    for name in ("GRADIO_SERVER_NAME", public.PASSWORDS, public.PUBLIC):
        monkeypatch.delenv(name, raising=False)


def chosen(*arguments: str) -> argparse.Namespace:
    return app.options().parse_args(arguments)


@pytest.mark.parametrize("open_to", [["--share"], ["--host", "0.0.0.0"], ["--host", "192.168.1.5"], ["--host", "::"]])
def test_others_come_in_with_a_login_or_an_explicit_word_and_not_otherwise(open_to, capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        app.main(open_to)
    assert ended.value.code == 2 and "--auth-file" in capsys.readouterr().err
    public.require_decision(chosen(*open_to, "--public"), None)
    public.require_decision(chosen(*open_to), [("ann", "secret")])
    monkeypatch.setenv(public.PUBLIC, "1")
    public.require_decision(chosen(*open_to), None)


def test_on_this_machine_nothing_has_to_be_said():
    for host in public.THIS_MACHINE:
        public.require_decision(chosen("--host", host), None)


def test_passwords_come_from_a_file_that_only_its_owner_reads_and_from_the_environment(tmp_path, monkeypatch, capsys):
    path = tmp_path / "logins"
    path.write_text("# a comment\nann:with:colon\n\nbob:two\n", encoding="utf-8")
    path.chmod(0o600)
    assert public.logins(chosen("--auth-file", str(path))) == [("ann", "with:colon"), ("bob", "two")]
    monkeypatch.setenv(public.PASSWORDS, "eve:three joe:four")
    assert public.logins(chosen()) == [("eve", "three"), ("joe", "four")] and "Warning" not in capsys.readouterr().err
    assert public.logins(chosen("--auth", "sue:five"))[0] == ("sue", "five")
    assert "--auth is seen in the process list" in capsys.readouterr().err
    monkeypatch.delenv(public.PASSWORDS)
    assert public.logins(chosen()) is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_of_passwords_that_others_read_is_refused_with_the_command_that_mends_it(tmp_path, mode, capsys):
    path = tmp_path / "logins"
    path.write_text("ann:one", encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(SystemExit):
        app.main(["--auth-file", str(path)])
    said = capsys.readouterr().err
    assert f"chmod 600 {path}" in said and "one" not in said.replace("anyone", "")


@pytest.mark.parametrize("content", [b"ann", b"ann:", b":secret", b"", b"# none", b"\xff\xfe"])
def test_a_file_without_logins_is_refused_and_none_of_it_is_shown(tmp_path, content):
    path = tmp_path / "logins"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="logins") as caught:
        public.logins(chosen("--auth-file", str(path)))
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="cannot be read"):
        public.logins(chosen("--auth-file", "/nowhere/logins"))


def test_bounds_are_those_of_a_page_of_ones_own_of_others_or_of_a_demo():
    assert public.limits_of(chosen()) == Limits()
    assert public.limits_of(chosen("--public")) == public.limits_of(chosen("--host", "0.0.0.0")) == OTHERS
    assert public.limits_of(chosen("--share", "--read-only")) == public.limits_of(chosen("--read-only")) == DEMO
    assert public.limits_of(chosen(), asks_login=True) == OTHERS, "a proxy may stand before this machine"
    assert public.others_come_in(chosen("--public")) and not public.others_come_in(chosen())
    assert OTHERS.sources == DEMO.sources == frozenset() and Limits().sources is None and not DEMO.packages


def test_every_bound_has_an_option_in_its_own_unit():
    given = {"max-tokens": 9, "max-steps": 8, "max-prompts": 7, "runs-an-hour": 6, "visitor-memory": 5, "max-upload": 4}
    given |= {"files-an-hour": 3, "free-disk": 2, "runs-in-line": 1, "events-a-minute": 10}
    assert set(given) == {name.replace("_", "-") for name in public.BOUNDS}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    made = public.limits_of(chosen("--public", *words, "--allow-source", "a/b", "--allow-source", "c"))
    assert (made.tokens, made.steps, made.prompts, made.runs_an_hour) == (9, 8, 7, 6)
    assert (made.stored, made.upload, made.files, made.free) == (5 * 2**20, 4 * 2**20, 3 * 2**20, 2 * 2**20)
    assert made.sources == {"a/b", "c"} and (made.in_line, made.events) == (1, 10)


@pytest.mark.parametrize(
    "words", [["--max-tokens", "0"], ["--runs-an-hour", "many"], ["--metrics", "x:y"], ["--metrics", "0"]]
)
def test_a_bound_that_is_none_is_a_usage_error(words, capsys):
    with pytest.raises(SystemExit) as ended:
        app.main(words)
    assert ended.value.code == 2


def test_a_page_refuses_what_is_over_the_bounds_that_it_was_built_with():
    """Runs an hour, places in line and events a minute, each by what the page itself has made of them."""
    texts = texts_of(bundled_cases()[0])
    case = texts.question, texts.template, texts.safe, texts.unsafe
    located = "locate", *case, "corrected", "right", SUFFIX, True
    edited = "edit", *case, 1, "corrected", 3, SUFFIX, False, None, True, None
    bounds = replace(OTHERS, runs_an_hour=2, in_line=0, events=60)  # no place in line: nothing has to stand in it
    with model_at_rest(), serve(bounds) as served, httpx.Client(base_url=served.url, timeout=60) as web:
        kinds, said = zip(*(call(web, *one, session_hash="asks") for one in (located, edited, located)), strict=True)
        assert kinds == ("complete", "error", "error"), said
        assert "from your address stand in line" in str(said[1]) and "2 runs an hour are allowed" in str(said[2])
        asked = {"data": [], "session_hash": "asks"}
        statuses = [web.post("/gradio_api/call/status", json=asked).status_code for _ in range(40)]
        assert set(statuses) == {200, 429} and statuses[0] == 200


def test_a_log_that_cannot_be_written_is_a_usage_error(capsys):
    with pytest.raises(SystemExit):
        app.main(["--log", "/nowhere/log.jsonl"])
    assert "cannot be written" in capsys.readouterr().err


def test_the_options_are_read_before_anything_large_is_imported():
    code = "import sys, app; app.options(); print(sorted(sys.modules.keys() & {'torch', 'gradio', 'transformers'}))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]"


def page() -> types.SimpleNamespace:
    """What the numbers are read from."""
    return types.SimpleNamespace(line=Line(), guard=types.SimpleNamespace(sessions=Sessions()))


def test_numbers_of_the_line_of_waits_of_memory_and_of_refusals_can_be_read_and_hold_no_text():
    served, port = page(), free_port()
    end = serve_metrics(served, "127.0.0.1", port)
    try:
        served.guard.sessions.of("a key that is nobody's business")
        list(served.line.turns(iter_of(2), "on_edit"))
        note("refused", why="runs")
        note("told", error="CaseError")
        note("defect", logging.ERROR, error="ValueError", number="1", at="a place")
        note("lost session", why="it was not used for 2 hours")
        said = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    finally:
        end()
    for line in (
        'dinm_wait_seconds_count{kind="on_edit"} 1.0',
        'dinm_run_seconds_count{kind="on_edit",outcome="done"} 1.0',
        'dinm_refused_total{why="runs"} 1.0',
        'dinm_told_total{error="CaseError"} 1.0',
        'dinm_defects_total{error="ValueError"} 1.0',
        "dinm_sessions_lost_total 1.0",
        "dinm_line_runs 0.0",
        "dinm_sessions 1.0",
    ):
        assert line in said
    assert float(re.search(r"^dinm_resident_bytes (\S+)", said, re.MULTILINE)[1]) > 1e6 and "nobody" not in said


def iter_of(count: int):
    yield from range(count)


def test_a_cancelled_a_left_and_a_failed_run_are_told_apart():
    counts, line = Metrics(page()), Line()
    counted: list[str] = []
    counts.emit = lambda record: counted.append(record.told.get("outcome"))
    logger = logging.getLogger("dinm_inspector")
    logger.addHandler(counts)
    try:
        list(line.turns(iter_of(1), "a", lambda: True))
        left = line.turns(iter_of(2), "b")
        next(left)
        left.close()
        with pytest.raises(ZeroDivisionError):
            list(line.turns((1 // number for number in (1, 0)), "c"))
    finally:
        logger.removeHandler(counts)
    assert counted == ["cancelled", "left", "failed"]
