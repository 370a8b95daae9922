"""Faults that are planted on purpose: each can be planted in today's sources, and one is and is caught."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import planted_faults
from benchmarks.planted_faults import FAULTS, RESULTS, ROOT, Fault, measure, planted
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


def test_each_line_of_the_table_names_a_fault_its_file_and_a_test_that_is_there():
    told, *lines = RESULTS.read_text(encoding="utf-8").splitlines()
    table = list(zip(lines[1::2], lines[2::2], strict=True))
    assert told.startswith(f"{len(table)} of {len(FAULTS)} faults caught") and len(table) == len(FAULTS)
    for fault, (what, caught) in zip(FAULTS, table, strict=True):
        file, _, by = caught.strip().partition("; ")
        tests, _, test = by.partition(": ")
        assert (what, file, tests) == (fault.what, fault.file, fault.tests)
        text = (ROOT / tests).read_text(encoding="utf-8")
        assert re.search(rf"^def {re.escape(test.partition('[')[0])}\(", text, re.MULTILINE), f"{tests} has no {test}"


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
