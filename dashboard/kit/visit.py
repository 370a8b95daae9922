"""A page that opens, is reloaded or wakes up shows what its visitor's session holds, or says what is gone."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import Hearing, News, Update, Values
from dashboard.kit.drawing.html import reading
from dashboard.kit.room import Context, Room
from dashboard.kit.running.run import QUIET, shown_to_user
from dashboard.kit.sessions.controls import brought_back
from dashboard.kit.sessions.session import Session

WAKING = """
const frame = element.closest(".block") ?? element;
const fit = () => { frame.style.display = element.textContent.trim() ? "" : "none"; };
new MutationObserver(fit).observe(element, { childList: true, subtree: true, characterData: true });
fit();
const look = () => { if (document.visibilityState === "visible") trigger("click"); };
document.addEventListener("visibilitychange", look);
window.addEventListener("online", look);
window.addEventListener("focus", look);
"""
"""The line takes no room while it is empty. A page that comes to the front, is turned to beside another one, or comes
back into the network asks whether it still shows what is there."""
ENDS = 0.6
"""Seconds within which the run of a page that was left ends, as a rule."""
LOOK = 1.0
"""Seconds between two looks of a page at whether a run of another window has ended. The page asks: an event that waited
for it would hold one of the server's threads for as long."""
BROKEN = "The last run was ended because its page lost the connection. What it had finished until then is kept."
ELSEWHERE = "A run of yours goes on in another window, or is just ending. Cancel ends it."


class Visit(Room):
    """Draws the page anew from the session; its one line says what a visitor has to know of it.

    Args:
        context: The page's.
        later: The steps that are drawn when their view is first opened, and not when the page is.
    """

    name = "visit"

    def __init__(self, context: Context, later: Collection[str] = ()) -> None:
        super().__init__(context)
        self.later = later

    def build(self) -> None:
        """Lay the line out."""
        self.notice = gr.HTML("", elem_id="notice", js_on_load=WAKING)
        self.turn = gr.State(0)
        """Changed for a page that has more to show than a new visitor's: only then is all of it in an event's outputs,
        which the browser walks through one by one."""
        self.watch = gr.Timer(LOOK, active=False)
        """Ticks on a page that is locked while something runs for its visitor elsewhere, and on one for which there is
        something to measure once its own run is over."""
        self.over = gr.State(0)
        """Changed on such a page once that has ended, for the same reason as the other one."""
        self.to_measure = gr.State(0)
        """Changed on a page that was drawn anew, or whose wait has ended: what is measured for it is asked for then."""
        self.context.notice = self.notice

    def hear(self) -> None:
        """A new run takes the line away."""
        self.bus.hear(News.BEGAN, lambda *_: {self.notice: ""}, outputs=[self.notice])

    def connect_to(self, app: gr.Blocks) -> Any:
        """Look when the page opens, when it wakes up, and when it was told that its session is gone.

        Args:
            app: The page.

        Returns:
            The event of a page that opens.
        """
        news = (News.BACK, News.BEGAN, News.ENDED)
        inputs = set(self.bus.inputs(*news))
        own = [self.notice, self.watch, self.to_measure]
        outputs = list(dict.fromkeys([*own, *self.context.controls, *self.bus.outputs(*news)]))
        measuring = self.bus.hearings(News.BACK, later=True)

        def on_arrival(_values: Values, request: gr.Request) -> Any:
            with shown_to_user():
                session = self.context.arrive(request)
                if session.own or session.controls:
                    return {self.turn: time.monotonic()}
                said, session.said = session.said, ""
                return {self.notice: reading(said, "warn")} if said else gr.skip()

        def on_return(values: Values, request: gr.Request) -> Iterator[Any]:
            with shown_to_user():
                session = self.context.arrive(request)
                linked = session.linked
                yield from self.shown(session, values, request, opening=True)
                if (
                    session.linked is not linked
                ):  # a link was opened meanwhile: its answer may have come before this one
                    back = brought_back(session)
                    yield {part: back[part] for part in session.linked if part in back}
                said, session.said = session.said, ""
                if said:
                    yield {self.notice: reading(said, "warn")}

        def on_waking(values: Values, request: gr.Request) -> Iterator[Any]:
            with shown_to_user():
                session = self.context.visit(request)
                if session is None:
                    yield self.context.gone(request)
                elif session.undrawn or self.changed_elsewhere(session, request):
                    session.undrawn = False
                    yield from self.shown(session, values, request)
                else:
                    yield gr.skip()

        def on_watch(_values: Values, request: gr.Request) -> Any:
            with shown_to_user():
                session = self.context.visit(request)
                if session is None:
                    return {self.watch: gr.Timer(active=False), **self.context.gone(request)}
                if session.busy:
                    return gr.skip()
                return {self.watch: gr.Timer(active=False), self.over: time.monotonic()}

        def on_over(values: Values, request: gr.Request) -> Iterator[Any]:
            with shown_to_user():
                session = self.context.visit(request)
                if session is None:
                    yield self.context.gone(request)
                elif session.busy and self.is_of(session, request):
                    yield self.asking() or gr.skip()  # the run that the page has begun since tells it its end
                else:
                    yield from self.shown(session, values, request, over=True)

        def on_measured(values: Values, request: gr.Request) -> Iterator[Any]:
            yield gr.skip()
            session = self.context.visit(request)
            if session is not None:
                with shown_to_user():
                    yield from self.measured(measuring, session, values)

        arrived = app.load(on_arrival, {self.turn}, [self.turn, self.notice], **QUIET)
        self.turn.change(on_return, inputs, outputs, **QUIET)
        woken = [self.notice.change, self.notice.click]
        gr.on(woken, on_waking, inputs, outputs, trigger_mode="always_last", **QUIET)  # a look under way is no answer
        self.watch.tick(on_watch, {self.turn}, [self.watch, self.over, self.notice], **QUIET)
        self.over.change(on_over, inputs, outputs, **QUIET)
        read = {part for heard in measuring for part in heard.inputs}
        drawn = dict.fromkeys(part for heard in measuring for part in heard.outputs)
        self.to_measure.change(on_measured, read, [self.watch, *drawn], **QUIET)
        return arrived

    def opens(self, opener: Any, part: Any, steps: Collection[str], name: str) -> None:
        """Give a part of the page, drawn from the session, when its opener is pressed.

        After that comes what other events have said of it while it was on its way, and what is measured.

        Args:
            opener: The button that the page's script presses.
            part: What is opened: a view's column, which is shown then, or what a person has unfolded.
            steps: The names of the steps of which something stands in it.
            name: The event's.
        """
        news, bus, within = (News.BACK, News.BEGAN, News.ENDED), self.bus, self.context.later.parts(part)

        def shown() -> Update:
            return {part: gr.Column(visible=True)} if isinstance(part, gr.Column) else {}

        def drawn(session: Session, values: Values) -> Update:
            values = as_kept(values, session)
            update = bus.told(News.BACK, session, values, steps, within)
            update |= bus.told(News.BEGAN if session.busy else News.ENDED, session, values, steps, within)
            back = brought_back(session)
            update = {
                one: with_value(value, session.controls[one]) if one in back else value for one, value in update.items()
            }
            return {one: value for one, value in (back | update).items() if one in within}

        def on_open(values: Values, request: gr.Request) -> Any:
            said = {} if self.context.visit(request) is not None else self.context.gone(request)
            session = self.context.visit(request)
            if session is None:
                return shown() | said
            try:
                with shown_to_user():
                    update = drawn(session, values)
            except gr.Error as error:  # an empty view in which one can press is more than a page that waits for it
                gr.Warning(error.message)
                return shown() | said
            # A run of the page's own tells it all that it does; of another one the page looks for the end.
            elsewhere = session.busy and not self.is_of(session, request)
            locked = {self.watch: gr.Timer(active=True)} if elsewhere else {}
            return shown() | said | locked | update

        def on_opened(values: Values, request: gr.Request) -> Iterator[Update]:
            yield gr.skip()  # one that yields nothing empties all of its outputs
            session = self.context.visit(request)
            if session is None:
                return
            with shown_to_user():
                while missed := self.context.later.missed(part):
                    yield {one: value for one, value in drawn(session, values).items() if one in missed} or gr.skip()
                yield from self.measured(measuring, session, values)

        self.context.later.hold(part, opener)
        on_open.__name__, on_opened.__name__ = name, name.replace("open", "opened")
        read = set(bus.inputs(*news, rooms=steps))
        outputs = [one for one in (*bus.outputs(*news, rooms=steps), *self.context.controls) if one in within]
        opened = opener.click(
            on_open,
            read,
            list(dict.fromkeys([part, self.notice, self.watch, *outputs])),
            **QUIET,
        )
        measuring = [
            heard
            for heard in bus.hearings(News.BACK, later=True)
            if heard.room in steps and within.issuperset(heard.outputs)
        ]
        read = read.union(*(heard.inputs for heard in measuring))
        outputs += [one for heard in measuring for one in heard.outputs]
        opened.then(on_opened, read, list(dict.fromkeys([self.watch, *outputs])), **QUIET)

    def shown(
        self, session: Session, values: Values, request: gr.Request, opening: bool = False, over: bool = False
    ) -> Iterator[Update]:
        """Draw what a session holds; while something runs for it elsewhere, lock the page and let it look for the end.

        Args:
            opening: The page has no view open yet but the first.
            over: The page was locked, and says so. If nothing has changed that it did not draw, it hears of the end
                alone: what has been set, typed or uncovered on it meanwhile stays.
        """
        until = time.monotonic() + ENDS
        while session.busy and time.monotonic() < until:  # the run of a page that was left ends within one step
            time.sleep(ENDS / 20)
        same = over and not self.changed_elsewhere(session, request)
        # Read before, else what changes meanwhile is lost; told after, else a press of the page as it was would count.
        page, runs = request.session_hash or "", session.runs
        if session.busy:
            locked = {**self.bus.told(News.BEGAN, session, values), self.notice: reading(ELSEWHERE)}
            yield {**self.drawn(session, values, opening), **locked, self.watch: gr.Timer(active=True)}
            self.context.sessions.drew(page, runs)
            return
        said, session.broken = reading(BROKEN, "warn") if session.broken else "", False
        yield {
            **(self.bus.told(News.ENDED, session, values) if same else self.drawn(session, values, opening, over)),
            **({self.notice: said} if said or over else {}),
            **({} if opening else self.asking()),
        } or gr.skip()
        self.context.sessions.drew(page, runs)

    def asking(self) -> Update:
        """Return what lets the page ask for what is measured for it, where it has any of what that changes."""
        measuring = self.bus.hearings(News.BACK, later=True)
        shown = any(self.context.later.shows(heard.outputs) for heard in measuring)
        return {self.to_measure: time.monotonic()} if shown else {}

    def measured(self, measuring: list[Hearing], session: Session, values: Values) -> Iterator[Update]:
        """Yield what is measured for the page; while something runs for its visitor, it looks for the end instead.

        Args:
            measuring: Those who hear later that a page, or a view, shows a session.
        """
        for heard in measuring:
            if not self.context.later.shows(heard.outputs):
                continue
            if session.busy:
                yield {self.watch: gr.Timer(active=True)}
                return
            yield from heard.answered(session, as_kept(values, session))
            self.context.weigh(session)

    def is_of(self, session: Session, request: gr.Request) -> bool:
        """Tell whether what runs for a visitor, or ran last, is of the page that asks."""
        return session.page == (request.session_hash or "")

    def changed_elsewhere(self, session: Session, request: gr.Request) -> bool:
        """Tell whether another window of the visitor has run something since this one was drawn, or is running it."""
        page = request.session_hash or ""
        return self.context.sessions.is_stale(page, session) or (session.busy and session.page not in (None, page))

    def drawn(self, session: Session, values: Values, opening: bool = False, over: bool = False) -> Update:
        """Return the whole page as its session has it, without what is drawn when a view is opened if none is yet.

        A page that was locked hears of the end in any case: what waited may have been cancelled before it did anything.
        """
        kept: Update = dict(session.controls)
        values = {**values, **kept}
        back: Update = brought_back(session)
        if not (session.own or over):
            return back
        rooms = self.bus.rooms - set(self.later) if opening else None
        told: Update = self.bus.told(News.BACK, session, values, rooms) if session.own else {}
        told |= self.bus.told(News.ENDED, session, values)
        return back | {part: with_value(value, kept[part]) if part in kept else value for part, value in told.items()}


def as_kept(values: Values, session: Session) -> Values:
    """Return what an event has read, with what the visitor's session has of it."""
    return {**values, **{part: kept for part, kept in session.controls.items() if part in values}}


def with_value(changed: Any, value: Any) -> Any:
    """Return a component that an update changes, with the value that it had if the update gives it none."""
    if isinstance(changed, dict) and changed.get("__type__") == "update":
        return {"value": value, **changed}
    if not isinstance(changed, gr.blocks.Block) or "value" in changed.constructor_args:
        return changed
    return type(changed)(**{**changed.constructor_args, "value": value})
