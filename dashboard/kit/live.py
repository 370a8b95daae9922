"""The weights that are live for a visitor: the badge that names them, and both answers as they stream."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.answers import both_answers
from dashboard.kit.drawing.html import live_badge, weights_badge
from dashboard.kit.drawing.panes import Pair
from dashboard.kit.room import Room
from dashboard.kit.running.run import Throttle
from dashboard.kit.sessions.session import Session
from inspector.model import VANILLA, Answers, InspectedModel, pieces

NO_EDIT = "No edit is live, so there is no edited answer. Press Operate."
NOT_ASKED = "no edit to ask"


class LiveBadge(Room):
    """Names the live weights wherever one is on the page."""

    name = "live"

    def build(self) -> None:
        """Lay the badge out."""
        self.live = gr.HTML(live_badge(self.context.example.session), elem_id="live")

    def hear(self) -> None:
        """Follow the live weights."""
        self.bus.hear(News.LIVE, self.on_live, outputs=[self.live])
        self.bus.hear(News.EXAMPLE, self.on_live, outputs=[self.live])
        self.bus.hear(News.BACK, self.on_live, outputs=[self.live])

    def on_live(self, session: Session, _values: Values) -> Update:
        """Name the weights that are live now."""
        return {self.live: live_badge(session)}


def streamed(
    pair: Pair, model: InspectedModel, session: Session, run: Iterator[Answers], note: str, longest: int
) -> Iterator[Update]:
    """Show both answers as they grow, each under its weights; without an edit the vanilla one alone.

    Args:
        model: Whose tokens they are.
        run: The answers so far, vanilla first.
        note: What was asked.
        longest: Tokens at which an answer is cut.
    """

    def edited(text: str) -> str:
        return text if session.live else NO_EDIT

    is_live = session.live is not None
    heads = weights_badge(VANILLA, note), weights_badge(session.row, note if is_live else NOT_ASKED)
    yield pair.show(("…", edited("…")), heads, compared=False, covered=(True, is_live))
    redraw, last = Throttle(0.12), None
    for answers in run:
        last = answers
        if redraw.due():
            growing = f"{answers.texts[0]} ▍", edited(f"{answers.texts[1]} ▍")
            yield dict(zip(pair.panes, both_answers(growing, compared=False), strict=True))
    if last is None:
        return
    tokens = pieces(model, last) if is_live else None
    texts = both_answers((last.texts[0], edited(last.texts[1])), compared=is_live, tokens=tokens)
    notes = ended(last, note, longest, session.cancelled.is_set(), is_live)
    heads = weights_badge(VANILLA, notes[0]), weights_badge(session.row, notes[1])
    yield {**dict(zip(pair.panes, texts, strict=True)), **dict(zip(pair.heads, heads, strict=True))}


def ended(answers: Answers, note: str, longest: int, cancelled: bool, is_live: bool) -> tuple[str, str]:
    """Return the note above each of two answers: how it ended, and which weights answered.

    Args:
        note: What was asked.
        longest: Tokens at which an answer was cut.
        cancelled: Whether their run was.
        is_live: Whether an edit answered; without one there is no second answer, and the second note says so.
    """
    first, second = (_how(answers, row, longest, cancelled) for row in (0, 1))
    if not is_live:
        return note + first, NOT_ASKED
    held_back = " · no harm detected: the vanilla weights answered" if any(answers.held_back[1:]) else ""
    return note + first, note + held_back + second


def is_cut_short(answers: Answers, row: int, longest: int) -> bool:
    """Tell whether an answer has ended neither by itself nor at as many tokens as it may have."""
    return not answers.finished[row] and len(answers.token_ids[row]) < longest


def _how(answers: Answers, row: int, longest: int, cancelled: bool) -> str:
    """Say how an answer ended; nothing where it did by itself."""
    if answers.finished[row]:
        return ""
    if not is_cut_short(answers, row, longest):
        return f" · cut at {longest} tokens"
    return " · cancelled" if cancelled else " · cut short"
