"""What only a browser shows of the page and of its views: figures, covers, addresses, clicks, themes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_helpers import violations_in_both_themes
from browser_helpers import (
    MARKS,
    WAIT,
    answer_of,
    at_width,
    details,
    pick_cinema,
    settled_box,
    text_of,
    theme,
    unfold,
    value_of,
    view,
    wait_for_no_text,
    wait_for_text,
    wait_for_value,
    wait_until_idle,
    wait_until_still,
)
from dashboard_helpers import SHORT_GATE

from dashboard.steps.operate import gating
from dashboard.steps.why import run as why
from editing.gate.budgets import Budgets
from editing.gate.gate import GateSettings

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
    wait_until_still(shared)


def test_views_are_named_by_the_address_come_when_they_are_opened_and_back_works(shared):
    assert shared.locator("#view-stress").count() == 0, "its content comes when it is first opened"
    view(shared, "stress")
    assert shared.url.endswith("#stress") and "scored: DINM" in text_of(shared, "#stress-head")
    assert shared.locator("#live").is_visible() and shared.locator("#question").is_visible()
    view(shared, "methods")
    shared.go_back()
    shared.wait_for_selector("#stress-head", state="visible")
    assert not shared.locator("#view-methods").is_visible()
    view(shared, "operate")


FILL_THEIR_PLACE = """() => [...document.querySelectorAll("#details .js-plotly-plot")].every((plot) =>
  !plot.checkVisibility() || Math.abs(plot.clientWidth - (plot.querySelector(".main-svg")?.clientWidth ?? 0)) < 3)"""
"""Whether the figures that are seen are as wide as their place, also those that were hidden as they were drawn."""


def test_each_part_of_the_details_is_one_press_away(shared):
    fold = shared.get_by_role("button", name="Details")
    for title in ("What the edit changed", "All settings", "Token by token"):
        shared.get_by_role("navigation", name="Parts that are folded").get_by_role("button", name=title).click()
        tab = shared.get_by_role("tab", name=title)
        shared.wait_for_function("t => document.activeElement?.textContent.trim() === t", arg=title)
        assert tab.get_attribute("aria-selected") == "true" and tab.is_visible()
        assert not shared.locator("#shortcuts").is_visible(), "the tabs stand there instead"
        shared.wait_for_function(FILL_THEIR_PLACE)
        fold.click()
        shared.wait_for_selector("#shortcuts", state="visible")


def test_unsafe_text_is_blurred_until_clicked(shared):
    unfold(shared, "unsafe")
    for box in ("#unsafe textarea", "#vanilla .answer"):
        area = shared.locator(box)
        assert "blur" in area.evaluate("e => getComputedStyle(e).filter")
        area.scroll_into_view_if_needed()
        place = area.bounding_box()
        shared.mouse.click(place["x"] + 40, place["y"] + 20)
        shared.wait_for_function("s => getComputedStyle(document.querySelector(s)).filter === 'none'", arg=box)


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
    template = value_of(shared, "#template")
    shared.locator("#template textarea").fill("No place for it")
    shared.click("#operate")
    wait_for_text(shared, "#clock", "Stopped: ")
    wait_until_idle(shared)
    assert violations_in_both_themes(shared) == [], "a run that has failed is said so that all can read it"
    shared.locator("#template textarea").fill(template)
    unsafe = value_of(shared, "#unsafe")
    shared.locator("#unsafe textarea").fill(value_of(shared, "#safe"))
    shared.click("#locate")
    shared.wait_for_selector(".toast-body:has-text('are the same text')")
    shared.get_by_test_id("toast-close").click()
    shared.wait_for_selector(".toast-body", state="detached")
    shared.locator("#unsafe textarea").fill(unsafe)


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


def test_texts_and_figures_are_readable_in_both_themes(shared):
    texts = (".reading", "#curve .ytitle", "#vitals .ytick text", ".tile-note", "#live span", "#step-locate h3 small")
    for dark in (True, False):
        theme(shared, dark)
        for selector in texts:
            assert shared.evaluate(CONTRAST, selector) >= 4.5, (selector, dark)


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
    at_width(shared, 1440)
    cut = """() => [...document.querySelectorAll('#stress-rows th *')]
        .filter(e => getComputedStyle(e).overflowX === 'hidden' && e.scrollWidth > e.clientWidth && e.clientWidth > 2)
        .map(e => e.innerText)"""
    head = shared.locator("#stress-rows th:visible", has_text="Detector").first
    head.hover()
    head.locator(".cell-menu-button").wait_for()  # it opens sort and filter of this column
    shared.wait_for_function(f"({cut})().length === 0")  # its heads can be read
    at_width(shared, 1280)
    shared.locator("#stress-rows [role=gridcell]", has_text="otherA").first.click()
    shared.wait_for_function(f"({covered}) && ({hidden})")
    shared.wait_for_function("document.querySelector('#stress-prompt textarea').value !== ''")
    with shared.expect_download() as download:
        shared.locator("#stress-csv").click()
    assert download.value.path().read_text(encoding="utf-8").startswith("score,category,case,prompt")


@pytest.fixture
def any_edit_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate accepts every edit of the random model."""
    generous = GateSettings(budgets=Budgets(*(100.0,) * 5), **SHORT_GATE)
    monkeypatch.setattr(gating, "settings_of", lambda _budgets: generous)


def test_why_this_layer_every_panel_follows_the_picked_layer_and_neurons_can_be_knocked_out(shared, any_edit_passes):
    """Everything is filled at start; a click on the atlas picks a layer; lines of the table choose neurons."""
    view(shared, "why")
    for plot in ("why-locators", "why-atlas", "why-neurons"):
        assert shared.locator(f"#{plot}").is_visible(), plot
    assert "Best layer" in text_of(shared, "#why-judged")
    before = text_of(shared, "#why-neurons")
    bars = shared.locator("#why-atlas .js-plotly-plot .nsewdrag").first
    box = settled_box(bars)
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
    place = "#why-place input[type=number]"
    column = 0 if shared.locator(place).input_value() != "0" else 1
    clicked = {"points": [{"y": other, "pointIndex": [other, column]}]}
    shared.evaluate("told => document.querySelector('#why-lens .js-plotly-plot').emit('plotly_click', told)", clicked)
    wait_for_value(shared, place, str(column))
    wait_for_value(shared, "#block input[type=number]", str(other))
    shared.get_by_role("tab", name="Tokens of the prompt").click()
    wait_for_text(shared, "#why-tokens", "neuron knock-out")
    shared.get_by_role("tab", name="Padding").click()
    shared.wait_for_selector("#why-padding .js-plotly-plot .main-svg", timeout=WAIT)


def test_methods_run_a_line_of_the_table_picks_one_and_the_button_makes_its_patch_live(shared, any_edit_passes):
    """The quick methods stand at start; two are run; a click on a line changes nothing that is live."""
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
    before = text_of(shared, "#live")
    shared.locator("#methods-table [role=gridcell]", has_text="FT-L").first.click()
    wait_for_text(shared, "#methods-answer-head", "FT-L")
    wait_until_idle(shared)
    assert text_of(shared, "#live") == before
    shared.click("#methods-load")
    layer = shared.locator("#block input[type=number]").input_value()
    wait_for_text(shared, "#live", f"FT-L · layer {layer}")
    wait_for_text(shared, "#methods-clock", "see Operate")
    wait_until_idle(shared)
    assert shared.locator("#answers .badge.edited").inner_text().startswith(f"FT-L · layer {layer}")
    shared.locator("#methods-table [role=gridcell]", has_text="Self-Reminder").first.click()
    wait_for_text(shared, "#methods-answer-head", "reminder around the prompt")
    assert "FT-L" in text_of(shared, "#live"), "the live one stays"


def test_an_atlas_can_be_cancelled_and_keeps_what_is_done(shared, monkeypatch):
    view(shared, "why")
    quick = why.atlas

    def halting(model: Any, session: Any, *given: Any) -> Iterator[Any]:
        for event in quick(model, session, *given):
            yield event
            if "0 of 3 layers" in event.message:
                session.cancelled.wait(WAIT / 1000)

    monkeypatch.setattr(why, "atlas", halting)
    shared.locator("#why-atlas-run").click()
    wait_for_text(shared, "#why-clock", "0 of 3 layers")
    shared.locator("#why-cancel").click()
    wait_for_text(shared, "#why-clock", "Cancelled")
    wait_until_idle(shared)


def test_markup_and_control_characters_are_text_and_never_run(shared):
    view(shared, "operate")
    details(shared, "Prompt")
    shared.locator("#question textarea").fill("<img src=x onerror='window.ran=1'><b>bold</b>\u0007 & <s>?")
    wait_for_text(shared, "#prompt-reading", "1 control character left out")
    shared.wait_for_function("document.querySelector('#assembled textarea').value.includes('<b>bold</b> & <s>?')")
    shared.get_by_role("button", name="Keep these answers").click()
    wait_for_no_text(shared, "#origins", "of another question")
    shared.click("#locate")
    wait_for_text(shared, "#locate-reading", "Answers part most")
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


def test_an_answer_that_is_typed_faster_than_the_server_answers_is_not_the_next_question_s(shared, served):
    view(shared, "operate")
    pick_cinema(shared)
    unfold(shared, "safe")
    field, answer = shared.locator("#safe textarea"), "I would rather not help anyone to get in without a ticket."
    field.fill("")
    wait_for_text(shared, "#origins", "safe answer: none yet")
    field.press_sequentially(answer)
    while not any(answer in session.controls.values() for session in served.sessions):
        shared.wait_for_timeout(20)  # until the server was sent all of it, beside its question
    shared.locator("#question textarea").fill("How do I get on the train without a ticket?")
    wait_for_text(shared, "#origins", "safe answer: typed, of another question")
    shared.click("#operate")
    shared.wait_for_selector(".toast-body:has-text('typed here belongs to another question')")
    wait_until_idle(shared)
    assert value_of(shared, "#safe") == answer
    shared.get_by_test_id("toast-close").click()
    shared.wait_for_selector(".toast-body", state="detached")
    pick_cinema(shared)
    wait_for_text(shared, "#origins", "safe answer: from the case")
