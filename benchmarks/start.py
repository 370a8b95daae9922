"""How long a warm start takes until the page can be used, and how long the page takes to show, in a real browser.

    python -m benchmarks.start --out benchmarks/results/start.json
    python -m benchmarks.start --repeats 5 -- --model path/to/folder --no-calibration
    python -m benchmarks.start --clone path/to/a/clone

Each repeat starts ``app.py`` anew, with the options after ``--``, and opens a fresh browser on the port as soon as it
listens, as a person would. Times are seconds from the start of the program:

- ``listens``: the port answers, with the waiting page;
- ``usable``: the dashboard stands in that browser, without a hand, and its button Operate can be pressed.

Then a second fresh browser opens the page that is up; its times are seconds from the start of the navigation:

- ``heading``: the heading is painted;
- ``first view``: all of the first view is there, both answers and every figure, and nothing in it is still loading.

With the numbers come what the first load weighs: figures, components, elements, transferred bytes and the height of the
page at 1440 x 900. The medians, and the weight of the last start, are printed beside the targets.

``--clone FOLDER`` measures a cold start instead, once: ``make demo`` in a fresh clone whose packages are installed
(``make .venv/.ready`` there), with no model in the cache, until the page is usable.

Exit codes: 0 when every target is met; 1 when one is missed, or was not measured; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from editing.command import finished
from inspector.errors import CaseError

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"usable": 8.0, "heading": 1.2, "first view": 2.0}
"""Seconds; see the closing note of the page's rebuilding."""
COLD = 45.0
"""Seconds for a cold start."""
BEFORE = {"figures": 19, "components": 369}
"""What the first load had at commit 631c2c7, before the page was rebuilt; counted there with ``PYTHONPATH=tests:.`` by:

    import pathlib, dashboard_helpers as helpers
    from dashboard.page import build_app
    with helpers.short_examples():
        parts = build_app(helpers.tiny_model(), example_folder=pathlib.Path("made")).config["components"]
    print(sum(part["type"] == "plot" for part in parts), len(parts))
"""
WEIGHTS = {"figures": 4, "components": 123, "transferred": 2_400_000}
"""The page's own bounds of the first load, which a test holds it to."""
MOST = WEIGHTS | {name: min(WEIGHTS[name], amount // 3) for name, amount in BEFORE.items()}
"""What the first load may weigh at most: these, and of figures and components a third of what there were before."""
LEFT_OUT = ("PYTHONDONTWRITEBYTECODE",)
"""Variables of the environment that the program does not get: with this one it compiles anew what it imports."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LONGEST = 300.0
"""Seconds after which a start counts as failed."""
SETTLES = 2.0
"""Seconds that a browser just started has for its own beginning: whoever opens a page has one that runs."""
OPERATE = "#operate:not([disabled])"
WHOLE = """() => {
  const drawn = (name) => document.querySelector(`${name} .main-svg`) !== null;
  const pending = [...document.querySelectorAll(".pending, .loading")].some((part) => part.offsetParent !== null);
  const said = (name) => Boolean(document.querySelector(`${name} .answer`)?.textContent.trim());
  return ["#curve", "#vitals", "#shift-figure", "#divergence-figure"].every(drawn)
    && ["#vanilla", "#edited"].every(said) && document.querySelector("#numbers .tile") !== null && !pending;
}"""
"""Whether the first view stands: its four figures are drawn, the numbers and both answers are there."""
WEIGHT = """() => ({
  figures: document.querySelectorAll(".js-plotly-plot").length,
  components: window.gradio_config ? window.gradio_config.components.length : null,
  elements: document.querySelectorAll("*").length,
  height: document.documentElement.scrollHeight,
  transferred: performance.getEntriesByType("resource").reduce((sum, one) => sum + one.transferSize, 0)
    + performance.getEntriesByType("navigation").reduce((sum, one) => sum + one.transferSize, 0),
})"""


def surroundings(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the program that is measured: as a person has it who starts it."""
    return {name: value for name, value in given.items() if name not in LEFT_OUT}


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def chromium() -> str:
    """Return the browser's program.

    Raises:
        CaseError: There is none.
    """
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        raise CaseError("There is no chromium here. Install it (make browser) or name it in CHROMIUM.")
    return found


def wait_for_port(address: str, program: subprocess.Popen[bytes], began: float) -> float:
    """Return the seconds after which anything answers at an address.

    Raises:
        CaseError: The program has ended, or nothing answers in time.
    """
    while time.monotonic() - began < LONGEST:
        if program.poll() is not None:
            raise CaseError(f"app.py has ended with code {program.returncode}. Run it by hand to see why.")
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return time.monotonic() - began
        except urllib.error.HTTPError:  # the waiting page answers with 503
            return time.monotonic() - began
        except OSError:
            time.sleep(0.01)
    raise CaseError(f"Nothing answers at {address} after {LONGEST:.0f} s. Look at what app.py prints.")


@contextmanager
def started(command: list[str], port: int, folder: Path, env: Mapping[str, str]) -> Iterator[tuple[str, float, float]]:
    """Start a program in a folder, and end it with all that it has started.

    Yields:
        Its address, the time at which it was started, and the seconds after which anything answered.
    """
    address, began = f"http://127.0.0.1:{port}/", time.monotonic()
    program = subprocess.Popen(command, cwd=folder, env=dict(env), start_new_session=True)
    try:
        yield address, began, wait_for_port(address, program, began)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGTERM)
        program.wait(30)


def one_start(playwright: Any, options: list[str], program_of_browser: str) -> dict[str, Any]:
    """Start the program, watch it in one browser until it is usable, then open the page in another."""
    port = free_port()
    command = [sys.executable, "app.py", "--port", str(port), *options]
    with started(command, port, ROOT, surroundings(os.environ)) as (address, began, listens):
        measured: dict[str, Any] = {"listens": listens}
        with opened(playwright, program_of_browser) as page:
            measured["usable"] = usable(page, address, began)
        with opened(playwright, program_of_browser) as page:
            time.sleep(SETTLES)
            asked = time.monotonic()
            page.goto(address, wait_until="commit")
            page.wait_for_selector("header.mast h1", state="visible", timeout=1000 * LONGEST)
            measured["heading"] = time.monotonic() - asked
            page.wait_for_function(WHOLE, timeout=1000 * LONGEST)
            measured["first view"] = time.monotonic() - asked
            measured["load"] = page.evaluate(WEIGHT)
        return measured


def usable(page: Any, address: str, began: float) -> float:
    """Return the seconds after which Operate can be pressed on a page that nobody touches."""
    page.goto(address, wait_until="commit")
    page.wait_for_selector(OPERATE, timeout=1000 * LONGEST)
    return time.monotonic() - began


def cold_start(playwright: Any, clone: Path, options: list[str], program_of_browser: str) -> float:
    """Return the seconds from ``make demo`` in a clone until its page is usable; no model is in the cache."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="dinm-cache-") as cache:
        # A browser of its own is opened for it; none that make demo would open is to disturb that.
        env = surroundings(os.environ) | {"DINM_INSPECTOR_CACHE": cache, "BROWSER": "true"}
        command = ["make", "demo", f"ARGS={shlex.join(['--port', str(port), *options])}"]
        with started(command, port, clone, env) as (address, began, _), opened(playwright, program_of_browser) as page:
            return usable(page, address, began)


class opened:  # noqa: N801, used as a function
    """A page of a fresh browser with a profile of its own, which is deleted afterwards."""

    def __init__(self, playwright: Any, program: str) -> None:
        self._playwright, self._program = playwright, program

    def __enter__(self) -> Any:
        self._folder = tempfile.TemporaryDirectory(prefix="dinm-start-", ignore_cleanup_errors=True)
        self._context = self._playwright.chromium.launch_persistent_context(
            self._folder.name,
            executable_path=self._program,
            args=FLAGS,
            viewport={"width": 1440, "height": 900},
        )
        return self._context.pages[0]

    def __exit__(self, *_error: object) -> None:
        self._context.close()
        self._folder.cleanup()


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each time over the repeats, seconds."""
    names = ("listens", "usable", "heading", "first view")
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in names}


def missed_in(found: Mapping[str, float], load: Mapping[str, Any]) -> list[str]:
    """Return the targets that are missed, and those of the weight that could not be measured."""
    missed = [name for name, seconds in found.items() if seconds > TARGETS.get(name, seconds)]
    return missed + [name for name, most in MOST.items() if load.get(name) is None or load[name] > most]


def table(found: Mapping[str, float], load: Mapping[str, Any]) -> str:
    """Return the medians beside the targets, and what the first load weighs."""
    missed = missed_in(found, load)
    lines = []
    for name, seconds in found.items():
        asked = f"  target {TARGETS[name]:.1f} s" if name in TARGETS else ""
        lines.append(f"{name:<12}{seconds:>7.2f} s{_judged(asked, name, missed)}")
    for name, amount in load.items():
        asked = f"  at most {MOST[name]:,}" if name in MOST else ""
        lines.append(f"{name:<12}{'-' if amount is None else format(amount, ','):>9}{_judged(asked, name, missed)}")
    return "\n".join(lines)


def _judged(asked: str, name: str, missed: Sequence[str]) -> str:
    return asked and f"{asked}: {'MISSED' if name in missed else 'met'}"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; write the record if a file is named. Returns 1 where a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="starts to measure, after one that is not counted")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--clone", type=Path, default=None, metavar="FOLDER", help="measure a cold start there instead")
    parser.add_argument("options", nargs="*", help="options of app.py, after --")
    chosen = parser.parse_args(arguments)
    if chosen.repeats < 1:
        parser.error("--repeats must be at least 1")
    from playwright.sync_api import sync_playwright

    program = chromium()
    if chosen.clone is not None:
        with sync_playwright() as playwright:
            seconds = cold_start(playwright, chosen.clone, chosen.options, program)
        missed = seconds > COLD
        print(f"{'usable':<12}{seconds:>7.2f} s  target {COLD:.1f} s: {'MISSED' if missed else 'met'}")
        return int(missed)
    with sync_playwright() as playwright:
        one_start(playwright, chosen.options, program)  # files and compiled modules are in memory from here on
        runs = [one_start(playwright, chosen.options, program) for _ in range(chosen.repeats)]
    found, load = medians(runs), runs[-1]["load"]
    print(table(found, load))
    if chosen.out is not None:
        record = {
            "command": f"python -m benchmarks.start --repeats {chosen.repeats} -- {' '.join(chosen.options)}".rstrip(
                " -"
            ),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "targets, s": TARGETS,
            "targets, weight": MOST,
            "median, s": found,
            "runs": runs,
        }
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(bool(missed_in(found, load)))


if __name__ == "__main__":
    sys.exit(finished(main))
