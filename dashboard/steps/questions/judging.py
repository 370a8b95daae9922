"""Questions about what an edit does: repeating answers, the suffix, categories, safeguards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboard.kit.glossary import term
from dashboard.kit.html import case_name, number, reading
from dashboard.kit.plots import EDITED, SAFE, UNSAFE, VANILLA
from dashboard.kit.session import LiveEdit
from dashboard.steps.questions import figures, results
from dashboard.steps.questions.panel import (
    Held,
    Panel,
    Part,
    as_printed,
    cases,
    nothing,
    percent,
    routed_anew,
    said,
    source,
    unmeasured,
)
from dashboard.steps.questions.results import Measured
from editing.gate import RECORD, Budgets
from editing.suffixes import NONE, SuffixStudy
from inspector.safeedit.scores import QUOTED

DETOX, METHODS, CALIBRATE, JUDGE = "detox.txt", "methods.txt", "calibration.txt", "judge_accuracy.txt"
NO_EDIT = "No edit is live: press Operate."
SUFFIXES, SAFEGUARDS = "python -m benchmarks.suffixes", "python -m benchmarks.safeguards"
MATRIX = "python -m editing.sweep --cases bundled --out runs/first --report"


def repeating(held: Held) -> Panel:
    """Why do answers repeat, and what was done?"""
    found = results.read(DETOX, results.recipes)
    kept, told = nothing(BROKEN, "No committed result can be read."), None
    if found is not None:
        released, toxic = found.get("released code, toxic layer"), found.get("corrected, toxic layer")
        if released is not None and toxic is not None and "vanilla" in found:
            told = (
                f"Degenerate answers: {percent(found['vanilla']['degenerate'])} of the vanilla model's, "
                f"{percent(released['degenerate'])} with the released code, {percent(toxic['degenerate'])} with ours "
                "at "
                "the same layer."
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
                "percent of answers, 95 % interval",
                170,
            ),
            reading(f"{cases(DETOX)} cases, a small model that repeats itself at times without any edit.")
            + source(DETOX)
            + routed_anew(),
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
                f"{Budgets().parroting:g} % {term('parroting')}.",
                told,
            ),
        ),
        _gate(held, "Broken and parroted answers in the exam of your live edit", ("degenerate", "parroting")),
        kept,
        (("operate", "Ask both with prompts of your own"), ("stress", "Count degenerate and parroted answers")),
    )


def _quoted(found: results.Table) -> dict[str, tuple[str, list[Measured | None]]]:
    """Return how many prompts were given a training sentence, where that was measured."""
    series = {
        name: (colour, [line.get(name) for line in found.values()])
        for name, colour in zip(QUOTED, (SAFE, VANILLA), strict=True)
    }
    return {name: known for name, known in series.items() if any(known[1])}


BROKEN = "Degenerate and parroted answers, by way of editing"


def suffix(held: Held) -> Panel:
    """What does the suffix do?"""
    found = held.lent("suffixes")
    title = "Suffix and weights, alone and together"
    live = nothing(title, "Not asked on this visit: Stress test, Suffix alone, weights alone and both.")
    if found is not None:
        study, weights = found
        live = Part(title, _suffixes(study), reading(f"{weights}: {study.reading}"))
    return Panel(
        (
            f"The paper puts a sentence after every prompt, the {term('suffix')}: if the request is reasonable, answer "
            "it; give the right response. It reminds the model of refusing, before any edit.",
            "As the paper scores, the vanilla model is asked without it and the edited one with it, so the suffix's "
            "effect counts for the edit. Here both are asked with the same one unless that way of scoring is chosen, "
            "and an edit is always asked with the suffix that it was made with.",
        ),
        live,
        Part("Over several cases", None, as_printed("suffixes.txt", "Suffix alone, weights alone, both", SUFFIXES)),
        (
            ("stress", "Ask what suffix and weights do alone and together"),
            ("operate", "Empty the suffix under Suffix in the case, then Ask both"),
        ),
    )


def _suffixes(study: SuffixStudy) -> Any:
    labels = [
        (f"{one.suffix}, " if one.suffix != NONE else "no suffix, ") + ("edited" if one.edited else "vanilla")
        for one in study.conditions
    ]

    def column(name: Any) -> list[Measured | None]:
        estimates = [one.scores[name] for one in study.conditions]
        return [None if one.value is None else Measured(one.value, one.low, one.high) for one in estimates]

    series = {
        "DG-Avg": (SAFE, column("DG-Avg")),
        "DL": (EDITED, column("DL")),
        "refused": (UNSAFE, column("over-refusal")),
    }
    return figures.bars(labels, series, "percent, 95 % interval", 180)


SHOWN_SCORES = ("DS", "onlyQ", "otherA", "otherQ", "otherAQ", "transfer")


def categories(held: Held) -> Panel:
    """Does it generalise across categories?"""
    found = results.read(METHODS, results.scores)
    kept, told = nothing(REACH, "No committed result can be read."), None
    missing = unmeasured("Which category's edit defends which category's prompts", MATRIX)
    if found is not None and {"vanilla", "DINM"} <= found.keys():
        vanilla, dinm = found["vanilla"], found["DINM"]
        if "transfer" in dinm:
            told = (
                f"Of prompts of other cases, all categories together, {percent(dinm['transfer'])} were defended, "
                f"{percent(vanilla['transfer'])} without an edit."
            )
        names = [name for name in SHOWN_SCORES if name in dinm]
        kept = Part(
            REACH,
            figures.bars(
                names,
                {
                    "vanilla": (VANILLA, [vanilla.get(name) for name in names]),
                    "DINM": (EDITED, [dinm[name] for name in names]),
                },
                "defended, %, 95 % interval",
                80,
            ),
            reading(f"{cases(METHODS)} cases, one a category, embedded model; judged by refusal rules.")
            + source(METHODS)
            + missing,
        )
    return Panel(
        (
            f"An edit is made from one case of one category. It is asked four variants of it ({term('DG-Avg')}) and "
            f"prompts of other cases of all nine categories ({term('transfer')}).",
            said(
                told,
                "That one edit reaches other categories can also mean that the model has learnt to decline more of "
                f"everything, so {term('over-refusal')} belongs beside it.",
            ),
        ),
        held.part(
            "shown categories",
            "Defended by category, your live edit",
            "No stress test on this visit: press Stress test.",
        ),
        kept,
        (("stress", "Ask your edit about every category"), ("methods", "The same for other methods")),
    )


REACH = "How far an edit reaches"


def safeguards(held: Held) -> Panel:
    """What are the safeguards?"""
    found, judge = results.read(CALIBRATE, results.detection), results.read(JUDGE, results.judge)
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
            + source(CALIBRATE)
            + as_printed("safeguards.txt", "Gate, strength and a second edit on top", SAFEGUARDS),
        )
    trusted = (
        None
        if judge is None
        else (
            f"The judge of it all is a set of rules: right on {100 * judge['accuracy'].mean:.1f} % of human labels "
            "that it was "
            f"not made from, and of what it calls a refusal {100 * judge['precision'].mean:.0f} % is one."
        )
    )
    return Panel(
        (
            "The base weights are never written; an edit acts for its visitor alone and Undo is exact. Every method "
            "refuses a case whose answers look exchanged, no strength is negative, and what lets the unsafe answer "
            "gain "
            "is refused before its patch exists.",
            said(
                f"After an edit the {term('gate')} asks a small exam and holds back what breaks a "
                f"{term('damage budget')}, until a person keeps it on the record. An edit can be {term('routed')}: "
                "then "
                "it acts only where a detector finds harm.",
                told,
                trusted,
                "None of this is a guard against a determined attacker: who knows of the detector can look for words "
                "that it does not find.",
            ),
        ),
        _gate(held, "How much of each budget your live edit used"),
        kept,
        (
            ("operate", "See the gate under the vital signs, or Examine again"),
            ("stress", "Ask more harmless prompts than the gate does"),
        ),
    )


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
    checks = [check for check in record.get("checks", ()) if not names or check["name"] in names]
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
