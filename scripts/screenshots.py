"""Take the screenshots in ``assets/screenshots`` from running pages, light and dark; what it does not make goes.

python app.py --port 7861 &
python app.py --port 7862 --no-example &
python app.py --port 7863 --no-example --model A --model B &
python -m scripts.screenshots http://127.0.0.1:7861 http://127.0.0.1:7862 http://127.0.0.1:7863

Without the third page, the view of two models is that of the first one, which says how a second model is listed.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image, ImageColor
from playwright.sync_api import Browser, Page, sync_playwright

from dashboard.house import DETAILS, VIEWS
from dashboard.kit.drawing.plots import EDITED, PICKED, RECOMMENDED, SAFE, UNSAFE, VANILLA
from dashboard.steps.compare.texts import EVERYWHERE

HEIGHT = 900
PHONE = (390, 844)
THEMES = ("light", "dark")
PATIENCE = 600_000
"""Milliseconds that an operation may take: two edits, each with its exam."""
FOLDER = Path(__file__).resolve().parents[1] / "assets" / "screenshots"
LASTING = {"number input for Step limit": 100, "Target P(safe)": 0, "Damage budget": 0, "Stop below": 0}
"""Settings with which only Cancel ends an edit soon."""
HEAD_STAYS = "#top { position: static !important; }"
"""A style for pictures of what is longer than the window: the page's head would come along and lie over it."""
COLOURS = (SAFE, UNSAFE, VANILLA, EDITED, PICKED, RECOMMENDED)
KEPT_EXACT = 32
"""Colours of a picture that are kept as they are, those of its figures among them."""
PARTS = {f"details-{title.lower().replace(' ', '-')}": title for title in DETAILS}
"""The pictures of what is folded below the operation, with what stands on each part's tab."""
FIRST_FIGURE = {"Token by token": "#heatmap .js-plotly-plot .main-svg"}
"""What a part waits for that is drawn when it is first opened."""
TWO_MODELS = "models"
OF_A_PAGE = ("page", *PARTS, *tuple(VIEWS)[1:], "phone", "phone-case")
"""What is taken beside the states of an operation, in each theme."""


def take(browser: Browser, url: str, two: str | None, theme: str, width: int) -> None:
    """Save the pictures of one theme: the first view as it opens, its details, the other views whole, a phone.

    Args:
        url: A page with the finished example.
        two: One with two models; ``None`` where there is none.
    """
    page = browser.new_page(viewport={"width": width, "height": HEIGHT})
    open_example(page, url, theme)
    save(page.screenshot(), f"page-{theme}")
    page.add_style_tag(content=HEAD_STAYS)
    take_details(page, theme)
    for name in tuple(VIEWS)[1:]:
        if name != TWO_MODELS or two is None:
            take_view(page, name, theme)
    page.close()
    if two is not None:
        take_two_models(browser, two, theme, width)
    take_phone(browser, url, theme)


def take_details(page: Page, theme: str) -> None:
    """Save a picture of each part that is folded below the operation."""
    details = page.locator("#details")
    for name, title in PARTS.items():
        page.locator("#shortcuts").get_by_role("button", name=title, exact=True).click()
        page.get_by_role("tab", name=title, exact=True).wait_for()
        if title in FIRST_FIGURE:
            page.wait_for_selector(FIRST_FIGURE[title], timeout=60_000)
        page.wait_for_timeout(1500)
        save(details.screenshot(), f"{name}-{theme}")
        details.locator("button").first.click()


def take_view(page: Page, name: str, theme: str) -> None:
    """Open a view and save a picture of all of it."""
    page.locator(f"nav.views a[href='#{name}']").click()
    view = page.locator(f"#view-{name}")
    view.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    save(view.screenshot(), f"{name}-{theme}")


def take_two_models(browser: Browser, two: str, theme: str, width: int) -> None:
    """Compare the first two models of a page that lists several, and save a picture of their view."""
    page = browser.new_page(viewport={"width": width, "height": HEIGHT})
    page.goto(f"{two}?__theme={theme}")
    wait_until_idle(page)
    page.add_style_tag(content=HEAD_STAYS)
    page.locator(f"nav.views a[href='#{TWO_MODELS}']").click()
    page.click("#models-compare")
    wait_for(page, "#models-clock", "Compared in")
    page.wait_for_selector("#models-curves .js-plotly-plot .main-svg", timeout=60_000)
    take_view(page, TWO_MODELS, theme)
    page.close()


def take_phone(browser: Browser, url: str, theme: str) -> None:
    """Save pictures of a page that was opened on a phone: the first view, and the case in its drawer."""
    page = browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]})
    open_example(page, url, theme)
    save(page.screenshot(), f"phone-{theme}")
    page.locator("#rail-switch").click()
    page.wait_for_timeout(500)
    save(page.screenshot(), f"phone-case-{theme}")
    page.close()


def open_example(page: Page, url: str, theme: str) -> None:
    """Open a page and wait until its finished example is drawn."""
    page.goto(f"{url}?__theme={theme}")
    page.wait_for_selector("#shift-figure .js-plotly-plot .main-svg", timeout=60_000)
    page.wait_for_timeout(1500)


def running(page: Page, other: Page) -> None:
    """Begin an edit that lasts until it is cancelled."""
    write_settings(page, LASTING)
    page.click("#operate")
    wait_for(page, "#clock", "Step 2 of")


def queued(page: Page, other: Page) -> None:
    """Stand in line behind another visitor."""
    running(other, page)
    page.click("#operate")
    wait_for(page, "#clock", "In line, place 2")


def cancelled(page: Page, other: Page) -> None:
    """Cancel an edit that has begun."""
    running(page, other)
    page.click("#cancel")
    wait_for(page, "#clock", "it was cancelled")
    wait_until_idle(page)


def failed(page: Page, other: Page) -> None:
    """Operate with an attack that has no place for the question."""
    page.locator("#template-fold button").first.click()
    page.locator("#template textarea").fill("An attack without a place for the question")
    page.click("#operate")
    wait_for(page, "#clock", "Stopped: ")
    page.wait_for_selector(".toast-body", timeout=60_000)
    page.wait_for_selector(".toast-body", state="detached", timeout=60_000)  # else it covers what it is about


def refused(page: Page, other: Page) -> None:
    """Let the gate refuse an edit that acts on every prompt: it may not change any harmless answer."""
    page.locator("#routed input").click()
    page.get_by_role("option", name=EVERYWHERE).click()
    page.wait_for_function("() => !document.querySelector('#live').innerText.includes('routed')", timeout=PATIENCE)
    wait_until_idle(page)  # both weights are asked anew
    write_settings(page, {}, gate={"harmless-kl": 0})
    page.click("#operate")
    wait_for(page, "#gate", "Refused by the gate, waiting")
    wait_until_idle(page)


def done(page: Page, other: Page) -> None:
    """Operate to the end; the example's own end stands there before."""
    page.click("#operate")
    page.wait_for_selector("#operate button:disabled, button#operate:disabled")
    wait_for(page, "#clock", "Ended after")
    wait_until_idle(page)


STATES: dict[str, Callable[[Page, Page], None]] = {
    "running": running,
    "queued": queued,
    "cancelled": cancelled,
    "failed": failed,
    "refused": refused,
    "done": done,
}
"""How a visitor comes to each state of an operation, with the page of another visitor beside; the state that is missing
here, nothing yet, is that of a page without an example."""
NOTHING = "nothing-yet"


def take_nothing(browser: Browser, empty: str, theme: str, width: int) -> None:
    """Save a picture of a page without an example, on which nothing was done yet."""
    context = browser.new_context(viewport={"width": width, "height": HEIGHT})
    page = context.new_page()
    page.goto(f"{empty}?__theme={theme}")
    wait_for(page, "#clock", "Ready. Press Operate")
    wait_until_idle(page)
    save(page.screenshot(), state_name(NOTHING, theme))
    context.close()


def take_states(browser: Browser, url: str, theme: str, width: int, states: Iterable[str]) -> None:
    """Save a picture of states of an operation, in one theme, from the page with the finished example."""
    for state in states:
        contexts = [browser.new_context(viewport={"width": width, "height": HEIGHT}) for _ in range(2)]
        shown, other = (context.new_page() for context in contexts)
        for visitor in (shown, other):
            open_example(visitor, url, theme)
        STATES[state](shown, other)
        shown.wait_for_timeout(500)
        save(shown.screenshot(), state_name(state, theme))
        for visitor in (shown, other):
            if visitor.locator("#cancel").is_enabled():
                visitor.click("#cancel")
            wait_until_idle(visitor)
        for context in contexts:
            context.close()


def state_name(state: str, theme: str) -> str:
    """Name the picture of a state."""
    return f"state-{state}-{theme}"


def write_settings(page: Page, values: dict[str, float], gate: dict[str, float] | None = None) -> None:
    """Unfold all settings, write some, and fold them again.

    Args:
        values: By their labels.
        gate: Budgets of the gate, by the names of their elements.
    """
    fold = page.get_by_role("button", name="Details")
    page.locator("#shortcuts button", has_text="All settings").click()
    page.get_by_role("tab", name="All settings").wait_for()
    boxes = [(page.locator("#details").get_by_label(label), value) for label, value in values.items()]
    boxes += [(page.locator(f"#gate-{name} input"), value) for name, value in (gate or {}).items()]
    for box, value in boxes:
        box.fill(str(value))
        box.press("Tab")
    fold.click()
    page.evaluate("window.scrollTo(0, 0)")


def wait_for(page: Page, selector: str, wanted: str) -> None:
    """Wait until an element says something."""
    said = "([s, t]) => document.querySelector(s)?.innerText.includes(t)"
    page.wait_for_function(said, arg=[selector, wanted], timeout=PATIENCE)


def wait_until_idle(page: Page) -> None:
    """Wait until nothing runs for a visitor."""
    page.wait_for_function("() => document.querySelector('#operate')?.disabled === false", timeout=PATIENCE)


def names() -> set[str]:
    """Return the names of all pictures that are taken."""
    states = (NOTHING, *STATES)
    return {f"{name}-{theme}" for name in OF_A_PAGE for theme in THEMES} | {
        state_name(state, theme) for state in states for theme in THEMES
    }


def drop_others(folder: Path) -> None:
    """Delete the pictures of a folder that are taken no more: they show what the page is not."""
    for path in folder.glob("*.png"):
        if path.stem not in names():
            path.unlink()
            print(path.name, "is taken no more, deleted")


def palette(picture: Image.Image) -> Image.Image:
    """Return the 256 colours that a picture is drawn with: the figures', what it has most of, and a cut of the rest.

    A cut alone gives no colour to a thin line: two lines that mean different things would look like one.
    """
    counted = sorted(picture.getcolors(picture.width * picture.height), reverse=True)
    exact = dict.fromkeys([*map(ImageColor.getrgb, COLOURS), *(colour for _, colour in counted)])
    cut = picture.quantize(256 - KEPT_EXACT).getpalette()
    colours = Image.new("P", (1, 1))
    colours.putpalette([value for colour in list(exact)[:KEPT_EXACT] for value in colour] + cut)
    return colours


def save(picture: bytes, name: str) -> None:
    """Write a picture; 256 colours keep the repository small and look the same."""
    path = FOLDER / f"{name}.png"
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(palette=palette(image), dither=Image.Dither.NONE).save(path, optimize=True)
    print(path.name, path.stat().st_size // 1024, "kB")


def main() -> None:
    """Take every view and every state, light and dark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of the running page")
    parser.add_argument("empty", help="address of one that was started with --no-example")
    parser.add_argument("two", nargs="?", help="address of one that was started with two models")
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--only", choices=STATES, nargs="+", default=[], help="these states alone")
    parser.add_argument("--themes", choices=THEMES, nargs="+", default=list(THEMES))
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    url, empty = (address.rstrip("/") + "/" for address in (options.url, options.empty))
    two = None if options.two is None else options.two.rstrip("/") + "/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        for theme in options.themes:
            if not options.only:
                take(browser, url, two, theme, options.width)
                take_nothing(browser, empty, theme, options.width)
            take_states(browser, url, theme, options.width, options.only or STATES)
        browser.close()
    drop_others(FOLDER)


if __name__ == "__main__":
    main()
