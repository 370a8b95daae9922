"""The page as a Gradio app: layout, events, endpoints, theme."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gradio as gr

from dashboard import api, layout
from dashboard.calibrating import Calibrating
from dashboard.example import make_example
from dashboard.parts import LONGEST_ANSWER
from dashboard.session import Sessions
from dashboard.wiring import Wiring
from editing.calibration import Calibration, calibration_of
from inspector.errors import EditError
from inspector.model import Decoding, InspectedModel

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace")


def build_app(
    model: InspectedModel, *, read_only: bool = False, example_folder: Path | None = None, calibrate: bool = False
) -> gr.Blocks:
    """Build the dashboard for one model; the finished example is made or read first.

    Args:
        model: The shared model.
        read_only: Allow bundled texts only.
        example_folder: Where the example is kept; the cache by default.
        calibrate: Calibrate a model that is not calibrated yet, in the background.
    """
    calibration = _calibration(model)
    example = make_example(model, Decoding(max_new_tokens=LONGEST_ANSWER), example_folder, calibration)
    sessions = Sessions()
    # Gradio copies what can be downloaded, answers among it: its copies are deleted when they are an hour old.
    with gr.Blocks(title="DINM Inspector", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as app:
        background = Calibrating(model) if calibrate and calibration is None else None
        if background is not None:
            _say(background)
        parts = layout.build(model, example, read_only, calibration)
        wiring = Wiring(model, sessions, parts, example, read_only, calibration)
        wiring.connect()
        api.connect(wiring)
        if background is not None:
            background.start(wiring.calibrated)
        _forget_visitors(app, sessions)
    app.queue(default_concurrency_limit=8, max_size=64)
    return app


def _calibration(model: InspectedModel) -> Calibration | None:
    """Return a calibrated model's calibration; a damaged one costs no more than that, and is told."""
    try:
        found = calibration_of(model)
    except EditError as error:
        print(f"Warning: {error.user_message()}", file=sys.stderr)
        return None
    if found is not None:
        found.teach(model)
    return found


def _say(background: Calibrating) -> None:
    """Say how far the calibration is, every few seconds until it ends."""
    said, clock = gr.HTML(background.note(), elem_id="calibrating"), gr.Timer(3)

    def look() -> tuple[str, gr.Timer]:
        return background.note(), gr.Timer(active=not background.ended)

    clock.tick(look, outputs=[said, clock], queue=False, show_progress="hidden", api_visibility="private")


def _forget_visitors(app: gr.Blocks, sessions: Sessions) -> None:
    def forget(request: gr.Request) -> None:
        sessions.drop(request.session_hash)

    app.unload(forget)


def launch_options() -> dict[str, Any]:
    """Return what ``launch`` needs for this page's looks and for keeping prompts private."""
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    return {
        "theme": _theme(),
        "css_paths": [ASSETS / "style.css"],
        "head": f"<script>{script}</script>",
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "footer_links": [],
        "show_error": True,
    }


def _theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        secondary_hue=gr.themes.colors.slate,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_sm,
        spacing_size=gr.themes.sizes.spacing_sm,
        text_size=gr.themes.sizes.text_sm,
        font=SYSTEM_FONTS,
        font_mono=MONO_FONTS,
    )
