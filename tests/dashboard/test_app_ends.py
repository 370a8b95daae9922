"""How the program ends, and the folder of copies that goes with it."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import app

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path_factory) -> None:
    """A cache for these tests alone, and no host from the environment."""
    monkeypatch.setenv("DINM_INSPECTOR_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)


def test_gradio_s_copies_lie_where_only_this_user_reads_them_and_go_with_the_program(monkeypatch):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, app.ended_by_sigterm(), app.private_copies():
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "answers.csv").write_text("an answer")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # the signal ends it
    assert ended.value.code == 143 and not folder.exists() and "GRADIO_TEMP_DIR" not in os.environ
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("copies", ["of its own", "named"])
def test_sigterm_is_heard_wherever_the_copies_lie(monkeypatch, tmp_path, copies):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    if copies == "named":
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    heard: list[Any] = []
    monkeypatch.setattr(app, "serve", lambda *_: heard.append(signal.getsignal(signal.SIGTERM)) or 0)
    before = signal.getsignal(signal.SIGTERM)
    assert app.main([]) == 0 and heard != [before] and signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(SystemExit) as ended:
        heard[0](signal.SIGTERM, None)
    assert ended.value.code == 143


def test_a_root_that_cannot_be_written_is_told_with_its_remedy(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(SystemExit) as ended:
        app.main([])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("Error: ") and "TMPDIR" in said and "/tmp" in said


ENDED_AMID_A_RUN = """
import os, signal, threading, time, app

def serve(*_):
    import torch

    begun = threading.Event()

    def run():
        large = torch.ones(800, 800)
        while True:
            large = large @ large / 800
            begun.set()

    threading.Thread(target=run, daemon=True).start()
    begun.wait()
    print("stopped", end="")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)  # the signal ends it

app.serve = serve
app.run_and_end()
"""


def test_a_program_that_is_stopped_amid_a_run_ends_as_it_was_asked_to_and_does_not_abort():
    ended = subprocess.run(
        [sys.executable, "-c", ENDED_AMID_A_RUN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "stopped", "")


def test_a_program_that_has_not_begun_ends_as_any_other(monkeypatch):
    left: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", left.append)
    monkeypatch.setattr(atexit, "unregister", left.remove)
    for given, code in ((["--help"], 0), (["--port", "none"], 2)):
        monkeypatch.setattr(sys, "argv", ["app.py", *given])
        with pytest.raises(SystemExit) as ended:
            app.run_and_end()
        assert ended.value.code == code and left == []


def test_a_folder_for_copies_that_is_named_in_the_environment_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with app.private_copies():
        assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
    assert tmp_path.exists() and os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
