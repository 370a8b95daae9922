"""What the tests fetch for themselves: where it cannot be had, a person reads why, and nothing half is left."""

from __future__ import annotations

import os
import subprocess


def test_without_what_checks_accessibility_it_is_said_and_nothing_half_is_left(tmp_path):
    nowhere = {"XDG_CACHE_HOME": str(tmp_path), "PYTHON": "false"}  # a program that fetches nothing
    ran = subprocess.run(["sh", "scripts/fetch_axe.sh"], env={**os.environ, **nowhere}, capture_output=True, text=True)
    assert ran.returncode == 0 and "tests of accessibility will be skipped" in ran.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
