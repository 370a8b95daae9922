"""Gradio's scripts and styles as they are installed, and which of them a page needs first.

Nothing but the standard library is imported here, and Gradio is only looked for: the waiting page lets browsers fetch
what the dashboard will need while Gradio is still being imported.

The scripts were bundled by Vite. Whatever a script imports later stands in it as ``import(`./NAME`)``, with numbers of
what has to be there before that, which count a table at the script's head. So what a browser would find out step by
step can be read at once.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

BELOW = "/assets/"
"""Addresses of scripts and styles begin so; their names hold a hash of what is in them, so a browser may keep them."""
KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
KEEP = "public, max-age=31536000, immutable"
PARTS = (
    *("accordion", "button", "checkbox", "column", "dropdown", "form", "html", "plot", "radio", "row", "slider"),
    *("state", "textbox", "timer"),
)
"""Kinds of components that a browser fetches at once: of all parts of the first view that are not hidden by
themselves."""
FIGURES = "PlotlyPlot-*.js"
"""The script that draws figures; its name holds a hash."""
AT_ONCE = b"//# allFunctionsCalledOnLoad\n"
"""At the head of a script: lets Chromium compile all of it beside the page's own work, while it comes in, and not each
function, which holds the page up, when it is first called. Other browsers read a comment."""

CLOCKS = "statustracker-"
"""The script that counts the seconds of what is under way; its name goes on with a hash."""
SEEN = b"?.checkVisibility({opacityProperty:true})&&"
"""What a clock is asked before it counts on."""

_START = re.compile(r'<script [^>]*src="\./assets/([\w.-]+)"')
_TABLE = re.compile(r"m\.f=\[([^\]]*)\]")
_LATER = re.compile(r"import\(`\./([\w.-]+)`\)[^`]*?__vite__mapDeps\(\[([\d,]*)\]\)")
_COUNTING = re.compile(
    rb"(function ([\w$]+)\(\)\{[\w$]+\(\(\)=>\{[\w$]+\([\w$]+,\(performance\.now\(\)-[\w$]+\([\w$]+\)\)/1e3\),[\w$]+&&)"
    rb"(?=\2\(\)\}\)\})"
)
_CLOCK = re.compile(
    rb"([\w$]+)&&[\w$]+\(\)&&\([\w$]+\.status===`pending`\|\|[\w$]+\.status===`complete`\)&&[\w$]+\(\1,"
)
_PART = r"\b{}:\{{[^}}]*?component:\(\)=>\w+\(\(\)=>"


def folder_of_scripts() -> Path:
    """Return the folder in which Gradio has them; Gradio is not imported for that."""
    spec = find_spec("gradio")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "templates" / "frontend" / "assets"


def content_of(path: Path) -> bytes:
    """Return what browsers get of a script or a style."""
    content = path.read_bytes()
    if path.name.startswith(CLOCKS):
        content = _stopped_when_gone(content)
    return AT_ONCE + content if path.suffix == ".js" else content


def _stopped_when_gone(content: bytes) -> bytes:
    """Let a clock count only while it is seen; the script as it is where that is of another form.

    Every part that an event may change has a clock, seen or not. That of the line which is there before the page never
    hears that its wait is over, and would ask for a picture sixty times a second for as long as the page is open: a
    tenth of a processor.
    """
    clock = _CLOCK.search(content)
    return content if clock is None else _COUNTING.sub(rb"\1" + clock[1] + SEEN, content)


def needed_first(folder: Path | None = None) -> tuple[str, ...]:
    """Return the names of what a browser needs for the first view, as far as the scripts say.

    Args:
        folder: Where they are; Gradio's by default.

    Returns:
        Scripts and styles; none where they are of another form than this can read: a browser then finds out itself.
    """
    folder = folder or folder_of_scripts()
    try:
        return tuple(name for name in dict.fromkeys(_named(folder)) if (folder / name).is_file())
    except (OSError, LookupError, UnicodeError):  # a script is not there, or names what its table does not have
        return ()


def _named(folder: Path) -> list[str]:
    start = _START.search((folder.parent / "index.html").read_text(encoding="utf-8"))
    if start is None:
        return []
    shell = _read(folder, start[1])
    found = [start[1], *_all_of(shell)]
    for name in shell:
        text, later = _text(folder, name), _read(folder, name)
        wanted = [chunk for chunk in later if chunk.startswith("Blocks-")]
        for kind in PARTS:
            part = re.search(_PART.format(kind) + _LATER.pattern, text)
            wanted += [part[1]] if part else []
        found += _all_of({chunk: later[chunk] for chunk in wanted})
    return found + [path.name for path in folder.glob(FIGURES)]


def _all_of(later: dict[str, list[str]]) -> list[str]:
    return [name for chunk, before in later.items() for name in (chunk, *before)]


def _read(folder: Path, script: str) -> dict[str, list[str]]:
    """Return what a script imports later, each with what has to be there before it."""
    text = _text(folder, script)
    table = _TABLE.search(text)
    names = re.findall(r"\./([\w.-]+)", table[1]) if table else []
    return {chunk: [names[int(one)] for one in numbers.split(",") if one] for chunk, numbers in _LATER.findall(text)}


def _text(folder: Path, script: str) -> str:
    return (folder / script).read_text(encoding="utf-8")
