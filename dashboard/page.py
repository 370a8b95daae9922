"""The page as a Gradio app: the house with its endpoints and what goes on behind it; theme and launch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from dashboard import api, heading
from dashboard.beforehand import Beforehand
from dashboard.calibrating import Calibrating, CalibratingLine
from dashboard.early import EarlyHeading
from dashboard.endpoints.tools import offer_reading_tools
from dashboard.example.make import Example
from dashboard.house import VIEWS, House
from dashboard.kit.door.copies import COPIES, FILES_FOR, NEVER, Copies, keep_little
from dashboard.kit.door.doors import Doors
from dashboard.kit.door.routes import Guard
from dashboard.kit.door.uploads import PIECES, watch
from dashboard.kit.limits import DEMO, Limits, Pace
from dashboard.kit.running.building import keep_apart
from dashboard.kit.sessions.visitors import GRACE, MOST_BYTES, Sessions
from dashboard.kit.sharing.links import KEEP, Links
from dashboard.kit.shelf import Shelf
from dashboard.lighter import LighterBlocks
from dashboard.model_pages import ModelPage, ModelPages
from dashboard.mounting import OtherPages
from dashboard.scripts import Scripts
from dashboard.steps.compare.run import LONGEST_ANSWER
from dashboard.steps.keep.saving import largest_upload
from editing.calibrating.calibration import Calibration, calibration_of
from inspector.errors import EditError
from inspector.model import Decoding, InspectedModel

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SCRIPTS = ("plots.js", "page.js", "tour.js", "covers.js", "figures.js")
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace")


def build_app(
    model: InspectedModel,
    *,
    read_only: bool = False,
    example_folder: Path | None = None,
    calibrate: bool = False,
    example: bool = True,
    grace: float = GRACE,
    most_bytes: float = MOST_BYTES,
    links_for: float = KEEP,
    limits: Limits | None = None,
    ledger: Path | None = None,
    shelf: Shelf | None = None,
) -> gr.Blocks:
    """Build the dashboard for one model; what is there of the finished example is read, the rest made behind the page.

    Args:
        model: The shared model.
        read_only: Allow bundled texts only.
        example_folder: Where the example is kept; the cache by default.
        calibrate: Calibrate a model that is not calibrated yet, in the background; where one is, do beforehand there
            what its first edit would wait for.
        example: Show a finished example, and make it where it is not there.
        grace: Seconds for which what a visitor has done is kept after they were last there.
        most_bytes: What all visitors' sessions may hold together.
        links_for: Seconds for which a link to what a page shows is kept.
        limits: What one visitor may ask; as for a page of one's own by default, less where it is read-only.
        ledger: File of all visits' edits; in memory by default.
        shelf: The models that visitors may choose beside it; none by default.

    Raises:
        LedgerError: The file cannot be opened, or is something else.
    """
    shelf = shelf or Shelf(model)
    made = PageOptions(
        read_only,
        example_folder,
        calibrate,
        example,
        grace,
        most_bytes,
        limits or (DEMO if read_only else Limits()),
        ledger,
    )
    first = build_page(shelf.labels[0], model, made, shelf, Links(links_for))
    if len(shelf.labels) > 1:
        pages = ModelPages(
            first,
            shelf,
            lambda label, other, links: build_page(label, other, made, shelf, links, first),
            lambda other: launch_options(other, read_only, limits=made.limits),
            links_for,
        )
        first.app.mounts = pages.mounts
        first.app.model_pages = first.context.shared(ModelPages, lambda: pages)
    return first.app


@dataclass(frozen=True)
class PageOptions:
    """What all pages of one program are built with, see :func:`build_app`."""

    read_only: bool
    example_folder: Path | None
    calibrate: bool
    example: bool
    grace: float
    most_bytes: float
    limits: Limits
    ledger: Path | None


def build_page(
    label: str,
    model: InspectedModel,
    options: PageOptions,
    shelf: Shelf,
    links: Links,
    first: ModelPage | None = None,
) -> ModelPage:
    """Build one model's page.

    Args:
        label: The model's, on the operator's list.
        options: Those of all pages.
        shelf: The models of the list.
        links: Where links to this page are kept.
        first: The first page, where this is another one: limits, the line of long runs, memory and the ledger are those
            of both together.

    Raises:
        LedgerError: The ledger's file cannot be opened, or is something else.
    """
    keep_apart()
    calibration = _calibration(model)
    decoding = Decoding(max_new_tokens=LONGEST_ANSWER)
    shown = Example(model, decoding, options.example_folder, calibration, wanted=options.example)
    before = None if first is None else first.context
    others = None if before is None else before.sessions
    sessions = Sessions(options.grace, options.most_bytes, limits=options.limits, beside=others)
    # Of what visitors send Gradio deletes at its end what is left; old files go here.
    kept_for = NEVER, int(FILES_FOR)
    with LighterBlocks(title="DINM Inspector", analytics_enabled=False, fill_width=True, delete_cache=kept_for) as app:
        background = Calibrating(model) if options.calibrate and calibration is None else None
        line = CalibratingLine(background) if background is not None else None
        house = House(model, sessions, shown, options.read_only, calibration, line, options.ledger, before, label)
        app.later = house.context.later
        house.context.links, house.context.shelf = links, shelf
        house.build()
        house.connect_to(app)
        api.connect(house.context)
        if background is not None and line is not None:
            line.connect(app, house.context)
            background.line = house.context.line
            background.start(house.context.calibrated)
        _hear_of_lost_pages(app, sessions)
    if first is None:
        app.guard = Guard(sessions, sessions.limits, pace=Pace(sessions.limits.events))
    else:
        app.guard = first.app.guard.beside(sessions)
    app.guard.sent.append(app.upload_file_set)
    app.line = house.context.line
    copies = Copies(app)
    sessions.forget = copies.forget
    sent = app.upload_file_set
    sessions.tidy = (
        copies.tidy,
        house.chooser.tidy,
        lambda: house.context.shelf.sweep(),
        lambda: PIECES.sweep(sent.copy()),
        copies.drop_old,
    )
    keep_little()
    watch()
    shown.line = house.context.line
    shown.start()
    ahead = None
    if options.calibrate and calibration is not None:
        ahead = Beforehand(model, calibration.detector, calibration.layers.recommended)
        ahead.line = house.context.line
        ahead.line.page_opens()  # whoever has started the program waits for it
        ahead.start(shown.wait)
    sessions.sweep_in_background()
    # Long runs stand in a line of our own (kit/queue), so Gradio lets everything through at once: typing never waits.
    app.queue(default_concurrency_limit=None, max_size=1024, api_open=False)
    # It looks for events a thousand times a second: 3.5 % of a core for a page that nobody uses, 1.6 % as it is here.
    app._queue.sleep_when_free, app._queue.progress_update_sleep_when_free = 0.01, 0.05

    def stop() -> None:
        shown.stop()
        for running in (background, ahead):
            if running is not None:
                running.stop()
        app.guard.sent.remove(sent)

    def calibrating() -> bool:
        return background is not None and not background.ended

    return ModelPage(label, app, house.context, stop, calibrating=calibrating)


def _calibration(model: InspectedModel) -> Calibration | None:
    """Return a calibrated model's calibration; a damaged one costs no more than that, and is told."""
    try:
        found = calibration_of(model)
    except EditError as error:
        print(f"Warning: {error.operator_message()}", file=sys.stderr)
        return None
    if found is not None:
        found.teach(model)
    return found


def _hear_of_lost_pages(app: gr.Blocks, sessions: Sessions) -> None:
    def leave(request: gr.Request) -> None:
        sessions.leave(request.session_hash or "")

    app.unload(leave)


def launch_options(
    model: InspectedModel | None = None, read_only: bool = False, mcp: bool = False, limits: Limits | None = None
) -> dict[str, Any]:
    """Return what ``launch`` needs for this page's looks and for keeping prompts private.

    Args:
        model: Bounds what a browser may send: the largest edit of it, if the limits allow as much.
        read_only: Nothing is taken in.
        mcp: Also serve the tools that only read (:mod:`dashboard.endpoints.tools`).
        limits: What one visitor may ask: those that the page was built with.

    Raises:
        CaseError: There is no package for that.
    """
    if mcp:
        offer_reading_tools()
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return {
        "theme": _theme(),
        "head": f"<style>{_style()}</style><script>{script}</script>",
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "mcp_server": mcp,
        "footer_links": [],
        "show_error": False,
        "max_threads": 200,
        "state_session_capacity": COPIES,
        "max_file_size": None if model is None else largest_upload(model, limits or Limits(), read_only),
        "app_kwargs": {
            "middleware": [Middleware(OtherPages), Middleware(Doors), Middleware(Scripts), Middleware(EarlyHeading)]
        },
    }


def _style() -> str:
    """Return the style sheet, whose rules weigh more within the page than those of Gradio's own components.

    Gradio would write each rule anew for that in every browser, before it draws anything.
    """
    rules = f"{heading.view_rules(VIEWS)}\n{(ASSETS / 'style.css').read_text(encoding='utf-8')}"
    return f"{rules}\n.gradio-container.gradio-container .contain {{\n{rules}\n}}"


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
