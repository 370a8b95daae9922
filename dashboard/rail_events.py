"""Events of the case rail and of step 1, the prompt."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dashboard import actions, fragments
from dashboard.context import Context, Update, shown_to_user
from dashboard.inputs import decoding_from
from dashboard.parts import NO_TEMPLATE, OWN_TEMPLATE
from inspector.errors import CaseError, InspectorError
from inspector.safeedit import bundled_cases, bundled_templates


class RailEvents(Context):
    """Pick, type and ask; the assembled prompt follows."""

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

    def on_texts(self, request: gr.Request, *values: Any) -> Update:
        """Assemble the prompt as it is typed, and say when Locate is out of date."""
        p = self.parts
        session = self.session(request)
        try:
            texts = self.texts(values[:5])
            view = actions.view_prompt(self.model, texts)
        except InspectorError as error:
            return {p.prompt_reading: fragments.reading(error.user_message(), "warn")}
        case, measured = session.case, session.divergence
        now = (texts.adversarial_prompt(), texts.safe, texts.unsafe, texts.format)
        if case is None or measured is None or (case.adversarial_prompt, case.safe, case.unsafe, session.format) != now:
            located = fragments.reading(
                "The texts have changed since this was measured. Press Locate to measure them.", "warn"
            )
        else:
            located = fragments.locate_reading(measured, values[5], self.model.architecture.last_block, self.layers)
        return {p.prompt: view.text, p.prompt_reading: fragments.prompt_reading(view), p.locate_reading: located}
