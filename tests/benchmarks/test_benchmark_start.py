"""The benchmark of start and paint: what it makes of its measurements, and how it fails."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from benchmarks.start import TARGETS, free_port, main, medians, table, wait_for_port
from inspector.errors import CaseError


def test_the_table_has_the_medians_and_says_which_targets_are_missed():
    runs = [{"listens": 0.2, "usable": used, "heading": 0.5, "first view": 3.0} for used in (9.0, 7.0, 6.0)]
    found = medians(runs)
    assert found == {"listens": 0.2, "usable": 7.0, "heading": 0.5, "first view": 3.0}
    shown = table(found, {"figures": 4, "components": None, "transferred": 1234567})
    assert "7.00 s  target 8.0 s: met" in shown and "3.00 s  target 2.0 s: MISSED" in shown
    assert "1,234,567" in shown and set(TARGETS) <= set(found)


def test_a_program_that_ends_is_told_and_not_waited_for():
    program = subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])
    with pytest.raises(CaseError, match=r"ended with code 2. Run it by hand"):
        wait_for_port(f"http://127.0.0.1:{free_port()}/", program, time.monotonic())


def test_no_repeat_is_a_usage_error():
    with pytest.raises(SystemExit):
        main(["--repeats", "0"])
