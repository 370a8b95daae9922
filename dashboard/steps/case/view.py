"""The case: its question, attack, answers and suffix, and the prompt that they make."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.html import reading
from dashboard.kit.room import Room
from dashboard.kit.run import SHOWN
from dashboard.kit.session import Session
from dashboard.kit.typed import Texts, texts_of
from dashboard.kit.values import require_bundled
from dashboard.steps.case import run
from dashboard.steps.case import texts as words
from inspector.errors import CaseError, InspectorError
from inspector.safeedit import bundled_cases, bundled_templates

NO_TEMPLATE = "No attack, the question alone"
OWN_TEMPLATE = "Your own template"


SEARCH = """
const list = () => element.querySelectorAll("[data-number]");
element.addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const line of list()) line.hidden = !line.textContent.toLowerCase().includes(wanted);
});
element.addEventListener("click", (event) => {
  const picked = event.target.closest("[data-number]");
  if (!picked) return;
  for (const line of list()) line.setAttribute("aria-current", String(line === picked));
  trigger("click", {number: Number(picked.dataset.number)});
});
"""
"""What the list of examples does in the browser: it searches by itself and tells which line was clicked."""


class CaseRoom(Room):
    """Pick, type and ask; the assembled prompt follows."""

    name = "case"

    def build(self) -> None:
        """Lay the rail out."""
        example, free = self.context.example, not self.context.read_only
        texts = example.texts
        case = next(c for c in bundled_cases() if c.question == texts.question)
        if not free:
            gr.HTML('<p class="reading warn">Read-only demo: pick examples; free text is off.</p>')
        self.question = gr.Textbox(
            texts.question,
            label="Question",
            info="Your own, or an example below",
            lines=2,
            max_lines=5,
            interactive=free,
            elem_id="question",
        )
        view = run.view_prompt(self.model, texts)
        self.prompt_reading = gr.HTML(words.prompt_reading(view), elem_id="prompt-reading")
        self.template_name = gr.Dropdown(
            [NO_TEMPLATE, *(t.name for t in bundled_templates()), OWN_TEMPLATE],
            value=case.attack_name,
            label="Attack",
            interactive=True,
            elem_id="template-name",
        )
        self.attack = gr.HTML(words.attack_in_place(texts), elem_id="attack")
        with gr.Accordion("Attack template", open=False, elem_id="template-fold"):
            self.template = gr.Textbox(
                texts.template,
                label="Template text",
                info="The question goes where {question} stands",
                lines=3,
                max_lines=8,
                interactive=free,
                elem_id="template",
            )
        with gr.Accordion("Safe answer", open=False, elem_id="safe-fold"):
            self.safe = gr.Textbox(
                texts.safe,
                label="Safe answer",
                lines=3,
                max_lines=8,
                interactive=free,
                elem_id="safe",
                elem_classes="safe",
            )
        with gr.Accordion("Unsafe answer", open=False, elem_id="unsafe-fold"):
            self.unsafe = gr.Textbox(
                texts.unsafe,
                label="Unsafe answer",
                info="Blurred until clicked",
                lines=3,
                max_lines=8,
                interactive=free,
                elem_id="unsafe",
                elem_classes="unsafe blurred",
            )
            with gr.Row(elem_classes="tight"):
                self.unsafe_case = gr.Button("From the case", size="sm", min_width=80)
                self.unsafe_ask = gr.Button(
                    "Ask the model" if free else "Ask the model (off: read-only)",
                    size="sm",
                    min_width=80,
                    interactive=free,
                )
        with gr.Accordion("Suffix", open=False, elem_id="suffix-fold"):
            self.suffix = gr.Textbox(
                texts.suffix,
                label="Suffix prompt S",
                info="Put after every prompt with one space; an edit is asked with the one it was made with",
                lines=2,
                max_lines=4,
                interactive=free,
                elem_id="suffix",
            )
        self.examples = gr.HTML(
            words.examples(texts.question), js_on_load=SEARCH, apply_default_css=False, elem_id="examples"
        )

    def build_prompt(self) -> None:
        """Lay the assembled prompt out."""
        view = run.view_prompt(self.model, self.context.example.texts)
        self.prompt = gr.Textbox(
            view.text,
            label="Adversarial prompt",
            show_label=False,
            lines=8,
            max_lines=14,
            interactive=False,
            buttons=["copy"],
            elem_classes="mono",
            elem_id="assembled",
        )

    @property
    def _fields(self) -> tuple[Any, ...]:
        return self.question, self.template, self.suffix, self.safe, self.unsafe

    def texts(self, values: Values) -> Texts:
        """Return the rail's texts, refused in a read-only demo if they are not bundled."""
        texts = Texts(*(values[part] or "" for part in self._fields))
        if self.context.read_only:
            require_bundled(texts, self.context.example.texts.suffix)
        return texts

    def hear(self) -> None:
        """Offer the texts."""
        self.bus.offer("texts", Offer(self._fields, call=self.texts))
        self.bus.offer("suffix", Offer((self.suffix,), call=lambda values: values[self.suffix]))

    def connect(self) -> None:
        """Wire the rail."""
        react = self.context.react
        filled = [self.question, self.template_name, self.template, self.safe, self.unsafe]
        react(self.examples.click, self.on_example, inputs=[self.suffix], outputs=filled, event=gr.EventData)
        named = [self.template_name, self.template]
        react(self.template_name.input, self.on_template, inputs=named, outputs=[self.template])
        react(self.template.input, self.on_own_template, outputs=[self.template_name])
        answers = [self.question, self.unsafe]
        react(self.unsafe_case.click, self.on_unsafe_case, inputs=answers, outputs=[self.unsafe])
        decoding = self.bus.offered("decoding").inputs
        asked = [*self._fields, *decoding]
        react(self.unsafe_ask.click, self.on_unsafe_ask, inputs=asked, outputs=[self.unsafe], reserve=True, **SHOWN)

        def typed(*arguments: Any, **options: Any) -> Any:
            return gr.on([part.change for part in self._fields], *arguments, **options)

        react(
            typed,
            self.on_texts,
            inputs=self._fields,
            outputs=[self.prompt, self.prompt_reading, self.attack],
            tells=(News.TYPED,),
            trigger_mode="always_last",
        )

    def on_example(self, _session: Session, values: Values, event: gr.EventData) -> Update:
        """Fill the rail with the bundled case whose line was clicked."""
        case = words.offered_cases()[int(event.number)]
        texts = texts_of(case, values[self.suffix])
        return {
            self.question: texts.question,
            self.template_name: case.attack_name,
            self.template: texts.template,
            self.safe: texts.safe,
            self.unsafe: texts.unsafe,
        }

    def on_template(self, _session: Session, values: Values) -> Update:
        """Show the text of a named template; the slot stays visible."""
        name = values[self.template_name]
        if name == OWN_TEMPLATE:
            return {}
        text = "" if name == NO_TEMPLATE else next(t.text for t in bundled_templates() if t.name == name)
        return {self.template: text}

    def on_own_template(self, _session: Session, _values: Values) -> Update:
        """Call a template that was typed in one's own."""
        return {self.template_name: OWN_TEMPLATE}

    def on_unsafe_case(self, _session: Session, values: Values) -> Update:
        """Take the unsafe answer from the bundled case with this question."""
        case = next((c for c in bundled_cases() if c.question == values[self.question]), None)
        if case is None:
            gr.Warning("This question is no bundled case. Write an unsafe answer, or ask the model for one.")
            return {}
        return {self.unsafe: case.unsafe}

    def on_unsafe_ask(self, _session: Session, values: Values):
        """Stream the vanilla model's own answer, without suffix, into the unsafe answer."""
        if self.context.read_only:
            raise CaseError("This demo is read-only, so the model is not asked here. Pick an example.")
        decoding = self.bus.offered("decoding").call(values)
        for text in run.ask_for_unsafe(self.model, self.texts(values), decoding):
            yield {self.unsafe: text}

    def on_texts(self, session: Session, values: Values) -> Update:
        """Assemble the prompt as it is typed, and tell the steps."""
        typed = Texts(*(values[part] or "" for part in self._fields))
        attack = words.attack_in_place(typed)
        try:
            view = run.view_prompt(self.model, self.texts(values))
        except InspectorError as error:
            return {self.prompt_reading: reading(error.user_message(), "warn"), self.attack: attack}
        told = self.bus.told(News.TYPED, session, values)
        read = {self.prompt: view.text, self.prompt_reading: words.prompt_reading(view), self.attack: attack}
        return {**read, **told}
