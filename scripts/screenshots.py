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

VIEWS = {"page": "", "stress": "#stress", "why": "#why", "methods": "#methods"}
"""The views by the names of their pictures, and their addresses."""
FOLDER = Path(__file__).resolve().parents[1] / "assets" / "screenshots"


def take(page: Page, url: str, theme: str, width: int, wanted: list[str]) -> None:
    """Save the wanted pictures of one theme at one width: the first view as it opens, the others whole."""
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{url}?__theme={theme}")
    page.wait_for_selector("#shift-figure .js-plotly-plot .main-svg", timeout=60_000)
    for name in wanted:
        if VIEWS[name]:
            page.locator(f"nav.views a[href='{VIEWS[name]}']").click()
            page.wait_for_selector(f"#view-{name}", state="visible", timeout=60_000)
        page.wait_for_timeout(1500)
        picture = page.screenshot() if name == "page" else page.locator(f"#view-{name}").screenshot()
        path = FOLDER / f"{name}-{theme}.png"
        # 256 colours keep the repository small and look the same.
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
            take(browser.new_page(), options.url.rstrip("/") + "/", theme, options.width, list(VIEWS))
        browser.close()


if __name__ == "__main__":
    main()
