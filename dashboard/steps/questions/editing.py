"""Questions about the edit: how its loss balances, whether it erases or bypasses, what it costs."""

from __future__ import annotations

from typing import Any

from dashboard.kit.drawing.glossary import term
from dashboard.kit.drawing.html import case_name, number, reading
from dashboard.kit.drawing.plots import EDITED, SAFE, VANILLA
from dashboard.steps.questions import figures, results
from dashboard.steps.questions.panel import (
    FIRST,
    Held,
    Panel,
    Part,
    and_told,
    cases,
    nothing,
    percent,
    plain,
    said,
    source,
)
from dashboard.steps.questions.printed import Measured
from editing import preset
from editing.methods.dinm import to_be_routed

METHODS, DETOX, SPEED, GUARDED = "methods.txt", "detox.txt", "edit_speed.txt", "safeguards.txt"
DEVICES = ("gpu_h100.json", "gpu_h200.json")
NO_EDIT = "No edit is live: press Operate."


def balance(held: Held) -> Panel:
    """How does the loss balance?"""
    paper, ours = preset("paper"), preset("corrected")
    routed = to_be_routed(ours)
    found = results.read(DETOX, results.recipes)
    kept = nothing(TRADE, "No committed result can be read.")
    told = None
    if found is not None:
        points = {name: (line["harmless KL"], line["DG-Avg"]) for name, line in found.items()}
        released = found.get("released code, toxic layer")
        if released is not None:
            told = (
                f"It costs little, a harmless KL of {plain(released['harmless KL'])}, and defends "
                f"{percent(released['DG-Avg'])} of the case's variants."
            )
        kept = Part(
            TRADE,
            figures.trade(points, "harmless KL, nats a token", "DG-Avg, %"),
            reading(f"{cases(DETOX)} cases, 95 % intervals: few answers, so read sizes, not ranks.") + source(DETOX),
        )
    return Panel(
        (
            f"Two terms are added: the {term('edit loss')}, which falls as the safe answer gets likely, and the "
            f"{term('KL')}, which rises as harmless behaviour changes. The paper weighs the first by "
            f"{paper.edit_weight:g} and the second by {paper.constraint_weight:g}: a nat of KL counts as much as "
            f"{number(paper.constraint_weight / paper.edit_weight)} nats of edit loss.",
            said(
                "In the released code the KL has no gradient: it is written down and holds nothing back, and a number "
                "of steps or a tiny loss ends the edit (preset reference).",
                told,
                "Ours gives it a gradient, takes it over the model's own answers to "
                f"{ours.harmless_prompts} harmless prompts, and undoes an update that goes beyond "
                f"{number(ours.damage_budget or 0)} nats a token.",
                f"{FIRST}, is another: its KL has the weight {routed.constraint_weight:g} and no budget, and it ends "
                f"after {routed.steps} updates; what it would do to harmless prompts is its detector's care.",
            ),
        ),
        _trace(held),
        kept,
        (
            ("operate", "Watch both terms while an edit runs; weights and budgets stand under All settings"),
            ("methods", "Compare with methods that have no such term"),
        ),
    )


TRADE = "What each way wins and costs"
BALANCE = "Both terms of the live edit's loss, as weighted"


def _trace(held: Held) -> Part:
    live = held.session.live
    if live is None:
        return nothing(BALANCE, NO_EDIT)
    settings: Any = live.result.settings
    if not hasattr(settings, "edit_weight") or not hasattr(settings, "constraint_weight"):
        return nothing(BALANCE, f"The live edit is by {live.patch.method}, whose loss has no such two terms.")
    last = live.result.last
    first = live.result.trace[0]
    return Part(
        BALANCE,
        figures.balance(live.result.taken, settings.edit_weight, settings.constraint_weight),
        reading(
            f"{case_name(live.case).capitalize()}: the edit loss goes from {number(first.edit_loss)} to "
            f"{number(last.edit_loss)} nats a token, the KL to {number(max(0.0, last.constraint_kl))}; as weighted "
            "that "
            f"is {number(settings.edit_weight * last.edit_loss)} against "
            f"{number(max(0.0, settings.constraint_weight * last.constraint_kl))}."
        ),
    )


def erase(held: Held) -> Panel:
    """Does it erase or bypass, and by which measure?"""
    found, means = results.read(METHODS, results.erasing), results.read(METHODS, results.region_means)
    kept = nothing(ERASED, "No committed result can be read.")
    told = None
    if found is not None and {"DINM", "SFT", "DPO"} <= found.keys():
        dinm = found["DINM"]["toxicity, %"]
        unsure = dinm.low is not None and dinm.high is not None and dinm.low <= 0 <= dinm.high
        told = said(
            f"On the embedded model DINM changes the region's mean cosine by {percent(dinm, 1)}"
            f"{': as often up as down, so no erasing shows' if unsure else ''}.",
            means
            and f"That mean is {means[0]:g}, a single neuron's {means[1]:g} in size: a relative change of it says "
            "little.",
            f"SFT and DPO shift what flows in ({found['SFT']['input shift, %'].mean:.1f} and "
            f"{found['DPO']['input shift, %'].mean:.1f} %) and leave the toxicity almost as it was.",
        )
        names = list(found)
        kept = Part(
            ERASED,
            figures.bars(
                names,
                {
                    "neurons less toxic, %": (SAFE, [found[name]["neurons less toxic, %"] for name in names]),
                    "input shift, %": (EDITED, [found[name]["input shift, %"] for name in names]),
                },
                "percent, 95 % interval",
                110,
            ),
            reading(
                f"{cases(METHODS)} cases, each method with its own defaults. Half of the neurons less toxic is what "
                "chance gives; a shift of 0 is forced for methods that change nothing before the region."
            )
            + source(METHODS),
        )
    return Panel(
        (
            "To erase would be to make the region write less along the toxic direction; to bypass, to leave it as it "
            "is "
            f"and feed it something else, an {term('activation shift')}. DINM edits the last matrix of a layer, so "
            "what "
            "flows into it cannot change: its shift of zero follows from where it edits and is no finding.",
            said(
                told,
                "Three measures of erasing need not agree: the mean cosine of the region, the share of neurons that "
                "got "
                "less toxic, and what the region writes on the prompts at hand.",
            ),
        ),
        _erased_live(held),
        kept,
        (
            ("methods", "Run methods on your case, switch what stands upright on the plane"),
            ("why", "See the toxicity of every layer's region"),
        ),
    )


ERASED = "Neurons less toxic, and what flows in, by method"


def _erased_live(held: Held) -> Part:
    contest = held.lent("shown methods")
    if contest is not None:
        return Part("Methods on your case: toxicity against shift", contest.figure, contest.reading)
    return held.part("shown shift", "Where your live edit moves the states", NO_EDIT)


def cost(held: Held) -> Panel:
    """What does it cost, up to billions of parameters?"""
    runs = {name: found for name in DEVICES if (found := results.read(name, results.device)) is not None}
    speeds = results.read(SPEED, results.speeds)
    told, small = None, None
    if speeds is not None:
        high, low = (speeds["block"].index(pick(speeds["block"])) for pick in (max, min))
        small = (
            f"On two CPU cores an edit of the embedded model's layer {speeds['block'][high]:g} takes "
            f"{speeds['tail'][high]:g} s instead of {speeds['plain'][high]:g}, of layer {speeds['block'][low]:g} "
            f"{speeds['tail'][low]:g} instead of {speeds['plain'][low]:g}."
        )
    kept = nothing(GPU, "No committed result can be read.")
    if runs:
        first = next(iter(runs.values()))
        best = max(first["edits"], key=lambda edit: edit["block"])
        told = (
            f"On one {first['device']}, a model of Llama 2 7B's shape with random weights in {first['dtype']}: "
            "locating "
            f"takes {first['locate (corrected), s']:.3f} s, locating and editing layer {best['block']} "
            f"{best['locate and edit, s']:.3f} s, {best['times faster']:.1f} times less than the plain way; memory at "
            f"its peak {first['peak memory, GiB']:.1f} GiB, of which the weights are {first['weights, GiB']:.1f}."
        )
        pairs = [(run, edit) for run in runs.values() for edit in run["edits"]]
        labels = [f"{_device(run)}, layer {edit['block']}" for run, edit in pairs]

        def times(key: str) -> list[Measured | None]:
            return [Measured(edit[key]) for _, edit in pairs]

        kept = Part(
            GPU,
            figures.bars(
                labels,
                {
                    "tail replay": (EDITED, times("locate and edit, s")),
                    "the plain way": (VANILLA, times("plain way, s")),
                },
                "seconds to locate and edit",
                130,
            ),
            reading("One run each, random weights of Llama 2 7B's shape, ten updates of the preset reference.")
            + source(*runs, command="python -m benchmarks.gpu"),
        )
    if small is not None:
        kept = and_told(kept, source(SPEED))
    whole = results.read(GUARDED, results.guarded) if small or told else None
    if whole is not None:
        kept = and_told(kept, source(GUARDED))
    return Panel(
        (
            "Locating is one pass over both answers. An edit changes one matrix, so only the layers above it are run "
            f"again, forward and back, at every update (tail replay): the higher the {term('layer')}, the cheaper.",
            said(
                small,
                told,
                _timed(whole) if small or told else None,
                "Beside the model an edit needs room for one matrix in float32, with what the optimiser keeps of it, "
                "and "
                "for the states above it. A model that one card cannot hold is spread over several, or loaded in 4 "
                "bit. "
                "A real checkpoint of 7 billion parameters, and anything larger, was not measured.",
            ),
        ),
        _seconds(held),
        kept,
        (("operate", "Edit a high and a low layer and compare the clock"), ("methods", "Time and memory by method")),
    )


def _timed(whole: results.Guarded | None) -> str:
    """Say which edit the benchmarks of speed have timed, and how long a whole one took where that was measured."""
    return said(
        "The edits timed so are ten updates of the preset reference: without the harmless prompts that the default "
        "edit is held to, without the further questions (companions) that Operate's first edit learns, and without the "
        f"{term('gate')}.",
        None
        if whole is None
        else f"An edit by the default preset {whole.preset}, of the embedded model's layer {whole.block} on "
        f"{whole.threads} thread{'s' if whole.threads != 1 else ''}, took {whole.edit:g} s, its gate {whole.gate:g} s "
        "more.",
    )


GPU = "A 7-billion-parameter shape on one card"
SECONDS = "Seconds of each update of your live edit"


def _seconds(held: Held) -> Part:
    live = held.session.live
    if live is None:
        return nothing(SECONDS, NO_EDIT)
    result = live.result
    return Part(
        SECONDS,
        figures.seconds(result.trace),
        reading(
            f"The whole edit of layer {result.block} took {result.seconds:.1f} s; it changes "
            f"{live.patch.parameters_changed:,} weights."
        ),
    )


def _device(run: Any) -> str:
    return str(run["device"]).removeprefix("NVIDIA ").split()[0]
