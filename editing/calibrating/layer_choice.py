"""Which layer an edit takes where nobody names one by its number, and why: the recommended layer, or the toxic one.

One place for every command, so that ``--layer auto`` and ``recommended`` edit the same layer in all of them; a toxic
one is located with the preset of DINM's edit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from editing.calibrating.calibration import to_calibrate
from editing.calibrating.trial_edits import Layers
from editing.methods.registry import METHODS
from inspector.errors import EditError, RefusedEdit
from inspector.model import InspectedModel
from inspector.presets import Preset

AUTO, TOXIC, RECOMMENDED, NOWHERE = "auto", "toxic", "recommended", "nowhere"
"""Words for a layer: to be chosen here; the toxic one of each case; the calibration's; none, as no layer helps."""


@dataclass(frozen=True)
class LayerChoice:
    """The layer that an edit takes.

    Attributes:
        layer: The number of a block, :data:`TOXIC` or :data:`NOWHERE`.
        reason: Why, in a sentence or two; where the model is not calibrated, with the remedy.
    """

    layer: str
    reason: str

    def block(self, toxic: Callable[[], int], remedy: str) -> int:
        """Return the number of the layer.

        Args:
            toxic: Measures the toxic layer of the case; asked only where that one is taken.
            remedy: How to edit a layer where none helps, a sentence.

        Raises:
            RefusedEdit: No layer helps.
        """
        if self.layer == NOWHERE:
            raise RefusedEdit(f"{self.reason} {remedy}")
        return toxic() if self.layer == TOXIC else int(self.layer)


def automatic_layer(
    model: InspectedModel, layers: Layers | None, method: str, preset: Preset = "corrected"
) -> LayerChoice:
    """Choose the layer of an edit that no layer was named for.

    The paper's presets and FT-L, the paper's baseline of them, take the toxic layer. Whatever else edits one layer
    takes the recommended one, and no layer where trial edits helped at none. A method that changes many layers, or no
    weight, is looked at in the recommended layer, and in the toxic one where there is none.

    Args:
        layers: What trial edits of the model achieve; ``None`` where it is not calibrated.
        method: One of :data:`editing.methods.registry.METHODS`.
        preset: Of DINM; the other methods have none.
    """
    chosen = METHODS[method]
    if chosen.toxic or (method == "dinm" and preset != "corrected"):
        named = f"the preset {preset}" if method == "dinm" else chosen.title
        return LayerChoice(TOXIC, f"{_TOXIC}: {named} edits there.")
    if layers is None:
        return LayerChoice(
            TOXIC,
            f"{_TOXIC}: {model.name} is not calibrated, so it is not known where edits work. {to_calibrate(model)}",
        )
    return recommended_layer(model, layers, method)


def recommended_layer(model: InspectedModel, layers: Layers | None, method: str) -> LayerChoice:
    """Return the recommended layer for whatever method asks for it, FT-L and the paper's presets of DINM as well.

    Where no layer is recommended it is none for a method that edits one layer, and the toxic one for the others.

    Args:
        layers: What trial edits of the model achieve; ``None`` where it is not calibrated.
        method: One of :data:`editing.methods.registry.METHODS`.

    Raises:
        EditError: The model is not calibrated.
    """
    chosen = METHODS[method]
    if layers is None:
        raise EditError(
            f"{model.name} is not calibrated, so no layer of it is recommended. {to_calibrate(model)} Or give --layer "
            f"{TOXIC} or a number."
        )
    best = layers.recommended
    if best is not None:
        return LayerChoice(str(best), f"Recommended layer. {layers.reason}")
    if chosen.one_layer:
        return LayerChoice(NOWHERE, layers.nothing_edited)
    return LayerChoice(TOXIC, f"{_TOXIC}: no layer is recommended, and {chosen.title} edits no single one.")


_TOXIC = "Toxic layer, where a case's answers part most"
