"""Questions about what an edit does: repeating answers, the suffix, categories, safeguards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboard.kit.drawing.glossary import term
from dashboard.kit.drawing.html import case_name, number, reading
from dashboard.kit.drawing.plain import escape
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
from dashboard.steps.questions.results import Measured
from editing.gate.budgets import Budgets
from editing.gate.gate import RECORD, is_of
from editing.methods.registry import METHODS as METHODS_KNOWN
from editing.suffixes import NONE, WEIGHTS, SuffixStudy
from inspector.safeedit.scores import QUOTED

DETOX, METHODS, CALIBRATE, JUDGE = "detox.txt", "methods.txt", "calibration.txt", "judge_accuracy.txt"
SUFFIX, CATEGORIES, PACKAGED, GUARDED = "suffixes.txt", "categories.txt", "packaged.json", "safeguards.txt"
ELSEWHERE, MISLEADING = "calibration_packaged.txt", "calibration_xstest.txt"
REMINDER = METHODS_KNOWN["self-reminder"].title
NO_EDIT = "No edit is live: press Operate."
SUFFIXES, SAFEGUARDS = "python -m benchmarks.suffixes", "python -m benchmarks.safeguards"
ACCURACY = "python -m benchmarks.judge_accuracy"
MATRIX = "python -m editing.sweep --cases bundled --out runs/first --report"
COLLECTIONS = "python -m benchmarks.packaged --routed"


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
        stale = "" if weights == held.session.weights.label() else " Live now are other weights."
        if held.session.row.detector is not None:
            stale += " The live edit acts only where harm is detected; here its weights act on every prompt."
        live = Part(title, _conditions(_measured(study)), reading(f"{weights}: {study.reading}{stale}"))
    kept, told = _suffixes_measured()
    return Panel(
        (
            f"The paper puts a sentence after every prompt, the {term('suffix')}: if the request is reasonable, answer "
            "it; give the right response. It reminds the model of refusing, before any edit.",
            said(
                "As the paper scores, the vanilla model is asked without it and the edited one with it, so the "
                "suffix's effect counts for the edit. Here both are asked with the same one unless that way of scoring "
                "is chosen, and an edit is always asked with the suffix that it was made with.",
                told,
            ),
        ),
        live,
        kept,
        (
            ("stress", "Ask what suffix and weights do alone and together"),
            ("operate", "Empty the suffix under Suffix in the case, then Ask both"),
        ),
    )


OVER_CASES = "Suffix and weights over several cases"
REMINDED = "What a reminder does without an edit"


def _suffixes_measured() -> tuple[Part, str | None]:
    """Return what suffixes do over several cases; until that is measured, what a longer reminder does."""
    printed = as_printed(SUFFIX, "Suffix alone, weights alone, both", SUFFIXES)
    found, count = results.read(SUFFIX, results.suffixes), results.read(SUFFIX, results.edits_of)
    if found is None:
        kept, told = _reminded()
        return Part(kept.title, kept.figure, kept.below + printed), told
    vanilla, edited = (found[weights, NONE]["DG-Avg"] for weights in WEIGHTS)
    both = [
        f"{escape(name)} alone {percent(found[WEIGHTS[0], name]['DG-Avg'])}, with the weights "
        f"{percent(found[WEIGHTS[1], name]['DG-Avg'])}"
        for weights, name in found
        if weights == WEIGHTS[0] and name != NONE
    ]
    told = (
        f"Of the cases' variants the model by itself defends {percent(vanilla)}, the edited weights alone "
        f"{percent(edited)}; {'; '.join(both)}."
    )
    below = reading(
        f"{'Some' if count is None else count} edits of the embedded model, 95 % intervals. DL is against vanilla "
        "without a suffix, so that a suffix's own damage shows."
    )
    return Part(OVER_CASES, _conditions(found), below + printed), told


def _reminded() -> tuple[Part, str | None]:
    """Return what Self-Reminder does: sentences around the prompt, which tell the model to answer responsibly."""
    found = results.read(METHODS, results.scores)
    if found is None or not {"vanilla", REMINDER} <= found.keys():
        return nothing(REMINDED, "No committed result can be read."), None
    vanilla, reminder = found["vanilla"], found[REMINDER]
    names = [name for name in ("DG-Avg", "DL", "over-refusal") if name in vanilla and name in reminder]
    drawn = figures.bars(
        names,
        {
            "vanilla": (VANILLA, [vanilla[name] for name in names]),
            "with a reminder": (SAFE, [reminder[name] for name in names]),
        },
        "percent, 95 % interval",
        90,
    )
    told = (
        f"A longer reminder, {REMINDER}'s around the prompt, with no weight changed and beside the suffix that both "
        f"have, does not replace an edit: {percent(reminder['DG-Avg'])} of the variants are defended with it, "
        f"{percent(vanilla['DG-Avg'])} without."
        if reminder["DG-Avg"].mean <= vanilla["DG-Avg"].mean
        else None
    )
    below = reading(f"{cases(METHODS)} cases, embedded model, asked with the suffix; no edit in either.")
    return Part(REMINDED, drawn, below + source(METHODS)), told


def _measured(study: SuffixStudy) -> results.Conditions:
    """Return a study's scores as those of a committed one are."""
    return {
        (WEIGHTS[one.edited], one.suffix): {
            name: Measured(score.value, score.low, score.high)
            for name, score in one.scores.items()
            if score.value is not None
        }
        for one in study.conditions
    }


def _conditions(found: results.Conditions) -> Any:
    labels = [f"{'no suffix' if name == NONE else name}, {weights}" for weights, name in found]
    shown = {"DG-Avg": ("DG-Avg", SAFE), "DL": ("DL", EDITED), "refused": ("over-refusal", UNSAFE)}
    series = {
        name: (colour, [scores.get(score) for scores in found.values()]) for name, (score, colour) in shown.items()
    }
    return figures.bars(labels, series, "percent, 95 % interval", 180)


SHOWN_SCORES = ("DS", "onlyQ", "otherA", "otherQ", "otherAQ", "transfer")


def categories(held: Held) -> Panel:
    """Does it generalise across categories?"""
    kept, told = _crossed() or _reached()
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


CROSSED, REACH = "Edited on one category, asked about another", "How far an edit reaches"


def _crossed() -> tuple[Part, str | None] | None:
    """Return which category's edits defend which category's prompts; ``None`` where that is not measured."""
    found = results.read(CATEGORIES, results.matrix)
    if found is None:
        return None
    own, others, vanilla = found.means()
    told = None
    if own is not None and others is not None and vanilla is not None:
        told = (
            f"Of held-out prompts of the category that was edited on {own:.0f} % are defended, of the other categories "
            f"{others:.0f} %, without an edit {vanilla:.0f} % (means over categories)."
        )
    below = reading(
        f"{cases(CATEGORIES)} cases of the embedded model, percent defended: upright the category that was edited on, "
        "across the one that was asked about. Few prompts a cell: read rows and columns, not cells."
    )
    printed = as_printed(CATEGORIES, "The sweep's report", MATRIX)
    return Part(CROSSED, figures.matrix(found), below + printed + _beyond()), told


def _reached() -> tuple[Part, str | None]:
    """Return how far DINM's edits reach over all categories together."""
    found = results.read(METHODS, results.scores)
    if found is None or not {"vanilla", "DINM"} <= found.keys():
        return nothing(REACH, "No committed result can be read."), None
    vanilla, dinm = found["vanilla"], found["DINM"]
    told = None
    if "transfer" in dinm:
        told = (
            f"Of prompts of other cases, all categories together, {percent(dinm['transfer'])} were defended, "
            f"{percent(vanilla['transfer'])} without an edit."
        )
    names = [name for name in SHOWN_SCORES if name in dinm]
    drawn = figures.bars(
        names,
        {
            "vanilla": (VANILLA, [vanilla.get(name) for name in names]),
            "DINM": (EDITED, [dinm[name] for name in names]),
        },
        "defended, %, 95 % interval",
        80,
    )
    below = reading(f"{cases(METHODS)} cases, one a category, embedded model; judged by refusal rules.")
    missing = as_printed(CATEGORIES, "Which category's edit defends which category's prompts", MATRIX)
    return Part(REACH, drawn, below + source(METHODS) + missing + _beyond()), told


def _beyond() -> str:
    """Read what an edit does with prompts of other collections, which other packages ship; nothing unmeasured."""
    found = results.read(PACKAGED, results.public_sets)
    if found is None:
        return ""
    refused = _refused_elsewhere()
    told = "; ".join(
        f"{title} {percent(defended['edited'])}, "
        + (f"routed {percent(defended['routed'])}, " if "routed" in defended else "")
        + f"without an edit {percent(defended['vanilla'])}"
        for title, defended in found.items()
    )
    said_of = reading(
        f"Of bare prompts of other collections an edit of one bundled case defends: {told}. Routed is another edit of "
        "that case, which learns more and acts only where the detector fires. The gate was asked of neither"
        f"{'; it refuses the first.' if refused else '.'}"
    )
    return said_of + source(PACKAGED, command=COLLECTIONS) + (source(GUARDED) if refused else "")


def _refused_elsewhere() -> bool:
    """Return whether the gate, asked apart, refuses the edit of weights that the collections were asked with."""
    edited, guarded = results.read(PACKAGED, results.packaged_edit), results.read(GUARDED, results.guarded)
    return guarded is not None and guarded.refused and edited == (guarded.case, guarded.block)


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
            ("stress", "Ask more harmless prompts than the gate does"),
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
