"""What a step has at hand: the model, the visitor's session, the bus, and the two ways to wire an event."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from dashboard.kit.bus import Bus, News, Update, Values
from dashboard.kit.html import message
from dashboard.kit.run import CANCEL, CANCEL_OFF, QUIET, SENT, shown_to_user, stop_line
from dashboard.kit.session import Session, Sessions
from editing.calibration import Calibration
from editing.memory import memory_told
from editing.trial_edits import Layers
from inspector.errors import CaseError
from inspector.model import Detector, InspectedModel


class Context:
    """One page on one model.

    Args:
        model: The shared model.
        sessions: All visitors.
        example: What a new visitor starts with.
        read_only: Only bundled texts are allowed.
        calibration: What was learnt about the model, if it is calibrated.
    """

    def __init__(
        self,
        model: InspectedModel,
        sessions: Sessions,
        example: Any,
        read_only: bool,
        calibration: Calibration | None = None,
    ) -> None:
        self.model = model
        self.sessions = sessions
        self.example = example
        self.read_only = read_only
        self.bus = Bus()
        self.detector: Detector | None = None
        self.layers: Layers | None = None
        if calibration is not None:
            self.calibrated(calibration)

    def calibrated(self, made: Calibration) -> None:
        """Use what was learnt about the model from now on."""
        self.detector, self.layers = made.detector, made.layers

    def session(self, request: gr.Request | None) -> Session:
        """Return the visitor's session; it starts with the finished example."""
        session = self.sessions.of(request.session_hash if request else None)
        if not session.started:
            self.example.fill(session)
        return session

    @contextmanager
    def reserved(self, request: gr.Request | None) -> Iterator[Session]:
        """Reserve the visitor's session for one run at a time."""
        session = self.session(request)
        if not session.begin():
            raise CaseError("Something is still running for you. Wait for it, or press Cancel.")
        try:
            yield session
        finally:
            session.end()

    def lock(self, component: Any, idle: Callable[[Session], Any] | None = None) -> None:
        """Switch a component off while something runs for the visitor.

        Args:
            idle: What it is afterwards; on, if nothing is given.
        """
        kind = type(component)
        self.bus.hear(News.BEGAN, lambda *_: {component: kind(interactive=False)}, outputs=[component])

        def on(session: Session, _values: Values) -> Update:
            return {component: idle(session) if idle else kind(interactive=True)}

        self.bus.hear(News.ENDED, on, outputs=[component])

    def cancels(self, button: Any) -> None:
        """Let a button end the visitor's running work."""
        self.bus.hear(News.BEGAN, lambda *_: {button: gr.Button(CANCEL, interactive=True)}, outputs=[button])
        self.bus.hear(News.ENDED, lambda *_: {button: gr.Button(CANCEL_OFF, interactive=False)}, outputs=[button])

        def on_cancel(request: gr.Request) -> None:
            self.session(request).cancelled.set()

        # The browser answers the press; the work itself says that it has stopped, within one step.
        button.click(None, None, button, js=SENT, **QUIET)
        button.click(on_cancel, None, None, queue=False, **QUIET)

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
    ) -> Any:
        """Wire a long run: the session is reserved, buttons are locked, errors are told, hearers redraw.

        Args:
            trigger: A component's event, for example ``button.click``.
            work: The run.
            clock: The component that says how far it is.
            inputs: What it reads.
            outputs: What it changes.
            tells: The news that it may tell.
            starting: First words of the clock; empty for none.
            when: Whether there is anything to run; nothing changes if not.
            first: What is done before anything else can be pressed, for example keeping what the controls say.
        """
        bus = self.bus

        def handle(values: Values, request: gr.Request) -> Iterator[Any]:
            with shown_to_user(), self.reserved(request) as session:
                if not when(session, values):
                    yield gr.skip()
                    return
                first(session, values)
                began = bus.told(News.BEGAN, session, values)
                yield {**began, clock: message(starting)} if starting else began
                try:
                    with memory_told():
                        yield from work(session, values)
                except Exception as error:  # whatever it was, the page must be usable again
                    yield {**bus.told(News.ENDED, session, values), clock: message(stop_line(error))}
                    raise
                yield bus.told(News.ENDED, session, values)

        return self._wire(
            trigger, handle, work, [*inputs, *bus.inputs(*tells)], self._outputs(outputs, clock, *tells), tells
        )

    def react(
        self,
        trigger: Callable[..., Any],
        work: Callable[..., Any],
        *,
        inputs: Iterable[Any] = (),
        outputs: Iterable[Any] = (),
        reserve: bool = False,
        event: type | None = None,
        tells: tuple[News, ...] = (),
        **options: Any,
    ) -> Any:
        """Wire something short: it returns an update, or yields several.

        Args:
            reserve: Refuse it while something runs for the visitor.
            event: Gradio's kind of event, which is then its third argument.
            options: For Gradio, for example ``trigger_mode``.
        """

        @contextmanager
        def lent(request: gr.Request) -> Iterator[Session]:
            with shown_to_user():
                if reserve:
                    with self.reserved(request) as session:
                        yield session
                else:
                    yield self.session(request)

        if inspect.isgeneratorfunction(work):

            def stream(values: Values, request: gr.Request) -> Iterator[Any]:
                with lent(request) as session:
                    for update in work(session, values):
                        yield update or gr.skip()

            handle: Any = stream
        elif event:

            def select(values: Values, request: gr.Request, chosen: gr.EventData) -> Any:
                with lent(request) as session:
                    return work(session, values, chosen) or gr.skip()

            select.__annotations__["chosen"] = event
            handle = select
        else:

            def answer(values: Values, request: gr.Request) -> Any:
                with lent(request) as session:
                    return work(session, values) or gr.skip()

            handle = answer
        read, drawn = [*inputs, *self.bus.inputs(*tells)], [*outputs, *self.bus.outputs(*tells)]
        return self._wire(trigger, handle, work, read, drawn, tells, **options)

    def _outputs(self, own: Iterable[Any], clock: Any, *tells: News) -> list[Any]:
        return [*own, clock, *self.bus.outputs(News.BEGAN, News.ENDED, *tells)]

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
        last = trigger(handle, set(inputs), list(dict.fromkeys(outputs)), **{**QUIET, **options})
        for news in tells:
            for heard in self.bus.hearings(news, later=True):
                last = self.react(last.then, heard.answer, inputs=heard.inputs, outputs=heard.outputs)
        return last


class Room:
    """A step: it is built, then it says what it hears and offers, then its events are wired.

    Args:
        context: The page's.
    """

    name = ""

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
