"""Small pieces of HTML of "Why this layer"; tokens and names are escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dashboard.kit.drawing.glossary import columns, heads
from dashboard.kit.drawing.html import case_name, heading, number, probability, progress_bar, reading
from dashboard.kit.drawing.plain import escape
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.steps.why.run import COVERED, NEXT, BlockNeurons, RegionCurve
from dashboard.steps.why.state import Looked, Why
from editing import DinmSettings
from editing.atlas import Atlas
from inspector.lens import Peak
from inspector.locators import Agreement, Located, NotLocated
from inspector.padding import PaddingStudy
from inspector.safeedit.exam import EVALUATIONS
from inspector.token_attribution import TokenAttribution
from inspector.toxicity import Probe, RegionToxicity

HEADING = heading(
    2,
    "Why this layer",
    "where answers part is one opinion; here are others, and what an edit of each layer really achieves",
)


BUDGET = DinmSettings().damage_budget or 0.2
"""Harmless KL from which the atlas's reading calls an edit too dear, nats a token."""


BACK = "What was measured last."
ON_EXAMPLE = "Measured on the example; pick a case and press a button."


def head(session: Session, other: str = "") -> str:
    """Say which case the panels belong to.

    Args:
        other: Says that it is another one than stands elsewhere, as HTML.
    """
    why = session.slot(Looked).why
    if why.case is None:
        return reading("Nothing was measured yet. Press Ask all locators.")
    return (
        f'{other}<div class="answer-head"><span class="badge vanilla">measured: {escape(case_name(why.case))}, '
        "vanilla weights</span></div>"
    )


def clock(message: str, fraction: float) -> str:
    """Return the clock of a running measurement."""
    return progress_bar(message, fraction)


def knocked(neurons: Sequence[int], block: int) -> str:
    """Return the clock once a knock-out is live."""
    return clock(f"Neurons {', '.join(map(str, neurons))} of layer {block} are knocked out; see Operate.", 1.0)


def held_back(neurons: Sequence[int], block: int, reason: str | None) -> str:
    """Return the clock where the gate holds a knock-out back.

    Args:
        reason: The gate's; ``None`` where it was not examined to its end.
    """
    what = f"knock-out of neurons {', '.join(map(str, neurons))} of layer {block}"
    if reason is None:
        return clock(f"Stopped: the {what} is not live and waits. Examine it in Operate.", 1.0)
    return clock(f"The {what} is held back. {reason} Keep it anyway stands in Operate.", 1.0)


def locators_reading(located: Sequence[Located], picked: int, refused: Sequence[NotLocated] = ()) -> str:
    """Say how far the locators agree, and which ones this model does not allow."""
    absent = "".join(f" No {item.locator}: {item.why}" for item in refused)
    if not located:
        return reading(f"One chart a locator; each marks the layer that it would edit.{absent}")
    blocks = [item.block for item in located]
    common = max(set(blocks), key=blocks.count)
    here = [item.locator for item in located if item.block == picked]
    said = f"{', '.join(here)} would edit it" if here else "no locator names it"
    return reading(
        f"{len(located)} locators name {len(set(blocks))} different layers; layer {common} most often "
        f"({blocks.count(common)} times). Layer {picked} is picked (crossed): {said}. A bar's height is only "
        f"comparable within its own chart.{absent}"
    )


def atlas_reading(atlas: Atlas | None, picked: int) -> str:
    """Say what the best edit of the atlas costs, which does the least harm, how the picked layer is marked, and which
    layers have none and why.
    """
    if atlas is None or not atlas.entries:
        return reading(
            "The atlas makes the same small edit (three updates) at every layer and measures each: the ground truth "
            "that the locators above are judged by."
        )
    best = next(entry for entry in atlas.entries if entry.block == atlas.best)
    gentle = min(atlas.entries, key=lambda entry: entry.kl)
    margin = atlas.curve("margin gain")
    what = (
        f"defends {best.defended:.0%} of the case's five prompts"
        if best.defended is not None
        else f"lifts the safe over the unsafe answer most, by {margin[best.block]:.2f} nats a token"
    )
    affordable = [entry for entry in atlas.entries if entry.kl <= BUDGET]
    within = ""
    if affordable and best.kl > BUDGET:
        choice = max(affordable, key=lambda entry: (atlas.curve(atlas.truth)[entry.block], entry.safe))
        within = (
            f" That is beyond DINM's damage budget of {BUDGET:g}; within it layer {choice.block} is best, with "
            f"{margin[choice.block]:.2f} nats at a KL of {number(choice.kl)}."
        )
    here = any(entry.block == picked for entry in atlas.entries)
    crossed = f" Layer {picked} is picked (crossed)." if here else f" Layer {picked} is picked and not measured."
    asked = "" if best.defended is None else f" Asked: {EVALUATIONS[atlas.settings.evaluation]}."
    return reading(
        f"The same {atlas.settings.steps} updates at each of {len(atlas.entries)} layers: layer {best.block} {what}, "
        f"at a harmless KL of {number(best.kl)} nats. Layer {gentle.block} does the least harm "
        f"({number(gentle.kl)} nats) and lifts it by {margin[gentle.block]:.2f}.{within}{crossed}{asked}"
        f"{_left_out(atlas)}"
    )


def _left_out(atlas: Atlas) -> str:
    """Say which layers the atlas leaves out, each reason once."""
    layers: dict[str, list[str]] = {}
    for block, why in sorted(atlas.left_out.items()):
        layers.setdefault(why, []).append(str(block))
    return "".join(
        f" Left out: layer{'s' if len(some) > 1 else ''} {', '.join(some)}. {why}" for why, some in layers.items()
    )


def agreements(found: Sequence[Agreement], atlas: Atlas | None) -> str:
    """Return the table that judges each locator by the atlas."""
    if not found or atlas is None:
        return reading("With locators and atlas both there, a table says here how good each locator's choice was.")
    truth = "share of five prompts defended" if atlas.truth == "defended" else "margin gain, nats a token"
    part = ""
    if len(atlas.entries) < atlas.blocks:
        part = (
            f"The atlas has {len(atlas.entries)} of {atlas.blocks} layers: each locator is judged on the layer that it "
            "would choose among those. "
        )
    factor = 100 if atlas.truth == "defended" else 1
    ordered = sorted(found, key=lambda item: item.regret)
    lines = "".join(
        f"<tr><th>{escape(item.locator)}</th><td>{item.block}</td>"
        f"<td>{'–' if math.isnan(item.correlation) else f'{item.correlation:+.2f}'}</td>"
        f"<td>{factor * item.regret:.2f}</td>"
        f"<td>{'–' if math.isnan(item.share) else f'{item.share:.2f}'}</td></tr>"
        for item in ordered
    )
    return (
        '<div class="score-wrap"><table class="scores"><thead>'
        f"<tr>{heads('Locator', 'Chooses layer', 'Rank correlation', 'Regret', 'Regret, share')}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
        + reading(
            f"{part}Judged by the atlas: {truth}. Best layer {atlas.best}. Regret is what the chosen layer achieves "
            "less than the best one; as a share, 1 is no better than a layer drawn at random. One case proves little: "
            "benchmarks/results/locators.txt has more."
        )
    )


def neurons_reading(found: BlockNeurons | None) -> str:
    """Read the table of neurons and the block's toxicity."""
    if found is None:
        return reading("Press Ask all locators to measure the neurons.")
    pushing = sum(neuron.contribution > 0 for neuron in found.neurons)
    text = (
        f"Layer {found.block}: {pushing} of the {len(found.neurons)} listed neurons push to the unsafe answer "
        "(Pushes: contribution in nats a token, first order). Unsafe and Safe are mean activations on the two answers, "
        "Toxic is the cosine with the probe's direction, Moved how far the live edit moved the column."
    )
    if found.toxicity is not None and found.toxicity.after != found.toxicity.before:
        text += f" The live edit changes the region's toxicity by {found.toxicity.change:+.1%}."
    return reading(text) + columns(NEURON_HEADERS)


def neuron_rows(found: BlockNeurons | None) -> list[list]:
    """Return the cells of the table of neurons."""
    if found is None:
        return []
    return [
        [
            neuron.index,
            round(neuron.contribution, 4),
            round(neuron.unsafe, 2),
            round(neuron.safe, 2),
            None if neuron.toxicity is None else round(neuron.toxicity, 4),
            None if neuron.moved is None else round(100 * neuron.moved, 2),
            _words(neuron.promoted),
            _words(neuron.suppressed),
        ]
        for neuron in found.neurons
    ]


NEURON_HEADERS = (
    *("Neuron", "Pushes", "Unsafe", "Safe", "Toxic", "Moved, %"),
    *("Promotes", "Suppresses"),
)
EDIT_HEADERS = (
    *("Edit", "Layer", "Columns", "Case", "P(safe) per token", "P(unsafe) per token", "Harmless KL, nats"),
    *("Region's toxicity", "Norm", "Parameters changed"),
)
PEAK_HEADERS = ("Token", "Peak layer", "P there", "Final rank, vanilla and edited")
NEURON_TYPES = ("number",) * 6 + ("str",) * 2


def _words(tokens: Sequence[str]) -> str:
    return " · ".join(token.strip().replace("\n", "⏎") or "␣" for token in tokens)


def edits_table(session: Session, toxicities: Sequence[RegionToxicity | None]) -> str:
    """Return the edits of this visit side by side, the whole matrix and single columns in one table.

    Args:
        toxicities: What each of the session's edits does to its own region, at strength 1.
    """
    if not session.edits:
        return reading("No edit is live. Edits of this visit are compared here: whole matrix, few columns, knock-outs.")
    pairs = reversed(list(zip(session.edits, toxicities, strict=True)))
    lines = "".join(_edit_line(edit, edit is session.live, toxicity) for edit, toxicity in pairs)
    return (
        f'<div class="score-wrap"><table class="scores"><thead><tr>{heads(*EDIT_HEADERS)}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _edit_line(edit: LiveEdit, live: bool, toxicity: RegionToxicity | None) -> str:
    result, patch = edit.result, edit.patch
    first, kept = result.trace[0], result.last
    delta = patch.deltas[0]
    columns = delta.shape[1]
    touched = columns if delta.right is None else int((delta.right != 0).any(dim=0).sum())
    where = f"{touched:,} of {columns:,}" if len(patch.deltas) == 1 else patch.where()
    unsafe = (
        "–"
        if first.unsafe_probability is None or kept.unsafe_probability is None
        else f"{probability(first.unsafe_probability)} → {probability(kept.unsafe_probability)}"
    )
    constraint = getattr(result.settings, "constraint", "harmless")
    kl = number(max(0.0, kept.constraint_kl)) + ("" if constraint == "harmless" else f" ({escape(constraint)})")
    changed = "–" if toxicity is None else f"{toxicity.change:+.1%}"
    name = patch.method if not isinstance(result.settings, DinmSettings) else f"DINM, {result.settings.preset}"
    return (
        f"<tr><th>{escape(name)}{' (live)' if live else ''}</th><td>{result.block}</td>"
        f"<td>{escape(where)}</td><td>{escape(case_name(edit.case))}</td>"
        f"<td>{probability(first.safe_probability)} → {probability(kept.safe_probability)}</td><td>{unsafe}</td>"
        f"<td>{kl}</td><td>{changed}</td><td>{number(patch.norm)}</td><td>{patch.parameters_changed:,}</td></tr>"
    )


def peaks_table(found: Sequence[Peak], position: str) -> str:
    """Return the tokens that some layer makes likely at one position, with their final rank before and after."""
    if not found:
        return reading("No token reaches 5 % at any layer here.")
    lines = "".join(
        f"<tr><th>{escape(_words((peak.token,)))}</th><td>{peak.block}</td>"
        f"<td>{peak.probability:.0%}{', edited' if peak.edited else ''}</td>"
        f"<td>{peak.rank_before + 1:,} {peak.arrow} {peak.rank_after + 1:,}</td></tr>"
        for peak in found
    )
    return (
        f'<p class="reading">After token {escape(position)}: every token that a layer would say with at least 5 %.</p>'
        f'<div class="score-wrap"><table class="scores"><thead><tr>{heads(*PEAK_HEADERS)}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def lens_reading(why: Why, answer: str) -> str:
    """Say from which layer on the lens knows the answer's tokens."""
    if answer not in why.lenses:
        return reading("Press Ask all locators to read the layers.")
    before, after = why.lenses[answer]
    counted = (np.array(before.positions) >= before.prompt_tokens - 1) & (before.rank[0] >= 0)
    known = before.rank[:, counted]
    share = (known == 0).mean(axis=1)
    first = int(np.argmax(share >= 0.5 * share[-1])) if share[-1] > 0 else len(share) - 1
    text = (
        f"Vanilla: the last layer puts {share[-1]:.0%} of the {answer}'s shown tokens first; half of that is reached "
        f"at layer {first}."
    )
    if why.lens_weights != "vanilla":
        text += f" Edited ({why.lens_weights}): {(after.rank[-1, counted] == 0).mean():.0%}."
    if answer == COVERED:
        text += f" Its tokens are counted and not spelled; {NEXT} stands where a layer says the next one."
    return reading(text)


def token_spans(found: Mapping[str, TokenAttribution]) -> str:
    """Draw attributions over the prompt's tokens; all weights share one scale."""
    if not found:
        return reading("Press Attribute.")
    scale = max((float(np.abs(item.values).max()) for item in found.values()), default=0.0) or 1.0
    panes = []
    for weights, item in found.items():
        kind = "vanilla" if weights == "vanilla" else "edited"
        spans = "".join(
            _span(token, value / scale, value) for token, value in zip(item.tokens, item.values, strict=True)
        )
        sums = f"{item.way}; values sum to {item.values.sum():+.3f} nats a token"
        if item.difference is not None:
            what = "interaction of tokens" if item.way == "ablation" else "convergence gap"
            sums += f", to be explained {item.difference:+.3f}, {what} {item.gap:+.3f}"
        panes.append(
            f'<div class="answer-head"><span class="badge {kind}">{escape(weights)}</span>'
            f'<span class="badge-note">{escape(sums)}</span></div><p class="tokens">{spans}</p>'
        )
    return "".join(panes)


def _span(token: str, share: float, value: float) -> str:
    colour = "var(--unsafe)" if share > 0 else "var(--safe)"
    strength = min(85, round(85 * abs(share)))
    shown = escape(token).replace("\n", "⏎<br>")
    style = f"background:color-mix(in srgb, {colour} {strength}%, transparent)"
    mark = ' class="strong"' if abs(share) >= 0.5 else ""
    return f'<span{mark} style="{style}" title="{value:+.4f} nats">{shown}</span>'


def tokens_reading(found: Mapping[str, TokenAttribution]) -> str:
    """Name the tokens that push hardest each way on vanilla weights."""
    item = found.get("vanilla")
    if item is None:
        return ""
    up, down = int(np.argmax(item.values)), int(np.argmin(item.values))
    caution = (
        " Gradient x input is exact for a linear model only: check it with ablation."
        if item.way == "gradient x input"
        else ""
    )
    return reading(
        f"Orange pushes to the unsafe answer, blue to the safe one; underlined from half the largest value on. "
        f"Vanilla: token {up} ({item.tokens[up].strip()!r}) pushes hardest to the unsafe, token {down} "
        f"({item.tokens[down].strip()!r}) to the safe answer.{caution}"
    )


def probe_reading(probe: Probe | None, curve: RegionCurve | None, picked: int | None) -> str:
    """Say what the probe is, how good it is, and what the live edit does to the picked region."""
    if probe is None or curve is None:
        return reading("Press Ask all locators to train the probe.")
    accuracy = probe.accuracy
    text = (
        f"Probe trained on {probe.source} texts ({accuracy.n}): held-out accuracy {accuracy.value:.0f} % "
        f"[{accuracy.low:.0f}, {accuracy.high:.0f}]."
    )
    moved = np.flatnonzero(curve.before != curve.after)
    for block in moved[:3]:
        change = (curve.after[block] - curve.before[block]) / max(abs(curve.before[block]), 1e-12)
        text += f" The live edit changes the toxicity of layer {block}'s region by {change:+.1%}."
    if picked is not None:
        text += f" Layer {picked}: mean cosine {1000 * curve.before[picked]:+.2f} / 1000."
    text += " Means of cosines this small say little about a model this small: compare changes, not signs."
    return reading(text)


def padding_reading(study: PaddingStudy | None) -> str:
    """Read the padding study."""
    if study is None:
        return reading("Press Ask all locators to pad both ways.")
    layers = study.toxic_layers()
    block = int(np.argmax(study.first_norm / np.maximum(study.typical_norm, 1e-9)))
    return reading(
        f"The released locator names layer {layers['left', False]} with left and layer {layers['right', False]} with "
        f"right padding ({study.pads} pads); counting only positions where both answers have a token, layers "
        f"{layers['left', True]} and {layers['right', True]}. The first position carries a massive activation: at "
        f"layer {block} its norm is {study.first_norm[block]:,.0f}, that of others {study.typical_norm[block]:,.0f}. "
        "With left padding the two answers' first positions do not face each other."
    )
