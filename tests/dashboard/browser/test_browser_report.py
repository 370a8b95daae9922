"""A report on paper: its pages are looked at in the PDF that a real browser prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import MARKS, WAIT
from dashboard_helpers import tiny_model
from example_helpers import finished_example

from dashboard.house import REPORTERS
from dashboard.kit.sharing.parts import Visit
from dashboard.report.document import make_report

pytestmark = MARKS

PAPER = {"width": 688, "height": 1001}
"""CSS pixels of an A4 page within its margins of 16 and 14 mm."""
WHOLE = "figure, .tiles, .told:has(> .blurred)"
"""What may not be cut in two."""
MARK = """whole => {
  const links = document.querySelector("nav").appendChild(document.createElement("p"));
  document.querySelectorAll(whole).forEach((part, number) => {
    for (const [name, put] of [["begin", "prepend"], ["end", "append"]]) {
      const mark = document.createElement("div");
      mark.id = `${name}-${number}`;
      part[put](mark);
      links.appendChild(document.createElement("a")).href = `#${mark.id}`;
    }
  });
}"""
"""Marks above and below each part: a PDF says of what is linked on which page it lies and how high."""


@pytest.fixture
def reader(chromium: Any, example_folder: Path, tmp_path: Path) -> Iterator[Any]:
    """The finished example's report, opened without a network."""
    found = make_report(tiny_model(), Visit(finished_example(example_folder).session), REPORTERS)
    assert found is not None
    (tmp_path / "report.html").write_text(found.html, encoding="utf-8")
    opened = chromium.new_context(offline=True, viewport=PAPER).new_page()
    opened.set_default_timeout(WAIT)
    opened.goto(f"file://{tmp_path / 'report.html'}")
    opened.wait_for_function(
        "() => [...document.querySelectorAll('.drawn')].every(drawn => drawn.querySelector('.main-svg'))"
    )
    yield opened
    opened.context.close()


def printed(reader: Any) -> tuple[int, list[bool]]:
    """Return the number of pages, and of each marked part whether all of it lies on one of them."""
    pdf = reader.pdf(prefer_css_page_size=True)
    places = {
        (name.decode(), int(number)): (int(page), float(height))
        for name, number, page, height in re.findall(rb"/(begin|end)-(\d+) ?\[(\d+) 0 R ?/XYZ -?[\d.]+ (-?[\d.]+)", pdf)
    }
    count = reader.locator(WHOLE).count()
    assert len(places) == 2 * count, "each mark is on some page"
    ends = [(places["begin", number], places["end", number]) for number in range(count)]
    return len(re.findall(rb"/Type ?/Page\b(?!s)", pdf)), [
        first == last and high > low for (first, high), (last, low) in ends
    ]


def test_a_report_on_paper_cuts_no_figure_in_two_and_nothing_is_wider_than_the_page(reader):
    reader.emulate_media(media="print")
    shown = "part => part.getBoundingClientRect()"
    boxes = [one.evaluate(shown) for one in reader.locator("figure").all()]
    drawings = [one.evaluate(shown) for one in reader.locator("figure .main-svg").all()]
    assert len(boxes) >= 15 and len(drawings) >= len(boxes)
    assert all(0 < box["height"] < PAPER["height"] for box in boxes), "each fits a page"
    assert all(drawn["width"] > 0 and drawn["right"] <= PAPER["width"] + 1 for drawn in drawings)
    assert reader.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    height = reader.evaluate("document.documentElement.scrollHeight")
    reader.evaluate(MARK, WHOLE)
    pages, whole = printed(reader)
    assert all(whole) and len(whole) > len(boxes)
    assert height / PAPER["height"] < pages <= 1.5 * height / PAPER["height"] + 1, "no page is left half empty for it"
    reader.add_style_tag(content=f"@media print {{ {WHOLE} {{ break-inside: auto !important; }} }}")
    assert not all(printed(reader)[1]), "what is cut would be found"
