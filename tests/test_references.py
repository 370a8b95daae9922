"""What a docstring refers to is there: functions, constants, modules and classes are moved, and texts stay behind."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("inspector", "editing", "dashboard", "benchmarks")
ROLE = re.compile(r":(func|data|mod|class):`~?([\w.]+)`")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    """Return the dotted name of a source."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


BY_NAME = {module_of(path): path for path in SOURCES}


def bound(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """Return the names that statements bind, with what stands within those that are classes."""
    found: dict[str, list[ast.stmt]] = {}
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            found[statement.name] = statement.body
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            found[statement.name] = []
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0]: [] for alias in statement.names}
        elif isinstance(statement, ast.If | ast.Try):
            found |= bound(statement.body) | bound(statement.orelse)
        else:
            names = (each for each in ast.walk(statement) if isinstance(each, ast.Name))
            found |= {name.id: [] for name in names if isinstance(name.ctx, ast.Store)}
    return found


@cache
def names_in(path: Path) -> dict[str, list[ast.stmt]]:
    """Return what a module binds."""
    return bound(ast.parse(path.read_text(encoding="utf-8")).body)


def is_there(path: Path, role: str, target: str) -> bool:
    """Tell whether a reference in a source leads somewhere."""
    if target.startswith("."):
        target = module_of(path.parent / "__init__.py") + target
    names, parts = names_in(path), target.split(".")
    if parts[0] not in PACKAGES and (role == "mod" or (parts[0] not in names and len(parts) > 1)):
        return find_spec(parts[0]) is not None  # somebody else's
    if role == "mod":
        return target in BY_NAME
    if parts[0] in PACKAGES:
        last = next(n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in BY_NAME)
        names, parts = names_in(BY_NAME[".".join(parts[:last])]), parts[last:]
    for part in parts:
        if part not in names:
            return False
        names = bound(names[part])
    return True


@pytest.mark.parametrize("package", PACKAGES)
def test_each_reference_of_a_docstring_leads_somewhere(package):
    lost, count = [], 0
    for path in SOURCES:
        if module_of(path).partition(".")[0] == package:
            for role, target in ROLE.findall(path.read_text(encoding="utf-8")):
                count += 1
                if not is_there(path, role, target):
                    lost.append(f"{path.relative_to(ROOT)}: {role} {target}")
    assert count > 10 and lost == []
