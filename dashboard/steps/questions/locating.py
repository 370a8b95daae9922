"""Questions about the layer: how it is located, whether that can be done better, which neurons carry it."""

from __future__ import annotations

from dashboard.kit.drawing.glossary import term
from dashboard.kit.drawing.html import reading
from dashboard.kit.drawing.plots import EDITED, VANILLA
from dashboard.steps.questions import figures, results
from dashboard.steps.questions.panel import Held, Panel, Part, and_told, cases, nothing, percent, plain, said, source
from dashboard.steps.questions.printed import Measured
from inspector.locators import LOCATORS as LOCATORS_KNOWN

CALIBRATE, LOCATORS, METHODS, DETOX = "calibration.txt", "locators.txt", "methods.txt", "detox.txt"
CHANCE = "random block"


def located(held: Held) -> Panel:
    """How and why is a layer located?"""
    found, chosen = results.read(CALIBRATE, results.trials), results.read(LOCATORS, results.chosen)
    toxic = None if chosen is None else max(chosen["divergence"], key=chosen["divergence"].count)
    told, at = None, ""
    if found is not None:
        at = (
            f"layer {toxic}, which the distance names, {found.at(toxic):g} %, "
            if toxic is not None and toxic in found.blocks
            else ""
        )
        told = (
            f"Trial edits of {found.cases} cases of the embedded model say so: layer {found.recommended} defends "
            f"{found.at(found.recommended):g} % of {found.prompts} unseen prompts, {at}the model by itself "
            f"{found.vanilla:g} %."
        )
    kept = nothing(TRIALS, "No committed result: python -m editing.calibrate makes one.")
    if found is not None:
        kept = Part(
            TRIALS,
            figures.trials(found, toxic),
            reading(
                f"Embedded model, {found.prompts} prompts a layer: one prompt is {100 / found.prompts:g} percentage "
                "points. The toxic layer is the one that the distance names."
            )
            + source(CALIBRATE),
        )
    if at:
        kept = and_told(kept, source(LOCATORS))
    return Panel(
        (
            f"DINM reads the same prompt twice, once with the safe and once with the unsafe answer, and measures after "
            f"each {term('layer')} how far apart the two are: the {term('divergence')}. Where they part most is the "
            f"{term('toxic layer')}. Its thought: there the model turns to one answer or the other.",
            said(
                "A distance says where answers differ, not where a change of weights helps; it also grows with depth "
                f"by itself. So this page also measures: {term('trial edit')}s at many layers, judged by prompts that "
                f"they were not made with, name the {term('recommended layer')}.",
                told,
            ),
        ),
        held.part("shown curve", "Where the answers of your case part", "Nothing is measured: press Locate."),
        kept,
        (
            ("operate", "Press Locate, click a bar, edit that layer"),
            ("why", "See every other way to choose, and the atlas that judges them"),
        ),
    )


TRIALS = "What trial edits defend at each layer"


def better(held: Held) -> Panel:
    """Is there a better way to locate?"""
    found, kept = results.read(LOCATORS, results.regrets), nothing(REGRETS, "No committed result can be read.")
    told = None
    if found is not None and {"divergence", "always 2/3", CHANCE} <= found.keys():
        truth = {name: line["within budget"] for name, line in found.items()}
        told = (
            f"Within the {term('damage budget')} the largest distance loses {plain(truth['divergence'])} of the five "
            f"prompts against the best layer, as a share; a layer drawn at random {plain(truth[CHANCE])}; the fixed "
            f"choice of the layer at two thirds of the depth {plain(truth['always 2/3'])}. {_beaten(truth)}"
        )
        ordered = sorted(truth, key=lambda name: truth[name].mean)
        kept = Part(
            REGRETS,
            figures.bars(
                ordered, {"regret": (VANILLA, [truth[name] for name in ordered])}, "regret: 0 is the best layer", 150
            ),
            reading(
                f"Share of a case's five prompts that the chosen layer loses against the best one; {cases(LOCATORS)} "
                "cases, 95 % interval. One small model, one kind of edit."
            )
            + source(LOCATORS),
        )
    whole = _whole_edits()
    if whole is not None:
        kept = and_told(kept, source(DETOX))
    return Panel(
        (
            f"{len(LOCATORS_KNOWN)} locators were asked, from gradients to knock-outs, and judged by the "
            f"{term('atlas')}: the same small edit at every layer. {term('Regret')} is what a locator's choice loses.",
            said(
                told,
                "So the recommended layer is not read off one case at all: it is tried, once a model, on a few cases.",
                whole,
            ),
        ),
        held.part(
            "shown locators",
            "What every locator says of your case",
            "No locator was asked on this visit: press Ask all locators.",
        ),
        kept,
        (("why", "Ask all locators, then run the atlas that judges them"),),
    )


REGRETS = "What each locator loses"


def _beaten(truth: dict[str, Measured]) -> str:
    """Say how many locators that look at the case do better than the fixed choice."""
    looked = [name for name in truth if not name.startswith("always") and name != CHANCE]
    fewer = sum(truth[name].mean < truth["always 2/3"].mean for name in looked)
    return (
        f"{'None' if fewer == 0 else str(fewer)} of {len(looked)} locators that look at the case does better than that."
    )


def neurons(held: Held) -> Panel:
    """Which neurons carry it?"""
    erased, lost = results.read(METHODS, results.erasing), results.read(LOCATORS, results.regrets)
    kept = nothing(LESS_TOXIC, "No committed result can be read.")
    told = None
    if erased is not None and "DINM" in erased:
        share = {name: line["neurons less toxic, %"] for name, line in erased.items()}
        low, high = share["DINM"].low, share["DINM"].high
        near = low is not None and high is not None and low <= 50 <= high
        told = (
            f"After DINM {percent(share['DINM'], 1)} of the region's neurons are less toxic than before"
            f"{': half of them, as by chance' if near else ''}."
        )
        shown = [name for name, value in share.items() if not value.forced]
        kept = Part(
            LESS_TOXIC,
            figures.bars(
                shown, {"less toxic": (EDITED, [share[name] for name in shown])}, "neurons less toxic, %", 100
            ),
            reading(
                f"Of the edited region's neurons, 95 % interval over {cases(METHODS)} cases; 50 % is what chance gives."
            )
            + source(METHODS),
        )
    knocked = None
    if lost is not None and "knock-out" in lost and CHANCE in lost:
        knocked = (
            "Choosing the layer by knocking out all neurons of each in turn has a regret of "
            f"{plain(lost['knock-out']['within budget'])}, a layer drawn at random "
            f"{plain(lost[CHANCE]['within budget'])}."
        )
        kept = and_told(kept, source(LOCATORS))
    return Panel(
        (
            f"A {term('neuron')} writes its column of the {term('down-projection')} when it is active. The table of "
            "Why this layer lists those of a layer by what they push, by how they differ between the answers, or by "
            f"how {term('toxic')} their column is. Some can be taken away (a knock-out is an edit like any other, "
            "refused "
            "where the unsafe answer gains), and DINM can be held to a few columns.",
            said(
                told,
                knocked,
                "How many columns an edit needs was not measured over cases; the page tries it on yours.",
            ),
        ),
        held.part("shown neurons", "Neurons that your live edit moved", "No edit is live: press Operate."),
        kept,
        (("why", "List a layer's neurons, knock some out, or edit their columns only"),),
    )


def _whole_edits() -> str | None:
    """Say whether whole edits agree with the trial edits that chose the layer."""
    found = results.read(DETOX, results.recipes) or {}
    toxic, recommended = found.get("corrected, toxic layer"), found.get("corrected, recommended layer")
    if toxic is None or recommended is None:
        return None
    agree = recommended["DG-Avg"].mean >= toxic["DG-Avg"].mean
    return (
        f"Whole edits {'agree' if agree else 'disagree'} so far: DG-Avg {percent(recommended['DG-Avg'])} at the "
        f"recommended layer, {percent(toxic['DG-Avg'])} at the toxic one, over {cases(DETOX)} cases (see the "
        "question on repeating answers)."
    )


LESS_TOXIC = "Neurons that got less toxic, by method"
