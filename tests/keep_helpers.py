"""What the tests of Keep share: a page without an example, and what a visitor does there."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from dashboard_helpers import BRIEF, Page, Visitor, tiny_model

from dashboard.example.make import Example
from dashboard.house import House
from dashboard.kit.sessions.visitors import Sessions
from dashboard.lighter import LighterBlocks
from dashboard.steps.keep.kept import Kept
from inspector.model import Decoding

STRICT = {**BRIEF, "allowed_harmless_kl": 0}
"""Any edit that changes anything is refused."""


def page_of(folder: Path, **options: Any) -> Page:
    """Build a page that shows no example."""
    model = tiny_model()
    with LighterBlocks(analytics_enabled=False) as app:
        example = Example(model, Decoding(max_new_tokens=8), folder, wanted=False)
        house = House(model, Sessions(), example, options.pop("read_only", False), **options)
        house.build()
        house.connect_to(app)
    return Page(app, house)


def edit(visitor: Visitor, **changes: Any) -> str:
    """Make an edit and return its patch's name."""
    visitor.do("on_edit", **{**BRIEF, **changes})
    return visitor.session.live.patch.identifier


def rows(visitor: Visitor) -> list[Any]:
    """Return the visitor's rows in the ledger."""
    room = visitor.page.house.rooms["keep"]
    return room.desk.ledger.entries(visitor.session.slot(Kept).visit)


def written(visitor: Visitor, kind: str = "patch", **typed: Any) -> Path:
    """Write the live edit and return the zip that can be downloaded."""
    visitor.do(f"on_write_{kind}", **typed)
    return Path(visitor.session.slot(Kept).saved["merged model" if kind == "model" else kind].path)


def unpacked(file: Path, folder: Path) -> Path:
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    return folder


def taken_in(visitor: Visitor, *files: Path, **changes: Any) -> None:
    """Bring copies of files in, as a browser does."""
    visitor.do("on_take_in", **{**BRIEF, **changes}, upload=[str(file) for file in files])


def copied(file: Path, target: Path) -> Path:
    target.write_bytes(file.read_bytes())
    return target
