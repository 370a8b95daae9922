"""No half file is ever seen: not after an error, not with two writers, not when the program is killed at any moment."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from inspector.model import whole_file
from inspector.model.whole_file import ENDING, put_in_place, replacing, unfinished, write_whole

LINES = 20_000
WRITER = f"""
import importlib.util
import sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("whole_file", {whole_file.__file__!r})  # without all that a model needs
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print("ready", flush=True)
number = 0
while True:
    number += 1
    module.write_whole(Path(sys.argv[1]), (str(number % 10) + chr(10)) * {LINES})
"""


def is_whole(path: Path) -> bool:
    """Tell whether a file is one writing's, from its first line to its last."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return len(lines) == LINES and len(set(lines)) == 1


def test_a_program_that_is_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("0\n" * LINES, encoding="utf-8")
    chance = random.Random(1)
    for _ in range(4):
        words = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline()
            until = time.monotonic() + chance.uniform(0.01, 0.3)
            while time.monotonic() < until:
                assert is_whole(path)
            writer.send_signal(signal.SIGKILL)
        assert is_whole(path)


def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "patch.safetensors"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_noticed_before_the_old_file_is_gone(tmp_path, monkeypatch, code):
    path = tmp_path / "ledger.json"
    write_whole(path, "old")

    def full(_handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(whole_file.os, "fsync", full)
    with pytest.raises(OSError, match=os.strerror(code)):
        write_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_in_the_same_instant_do_not_mix(tmp_path):
    path, began = tmp_path / "cache.json", threading.Barrier(4)

    def write(digit: int) -> None:
        began.wait()
        for _ in range(20):
            write_whole(path, f"{digit}\n" * LINES)

    threads = [threading.Thread(target=write, args=(digit,)) for digit in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_whole(path) and not list(tmp_path.glob(f"*{ENDING}"))


def folder_of_files(folder: Path) -> Path:
    (folder / "inside").mkdir(parents=True)
    for name in ("weights", "inside/record"):
        (folder / name).write_text(name, encoding="utf-8")
    return folder


def test_a_folder_gets_its_name_once_all_that_is_in_it_is_on_the_disk(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    made = folder_of_files(unfinished(folder))
    pushed: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        whole_file.os, "fsync", lambda handle: pushed.append((os.fstat(handle).st_ino, folder.exists()))
    )
    put_in_place(made, folder)
    before = {place for place, named in pushed if not named}
    assert before == {path.stat().st_ino for path in (folder, *folder.rglob("*"))}
    assert pushed[-1] == (tmp_path.stat().st_ino, True), "then its name, too"


def test_a_full_disk_is_noticed_before_a_folder_has_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    made = folder_of_files(unfinished(folder))

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(whole_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        put_in_place(made, folder)
    assert not folder.exists()
