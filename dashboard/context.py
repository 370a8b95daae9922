"""What every event needs: the model, the visitor's session, and the page in its running and idle state."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import gradio as gr

from dashboard import methods_fragments, why_fragments
from dashboard.actions import Texts
from dashboard.example import Example
from dashboard.fragments import detector_note, message
from dashboard.inputs import require_bundled
from dashboard.parts import CANCEL, CANCEL_OFF, Parts
from dashboard.session import Session, Sessions
from dashboard.stress_fragments import head
from dashboard.why import toxicities
from editing.calibration import Calibration
from editing.memory import memory_told
from editing.trial_edits import Layers
from inspector.errors import CaseError, InspectorError
from inspector.model import Detector, InspectedModel
from inspector.safeedit.verdict import Judge

Update = dict[Any, Any]


@contextmanager
def shown_to_user() -> Iterator[None]:
    """Turn the project's errors into what Gradio shows; the one place where that happens."""
    try:
        with memory_told():
            yield
    except InspectorError as error:
        # Quotes stay: the text goes between tags on the page, and to programs as it is.
        message = escape(error.user_message(), quote=False)
        raise gr.Error(message, duration=12, print_exception=False) from error


class Context:
    """One page on one model; the families of events build on it.

    Args:
        model: The shared model.
        sessions: All visitors.
        parts: The components.
        example: What a new visitor starts with.
        read_only: Only bundled texts are allowed.
        calibration: What was learnt about the model, if it is calibrated.
    """

    def __init__(
        self,
        model: InspectedModel,
        sessions: Sessions,
        parts: Parts,
        example: Example,
        read_only: bool,
        calibration: Calibration | None = None,
    ) -> None:
        self.model = model
        self.sessions = sessions
        self.parts = parts
        self.example = example
        self.read_only = read_only
        self.detector: Detector | None = None
        self.layers: Layers | None = None
        if calibration is not None:
            self.calibrated(calibration)
        self._judges: dict[str, Judge] = {}
        self._judges_lock = threading.Lock()

    def calibrated(self, made: Calibration) -> None:
        """Use what was learnt about the model from now on."""
        self.detector, self.layers = made.detector, made.layers

    def session(self, request: gr.Request | None) -> Session:
        """Return the visitor's session; it starts with the finished example."""
        session = self.sessions.of(request.session_hash if request else None)
        if not session.started:
            self.example.fill(session)
        return session

    def texts(self, values: Sequence[str | None]) -> Texts:
        """Return the rail's texts, refused in a read-only demo if they are not bundled."""
        texts = Texts(*(value or "" for value in values))
        if self.read_only:
            require_bundled(texts, self.example.texts.suffix)
        return texts

    def _components(self, names: Sequence[str]) -> list[Any]:
        return [getattr(self.parts, name) for name in names]

    def _running(self) -> Update:
        p = self.parts
        return {
            p.edit: gr.Button(interactive=False),
            p.ask: gr.Button(interactive=False),
            p.undo: gr.Button(interactive=False),
            p.cancel: gr.Button(CANCEL, interactive=True),
            p.strength: gr.Slider(interactive=False),
            p.routed: gr.Checkbox(interactive=False),
            p.stress: gr.Button(interactive=False),
            p.stress_cancel: gr.Button(CANCEL, interactive=True),
            p.why: gr.Button(interactive=False),
            p.why_atlas_run: gr.Button(interactive=False),
            p.why_cancel: gr.Button(CANCEL, interactive=True),
            p.why_knock: gr.Button(interactive=False),
            p.why_edit: gr.Button(interactive=False),
            p.why_attribute: gr.Button(interactive=False),
            p.why_train: gr.Button(interactive=False),
            p.methods: gr.Button(interactive=False),
            p.methods_load: gr.Button(interactive=False),
            p.methods_cancel: gr.Button(CANCEL, interactive=True),
        }

    def _idle(self, session: Session) -> Update:
        p = self.parts
        return {
            p.edit: gr.Button(interactive=True),
            p.ask: gr.Button(interactive=True),
            p.undo: undo_button(session),
            p.cancel: gr.Button(CANCEL_OFF, interactive=False),
            p.strength: strength_slider(session),
            p.routed: gr.Checkbox(
                value=session.detector is not None,
                interactive=self.detector is not None and session.live is not None,
                info=detector_note(self.detector),
            ),
            p.stress: stress_button(session),
            p.stress_cancel: gr.Button(CANCEL_OFF, interactive=False),
            p.stress_head: head(session.exam, session.row),
            p.why: gr.Button(interactive=True),
            p.why_atlas_run: gr.Button(interactive=True),
            p.why_cancel: gr.Button(CANCEL_OFF, interactive=False),
            p.why_knock: gr.Button(interactive=True),
            p.why_edit: gr.Button(interactive=True),
            p.why_attribute: gr.Button(interactive=True),
            p.why_train: gr.Button(interactive=not self.read_only),
            p.why_head: why_fragments.head(session),
            p.why_edits: why_fragments.edits_table(session, toxicities(self.model, session)),
            p.methods: gr.Button(interactive=True),
            p.methods_load: gr.Button(interactive=True),
            p.methods_cancel: gr.Button(CANCEL_OFF, interactive=False),
            p.methods_head: methods_fragments.head(session),
        }

    def guarded(self, session: Session, clock: Any, run: Iterator[Update]) -> Iterator[Update]:
        """Run a long job; whatever happens in it, the page is usable again and its clock says what it was."""
        try:
            with memory_told():
                yield from run
        except Exception as error:
            said = error.user_message() if isinstance(error, InspectorError) else "an error; see the server's log."
            yield {**self._idle(session), clock: message(f"Stopped: {said}")}
            raise
        yield self._idle(session)

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


def strength_slider(session: Session) -> Any:
    """Return the strength slider's state: it says why it is off."""
    if session.live is None:
        return gr.Slider(value=1.0, interactive=False, info="Off: no edit is live")
    return gr.Slider(value=session.strength, interactive=True, info="0 vanilla, 1 as made; release to regenerate")


def undo_button(session: Session) -> Any:
    """Return the Undo button's state: it says why it is off."""
    if session.live is None:
        return gr.Button("Nothing to undo", interactive=False)
    return gr.Button("Undo edit", interactive=True)


def stress_button(session: Session) -> Any:
    """Return the Stress test button's state: it says why it is off."""
    if session.live is None:
        return gr.Button("No edit to score", interactive=False)
    return gr.Button("Stress test", interactive=True)
