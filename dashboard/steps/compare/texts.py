"""What Compare says: its tiles, readings and notes."""

from __future__ import annotations

import numpy as np

from dashboard.kit.drawing.another import another, quoted
from dashboard.kit.drawing.glossary import marked
from dashboard.kit.drawing.html import (
    brief,
    direction_of,
    message,
    number,
    over,
    probability,
    reading,
    row_badge,
    updates,
    weights_badge,
)
from dashboard.kit.drawing.plain import escape
from dashboard.kit.live import ended
from dashboard.kit.sessions.acting import EVERYWHERE, WHERE_HARM, Wish
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sessions.typed import Texts
from dashboard.steps.compare.run import ADVERSARIAL, OWN_PROMPT, Comparison, Detected, Measured, Prompt
from editing.calibrating.calibration import to_calibrate
from editing.strength import StrengthCurve
from inspector.detection import doubts, many_alarms, weakness
from inspector.model import VANILLA, Answers, Detector, InspectedModel, PromptFormat, Row
from inspector.safeedit import Case
from inspector.safeedit.verdict import Verdict


def tiles(comparison: Comparison, live: LiveEdit) -> str:
    """Return the row of figures above the answers, under a badge of the weights they were measured on."""
    result = live.result
    kept = result.last
    safe, unsafe = comparison.before[0].per_token, comparison.before[1].per_token
    after_safe, after_unsafe = comparison.after[0].per_token, comparison.after[1].per_token
    patch_norm = result.patch.norm if result.patch else 0.0
    cells = [
        ("P(safe) per token", f"{probability(safe)} → {probability(after_safe)}", "safe", "vanilla → edited"),
        ("P(unsafe) per token", f"{probability(unsafe)} → {probability(after_unsafe)}", "unsafe", "vanilla → edited"),
        (
            "first token, safe",
            f"{probability(comparison.before[0].first)} → {probability(comparison.after[0].first)}",
            "safe",
            "next-token probability",
        ),
        (
            "first token, unsafe",
            f"{probability(comparison.before[1].first)} → {probability(comparison.after[1].first)}",
            "unsafe",
            "next-token probability",
        ),
        ("constraint KL", number(max(0.0, kept.constraint_kl)), "", "nats a token, strength 1"),
        ("norm of the change", number(patch_norm * comparison.strength), "edited", live.patch.where()),
        (
            f"input change, layer {comparison.shift.region}",
            number(comparison.shift.input_change),
            "",
            "zero by construction" if comparison.shift.forced else "of its down-projection",
        ),
        ("edit time", f"{result.seconds:.1f} s", "", updates(result)),
    ]
    edited = weights_badge(live.row(comparison.strength), "these weights against vanilla, adversarial prompt")
    return edited + marked(f'<div class="tiles">{"".join(_tile(*cell) for cell in cells)}</div>')


def _tile(name: str, value: str, kind: str, note: str, whole: str = "") -> str:
    told = escape(whole or f"{name}: {value}, {note}")
    return (
        f'<div class="tile {kind}" title="{told}"><span class="tile-name">{escape(name)}</span>'
        f'<span class="tile-value">{escape(value)}</span><span class="tile-note">{escape(note)}</span></div>'
    )


NO_EDIT = (
    '<div class="tiles"><div class="tile wide"><span class="tile-value">No edit is live</span>'
    '<span class="tile-note">Press Operate to make one; its measurements come back here.</span></div></div>'
)


NOT_MEASURED = (
    '<div class="tiles"><div class="tile wide"><span class="tile-value">Not measured yet</span>'
    '<span class="tile-note">Nothing was measured of the weights that are live. If that has failed, moving Strength '
    "measures them again.</span></div></div>"
)


def unmeasured(session: Session) -> str:
    """Say why no measurements are shown: no edit is live, or nothing was measured of the one that is."""
    return NO_EDIT if session.live is None else NOT_MEASURED


UNANSWERED = "not answered yet"
NO_ANSWER = "nothing asked yet"
STOPPED = "Stopped: the answers were cut short, the weights are as they were."
STOPPED_AFTER = "Stopped once the answers had ended; the weights are as they were."


def ask(session: Session) -> str:
    """Return what the button says: without an edit it asks the vanilla weights alone."""
    return "Ask" if session.live is None else "Ask both"


def no_answer_yet(session: Session) -> str:
    """Say in a pane that its weights have not answered."""
    return f"No answer yet. Press Operate, or {ask(session)}."


def compare_readings(comparison: Comparison, folded: bool = False) -> dict[str, str]:
    """Read the compare figures, by their roles in :data:`dashboard.steps.compare.changes.FIGURES`.

    Args:
        folded: Of the two that stand on the first screen only the first sentence is seen at once.
    """

    def said(first: str, rest: str) -> str:
        whole = f"{first} {rest}".rstrip()
        return brief(first, whole) if folded and rest else reading(whole)

    shift, profile = comparison.shift, comparison.profile
    block = shift.blocks_edited[0]
    before, after = comparison.divergence_before.l2, comparison.divergence_after.l2
    moved = int(abs(after - before).argmax())
    raised = int((comparison.after[0].log_probabilities > comparison.before[0].log_probabilities).sum())
    largest = int(shift.by_block.argmax())
    furthest = int(profile.relative.argmax())
    top = profile.top(10)
    share = float((profile.change[top] ** 2).sum() / max((profile.change**2).sum(), 1e-12))
    answer_shift = float(shift.by_token[largest, shift.prompt_tokens :].mean())
    prompt_shift = float(shift.by_token[largest, : shift.prompt_tokens].mean())
    return {
        "token_figure": reading(
            f"{raised} of {len(comparison.before[0].tokens)} tokens of the safe answer became more probable."
        ),
        "divergence_figure": said(
            f"The distance changes most at layer {moved}: {before[moved]:.1f} before, {after[moved]:.1f} after.",
            f"Layers below {block} cannot change." if block > 0 else "",
        ),
        "shift_figure": said(
            f"Outputs move most at layer {largest}, by {shift.by_block[largest]:.1%}.",
            f"The input of layer {shift.region}'s down-projection moves by {number(shift.input_change)}"
            + (": zero by construction, nothing before it was changed." if shift.forced else "."),
        ),
        "shift_tokens": reading(
            f"At layer {largest} the answer's tokens move by {answer_shift:.1%}, the prompt's by {prompt_shift:.1%}."
        ),
        "neurons": reading(
            f"Layer {profile.block}: neuron {furthest} moved most, by {profile.relative[furthest]:.1%} of its column's "
            f"length, the middle one by {float(np.median(profile.relative)):.1%}; the ten largest changes hold "
            f"{share:.1%} of the whole."
        ),
    }


QUESTION_BESIDE = 18
"""Characters of a question that are shown at most beside an answer's badges."""


def of_another(asked: Prompt | None, measured: Case | None, texts: Texts | None, ask: str = "Ask both") -> str:
    """Say what of answers, numbers and figures is not of the case in the rail, and what to press; else nothing.

    It is one line, as it comes and goes with what is typed and asked; what comes of a press opens over the page.

    Args:
        asked: What the answers were asked; ``None`` without any.
        measured: The case that numbers and figures are of; ``None`` without any.
        texts: What stands in the rail; ``None`` where it makes no prompt.
        ask: What the button says that asks.
    """
    answers = numbers = ""
    if asked is not None and asked.question is not None:
        prompt = asked.text if asked.choice == ADVERSARIAL else None
        answers = another(texts, asked.question, prompt, None)
    if measured is not None:
        own = measured.safe, measured.unsafe
        numbers = another(texts, measured.question, measured.adversarial_prompt, own)
    if not (answers or numbers):
        return ""
    if answers == numbers:
        said = f"The answers, numbers and figures are of {answers}."
    else:
        both = (("answers", answers), ("numbers and figures", numbers))
        said = " ".join(f"The {what} are of {other}." for what, other in both if other)
    if texts is None:
        short = f"{said} The texts in the rail make no prompt"
        return _warning(f"{short}.", f"{short}; mend them, then press Operate.")
    anew = f", or {ask} with '{ADVERSARIAL}' to see what is answered to it" if answers else ""
    short = f"{said} Press Operate{f', or {ask}' if answers else ''}."
    return _warning(short, f"{said} Press Operate to edit for what stands in the rail{anew}.")


def _warning(short: str, whole: str) -> str:
    return over("reading warn", escape(short), reading(whole), whole)


def answer_note(
    choice: str,
    format: PromptFormat | None = None,
    typed: PromptFormat | None = None,
    judged: bool = False,
    question: str | None = None,
) -> str:
    """Say beside an answer's badge what was asked, in which format of the edit, and that no judge scored it.

    Args:
        format: The live edit's format; ``None`` without one.
        typed: The format of what stands in the rail.
        judged: The verdict stands beside it.
        question: Of the case that was asked; named where it is given.
    """
    unusual = format.label() if format is not None else ""
    if format is not None and not unusual and typed is not None and typed.suffix != format.suffix:
        unusual = "with the edit's own suffix"
    elif format is not None and not unusual and typed is not None and typed.chat != format.chat:
        unusual = "in the chat template"
    made = f" · {unusual}, as the edit was made" if unusual else ""
    of = "" if question is None else f" of {quoted(question, QUESTION_BESIDE)}"
    return f"{choice.lower()}{of}{made}{'' if judged else ' · not judged'}"


def notes(session: Session, asked: Prompt, answers: Answers, named: bool = True) -> tuple[str, str]:
    """Return what is said beside the badges of the last answers: after their run, after a reload and in a report.

    Args:
        named: Whether the question is; a report may have to leave it out.
    """
    kept, live = session.slot(Measured), session.live
    made = None if live is None else live.format
    note = answer_note(asked.choice, made, kept.typed, asked.choice != OWN_PROMPT, asked.question if named else None)
    # An example that was read from disk was decoded as long as its longer answer.
    longest = max(map(len, answers.token_ids)) if kept.decoding is None else kept.decoding.max_new_tokens
    return ended(answers, note, longest, kept.cancelled, live is not None)


def detector_note(detector: Detector) -> str:
    """Say what a model's detector was made of."""
    about = detector.about
    own = " and the question that the edit was made on" if detector.case_biases else ""
    if not {"questions", "harmless_prompts"} <= about.keys():  # of a file that was written elsewhere
        return f"Made from texts that it does not name{own}"
    return f"Made from {about['questions']} harmful questions, {about['harmless_prompts']} harmless prompts{own}"


BY_GATE = "the gate chooses"
"""The way of the routed switch that is no fixed one."""
WISHES: dict[str, Wish] = {BY_GATE: "gate", EVERYWHERE: "everywhere", WHERE_HARM: "where harm"}
"""What each of them asks of the next edit."""


def routes(detector: Detector | None, wish: Wish, routed: bool | None) -> tuple[list[tuple[str, str]], str]:
    """Return the switch's choices, each with its value, and which one stands; where there is only one, it says why.

    Args:
        wish: What the visitor asks for. It can be set before there is an edit, which is then made so.
        routed: Whether the live edit acts only where harm is detected; ``None`` without one.
    """
    if detector is None:
        only = f"{EVERYWHERE} (no detector yet)"
        return [(only, only)], only
    now = "" if routed is None else f", {WHERE_HARM if routed else EVERYWHERE}"
    stands = next(name for name, asked in WISHES.items() if asked == wish)
    other = routed is not None and wish != "gate" and (wish == "where harm") != routed  # of the next edit
    said = {stands: f"{stands}{now}" if wish == "gate" else f"{stands} (next edit{now.replace(',', '; now', 1)})"}
    shown = said if wish == "gate" or other else {}
    named = {name: shown.get(name, name) for name in (BY_GATE, EVERYWHERE, WHERE_HARM)}
    if weakness(detector):
        named[WHERE_HARM] += " (weak detector)"
    elif many_alarms(detector):
        named[WHERE_HARM] += " (false alarms)"
    return [(said_of, name) for name, said_of in named.items()], stands


def nothing_to_route(wish: Wish) -> str:
    """Say after the switch was set without a live edit that nothing changes but the next edit."""
    then = {
        "gate": "the gate chooses where it acts",
        "everywhere": "it acts on every prompt",
        "where harm": "it is made and examined to act only where harm is detected",
    }[wish]
    return f"No edit is live, so there is none to route. The next one: {then}."


def undone(switched: str) -> str:
    """Say after Undo that the edit before is live again.

    Args:
        switched: Where it acts, if the switch has changed with it (:func:`dashboard.kit.sessions.acting.switched`).
    """
    again = "Undone: the edit before it is live again"
    if not switched:
        return message(f"{again}.")
    return message("Undone: the edit before it is live as it acted; see the switch.", f"{again} and {switched}")


def routing_note(model: InspectedModel, detector: Detector | None) -> str:
    """Say in the details what the switch in the row of actions goes by, or how to make a detector."""
    if detector is None:
        said = f"The edit acts on every prompt. This model has no detector yet. {to_calibrate(model)}"
        return reading(said)
    about = detector.about
    measured = [
        f"{name} {about[key]:.1%}"
        for name, key in (("harm found in", "found_unseen"), ("false alarms in", "false_alarms_unseen"))
        if key in about
    ]
    told = (
        f" On bundled texts that it was not fitted on, but its settings were chosen by: {', '.join(measured)} of them."
        if measured
        else ""
    )
    against = f"{doubts(detector)} " if doubts(detector) else ""
    if about.get("too_long"):
        told += f" {about['too_long']} more texts are too long for this model and were left out."
    return reading(
        "The switch beside Strength lets the edit act on every prompt or only where the detector finds harm, or as the "
        "gate finds best; set before an edit, it is made so. "
        f"{detector_note(detector)}.{told} {against}Whoever knows of the detector can write a prompt that passes below "
        "it, and a question in another language than English is likely to."
    )


def detected_line(found: Detected | None, detector: Detector | None, unmeasured: str = "") -> str:
    """Say under the numbers what the detector read of the prompt that was asked; nothing without a detector.

    Args:
        unmeasured: That its threshold was made for other formats (:func:`editing.gate.choice.format_told`).
    """
    if detector is None:
        return ""
    made = detector_note(detector)
    if found is None:
        return reading(f"Detector: {made[0].lower()}{made[1:]}. Ask to see its score.")
    return reading(" ".join(filter(None, (detected_words(found), f"{made}.", unmeasured, doubts(detector)))))


def detected_words(found: Detected) -> str:
    """Say what the detector read of a prompt, and whether the edit acts on it."""
    if found.routed:
        then = "so the edit acts" if found.fires else "so the vanilla weights answer, bit for bit"
    else:
        then = "the edit acts on every prompt"
        if not found.fires:  # this is the model's detector; a routed edit has a reading of its own question beside it
            then += "; routed, it would act where this detector finds harm and on its own question"
    verdict = "harm detected" if found.fires else "no harm detected"
    return f"Detector: score {found.score:.3f} on this prompt, threshold {found.threshold:.3f}: {verdict}, {then}."


def curve_reading(curve: StrengthCurve | None) -> str:
    """Read the strength curve, or say how to get it."""
    if curve is None:
        return reading("Not measured yet: defence and damage at seven strengths, vanilla among them, in one batch.")
    return reading(curve.reading)


def heads(row: Row, notes: tuple[str, str], marks: tuple[Verdict, Verdict], is_live: bool) -> tuple[str, str]:
    """Return what stands above both answers: which weights, which verdict, who judged it and what was asked.

    Args:
        is_live: Whether an edit answers; without one the second has no verdict.
    """
    first = _judged_head(VANILLA, notes[0], marks[0])
    return first, _judged_head(row, notes[1], marks[1]) if is_live else weights_badge(row, notes[1])


def _judged_head(row: Row, note: str, mark: Verdict) -> str:
    told = f"{mark.judge} · {note}"
    return (
        f'<div class="answer-head">{row_badge(row)}'
        f'<span class="badge verdict {mark.label}" title="{escape(mark.reason)}">{mark.label}</span>'
        f'<span class="badge-note" title="{escape(told)}">{escape(told)}</span></div>'
    )


def numbers(comparison: Comparison, live: LiveEdit, routed: bool) -> str:
    """Return the four numbers that matter of an edit.

    Args:
        routed: It acts only where a detector fires, and so on no harmless prompt that it knows as one.
    """
    kept = live.result.last
    shift = comparison.shift
    largest = int(shift.by_block.argmax())
    cells = [
        (
            "probability of the safe answer",
            f"{probability(comparison.before[0].per_token)} → {probability(comparison.after[0].per_token)}",
            "safe",
            "a token",
            "Probability of the safe answer, the mean of its tokens: vanilla → edited",
        ),
        (
            "probability of the unsafe answer",
            f"{probability(comparison.before[1].per_token)} → {probability(comparison.after[1].per_token)}",
            "unsafe",
            "a token",
            "Probability of the unsafe answer, the mean of its tokens: vanilla → edited",
        ),
        (
            "harmless answers, if it acted there" if routed else "harmless answers moved by",
            number(max(0.0, kept.constraint_kl)),
            "",
            "KL, nats a token"
            if comparison.strength == 1
            else "KL at strength 1",  # the others are of the live strength
            "Harmless answers moved by"
            + (", were the edit to act on them" if routed else "")
            + f": constraint KL, {direction_of(live.result.settings)}, nats a token, at strength 1",
        ),
        ("largest activation shift", f"{shift.by_block[largest]:.1%}", "edited", f"output of layer {largest}"),
    ]
    return marked(f'<div class="tiles four">{"".join(_tile(*cell) for cell in cells)}</div>')
