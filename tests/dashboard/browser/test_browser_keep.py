"""Keep in a real browser: an edit is saved, the page reloaded, the file brought back in, two edits compared."""

from __future__ import annotations

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


def test_an_edit_is_saved_brought_back_after_a_reload_and_compared(page, tmp_path):
    view(page, "keep")
    page.click("#keep-patch")
    page.wait_for_selector("#keep-patch-file", timeout=WAIT)
    assert "no logit differs" in text_of(page, "#keep-patch-line")
    with page.expect_download() as download:
        page.click("#keep-patch-file")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    first = file.stem.rpartition("-")[2]
    assert first in text_of(page, "#keep-this")

    view(page, "operate")
    details(page, "All settings")
    let_pass(page)
    set_steps(page, 1)
    page.evaluate("document.querySelector('#edit').click()")
    wait_for_text(page, "#keep-rows", "under Undo")
    wait_until_idle(page)
    page.reload()
    view(page, "keep")
    wait_for_text(page, "#keep-rows", "under Undo")
    assert first not in text_of(page, "#keep-this"), "the second edit is still the live one"

    page.locator("#keep-upload input[type=file]").set_input_files(file)
    page.wait_for_selector("#keep-upload .file-preview", timeout=WAIT)
    page.click("#keep-take-in")
    wait_for_text(page, "#keep-clock", "is live")
    wait_until_idle(page)
    assert first in text_of(page, "#keep-this") and text_of(page, "#keep-rows").count("DINM") == 2

    page.click("#keep-ask")
    wait_for_text(page, "#keep-clock", "Live is still")
    heads = [text_of(page, f"#beside-answers .column:nth-child({place})") for place in (1, 2, 3)]
    assert "vanilla" in heads[0] and "A: " in heads[1] and "B: " in heads[2]
    for pane in ("vanilla", "a", "b"):
        blurred = page.locator(f"#beside-{pane}.blurred, #beside-{pane} .blurred").count() > 0
        safe = " safe " in f" {' '.join(heads[('vanilla', 'a', 'b').index(pane)].split())} "
        assert blurred is not safe, "what is not judged safe is covered"
