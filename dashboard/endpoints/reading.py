"""Endpoints that only read the model: what each answer's probability, each layer and each token of the prompt says.

They measure vanilla, and beside it this client's live edit in the prompt format that it is asked in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from dashboard.endpoints import gives, takes
from dashboard.kit.door.doors import address_of
from dashboard.kit.room import Context
from dashboard.kit.running.reserving import LEFT_LINE
from dashboard.kit.running.run import shown_to_user
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts, case_of
from inspector.errors import CaseError
from inspector.lens import Lens, logit_lens
from inspector.likelihood import likelihoods as likelihoods_of
from inspector.model import SUFFIX, VANILLA, PromptFormat, Row
from inspector.token_attribution import token_attribution

MOST = 20
"""Likeliest tokens of a layer that the lens tells."""
Given = Callable[[str, str, str, str, PromptFormat], Texts]
"""Makes texts of what a client gives; the read-only demo refuses those that are not bundled."""


def reading_endpoints(context: Context, texts: Given) -> tuple[Callable[..., Any], ...]:
    """Return the endpoints; each one's docstring is its help."""
    model = context.model

    def likelihoods(
        question: takes.Question,
        template: takes.AttackTemplate,
        safe: takes.SafeAnswer,
        unsafe: takes.UnsafeAnswer,
        suffix: takes.Suffix = SUFFIX,
        chat: takes.Chat = True,
        request: gr.Request | None = None,
    ) -> gives.AnswerLikelihoods:
        """Tell how likely the model finds the safe and the unsafe answer, token by token."""
        with shown_to_user(), context.reserved(request) as session:
            given = texts(question, template, safe, unsafe, PromptFormat(suffix, chat))
            prompt, format, rows = case_of(given).adversarial_prompt, session.asked_in(given.format), weights(session)
            found = likelihoods_of(model, prompt, (safe, unsafe), rows, format=format)
            return [
                {
                    "weights": row.label(),
                    "answer": name,
                    "per_token": one.per_token,
                    "first": one.first,
                    "tokens": list(one.tokens),
                    "log_probabilities": one.log_probabilities.tolist(),
                }
                for row, both in zip(rows, found, strict=True)
                for name, one in zip(("safe", "unsafe"), both, strict=True)
            ]

    def lens(
        question: takes.Question,
        template: takes.AttackTemplate,
        answer: takes.Answer,
        top: takes.Top = 5,
        suffix: takes.Suffix = SUFFIX,
        chat: takes.Chat = True,
        request: gr.Request | None = None,
    ) -> gives.LensReadings:
        """Tell what every layer would say if the model stopped there, around the start of an answer (logit lens)."""
        with shown_to_user(), context.reserved(request) as session:
            if context.read_only:
                raise CaseError("This demo is read-only: free text is off.")
            if not 1 <= top <= MOST:
                raise CaseError(f"The lens tells 1 to {MOST} tokens of a layer. Give top one of those numbers.")
            given, rows = Texts(question, template, answer, "", PromptFormat(suffix, chat)), weights(session)
            read = logit_lens(
                model, given.adversarial_prompt(), answer, rows, top=int(top), format=session.asked_in(given.format)
            )
            return [
                {"weights": row.label(), "positions": [_position(context, one, at) for at in range(len(one.tokens))]}
                for row, one in zip(rows, read, strict=True)
            ]

    def attribution(
        question: takes.Question,
        template: takes.AttackTemplate,
        safe: takes.SafeAnswer,
        unsafe: takes.UnsafeAnswer,
        way: takes.AttributionWay = "gradient x input",
        suffix: takes.Suffix = SUFFIX,
        chat: takes.Chat = True,
        request: gr.Request | None = None,
    ) -> gives.Attributions:
        """Tell which tokens of the prompt push the model to the unsafe answer."""
        with shown_to_user(), context.reserved(request) as session:
            given = texts(question, template, safe, unsafe, PromptFormat(suffix, chat))
            case, format, cancelled = case_of(given), session.asked_in(given.format), session.cancelled.is_set
            made: list[gives.Attribution] = []

            def measuring() -> Iterator[None]:
                for row in weights(session):
                    found = token_attribution(model, case, way, row, format=format, cancel=cancelled)
                    if found is None:
                        raise CaseError("Cancelled; nothing was changed. Ask again for the attribution.")
                    made.append(
                        {
                            "weights": row.label(),
                            "way": found.way,
                            "tokens": list(found.tokens),
                            "values": found.values.tolist(),
                            "user_from": found.user.start,
                            "user_to": found.user.stop,
                            "gap": found.gap,
                        }
                    )
                    yield

            run: Any = measuring()
            for _ in context.line.turns(run, "attribution", cancelled, address=address_of(request), whose=session):
                pass
            if not made:
                raise CaseError(LEFT_LINE)
            return made

    return likelihoods, lens, attribution


def weights(session: Session) -> tuple[Row, ...]:
    """Return vanilla, and the live edit if there is one, as it acts on every prompt."""
    return (VANILLA,) if session.live is None else (VANILLA, session.weights)


def _position(context: Context, read: Lens, at: int) -> gives.LensPosition:
    likeliest = [list(context.model.token_texts(line.tolist())) for line in read.top[:, at]]
    return {
        "token": read.tokens[at],
        "following": read.following[at],
        "rank": read.rank[:, at].tolist(),
        "likeliest": likeliest,
        "probability": read.probability[:, at].tolist(),
    }
