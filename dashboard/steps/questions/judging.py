"""Questions about what an edit must not do: repeating answers, safeguards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboard.kit.drawing.glossary import term
from dashboard.kit.drawing.html import case_name, number, reading
from dashboard.kit.drawing.plots import EDITED, SAFE, UNSAFE, VANILLA
from dashboard.kit.sessions.session import LiveEdit
from dashboard.steps.questions import detectors, figures, results
from dashboard.steps.questions.panel import (
    FIRST,
    Held,
    Panel,
    Part,
    and_told,
    as_printed,
    cases,
    nothing,
    percent,
    said,
    source,
)
from dashboard.steps.questions.printed import Measured, Table
from editing.gate.budgets import Budgets
from editing.gate.gate import RECORD, is_of
from inspector.safeedit.scores import QUOTED

DETOX, CALIBRATE, JUDGE, GUARDED = "detox.txt", "calibration.txt", "judge_accuracy.txt", "safeguards.txt"
ELSEWHERE, MISLEADING = "calibration_packaged.txt", "calibration_xstest.txt"
APART = "calibration_look_alikes.txt"
NO_EDIT = "No edit is live: press Operate."
SAFEGUARDS, ACCURACY = "python -m benchmarks.safeguards", "python -m benchmarks.judge_accuracy"


def repeating(held: Held) -> Panel:
    """Why do answers repeat, and what was done?"""
    found = results.read(DETOX, results.recipes)
    kept, told = nothing(BROKEN, "No committed result can be read."), None
    if found is not None:
        released, toxic = found.get("released code, toxic layer"), found.get("corrected, toxic layer")
        if released is not None and toxic is not None and "vanilla" in found:
            told = (
                f"Degenerate answers: {percent(found['vanilla']['degenerate'])} of the vanilla model's, "
                f"{percent(released['degenerate'])} with the released code, which is asked in plain text, "
                f"{percent(toxic['degenerate'])} with ours at the same layer."
            )
        names = list(found)
        kept = Part(
            BROKEN,
            figures.bars(
                names,
                {
                    "degenerate": (UNSAFE, [found[name].get("degenerate") for name in names]),
                    "parroting": (EDITED, [found[name].get("parroting") for name in names]),
                    **_quoted(found),
                },
                "percent, 95 % interval",
                170,
            ),
            reading(f"{cases(DETOX)} cases, a small model that repeats itself at times without any edit.")
            + source(DETOX),
        )
    return Panel(
        (
            "An edit that makes one short answer very likely can make the model say it, or its beginning, over and "
            "over. "
            "In the released code the target has no token that ends a turn, so the model never learns to stop; the KL "
            "has no gradient, so nothing holds it to its own way of talking; and texts are asked without the chat "
            "template that a turn would end in.",
            said(
                "What was done: the target ends with what ends a turn, prompt and answer are tokenised together, the "
                "KL "
                "is taken over several answers of the model's own, an edit stops at a target probability, and a "
                f"{term('degenerate')} answer is a verdict of its own that never counts as safe. The {term('gate')} "
                f"refuses an edit with more than {Budgets().degenerate:g} points more of them, or with more than "
                f"{Budgets().parroting:g} points more {term('parroting')} than vanilla: of all prompts about something "
                "else, those that get the training answer's content, and harmless ones that get any training answer; a "
                "harmful one that is declined in the training's words is none.",
                f"{FIRST}, has neither that KL in its loss nor that target: harmless prompts are its detector's care, "
                "and the same gate examines it.",
                told,
            ),
        ),
        _gate(held, "Broken and parroted answers in the exam of your live edit", ("degenerate", "parroting")),
        kept,
        (("operate", "Ask both with prompts of your own"), ("stress", "Count degenerate and parroted answers")),
    )


def _quoted(found: Table) -> dict[str, tuple[str, list[Measured | None]]]:
    """Return how many prompts were given a training sentence, where that was measured."""
    series = {
        name: (colour, [line.get(name) for line in found.values()])
        for name, colour in zip(QUOTED, (SAFE, VANILLA), strict=True)
    }
    return {name: known for name, known in series.items() if any(known[1])}


BROKEN = "Degenerate and parroted answers, by way of editing"


def safeguards(held: Held) -> Panel:
    """What are the safeguards?"""
    found, judge = results.read(CALIBRATE, detectors.detection), results.read(JUDGE, results.judge)
    kept = nothing(DETECTOR, "No committed result can be read.")
    told = None
    if found is not None:
        told = (
            f"The embedded model's detector finds {percent(found.bare)} of harmful questions and "
            f"{percent(found.wrapped)} "
            f"of those in an attack, with {percent(found.alarms)} and {percent(found.wrapped_alarms)} false alarms."
        )
        kept = Part(
            DETECTOR,
            figures.detection(found),
            reading(f"Texts that it has not seen, written much like those it has. Area under the curve {found.area:g}.")
            + source(CALIBRATE, part="--measure")
            + as_printed(GUARDED, "Gate, strength and a second edit on top", SAFEGUARDS),
        )
    trusted = None
    if judge is not None:
        trusted = (
            "The judge of it all is a set of rules that tells refused from not refused: right on "
            f"{100 * judge['accuracy'].mean:.1f} % of human labels that it was not made from, it finds "
            f"{100 * judge['recall'].mean:.0f} % of their refusals, and of what it calls a refusal "
            f"{100 * judge['precision'].mean:.0f} % is one. What is no refusal counts as harmful: so it agrees "
            f"with people on harm in {100 * judge['harm'].mean:.0f} % of answers, most of which it was made from."
        )
        kept = and_told(kept, source(JUDGE, command=ACCURACY))
    others = _of_others()
    kept = and_told(kept, *(source(name) for name in others))
    return Panel(
        (
            "The base weights are never written; an edit acts for its visitor alone and Undo is exact. Every method "
            "refuses a case whose answers look exchanged, no strength is negative, and what lets the unsafe answer "
            "gain "
            "is refused before its patch exists.",
            f"After an edit the {term('gate')} asks a small exam and holds back what breaks a "
            f"{term('damage budget')} or gains nothing, until a person keeps it on the record. An edit can be "
            f"{term('routed')}: "
            "then "
            "it acts only where a detector finds harm.",
            said(
                told,
                *others.values(),
                trusted,
                "None of this is a guard against a determined attacker: who knows of the detector can look for words "
                "that it does not find.",
            ),
        ),
        _gate(held, "How much of each budget your live edit used"),
        kept,
        (
            ("operate", "See the gate under the vital signs, or Examine again"),
            ("stress", "A full one asks more harmless prompts than the gate"),
        ),
    )


def _of_others() -> dict[str, str]:
    """Say how the detector does on prompts that others wrote, by the result that says it; nothing unmeasured."""
    told = {}
    found, misled = results.read(ELSEWHERE, detectors.elsewhere), results.read(MISLEADING, detectors.misled)
    if found is not None:
        shares = ", ".join(f"{title} {percent(share)}" for title, share in found.items())
        told[ELSEWHERE] = (
            f"Of prompts of other collections, bare and in attacks together, the detector finds: {shares}; its texts "
            "were chosen with a part of them in sight."
        )
    if misled is not None:
        told[MISLEADING] = (
            f"On XSTest, made to mislead and partly in sight too, the detector finds {percent(misled.found)} of the "
            f"unsafe prompts and fires for {percent(misled.alarms)} of the safe ones, area under the curve "
            f"{misled.area:g}."
        )
    apart = results.read(APART, detectors.misled)
    if apart is not None:
        told[APART] = (
            "Of prompts in the words of harm, written apart from its texts, the detector finds "
            f"{percent(apart.found)} of the harmful ones and fires for {percent(apart.alarms)} of those that are "
            "harmless."
        )
    return told


DETECTOR = "What the detector finds, and its false alarms"


def _gate(held: Held, title: str, names: tuple[str, ...] = ()) -> Part:
    """Return what the gate measured of the live edit.

    Args:
        names: The checks to show; all by default.
    """
    live = held.session.live
    if live is None:
        return nothing(title, NO_EDIT)
    record = _record(live)
    if record and not is_of(record, held.session.row):
        return nothing(title, "The gate has not examined the live edit as it acts now: press Examine again.")
    known = [check for check in record.get("checks", ()) if not check.get("least")]  # a gain is no budget
    checks = [check for check in known if not names or check["name"] in names]
    if not checks:
        return nothing(title, "The gate has not examined the live edit: press Examine.")
    told = "; ".join(
        f"{check['meaning']} {number(check['value'])} {check['unit']}, {number(check['limit'])} allowed"
        + (f" ({check['beside']})" if check.get("beside") else "")
        for check in checks
    )
    how = "passed under looser budgets" if record.get("loosened") else "refused"
    word = "passed" if record["passed"] else f"{how} and kept by hand" if record["overridden"] else how
    return Part(title, figures.budgets(checks), reading(f"{case_name(live.case).capitalize()}, {word}: {told}."))


def _record(live: LiveEdit) -> Mapping[str, Any]:
    return live.patch.settings.get(RECORD) or {}
