"""What a browser test says where axe-core is not there: never that it has passed."""

from __future__ import annotations

from types import SimpleNamespace

import axe_helpers
import pytest
from axe_helpers import told_if_left_out, violations

PAGE = SimpleNamespace(url="http://127.0.0.1/")


@pytest.fixture(autouse=True)
def without_axe(monkeypatch: pytest.MonkeyPatch) -> None:
    """No axe-core in the cache."""
    monkeypatch.setattr(axe_helpers, "axe_core", lambda: None)


def test_a_test_that_asks_for_axe_goes_on_and_is_skipped_at_its_end_with_the_remedy():
    went_on = False
    with pytest.raises(pytest.skip.Exception, match=r"fetch_axe\.sh fetches it"), told_if_left_out():
        assert violations(PAGE) == []
        went_on = True
    assert went_on


def test_one_that_fails_has_failed_and_the_next_one_is_not_skipped_for_it():
    with pytest.raises(ValueError, match="fails"), told_if_left_out():
        violations(PAGE)
        raise ValueError("It fails.")
    with told_if_left_out():
        assert PAGE.url


def test_the_tests_of_this_folder_are_told_so(request: pytest.FixtureRequest):
    hooks = request.node.ihook.pytest_runtest_call.get_hookimpls()
    (around,) = [hook.function() for hook in hooks if hook.plugin_name == str(request.path.with_name("conftest.py"))]
    next(around)
    violations(PAGE)
    with pytest.raises(pytest.skip.Exception, match="all but what axe finds was checked"):
        around.send(None)
