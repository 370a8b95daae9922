"""The endpoints for the operator's list of models: two of them side by side, and the page of another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import gradio as gr

from dashboard.chooser import Chooser
from dashboard.endpoints import gives, takes
from dashboard.endpoints.reading import Given
from dashboard.kit.room import Context
from dashboard.kit.running.queue import Elsewhere
from dashboard.kit.running.run import drain, shown_to_user
from dashboard.steps.models.run import Growing, Side, compare_listed
from inspector.divergence import DISTANCES
from inspector.errors import CaseError
from inspector.model import SUFFIX, Decoding, PromptFormat


def model_endpoints(context: Context, texts: Given) -> tuple[Callable[..., Any], ...]:
    """Return the endpoints; each one's docstring is its help."""
    chooser = context.one(Chooser, lambda: Chooser(context))

    def compare_models(
        question: takes.Question,
        template: takes.AttackTemplate,
        safe: takes.SafeAnswer,
        unsafe: takes.UnsafeAnswer,
        first: takes.ModelLabel,
        second: takes.ModelLabel,
        max_new_tokens: takes.NewTokens = 64,
        suffix: takes.Suffix = SUFFIX,
        chat: takes.Chat = True,
        request: gr.Request | None = None,
    ) -> Iterator[gives.ComparedModels]:
        """Ask two models of the list in /status the same case: where the answers part in each, and both answers.

        Both run their vanilla weights, each in its own chat template; what is live stays live. One that is not in
        memory is loaded first.
        """
        with shown_to_user(), context.reserved(request) as session:
            given = texts(question, template, safe, unsafe, PromptFormat(suffix, chat))
            decoding = Decoding(max_new_tokens=session.limits.require_tokens(max_new_tokens))
            run = compare_listed(context.shelf, session, (first, second), given, decoding, _waiting)
            events: Any = drain(run, _event)
            beside = yield from events
            if beside is None:
                raise CaseError("Cancelled; nothing was changed. Ask again for both models.")
            yield {"done": True, "models": [_told(side) for side in beside.sides]}

    def open_model(model: takes.ModelLabel, request: gr.Request | None = None) -> Iterator[gives.OpenedPage]:
        """Open the page of a model of the list in /status, which has all endpoints at an address of its own.

        One that is not in memory is loaded first. A client of that address has a session of its own there; the page is
        closed again when nobody has been there for a while.
        """
        with shown_to_user(), context.reserved(request) as session:
            opening: Any = drain(chooser.opened(session, model, _loading), lambda event: event)
            page = yield from opening
            if page is None:
                raise CaseError("Cancelled; nothing was changed. Ask again for the model.")
            yield {"done": True, "model": page.label, "address": f"/{chooser.address(page.label)}"}

    return compare_models, open_model


def _loading(said: str) -> gives.OpenedPage:
    return {"done": False, "doing": said}


def _waiting(said: str) -> gives.ComparedModels:
    return {"done": False, "doing": said, "fraction": 0.0}


def _event(event: Growing | Elsewhere) -> Any:
    if isinstance(event, Elsewhere):
        return event
    return {"done": False, "doing": event.doing, "fraction": event.fraction, "answers": list(event.texts)}


def _told(side: Side) -> gives.OneOfTwo:
    return {
        "model": side.label,
        "fingerprint": side.fingerprint,
        "parameters": side.parameters,
        "dtype": side.dtype,
        "templated": side.templated,
        "blocks": side.blocks,
        "toxic_layer": side.toxic,
        "distances": {distance: side.divergence.by(distance).tolist() for distance in DISTANCES},
        "answer": side.answer,
        "finished": side.finished,
        "verdict": asdict(side.verdict),
        "seconds": side.seconds,
    }
