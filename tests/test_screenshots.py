"""The screenshots: every view and every state of an operation in both themes, and none that is taken no more."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from dashboard.house import VIEWS
from scripts import screenshots
from scripts.screenshots import drop_others, names, save

DESIGNED = ("nothing-yet", "queued", "running", "cancelled", "failed", "refused", "done")
"""The states that the screen is designed for."""


def test_every_state_and_every_view_is_taken_light_and_dark():
    wanted = {f"state-{state}" for state in DESIGNED} | {*VIEWS, "page", "details", "phone", "phone-case"}
    wanted.remove("operate")  # it is the page as it opens
    assert names() == {f"{name}-{theme}" for name in wanted for theme in ("light", "dark")}


def test_a_picture_that_is_taken_no_more_goes_and_nothing_else(tmp_path, capsys):
    kept = ("page-light.png", "state-done-dark.png", "operation.webp", "notes.txt")
    for name in (*kept, "state-running.png"):
        (tmp_path / name).write_bytes(b"")
    drop_others(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
    assert "state-running.png is taken no more, deleted" in capsys.readouterr().out


def test_a_picture_is_written_with_256_colours_and_looks_the_same(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(screenshots, "FOLDER", tmp_path)
    shot, taken = Image.new("RGB", (64, 64), (0, 114, 178)), io.BytesIO()
    shot.paste((213, 94, 0), (0, 0, 32, 64))
    shot.save(taken, "PNG")
    save(taken.getvalue(), "page-light")
    with Image.open(tmp_path / "page-light.png") as written:
        assert written.mode == "P" and written.size == shot.size
        assert list(written.convert("RGB").getdata()) == list(shot.getdata())
