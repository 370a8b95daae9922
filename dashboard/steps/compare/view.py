"""Compare: both answers to one prompt, strength and Undo, and what the edit changed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.drawing.html import message, progress_bar
from dashboard.kit.room import Context, Detail, Room
from dashboard.kit.running.run import drain
from dashboard.kit.sessions.acting import Acting, Wish, detector_of, route, switched, undo, wish_of
from dashboard.kit.sessions.session import Session
from dashboard.kit.sharing.lent import Lent
from dashboard.steps.compare import run
from dashboard.steps.compare import texts as words
from dashboard.steps.compare.asking import AskingPart
from dashboard.steps.compare.changes import ChangesPart
from dashboard.steps.compare.report import parts
from dashboard.steps.compare.routing import RoutingPart
from dashboard.steps.compare.run import Measured
from dashboard.steps.compare.standing import StandingPart
from dashboard.steps.compare.strength import StrengthPart


class CompareRoom(Room):
    """Ask both weights, scale the edit, undo it."""

    name = "compare"
    help = (
        "<b>Compare.</b> Both answers stand side by side. <b>Strength</b> scales the edit, <b>Ask both</b> asks other "
        "prompts of the case or your own text, <b>Undo</b> is exact."
    )
    reports = staticmethod(parts)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.changes = ChangesPart(context)
        self.routing = RoutingPart(context, self.rerouted)
        self.standing = StandingPart(context)
        self.asking = AskingPart(context, self.routing, self.standing)
        self.curve = StrengthPart(context, self.scaled)

    def build(self) -> None:
        """Lay both answers out under their verdicts."""
        self.asking.build()

    def build_numbers(self) -> None:
        """Lay the four numbers out that matter, below what is of another case."""
        self.standing.build()
        self.changes.build_numbers()

    def build_undo(self) -> None:
        """Lay the Undo button out."""
        live = self.context.example.session.live is not None
        said = "Undo edit" if live else "Nothing to undo"
        self.undo = gr.Button(said, interactive=live, elem_id="undo", min_width=100)

    def build_asking(self) -> None:
        """Lay strength, routing and Ask out, which stand beside the answers."""
        self.strength = gr.Slider(
            0,
            1.5,
            value=1.0,
            step=0.05,
            label="Strength",
            interactive=self.context.example.session.live is not None,
            scale=3,
            min_width=190,
            elem_id="strength",
        )
        self.routing.build()
        self.asking.build_asking()

    def build_own_text(self) -> None:
        """Lay the field for a text of one's own out, shown where it is asked."""
        self.asking.build_own_text()

    def build_shifts(self) -> None:
        """Lay the two figures out that stand under the answers."""
        self.changes.build_shifts()

    def build_details(self) -> None:
        """Lay the strength curve, the other figures and all measured numbers out."""
        self.curve.build()
        self.changes.build()

    def build_decoding(self) -> None:
        """Lay the decoding and the routing out."""
        self.asking.build_decoding()
        self.routing.build_reading()
        self.routing.build_note()

    details = (
        Detail("What the edit changed", build_details),
        Detail("Decoding and routing", build_decoding, is_setting=True),
    )

    def hear(self) -> None:
        """Offer the decoding; measure and ask whatever edit becomes live."""
        self.asking.hear()
        for name, role in (("shown shift", "shift_figure"), ("shown neurons", "neurons")):
            self.bus.offer(name, Offer(call=functools.partial(self.lent, role=role)))
        self.bus.offer("verdicts", Offer(call=run.verdicts_of_live))
        self.bus.offer("undo", Offer(tuple(self.asking.asked), tuple(self._asked_anew), self.on_undo))
        self.bus.hear(
            News.LIVE,
            self.on_live,
            inputs=[*self.standing.read, *self.asking.decoding_fields.values()],
            outputs=[*self._asked_anew, self.strength],
        )
        self.bus.hear(News.EXAMPLE, self.on_arrived, outputs=self._compared)
        self.bus.hear(News.BACK, self.on_back, outputs=self._asked_anew)
        lock = self.context.lock
        lock(self.undo, words_of_undo)
        lock(self.strength, state_of_strength)
        self.routing.hear()
        self.curve.hear()
        self.standing.hear()

    def lent(self, _values: Values, session: Session, role: str) -> Lent | None:
        """Lend a figure of the live edit's comparison, ``None`` where none was measured.

        Args:
            role: The figure's.
        """
        comparison = session.slot(Measured).comparison
        return None if comparison is None or session.live is None else self.changes.lent(comparison, role)

    @property
    def _compared(self) -> list[Any]:
        return [*self.asking.drawn, *self.changes.drawn]

    @property
    def _asked_anew(self) -> list[Any]:
        return [*self._compared, *self.asking.chosen]

    def connect(self) -> None:
        """Wire the controls."""
        press, clock, asked = self.context.press, self.bus.offered("clock").outputs[0], self.asking.asked
        self.asking.connect()
        # Also a click into the number and each time it is left count as a release.
        told: dict[str, Any] = {"outputs": self._asked_anew, "tells": (News.LIVE,), "starting": "", "brief": True}
        moved: dict[str, Any] = {**told, "when": self._is_to_be_scaled}
        for trigger, work, own, how in (
            (self.strength.release, self.on_strength, self.strength, moved),
            (self.undo.click, self.on_undo, self.asking.ask_what, told),
            (self.routing.routed.input, self.routing.on_routed, self.routing.routed, told),
        ):
            press(trigger, work, clock=clock, inputs=dict.fromkeys([own, *asked]), **how)
        self.curve.wire([*asked], [*self._asked_anew, self.strength])

    def _is_to_be_scaled(self, session: Session, values: Values) -> bool:
        """Tell whether the slider was moved, or nothing was measured where it stands."""
        return values[self.strength] != session.strength or (session.live is not None and run.of_live(session) is None)

    def on_strength(self, session: Session, values: Values) -> Iterator[Update]:
        """Scale the patch, measure again and regenerate."""
        self.asking.require_bundled(values)
        session.scale(float(values[self.strength]))
        yield from self._changed(session, values)

    def scaled(self, session: Session, values: Values, strength: float) -> Iterator[Update]:
        """Scale the patch to a strength that was suggested; the curve that suggests it still holds."""
        self.asking.require_bundled(values)
        session.scale(strength)
        yield {self.strength: gr.Slider(value=session.strength)}
        yield from self._changed(session, values)

    def rerouted(self, session: Session, values: Values, wish: Wish) -> Iterator[Update]:
        """Let the live edit act where the visitor wants it to, and ask anew."""
        self.asking.require_bundled(values)
        own = None
        if wish == "where harm":
            clock = self.bus.offered("clock").outputs[0]
            making = detector_of(self.model, session, self.context.detector)
            own = yield from drain(making, lambda event: {clock: progress_bar(event.message, event.fraction)})
            if own is None:
                yield {clock: message("Cancelled: the edit acts where it did.")}
                return
        session.slot(Acting).wish = wish
        route(session, own)
        session.slot(Measured).curve = None  # it was measured of an edit that acts elsewhere
        yield from self._changed(session, values, measure=False)

    def on_undo(self, session: Session, values: Values) -> Iterator[Update]:
        """Drop the live edit; the one before it, or vanilla, is live again, as it acted."""
        self.asking.require_bundled(values)
        before = wish_of(session)
        undo(session)
        yield from self._changed(session, values)
        if session.live is not None and not session.cancelled.is_set():
            yield {self.bus.offered("clock").outputs[0]: words.undone(switched(session, before))}

    def _changed(self, session: Session, values: Values, measure: bool = True) -> Iterator[Update]:
        """Tell the steps that the live weights changed, measure them here and ask what was asked."""

        def work() -> Iterator[Update]:
            self.asking.forget(session)
            yield from self.bus.tell(News.LIVE, session, values, but=self.on_live)
            if session.live is None:
                yield self.changes.of_live(session)
            elif measure:
                yield self._measured(session)
            elif (comparison := run.of_live(session)) is not None:
                yield self.changes.numbered(session, comparison)
            if session.live is None and session.case is None:  # an edit that was made without Locate
                yield self.asking.unanswered(session)
            else:
                yield from self.asking.again(session, values)

        yield from self._or_unanswered(session, work())

    def on_live(self, session: Session, values: Values) -> Iterator[Update]:
        """Measure an edit that has just become live and let it answer."""

        def work() -> Iterator[Update]:
            yield {self.strength: gr.Slider(value=session.strength)}
            yield self._measured(session)
            yield from self.asking.adversarial(session, values)

        yield from self._or_unanswered(session, work())

    def _or_unanswered(self, session: Session, work: Iterator[Update]) -> Iterator[Update]:
        """Do what follows a change of the live weights; where it fails, show nothing that other weights have said."""
        try:
            yield from work
        except Exception:
            yield self._unanswered(session)
            raise

    def _unanswered(self, session: Session) -> Update:
        """Show which weights are live, that they have not answered, and of the measurements only what is theirs."""
        return {**self.asking.unanswered(session), **self.changes.of_live(session)}

    def on_arrived(self, session: Session, _values: Values) -> Update:
        """Show what the example has made: its answers, then what was measured of its edit."""
        update: Update = {}
        if "edit" in session.fresh:
            update |= self.asking.shown(session)
        if session.fresh & {"edit", "comparison"}:
            update |= self.changes.of_live(session)
        return update

    def on_back(self, session: Session, _values: Values) -> Update:
        """Show the visitor's last answers and what was measured of their live edit, or that there is nothing."""
        return {**self.asking.back(session), **self.changes.of_live(session)}

    def _measured(self, session: Session) -> Update:
        return self.changes.shown(session, run.measure(self.model, session))


def state_of_strength(session: Session) -> Any:
    """Return the strength slider's state: it says why it is off."""
    if session.live is None:
        return gr.Slider(value=1.0, interactive=False, info="Off: no edit is live")
    return gr.Slider(value=session.strength, interactive=True, info="")


def words_of_undo(session: Session) -> Any:
    """Return the Undo button's state: it says why it is off."""
    if session.live is None:
        return gr.Button("Nothing to undo", interactive=False)
    return gr.Button("Undo edit", interactive=True)
