"""Take the screenshots in ``assets/screenshots`` from a running page.

python app.py --port 7861 &
python -m scripts.screenshots http://127.0.0.1:7861
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from dashboard.house import VIEWS

PHONE = (390, 844)
FOLDER = Path(__file__).resolve().parents[1] / "assets" / "screenshots"


def take(page: Page, url: str, theme: str, width: int) -> None:
    """Save the pictures of one theme: the first view as it opens, its details, the other views whole, a phone."""
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{url}?__theme={theme}")
    page.wait_for_selector("#shift-figure .js-plotly-plot .main-svg", timeout=60_000)
    page.wait_for_timeout(1500)
    save(page.screenshot(), f"page-{theme}")
    details = page.locator("#details")
    details.locator("button").first.click()
    page.wait_for_selector("#heatmap .js-plotly-plot .main-svg", timeout=60_000)
    page.wait_for_timeout(1500)
    save(details.screenshot(), f"details-{theme}")
    details.locator("button").first.click()
    for name in tuple(VIEWS)[1:]:
        page.locator(f"nav.views a[href='#{name}']").click()
        view = page.locator(f"#view-{name}")
        view.wait_for(timeout=60_000)
        page.wait_for_timeout(3000)
        save(view.screenshot(), f"{name}-{theme}")
    page.locator("nav.views a[href='#operate']").click()
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.wait_for_timeout(1500)
    save(page.screenshot(), f"phone-{theme}")
    page.locator("#rail-switch").click()
    page.wait_for_timeout(500)
    save(page.screenshot(), f"phone-case-{theme}")


def save(picture: bytes, name: str) -> None:
    """Write a picture; 256 colours keep the repository small and look the same."""
    path = FOLDER / f"{name}.png"
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(256).save(path, optimize=True)
    print(path.name, path.stat().st_size // 1024, "kB")


def main() -> None:
    """Take every view, light and dark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of the running page")
    parser.add_argument("--width", type=int, default=1440)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        for theme in ("light", "dark"):
            take(browser.new_page(), options.url.rstrip("/") + "/", theme, options.width)
        browser.close()


if __name__ == "__main__":
    main()
