"""The case: its question, attack, answers and suffix, and the prompt that they make."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.drawing.html import reading
from dashboard.kit.room import Context, Detail, Room
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts, texts_of
from dashboard.kit.sessions.values import require_bundled
from dashboard.steps.case import run
from dashboard.steps.case import texts as words
from dashboard.steps.case.answers import Answers
from dashboard.steps.case.origins import noted
from dashboard.steps.case.report import parts
from dashboard.steps.case.state import Typing
from inspector.errors import CaseError, InspectorError
from inspector.model import PromptFormat
from inspector.model.prompt_format import has_chat_template
from inspector.safeedit import Case, bundled_cases, bundled_templates

NO_TEMPLATE = "No attack, the question alone"
OWN_TEMPLATE = "Your own template"
CHAT_TEMPLATE, PLAIN_TEXT = "Chat template", "Plain text"


SEARCH = """
const list = () => [...element.querySelectorAll("[data-number]")];
// The list is one stop of the Tab key; arrows walk through it.
const stop = (line) => list().forEach((one) => { one.tabIndex = one === line ? 0 : -1; });
const seen = () => list().filter((line) => !line.hidden);
const first = () => seen().find((line) => line.getAttribute("aria-current") === "true") ?? seen()[0];
stop(first());
element.addEventListener("focusin", (event) => { if (event.target.matches("[data-number]")) stop(event.target); });
element.addEventListener("keydown", (event) => {
  const lines = seen(), at = lines.indexOf(document.activeElement);
  const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: lines.length - 1}[event.key];
  if (to === undefined || at < 0 && event.key !== "ArrowDown") return;
  event.preventDefault();
  (lines[to] ?? element.querySelector("input")).focus();
});
element.addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const line of list()) line.hidden = !line.textContent.toLowerCase().includes(wanted);
  element.querySelector("[role=status]").hidden = seen().length > 0;
  stop(first());
});
// The marked line is the question that stands in the rail, whoever has put it there; none for one of a visitor's own.
const mark = () => {
  const question = document.querySelector("#question textarea")?.value;
  const isIt = (line) => line.querySelector("b").textContent === question;
  for (const line of list()) line.setAttribute("aria-current", String(isIt(line)));
};
document.addEventListener("input", (event) => { if (event.target.closest?.("#question")) mark(); });
for (const drawn of document.querySelectorAll("#attack, #prompt-reading")) {
  new MutationObserver(mark).observe(drawn, {childList: true, subtree: true, characterData: true});
}
element.addEventListener("click", (event) => {
  const picked = event.target.closest("[data-number]");
  if (!picked) return;
  for (const line of list()) line.setAttribute("aria-current", String(line === picked));
  trigger("click", {number: Number(picked.dataset.number)});
});
"""
"""What the list of examples does in the browser: it searches, takes arrows, and tells which line was clicked."""


class CaseRoom(Room):
    """Pick, type and ask; the assembled prompt follows."""

    name = "case"
    help = (
        "<b>Case.</b> Write a question on the left or pick an example; attack, answers and suffix are folded below it."
    )
    reports = staticmethod(parts)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.answers = Answers(context, self.typed, self._texts)

    def build(self) -> None:
        """Lay the rail out."""
        example, free = self.context.example, not self.context.read_only
        texts = example.texts
        case = next(c for c in bundled_cases() if c.question == texts.question)
        gr.HTML("<h2>Case</h2>", elem_classes="unseen")
        if not free:
            gr.HTML('<p class="reading warn">Read-only demo: pick examples; free text is off.</p>')
        self.question = gr.Textbox(
            texts.question,
            label="Question",
            info="Your own, or an example below" if free else "One of the examples below",
            lines=2,
            max_lines=5,
            interactive=free,
            elem_id="question",
        )
        view = run.view_prompt(self.model, texts)
        self.prompt_reading = gr.HTML(words.prompt_reading(view), elem_id="prompt-reading")
        self.answers.build_origins(texts)
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
        self.answers.build_fields(texts, free)
        with gr.Accordion("Suffix", open=False, elem_id="suffix-fold"):
            self.suffix = gr.Textbox(
                texts.format.suffix,
                label="Suffix prompt S",
                info="Put after every prompt with one space; an edit is asked with the one it was made with",
                lines=2,
                max_lines=4,
                interactive=free,
                elem_id="suffix",
            )
            self.form = gr.Radio(
                [CHAT_TEMPLATE, PLAIN_TEXT],
                value=_form(texts.format),
                label="Prompt format",
                info="How the model gets every prompt; an edit is asked as it was made",
                visible=has_chat_template(self.model.tokenizer),
                elem_id="prompt-format",
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

    details = (Detail("Prompt", build_prompt, is_setting=True),)

    @property
    def _fields(self) -> tuple[Any, ...]:
        return self.question, self.template, self.suffix, self.answers.safe, self.answers.unsafe, self.form

    def _texts(self, values: Values) -> Texts:
        parts = self.question, self.template, self.answers.safe, self.answers.unsafe
        question, template, safe, unsafe = (values[part] or "" for part in parts)
        return Texts(question, template, safe, unsafe, self._format(values))

    def typed(self, values: Values) -> Texts:
        """Return the rail's texts as they stand, refused in a read-only demo if they are not bundled."""
        texts = self._texts(values)
        self.context.limits.require_short(texts.question, texts.template, texts.safe, texts.unsafe, texts.format.suffix)
        if self.context.read_only:
            require_bundled(texts)
        return texts

    def _format(self, values: Values) -> PromptFormat:
        return PromptFormat(values[self.suffix] or "", values[self.form] != PLAIN_TEXT)

    def hear(self) -> None:
        """Offer the texts as they stand."""
        self.bus.offer("typed", Offer(self._fields, call=self.typed))
        self.bus.offer("bundled", Offer(self._fields, call=self.bundled))
        self.bus.offer("bundled case", Offer(outputs=(*self._fields, self.template_name), call=self.filled))
        self.bus.offer(
            "filled case", Offer(outputs=(*self._fields, self.template_name, self.answers.kept), call=self.shown)
        )
        self.context.carry(
            question=self.question,
            template=self.template,
            suffix=self.suffix,
            safe=self.answers.safe,
            unsafe=self.answers.unsafe,
            form=self.form,
            template_name=self.template_name,
            answers=self.answers.kept,
            settings=False,
        )
        self.bus.offer("format", Offer((self.suffix, self.form), call=self._format))
        self.answers.fields = self._fields
        self.answers.hear()
        self.bus.hear(News.BACK, self.on_back, inputs=self._fields, outputs=[self.prompt])

    def connect(self) -> None:
        """Wire the rail."""
        self.answers.connect()
        react, answers = self.context.react, self.answers
        format, filled = [self.suffix, self.form], [*self._fields, self.template_name]
        react(self.examples.click, self.on_example, inputs=format, outputs=filled, event=gr.EventData)
        named = [self.template_name, self.template]
        react(self.template_name.input, self.on_template, inputs=named, outputs=[self.template])
        react(self.template.input, self.on_own_template, outputs=[self.template_name])

        def typed(*arguments: Any, **options: Any) -> Any:
            return gr.on([part.change for part in self._fields], *arguments, **options)

        react(
            typed,
            self.on_texts,
            inputs=[*self._fields, answers.kept],
            outputs=[self.prompt, self.prompt_reading, self.attack, answers.kept, *answers.said],
            tells=(News.TYPED,),
            trigger_mode="always_last",
        )

    def on_example(self, session: Session, values: Values, event: gr.EventData) -> Update:
        """Fill the rail with the bundled case whose line was clicked."""
        filled = self._filled(words.offered_cases()[int(event.number)], self._format(values))
        session.slot(Typing).fills({part: session.controls.get(part, part.value) for part in filled}, filled)
        return filled

    def bundled(self, values: Values) -> str | None:
        """Return the name of the bundled case that stands in the rail, ``None`` if any of its texts is another."""
        texts = self._texts(values)
        known = (case for case in words.offered_cases() if texts_of(case) == texts)
        return next((str(case.identifier) for case in known), None)

    def filled(self, _values: Values, name: str) -> Update:
        """Fill the rail with a bundled case, as on a new page.

        Args:
            name: The case's, as :meth:`bundled` has it.

        Raises:
            CaseError: There is no such example.
        """
        case = next((case for case in words.offered_cases() if str(case.identifier) == name), None)
        if case is None:
            raise CaseError(
                f"The link names an example that is not there: {name[:20]}. Nothing was changed; pick one in the rail."
            )
        return self._filled(case, PromptFormat())

    def shown(self, _values: Values, texts: Texts) -> Update:
        """Return what stands in the rail with some texts in it, whose answers belong to their question."""
        known = {"": NO_TEMPLATE, **{template.text: template.name for template in bundled_templates()}}
        return self._rail(texts, known.get(texts.template, OWN_TEMPLATE)) | {self.answers.kept: noted(texts, {})}

    def _filled(self, case: Case, format: PromptFormat) -> Update:
        return self._rail(texts_of(case, format), case.attack_name)

    def _rail(self, texts: Texts, attack: str) -> Update:
        return {
            self.suffix: texts.format.suffix,
            self.question: texts.question,
            self.template_name: attack,
            self.template: texts.template,
            self.answers.safe: texts.safe,
            self.answers.unsafe: texts.unsafe,
            self.form: _form(texts.format),
        }

    def on_template(self, session: Session, values: Values) -> Update:
        """Show the text of a named template; the slot stays visible."""
        session.slot(Typing).fills({}, {})  # a template that stood there before an example may be picked again
        name = values[self.template_name]
        if name == OWN_TEMPLATE:
            return {}
        text = "" if name == NO_TEMPLATE else next(t.text for t in bundled_templates() if t.name == name)
        return {self.template: text}

    def on_own_template(self, _session: Session, _values: Values) -> Update:
        """Call a template that was typed in one's own."""
        return {self.template_name: OWN_TEMPLATE}

    def on_texts(self, session: Session, values: Values) -> Update:
        """Assemble the prompt as it is typed, and tell the steps; nothing once a later change is looked at."""
        typing = session.slot(Typing)
        typing.changes += 1
        mine, caught_up = typing.changes, typing.caught_up(values)
        session.controls |= caught_up
        update = self._as_typed(session, {**values, **caught_up})
        return update if mine == typing.changes else {}

    def on_back(self, _session: Session, values: Values) -> Update:
        """Draw the prompt that the texts make; nothing where they make none, which the rail says."""
        try:
            return {self.prompt: run.view_prompt(self.model, self.typed(values)).text}
        except InspectorError:
            return {self.prompt: ""}

    def _as_typed(self, session: Session, values: Values) -> Update:
        typed = self._texts(values)
        said = {self.attack: words.attack_in_place(typed), **self.answers.on_texts(values)}
        told = self.bus.told(News.TYPED, session, values)
        try:
            view = run.view_prompt(self.model, self.typed(values))
        except InspectorError as error:
            return {self.prompt: "", self.prompt_reading: reading(error.user_message(), "warn"), **said, **told}
        return {self.prompt: view.text, self.prompt_reading: words.prompt_reading(view), **said, **told}


def _form(format: PromptFormat) -> str:
    return CHAT_TEMPLATE if format.chat else PLAIN_TEXT
