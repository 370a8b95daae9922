"""What the tests fetch for themselves: where it cannot be had, a person reads why, and continuous integration fails."""

from __future__ import annotations

import os
import subprocess

import pytest


@pytest.mark.parametrize(("surroundings", "code"), [({}, 0), ({"CI": "true"}, 1)])
def test_without_what_checks_accessibility_only_continuous_integration_fails(tmp_path, surroundings, code):
    own = {name: value for name, value in os.environ.items() if name != "CI"}
    nowhere = {"XDG_CACHE_HOME": str(tmp_path), "PYTHON": "false"}  # a program that fetches nothing
    ran = subprocess.run(
        ["sh", "scripts/fetch_axe.sh"], env={**own, **nowhere, **surroundings}, capture_output=True, text=True
    )
    assert ran.returncode == code and "tests of accessibility will be skipped" in ran.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
