"""What visitors may read of errors: no raw exception, no path of this machine; those are for whoever runs the program.

The errors of the project have two texts (:class:`inspector.errors.InspectorError`). Here the sources themselves are
read, so that a new error is looked at as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspector import errors

ROOT = Path(__file__).resolve().parents[1]
FAMILY = {name for name, one in vars(errors).items() if isinstance(one, type)} | {"LedgerError"}
FOREIGN = {"error", "path", "found", "first", "folder"}
"""What exceptions of libraries and places on the disk are called here."""
QUOTING = {"str", "repr", "first_line"}

ALLOWED = {
    "inspector/model/loading.py": "a page's models come by the shelf, which takes paths out; else by its own start",
    "inspector/model/gguf_file.py": "as above",
    "inspector/model/architecture.py": "the path of a module within a network",
    "inspector/safeedit/layouts.py": "files of cases are named on command lines only",
    "inspector/safeedit/packaged.py": "the path of a file within a package; benchmarks only",
    "editing/sweep/crew.py": "sweeps have a command line only",
    "editing/sweep/engines.py": "as above",
    "editing/sweep/report.py": "as above",
    "editing/sweep/store.py": "as above",
    "editing/methods/mend/__main__.py": "a command line",
    "dashboard/report/__main__.py": "a command line",
    "dashboard/endpoints/tools.py": "an option at the start; a version",
}
"""Files whose errors reach the operator alone, or name no place of this machine, each with the reason."""


def raw(source: str) -> Iterator[str]:
    """Yield what the first arguments of the family's errors say of exceptions and places."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FAMILY and node.args:
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.FormattedValue) and is_raw(part.value):
                    yield f"line {part.value.lineno}: {ast.unparse(part.value)}"


def is_raw(shown: ast.expr) -> bool:
    """Tell whether an expression is an exception or a place itself, its text, or a part that holds all of it."""
    if isinstance(shown, ast.Call):  # not what makes a sentence of its own of it
        return getattr(shown.func, "id", "").strip("_") in QUOTING and any(is_raw(given) for given in shown.args)
    if isinstance(shown, ast.Attribute):  # self.path, path.parent; not path.name or found.version
        return shown.attr in FOREIGN or (shown.attr == "parent" and is_raw(shown.value))
    return isinstance(shown, ast.Name) and shown.id in FOREIGN


@pytest.mark.parametrize("package", ["inspector", "editing", "dashboard"])
def test_what_is_shown_of_an_error_quotes_no_exception_and_no_place(package):
    told = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if name not in ALLOWED and (lines := list(raw(file.read_text(encoding="utf-8")))):
            told[name] = lines
    assert told == {}, "give them as the second argument, the detail"


def test_each_exception_to_that_is_still_needed():
    assert [name for name in ALLOWED if not list(raw((ROOT / name).read_text(encoding="utf-8")))] == []


@pytest.mark.parametrize(
    "shown", ["error", "path", "str(error)", "first_line(error)", "self.path", "self.path.parent", "folder"]
)
def test_the_reader_of_sources_sees_each_way_of_quoting(shown):
    assert list(raw(f"raise EditError(f'It cannot be read ({{{shown}}}). Make it again.', '') from error"))
    assert not list(raw(f"raise EditError('It cannot be read. Make it again.', f'{{{shown}}}') from error"))
