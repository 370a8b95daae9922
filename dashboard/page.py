"""The page as a Gradio app: layout, events, endpoints, theme."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from dashboard import api, heading
from dashboard.calibrating import Calibrating, CalibratingLine
from dashboard.chooser import Chooser
from dashboard.early import EarlyHeading
from dashboard.endpoints.tools import offer_reading_tools
from dashboard.example.arriving import Arriving
from dashboard.example.make import Example
from dashboard.kit.building import keep_apart
from dashboard.kit.copies import COPIES, FILES_FOR, NEVER, Copies, keep_little
from dashboard.kit.doors import Doors
from dashboard.kit.limits import DEMO, Limits
from dashboard.kit.linking import Linking
from dashboard.kit.links import KEEP, Links
from dashboard.kit.live import LiveBadge
from dashboard.kit.room import Context, Room
from dashboard.kit.routes import Guard
from dashboard.kit.shelf import Shelf
from dashboard.kit.uploads import PIECES, watch
from dashboard.kit.visit import Visit
from dashboard.kit.visitors import GRACE, MOST_BYTES, Sessions
from dashboard.model_pages import ModelPage, ModelPages
from dashboard.mounting import OtherPages
from dashboard.steps.case.view import CaseRoom
from dashboard.steps.compare.asking import LONGEST_ANSWER
from dashboard.steps.compare.view import CompareRoom
from dashboard.steps.keep.saving import largest_upload
from dashboard.steps.keep.view import KeepRoom
from dashboard.steps.locate.view import LocateRoom
from dashboard.steps.methods.view import MethodsRoom
from dashboard.steps.models.view import ModelsRoom
from dashboard.steps.operate.view import OperateRoom
from dashboard.steps.questions.view import QuestionsRoom
from dashboard.steps.report.view import ReportRoom
from dashboard.steps.stress.view import StressRoom
from dashboard.steps.why.view import WhyRoom
from editing.calibration import Calibration, calibration_of
from inspector.errors import EditError
from inspector.model import Decoding, InspectedModel

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SCRIPTS = ("page.js", "tour.js", "covers.js", "figures.js")
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
        calibrate: Calibrate a model that is not calibrated yet, in the background.
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
    with gr.Blocks(title="DINM Inspector", analytics_enabled=False, fill_width=True, delete_cache=kept_for) as app:
        background = Calibrating(model) if options.calibrate and calibration is None else None
        line = CalibratingLine(background) if background is not None else None
        house = House(model, sessions, shown, options.read_only, calibration, line, options.ledger, before, label)
        house.context.links, house.context.shelf = links, shelf
        house.build()
        house.connect_to(app)
        api.connect(house.context)
        if background is not None and line is not None:
            line.connect(app, house.context)
            background.give_way = house.context.line.give_way
            background.start(house.context.calibrated)
        _hear_of_lost_pages(app, sessions)
    app.guard = Guard(sessions, sessions.limits) if first is None else first.app.guard.beside(sessions)
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
    shown.give_way = house.context.line.give_way
    shown.start()
    sessions.sweep_in_background()
    # Long runs stand in a line of our own (kit/queue), so Gradio lets everything through at once: typing never waits.
    app.queue(default_concurrency_limit=None, max_size=1024, api_open=False)

    def stop() -> None:
        shown.stop()
        if background is not None:
            background.stop()
        app.guard.sent.remove(sent)

    return ModelPage(label, app, house.context, stop)


STEPS: tuple[type[Room], ...] = (
    CaseRoom,
    LocateRoom,
    OperateRoom,
    CompareRoom,
    StressRoom,
    WhyRoom,
    MethodsRoom,
    ModelsRoom,
    KeepRoom,
    ReportRoom,
    QuestionsRoom,
)
"""The steps in the order of the page; a new one is a folder of its own and its name here."""
REPORTERS = tuple(kind.reports for kind in STEPS if kind.reports is not None)
"""What the steps add to a report, in their order."""
LATER: dict[str, tuple[str, ...]] = {
    "stress": ("stress",),
    "why": ("why",),
    "methods": ("methods",),
    "models": ("models",),
    "keep": ("keep", "report"),
    "questions": ("questions",),
}
"""The views beside the operation (``heading.VIEWS``), and the steps that stand in each, one below the other."""


class House:
    """The rooms of one page.

    Args:
        model: The shared model.
        sessions: All visitors.
        example: What a new visitor starts with.
        read_only: Allow bundled texts only.
        calibration: The model's, if it is calibrated.
        line: What says how far the calibration behind the page is, if one is made.
        ledger: File of all visits' edits.
        beside: Another page of the same program.
        label: The model's, on the operator's list.
    """

    def __init__(
        self,
        model: InspectedModel,
        sessions: Sessions,
        example: Example,
        read_only: bool,
        calibration: Calibration | None = None,
        line: CalibratingLine | None = None,
        ledger: Path | None = None,
        beside: Context | None = None,
        label: str = "",
    ) -> None:
        self.line = line
        self.context = Context(model, sessions, example, read_only, calibration, ledger, beside, label)
        later = frozenset(step for steps in LATER.values() for step in steps)
        self.badge, self.visit = LiveBadge(self.context), Visit(self.context, later)
        self.chooser = self.context.one(Chooser, lambda: Chooser(self.context))
        self.linking = self.context.one(Linking, lambda: Linking(self.context))
        self.arriving = Arriving(self.context)
        self.rooms: dict[str, Any] = {kind.name: kind(self.context) for kind in STEPS}
        self.openers: list[tuple[Any, Any]] = []
        self.context.reporters = REPORTERS

    def build(self) -> None:
        """Lay the page out and wire it."""
        with gr.Row(elem_id="top"):
            self.chooser.build()
            self.badge.build()
            gr.HTML(heading.views(), elem_id="views")
        gr.HTML(heading.help_page(), elem_id="help")
        self.visit.build()
        self.chooser.build_line()
        self.linking.build()
        with gr.Column(elem_id="behind"):
            self.arriving.build()
            if self.line is not None:
                self.line.build()
        with gr.Row(elem_id="frame"):
            with gr.Column(elem_id="rail"):
                self.rooms["case"].build()
            with gr.Column(elem_id="main"):
                with gr.Column(elem_id="view-operate", elem_classes="view"):
                    gr.HTML("<h2>Operate</h2>", elem_classes="unseen")
                    self._operation()
                for name, steps in LATER.items():
                    self._later(name, steps)
        rooms = [self.visit, self.badge, *self.rooms.values(), self.linking, self.chooser]
        for room in rooms:
            self.context.bus.speaker = room.name
            room.hear()
        for room in rooms:
            room.connect()
        for (name, steps), (opener, view) in zip(LATER.items(), self.openers, strict=True):
            self.visit.opens(opener, view, steps, f"on_open_{name}")

    def connect_to(self, app: gr.Blocks) -> None:
        """Wire what happens when the page opens.

        Args:
            app: The page.
        """
        self.linking.connect_to(self.visit.connect_to(app))
        self.arriving.connect(app)

    def _operation(self) -> None:
        """The operation on one screen, its details folded below it."""
        case, locate, operate, compare = (self.rooms[name] for name in ("case", "locate", "operate", "compare"))
        with gr.Row(elem_classes="pair"):
            with gr.Column(elem_classes="box", elem_id="step-locate", min_width=280):
                locate.build()
            with gr.Column(elem_classes="box", elem_id="step-operate", min_width=280):
                operate.build()
        with gr.Row(elem_id="actions"):
            operate.build_operate()
            locate.build_button()
            operate.build_buttons()
            compare.build_undo()
            operate.build_cancel()
            compare.build_asking()
        compare.build_own_text()
        compare.build_numbers()
        compare.build()
        compare.build_shifts()
        folded = gr.Accordion("Details: token by token, neurons, prompt, settings", open=False, elem_id="details")
        with folded, gr.Tabs():
            for title, lay_out in (
                ("Token by token", locate.build_detail),
                ("What the edit changed", compare.build_details),
                ("Prompt", case.build_prompt),
                ("Layer and distance", locate.build_settings),
                ("All settings", operate.build_settings),
                ("Decoding and routing", compare.build_decoding),
            ):
                with gr.Tab(title):
                    lay_out()

    def _later(self, name: str, steps: tuple[str, ...]) -> None:
        """A view that the browser gets, drawn, when it is first opened; the page's script presses the button then."""
        with gr.Column(visible=False, elem_id=f"view-{name}", elem_classes=["view", "step"]) as view:
            for step in steps:
                self.rooms[step].build()
        opener = gr.Button(f"Open {name}", elem_id=f"open-{name}", elem_classes="opener")
        self.openers.append((opener, view))


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
        "css": heading.view_rules(),
        "css_paths": [ASSETS / "style.css"],
        "head": f"<script>{script}</script>",
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "mcp_server": mcp,
        "footer_links": [],
        "show_error": False,
        "max_threads": 200,
        "state_session_capacity": COPIES,
        "max_file_size": None if model is None else largest_upload(model, limits or Limits(), read_only),
        "app_kwargs": {"middleware": [Middleware(OtherPages), Middleware(Doors), Middleware(EarlyHeading)]},
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
