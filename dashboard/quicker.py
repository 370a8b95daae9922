"""Imports Gradio without what only developers of Gradio's own components need."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

WRITER, WRITES = "gradio.component_meta", "create_or_modify_pyi"
"""The module and function that parse the source of every component at import and write a type stub beside it."""


class _NoStubs(MetaPathFinder):
    """Lets the one module be found as always, and takes the writer of stubs out of it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != WRITER:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if hasattr(module, WRITES):
                    setattr(module, WRITES, _write_nothing)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _write_nothing(*_arguments: Any) -> None:
    """Stand in for the writer: the package's folder stays as it was installed."""


def import_without_stubs() -> None:
    """Let the next import of Gradio write no type stubs; without effect once it is imported."""
    if WRITER not in sys.modules and not any(isinstance(finder, _NoStubs) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoStubs())
