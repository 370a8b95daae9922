"""What the browser tests ask axe-core: whether it is there, and what it finds on a page as that is now."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import theme

from inspector.model.embedded import cache_root

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "fetch_axe.sh"
COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules that a theme can break by itself."""
OPEN_ALL = (
    """.view.view.view.view.view.view { display: flex !important; } #details .tabitem { display: flex !important; }"""
)
"""A style that shows all views that were opened, and all of the details, one below the other."""
ASK = """async rules => {
  const still = document.createElement('style');
  // A colour on its way is no colour to judge, and what a figure draws is left out: it is taken out meanwhile, as axe
  // would look through all of it to leave it out, half of a page's elements.
  still.textContent = '* { transition: none !important; } .main-svg { display: none !important; }';
  const drawings = [...document.querySelectorAll('.main-svg')].map(drawing => [drawing, [...drawing.childNodes]]);
  for (const [drawing] of drawings) drawing.replaceChildren();
  document.head.append(still);
  try {
    const found = await axe.run({include: ['body'], exclude: ['.main-svg']}, {
      resultTypes: ['violations'], ...(rules ? {runOnly: {type: 'rule', values: rules}} : {})});
    return found.violations.flatMap(v => v.nodes.map(
      n => [v.id, ...n.target, (n.any[0] ?? n.all[0] ?? n.none[0])?.message].join(': ')));
  } finally {
    still.remove();
    for (const [drawing, parts] of drawings) drawing.append(...parts);
  }
}"""
NONE_THERE = "no axe-core in the cache (sh scripts/fetch_axe.sh fetches it)"
ALL_BUT_AXE = f"all but what axe finds was checked, and holds: {NONE_THERE}"
_LEFT_OUT: list[str] = []
"""Addresses of the pages that axe should have looked at in the test that runs, and was not there for."""


@cache
def axe_core() -> str | None:
    """Return axe-core's text, whose checksum must be the script's; ``None`` where it is not there."""
    script = SCRIPT.read_text(encoding="utf-8")
    version, wanted = (re.search(rf"^{name}=(\S+)$", script, re.MULTILINE).group(1) for name in ("version", "file_sum"))
    path = cache_root() / f"axe-{version}.min.js"
    if not path.is_file():
        return None
    text = path.read_bytes()
    assert sha256(text).hexdigest() == wanted, f"{path} is not the axe-core that was meant; delete it"
    return text.decode("utf-8")


def violations(page: Any, rules: list[str] | None = None) -> list[str]:
    """Return what axe finds on the page as it is now, one line a place; figures are images to it.

    Nothing without axe-core: the test goes on, and is skipped at its end, see :func:`told_if_left_out`.

    Args:
        page: The page.
        rules: All of axe's rules by default.
    """
    core = axe_core()
    if core is None:
        _LEFT_OUT.append(page.url)
        return []
    if page.evaluate("typeof axe === 'undefined'"):
        page.evaluate(core)
    return list(page.evaluate(ASK, rules))


def violations_in_both_themes(page: Any) -> list[str]:
    """Return what axe finds in the theme that is on, and of colours in the other one."""
    found, dark = violations(page), page.evaluate("document.body.classList.contains('dark')")
    theme(page, not dark)
    found += violations(page, COLOURS)
    theme(page, dark)
    return found


@contextmanager
def told_if_left_out() -> Iterator[None]:
    """Skip a test at its end if axe should have looked at something and was not there: it has not passed then.

    All else is checked before, and a test that fails has failed.
    """
    _LEFT_OUT.clear()
    yield
    if _LEFT_OUT:
        _LEFT_OUT.clear()
        pytest.skip(ALL_BUT_AXE)
