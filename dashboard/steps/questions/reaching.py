"""Questions about how far an edit reaches: what the suffix does beside it, other categories, other collections."""

from __future__ import annotations

from typing import Any

from dashboard.kit.drawing.glossary import term
from dashboard.kit.drawing.html import reading
from dashboard.kit.drawing.plain import escape
from dashboard.kit.drawing.plots import EDITED, SAFE, UNSAFE, VANILLA
from dashboard.steps.questions import figures, results
from dashboard.steps.questions.panel import (
    Held,
    Panel,
    Part,
    as_printed,
    cases,
    nothing,
    percent,
    said,
    source,
)
from dashboard.steps.questions.printed import Measured
from editing.methods.registry import METHODS as METHODS_KNOWN
from editing.suffixes import NONE, WEIGHTS, SuffixStudy
from editing.suffixes import ROUNDED as ROUNDING

METHODS, SUFFIX, CATEGORIES = "methods.txt", "suffixes.txt", "categories.txt"
PACKAGED, GUARDED, DETOX = "packaged.json", "safeguards.txt", "detox.txt"
ROUNDED = "same weights rounded to bfloat16"
REMINDER = METHODS_KNOWN["self-reminder"].title
SUFFIXES = "python -m benchmarks.suffixes"
MATRIX = "python -m editing.sweep --cases bundled --out runs/first --report"
COLLECTIONS = "python -m benchmarks.packaged --routed"


def suffix(held: Held) -> Panel:
    """What does the suffix do?"""
    found = held.lent("suffixes")
    title = "Suffix and weights, alone and together"
    live = nothing(title, "Not asked on this visit: Stress test, Suffix alone, weights alone and both.")
    if found is not None:
        study, weights = found
        stale = "" if weights == held.session.row.key else " Live now are other weights, or they act otherwise."
        live = Part(title, _conditions(_measured(study)), reading(f"{weights[0]}: {study.reading}{stale}"))
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
    return Part(OVER_CASES, _conditions(found), below + _rounded() + printed), told


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
    return Part(REMINDED, drawn, below + source(METHODS) + _rounded()), told


def _rounded() -> str:
    """Read the DL that rounding has without any edit or other suffix, to read DL beside; nothing unmeasured."""
    found = results.read(DETOX, results.recipes)
    damage = None if found is None else found.get(ROUNDED, {}).get("DL")
    if damage is None:
        return ""
    said_of = reading(
        f"Read DL beside this: of the {ROUNDED}, with no edit, it is {percent(damage)}, over {cases(DETOX)} cases of "
        "the embedded model and against vanilla asked with the same suffix."
    )
    return said_of + source(DETOX)


def _measured(study: SuffixStudy) -> results.Conditions:
    """Return a study's scores, the rounding row among them, as those of a committed one are."""
    rows = [((WEIGHTS[one.edited], one.suffix), one.scores) for one in study.conditions]
    if study.rounded is not None:
        rows.append(((ROUNDING, NONE), study.of_rounded))
    return {
        row: {
            name: Measured(score.value, score.low, score.high)
            for name, score in scores.items()
            if score.value is not None
        }
        for row, scores in rows
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
    word = _asked_apart()
    told = "; ".join(
        f"{title} {percent(defended['edited'])}, "
        + (f"routed {percent(defended['routed'])}, " if "routed" in defended else "")
        + f"without an edit {percent(defended['vanilla'])}"
        for title, defended in found.items()
    )
    said_of = reading(
        f"Of bare prompts of other collections an edit of one bundled case defends: {told}. Routed is another edit of "
        "that case, which learns more and acts only where the detector fires. The gate was asked of neither"
        f"{f'; asked apart, it {word} the first.' if word else '.'}"
    )
    return said_of + source(PACKAGED, command=COLLECTIONS) + (source(GUARDED) if word else "")


def _asked_apart() -> str:
    """Return what the gate does with the edit of weights that the collections were asked with; empty if not asked."""
    edited, guarded = results.read(PACKAGED, results.packaged_edit), results.read(GUARDED, results.guarded)
    if guarded is None or edited != (guarded.case, guarded.block):
        return ""
    return "refuses" if guarded.refused else "passes"
