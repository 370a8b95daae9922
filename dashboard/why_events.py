"""Events of step 6, why this layer."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr

from dashboard import why, why_figures, why_fragments
from dashboard.compare_events import CompareEvents
from dashboard.context import Update, shown_to_user
from dashboard.inputs import decoding_from
from dashboard.session import Session
from dashboard.why_state import Panel
from editing import EditResult, Preparation
from inspector.errors import CaseError
from inspector.model import Decoding
from inspector.token_attribution import Way
from inspector.toxicity import BUNDLED, labelled_texts


class WhyEvents(CompareEvents):
    """Ask locators, run the atlas, look inside the picked layer."""

    def on_why(self, request: gr.Request, *values: Any) -> Iterator[Update]:
        """Ask all locators and measure what is inside the layers; the charts fill one by one."""
        with shown_to_user(), self.reserved(request) as session:
            session.panel = Panel.of(values[5:12])
            texts = self.texts(values[:5])
            run = why.ask_locators(self.model, session, texts, values[12])
            yield from self.guarded(session, self.parts.why_clock, self._measuring(session, run, "Asked"))

    def on_atlas(self, request: gr.Request, *values: Any) -> Iterator[Update]:
        """Make the atlas; it fills layer by layer and a cancel keeps what is done."""
        with shown_to_user(), self.reserved(request) as session:
            session.panel = Panel.of(values[5:12])
            texts = self.texts(values[:5])
            run = why.atlas(self.model, session, texts, str(values[12]))
            yield from self.guarded(session, self.parts.why_clock, self._measuring(session, run, "Atlas made"))

    def _measuring(self, session: Session, run: Generator[why.WhyProgress, None, None], done: str) -> Iterator[Update]:
        p = self.parts
        yield {**self._running(), p.why_clock: why_fragments.clock("Starting", 0.0)}
        drawn = session.why
        for progress in run:
            update: Update = {p.why_clock: why_fragments.clock(progress.message, progress.fraction)}
            if session.why is not drawn:
                drawn = session.why
                update |= {p.why_head: why_fragments.head(session), **self._overview(session)}
            yield update
        ended = "Cancelled; what was measured is kept." if session.cancelled.is_set() else f"{done}."
        yield {
            p.why_clock: why_fragments.clock(ended, 1.0),
            **self._overview(session),
            **self._inside(session),
        }

    def _overview(self, session: Session) -> Update:
        p, known, block = self.parts, session.why, session.panel.block
        return {
            p.why_locators: why_figures.locators(known.located, block),
            p.why_locators_reading: why_fragments.locators_reading(known.located, block, known.refused),
            p.why_atlas: why_figures.atlas(known.atlas, block),
            p.why_atlas_reading: why_fragments.atlas_reading(known.atlas),
            p.why_agreement: why_fragments.agreements(known.agreements(), known.atlas),
        }

    def _inside(self, session: Session) -> Update:
        """Draw everything that depends on the picked layer or the live weights."""
        p, known = self.parts, session.why
        return {
            **self._neurons(session),
            **self._lens(session),
            **self._regions(session),
            p.why_tokens: why_fragments.token_spans(known.tokens),
            p.why_tokens_reading: why_fragments.tokens_reading(known.tokens),
            p.why_padding: why_figures.padding(known.padding),
            p.why_padding_reading: why_fragments.padding_reading(known.padding),
        }

    def _regions(self, session: Session) -> Update:
        p, block = self.parts, session.panel.block
        curve = why.region_curve(self.model, session)
        return {
            p.why_regions: why_figures.regions(curve, block),
            p.why_probe_reading: why_fragments.probe_reading(session.why.probe, curve, block),
        }

    def _neurons(self, session: Session) -> Update:
        p = self.parts
        found = why.neurons_of(self.model, session, session.panel.block, session.panel.order)
        return {
            p.why_neurons: why_fragments.neuron_rows(found),
            p.why_neurons_reading: why_fragments.neurons_reading(found),
        }

    def _lens(self, session: Session) -> Update:
        p, known, panel = self.parts, session.why, session.panel
        pair = known.lenses.get(panel.answer)
        if pair is None:
            return {
                p.why_lens: why_figures.lens(None, None, 0),
                p.why_lens_reading: why_fragments.lens_reading(known, panel.answer),
                p.why_peaks: "",
            }
        reading = pair[1] if panel.weights == "edited" else pair[0]
        place = min(panel.place, len(reading.positions) - 1)
        found = why.peaks_of(self.model, known, panel.answer, place)
        return {
            p.why_lens: why_figures.lens(reading, panel.block, place),
            p.why_lens_reading: why_fragments.lens_reading(known, panel.answer),
            p.why_peaks: why_fragments.peaks_table(found, f"{place}: {reading.tokens[place]!r}"),
            p.why_place: gr.Slider(maximum=len(reading.positions) - 1),
        }

    def on_why_pick(self, request: gr.Request, *values: Any) -> Update:
        """Let every panel follow the picked layer."""
        session, panel = self.session(request), Panel.of(values)
        with shown_to_user():
            self.model.architecture.check_block(panel.block)
        session.panel = panel
        return {
            **self._overview(session),
            **self._neurons(session),
            **self._lens(session),
            **self._regions(session),
            self.parts.why_selected: "",
        }

    def on_live_changed(self, request: gr.Request, *values: Any) -> Update:
        """After an edit, Undo or another strength: redraw all that shows the live weights."""
        session = self.session(request)
        session.panel = Panel.of(values)
        case, format = session.why.case, session.why.format
        with shown_to_user():
            if case is not None and session.why.lens_weights != session.weights.label():
                for measure in (why.lenses, why.quick_tokens):
                    session.learn(case, format, only_current=True, **measure(self.model, session, case, format))
        return self._inside(session)

    def on_order(self, request: gr.Request, *values: Any) -> Update:
        """List other neurons."""
        session = self.session(request)
        session.panel = Panel.of(values)
        return self._neurons(session)

    def on_lens(self, request: gr.Request, *values: Any) -> Update:
        """Show another text, other weights or another column of the lens."""
        session = self.session(request)
        session.panel = Panel.of(values)
        return self._lens(session)

    def on_neuron(self, request: gr.Request, selected: str, event: gr.SelectData) -> str:
        """Add the clicked neuron to the selection, or take it out."""
        try:
            chosen = why.neurons_from(selected) if selected.strip() else []
        except CaseError:
            chosen = []
        # The table may be sorted: its first cell says which neuron it is.
        chosen = sorted(set(chosen) ^ {int(event.row_value[0])})
        return ", ".join(map(str, chosen))

    def on_knock(self, request: gr.Request, selected: str, *values: Any) -> Iterator[Update]:
        """Knock the selected neurons out: the patch is live, measured and answers."""
        suffix = values[7]
        with shown_to_user(), self.reserved(request) as session:
            session.panel = Panel.of(values[:7])
            if self.read_only and suffix != self.example.texts.suffix:
                raise CaseError("This demo is read-only: free text is off.")
            neurons, decoding = why.neurons_from(selected), decoding_from(values[8:])
            run = self._knocked(session, neurons, decoding)
            yield from self.guarded(session, self.parts.why_clock, run)

    def _knocked(self, session: Session, neurons: list[int], decoding: Decoding) -> Iterator[Update]:
        p = self.parts
        yield {**self._running(), p.why_clock: why_fragments.clock("Starting", 0.0)}
        run = why.knock(self.model, session, neurons, session.panel.block)
        while True:
            try:
                event = next(run)
            except StopIteration as end:
                result: EditResult = end.value
                break
            said = event.message if isinstance(event, Preparation) else f"Measured step {event.step} of 1"
            yield {p.why_clock: why_fragments.clock(said, 0.5)}
        live = session.live
        if result.patch is None or live is None:
            yield {p.why_clock: why_fragments.clock("Cancelled; no edit was made.", 1.0)}
            return
        yield {**self._now_live(live, session), **self._neurons(session)}
        yield self._measured(session)
        yield from self._stream(session, live.case.adversarial_prompt, "Adversarial prompt", live.format, decoding)
        ended = f"Neurons {', '.join(map(str, neurons))} of layer {result.block} are knocked out; see step 4."
        yield {p.why_clock: why_fragments.clock(ended, 1.0)}

    def on_attribute(self, request: gr.Request, *values: Any) -> Iterator[Update]:
        """Attribute the unsafe answer to the prompt's tokens with vanilla and live weights."""
        with shown_to_user(), self.reserved(request) as session:
            session.panel = panel = Panel.of(values)
            run = self._attributed(session, panel.way, panel.ig_steps)
            yield from self.guarded(session, self.parts.why_clock, run)

    def _attributed(self, session: Session, way: Way, steps: int) -> Iterator[Update]:
        p = self.parts
        yield {**self._running(), p.why_clock: why_fragments.clock("Attributing", 0.0)}
        for share, _found in why.attribute(self.model, session, way, steps):
            yield {p.why_clock: why_fragments.clock(f"Attributing by {way}", share)}
        yield {
            p.why_clock: why_fragments.clock("Cancelled." if session.cancelled.is_set() else "Attributed.", 1.0),
            p.why_tokens: why_fragments.token_spans(session.why.tokens),
            p.why_tokens_reading: why_fragments.tokens_reading(session.why.tokens),
        }

    def on_train(self, request: gr.Request, source: str, *values: Any) -> Iterator[Update]:
        """Train the probe on other texts."""
        with shown_to_user(), self.reserved(request) as session:
            session.panel = Panel.of(values)
            if self.read_only:
                raise CaseError("This demo is read-only: the probe stays as it is.")
            run = self._trained(session, (source or "").strip() or BUNDLED)
            yield from self.guarded(session, self.parts.why_clock, run)

    def _trained(self, session: Session, source: str) -> Iterator[Update]:
        p = self.parts
        yield {**self._running(), p.why_clock: why_fragments.clock("Reading the texts", 0.0)}
        labelled = labelled_texts(source)
        for share in why.train(self.model, session, labelled):
            yield {p.why_clock: why_fragments.clock(f"Reading {len(labelled.texts)} texts", share)}
        ended = "Cancelled." if session.cancelled.is_set() else "Probe trained."
        yield {p.why_clock: why_fragments.clock(ended, 1.0), **self._inside(session)}
