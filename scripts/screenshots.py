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

STEPS = ("prompt", "locate", "operate", "compare", "stress", "why", "methods")
FOLDER = Path(__file__).resolve().parents[1] / "assets" / "screenshots"


def take(page: Page, url: str, theme: str, width: int, wanted: list[str]) -> None:
    """Save the wanted pictures (``page`` and the steps) of one theme at one width."""
    page.set_viewport_size({"width": width, "height": 1000})
    page.goto(f"{url}?__theme={theme}")
    page.wait_for_selector("#neurons .js-plotly-plot .main-svg", timeout=60_000)
    page.wait_for_timeout(1500)
    for name in wanted:
        shown = page if name == "page" else page.locator(f"#step-{name}")
        picture = shown.screenshot()
        path = FOLDER / f"{name}-{theme}.png"
        # 256 colours keep the repository small and look the same.
        Image.open(io.BytesIO(picture)).convert("RGB").quantize(256).save(path, optimize=True)
        print(path.name, path.stat().st_size // 1024, "kB")


def main() -> None:
    """Take the whole page and each step, light and dark."""
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
            take(browser.new_page(), options.url.rstrip("/") + "/", theme, options.width, ["page", *STEPS])
        browser.close()


if __name__ == "__main__":
    main()
