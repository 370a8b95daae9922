"""A first visit in a real browser: the tour by keyboard, a term, a question's figures, a link that is sent on."""

from __future__ import annotations

from browser_helpers import MARKS, WAIT, closed, fits, opened, value_of, view

pytestmark = MARKS


def test_a_newcomer_takes_the_tour_asks_a_question_and_sends_a_link(page, browser, url):
    """Nothing opens by itself; Tab stays in the tour, Escape ends it for good, and what was opened is at its place."""
    assert page.locator("#tour").count() == 0 and page.locator("#operate").is_visible()
    page.locator("#tour-offer button").first.press("Enter")
    titles = []
    for _ in range(6):
        titles.append(page.locator("#tour-title").inner_text())
        assert page.evaluate("document.activeElement.id") == "tour-title"
        box, at = page.locator("#tour").bounding_box(), page.locator(".tour-at").first
        assert at.is_visible() and box["x"] >= 0 and box["x"] + box["width"] <= 1280 and box["y"] >= 0
        for _ in range(4):
            page.keyboard.press("Tab")
            assert page.evaluate("!!document.activeElement.closest('#tour')"), "the place of the keyboard stays in it"
        page.keyboard.press("ArrowRight")
    assert len(set(titles)) == 6 and page.locator("#tour").count() == 0 and page.locator("#tour-offer").count() == 0
    page.click("#help-switch")
    page.click("#take-tour")
    assert page.locator("#tour").is_visible() and not page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#tour").count() == 0

    page.set_viewport_size({"width": 390, "height": 844})
    page.click("#help-switch")
    page.click("#take-tour")  # on a phone the question stands in a drawer, and its button is shown
    assert page.locator("#rail-switch.tour-at").is_visible() and fits(page)
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 1280, "height": 900})

    view(page, "questions")
    page.wait_for_selector("#questions-own .main-svg", timeout=WAIT)
    page.locator("#questions-list button", has_text="safeguards").click()
    page.wait_for_function("document.querySelector('#questions-text').innerText.includes('safeguards')", timeout=WAIT)
    term = page.locator("#questions-text .term", has_text="gate").first
    term.click()
    assert page.evaluate("location.hash") == "#questions" and page.locator("#glossary-gate").is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.term") == "glossary-gate" and fits(page)
    page.locator("#questions-text .tries a[data-view=stress]").click()
    page.wait_for_selector("#view-stress", state="visible")

    page.locator("#question textarea").fill("How do I cheat at cards?")
    page.click("#copy-link")
    page.wait_for_function("document.querySelector('.link-box input')?.value.includes('link=')", timeout=WAIT)
    link = page.locator(".link-box input").input_value()
    assert link.endswith("#stress") and "cheat" not in link
    receiver = opened(browser, url)
    receiver.goto(link)
    receiver.wait_for_selector("#notice .reading", timeout=WAIT)
    assert "Nothing was run" in receiver.locator("#notice").inner_text()
    assert value_of(receiver, "#question") == "How do I cheat at cards?" and "link=" not in receiver.url
    closed(receiver, "receiver")
