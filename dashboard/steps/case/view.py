"""The case: its question, attack, answers and suffix, and the prompt that they make."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Offer, Update, Values
from dashboard.kit.html import message, progress_bar, reading
from dashboard.kit.room import Room
from dashboard.kit.run import Throttle, drain
from dashboard.kit.session import Session
from dashboard.kit.typed import Texts, texts_of
from dashboard.kit.values import require_bundled
from dashboard.steps.case import origins, run
from dashboard.steps.case import texts as words
from editing.own_answers import LONGEST, OwnAnswers
from inspector.errors import CaseError, InspectorError
from inspector.safeedit import bundled_cases, bundled_templates

NO_TEMPLATE = "No attack, the question alone"
OWN_TEMPLATE = "Your own template"


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
  stop(first());
});
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
            info="Your own, or an example below",
            lines=2,
            max_lines=5,
            interactive=free,
            elem_id="question",
        )
        view = run.view_prompt(self.model, texts)
        self.prompt_reading = gr.HTML(words.prompt_reading(view), elem_id="prompt-reading")
        self.kept = gr.State({})
        self.origins = gr.HTML(words.origins(texts, {}), elem_id="origins")
        with gr.Row(elem_classes="tight", visible=False, elem_id="stale") as self.stale:
            self.fill = gr.Button("Answer this question", size="sm", min_width=80, elem_id="fill")
            self.keep_answers = gr.Button("Keep these answers", size="sm", min_width=80, elem_id="keep-answers")
        self.answering = gr.HTML("", elem_id="answering")
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

    def typed(self, values: Values) -> Texts:
        """Return the rail's texts as they stand, refused in a read-only demo if they are not bundled."""
        texts = Texts(*(values[part] or "" for part in self._fields))
        if self.context.read_only:
            require_bundled(texts, self.context.example.texts.suffix)
        return texts

    def texts(self, values: Values) -> Texts:
        """Return the rail's texts for a run; answers that belong to another question are refused."""
        texts = self.typed(values)
        origins.require_fresh(texts, values[self.kept])
        return texts

    def answered(self, session: Session, values: Values) -> Generator[Update, None, bool]:
        """Let the model write what is missing or stale, also into ``values``; tells whether it was not cancelled."""
        texts = self.typed(values)
        sides = origins.to_fill(texts, values[self.kept])
        if not sides:
            return True
        redraw = Throttle(0.25)

        def draw(event: OwnAnswers) -> Update | None:
            return self._progress("The model answers your question", event.tokens) if redraw.due() else None

        # What is being written stays out of the fields: nothing that is not whole and judged can be edited with.
        made = yield from drain(run.answer(self.model, texts, session.cancelled.is_set), draw)
        if made is None:
            yield self._said_in_both(message("Cancelled; nothing was changed."))
            return False
        values[self.kept] = origins.written(texts.question, made, sides, values[self.kept])
        for side in sides:
            values[getattr(self, side)] = getattr(made, side).text
        if made.defended:
            gr.Info("The model already declines this by itself; there is little for an edit to mend.")
        yield {
            self.kept: values[self.kept],
            **{getattr(self, side): getattr(made, side).text for side in sides},
            **self._origins(values),
            **self._said_in_both(message("Both answers are there, judged.")),
        }
        return True

    def _progress(self, doing: str, tokens: int) -> Update:
        return self._said_in_both(progress_bar(f"{doing}: {tokens} tokens", min(0.95, tokens / LONGEST)))

    def _said_in_both(self, said: str) -> Update:
        """Say in the rail and beside the figures how far the model's answers are."""
        return {self.answering: said, self._clock: said}

    @property
    def _clock(self) -> Any:
        return self.bus.offered("clock").outputs[0]

    def _origins(self, values: Values) -> Update:
        """Say where the answers come from; the buttons stand where one is stale."""
        texts, kept = Texts(*(values[part] or "" for part in self._fields)), values[self.kept]
        sides = [origins.standing(texts, side, kept) for side in origins.SIDES]
        return {
            self.origins: words.origins(texts, kept),
            self.stale: gr.Row(visible=any(one.stale or one.origin is None for one in sides)),
            self.keep_answers: gr.Button(visible=any(one.stale for one in sides)),
        }

    def hear(self) -> None:
        """Offer the texts, as they stand and for a run, and the model's own answers."""
        read = (*self._fields, self.kept)
        self.bus.offer("typed", Offer(self._fields, call=self.typed))
        self.bus.offer("texts", Offer(read, call=self.texts))
        drawn = (self.kept, self.safe, self.unsafe, self.answering, *self._said)
        self.bus.offer("answers", Offer(read, drawn, self.answered))
        self.context.lock(self.fill)
        if not self.context.read_only:
            self.context.lock(self.unsafe_ask)
        self.bus.hear(News.ENDED, lambda *_: {self.answering: ""}, outputs=[self.answering])
        self.bus.offer("suffix", Offer((self.suffix,), call=lambda values: values[self.suffix]))

    @property
    def _said(self) -> tuple[Any, ...]:
        return self.origins, self.stale, self.keep_answers

    def connect(self) -> None:
        """Wire the rail."""
        react = self.context.react
        read, clock = [*self._fields, self.kept], self._clock
        answers = self.bus.offered("answers")
        self.context.press(
            self.fill.click, self.on_fill, clock=clock, inputs=read, outputs=answers.outputs, starting="Asking"
        )
        react(self.keep_answers.click, self.on_keep_answers, inputs=read, outputs=[self.kept, *self._said])
        for side, part in (("safe", self.safe), ("unsafe", self.unsafe)):
            react(part.input, self._on_answer_typed(side), inputs=read, outputs=[self.kept])
        filled = [self.question, self.template_name, self.template, self.safe, self.unsafe]
        react(self.examples.click, self.on_example, inputs=[self.suffix], outputs=filled, event=gr.EventData)
        named = [self.template_name, self.template]
        react(self.template_name.input, self.on_template, inputs=named, outputs=[self.template])
        react(self.template.input, self.on_own_template, outputs=[self.template_name])
        rail = [self.question, self.unsafe]
        react(self.unsafe_case.click, self.on_unsafe_case, inputs=rail, outputs=[self.unsafe])
        decoding = self.bus.offered("decoding").inputs
        asked, drawn = [*read, *decoding], [self.unsafe, self.kept, self.answering, *self._said]
        self.context.press(
            self.unsafe_ask.click, self.on_unsafe_ask, clock=clock, inputs=asked, outputs=drawn, starting="Asking"
        )

        def typed(*arguments: Any, **options: Any) -> Any:
            return gr.on([part.change for part in self._fields], *arguments, **options)

        react(
            typed,
            self.on_texts,
            inputs=read,
            outputs=[self.prompt, self.prompt_reading, self.attack, *self._said],
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

    def on_unsafe_ask(self, session: Session, values: Values) -> Iterator[Update]:
        """Let the vanilla model answer without suffix; its answer is written once it is whole and judged."""
        if self.context.read_only:
            raise CaseError("This demo is read-only, so the model is not asked here. Pick an example.")
        decoding, texts = self.bus.offered("decoding").call(values), self.typed(values)
        text, redraw = "", Throttle(0.25)
        for tokens, growing in enumerate(run.ask_for_unsafe(self.model, texts, decoding), start=1):
            text = growing
            if session.cancelled.is_set():
                yield self._said_in_both(message("Cancelled; nothing was changed."))
                return
            if redraw.due():
                yield self._progress("The model answers the adversarial prompt", tokens)
        found = run.judged(texts.question, text)
        if found.label == "degenerate":
            raise CaseError(f"The model's own answer is no text ({found.reason}), so the field stays as it was.")
        note = f"the model's own answer to the adversarial prompt, judged {found.label}"
        kept = {**values[self.kept], "unsafe": (text, "model", texts.question, note)}
        values = {**values, self.unsafe: text, self.kept: kept}
        ended = message(f"The model's own answer is the unsafe one now; it is judged {found.label}.")
        yield {self.unsafe: text, self.kept: kept, **self._origins(values), **self._said_in_both(ended)}

    def on_fill(self, session: Session, values: Values) -> Iterator[Update]:
        """Let the model answer the question: what is missing or stale is written."""
        yield from self.answered(session, values)

    def on_keep_answers(self, _session: Session, values: Values) -> Update:
        """Say that the answers belong to the question after all."""
        texts, kept = self.typed(values), values[self.kept]
        for side in origins.SIDES:
            kept = origins.kept_as(texts, kept, side)
        return {self.kept: kept, **self._origins({**values, self.kept: kept})}

    def _on_answer_typed(self, side: str) -> Callable[[Session, Values], Update]:
        def on_answer_typed(_session: Session, values: Values) -> Update:
            texts = Texts(*(values[part] or "" for part in self._fields))
            return {self.kept: origins.kept_as(texts, values[self.kept], side, "typed")}

        return on_answer_typed

    def on_texts(self, session: Session, values: Values) -> Update:
        """Assemble the prompt as it is typed, and tell the steps."""
        typed = Texts(*(values[part] or "" for part in self._fields))
        said = {self.attack: words.attack_in_place(typed), **self._origins(values)}
        try:
            view = run.view_prompt(self.model, self.typed(values))
        except InspectorError as error:
            return {self.prompt_reading: reading(error.user_message(), "warn"), **said}
        told = self.bus.told(News.TYPED, session, values)
        return {self.prompt: view.text, self.prompt_reading: words.prompt_reading(view), **said, **told}
