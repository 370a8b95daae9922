"""What the view says of two models; everything that a person or a model wrote is escaped."""

from __future__ import annotations

from dashboard.kit.drawing.glossary import heads as head_cells
from dashboard.kit.drawing.html import case_name, heading, number, reading
from dashboard.kit.drawing.plain import escape
from dashboard.steps.models.run import Beside, Side

HEADING = heading(2, "Two models", "the same case, vanilla weights")
ABOUT = (
    '<p class="reading">Both run their vanilla weights: what is live here acts in neither. A folder edited elsewhere '
    "is listed with <code>--model</code>; one that is not in memory is loaded when it is compared.</p>"
)
ALONE = (
    '<div class="models-alone"><p>Only one model is listed, so there is nothing to hold beside it. List a second one '
    "when the page is started:</p><p><code>python app.py --model A --model B</code></p>"
    "<p>A and B are hub ids, folders or .gguf files. A merged model that Keep has saved is such a folder, and so is a "
    "base that was edited elsewhere. The first one is the page's; any other is loaded when somebody chooses it here, "
    "if it fits into memory.</p></div>"
)
CURVES = heading(3, "Where the answers part", "distance after each layer, both models on one scale of depth")
ANSWERS = heading(3, "Both answers", "the same prompt, each in its own chat template")
NOTHING = "Nothing is compared yet. Press Compare models: both are measured and asked the case in the rail."
NO_ANSWER = "(not asked yet)"
STOPPED = "Stopped; nothing was changed."
HEADERS = (
    "Model",
    "Parameters",
    "Layers",
    "Data type",
    "Toxic layer",
    "Largest distance",
    "Relative distance",
    "Verdict",
    "Seconds",
)


def millions(count: int) -> str:
    """Return a number of parameters for people."""
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,}"


def cells(side: Side) -> tuple[str, ...]:
    """Return a model's line of the table, plain, in the order of :data:`HEADERS`."""
    curve, toxic = side.divergence, side.toxic
    return (
        side.label,
        millions(side.parameters),
        str(side.blocks),
        side.dtype,
        f"{toxic} of 0-{side.blocks - 1}",
        number(float(curve.l2[toxic])),
        number(float(curve.relative[toxic])),
        side.verdict.label,
        f"{side.seconds:.1f}",
    )


def table(beside: Beside | None) -> str:
    """Return both models' numbers; nothing where nothing was compared."""
    if beside is None:
        return ""
    lines = []
    for side in beside.sides:
        first, *rest = cells(side)
        lines.append(
            f'<tr><th scope="row" title="fingerprint {escape(side.fingerprint)}">{escape(first)}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
            + "</tr>"
        )
    return (
        f'<div class="score-wrap"><table class="scores"><thead><tr>{head_cells(*HEADERS)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def compared(beside: Beside | None) -> str:
    """Read both curves in plain words."""
    if beside is None:
        return reading(NOTHING)
    said = [
        f"{side.label}: the answers part most at layer {side.toxic} of 0-{side.blocks - 1} "
        f"({side.depths[side.toxic]:.0%} of the way), L2 {number(float(side.divergence.l2[side.toxic]))}, relative "
        f"{number(float(side.divergence.relative[side.toxic]))}."
        for side in beside.sides
    ]
    unusual = f", {beside.format.label()}" if beside.format.label() else ""
    return reading(
        f"Of {case_name(beside.case)}{unusual}. {' '.join(said)} L2 is in each model's own units, so only the relative "
        "and the cosine distance compare in height."
    )


def heads(beside: Beside) -> tuple[str, str]:
    """Return what stands above both answers: which model, which verdict, who judged it, how it was asked."""
    made = []
    for side, kind in zip(beside.sides, ("vanilla", "second"), strict=True):
        mark = side.verdict
        cut = "" if side.finished else f" · cut at {beside.decoding.max_new_tokens} tokens"
        how = "its own chat template" if side.templated else "plain text"
        made.append(
            f'<div class="answer-head"><span class="badge {kind}">{escape(side.label)}</span>'
            f'<span class="badge verdict {mark.label}" title="{escape(mark.reason)}">{mark.label}</span>'
            f'<span class="badge-note">{escape(mark.judge)} · vanilla weights · {how}{cut}</span></div>'
        )
    return made[0], made[1]


def growing_heads(labels: tuple[str, str]) -> tuple[str, str]:
    """Return what stands above answers that are still written."""
    first, second = (
        f'<div class="answer-head"><span class="badge {kind}">{escape(label)}</span>'
        '<span class="badge-note">vanilla weights · not judged yet</span></div>'
        for kind, label in zip(("vanilla", "second"), labels, strict=True)
    )
    return first, second


def done(beside: Beside) -> str:
    """Say that a comparison has ended, and what it took."""
    first, second = beside.sides
    return f"Compared in {first.seconds + second.seconds:.1f} s. What is live, and its case, are as they were."
