"""The main job in a real browser: prompt, locate, edit, compare, undo; and what only a browser shows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from browser_helpers import (
    MARKS,
    WAIT,
    answer_of,
    details,
    let_pass,
    pick_cinema,
    set_steps,
    text_of,
    unfold,
    value_of,
    view,
    wait_for_answers,
    wait_for_no_text,
    wait_for_text,
    wait_for_value,
    wait_until_idle,
)

from dashboard.steps.why import run as why
from editing import descent

pytestmark = MARKS


UNDERLINE = """selector => { const mark = document.createElement('mark');
  document.querySelector(selector + ' .answer').append(mark); const { textDecorationStyle, textDecorationLine } =
  getComputedStyle(mark); mark.remove(); return textDecorationLine === 'none' ? 'none' : textDecorationStyle; }"""


def test_a_new_visitor_sees_a_finished_example_and_no_empty_box(shared):
    for plot in ("curve", "vitals", "divergence-figure", "shift-figure"):
        shared.wait_for_selector(f"#{plot} .js-plotly-plot .main-svg")
    assert "live weights: DINM" in text_of(shared, "#live")
    assert "toxic layer" in text_of(shared, "#curve")
    assert answer_of(shared, "#vanilla") and answer_of(shared, "#edited")
    assert shared.locator("#vanilla mark, #edited mark").count(), "what differs is marked"
    styles = [shared.evaluate(UNDERLINE, f"#{name}") for name in ("vanilla", "edited")]
    assert styles[0] != styles[1] and "none" not in styles, "marked without colour, too"
    assert shared.locator("#cancel").is_disabled(), "nothing runs, so nothing can be cancelled"
    assert shared.locator("header.mast").count() == 1, "the heading that stands at once has given way"


def test_unsafe_text_is_blurred_until_clicked(shared):
    unfold(shared, "unsafe")
    for box in ("#unsafe textarea", "#vanilla .answer"):
        area = shared.locator(box)
        assert "blur" in area.evaluate("e => getComputedStyle(e).filter")
        area.scroll_into_view_if_needed()
        place = area.bounding_box()
        shared.mouse.click(place["x"] + 40, place["y"] + 20)
        shared.wait_for_function("s => getComputedStyle(document.querySelector(s)).filter === 'none'", arg=box)


def test_the_whole_main_job_prompt_locate_edit_compare_undo(page):
    first = re.search(r"layer (\d+)", text_of(page, "#live")).group(1)
    pick_cinema(page)
    wait_for_text(page, "#locate-reading", "Press Locate")

    page.click("#locate")
    wait_for_text(page, "#locate-reading", "the answers part most at layer")
    toxic = re.search(r"at layer (\d+)", text_of(page, "#locate-reading")).group(1)
    wait_for_value(page, "#block input[type=number]", toxic)

    bar = page.locator("#curve .bars .point path").nth(1).bounding_box()
    page.mouse.click(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] - 2)
    wait_for_value(page, "#block input[type=number]", "1")
    wait_for_text(page, "#curve", "picked")

    details(page, "All settings")
    set_steps(page, 16)
    let_pass(page)
    page.click("#edit")
    wait_for_text(page, "#clock", "of at most 16")
    page.wait_for_function(
        "() => document.querySelector('#edit').disabled && !document.querySelector('#cancel').disabled", timeout=WAIT
    )
    wait_for_text(page, "#live", "layer 1")
    wait_until_idle(page)
    wait_for_text(page, "#clock", "Ended after")
    tile = page.locator("#numbers .tile", has_text="probability of the safe answer").inner_text()
    before, after = map(float, re.search(r"([\d.]+) → ([\d.]+)", tile).groups())
    assert after > before
    wait_for_answers(page, same=False)
    assert page.locator("#answers .badge.edited").inner_text().startswith("DINM · layer 1 · strength 1 · patch ")
    assert page.locator("#answers .badge.vanilla").first.inner_text() == "vanilla"

    slider = page.locator("#strength input[type=number]")
    slider.fill("0")
    slider.press("Enter")
    slider.blur()
    wait_for_text(page, "#live", "vanilla")
    wait_for_answers(page, same=True)
    wait_until_idle(page)

    page.click("#undo")
    wait_for_text(page, "#live", f"layer {first}")
    wait_until_idle(page)
    page.click("#undo")
    wait_for_text(page, "#live", "vanilla")
    wait_until_idle(page)
    wait_for_text(page, "#undo", "Nothing to undo")
    assert page.locator("#undo").is_disabled()
    page.wait_for_selector("#shift-figure", state="hidden")  # measurements of a dropped edit must not stay on screen


BAD_INPUT = [
    ("#question", "", "The question is empty"),
    ("#template", "No place for it", "has no {question} slot"),
    ("#template", "{question} " + "word " * 20_000, "this model reads at most 8,192"),
]


def test_bad_input_says_what_to_do_and_nothing_is_lost(shared):
    for part in ("template", "safe", "unsafe"):
        unfold(shared, part)
    for box, text, said in BAD_INPUT:
        live, shown, before = text_of(shared, "#live"), answer_of(shared, "#edited"), value_of(shared, box)
        shared.locator(f"{box} textarea").fill(text)
        wait_for_text(shared, "#prompt-reading", said)
        shared.click("#locate")
        shared.wait_for_selector(f".toast-body:has-text('{said}')")
        assert (text_of(shared, "#live"), answer_of(shared, "#edited"), value_of(shared, box)) == (live, shown, text)
        shared.locator(f"{box} textarea").fill(before)
    wait_for_no_text(shared, "#prompt-reading", said)
    unsafe = value_of(shared, "#unsafe")
    shared.locator("#unsafe textarea").fill(value_of(shared, "#safe"))
    shared.click("#locate")
    shared.wait_for_selector(".toast-body:has-text('are the same text')")
    shared.locator("#unsafe textarea").fill(unsafe)


def test_the_operation_fits_one_screen_and_one_press_does_it(page):
    page.set_viewport_size({"width": 1440, "height": 900})
    page.wait_for_timeout(800)
    for part in ("#question", "#curve", "#vitals", "#gate", "#operate", "#strength", "#numbers", "#vanilla", "#edited"):
        box = page.locator(part).bounding_box()
        assert box is not None and box["y"] + box["height"] <= 900, part
    for part in ("#shift-figure", "#divergence-figure"):
        box = page.locator(part).bounding_box()
        assert box is not None and box["y"] + box["height"] <= 900, part
    before = text_of(page, "#live")
    details(page, "All settings")
    let_pass(page)
    pick_cinema(page)
    page.click("#operate")
    page.wait_for_function("() => document.querySelector('#operate').disabled", timeout=WAIT)
    wait_until_idle(page)
    wait_for_text(page, "#clock", "Ended after")
    page.wait_for_function("() => document.querySelectorAll('#answers .badge.verdict').length === 2", timeout=WAIT)
    assert text_of(page, "#live") != before


def test_views_are_named_by_the_address_come_when_they_are_opened_and_back_works(page):
    assert page.locator("#view-stress").count() == 0, "its content comes when it is first opened"
    view(page, "stress")
    assert page.url.endswith("#stress") and "scored: DINM" in text_of(page, "#stress-head")
    assert page.locator("#live").is_visible() and page.locator("#question").is_visible()
    view(page, "methods")
    page.go_back()
    page.wait_for_selector("#stress-head", state="visible")
    assert not page.locator("#view-methods").is_visible()
    page.reload()
    page.wait_for_selector("#stress-head", state="visible")


CONTRAST = """selector => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const element = document.querySelector(selector);
  const style = getComputedStyle(element);
  const ink = parse(element.namespaceURI.endsWith('svg') ? style.fill : style.color);
  let paper = [255, 255, 255];
  for (let e = element; e; e = e.parentElement) {
    const back = parse(getComputedStyle(e).backgroundColor);
    if (back.length === 3 || back[3] > 0.9) { paper = back; break; }
  }
  const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_and_figures_are_readable_in_both_themes(shared, dark):
    if dark:
        shared.click("#theme-switch")
    for selector in (
        ".reading",
        "#curve .ytitle",
        "#vitals .ytick text",
        ".tile-note",
        "#live span",
        "#step-locate h3 small",
    ):
        assert shared.evaluate(CONTRAST, selector) >= 4.5, selector


@pytest.mark.parametrize("width", [390, 1280, 1440, 1920])
def test_the_page_fits_its_width(shared, width):
    shared.set_viewport_size({"width": width, "height": 900})
    shared.wait_for_timeout(800)
    assert shared.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    for plot in ("curve", "vitals", "shift-figure"):
        inner = shared.locator(f"#{plot} .main-svg").first.bounding_box()
        outer = shared.locator(f"#{plot}").bounding_box()
        assert inner["width"] <= outer["width"] + 1, plot


def test_the_stress_test_streams_its_scores_lists_every_answer_and_hands_them_out(shared):
    """Scores of the example at start; a run of the case's own prompts; a line's answer, blurred anew; a download."""
    view(shared, "stress")
    assert "scored: DINM" in text_of(shared, "#stress-head") and "refusal rules" in text_of(shared, "#stress-head")
    assert "transfer" in text_of(shared, "#stress-table")
    shared.locator("#view-stress").get_by_text("This case", exact=True).click()
    shared.locator("#stress").click()
    wait_for_text(shared, "#stress-clock", "answered by both weights")
    wait_for_text(shared, "#stress-clock", "5 prompts, each answered")
    wait_for_no_text(shared, "#stress-table", "transfer")
    assert "DG-Avg" in text_of(shared, "#stress-table")
    covered = "getComputedStyle(document.querySelector('#stress-edited .answer')).filter !== 'none'"
    hidden = "document.querySelector('#stress-edited .answer').getAttribute('aria-hidden') === 'true'"
    shared.locator("#stress-edited .answer").click()
    shared.wait_for_function(f"!({covered}) && !({hidden})")  # a reader's voice is not left out
    shared.locator("#stress-rows [role=gridcell]", has_text="otherA").first.click()
    shared.wait_for_function(f"({covered}) && ({hidden})")
    shared.wait_for_function("document.querySelector('#stress-prompt textarea').value !== ''")
    with shared.expect_download() as download:
        shared.locator("#stress-csv").click()
    assert download.value.path().read_text(encoding="utf-8").startswith("score,category,case,prompt")


def test_why_this_layer_every_panel_follows_the_picked_layer_and_neurons_can_be_knocked_out(shared):
    """Everything is filled at start; a click on the atlas picks a layer; lines of the table choose neurons."""
    view(shared, "why")
    for plot in ("why-locators", "why-atlas", "why-neurons"):
        assert shared.locator(f"#{plot}").is_visible(), plot
    assert "Best layer" in text_of(shared, "#why-judged")
    before = text_of(shared, "#why-neurons")
    bars = shared.locator("#why-atlas .js-plotly-plot .nsewdrag").first
    bars.scroll_into_view_if_needed()
    box = bars.bounding_box()
    other = 0 if shared.locator("#block input[type=number]").input_value() != "0" else 2
    shared.mouse.click(box["x"] + box["width"] * (other + 0.5) / 3, box["y"] + box["height"] - 3)
    wait_for_text(shared, "#view-why", f"Layer {other}:")
    wait_for_value(shared, "#block input[type=number]", str(other))
    shared.wait_for_function("told => document.querySelector('#why-neurons').innerText !== told", arg=before)
    rows = shared.locator("#why-neurons [role=row]", has=shared.locator("[role=gridcell]")).all()[:12]
    pushing = next(r for r in rows if float(r.locator("[role=gridcell]").nth(1).inner_text()) > 0)
    pushing.locator("[role=gridcell]").first.click()
    shared.wait_for_function("() => document.querySelector('#why-selected textarea, #why-selected input').value !== ''")
    shared.locator("#why-knock").click()
    wait_for_text(shared, "#live", "neuron knock-out")
    wait_until_idle(shared)
    wait_for_text(shared, "#why-edits", "neuron knock-out (live)")
    shared.get_by_role("tab", name="Logit lens").click()
    shared.wait_for_selector("#why-lens .js-plotly-plot .main-svg", timeout=WAIT)
    shared.get_by_role("tab", name="Tokens of the prompt").click()
    wait_for_text(shared, "#why-tokens", "neuron knock-out")
    shared.get_by_role("tab", name="Padding").click()
    shared.wait_for_selector("#why-padding .js-plotly-plot .main-svg", timeout=WAIT)


def test_methods_run_and_a_line_of_the_table_loads_its_patch(shared):
    """The quick methods stand at start; two are run; a click on a line makes its patch live, a reminder has none."""
    view(shared, "methods")
    for plot in ("methods-plane", "methods-shifts", "methods-source", "methods-neurons"):
        shared.locator(f"#{plot}").scroll_into_view_if_needed()
        shared.wait_for_selector(f"#{plot} .js-plotly-plot .main-svg")
    assert "SFT" in text_of(shared, "#methods-table")
    for title in ("DINM", "SFT", "DPO", "MEND", "Ext-Sub", "DELMAN"):
        shared.locator("#methods-chosen").get_by_label(title, exact=True).uncheck()
    shared.locator("#methods").click()
    wait_for_text(shared, "#methods-clock", "Ended: 2 methods")
    wait_for_no_text(shared, "#methods-table", "SFT")
    shared.locator("#methods-table [role=gridcell]", has_text="FT-L").first.click()
    layer = shared.locator("#block input[type=number]").input_value()
    wait_for_text(shared, "#live", f"FT-L · layer {layer}")
    wait_for_text(shared, "#methods-clock", "see Operate")
    wait_until_idle(shared)
    assert shared.locator("#answers .badge.edited").inner_text().startswith(f"FT-L · layer {layer}")
    shared.locator("#methods-table [role=gridcell]", has_text="Self-Reminder").first.click()
    wait_for_text(shared, "#methods-answer-head", "reminder around the prompt")
    assert "FT-L" in text_of(shared, "#live"), "no patch, so the live one stays"


def test_an_atlas_can_be_cancelled_and_keeps_what_is_done(shared, monkeypatch):
    view(shared, "why")
    quick = why.atlas

    def slow(*arguments: Any) -> Iterator[Any]:
        for event in quick(*arguments):
            time.sleep(0.5)
            yield event

    monkeypatch.setattr(why, "atlas", slow)
    shared.locator("#why-atlas-run").click()
    wait_for_text(shared, "#why-clock", "0 of 3 layers")
    shared.locator("#why-cancel").click()
    wait_for_text(shared, "#why-clock", "Cancelled")
    wait_until_idle(shared)


def test_cancel_ends_an_edit_and_leaves_the_live_one(shared, monkeypatch):
    decide = descent.stop_reason

    def slowly(*values):
        time.sleep(0.2)  # else the tiny model may have made its steps before a hand reaches Cancel
        return decide(*values)

    monkeypatch.setattr(descent, "stop_reason", slowly)
    before = text_of(shared, "#live")
    view(shared, "operate")
    details(shared, "All settings")
    set_steps(shared, 100)
    for limit in ("Target P(safe)", "Damage budget"):  # nothing but Cancel may end it
        shared.get_by_label(limit).fill("0")
        shared.get_by_label(limit).press("Tab")
    shared.evaluate(
        """() => { const button = document.querySelector('#cancel'); window.labels = [];
        new MutationObserver(() => window.labels.push(document.querySelector('#cancel').innerText.trim())).observe(
            button.parentElement, {childList: true, subtree: true, characterData: true}); }"""
    )
    shared.click("#edit")
    wait_for_text(shared, "#clock", "of at most 100")
    shared.click("#cancel")
    wait_for_text(shared, "#clock", "it was cancelled; nothing was changed")
    wait_until_idle(shared)
    wait_for_text(shared, "#cancel", "Nothing runs")
    assert "Stopping" in shared.evaluate("window.labels"), "the press is answered at once, by the browser"
    assert text_of(shared, "#live") == before


def test_markup_and_control_characters_are_text_and_never_run(shared):
    view(shared, "operate")
    details(shared, "Prompt")
    shared.locator("#question textarea").fill("<img src=x onerror='window.ran=1'><b>bold</b>\u0007 & <s>?")
    wait_for_text(shared, "#prompt-reading", "1 control character left out")
    shared.wait_for_function("document.querySelector('#assembled textarea').value.includes('<b>bold</b> & <s>?')")
    shared.get_by_role("button", name="Keep these answers").click()
    wait_for_no_text(shared, "#origins", "of another question")
    shared.click("#locate")
    wait_for_text(shared, "#locate-reading", "the answers part most")
    assert shared.evaluate("window.ran") is None
    assert shared.locator("#prompt-reading b, #step-locate img").count() == 0


def test_a_report_opens_without_a_network_keeps_covered_what_is_unsafe_and_gives_its_numbers(shared, tmp_path):
    view(shared, "operate")
    shared.locator("#curve .numbers > summary").click()
    for kind in ("csv", "svg", "png"):
        with shared.expect_download() as download:
            shared.locator("#curve .taken button", has_text=kind.upper()).click()
        assert download.value.suggested_filename == f"distance-of-the-answers.{kind}"
        download.value.save_as(tmp_path / f"curve.{kind}")
    lines = (tmp_path / "curve.csv").read_text(encoding="utf-8-sig").split("\n")
    assert lines[0].strip() == "layer,L2 distance" and len(lines[1].strip()) > len("0,0.1234"), "numbers are whole"
    assert (tmp_path / "curve.svg").read_text(encoding="utf-8").startswith("<svg")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    view(shared, "keep")
    shared.click("#report-make")
    wait_for_text(shared, "#report-state", "Written at")
    with shared.expect_download() as download:
        shared.locator("#report-html").click()
    download.value.save_as(tmp_path / "report.html")
    reader = shared.context.browser.new_context(offline=True).new_page()
    reader.set_default_timeout(WAIT)
    asked, problems = [], []
    reader.on("request", lambda sent: asked.append(sent.url))
    reader.on("pageerror", lambda error: problems.append(str(error)))
    reader.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    reader.goto(f"file://{tmp_path / 'report.html'}")
    count = reader.locator("figure").count()
    reader.wait_for_function("count => document.querySelectorAll('figure > .numbers').length === count", arg=count)
    assert count >= 15 and reader.locator("figure .main-svg").count() >= count
    reader.evaluate("document.querySelectorAll('.numbers').forEach(numbers => { numbers.open = true; })")
    filled = "[...document.querySelectorAll('.numbers')].every(e => e.querySelector('tbody td')?.textContent)"
    reader.wait_for_function(filled)
    cover = reader.locator(".pane.unsafe .answer")
    assert "blur" in cover.evaluate("e => getComputedStyle(e).filter")
    cover.click()
    assert cover.evaluate("e => getComputedStyle(e).filter") == "none"
    reader.emulate_media(media="print")
    assert not cover.is_visible() and not reader.locator(".numbers").first.is_visible()
    assert asked == [f"file://{tmp_path / 'report.html'}"] and problems == []
    reader.context.close()
