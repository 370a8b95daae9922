"""The benchmark of start and paint: what it makes of its measurements, and how it fails."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from browser_helpers import CHROMIUM

from benchmarks.start import (
    TARGETS,
    WEIGHT,
    WHOLE,
    chromium,
    free_port,
    main,
    medians,
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
