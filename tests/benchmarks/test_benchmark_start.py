"""The benchmark of start and paint: what it makes of its measurements, and how it fails."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import types
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import CHROMIUM

from benchmarks import start
from benchmarks.start import (
    BEFORE,
    MOST,
    TARGETS,
    WEIGHT,
    WHOLE,
    chromium,
    free_port,
    main,
    medians,
    missed_in,
    opened,
    surroundings,
    table,
    wait_for_port,
)
from inspector.errors import CaseError


def test_the_table_has_the_medians_and_says_which_targets_are_missed():
    runs = [{"listens": 0.2, "usable": used, "heading": 0.5, "first view": 3.0} for used in (9.0, 7.0, 6.0)]
    found = medians(runs)
    assert found == {"listens": 0.2, "usable": 7.0, "heading": 0.5, "first view": 3.0}
    shown = table(found, {"figures": 4, "components": None, "transferred": 1234567})
    assert "7.00 s  target 8.0 s: met" in shown and "3.00 s  target 2.0 s: MISSED" in shown
    assert "1,234,567  at most 2,400,000: met" in shown and set(TARGETS) <= set(found)
    assert "5  at most 4: MISSED" in table(found, {"figures": 5}) and "MISSED" not in table({}, {"figures": 4})


def test_the_program_that_is_measured_may_keep_what_it_has_compiled():
    assert surroundings({"PATH": "/bin", "PYTHONDONTWRITEBYTECODE": "1"}) == {"PATH": "/bin"}


PARTS = {
    **{
        name: f'<div id="{name}"><svg class="main-svg"></svg></div>'
        for name in ("curve", "vitals", "shift-figure", "divergence-figure")
    },
    **{name: f'<div id="{name}"><div class="answer">No.</div></div>' for name in ("vanilla", "edited")},
    "numbers": '<div id="numbers"><div class="tile">1</div></div>',
}
"""What the first view has of its own, each as small as it can be."""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (set CHROMIUM or install it)")
def test_the_first_view_is_whole_only_with_every_figure_and_both_answers():
    playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright_api.sync_playwright() as playwright, opened(playwright, chromium()) as page:

        def whole(*lacking: str, more: str = "") -> bool:
            page.set_content("".join(html for name, html in PARTS.items() if name not in lacking) + more)
            return page.evaluate(WHOLE)

        assert whole() and not any(whole(name) for name in PARTS)
        assert not whole(more='<p class="pending">Loading</p>') and whole(more='<p class="pending" hidden>Loading</p>')
        page.set_content(
            '<div class="js-plotly-plot"></div><script>window.gradio_config = {components: [1, 2]}</script>'
        )
        weight = page.evaluate(WEIGHT)
        assert weight["figures"] == 1 and weight["components"] == 2 and weight["elements"] >= 4


def test_a_program_that_ends_is_told_and_not_waited_for():
    program = subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])
    with pytest.raises(CaseError, match=r"ended with code 2. Run it by hand"):
        wait_for_port(f"http://127.0.0.1:{free_port()}/", program, time.monotonic())


def test_no_repeat_is_a_usage_error():
    with pytest.raises(SystemExit):
        main(["--repeats", "0"])


MET = {"listens": 0.2, "usable": 5.0, "heading": 0.5, "first view": 1.0, "load": dict(MOST)}


@pytest.mark.parametrize(
    ("measured", "code"),
    [
        (MET, 0),
        ({**MET, "usable": 8.1}, 1),
        ({**MET, "heading": 1.3}, 1),
        ({**MET, "load": {**MOST, "figures": MOST["figures"] + 1}}, 1),
        ({**MET, "load": {**MOST, "components": None}}, 1),
    ],
)
def test_a_target_that_is_missed_or_was_not_measured_ends_with_1_once_all_is_written(
    measured, code, monkeypatch, tmp_path, capsys
):
    playwright = types.SimpleNamespace(sync_api=types.SimpleNamespace(sync_playwright=contextlib.nullcontext))
    for name, module in (("playwright", playwright), ("playwright.sync_api", playwright.sync_api)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(start, "one_start", lambda *_given: measured)
    monkeypatch.setattr(start, "chromium", lambda: "a browser")
    out = tmp_path / "start.json"
    assert main(["--repeats", "1", "--out", str(out)]) == code
    assert ("MISSED" in capsys.readouterr().out) == bool(code)
    assert json.loads(out.read_text(encoding="utf-8"))["runs"] == [measured]


@pytest.mark.parametrize(("seconds", "code"), [(44.0, 0), (46.0, 1)])
def test_a_cold_start_is_held_to_its_own_target(seconds, code, monkeypatch, tmp_path, capsys):
    playwright = types.SimpleNamespace(sync_api=types.SimpleNamespace(sync_playwright=contextlib.nullcontext))
    for name, module in (("playwright", playwright), ("playwright.sync_api", playwright.sync_api)):
        monkeypatch.setitem(sys.modules, name, module)
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(start, "cold_start", lambda *given: asked.append(given) or seconds)
    monkeypatch.setattr(start, "chromium", lambda: "a browser")
    assert main(["--clone", str(tmp_path), "--", "--no-example"]) == code
    assert asked == [(None, tmp_path, ["--no-example"], "a browser")]
    assert f"{seconds:.2f} s  target 45.0 s: {'MISSED' if code else 'met'}" in capsys.readouterr().out


def test_a_cold_start_is_make_demo_in_the_clone_without_a_model_and_ends_with_all_that_it_has_started(
    tmp_path, monkeypatch
):
    (tmp_path / "Makefile").write_text(
        'demo:\n\t@echo "$$DINM_INSPECTOR_CACHE" > cache; ls -A "$$DINM_INSPECTOR_CACHE" > held\n'
        f"\t@{sys.executable} -m http.server -b 127.0.0.1 $(lastword $(ARGS)) > log 2>&1\n",
        encoding="utf-8",
    )
    seen: list[str] = []
    monkeypatch.setattr(start, "opened", lambda *_given: contextlib.nullcontext("a page"))
    monkeypatch.setattr(start, "usable", lambda page, address, _began: seen.append(f"{page} of {address}") or 1.5)
    assert start.cold_start(None, tmp_path, [], "a browser") == 1.5
    cache = (tmp_path / "cache").read_text(encoding="utf-8").strip()
    assert (tmp_path / "held").read_text(encoding="utf-8") == "" and not Path(cache).exists()
    (shown,) = seen
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(shown.removeprefix("a page of "), timeout=5)


def test_the_help_tells_of_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "1 when one is missed" in capsys.readouterr().out


def test_the_first_load_may_have_at_most_a_third_of_what_it_had_before_the_page_was_rebuilt():
    assert set(BEFORE) == {"figures", "components"}
    for name, amount in BEFORE.items():
        shown = table({}, {name: amount // 3 + 1})
        assert "MISSED" in shown and name in missed_in({}, {**MOST, name: amount // 3 + 1})
    assert missed_in({}, MOST) == []
