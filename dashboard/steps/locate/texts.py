"""What Locate says under its figures."""

from __future__ import annotations

from dashboard.kit.drawing.html import brief, reading
from editing.calibrating.trial_edits import Layers
from inspector.divergence import Distance, Divergence

NOTHING = "Nothing is measured yet. Press Locate, or Operate for the whole operation."
LOCATING = "Locating where the answers part"
CANCELLED = "Cancelled; what was measured before stays."
CHANGED = "The texts have changed since this was measured. Press Locate to measure them."
NO_PROMPT = "The texts in the rail make no prompt; this was measured of those before. Mend them to measure anew."


def by_hand(block: int) -> str:
    """Say that a layer is edited because a person has picked it."""
    return f"Layer {block} is picked by hand and is the one that is edited, until Locate picks anew."


def chosen_once(block: int) -> str:
    """Say that a layer is picked because an earlier case had it."""
    return f"Layer {block} stays picked: the layer is chosen once."


def edits_toxic(block: int, preset: str, recommended: int | None) -> str:
    """Say that Operate has picked the toxic layer because of the edit's preset."""
    spared = "" if recommended in (None, block) else f", and not the recommended layer {recommended}"
    return f"Layer {block} is picked: the edit's preset {preset} edits the toxic layer{spared}."


def locate_reading(
    measured: Divergence | None, distance: Distance, last_block: int, layers: Layers | None = None, why: str = ""
) -> str:
    """Read the divergence curve in plain words, and say where trial edits work where they were made.

    Args:
        why: Why the layer is picked that is, a sentence.
    """
    return reading(NOTHING if measured is None else _read(measured, distance, last_block, layers, why))


def _read(measured: Divergence, distance: Distance, last_block: int, layers: Layers | None, why: str) -> str:
    toxic = measured.toxic_layer(distance)
    text = f"Vanilla weights: the answers part most at layer {toxic} of 0-{last_block}."
    if distance == "l2" and measured.preset == "corrected":
        text += " Raw distance grows with depth by itself: compare the relative, cosine and growth curves."
    if measured.preset == "reference":
        text += (
            f" Reference preset, {measured.padding} padding: pads count, and the last layer is taken after the final "
            "norm, on another scale."
        )
    if measured.preset == "paper":
        text += f" Paper preset: answers alone, {measured.padding} padding sets how their tokens are aligned."
    return " ".join(part for part in (text, "" if layers is None else _trials(layers), why) if part)


def locate_line(
    measured: Divergence | None, distance: Distance, last_block: int, layers: Layers | None = None, why: str = ""
) -> str:
    """Read the curve in one line, with the whole reading behind it; why the layer is picked comes first, if at all."""
    if measured is None:
        return reading(NOTHING)
    best = ""
    if layers is not None:
        best = "; no layer helps" if layers.best is None else f"; edits work best at layer {layers.best.block}"
    short = why or f"Answers part most at layer {measured.toxic_layer(distance)} of 0-{last_block}{best}."
    return brief(short, _read(measured, distance, last_block, layers, why))


def changed(makes_prompt: bool) -> str:
    """Say that other texts stand in the rail than were measured.

    Args:
        makes_prompt: They can be measured.
    """
    said = CHANGED if makes_prompt else NO_PROMPT
    return f'<p class="reading warn" title="{said}">{said}</p>'


def _trials(layers: Layers) -> str:
    if layers.best is not None:
        return layers.reason
    return (
        f"{layers.reason} So the preset corrected edits none but one that is picked by hand, and vanilla is kept; "
        "paper and reference edit the toxic layer all the same."
    )


def heatmap_reading(measured: Divergence | None) -> str:
    """Read the heatmap: where single tokens are farthest apart."""
    if measured is None:
        return reading(NOTHING)
    values = measured.token_relative
    block, token = divmod(int(values.argmax()), values.shape[1])
    per_token = values.mean(axis=0)
    return reading(
        f"Tokens at the same place of both answers. Farthest apart: token {token} at layer {block} "
        f"({measured.safe_tokens[token]!r} in the safe answer). The mean over layers is largest at token "
        f"{int(per_token.argmax())}, smallest at token {int(per_token.argmin())}."
    )
