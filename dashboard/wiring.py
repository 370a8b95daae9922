"""Events: from what the person did to what the page shows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr

from dashboard import actions, figures, fragments
from dashboard.actions import OWN_PROMPT, Texts
from dashboard.example import Example
from dashboard.layout import (
    CANCEL,
    CANCEL_OFF,
    NO_TEMPLATE,
    OWN_TEMPLATE,
    Parts,
    answer_note,
    examples_of,
    vitals_reading,
)
from dashboard.session import Session, Sessions
from editing import DinmSettings, EditResult, Preparation, Step, preset
from inspector.errors import CaseError, InspectorError
from inspector.model import VANILLA, Decoding, InspectedModel
from inspector.safeedit import bundled_cases, bundled_templates

Update = dict[Any, Any]

TEXT_FIELDS = ("question", "template", "suffix", "safe", "unsafe")
DECODING_FIELDS = ("max_new_tokens", "temperature", "seed")
# Settings on the page, in DinmSettings' names where they differ.
SETTING_FIELDS = {
    "learning_rate": "learning_rate",
    "steps": "steps",
    "optimiser": "optimiser",
    "weight_decay": "weight_decay",
    "edit_weight": "edit_weight",
    "constraint_weight": "constraint_weight",
    "constraint": "constraint",
    "constraint_gradient": "constraint_gradient",
    "direction": "direction",
    "loss_positions": "loss_positions",
    "chat": "chat",
    "end_of_answer": "end_of_answer",
    "stop_below": "stop_below",
    "clamp": "clamp",
    "target": "target_probability",
    "budget": "damage_budget",
    "harmless_prompts": "harmless_prompts",
    "harmless_tokens": "harmless_tokens",
    "watch_unsafe": "watch_unsafe",
}
_ZERO_IS_NONE = ("clamp", "target", "budget")
_WHOLE = ("steps", "harmless_prompts", "harmless_tokens")


@contextmanager
def shown_to_user() -> Iterator[None]:
    """Turn the project's errors into what Gradio shows; the one place where that happens."""
    try:
        yield
    except InspectorError as error:
        raise gr.Error(fragments.escape(error.user_message()), duration=12, print_exception=False) from error


def settings_from(name: Any, suffix: str, values: Sequence[Any]) -> DinmSettings:
    """Build the settings from the page's values, in the order of :data:`SETTING_FIELDS`.

    Raises:
        CaseError: A number field is empty.
        EditError: A value is out of range.
    """
    changes: dict[str, Any] = {"suffix": suffix}
    for (part, setting), value in zip(SETTING_FIELDS.items(), values, strict=True):
        if value is None and part not in _ZERO_IS_NONE:
            raise CaseError(f"The setting '{setting.replace('_', ' ')}' is empty. Give it a value.")
        if part in _ZERO_IS_NONE:
            value = value or None
        changes[setting] = int(value) if part in _WHOLE else value
    return preset(name, **changes)


class Wiring:
    """Connects the components of one page to one model.

    Args:
        model: The shared model.
        sessions: All visitors.
        parts: The components.
        example: What a new visitor starts with.
        read_only: Only bundled texts are allowed.
    """

    def __init__(
        self, model: InspectedModel, sessions: Sessions, parts: Parts, example: Example, read_only: bool
    ) -> None:
        self.model = model
        self.sessions = sessions
        self.parts = parts
        self.example = example
        self.read_only = read_only

    # -- helpers -----------------------------------------------------------------------------------

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

    def connect(self) -> None:
        """Register every event."""
        p = self.parts
        rail = self._components(TEXT_FIELDS)
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        shown: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}

        p.category.input(lambda c: gr.Radio(examples_of(c), value=None), p.category, p.example, **quiet)
        p.example.input(
            self.on_example,
            [p.example, p.suffix],
            [p.question, p.template_name, p.template, p.safe, p.unsafe],
            **quiet,
        )
        p.template_name.input(self.on_template, [p.template_name, p.template], p.template, **quiet)
        p.template.input(lambda: OWN_TEMPLATE, None, p.template_name, **quiet)
        p.unsafe_case.click(self.on_unsafe_case, [p.question, p.unsafe], p.unsafe, **quiet)
        p.unsafe_ask.click(self.on_unsafe_ask, [*rail, *self._components(DECODING_FIELDS)], p.unsafe, **shown)
        gr.on(
            [c.change for c in rail],
            self.on_texts,
            rail,
            [p.prompt, p.prompt_reading, p.locate_reading],
            trigger_mode="always_last",
            **quiet,
        )

        locating = [p.curve, p.block, p.locate_reading, p.heatmap, p.heatmap_reading]
        p.locate_preset.input(
            lambda name: gr.Radio(interactive=name != "corrected"), p.locate_preset, p.padding, **quiet
        )
        p.locate.click(self.on_locate, [*rail, p.locate_preset, p.distance, p.padding, p.once], locating, **shown)
        p.distance.input(self.on_distance, [p.distance, p.once], [p.curve, p.block, p.locate_reading], **quiet)
        p.block.change(self.on_pick, [p.distance, p.block], p.curve, trigger_mode="always_last", **quiet)

        p.edit_preset.input(self.on_preset, p.edit_preset, self._components(list(SETTING_FIELDS)), **quiet)
        p.edit.click(
            self.on_edit,
            [
                *rail,
                p.block,
                p.edit_preset,
                *self._components(list(SETTING_FIELDS)),
                *self._components(DECODING_FIELDS),
            ],
            self._operated(),
            **quiet,
        )
        p.cancel.click(self.on_cancel, None, p.clock, queue=False, **quiet)

        asking = [p.suffix, p.ask_what, p.own_text, *self._components(DECODING_FIELDS)]
        p.ask_what.input(lambda c: gr.Textbox(visible=c == OWN_PROMPT), p.ask_what, p.own_text, **quiet)
        p.ask.click(self.on_ask, asking, self._answered(), **quiet)
        p.strength.release(self.on_strength, [p.strength, *asking], self._compared(), **quiet)
        p.undo.click(self.on_undo, asking, [*self._compared(), p.clock, p.vitals, p.vitals_reading], **quiet)

    def _answered(self) -> list[Any]:
        p = self.parts
        return [
            p.vanilla_head,
            p.vanilla,
            p.edited_head,
            p.edited,
            p.ask,
            p.edit,
            p.undo,
            p.cancel,
            p.clock,
            p.strength,
        ]

    def _compared(self) -> list[Any]:
        p = self.parts
        measured = ("tiles", "token_figure", "token_reading", "divergence_figure", "divergence_reading", "shift_figure")
        more = ("shift_reading", "shift_tokens", "shift_tokens_reading", "neurons", "neurons_reading")
        return [*self._answered(), *self._components((*measured, *more)), p.live, p.figures]

    def _operated(self) -> list[Any]:
        p = self.parts
        return list(dict.fromkeys([*self._compared(), p.clock, p.vitals, p.vitals_reading, p.ask_what, p.own_text]))

    # -- case rail ---------------------------------------------------------------------------------

    def on_example(self, question: str, suffix: str) -> tuple:
        """Fill the rail with a bundled case."""
        case = next(c for c in bundled_cases() if c.question == question)
        texts = actions.texts_of(case, suffix)
        return texts.question, case.attack_name, texts.template, texts.safe, texts.unsafe

    def on_template(self, name: str, current: str) -> str:
        """Show the text of a named template; the slot stays visible."""
        if name == NO_TEMPLATE:
            return ""
        if name == OWN_TEMPLATE:
            return current
        return next(t.text for t in bundled_templates() if t.name == name)

    def on_unsafe_case(self, question: str, current: str) -> str:
        """Take the unsafe answer from the bundled case with this question."""
        case = next((c for c in bundled_cases() if c.question == question), None)
        if case is None:
            gr.Warning("This question is no bundled case. Write an unsafe answer, or ask the model for one.")
            return current
        return case.unsafe

    def on_unsafe_ask(self, request: gr.Request, *values: Any):
        """Stream the vanilla model's own answer, without suffix, into the unsafe answer."""
        with shown_to_user(), self.reserved(request):
            if self.read_only:
                raise CaseError("This demo is read-only, so the model is not asked here. Pick an example.")
            decoding = decoding_from(values[5:])
            yield from actions.ask_for_unsafe(self.model, self.texts(values[:5]), decoding)

    def on_texts(self, request: gr.Request, *values: str) -> Update:
        """Assemble the prompt as it is typed, and say when Locate is out of date."""
        p = self.parts
        session = self.session(request)
        try:
            texts = self.texts(values)
            view = actions.view_prompt(self.model, texts)
        except InspectorError as error:
            return {p.prompt_reading: fragments.reading(error.user_message(), "warn")}
        located = session.case
        stale = located is None or (located.adversarial_prompt, located.safe, located.unsafe) != (
            texts.adversarial_prompt(),
            texts.safe,
            texts.unsafe,
        )
        update: Update = {p.prompt: view.text, p.prompt_reading: fragments.prompt_reading(view)}
        if stale:
            update[p.locate_reading] = fragments.reading(
                "The texts have changed since this was measured. Press Locate to measure them.", "warn"
            )
        return update

    # -- locate ------------------------------------------------------------------------------------

    def on_locate(self, request: gr.Request, *values: Any) -> Update:
        """Measure the divergence and move the picked layer to the toxic one."""
        name, distance, padding, once = values[5:]
        with shown_to_user(), self.reserved(request) as session:
            measured = actions.locate(self.model, session, self.texts(values[:5]), name, padding)
            return {
                **self._located(session, distance, once),
                self.parts.heatmap: figures.divergence_heatmap(measured),
                self.parts.heatmap_reading: fragments.heatmap_reading(measured),
            }

    def on_distance(self, request: gr.Request, distance: str, once: bool) -> Update:
        """Redraw the curve with another distance of the same measurement."""
        return self._located(self.session(request), distance, once)

    def _located(self, session: Session, distance: Any, once: bool) -> Update:
        p, measured = self.parts, session.divergence
        assert measured is not None
        picked = measured.toxic_layer(distance)
        if once and session.first_layer is not None:
            picked = session.first_layer
        session.first_layer = picked if once else None
        last = self.model.architecture.last_block
        return {
            p.curve: figures.curve(measured, distance, picked),
            p.block: picked,
            p.locate_reading: fragments.locate_reading(measured, distance, last),
        }

    def on_pick(self, request: gr.Request, distance: Any, block: int | None) -> Any:
        """Mark the picked layer in the curve."""
        measured = self.session(request).divergence
        if measured is None or block is None:
            return gr.skip()
        with shown_to_user():
            block = self.model.architecture.check_block(int(block))
        return figures.curve(measured, distance, block)

    # -- operate -----------------------------------------------------------------------------------

    def on_preset(self, name: Any) -> list[Any]:
        """Fill every setting from a preset."""
        with shown_to_user():
            settings = preset(name)
        return [
            0.0 if part in _ZERO_IS_NONE and getattr(settings, setting) is None else getattr(settings, setting)
            for part, setting in SETTING_FIELDS.items()
        ]

    def on_cancel(self, request: gr.Request) -> str:
        """Ask the visitor's running work to stop; it does within one step."""
        self.session(request).cancelled.set()
        return fragments.message("Stopping after this step.")

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
            try:
                yield {
                    **self._running(),
                    p.clock: fragments.message("Starting"),
                    p.vitals: vitals_of((), settings),
                    p.vitals_reading: vitals_reading(()),
                }
                result = yield from self._edit_live(session, texts, int(block), settings)
                yield {p.clock: fragments.finished(result), p.vitals_reading: vitals_reading(result.trace)}
                if result.patch is not None:
                    yield {p.live: fragments.live_badge(session), p.strength: strength_slider(session)}
                    yield self._measured(session, texts.suffix)
                    yield {p.ask_what: "Adversarial prompt", p.own_text: gr.Textbox(visible=False)}
                    prompt = texts.adversarial_prompt()
                    yield from self._stream(session, prompt, "Adversarial prompt", texts.suffix, decoding)
                    yield {p.clock: fragments.finished(result)}
            except InspectorError as error:
                yield {**self._idle(session), p.clock: fragments.message(f"Not started: {error.user_message()}")}
                raise
            yield self._idle(session)

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

    # -- compare -----------------------------------------------------------------------------------

    def on_ask(self, request: gr.Request, suffix: str, choice: str, own: str, *values: Any) -> Iterator[Update]:
        """Stream both answers to the chosen prompt."""
        with shown_to_user(), self.reserved(request) as session:
            yield from self._ask(session, suffix, choice, own, values)

    def on_strength(
        self, request: gr.Request, strength: float, suffix: str, choice: str, own: str, *values: Any
    ) -> Iterator[Update]:
        """Scale the patch, measure again and regenerate."""
        with shown_to_user(), self.reserved(request) as session:
            session.scale(float(strength))
            yield {**self._running(), self.parts.live: fragments.live_badge(session)}
            if session.live is not None:
                yield self._measured(session, suffix)
            yield from self._ask(session, suffix, choice, own, values)

    def on_undo(self, request: gr.Request, suffix: str, choice: str, own: str, *values: Any) -> Iterator[Update]:
        """Drop the live edit; the one before it, or vanilla, is live again."""
        p = self.parts
        with shown_to_user(), self.reserved(request) as session:
            before = session.undo()
            yield {**self._running(), p.live: fragments.live_badge(session)}
            if before is None:
                yield {
                    p.tiles: fragments.NO_EDIT,
                    p.figures: gr.Row(visible=False),
                    p.clock: fragments.message("Undone: the vanilla weights are live, bit for bit."),
                }
            else:
                yield self._measured(session, suffix)
                yield {
                    p.clock: fragments.message("Undone: the edit before it is live again."),
                    p.vitals: vitals_of(before.result.trace, before.result.settings),
                    p.vitals_reading: vitals_reading(before.result.trace),
                }
            yield from self._ask(session, suffix, choice, own, values)

    def _ask(self, session: Session, suffix: str, choice: str, own: str, values: Sequence[Any]) -> Iterator[Update]:
        case = session.live.case if session.live else session.case
        if case is None:
            raise CaseError("There is no case yet. Press Locate in step 2 first.")
        if self.read_only and (choice == OWN_PROMPT or suffix != self.example.texts.suffix):
            raise CaseError("This demo is read-only: free text is off. Pick one of the case's prompts.")
        text = actions.prompt_to_ask(case, choice, own)
        decoding = decoding_from(values)
        yield self._running()
        try:
            yield from self._stream(session, text, choice, suffix, decoding)
        except InspectorError:
            yield self._idle(session)
            raise
        yield self._idle(session)

    def _stream(self, session: Session, text: str, choice: str, suffix: str, decoding: Decoding) -> Iterator[Update]:
        p = self.parts
        note = answer_note(choice)

        def edited(text: str) -> str:
            return text if session.live else "No edit is live, so there is no edited answer. Press Edit in step 3."

        yield {
            p.vanilla_head: fragments.weights_badge(VANILLA, note),
            p.edited_head: fragments.weights_badge(session.row, note),
            p.vanilla: "…",
            p.edited: edited("…"),
        }
        drawn, last = 0.0, None
        for answers in actions.ask(self.model, session, text, suffix, decoding):
            last = answers
            if time.monotonic() - drawn > 0.12:
                drawn = time.monotonic()
                yield {p.vanilla: answers.texts[0] + " ▍", p.edited: edited(answers.texts[1] + " ▍")}
        if last is not None:
            ended = "" if all(last.finished) else f" · cut at {decoding.max_new_tokens} tokens"
            if session.cancelled.is_set():
                ended = " · cancelled"
            yield {
                p.vanilla: last.texts[0] or "(empty answer)",
                p.edited: edited(last.texts[1] or "(empty answer)"),
                p.vanilla_head: fragments.weights_badge(VANILLA, note + ended),
                p.edited_head: fragments.weights_badge(session.row, note + ended),
            }

    def _measured(self, session: Session, suffix: str) -> Update:
        p = self.parts
        comparison = actions.measure(self.model, session, suffix)
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

    # -- running and idle --------------------------------------------------------------------------

    def _running(self) -> Update:
        p = self.parts
        return {
            p.edit: gr.Button(interactive=False),
            p.ask: gr.Button(interactive=False),
            p.undo: gr.Button(interactive=False),
            p.cancel: gr.Button(CANCEL, interactive=True),
            p.strength: gr.Slider(interactive=False),
        }

    def _idle(self, session: Session) -> Update:
        p = self.parts
        return {
            p.edit: gr.Button(interactive=True),
            p.ask: gr.Button(interactive=True),
            p.undo: undo_button(session),
            p.cancel: gr.Button(CANCEL_OFF, interactive=False),
            p.strength: strength_slider(session),
        }

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


def vitals_of(trace: Sequence[Step], settings: DinmSettings) -> Any:
    """Draw the vital signs with the settings' step limit, budget and target."""
    return figures.vitals(trace, settings.steps, settings.damage_budget, settings.target_probability)


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


def decoding_from(values: Sequence[Any]) -> Decoding:
    """Build the decoding from the page's values.

    Raises:
        CaseError: A value is missing or out of range.
    """
    longest, temperature, seed = values
    if longest is None or not 1 <= int(longest) <= 1024:
        raise CaseError("The longest answer must have 1 to 1024 tokens. Change it under Decoding.")
    if temperature is None or not 0 <= float(temperature) <= 5:
        raise CaseError("The temperature must be between 0 and 5. Change it under Decoding.")
    return Decoding(max_new_tokens=int(longest), temperature=float(temperature), seed=int(seed or 0))


def require_bundled(texts: Texts, suffix: str) -> None:
    """Refuse texts that are not the project's own; for the read-only demo.

    Raises:
        CaseError: Some text was typed.
    """
    case = next((c for c in bundled_cases() if c.question == texts.question), None)
    templates = {"", *(t.text for t in bundled_templates())}
    if (
        case is None
        or texts.template not in templates
        or (texts.safe, texts.unsafe, texts.suffix) != (case.safe, case.unsafe, suffix)
    ):
        raise CaseError("This demo is read-only: free text is off. Pick an example in the case rail.")
