"""What an edit changed, in a report: both answers with their verdicts, the numbers, before and after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dashboard.kit.drawing.html import reading, weights_badge
from dashboard.kit.drawing.panes import unless_safe
from dashboard.kit.sessions.session import Session
from dashboard.kit.sharing.parts import Figure, Hidden, Part, Text, Visit
from dashboard.steps.compare import figures, run
from dashboard.steps.compare import texts as words
from dashboard.steps.compare.changes import FIGURES
from dashboard.steps.compare.run import OWN_PROMPT, Comparison, Measured
from inspector.likelihood import Likelihood
from inspector.model import VANILLA, Decoding


def parts(visit: Visit) -> list[Part]:
    """Return the last answers, and what was measured of the live edit."""
    session, kept = visit.session, visit.session.slot(Measured)
    found = []
    texts = answers(session)
    if texts:
        read = () if kept.detected is None or session.live is None else (reading(words.detected_words(kept.detected)),)
        found.append(Part("Both answers", read, texts, facts=facts(session)))
    if session.live is not None and kept.comparison is not None:
        shown = without_tokens(kept.comparison, visit.hidden)
        readings = words.compare_readings(shown)
        drawn = [Figure(title, draw(shown), readings[role]) for role, title, draw in FIGURES]
        if kept.curve is not None:
            drawn.append(
                Figure(
                    "Defence and damage over the strength",
                    figures.strength_curve(kept.curve),
                    words.curve_reading(kept.curve),
                )
            )
        found.append(Part("What the edit changed", (words.tiles(shown, session.live),), figures=tuple(drawn)))
    return found


def answers(session: Session) -> tuple[Text, ...]:
    """Return what was asked last and the answers to it; without an edit the vanilla one alone."""
    given, asked, case = session.slot(Measured).answers, run.asked_last(session), run.case_asked(session)
    if given is None or asked is None:
        return ()
    own = asked.choice == OWN_PROMPT
    covered, notes = (True, True), words.notes(session, asked, given, named=False)
    heads = weights_badge(VANILLA, notes[0]), weights_badge(session.row, notes[1])
    if not own:
        marks = run.judged(asked.text, given)
        is_live = session.live is not None
        covered, heads = unless_safe(*marks, is_live), words.heads(session.row, notes, marks, is_live)
    first = Text("Vanilla answer", given.texts[0], "vanilla", covered[0], heads[0])
    second = Text("Edited answer", given.texts[1], "edited", covered[1], heads[1])
    # The case's adversarial prompt stands in the part of the case.
    told = {"", None if case is None else case.adversarial_prompt}
    prompt = () if asked.text in told else (Text(f"Asked: {asked.choice}", asked.text, "prompt"),)
    return (*prompt, first, *((second,) if session.live is not None else ()))


def facts(session: Session) -> dict[str, Any]:
    """Return what was asked, how it was decoded and what came of it; verdicts where the prompt was the case's."""
    kept, asked = session.slot(Measured), run.asked_last(session)
    assert kept.answers is not None and asked is not None
    marks = () if asked.choice == OWN_PROMPT else run.judged(asked.text, kept.answers)
    longest = max(len(tokens) for tokens in kept.answers.token_ids) + all(kept.answers.finished)
    return {
        "asked": asked.text or None,
        "asked as": asked.choice,
        # An example that was read from disk was decoded greedily, as long as its longer answer.
        "decoding": kept.decoding or Decoding(max_new_tokens=longest),
        "answers": kept.answers.texts,
        "verdicts": tuple(mark.label for mark in marks),
    }


def without_tokens(measured: Comparison, hidden: Hidden) -> Comparison:
    """Return a comparison whose figures name no token that a report leaves out."""

    def bare(pair: tuple[Likelihood, Likelihood]) -> tuple[Likelihood, Likelihood]:
        first, second = (replace(one, tokens=hidden.tokens(one.tokens)) for one in pair)
        return first, second

    shift = replace(measured.shift, tokens=hidden.tokens(measured.shift.tokens))
    return replace(measured, before=bare(measured.before), after=bare(measured.after), shift=shift)
