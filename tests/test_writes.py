"""What the packages write is seen whole or not at all: no source writes a file but by way of ``whole_file``.

Here the sources themselves are read, so that a new write is looked at as well. What they cannot show is that a name
given to a library's function is the unfinished one's: that is for the tests of each file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    [ROOT / "app.py", *(path for room in ("inspector", "editing", "dashboard") for path in (ROOT / room).rglob("*.py"))]
)
WRITES = {
    "write_text",
    "write_bytes",
    "touch",
    "save_file",
    "save_model",
    "save_pretrained",
    "savez",
    "savez_compressed",
}
WRITES |= {"save", "tofile", "copyfile", "copy", "copy2", "copytree", "move", "mkstemp"}
WRITES |= {
    "NamedTemporaryFile",
    "FileHandler",
    "connect",
    "symlink_to",
    "hardlink_to",
    "extract",
    "extractall",
}
"""Names of functions that write files, or give them names, whoever's they are."""
OWN = {"copy", "save", "move", "connect"}
"""Those among them that much else is called: they count where they are of one of :data:`MODULES`."""
MODULES = {"shutil", "torch", "np", "numpy", "sqlite3"}
PROVIDED = {"replacing", "put_in_place"}
"""What of ``whole_file`` a function writes by: what it writes has the unfinished name until it is whole."""

ALLOWED = {
    ("inspector/model/whole_file.py", "replacing"): "it is what all others go by",
    ("inspector/model/whole_file.py", "put_in_place"): "as above",
    ("inspector/model/embedded/__init__.py", "_extract"): "in the folder that put_in_place names when it is whole",
    ("inspector/model/embedded/__init__.py", "_convert"): "as above",
    ("editing/saved/incoming.py", "unpack"): "in a private folder that goes when it was read",
    ("editing/saved/incoming.py", "_put"): "as above",
    ("editing/saved/files.py", "_second_name"): "into the unfinished folder of put_edit",
    ("editing/saved/files.py", "put_edit"): "it names what was written whole and read back in an unfinished folder",
    ("editing/sweep/store.py", "__init__"): "SQLite has a journal of its own",
    ("dashboard/steps/keep/ledger.py", "__init__"): "SQLite, and the empty file that it opens",
    ("dashboard/steps/keep/saving.py", "_zip"): "in the visitor's new folder, named to nobody before it is whole",
    ("dashboard/steps/keep/incoming.py", "own_copies"): "as above",
    ("dashboard/kit/door/uploads.py", "begin"): "Gradio's piece of an upload, which has another name once it is whole",
    ("dashboard/kit/notes.py", "write_to"): "a log grows by lines",
}  # fmt: skip


def writes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the function and the call of each write that is in no function which writes by way of ``whole_file``."""
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]:
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        if PROVIDED & {called(call)[1] for call in calls}:
            continue
        for call in calls:
            if is_write(call):
                yield function.name, ast.unparse(call)


def called(call: ast.Call) -> tuple[str, str]:
    """Return whose function is called, as far as it is a plain name, and its name."""
    if isinstance(call.func, ast.Attribute):
        return (call.func.value.id if isinstance(call.func.value, ast.Name) else "?"), call.func.attr
    return "", call.func.id if isinstance(call.func, ast.Name) else ""


def is_write(call: ast.Call) -> bool:
    """Tell whether a call writes a file or gives it a name."""
    whose, name = called(call)
    constants = [one.value for one in [*call.args, *(k.value for k in call.keywords)] if isinstance(one, ast.Constant)]
    if name in ("open", "fdopen", "ZipFile"):
        made = any(part in ast.unparse(call) for part in ("O_CREAT", "O_WRONLY", "O_RDWR"))
        modes = [mode for mode in constants if isinstance(mode, str) and set(mode) <= set("rwxabt+U")]
        return made or any(set(mode) & set("wxa+") for mode in modes)
    if name in ("replace", "rename"):  # of a path; a text's takes two, a record's is a function of its own
        return whose == "os" or (whose != "" and len(call.args) == 1 and not call.keywords)
    return name in WRITES and (name not in OWN or whose in MODULES)


def test_what_writes_a_file_goes_by_whole_file_or_is_named_here_with_the_reason():
    found = {
        (path.relative_to(ROOT).as_posix(), function)
        for path in SOURCES
        for function, _ in writes(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set(ALLOWED), "a new write goes by whole_file; one that is gone leaves the list"


@pytest.mark.parametrize(
    ("call", "is_one"),
    [
        ("path.write_text(told)", True),
        ("path.open('w', encoding='utf-8')", True),
        ("open(path, mode='ab')", True),
        ("os.open(path, os.O_WRONLY | os.O_CREAT)", True),
        ("partial.replace(path)", True),
        ("os.replace(partial, path)", True),
        ("made.rename(path)", True),
        ("zipfile.ZipFile(target, 'w')", True),
        ("torch.save(state, path)", True),
        ("model.network.save_pretrained(folder)", True),
        ("path.open('rb')", False),
        ("open(path)", False),
        ("zipfile.ZipFile(file)", False),
        ("text.replace('a', 'b')", False),
        ("replace(settings, steps=3)", False),
        ("store.save(result)", False),
        ("room.connect()", False),
    ],
)
def test_a_write_is_known_from_what_only_looks_like_one(call, is_one):
    assert bool(list(writes(ast.parse(f"def work():\n    {call}")))) is is_one


def test_a_function_that_goes_by_whole_file_is_no_exception():
    assert not list(
        writes(ast.parse("def work():\n    with replacing(path) as partial:\n        save_file({}, partial)"))
    )
