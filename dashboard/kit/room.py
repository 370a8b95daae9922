"""What a step has at hand: the model, the visitor's session, the bus, and the two ways to wire an event."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from dashboard.kit.bus import Bus, Hearing, News, Update, Values
from dashboard.kit.door.doors import address_of
from dashboard.kit.drawing.html import message
from dashboard.kit.later import Later
from dashboard.kit.running.reserving import LEFT_LINE, Reserving
from dashboard.kit.running.run import CANCEL, CANCEL_OFF, QUIET, SENT, drain, shown_to_user, stopped
from dashboard.kit.sessions.controls import is_control, remember
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.visitors import Sessions
from dashboard.kit.sharing.links import Links
from dashboard.kit.sharing.parts import Reporter
from dashboard.kit.shelf import Shelf
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers
from editing.memory import memory_told
from inspector.model import Detector, InspectedModel

One = TypeVar("One")


@dataclass(frozen=True)
class Choice:
    """What a visitor has picked where the session holds it and not a control, for links.

    Attributes:
        name: What it is, in words.
        read: Returns it; ``None`` is that of a new page.
        write: Takes it over as a link has it; ``None`` takes it back to that of a new page.
        is_setting: Whether it is one, as for :meth:`Context.carry`.
    """

    name: str
    read: Callable[[Session], Any]
    write: Callable[[Session, Any], None]
    is_setting: bool = True


@dataclass(frozen=True)
class Detail:
    """What a step has below the operation, folded until somebody opens it.

    Attributes:
        title: What stands on its tab.
        build: The method of the step's room that lays it out.
        is_setting: Whether it is set there how something is done; what was measured stands before all that.
    """

    title: str
    build: Callable[[Any], None]
    is_setting: bool = False


class Context(Reserving):
    """One page on one model.

    Args:
        model: The shared model.
        sessions: All visitors.
        example: What a new visitor starts with.
        read_only: Only bundled texts are allowed.
        calibration: What was learnt about the model, if it is calibrated.
        ledger: The file of all visits' edits, if the operator wants one.
        beside: Another page of the same program, on another model of its list.
        label: The model's on that list; the first one by default.
    """

    def __init__(
        self,
        model: InspectedModel,
        sessions: Sessions,
        example: Any,
        read_only: bool,
        calibration: Calibration | None = None,
        ledger: Path | None = None,
        beside: Context | None = None,
        label: str = "",
    ) -> None:
        super().__init__(sessions, example, beside)
        self.model = model
        self.read_only = read_only
        self.ledger = ledger
        self.bus = Bus()
        self.reporters: tuple[Reporter, ...] = ()
        self.controls: dict[Any, None] = {}
        self.carried: dict[Any, bool] = {}
        self.carried_as: dict[Any, tuple[str, str]] = {}
        """The name of each in a link: its step's, and its own within that."""
        self.among: dict[Any, tuple[Any, ...]] = {}
        """Of controls that links bring back: the values that one may say, where that is not any."""
        self.choices: list[Choice] = []
        self.reserving: dict[str, bool] = {}
        """What reserves a visitor's session while it runs, by its name: whether it stands in line."""
        self.links = Links()
        self.later = Later()
        self.shelf: Shelf = beside.shelf if beside is not None else Shelf(model)
        self._label = label
        self._ones: dict[type, Any] = {}
        self.detector: Detector | None = None
        self.layers: Layers | None = None
        if calibration is not None:
            self.calibrated(calibration)

    @property
    def label(self) -> str:
        """The model's label on the operator's list."""
        return self._label or self.shelf.labels[0]

    def one(self, kind: type[One], make: Callable[[], One]) -> One:
        """Return what the page has one of for all, for example a step's store of what is costly to load.

        Args:
            kind: The step's own class of it.
            make: Makes it on first sight.
        """
        if kind not in self._ones:
            self._ones[kind] = make()
        return self._ones[kind]

    def calibrated(self, made: Calibration) -> None:
        """Use what was learnt about the model from now on."""
        self.detector, self.layers = made.detector, made.layers

    def carry(self, *, settings: bool = True, among: Iterable[Any] | None = None, **parts: Any) -> None:
        """Let links bring controls back.

        Args:
            settings: Whether they are settings: a bundled example with none changed needs no link that is kept.
            among: The values that a link may say, any by default; for another one it brings that of a new page.
            parts: The controls by their names within the step, which stay while links are kept.
        """
        self.carried |= dict.fromkeys(parts.values(), settings)
        self.carried_as |= {part: (self.bus.speaker, name) for name, part in parts.items()}
        if among is not None:
            self.among |= dict.fromkeys(parts.values(), tuple(among))

    def carry_choice(self, choice: Choice) -> None:
        """Let links bring back what no control holds."""
        self.choices.append(choice)

    def lock(self, component: Any, idle: Callable[[Session], Any] | None = None) -> None:
        """Switch a component off while something runs for the visitor.

        Args:
            idle: What it is afterwards; on, if nothing is given.
        """
        # An update is made anew each time: Gradio takes things out of what it is given.
        self.bus.hear(News.BEGAN, lambda *_: {component: gr.update(interactive=False)}, outputs=[component])

        def ended(session: Session, _values: Values) -> Update:
            return {component: idle(session) if idle else gr.update(interactive=True)}

        self.bus.hear(News.ENDED, ended, outputs=[component])

    def cancels(self, button: Any) -> None:
        """Let a button end the visitor's running work."""

        def says(text: str, on: bool) -> None:
            news = News.BEGAN if on else News.ENDED
            self.bus.hear(news, lambda *_: {button: gr.update(value=text, interactive=on)}, outputs=[button])

        says(CANCEL, True)
        says(CANCEL_OFF, False)

        def on_cancel(request: gr.Request) -> None:
            session = self.visit(request)
            if session is not None:
                session.cancelled.set()

        # The browser answers the press; the work itself says that it has stopped, within one step.
        button.click(None, None, button, js=SENT, **QUIET)
        button.click(on_cancel, None, None, **QUIET)

    def press(
        self,
        trigger: Callable[..., Any],
        work: Callable[[Session, Values], Iterator[Update]],
        *,
        clock: Any,
        inputs: Iterable[Any] = (),
        outputs: Iterable[Any] = (),
        tells: tuple[News, ...] = (),
        starting: str = "Starting",
        when: Callable[[Session, Values], bool] = lambda session, values: True,
        first: Callable[[Session, Values], None] = lambda session, values: None,
        last: Callable[[Session], None] = lambda session: None,
        brief: bool = False,
        follows: Callable[[Session, Values], Iterator[Update] | None] = lambda session, values: None,
        left: str = LEFT_LINE,
    ) -> Any:
        """Wire a run: the session is reserved, buttons are locked, it waits its turn, errors are told, hearers redraw.

        Args:
            trigger: A component's event, for example ``button.click``.
            work: The run. A brief one may return what it draws last: where its page is left then, it has ended by
                itself.
            clock: The component that says how far it is, and while it waits where it stands in line.
            inputs: What it reads.
            outputs: What it changes.
            tells: The news that it may tell.
            starting: First words of the clock; empty for none.
            when: Whether there is anything to run; nothing changes if not.
            first: What is done before anything else can be pressed, for example keeping what the controls say.
            last: What is done when it has ended, also where the run itself never began.
            brief: It passes between the steps of long runs, without standing in line.
            follows: What goes on after a brief one, in line and with the session still reserved; ``None`` for nothing.
            left: Last words of the clock where it was cancelled while it waited.
        """
        bus = self.bus
        self.reserving[work.__name__] = not brief

        def pressed(session: Session, values: Values, address: str | None) -> Generator[Any, None, Update]:
            first(session, values)
            began = bus.told(News.BEGAN, session, values)
            yield {**began, clock: message(starting)} if starting else began
            try:
                with memory_told(self.model):
                    last_word = yield from running(session, values, address)
            except Exception as error:  # whatever it was, the page must be usable again
                yield {**bus.told(News.ENDED, session, values), clock: stopped(error)}
                raise
            return last_word | bus.told(News.ENDED, session, values)

        def running(session: Session, values: Values, address: str | None) -> Generator[Any, None, Update]:
            run: Any = work(session, values)
            kind, cancelled = work.__name__, session.cancelled.is_set
            if brief:
                last_word = (yield from run) or {}
                run = follows(session, values)
                if run is None:
                    return last_word
                kind = follows.__name__
                session.require_room()
            begun = yield from self.line.turns(
                run, kind, cancelled, lambda place: {clock: message(place.text())}, address, session
            )
            if not begun:
                yield {clock: message(left)}
            return {}

        def kept(session: Session, update: Update) -> Update:
            remember(self.controls, session, update)
            return update

        def handle(values: Values, request: gr.Request) -> Iterator[Any]:
            with shown_to_user():
                session = self.visit(request)
                if session is None:
                    yield self.gone(request)
                    return
                values = self.later.standing(values, session.controls)
                if not session.busy and not self.sessions.is_stale(request.session_hash or "", session):
                    remember(self.controls, session, values)  # else what another window has set would be lost
                if not session.busy and not when(session, values):
                    yield gr.skip()
                    return
                with self._reserving(
                    session, request, partial(self.admit, session, request, not brief), shown=True
                ) as there:
                    if not there:
                        yield self.gone(request)
                        return
                    ended = ExitStack()
                    ended.callback(last, session)
                    with ended, closing(pressed(session, values, address_of(request))) as run:
                        end = kept(session, (yield from drain(run, partial(kept, session))))
                    with suppress(GeneratorExit):  # the run has ended by itself: only its last draw is lost
                        yield end or gr.skip()

        told = (News.BEGAN, News.ENDED, *tells)
        read, drawn = [*inputs, *bus.inputs(*told)], [*outputs, clock, *bus.outputs(*told)]
        return self._wire(trigger, handle, work, read, drawn, tells)

    def react(
        self,
        trigger: Callable[..., Any],
        work: Callable[..., Any],
        *,
        inputs: Iterable[Any] = (),
        outputs: Iterable[Any] = (),
        event: type | None = None,
        tells: tuple[News, ...] = (),
        **options: Any,
    ) -> Any:
        """Wire something short, which stands in no line and reserves nothing: it returns an update, or yields several.

        Args:
            event: Gradio's kind of event, which is then its third argument.
            options: For Gradio, for example ``trigger_mode``.
        """

        @contextmanager
        def lent(values: Values, request: gr.Request) -> Iterator[tuple[Session | None, Values]]:
            with shown_to_user():
                session = self.visit(request)
                if session is not None:
                    values = self.later.standing(values, session.controls)
                remember(self.controls, session, values)
                yield session, values

        def kept(session: Session, update: Update | None) -> Any:
            remember(self.controls, session, update or {})
            return update or gr.skip()

        if inspect.isgeneratorfunction(work):

            def stream(values: Values, request: gr.Request) -> Iterator[Any]:
                with lent(values, request) as (session, values):
                    if session is None:
                        yield self.gone(request)
                        return
                    for update in work(session, values):
                        yield kept(session, update)

            handle: Any = stream
        elif event:

            def select(values: Values, request: gr.Request, chosen: gr.EventData) -> Any:
                with lent(values, request) as (session, values):
                    return self.gone(request) if session is None else kept(session, work(session, values, chosen))

            select.__annotations__["chosen"] = event
            handle = select
        else:

            def answer(values: Values, request: gr.Request) -> Any:
                with lent(values, request) as (session, values):
                    return self.gone(request) if session is None else kept(session, work(session, values))

            handle = answer
        read, drawn = [*inputs, *self.bus.inputs(*tells)], [*outputs, *self.bus.outputs(*tells)]
        return self._wire(trigger, handle, work, read, drawn, tells, **options)

    def _wire(
        self,
        trigger: Callable[..., Any],
        handle: Any,
        work: Any,
        inputs: list[Any],
        outputs: list[Any],
        tells: tuple[News, ...],
        **options: Any,
    ) -> Any:
        handle.__name__ = work.__name__
        self.controls |= dict.fromkeys(part for part in inputs if is_control(part))
        said = [self.notice] if self.notice is not None else []
        last = trigger(handle, set(inputs), list(dict.fromkeys([*outputs, *said])), **{**QUIET, **options})
        for news in tells:
            for heard in self.bus.hearings(news, later=True):
                last = self.react(last.then, self._answer_later(heard), inputs=heard.inputs, outputs=heard.outputs)
        return last

    def _answer_later(self, heard: Hearing) -> Callable[[Session, Values], Update]:
        """Return what answers for one who hears later: nothing on a page that was not given what it draws.

        Whatever it learns is weighed: the run that has told the news has ended.
        """

        @wraps(heard.answer)
        def answer(session: Session, values: Values) -> Update:
            if not self.later.shows(heard.outputs):
                return {}
            told = {part: value for update in heard.answered(session, values) for part, value in update.items()}
            self.weigh(session)
            return told

        return answer


FIRST = "operate"
"""The view that a page opens with: the operation."""


class Room:
    """A step: it is built, then it says what it hears and offers, then its events are wired.

    Args:
        context: The page's.
    """

    name = ""
    reports: Reporter | None = None
    """What the step adds to a report of a visit; nothing by default."""
    view = FIRST
    """The view in which it stands, by its name in the address."""
    title = ""
    """What the view is called, which the step has to itself or opens; empty in a view that another step has named."""
    help = ""
    """What the help says of it, as HTML: a sentence that goes on after the title where there is one."""
    details: tuple[Detail, ...] = ()
    """What it has below the operation; nothing by default."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.model, self.bus = context.model, context.bus

    def build(self) -> None:
        """Lay the step out where Gradio stands."""
        raise NotImplementedError

    def hear(self) -> None:
        """Say what the step hears of and what it offers."""

    def connect(self) -> None:
        """Wire the step's events."""
