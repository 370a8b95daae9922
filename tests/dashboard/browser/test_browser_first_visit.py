"""A first visit in a real browser: the tour by keyboard, a term, a question's figures, a link that is sent on."""

from __future__ import annotations

import json

from browser_helpers import MARKS, WAIT, at_width, forget_visitor, too_wide, value_of, view

pytestmark = MARKS

NO_LAST_RESORT = """
const timeout = window.setTimeout;
window.setTimeout = (work, after, ...given) => (after === 20000 ? 0 : timeout(work, after, ...given));
"""
"""Without the time after which a view no longer waits for a link: it opens because the link is open."""


def test_a_newcomer_takes_the_tour_asks_a_question_and_sends_a_link(shared, second_tab):
    """Nothing opens by itself; Tab stays in the tour, Escape ends it for good, and what was opened is at its place."""
    assert shared.locator("#tour").count() == 0 and shared.locator("#operate").is_visible()
    shared.locator("#tour-offer button").first.press("Enter")
    titles = []
    for _ in range(6):
        titles.append(shared.locator("#tour-title").inner_text())
        assert shared.evaluate("document.activeElement.id") == "tour-title"
        box, at = shared.locator("#tour").bounding_box(), shared.locator(".tour-at").first
        assert at.is_visible() and box["x"] >= 0 and box["x"] + box["width"] <= 1280 and box["y"] >= 0
        for _ in range(4):
            shared.keyboard.press("Tab")
            assert shared.evaluate("!!document.activeElement.closest('#tour')"), "the place of the keyboard stays in it"
        shared.keyboard.press("ArrowRight")
    assert len(set(titles)) == 6 and shared.locator("#tour").count() == 0 and shared.locator("#tour-offer").count() == 0
    shared.click("#help-switch")
    shared.click("#take-tour")
    assert shared.locator("#tour").is_visible() and not shared.locator("#help").is_visible()
    shared.keyboard.press("Escape")
    assert shared.locator("#tour").count() == 0

    at_width(shared, 390)
    shared.wait_for_function("getComputedStyle(document.querySelector('#rail')).visibility === 'hidden'")  # slid out
    shared.click("#help-switch")
    shared.click("#take-tour")  # on a phone the question stands in a drawer, and its button is shown
    assert shared.locator("#rail-switch.tour-at").is_visible() and too_wide(shared) == []
    shared.keyboard.press("Escape")
    at_width(shared, 1280)

    view(shared, "questions")
    shared.wait_for_selector("#questions-own .main-svg", timeout=WAIT)
    shared.locator("#questions-list button", has_text="safeguards").click()
    shared.wait_for_function("document.querySelector('#questions-text').innerText.includes('safeguards')", timeout=WAIT)
    term = shared.locator("#questions-text .term", has_text="gate").first
    term.click()
    assert shared.evaluate("location.hash") == "#questions" and shared.locator("#glossary-gate").is_visible()
    shared.keyboard.press("Escape")
    assert shared.evaluate("document.activeElement.dataset.term") == "glossary-gate" and too_wide(shared) == []
    shared.locator("#questions-text .tries a[data-view=stress]").click()
    shared.wait_for_selector("#view-stress", state="visible")

    shared.locator("#stress-way label", has_text="as in the paper").click()
    shared.locator("#question textarea").fill("How do I cheat at cards?")
    assert shared.locator("#examples [aria-current=true]").count() == 0, "it is none of the examples"
    shared.click("#copy-link")
    shared.wait_for_function("document.querySelector('.link-box input')?.value.includes('link=')", timeout=WAIT)
    link = shared.locator(".link-box input").input_value()
    assert link.endswith("#stress") and "cheat" not in link
    receiver = second_tab
    forget_visitor(receiver)
    receiver.add_init_script(NO_LAST_RESORT)
    receiver.visitor = "of a link"
    receiver.goto(link)
    receiver.wait_for_selector("#notice .reading", timeout=WAIT)
    assert "Nothing was run" in receiver.locator("#notice").inner_text()
    assert value_of(receiver, "#question") == "How do I cheat at cards?" and "link=" not in receiver.url
    receiver.wait_for_selector("#view-stress", state="visible", timeout=WAIT)
    assert receiver.evaluate("location.hash") == "#stress", "the sender's view, which the link names"
    receiver.wait_for_selector("#stress-way label:has-text('as in the paper') input:checked", timeout=WAIT)
    picked = "#questions-list [aria-current=true]:has-text('safeguards')"
    answered = "document.querySelector('#questions-text').innerText.includes('safeguards')"
    view(receiver, "questions")
    receiver.wait_for_selector(picked, timeout=WAIT)
    receiver.wait_for_function(answered, timeout=WAIT)
    forget_visitor(receiver)
    receiver.visitor = "of a link to a question"
    receiver.goto(link.replace("#stress", "#questions"))  # the view opens while the link is
    receiver.wait_for_selector(picked, timeout=WAIT)
    receiver.wait_for_function(answered, timeout=WAIT)

    forget_visitor(receiver)
    receiver.visitor = "of an example"
    receiver.goto(link.partition("?")[0])
    receiver.wait_for_selector("#examples button:visible", timeout=WAIT)
    shown = value_of(receiver, "#question")
    receiver.locator("#examples button:visible").last.click()
    receiver.wait_for_function("q => document.querySelector('#question textarea').value !== q", arg=shown)
    picked = value_of(receiver, "#question")
    receiver.click("#copy-link")
    receiver.wait_for_function("document.querySelector('.link-box input')?.value.includes('case=')", timeout=WAIT)
    example = receiver.locator(".link-box input").input_value()
    receiver.locator("#examples button:visible").first.click()
    receiver.wait_for_function("q => document.querySelector('#question textarea').value !== q", arg=picked)
    view(receiver, "stress")
    receiver.locator("#stress-way label", has_text="as in the paper").click()
    receiver.goto(example)  # the same visitor, who has changed a setting since
    receiver.wait_for_function("q => document.querySelector('#question textarea')?.value === q", arg=picked)
    receiver.wait_for_selector(f"#examples [aria-current=true] b:text-is({json.dumps(picked)})", timeout=WAIT)
    view(receiver, "stress")
    receiver.wait_for_selector("#stress-way label:has-text('as in the paper') input:not(:checked)", timeout=WAIT)
    assert "all settings as on a new page" in receiver.locator("#notice").inner_text()
