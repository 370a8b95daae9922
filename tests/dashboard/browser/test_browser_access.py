"""What a page must be for everyone: covers, names and numbers of figures, keyboard, phone, themes, nothing for axe."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import unescape
from typing import Any

import pytest
from axe_helpers import NONE_THERE, OPEN_ALL, axe_core, violations_in_both_themes
from browser_helpers import (
    MARKS,
    NO_HEAD_IS_CUT,
    VIEWS,
    answer_of,
    at_width,
    details,
    pick_cinema,
    theme,
    too_wide,
    unfold,
    value_of,
    view,
)

from dashboard.example.make import CASE
from inspector.safeedit import bundled_cases

pytestmark = MARKS

HIDDEN = """s => { const e = document.querySelector(s);
  return [getComputedStyle(e).filter !== 'none', e.getAttribute('aria-hidden') === 'true']; }"""
NUMBERS = """async () => { const found = {};
  const read = values => Array.from(values?._inputArray ?? values ?? []);  // plotly's own, of numbers in binary
  const count = values => values.filter(v => v != null).length;
  for (const frame of document.querySelectorAll('.block:has(> .numbers)')) {
    if (!frame.checkVisibility({visibilityProperty: true})) continue;
    const plot = frame.querySelector('.js-plotly-plot'), numbers = frame.querySelector('.numbers');
    const head = numbers.firstElementChild, box = numbers.lastElementChild;
    const turned = () => new Promise(done => numbers.addEventListener('toggle', done, {once: true}));
    head.focus();
    const reached = document.activeElement === head, open = turned();
    head.click();
    await open;
    found[frame.id] = {name: plot.getAttribute('aria-label'), role: plot.getAttribute('role'), reached,
      drawn: plot.data.reduce((sum, t) => sum + (t.z ? read(t.z).flatMap(read).length : count(read(t.y ?? t.x))), 0),
      listed: [...frame.querySelectorAll('.numbers tbody td')].filter(cell => cell.textContent).length,
      plain: [...frame.querySelectorAll('.numbers thead th')].filter(cell => !cell.querySelector('button.term'))
        .filter(cell => cell.scope !== 'col' || !plot.data.some(t => t.z)).map(cell => cell.textContent),
      columns: !plot.data.some(t => t.z) ? []
        : [...frame.querySelectorAll('.numbers tr:last-child > th[scope=col]')].slice(1).map(cell => cell.textContent),
      box: box.clientHeight, head: frame.querySelector('.numbers thead')?.innerText};
    const closed = turned();
    document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true}));
    await Promise.race([closed, new Promise(done => setTimeout(done, 2000))]);
    found[frame.id].closed = !box.checkVisibility() && document.activeElement === head;
  }
  return found; }"""


DRAWN = {"keep": "#keep-rows", "models": "#models-compare"}
"""What shows that a view is there, where it is no figure."""


def open_all(page) -> None:
    """Open whatever the page can show: the folded parts of the case, each of the details, and the views."""
    view(page, "operate")
    for part in ("template", "safe", "unsafe", "suffix"):
        unfold(page, part)
    details(page, "Token by token")
    for tab in page.locator("#details [role=tab]").all():
        tab.click()
    for name in VIEWS[1:]:
        view(page, name)
        page.wait_for_selector(DRAWN.get(name, f"#view-{name} .js-plotly-plot .main-svg"))


def test_a_cover_belongs_to_its_text_hides_it_from_readers_and_from_the_keyboard(shared):
    unfold(shared, "unsafe")
    area = shared.locator("#unsafe textarea")
    assert shared.evaluate(HIDDEN, "#unsafe textarea") == [True, True] and area.evaluate("e => e.inert")
    first = value_of(shared, "#unsafe")
    shared.locator("#unsafe").focus()
    assert "is covered" in shared.locator("#unsafe").get_attribute("aria-label")
    shared.keyboard.type("typed")
    assert value_of(shared, "#unsafe") == first, "what is covered cannot be edited"
    shared.keyboard.press("Enter")
    shared.wait_for_function("getComputedStyle(document.querySelector('#unsafe textarea')).filter === 'none'")
    assert shared.evaluate(HIDDEN, "#unsafe textarea") == [False, False]
    shared.keyboard.press("End")
    shared.keyboard.type("!")
    assert len(value_of(shared, "#unsafe")) == len(first) + 1, "what is shown can be edited, and stays shown meanwhile"
    pick_cinema(shared)
    shared.wait_for_function("t => !document.querySelector('#unsafe textarea').value.startsWith(t)", arg=first)
    shared.wait_for_function("getComputedStyle(document.querySelector('#unsafe textarea')).filter !== 'none'")
    assert shared.evaluate(HIDDEN, "#unsafe textarea") == [True, True], "another text is covered anew"
    assert answer_of(shared, "#vanilla") and shared.evaluate(HIDDEN, "#vanilla .answer") == [True, True]


@dataclass
class Walk:
    """What was found on a walk through the whole page.

    Attributes:
        figures: By element's name, what a figure draws and what its table lists.
        axe: What axe finds in both themes; ``None`` without axe.
        unnamed: Figures without a name.
        twice: Ids that are used more than once.
    """

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    axe: list[str] | None = None
    unnamed: int = 0
    twice: list[str] = field(default_factory=list)


@pytest.fixture
def walk(shared) -> Walk:
    """Look at everything once, all of it open: all of axe's rules in the light theme, those of colours in both."""
    if not hasattr(shared, "walk"):
        shared.walk = walked(shared)
    return shared.walk


def walked(shared) -> Walk:
    """Open everything, look at it, and close it again."""
    found = Walk()
    open_all(shared)
    style = shared.add_style_tag(content=OPEN_ALL)
    found.figures = shared.evaluate(NUMBERS)
    found.unnamed = shared.locator(".js-plotly-plot:not([aria-label])").count()
    if axe_core() is not None:
        found.axe = violations_in_both_themes(shared)
    found.twice = shared.evaluate(
        """() => { const ids = [...document.querySelectorAll('[id]')].filter(e => !e.closest('svg')).map(e => e.id);
        return ids.filter((id, place) => id && !id.startsWith('plotly.js') && ids.indexOf(id) !== place); }"""
    )
    style.evaluate("element => element.remove()")
    view(shared, "operate")
    return found


def test_every_figure_has_a_name_and_a_table_of_its_numbers(walk):
    for name, found in walk.figures.items():
        assert found["role"] == "img" and len(found["name"]) > 12, name
        assert found["reached"] and found["closed"], f"{name}: the keyboard opens the table, Escape closes it"
        assert found["drawn"] <= found["listed"] and found["box"] <= 900, (name, found)
        assert found["plain"] == [], f"{name}: every head opens the glossary but a map's names of columns"
    assert len({found["name"] for found in walk.figures.values()}) == len(walk.figures) >= 14, sorted(walk.figures)
    assert walk.unnamed == 0
    assert "safe answer" in walk.figures["vitals"]["head"] and "L2 distance" in walk.figures["curve"]["head"]


def test_a_map_s_columns_spell_the_safe_answer_and_never_the_one_that_is_covered(walk):
    heads = walk.figures["heatmap"]["columns"]
    read = "".join(head.partition(": ")[2] for head in heads).replace("␣", "")
    assert len(read) > 20 and "".join(bundled_cases()[CASE].safe.split()).startswith(read)


COLUMNS = "() => [...document.querySelector('#why-lens .js-plotly-plot').data[0].x]"


def test_the_lens_spells_the_safe_answer_and_never_the_one_that_is_covered(walk, shared):
    view(shared, "why")
    why = shared.locator("#view-why")
    why.get_by_role("tab", name="Logit lens").click()
    case = bundled_cases()[CASE]
    for weights in ("edited", "vanilla"):
        why.get_by_role("radio", name=weights, exact=True).check()
        why.get_by_role("radio", name="unsafe answer", exact=True).check()
        shared.wait_for_function(f"({COLUMNS})().some(name => name.endsWith(': token 1'))")
        counted = [name.partition(": ")[2] for name in shared.evaluate(COLUMNS)]
        begins = counted.index("token 1")
        assert counted[begins:] == [f"token {number}" for number in range(1, len(counted) - begins + 1)]
        why.get_by_role("radio", name="safe answer", exact=True).check()
        shared.wait_for_function(f"!({COLUMNS})().some(name => name.endsWith(': token 1'))")
        spelt = [unescape(name).partition(": ")[2] for name in shared.evaluate(COLUMNS)]
        read = "".join(spelt[begins:]).replace("␣", "")
        assert len(read) > 10 and "".join(case.safe.split()).startswith(read)
    view(shared, "operate")


def test_the_table_of_a_figure_opens_and_closes_by_the_keyboard(walk, shared):
    numbers = shared.locator("#curve > .numbers")
    numbers.locator("summary").press("Enter")
    assert numbers.locator("table").is_visible()
    numbers.locator("thead .term", has_text="L2 distance").press("Enter")
    assert shared.locator("#glossary-divergence").is_visible(), "a head opens the glossary"
    shared.keyboard.press("Escape")
    assert shared.evaluate("document.activeElement.dataset.term") == "glossary-divergence", "and Escape goes back to it"
    numbers.locator("summary").press("Escape")
    assert not numbers.locator("div").first.is_visible()


def test_no_element_s_name_is_used_twice_once_all_is_open(walk):
    assert walk.twice == []


def test_axe_finds_nothing_on_any_view_in_either_theme(walk):
    if walk.axe is None:
        pytest.skip(NONE_THERE)
    assert walk.axe == []


def test_every_view_fits_every_screen_and_begins_at_its_top(shared):
    """Each view at four widths, at two of them in either theme; on a phone the case stands in the drawer."""
    for place, name in enumerate((*VIEWS[1:], VIEWS[0])):
        at_width(shared, 1920)
        shared.evaluate("window.scrollTo(0, 600)")
        view(shared, name)
        assert shared.evaluate("window.scrollY") == 0, "a view begins at its top"
        for step, width in enumerate((1920, 1440, 1280, 390)):
            at_width(shared, width)
            theme(shared, (place + step // 2) % 2 == 0)
            assert too_wide(shared) == [], (name, width)
            shared.wait_for_function(NO_HEAD_IS_CUT)
        shared.wait_for_selector("#question", state="hidden")  # on a phone it stands in the drawer, which slides shut
        assert "__theme=light" in shared.url, "what else the address says stays, and with it the patterns of bars"
    theme(shared, False)


def test_on_a_phone_the_case_is_a_drawer(shared):
    at_width(shared, 390)
    view(shared, "operate")
    shared.locator("#rail-switch").press("Enter")
    shared.wait_for_function("document.querySelector('#rail').getBoundingClientRect().left >= 0")
    assert shared.locator("#question").is_visible() and too_wide(shared) == []
    assert shared.locator("#rail-switch").get_attribute("aria-expanded") == "true"
    shared.locator("#question textarea").focus()
    shared.keyboard.press("Escape")
    shared.wait_for_selector("#question", state="hidden")
    assert shared.evaluate("document.activeElement.id") == "rail-switch"
    small = shared.evaluate(
        """() => [...document.querySelectorAll('button, a, summary')]
            .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.closest('#skip, .term'))
            .map(e => [e.id || e.innerText.trim() || e.outerHTML, e.getBoundingClientRect()])
            .filter(([, box]) => box.height > 1 && Math.min(box.width, box.height) < 24)
            .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""
    )
    assert small == [], "what one taps is at least 24 px each way, but for words within a line (WCAG 2.5.8)"
    at_width(shared, 1280)


def test_on_a_phone_the_head_stays_low_and_the_keyboard_brings_every_view_into_its_row(shared):
    view(shared, "operate")
    at_width(shared, 390)
    shared.evaluate("window.scrollTo(0, 600)")
    head = shared.locator("#top").bounding_box()
    assert head["y"] == 0 and head["height"] <= 130
    inside = """e => { const row = e.closest('.links').getBoundingClientRect(), box = e.getBoundingClientRect();
        return box.left >= row.left - 1 && box.right <= row.right + 1; }"""
    shared.locator("nav.views a").first.focus()
    for name in VIEWS:
        link = shared.locator(f"nav.views a[data-view={name}]")
        assert shared.evaluate("document.activeElement.dataset.view") == name and link.evaluate(inside), name
        shared.keyboard.press("Tab")
    for name in ("copy-link", "theme-switch", "help-switch"):
        box = shared.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, name
    assert too_wide(shared) == []
    view(shared, VIEWS[-1])
    shared.wait_for_function(f"({inside})(document.querySelector('nav.views a[aria-current]'))")
    view(shared, "operate")
    at_width(shared, 1280)


def test_the_keyboard_reaches_views_case_and_examples_and_shows_where_it_is(shared):
    view(shared, "operate")
    assert shared.evaluate("document.querySelector('a[href], button, input, textarea').id") == "skip"
    shared.locator("#skip").focus()
    shared.keyboard.press("Tab")
    shared.keyboard.press("Shift+Tab")
    order = []
    for _ in range(16 + len(VIEWS)):
        place = shared.evaluate(
            """() => { const e = document.activeElement;
            return [e.id || e.dataset.view || e.closest('[id]')?.id, getComputedStyle(e).outlineStyle !== 'none']; }"""
        )
        order.append(place)
        shared.keyboard.press("Tab")
    names = [name for name, _ in order]
    assert names[: 2 + len(VIEWS)] == ["skip", "model-switch", *VIEWS], "what is seen first is reached first"
    assert "template-name" in names[4 + len(VIEWS) :]
    assert [name for name, shown in order if not shown] == [], "the place of the keyboard is visible"
    shared.get_by_label("Search the examples").fill("")
    shared.get_by_label("Search the examples").focus()
    shared.keyboard.press("ArrowDown")
    shared.keyboard.press("ArrowDown")
    assert shared.evaluate("document.activeElement.dataset.number") == "1"
    assert shared.locator("#examples [data-number][tabindex='0']").count() == 1, "the list is one stop of the Tab key"


def test_what_only_the_page_s_script_presses_is_reached_by_nobody_else_and_still_opens(shared):
    reached = """() => [...document.querySelectorAll('.opener')].map(e => { e.focus();
        return [e.id, e.checkVisibility(), document.activeElement === e]; })"""
    openers = shared.evaluate(reached)
    assert {f"open-{name}" for name in VIEWS[1:]} | {"open-details", "make-link"} <= {name for name, _, _ in openers}
    assert [name for name, seen, focused in openers if seen or focused] == []
    for name in VIEWS[1:]:
        assert shared.get_by_role("button", name=f"Open {name}", exact=True).count() == 0
    view(shared, VIEWS[1])
    view(shared, "operate")
