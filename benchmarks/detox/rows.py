"""The rows of the comparison: which edit, at which layer, asked in which way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from editing import run
from editing.calibrating.calibration import Calibration
from editing.calibrating.layer_choice import automatic_layer
from editing.contest import ROUTED
from editing.methods.dinm import ROUTED as LEARNS_MORE
from editing.methods.registry import METHODS, method_settings, read_settings
from editing.progress import EditResult
from inspector.divergence import divergence
from inspector.model import InspectedModel, PromptFormat
from inspector.model.patches.rounded import COMPUTED, ROUNDED
from inspector.presets import Preset
from inspector.safeedit import Case

ROUNDING, COMPUTING = ROUNDED, COMPUTED
"""The yardsticks of harm. The target of DL for weights alone (80, the DL of a model that was loaded in bfloat16) is
against the second one; the first computes in the model's own type and changes much less."""
SUFFIX_ALONE = "the suffix S alone"
CORRECTED, TO_ROUTE, DETECTED = "corrected, recommended layer", "made to be routed", f"the same{ROUTED}"
PLAIN_TEXT = "vanilla, plain text"
"""What released code and `paper` are compared with: both are made and asked without the chat template."""
OLD_CORRECTED: dict[str, Any] = {
    "learning_rate": 1e-3,
    "steps": 40,
    "target_probability": 0.8,
    "harmless_prompts": 8,
    "harmless_at_once": None,
    "own_refusals": 0,
    "safe_answers": 1,
    "null_space": None,
}
"""What `corrected` was before edits were judged by prompts that they were not made with."""


PROMPT_ONLY = "self-reminder"
"""The method without a patch, which nothing can route."""


@dataclass(frozen=True)
class Edit:
    """One row's edit.

    Attributes:
        method: Key of :data:`editing.methods.registry.METHODS`.
        recommended: At the layer that ``--layer auto`` takes for it, the calibration's recommended one where the method
            edits one; else at the toxic layer of the preset.
        preset: DINM's preset; it names the toxic layer for every method.
        changes: Changed settings.
    """

    method: str
    recommended: bool = False
    preset: Preset = "corrected"
    changes: Mapping[str, Any] | None = None

    def settings(self, format: PromptFormat = PromptFormat()) -> Any:
        """Return the settings of its method in a prompt format; released code and paper are plain text in any."""
        asked: dict[str, Any] = {"format": format} if self.preset == "corrected" else {"suffix": format.suffix}
        return method_settings(self.method, self.preset, **asked, **(self.changes or {}))

    def make(self, model: InspectedModel, case: Case, calibration: Calibration, format: PromptFormat) -> EditResult:
        """Make the edit on a case.

        Raises:
            RefusedEdit: It was refused, or it edits one layer and none is recommended.
            EditError: It is not possible.
            CaseError: The case lacks what it needs.
        """

        def toxic() -> int:
            return divergence(model, case, self.preset, format=format).toxic_layer()

        if self.recommended:
            chosen = automatic_layer(model, calibration.layers, self.method, self.preset)
            block = chosen.block(toxic, "Rows at the toxic layer edit that all the same.")
        else:
            block = toxic()
        return run(METHODS[self.method].run(model, case, block, self.settings(format)))


EDITS: dict[str, Edit] = {
    "released code, toxic layer": Edit("dinm", preset="reference"),
    "paper, toxic layer": Edit("dinm", preset="paper"),
    "old corrected, toxic layer": Edit("dinm", changes=OLD_CORRECTED),
    "corrected, toxic layer": Edit("dinm"),
    CORRECTED: Edit("dinm", recommended=True),
    TO_ROUTE: Edit("dinm", recommended=True, changes=LEARNS_MORE),
    **{method.title: Edit(key, recommended=not method.toxic) for key, method in METHODS.items() if key != "dinm"},
}
"""Every row that is an edit, by its name, in the order of the table; the methods as ``--layer auto`` has them."""
TRIED = "corrected with "
"""How the rows begin that ``--try`` adds."""


def edit_of(name: str) -> Edit | None:
    """Return the edit of a row by its name; ``None`` for a row without one.

    Raises:
        EditError: A tried setting is unknown or out of range.
    """
    if name.startswith(TRIED):
        return Edit("dinm", recommended=True, changes=read_settings("dinm", name.removeprefix(TRIED).split()))
    return EDITS.get(name)


def routed_name(name: str, every: bool = False) -> str | None:
    """Return the name of the same edit where it acts only where the detector fires; ``None`` where that is no row.

    Args:
        every: Whether each edit of weights has such a row, else what is made to be routed and what is tried.
    """
    if name == TO_ROUTE:
        return DETECTED
    edit = edit_of(name)
    if edit is None or edit.method == PROMPT_ONLY:
        return None
    return f"{name}{ROUTED}" if every or name.startswith(TRIED) else None
