"""Faults that are planted on purpose: each can be planted in today's sources, and one is and is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import planted_faults
from benchmarks.planted_faults import FAULTS, ROOT, Fault, measure, planted
from inspector.errors import EditError

TESTED = """
from thing import double

def test_doubling():
    assert double(2) == 4
"""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_each_fault_can_be_planted_and_names_a_file_of_tests(fault):
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    broken = planted(text, fault)
    assert broken != text and (ROOT / fault.tests).is_file()
    compile(broken, fault.file, "exec")


def fault(wrong: str, right: str = "2 * number") -> Fault:
    return Fault("it is not doubled", "thing.py", right, wrong, "test_thing.py")


@pytest.fixture
def checkout(tmp_path) -> Path:
    (tmp_path / "thing.py").write_text("def double(number):\n    return 2 * number\n")
    (tmp_path / "test_thing.py").write_text(TESTED)
    return tmp_path


def test_a_fault_is_caught_or_not_and_the_source_is_as_it_was(checkout):
    found = measure(checkout, [fault("3 * number"), fault("number + number")])
    assert found == ["test_doubling", ""]
    assert "2 * number" in (checkout / "thing.py").read_text()


def test_one_that_gets_through_is_exit_code_1_and_stands_in_the_table(checkout, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(planted_faults, "copied", lambda folder: checkout)
    monkeypatch.setattr(planted_faults, "caught_by", lambda *_: "")
    monkeypatch.setattr(planted_faults, "FAULTS", (fault("number + number"),))
    assert planted_faults.main(["--out", str(tmp_path / "table.txt")]) == 1
    assert "0 of 1 faults caught" in (tmp_path / "table.txt").read_text() and "NOT CAUGHT" in capsys.readouterr().out


def test_tests_that_fail_without_a_fault_and_text_that_is_not_there_are_refused(checkout):
    with pytest.raises(EditError, match="cannot be planted"):
        planted("def double(number): ...", fault("3 * number"))
    (checkout / "thing.py").write_text("def double(number):\n    return 0\n")
    with pytest.raises(EditError, match=r"test_thing\.py fails without a fault \(test_doubling\)"):
        measure(checkout, [fault("3 * number")])
