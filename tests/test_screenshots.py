"""The screenshots: every view and every state of an operation in both themes, and none that is taken no more."""

from __future__ import annotations

import io
from unittest.mock import MagicMock

import pytest
from PIL import Image

from dashboard.house import VIEWS
from scripts import screenshots
from scripts.screenshots import drop_others, names, save

DESIGNED = ("nothing-yet", "queued", "running", "cancelled", "failed", "refused", "done")
"""The states that the screen is designed for."""
FOLDED = (
    *("details-token-by-token", "details-what-the-edit-changed", "details-prompt", "details-layer-and-distance"),
    *("details-all-settings", "details-decoding-and-routing"),
)
"""What is folded below the operation."""


def test_every_state_and_every_view_is_taken_light_and_dark():
    wanted = {f"state-{state}" for state in DESIGNED} | {*VIEWS, *FOLDED, "page", "phone", "phone-case"}
    wanted.remove("operate")  # it is the page as it opens
    assert names() == {f"{name}-{theme}" for name in wanted for theme in ("light", "dark")}


@pytest.mark.parametrize("two", [None, "http://two/"])
def test_each_picture_of_a_page_is_taken_once_and_two_models_are_of_the_page_that_has_them(two, monkeypatch):
    saved: list[str] = []
    monkeypatch.setattr(screenshots, "save", lambda _picture, name: saved.append(name))
    browser = MagicMock()
    screenshots.take(browser, "http://one/", two, "light", 1440)
    assert sorted(saved) == sorted(f"{name}-light" for name in screenshots.OF_A_PAGE)
    opened = [call.args[0].partition("?")[0] for call in browser.new_page.return_value.goto.call_args_list]
    assert opened == ["http://one/", *([] if two is None else [two]), "http://one/"]


def test_pictures_of_a_phone_are_of_a_page_that_was_opened_on_one(monkeypatch):
    monkeypatch.setattr(screenshots, "save", lambda _picture, _name: None)
    browser = MagicMock()
    screenshots.take(browser, "http://one/", None, "light", 1440)
    widths = [call.kwargs["viewport"]["width"] for call in browser.new_page.call_args_list]
    assert widths == [1440, 390] and not browser.new_page.return_value.set_viewport_size.called


def test_a_run_that_stopped_is_taken_once_its_message_has_come_and_gone():
    page = MagicMock()
    screenshots.failed(page, MagicMock())
    states = [call.kwargs.get("state", "visible") for call in page.wait_for_selector.call_args_list]
    assert states == ["visible", "detached"]


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


def test_a_thin_line_in_a_colour_of_the_figures_keeps_it_in_a_picture_of_many_colours(tmp_path, monkeypatch):
    monkeypatch.setattr(screenshots, "FOLDER", tmp_path)
    shot, taken = Image.new("RGB", (256, 256)), io.BytesIO()
    shot.putdata([(red, blue // 2, blue) for red in range(256) for blue in range(256)])
    shot.paste((0, 158, 115), (100, 0, 102, 20))
    shot.save(taken, "PNG")
    save(taken.getvalue(), "state-running-light")
    with Image.open(tmp_path / "state-running-light.png") as written:
        assert written.convert("RGB").getpixel((101, 10)) == (0, 158, 115)
