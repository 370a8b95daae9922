"""Events of step 7, methods."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from dashboard import fragments, methods, methods_figures, methods_fragments
from dashboard.compare_events import CompareEvents
from dashboard.context import Update, shown_to_user
from dashboard.inputs import decoding_from
from dashboard.session import Contest, Session
from editing.contest import Standing
from inspector.errors import CaseError
from inspector.model import Decoding
from inspector.safeedit.judges import EmbeddedJudge


class MethodsEvents(CompareEvents):
    """Run several methods on the case, compare them, load one's patch."""

    def on_methods(self, request: gr.Request, *values: Any) -> Iterator[Update]:
        """Run the chosen methods; the table and the figures fill method by method."""
        titles, scope, train_on, size, tokens, way, block, picked = values[5:]
        with shown_to_user(), self.reserved(request) as session:
            texts = self.texts(values[:5])
            if block is None:
                raise CaseError("No layer is picked. Press Locate, or pick one with the slider.")
            run = methods.run_contest(
                self.model,
                session,
                texts,
                int(block),
                titles or (),
                scope,
                train_on,
                size,
                int(tokens or 40),
                EmbeddedJudge(),
                way,
            )
            chosen = [title for title in methods.TITLES if title in (titles or ())]
            session.method = picked
            filling = self._running_contest(session, run, chosen)
            yield from self.guarded(session, self.parts.methods_clock, filling)

    def _running_contest(self, session: Session, run: Any, chosen: list[str]) -> Iterator[Update]:
        p = self.parts
        yield {**self._running(), p.methods_clock: fragments.message("Starting")}
        drawn, done = 0.0, 0
        while True:
            try:
                event = next(run)
            except StopIteration as end:
                made: Contest = end.value
                break
            fresh = len(event.standings) != done
            if not fresh and time.monotonic() - drawn < 0.3:
                continue
            drawn = time.monotonic()
            update: Update = {p.methods_clock: methods_fragments.progress(event, chosen)}
            if fresh:
                done = len(event.standings)
                update |= {p.methods_head: methods_fragments.head(session), **self._compared_methods(session)}
            yield update
        known, picked = session.contest, session.method
        yield {
            p.methods_clock: methods_fragments.ended(made, session.cancelled.is_set()),
            p.methods_head: methods_fragments.head(session),
            **self._compared_methods(session),
            **self._picked_method(known.named(picked) if known and picked else None),
        }

    def _compared_methods(self, session: Session) -> Update:
        p, picked = self.parts, session.method
        standings = session.contest.standings if session.contest is not None else ()
        return {
            p.methods_table: methods_fragments.rows(standings),
            p.methods_scores: methods_fragments.all_scores(standings),
            p.methods_plane: methods_figures.plane(standings, picked),
            p.methods_plane_reading: methods_fragments.plane_reading(standings),
            p.methods_shifts: methods_figures.shifts_by_block(standings, picked),
            p.methods_shifts_reading: methods_fragments.shifts_reading(standings),
        }

    def _picked_method(self, standing: Standing | None) -> Update:
        p = self.parts
        exam = standing.exam if standing is not None else None
        reply = exam.replies[0] if exam is not None else None
        panes: Update = {}
        for name in ("vanilla", "edited"):
            text = getattr(reply, name).text if reply is not None else ""
            # A class of its own each time writes the classes anew, so that a revealed pane is blurred again.
            key = standing.method.key if standing is not None else "none"
            panes[getattr(p, f"methods_{name}")] = gr.Textbox(
                value=text or "(no answer yet)", elem_classes=["blurred", f"{name}-pane", f"of-{key}"]
            )
        return {
            p.methods_source: methods_figures.source(standing),
            p.methods_source_reading: methods_fragments.source_reading(standing),
            p.methods_neurons: methods_figures.neuron_toxicity(standing),
            p.methods_neurons_reading: methods_fragments.neurons_reading(standing),
            p.methods_answer_head: methods_fragments.answer_head(standing),
            **panes,
        }

    def on_method_picked(self, request: gr.Request, picked: str) -> Update:
        """Let the figures follow the picked method."""
        p, session = self.parts, self.session(request)
        session.method = picked
        known = session.contest
        standings = known.standings if known is not None else ()
        return {
            p.methods_plane: methods_figures.plane(standings, picked),
            p.methods_shifts: methods_figures.shifts_by_block(standings, picked),
            **self._picked_method(known.named(picked) if known is not None else None),
        }

    def on_method_row(self, request: gr.Request, event: gr.SelectData, *values: Any) -> Iterator[Update]:
        """Pick the method of the clicked line and load its patch, if it made one."""
        title = str(event.row_value[0])
        yield {self.parts.methods_picked: title, **self.on_method_picked(request, title)}
        known = self.session(request).contest
        standing = known.named(title) if known is not None else None
        if standing is not None and standing.result is not None and standing.result.patch is not None:
            yield from self.on_method_load(request, title, *values)

    def on_method_load(self, request: gr.Request, title: str, *values: Any) -> Iterator[Update]:
        """Make a method's patch live, measure it and let it answer in step 4."""
        p = self.parts
        with shown_to_user(), self.reserved(request) as session:
            decoding = decoding_from(values)
            yield from self.guarded(session, p.methods_clock, self._loaded(session, title, decoding))

    def _loaded(self, session: Session, title: str, decoding: Decoding) -> Iterator[Update]:
        p = self.parts
        standing = methods.load_method(session, title)
        live, known = session.live, session.contest
        assert live is not None and known is not None
        yield {
            **self._running(),
            **self._now_live(live, session),
            p.methods_clock: fragments.message(f"Measuring {title}'s patch for step 4"),
        }
        yield self._measured(session)
        prompt = known.case.adversarial_prompt
        yield {p.ask_what: "Adversarial prompt", p.own_text: gr.Textbox(visible=False)}
        yield from self._stream(session, prompt, "Adversarial prompt", known.format, decoding)
        yield {p.methods_clock: fragments.progress_bar(f"{standing.method.title}'s patch is live; see step 4.", 1.0)}
