"""The house: which steps there are, where each stands on the page, and what happens when the page opens."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from dashboard import details, heading
from dashboard.calibrating import CalibratingLine
from dashboard.chooser import Chooser
from dashboard.example.arriving import Arriving
from dashboard.example.make import Example
from dashboard.kit.live import LiveBadge
from dashboard.kit.room import FIRST, Context, Room
from dashboard.kit.sessions.visitors import Sessions
from dashboard.kit.sharing.linking import Linking
from dashboard.kit.visit import Visit
from dashboard.steps.case.view import CaseRoom
from dashboard.steps.compare.view import CompareRoom
from dashboard.steps.keep.view import KeepRoom
from dashboard.steps.locate.view import LocateRoom
from dashboard.steps.methods.view import MethodsRoom
from dashboard.steps.models.view import ModelsRoom
from dashboard.steps.operate.view import OperateRoom
from dashboard.steps.questions.view import QuestionsRoom
from dashboard.steps.report.view import ReportRoom
from dashboard.steps.stress.view import StressRoom
from dashboard.steps.why.view import WhyRoom
from editing.calibrating.calibration import Calibration
from inspector.model import InspectedModel

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
"""The steps in the order of the page; a new one is a folder of its own and its name here: it says itself where it
stands and what the head and the help say of it."""
REPORTERS = tuple(kind.reports for kind in STEPS if kind.reports is not None)
"""What the steps add to a report, in their order."""
VIEWS = {kind.view: kind.title for kind in STEPS if kind.title}
"""The views of the page by the names in its address, with what they are called; the operation comes first."""
LATER = {view: tuple(kind.name for kind in STEPS if kind.view == view) for view in VIEWS if view != FIRST}
"""The views beside the operation, and the steps that stand in each, one below the other."""
DETAILS = {
    part.title: (kind.name, part)
    for is_setting in (False, True)
    for kind in STEPS
    for part in kind.details
    if part.is_setting is is_setting
}
"""What is folded below the operation, by what stands on each part's tab, with the step that lays it out: first what was
measured, then what is set, each in the order of the steps."""


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
            gr.HTML(heading.views(VIEWS), elem_id="views")
        gr.HTML(heading.help_page(STEPS), elem_id="help")
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
                gr.HTML(heading.coming("view-coming"), elem_classes="coming", padding=False)
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
        first = [name for name, room in self.rooms.items() if room.view == FIRST]
        self.visit.opens(self.unfolder, self.details, first, "on_open_details")

    def connect_to(self, app: gr.Blocks) -> None:
        """Wire what happens when the page opens.

        Args:
            app: The page.
        """
        later = {step for steps in LATER.values() for step in steps}
        self.linking.connect_to(self.visit.connect_to(app), [name for name in self.rooms if name not in later])
        self.arriving.connect(app)

    def _operation(self) -> None:
        """The operation on one screen, its details folded below it."""
        locate, operate, compare = (self.rooms[name] for name in ("locate", "operate", "compare"))
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
        self.details = details.build(
            [(title, partial(part.build, self.rooms[name])) for title, (name, part) in DETAILS.items()]
        )
        self.unfolder = gr.Button("Open what is folded", elem_id="open-details", elem_classes="opener")

    def _later(self, name: str, steps: tuple[str, ...]) -> None:
        """A view that the browser gets, drawn, when it is first opened; the page's script presses the button then."""
        with gr.Column(visible=False, elem_id=f"view-{name}", elem_classes=["view", "step"]) as view:
            for step in steps:
                self.rooms[step].build()
        opener = gr.Button(f"Open {name}", elem_id=f"open-{name}", elem_classes="opener")
        self.openers.append((opener, view))
