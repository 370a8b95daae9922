"""Record the operation as a short animation, ``assets/screenshots/operation.webp``, from a running page.

    python app.py --port 7861 &
    python -m scripts.animation http://127.0.0.1:7861

A fresh visitor presses Operate on the page as it opens; a picture is taken every few tenths of a second until both
answers stand. Pictures that show nothing new are one longer frame, what waits is shortened, and pictures get smaller
until the file has at most --most bytes.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops
from playwright.sync_api import Error, Page, sync_playwright

from editing.command import finished, say, tell
from inspector.errors import CaseError

OUT = Path(__file__).resolve().parents[1] / "assets" / "screenshots" / "operation.webp"
SIZE = (1280, 800)
EVERY = 0.25
"""Seconds between two pictures."""
LONGEST, LAST = 1500, 3000
"""Milliseconds that a frame stands at most, and that the last one stands."""
PATIENCE = 120_000
"""Milliseconds that one thing on the page may take."""
MOST = 1_500_000
WIDTHS = (960, 800, 640)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record and write.

    Returns:
        0, or 2 when it cannot be done.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of the running page")
    parser.add_argument("--theme", default="light", choices=("light", "dark"))
    parser.add_argument("--seconds", type=float, default=120.0, help="longest recording (default: 120)")
    parser.add_argument("--most", type=int, default=MOST, help=f"bytes of the file (default: {MOST:,})")
    parser.add_argument("--out", type=Path, default=OUT, help="file to write, .webp or .gif")
    return finished(lambda: _record(parser.parse_args(arguments)))


def _record(chosen: argparse.Namespace) -> None:
    with sync_playwright() as playwright:
        program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
        if not program:
            raise CaseError("There is no chromium here. Install it (make browser) or name it in CHROMIUM.")
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=program, args=options)
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        try:
            shots = operation(page, f"{chosen.url.rstrip('/')}/?__theme={chosen.theme}", chosen.seconds)
        except Error as error:
            told = error.message.splitlines()[0]
            raise CaseError(
                f"The page could not be recorded ({told}). Look whether it runs at {chosen.url}."
            ) from error
        finally:
            browser.close()
    frames = merged(shots)
    size, width = written(frames, chosen.out, chosen.most)
    say(f"{len(shots)} pictures, {len(frames)} frames of {width} pixels, {size / 1e6:.2f} MB")
    tell({"file": str(chosen.out), "bytes": size, "frames": len(frames), "width": width})


def operation(page: Page, url: str, seconds: float) -> list[Image.Image]:
    """Press Operate on the page that opens and return pictures until it is done."""
    page.goto(url, timeout=PATIENCE)
    operate = page.locator("#operate")
    operate.wait_for(timeout=PATIENCE)
    page.wait_for_function("() => !document.querySelector('#operate').disabled", timeout=PATIENCE)
    page.wait_for_timeout(1500)  # figures are drawn
    shots = [_shot(page)]
    operate.click()
    ends = time.monotonic() + seconds
    running = False
    while time.monotonic() < ends:
        page.wait_for_timeout(1000 * EVERY)
        shots.append(_shot(page))
        busy = operate.is_disabled()
        if running and not busy:
            page.wait_for_timeout(1500)
            shots.append(_shot(page))
            return shots
        running = running or busy
    raise CaseError(f"The operation took longer than {seconds:.0f} s. Raise --seconds.")


def _shot(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot(timeout=PATIENCE))).convert("RGB")


def merged(shots: Sequence[Image.Image], every: float = EVERY) -> list[tuple[Image.Image, int]]:
    """Return pictures with the milliseconds that each stands; one that shows nothing new lengthens the one before."""
    frames: list[tuple[Image.Image, int]] = []
    step = round(1000 * every)
    for shot in shots:
        if frames and ImageChops.difference(frames[-1][0], shot).getbbox() is None:
            frames[-1] = (frames[-1][0], min(frames[-1][1] + step, LONGEST))
        else:
            frames.append((shot, step))
    last, _ = frames[-1]
    return [*frames[:-1], (last, LAST)]


def written(frames: Sequence[tuple[Image.Image, int]], path: Path, most: int = MOST) -> tuple[int, int]:
    """Write an animation that repeats, as wide as fits.

    Args:
        frames: Pictures, and milliseconds that each stands.
        path: The file; its ending says the kind.
        most: Bytes that it may have.

    Returns:
        Its bytes, and its width in pixels.

    Raises:
        CaseError: Even the smallest is larger.
    """
    durations = [milliseconds for _, milliseconds in frames]
    for width in WIDTHS:
        height = round(width * frames[0][0].height / frames[0][0].width)
        small = [picture.resize((width, height), Image.Resampling.LANCZOS) for picture, _ in frames]
        kept = io.BytesIO()
        more = {"quality": 60, "method": 4} if path.suffix == ".webp" else {"optimize": True}
        kind = path.suffix.lstrip(".").upper()
        small[0].save(kept, kind, save_all=True, append_images=small[1:], duration=durations, loop=0, **more)
        if kept.tell() <= most:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(kept.getvalue())
            return kept.tell(), width
    raise CaseError(f"The animation has {kept.tell():,} bytes, more than {most:,}. Raise --most, or record less.")


if __name__ == "__main__":
    sys.exit(main())
