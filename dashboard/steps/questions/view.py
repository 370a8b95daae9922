"""Ten questions: a list, and the answer to the picked one with two figures. Nothing is drawn before it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.plots import base, plot
from dashboard.kit.room import Choice, Room
from dashboard.kit.sessions.session import Session
from dashboard.steps.questions import texts as words
from dashboard.steps.questions.panel import Held, Part
from dashboard.steps.questions.texts import QUESTIONS
from inspector.errors import CaseError

LIST = """
const list = () => [...element.querySelectorAll("[data-number]")];
const tell = (number) => trigger("click", {number});
element.addEventListener("click", (event) => {
  const line = event.target.closest("[data-number]");
  if (!line) return;
  for (const one of list()) one.setAttribute("aria-current", String(one === line));
  tell(Number(line.dataset.number));
});
// The answer to what is picked is drawn whenever the view comes into sight: a run may have ended elsewhere meanwhile.
let seen = false;
new ResizeObserver(([entry]) => {
  const now = entry.contentRect.width > 0;
  if (now && !seen) tell(null);
  seen = now;
}).observe(element);
"""


@dataclass
class Opened:
    """Which question a visitor has opened, counted from 0; ``None`` before the first."""

    number: int | None = None


class QuestionsRoom(Room):
    """Answer the picked question from what the session holds and from committed results."""

    name = view = "questions"
    title = "Ten questions"
    help = "what readers of the paper ask, each answered by your own case or by a committed measurement."

    def build(self) -> None:
        """Lay the list and one empty answer out."""
        gr.HTML(words.HEADING)
        with gr.Row(equal_height=False, elem_id="questions-frame"):
            with gr.Column(scale=1, min_width=230, elem_id="questions-side"):
                self.list = gr.HTML(words.listed(), js_on_load=LIST, apply_default_css=False, elem_id="questions-list")
            with gr.Column(scale=3, min_width=300, elem_id="questions-answer"):
                self.answer = gr.HTML("", elem_id="questions-text")
                with gr.Row(equal_height=False, elem_id="questions-figures"):
                    for side, title in (("own", "Figure of your visit"), ("kept", "Figure of a committed result")):
                        with gr.Column(min_width=300):
                            setattr(self, f"{side}_head", gr.HTML("", elem_id=f"questions-{side}-head"))
                            setattr(self, f"{side}_figure", plot(None, f"questions-{side}", title))
                            setattr(self, f"{side}_reading", gr.HTML("", elem_id=f"questions-{side}-reading"))

    @property
    def _drawn(self) -> list[Any]:
        sides = [getattr(self, f"{side}_{part}") for side in ("own", "kept") for part in ("head", "figure", "reading")]
        return [self.answer, *sides]

    def hear(self) -> None:
        """A page that shows its session anew draws the opened question anew; links bring back which one is picked."""
        self.context.carry_choice(Choice("the picked question", _picked, _pick))
        self.bus.hear(News.BACK, self.on_back, outputs=[self.list, *self._drawn])

    def connect(self) -> None:
        """Wire the list."""
        drawn = [self.list, *self._drawn]
        last: dict[str, Any] = {"event": gr.EventData, "trigger_mode": "always_last"}  # as the list has marked it
        self.context.react(self.list.click, self.on_question, outputs=drawn, **last)

    def on_question(self, session: Session, values: Values, event: gr.EventData) -> Update:
        """Answer the picked question; the open one anew where none is picked and the view has come into sight.

        Raises:
            CaseError: There is no such question.
        """
        opened = session.slot(Opened)
        if event.number is None:
            return self._listed(session, opened.number or 0)
        number = int(event.number)
        if not 0 <= number < len(QUESTIONS):
            raise CaseError(f"There are {len(QUESTIONS)} questions. Pick one of the list.")
        opened.number = number
        return self._listed(session, number)

    def on_back(self, session: Session, _values: Values) -> Update:
        """Answer the question that the visitor has opened, from what their session holds now."""
        number = session.slot(Opened).number
        return {} if number is None else self._listed(session, number)

    def _listed(self, session: Session, number: int) -> Update:
        return {self.list: words.listed(number), **self.answered(session, number)}

    def answered(self, session: Session, number: int) -> Update:
        """Draw one question's answer."""
        held = Held(session, lambda name: self.bus.offered(name).call({}, session))
        panel = QUESTIONS[number].answer(held)
        return {
            self.answer: words.answer(number, panel),
            **self._side("own", words.YOURS, panel.live),
            **self._side("kept", words.COMMITTED, panel.kept),
        }

    def _side(self, side: str, kind: str, part: Part) -> Update:
        drawn = part.figure is not None
        return {
            getattr(self, f"{side}_head"): words.above(kind, part),
            getattr(self, f"{side}_figure"): gr.Plot(
                part.figure if drawn else base(40), visible=drawn, label=f"{kind}: {part.title}"
            ),
            getattr(self, f"{side}_reading"): part.below,
        }


def _picked(session: Session) -> int | None:
    """Return the question that a visitor has picked; ``None`` for the first one, which a new page shows."""
    return session.slot(Opened).number or None


def _pick(session: Session, number: int | None) -> None:
    session.slot(Opened).number = number
