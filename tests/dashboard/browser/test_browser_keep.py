"""Keep in a real browser: an edit is saved, the page reloaded, the file brought back in, two edits compared."""

from __future__ import annotations

import csv

from browser_helpers import (
    MARKS,
    WAIT,
    details,
    let_pass,
    set_steps,
    text_of,
    view,
    wait_for_text,
    wait_until_idle,
)

pytestmark = MARKS


def test_an_edit_is_saved_brought_back_after_a_reload_and_compared(shared, tmp_path):
    view(shared, "keep")
    boxes = [shared.locator(f"#keep-{form}").bounding_box() for form in ("patch", "adapter", "model")]
    places = [box["y"] for box in boxes if box is not None]
    assert len(places) == 3 and max(places) - min(places) < 1, "the three buttons stand in a row"
    shared.click("#keep-patch")
    shared.wait_for_selector("#keep-patch-file", timeout=WAIT)
    assert "no logit differs" in text_of(shared, "#keep-patch-line")
    with shared.expect_download() as download:
        shared.click("#keep-patch-file")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    first = file.stem.rpartition("-")[2]
    assert first in text_of(shared, "#keep-this")

    shared.locator("#tour-offer button").last.click()  # no tour, thank you
    view(shared, "operate")
    details(shared, "All settings")
    let_pass(shared)
    set_steps(shared, 1)
    shared.evaluate("document.querySelector('#edit').click()")
    wait_for_text(shared, "#keep-rows", "under Undo")
    wait_until_idle(shared)
    shared.reload()
    view(shared, "keep")
    wait_for_text(shared, "#keep-rows", "under Undo")
    assert first not in text_of(shared, "#keep-this"), "the second edit is still the live one"
    assert shared.locator("#tour-offer").count() == 0, "a tour that was declined is not offered again"

    shared.locator("#keep-upload input[type=file]").set_input_files(file)
    shared.wait_for_selector("#keep-upload .file-preview", timeout=WAIT)
    shared.click("#keep-take-in")
    wait_for_text(shared, "#keep-clock", "is live")
    wait_until_idle(shared)
    assert first in text_of(shared, "#keep-this") and text_of(shared, "#keep-rows").count("DINM") == 2

    shared.click("#keep-ask")
    wait_for_text(shared, "#keep-clock", "Live is still")
    heads = [text_of(shared, f"#beside-answers .column:nth-child({place})") for place in (1, 2, 3)]
    assert "vanilla" in heads[0] and "A: " in heads[1] and "B: " in heads[2]
    for pane in ("vanilla", "a", "b"):
        blurred = shared.locator(f"#beside-{pane}.blurred, #beside-{pane} .blurred").count() > 0
        safe = " safe " in f" {' '.join(heads[('vanilla', 'a', 'b').index(pane)].split())} "
        assert blurred is not safe, "what is not judged safe is covered"

    with shared.expect_download() as download:
        shared.click("#keep-beside-csv")
    download.value.save_as(tmp_path / "compared.csv")
    with (tmp_path / "compared.csv").open(encoding="utf-8", newline="") as table:
        compared = list(csv.DictReader(table))
    assert download.value.suggested_filename == "side-by-side.csv" and first in compared[1]["weights"]
    assert [line["row"] for line in compared] == ["vanilla", "A", "B"] and all(line["verdict"] for line in compared)
    for pane, line in zip(("vanilla", "a", "b"), compared, strict=True):
        shown = shared.locator(f"#beside-{pane} .answer").text_content()
        assert " ".join(shown.split()) in (" ".join(line["answer"].split()), " ".join(line["answer"][1:].split()))
