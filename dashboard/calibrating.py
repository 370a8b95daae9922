"""Calibrating a model while its page is open: at the first load, in the background, said on the page."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import gradio as gr

from dashboard import heading
from dashboard.kit.bus import News, Update, Values
from dashboard.kit.room import Context
from dashboard.kit.running.queue import BEHIND, Line
from dashboard.kit.running.run import QUIET
from dashboard.kit.sessions.session import Session
from editing import Preparation
from editing.calibrating.calibration import Calibration, make_calibration, places, save_calibration
from editing.memory import memory_told
from editing.progress import run as run_quietly
from inspector.errors import InspectorError
from inspector.model import InspectedModel


class Calibrating:
    """One calibration in the background.

    It stands behind everybody in the line of long runs, and holds the model's lock for one forward pass at a time.

    Args:
        model: The model.
    """

    def __init__(self, model: InspectedModel) -> None:
        self._model = model
        self._said, self._share = "Waiting for the model", 0.0
        self._ended = threading.Event()
        self._stopped = threading.Event()
        self.done = False
        """Whether there is a calibration now."""
        self.line = Line()
        """The line of long runs behind which it is made."""

    def start(self, done: Callable[[Calibration], None]) -> None:
        """Begin; the thread ends with the program.

        Args:
            done: Called with the calibration once it is made and kept.
        """
        threading.Thread(target=self._run, args=(done,), name="calibration", daemon=True).start()

    def stop(self) -> None:
        """End it within one step, without a result."""
        self._stopped.set()

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self._ended.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; tells whether it has come."""
        return self._ended.wait(seconds)

    def note(self) -> str:
        """Return what the page says of it now."""
        return heading.calibrating(self._said, self._share, self.ended, BEHIND if len(self.line) else "")

    def _run(self, done: Callable[[Calibration], None]) -> None:
        try:
            with memory_told():
                made = self._made()
            if made is None:
                self._said = "The calibration was stopped."
            else:
                done(made)
                self.done = True
                self._said = "This model is calibrated now: press Locate for its recommended layer."
                save_calibration(made, places(self._model)[0])
        except InspectorError as error:
            self._said = f"This model could not be calibrated: {error.user_message()}"
        except OSError as error:
            self._said += " It could not be kept and will be made again at the next start."
            print(f"Warning: the calibration could not be kept: {error}", file=sys.stderr)
        except Exception:
            self._said = "This model could not be calibrated: an error, see the server's log."
            raise
        finally:
            print(self._said, file=sys.stderr, flush=True)
            self._ended.set()

    def _made(self) -> Calibration | None:
        def heard(event: Preparation) -> None:
            self._said, self._share = event.message, event.fraction
            self.line.give_way(self._stopped.is_set)

        return run_quietly(make_calibration(self._model, self._stopped.is_set), heard)


EVERY = 3.0
"""Seconds between two looks."""


class CalibratingLine:
    """Says on every open page how far a calibration is, and tells the steps there once the model is calibrated.

    Args:
        background: The calibration.
    """

    def __init__(self, background: Calibrating) -> None:
        self.background = background

    def build(self) -> None:
        """Lay the line out, and the clock that looks."""
        self.line = gr.HTML(self.background.note(), elem_id="calibrating")
        self.clock = gr.Timer(EVERY)

    def connect(self, app: gr.Blocks, context: Context) -> None:
        """Look when the page is opened, and every few seconds until it has ended."""
        self.context = context
        outputs = [self.line, self.clock, *context.bus.outputs(News.CALIBRATED)]

        def looking(opening: bool) -> Any:
            def on_calibrating(values: Values, request: gr.Request) -> Any:
                session = context.visit(request)
                if session is not None:
                    values = context.later.standing(values, session.controls)
                return self.look(session, values, opening)

            return on_calibrating

        for event, opening in ((app.load, True), (self.clock.tick, False)):
            read, drawn = set(context.bus.inputs(News.CALIBRATED)), list(dict.fromkeys(outputs))
            event(looking(opening), read, drawn, **QUIET)

    def look(self, session: Session | None, values: Values, opening: bool = False) -> Update:
        """Return what changes on a visitor's page: the line, and what the steps say of a model that is calibrated.

        Args:
            session: That of the page. Where it is gone, or the page has just opened, none is begun here: the next press
                has to find out that it is gone, and the page itself begins one as it arrives.
            opening: The page has just opened, so that its session may be on its way: it looks once more in any case.
        """
        ended = self.background.ended  # asked first: what it says of its end then stands
        update: Update = {self.line: self.background.note()}
        if session is not None and self.background.done:
            update |= self.context.bus.told(News.CALIBRATED, session, values)
        if ended and not (session is None and opening):
            update[self.clock] = gr.Timer(active=False)
        return update
