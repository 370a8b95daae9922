"""The gate on the page: its line under the vital signs, its buttons, its settings and those of the exam of a stack."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import fields
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.html import message
from dashboard.kit.room import Room
from dashboard.kit.running.run import Throttle, drain
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sessions.values import WAYS, evaluation_of
from dashboard.steps.operate import gating
from dashboard.steps.operate import texts as words
from dashboard.steps.operate.gating import Gated, Made
from editing import Preparation
from editing.gate.budgets import Budgets
from editing.gate.gate import GateSettings
from inspector.errors import CaseError
from inspector.model import Row
from inspector.safeedit.exam import Evaluation, Progress
from inspector.safeedit.marking import KL_MEAN

BUDGETS = {
    "harmless_kl": f"nats a token, {KL_MEAN}",
    "over_refusal": "points above vanilla",
    "degenerate": "points above vanilla",
    "parroting": "points above vanilla",
    "lost_defence": "points below vanilla",
}
"""The budgets and their units, for the fields."""


class GatePart(Room):
    """Examine an edit, hold it back, keep it all the same."""

    name = "gate"

    def build_buttons(self) -> None:
        """Lay out what stands in the head of the vital signs: what is stacked, the gate's buttons."""
        session = self.context.example.session
        self.stack = gr.HTML(words.stack_line(session), elem_id="stack")
        self.keep = gr.Button("Keep it anyway", size="sm", visible=can_be_kept(session), elem_id="keep", min_width=110)
        self.examine = gr.Button(size="sm", elem_id="examine", min_width=90, **state_of_examine(session))

    def build(self) -> None:
        """Lay the gate's line out."""
        said = words.gate_brief(self.context.example.session, self.context.detector is not None)
        self.gate = gr.HTML(said, elem_id="gate")

    def build_settings(self) -> None:
        """Lay the budgets out, and how two stacked edits are asked."""
        given = Budgets()
        with gr.Row():
            for name, unit in BUDGETS.items():
                part = gr.Number(
                    getattr(given, name),
                    label=f"Gate: {words.CHIPS[name]}",
                    info=f"Allowed, {unit}",
                    minimum=0,
                    elem_id=f"gate-{name.replace('_', '-')}",
                )
                setattr(self, f"allowed_{name}", part)
            self.stack_way = gr.Radio(
                list(WAYS),
                value=next(iter(WAYS)),
                label="Two stacked edits, asked",
                info="From the next On top, Keep or Examine on: vanilla with the suffix, too, or without it; the gate "
                "asks alike",
                elem_id="stack-way",
            )

    @property
    def named(self) -> dict[str, Any]:
        """The fields of the budgets and of the exam of a stack, by their names on the page."""
        budgets = {name: getattr(self, name) for name in (f"allowed_{entry.name}" for entry in fields(Budgets))}
        return {**budgets, "stack_way": self.stack_way}

    @property
    def fields(self) -> list[Any]:
        """The fields of :attr:`named`."""
        return [*self.named.values()]

    @property
    def drawn(self) -> list[Any]:
        """What an edit changes here."""
        return [self.gate, self.stack]

    def settings(self, values: Values) -> GateSettings:
        """Return the gate's settings on the page.

        Raises:
            CaseError: A budget is empty.
            EditError: A budget is out of range.
        """
        given = {entry.name: values[getattr(self, f"allowed_{entry.name}")] for entry in fields(Budgets)}
        empty = next((name for name, value in given.items() if value is None), None)
        if empty is not None:
            raise CaseError(f"The gate's budget '{words.CHIPS[empty]}' is empty. Give it a value under All settings.")
        return gating.settings_of(Budgets(**given))

    def evaluation(self, values: Values) -> Evaluation:
        """Return how two stacked edits are asked.

        Raises:
            CaseError: The way is unknown.
        """
        return evaluation_of(values[self.stack_way])

    def hear(self) -> None:
        """Say after each run what the gate says now."""
        for news in (News.ENDED, News.CALIBRATED):
            self.bus.hear(news, self.on_ended, outputs=self.drawn)
        self.context.lock(self.keep, state_of_keep)
        self.context.lock(self.examine, lambda session: gr.update(**state_of_examine(session)))

    def connect(self) -> None:
        """Wire the buttons."""
        (clock,) = self.bus.offered("clock").outputs
        press = {"clock": clock, "outputs": self.drawn, "tells": (News.LIVE,)}
        self.context.press(
            self.keep.click,
            self.on_keep,
            inputs=[self.stack_way],
            starting="Keeping the edit",
            brief=True,
            follows=self.stack_exam,
            left=f"Cancelled in line. {words.STAYS_KEPT}",
            **press,
        )
        self.context.press(self.examine.click, self.on_examine, inputs=self.fields, starting="Gate", **press)

    def on_ended(self, session: Session, _values: Values) -> Update:
        """Show the gate's word and the stack's."""
        return {
            self.gate: words.gate_brief(session, self.context.detector is not None),
            self.stack: words.stack_line(session),
        }

    def on_keep(self, session: Session, values: Values) -> Iterator[Update]:
        """Make the refused edit live, recorded as kept by hand."""
        self.evaluation(values)  # what cannot be asked afterwards is said before
        live = gating.keep(session)
        yield self.on_ended(session, values)
        yield from self.bus.tell(News.LIVE, session, values)
        (clock,) = self.bus.offered("clock").outputs
        yield {clock: words.kept_by_hand(live)}

    def stack_exam(self, session: Session, values: Values) -> Iterator[Update] | None:
        """Measure what an edit on top of another does to the first, once it was kept by hand."""
        return self._stack_examined(session, values) if self._stack_exam_due(session, values) else None

    def _stack_exam_due(self, session: Session, values: Values) -> bool:
        """Tell whether it is to be measured, asked as the page says."""
        return gating.stack_exam_due(session, self.evaluation(values)) and not session.cancelled.is_set()

    def _stack_examined(self, session: Session, values: Values) -> Iterator[Update]:
        (clock,) = self.bus.offered("clock").outputs
        yield {clock: message(words.STACK_NEXT)}
        measured = yield from self.stacked(session, values)
        yield {clock: words.stack_ended(True, measured)}

    def on_examine(self, session: Session, values: Values) -> Iterator[Update]:
        """Ask the gate about the edit that waits, or about the live one, then what it does to the one below, if due."""
        (clock,) = self.bus.offered("clock").outputs
        self.evaluation(values)
        waited = session.slot(Gated).held is not None
        run = gating.examine_now(self.model, session, self.settings(values), self.context.detector)
        became_live: bool = yield from drain(run, self.drawing(clock))
        yield {**self.on_ended(session, values), clock: message(ended_words(session))}
        if became_live:
            yield from self.bus.tell(News.LIVE, session, values)
        if (became_live or not waited) and self._stack_exam_due(session, values):
            measured = yield from self.stacked(session, values)
            yield {clock: words.stack_ended(False, measured)}

    def drawing(self, clock: Any) -> Any:
        """Return what shows the gate's progress on the clock."""
        redraw = Throttle(0.2)

        def draw(event: Progress | Preparation) -> Update:
            if not redraw.due():
                return {}
            return {clock: words.examining(event) if isinstance(event, Progress) else words.clock(event)}

        return draw

    def examined(self, session: Session, values: Values, made: Made) -> Generator[Update, None, Made]:
        """Examine an edit that was just made, and return it with the gate's word."""
        (clock,) = self.bus.offered("clock").outputs
        run = gating.examined(self.model, session, made, self.settings(values), self.context.detector)
        return (yield from drain(run, self.drawing(clock)))

    def settled(self, session: Session, values: Values, made: Made) -> Iterator[Update]:
        """Take or hold back an examined edit; whoever hears of live edits hears of it if it is accepted.

        For an edit on top, what it does to the first is measured then.
        """
        (clock,) = self.bus.offered("clock").outputs
        live = gating.settle(session, made)
        yield self.on_ended(session, values)
        if live:
            yield from self.bus.tell(News.LIVE, session, values)
            if self._stack_exam_due(session, values):
                yield from self.stacked(session, values)
            yield {clock: words.finished(made.edit.result)}
        else:
            yield {clock: words.refused(made.edit.result, session.row)}

    def take_in(self, session: Session, values: Values, edit: LiveEdit, row: Row | None = None) -> Iterator[Update]:
        """Examine an edit that another step has made or a file has brought; then it is live or waits, like any other.

        Args:
            row: Its weights as they were brought, strength and detector included; without them it acts as the visitor
                wants it to, else as the gate takes it.
        """
        self.evaluation(values)
        brought = Made(edit) if row is None else Made(edit, detector=row.detector, as_saved=row)
        made = yield from self.examined(session, values, brought)
        yield from self.settled(session, values, made)

    def stacked(self, session: Session, values: Values) -> Generator[Update, None, bool]:
        """Measure and show what the live edit does to the one that it was made on; tells whether that ended whole."""
        (clock,) = self.bus.offered("clock").outputs
        run = gating.stack_exam(self.model, session, self.evaluation(values))
        measured = yield from drain(run, self.drawing(clock))
        yield self.on_ended(session, values)
        return measured is not None


def ended_words(session: Session) -> str:
    """Return the clock's words after the gate was asked by hand."""
    if session.cancelled.is_set():
        return "Stopped: half an exam decides nothing, so everything is as it was."
    return "The gate has examined the edit; its word stands below."


def state_of_keep(session: Session) -> Any:
    """Return the state of Keep it anyway: there only while a refused edit waits or is live."""
    return gr.Button(visible=can_be_kept(session), interactive=True)


def can_be_kept(session: Session) -> bool:
    """Tell whether an edit waits that the gate has examined to its end, or a live one is refused."""
    held = session.slot(Gated).held
    return gating.is_refused(session.live) if held is None else held.acceptance is not None


def state_of_examine(session: Session) -> dict[str, Any]:
    """Return what Examine says and whether it is on: it says why it is off."""
    held = session.slot(Gated).held
    if held is None and session.live is None:
        return {"value": "No edit to examine", "interactive": False}
    again = held is None and gating.record_of(session.live) is not None
    return {"value": "Examine again" if again else "Examine", "interactive": True}
