"""Events of step 3, operate; an edit ends in step 4."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from dashboard import actions, fragments
from dashboard.actions import Texts
from dashboard.compare_events import CompareEvents, vitals_of
from dashboard.context import Update, shown_to_user
from dashboard.inputs import SETTING_FIELDS, ZERO_IS_NONE, decoding_from, settings_from
from dashboard.session import Session
from editing import DinmSettings, EditResult, Preparation, Step, preset
from editing.values import setting_value
from inspector.errors import CaseError
from inspector.model import Decoding


class OperateEvents(CompareEvents):
    """Fill the settings, edit live, cancel."""

    def on_preset(self, name: Any) -> list[Any]:
        """Fill every setting from a preset."""
        with shown_to_user():
            settings = preset(name)
        return [
            0.0 if part in ZERO_IS_NONE and value is None else value
            for part, value in ((part, setting_value(settings, name)) for part, name in SETTING_FIELDS.items())
        ]

    def on_cancel(self, request: gr.Request) -> None:
        """Ask the visitor's running work to stop; it does within one step, and the work itself says so."""
        self.session(request).cancelled.set()

    def on_edit(self, request: gr.Request, *values: Any) -> Iterator[Update]:
        """Run DINM with live vital signs, then measure and answer."""
        p = self.parts
        texts_values, block, name = values[:5], values[5], values[6]
        setting_values = values[7 : 7 + len(SETTING_FIELDS)]
        with shown_to_user(), self.reserved(request) as session:
            texts = self.texts(texts_values)
            settings = settings_from(name, texts.suffix, setting_values)
            decoding = decoding_from(values[7 + len(SETTING_FIELDS) :])
            if block is None:
                raise CaseError("No layer is picked. Press Locate, or pick one with the slider.")
            run = self._operated_on(session, texts, int(block), settings, decoding)
            yield from self.guarded(session, p.clock, run)

    def _operated_on(
        self, session: Session, texts: Texts, block: int, settings: DinmSettings, decoding: Decoding
    ) -> Iterator[Update]:
        p = self.parts
        yield {
            **self._running(),
            p.clock: fragments.message("Starting"),
            p.vitals: vitals_of((), settings),
            p.vitals_reading: fragments.vitals_reading(()),
        }
        result = yield from self._edit_live(session, texts, block, settings)
        yield {p.clock: fragments.finished(result), p.vitals_reading: fragments.vitals_reading(result.trace)}
        if result.patch is not None:
            yield {p.live: fragments.live_badge(session), p.strength: gr.Slider(value=session.strength)}
            yield self._measured(session)
            yield {p.ask_what: "Adversarial prompt", p.own_text: gr.Textbox(visible=False)}
            prompt = texts.adversarial_prompt()
            yield from self._stream(session, prompt, "Adversarial prompt", texts.format, decoding)
            yield {p.clock: fragments.finished(result)}

    def _edit_live(self, session: Session, texts: Texts, block: int, settings: DinmSettings):
        p = self.parts
        trace: list[Step] = []
        run = actions.edit(self.model, session, texts, block, settings)
        drawn = 0.0
        while True:
            try:
                event = next(run)
            except StopIteration as end:
                result: EditResult = end.value
                yield {p.vitals: vitals_of(result.trace, settings)}
                return result
            if isinstance(event, Preparation):
                yield {p.clock: fragments.clock(event)}
                continue
            trace.append(event)
            seconds = sum(s.seconds for s in trace) / len(trace)
            update: Update = {p.clock: fragments.clock(event, seconds)}
            # A browser redraws a figure in about 0.1 s; faster steps are drawn together.
            if time.monotonic() - drawn > 0.2:
                drawn = time.monotonic()
                update[p.vitals] = vitals_of(trace, settings)
            yield update
