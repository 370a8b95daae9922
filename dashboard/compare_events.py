"""Events of step 4, compare."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from dashboard import actions, figures, fragments
from dashboard.actions import OWN_PROMPT
from dashboard.context import Context, Update, shown_to_user
from dashboard.inputs import decoding_from
from dashboard.session import LiveEdit, Session
from editing import Step
from inspector.errors import CaseError
from inspector.model import VANILLA, Decoding, PromptFormat


class CompareEvents(Context):
    """Ask both weights, scale the edit, undo it."""

    def on_ask(self, request: gr.Request, suffix: str, choice: str, own: str, *values: Any) -> Iterator[Update]:
        """Stream both answers to the chosen prompt."""
        with shown_to_user(), self.reserved(request) as session:
            yield from self._ask(session, suffix, choice, own, values)

    def on_strength(
        self, request: gr.Request, strength: float, suffix: str, choice: str, own: str, *values: Any
    ) -> Iterator[Update]:
        """Scale the patch, measure again and regenerate."""
        with shown_to_user(), self.reserved(request) as session:
            self._require_bundled_prompt(suffix, choice)
            session.scale(float(strength))
            yield {**self._running(), self.parts.live: fragments.live_badge(session)}
            try:
                if session.live is not None:
                    yield self._measured(session)
                yield from self._ask(session, suffix, choice, own, values)
            except Exception:  # whatever it was, the page must be usable again
                yield self._idle(session)
                raise

    def on_routed(
        self, request: gr.Request, routed: bool, suffix: str, choice: str, own: str, *values: Any
    ) -> Iterator[Update]:
        """Let the patch act on every prompt or only where harm is detected, and regenerate."""
        with shown_to_user(), self.reserved(request) as session:
            self._require_bundled_prompt(suffix, choice)
            session.detector = self.detector if routed else None
            yield {**self._running(), self.parts.live: fragments.live_badge(session)}
            try:
                yield from self._ask(session, suffix, choice, own, values)
            except Exception:  # whatever it was, the page must be usable again
                yield self._idle(session)
                raise

    def on_undo(self, request: gr.Request, suffix: str, choice: str, own: str, *values: Any) -> Iterator[Update]:
        """Drop the live edit; the one before it, or vanilla, is live again."""
        p = self.parts
        with shown_to_user(), self.reserved(request) as session:
            self._require_bundled_prompt(suffix, choice)
            before = session.undo()
            yield {**self._running(), p.live: fragments.live_badge(session)}
            try:
                if before is None:
                    yield {
                        p.tiles: fragments.NO_EDIT,
                        p.figures: gr.Row(visible=False),
                        p.clock: fragments.message("Undone: the vanilla weights are live, bit for bit."),
                    }
                else:
                    yield self._measured(session)
                    yield {
                        p.clock: fragments.message("Undone: the edit before it is live again."),
                        p.vitals: vitals_of(before.result.trace, before.result.settings),
                        p.vitals_reading: fragments.vitals_reading(before.result.trace),
                    }
                yield from self._ask(session, suffix, choice, own, values)
            except Exception:  # whatever it was, the page must be usable again
                yield self._idle(session)
                raise

    def _ask(self, session: Session, suffix: str, choice: str, own: str, values: Sequence[Any]) -> Iterator[Update]:
        case = session.live.case if session.live else session.case
        if case is None:
            raise CaseError("There is no case yet. Press Locate in step 2 first.")
        self._require_bundled_prompt(suffix, choice)
        text = actions.prompt_to_ask(case, choice, own)
        decoding = decoding_from(values)
        yield self._running()
        try:
            yield from self._stream(session, text, choice, PromptFormat(suffix), decoding)
        except Exception:  # whatever it was, the page must be usable again
            yield self._idle(session)
            raise
        yield self._idle(session)

    def _require_bundled_prompt(self, suffix: str, choice: str) -> None:
        if self.read_only and (choice == OWN_PROMPT or suffix != self.example.texts.suffix):
            raise CaseError("This demo is read-only: free text is off. Pick one of the case's prompts.")

    def _stream(
        self, session: Session, text: str, choice: str, otherwise: PromptFormat, decoding: Decoding
    ) -> Iterator[Update]:
        p = self.parts
        note = fragments.answer_note(choice, session.live.format if session.live else None, otherwise)

        def edited(text: str) -> str:
            return text if session.live else "No edit is live, so there is no edited answer. Press Edit in step 3."

        yield {
            p.vanilla_head: fragments.weights_badge(VANILLA, note),
            p.edited_head: fragments.weights_badge(session.row, note),
            p.vanilla: "…",
            p.edited: edited("…"),
        }
        drawn, last = 0.0, None
        for answers in actions.ask(self.model, session, text, otherwise, decoding):
            last = answers
            if time.monotonic() - drawn > 0.12:
                drawn = time.monotonic()
                yield {p.vanilla: answers.texts[0] + " ▍", p.edited: edited(answers.texts[1] + " ▍")}
        if last is not None:
            ended = "" if all(last.finished) else f" · cut at {decoding.max_new_tokens} tokens"
            if session.cancelled.is_set():
                ended = " · cancelled"
            held_back = " · no harm detected: the vanilla weights answered" if last.held_back[1] else ""
            yield {
                p.vanilla: last.texts[0] or "(empty answer)",
                p.edited: edited(last.texts[1] or "(empty answer)"),
                p.vanilla_head: fragments.weights_badge(VANILLA, note + ended),
                p.edited_head: fragments.weights_badge(session.row, note + held_back + ended),
            }
        if session.cancelled.is_set():
            yield {p.clock: fragments.message("Stopped: the answers were cut short, the weights are as they were.")}

    def _now_live(self, live: LiveEdit, session: Session) -> Update:
        """Show an edit that has just become live in the badge and in step 3."""
        p, result = self.parts, live.result
        return {
            p.live: fragments.live_badge(session),
            p.strength: gr.Slider(value=session.strength),
            p.clock: fragments.finished(result),
            p.vitals: vitals_of(result.trace, result.settings),
            p.vitals_reading: fragments.vitals_reading(result.trace),
        }

    def _measured(self, session: Session) -> Update:
        p = self.parts
        comparison = actions.measure(self.model, session)
        assert session.live is not None
        readings = fragments.compare_readings(comparison)
        return {
            p.figures: gr.Row(visible=True),
            p.tiles: fragments.tiles(comparison, session.live),
            p.token_figure: figures.token_probabilities(comparison.before[0], comparison.after[0]),
            p.token_reading: readings[0],
            p.divergence_figure: figures.divergence_before_after(comparison),
            p.divergence_reading: readings[1],
            p.shift_figure: figures.shift_by_block(comparison.shift),
            p.shift_reading: readings[2],
            p.shift_tokens: figures.shift_heatmap(comparison.shift),
            p.shift_tokens_reading: readings[3],
            p.neurons: figures.neurons(comparison.profile),
            p.neurons_reading: readings[4],
        }


def vitals_of(trace: Sequence[Step], settings: Any) -> Any:
    """Draw the vital signs with the settings' step limit, budget and target."""
    steps = trace[0].steps if trace else settings.steps
    return figures.vitals(trace, steps, settings.damage_budget, settings.target_probability)
