"""The files that a report's figures give, out of a file and without a network."""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import made_up
import numpy as np
import pytest
from browser_helpers import MARKS, WAIT
from dashboard_helpers import tiny_model

from dashboard.kit.sessions.session import Session
from dashboard.kit.sharing.parts import Visit
from dashboard.report.document import make_report
from dashboard.steps.locate.figures import divergence_heatmap
from dashboard.steps.locate.report import parts
from dashboard.steps.locate.run import LocatedCase

pytestmark = MARKS

MEASURED = made_up.divergence()
CURVE, HEATMAP = "Distance of the answers", "How far the answers are apart, by layer and token"


@pytest.fixture(scope="module")
def reader(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A report of a curve and a heatmap."""
    session = Session()
    session.slot(LocatedCase).divergence = MEASURED
    found = make_report(tiny_model(), Visit(session), [parts])
    assert found is not None
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(found.html, encoding="utf-8")
    opened = chromium.new_context(offline=True).new_page()
    opened.set_default_timeout(WAIT)
    opened.goto(f"file://{path}")
    opened.wait_for_function("document.querySelectorAll('figure > .numbers').length === 2")
    opened.evaluate("document.querySelectorAll('.numbers').forEach(numbers => { numbers.open = true; })")
    yield opened
    opened.context.close()


def taken(reader: Any, title: str, kind: str, folder: Path) -> Path:
    """Press one of the buttons of a figure and return the file that comes."""
    with reader.expect_download() as download:
        reader.locator(f'figure[data-title="{title}"] .taken button', has_text=kind.upper()).dispatch_event("click")
    download.value.save_as(folder / download.value.suggested_filename)
    return folder / download.value.suggested_filename


def lines_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def test_a_curve_gives_its_numbers_whole(reader, tmp_path):
    file = taken(reader, CURVE, "csv", tmp_path)
    assert file.name == "distance-of-the-answers.csv"
    head, *lines = lines_of(file)
    assert head[:2] == ["layer", "L2 distance"] and [line[0] for line in lines] == ["0", "1", "2", "3"]
    assert [float(line[1]) for line in lines] == MEASURED.l2.tolist(), "every digit"


def test_a_heatmap_gives_a_line_a_row_and_a_column_a_token(reader, tmp_path):
    file = taken(reader, HEATMAP, "csv", tmp_path)
    assert file.name == "how-far-the-answers-are-apart-by-layer-and-token.csv"
    head, *lines = lines_of(file)
    figure = divergence_heatmap(MEASURED)
    over = figure.layout.xaxis.title.text
    assert head[0] == "layer" and over and all(name.startswith(f"{over}: ") for name in head[1:])
    drawn = np.array(figure.data[0].z, dtype=np.float64)
    assert len(lines) == len(drawn) and {len(line) for line in lines} == {len(head)} == {drawn.shape[1] + 1}
    read = np.array([[float(cell.split()[-1]) for cell in line[1:]] for line in lines])
    assert np.allclose(read, drawn, rtol=1e-6)


@pytest.mark.parametrize("title", [CURVE, HEATMAP])
def test_a_figure_gives_its_drawing_and_a_picture_of_twice_as_many_points(reader, tmp_path, title):
    drawing = ElementTree.fromstring(taken(reader, title, "svg", tmp_path).read_text(encoding="utf-8"))
    width, height = float(drawing.attrib["width"]), float(drawing.attrib["height"])
    assert drawing.tag.endswith("svg") and width > 100 and height > 100
    assert "layer" in "".join(drawing.itertext()), "its axes are named"
    picture = taken(reader, title, "png", tmp_path).read_bytes()
    assert picture.startswith(b"\x89PNG") and picture.endswith(b"IEND\xaeB`\x82")
    assert struct.unpack(">II", picture[16:24]) == (2 * width, 2 * height)
