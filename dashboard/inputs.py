"""From the page's values to settings, decoding and texts, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboard.actions import Texts
from editing import DinmSettings, preset
from inspector.errors import CaseError
from inspector.model import Decoding
from inspector.safeedit import bundled_cases, bundled_templates
from inspector.safeedit.exam import Evaluation

WAYS: dict[str, Evaluation] = {"same prompts": "same", "as in the paper": "paper"}
"""How the two weights are asked, by its name on the screen: see :data:`inspector.safeedit.exam.EVALUATIONS`."""
TEXT_FIELDS = ("question", "template", "suffix", "safe", "unsafe")
DECODING_FIELDS = ("max_new_tokens", "temperature", "seed")
# Settings on the page, in DinmSettings' names where they differ.
SETTING_FIELDS = {
    "learning_rate": "learning_rate",
    "step_kl": "step_kl",
    "steps": "steps",
    "optimiser": "optimiser",
    "weight_decay": "weight_decay",
    "edit_weight": "edit_weight",
    "constraint_weight": "constraint_weight",
    "constraint": "constraint",
    "constraint_gradient": "constraint_gradient",
    "direction": "direction",
    "loss_positions": "loss_positions",
    "chat": "chat",
    "end_of_answer": "turn_end",
    "stop_below": "stop_below",
    "clamp": "clamp",
    "target": "target_probability",
    "budget": "damage_budget",
    "harmless_prompts": "harmless_prompts",
    "harmless_tokens": "harmless_tokens",
    "watch_unsafe": "watch_unsafe",
    "harmless_at_once": "harmless_at_once",
    "safe_answers": "safe_answers",
    "question_alone": "question_alone",
    "neurons_only": "neurons_only",
}
ZERO_IS_NONE = ("learning_rate", "clamp", "target", "budget", "harmless_at_once", "neurons_only")
_WHOLE = ("steps", "harmless_prompts", "harmless_tokens", "harmless_at_once", "safe_answers", "neurons_only")


def settings_from(name: Any, suffix: str, values: Sequence[Any]) -> DinmSettings:
    """Build the settings from the page's values, in the order of :data:`SETTING_FIELDS`.

    Raises:
        CaseError: A number field is empty.
        EditError: A value is out of range.
    """
    changes: dict[str, Any] = {"suffix": suffix}
    for (part, setting), value in zip(SETTING_FIELDS.items(), values, strict=True):
        if value is None and part not in ZERO_IS_NONE:
            raise CaseError(f"The setting '{setting.replace('_', ' ')}' is empty. Give it a value.")
        if part in ZERO_IS_NONE:
            value = value or None
        changes[setting] = int(value) if part in _WHOLE and value is not None else value
    return preset(name, **changes)


def decoding_from(values: Sequence[Any]) -> Decoding:
    """Build the decoding from the page's values.

    Raises:
        CaseError: A value is missing or out of range.
    """
    longest, temperature, seed = values
    if longest is None or not 1 <= int(longest) <= 1024:
        raise CaseError("The longest answer must have 1 to 1024 tokens. Change it under Decoding.")
    if temperature is None or not 0 <= float(temperature) <= 5:
        raise CaseError("The temperature must be between 0 and 5. Change it under Decoding.")
    if abs(int(seed or 0)) >= 2**63:
        raise CaseError("The seed must be a number of at most 18 digits. Change it under Decoding.")
    return Decoding(max_new_tokens=int(longest), temperature=float(temperature), seed=int(seed or 0))


def require_bundled(texts: Texts, suffix: str) -> None:
    """Refuse texts that are not the project's own; for the read-only demo.

    Raises:
        CaseError: Some text was typed.
    """
    case = next((c for c in bundled_cases() if c.question == texts.question), None)
    templates = {"", *(t.text for t in bundled_templates())}
    if (
        case is None
        or texts.template not in templates
        or (texts.safe, texts.unsafe, texts.suffix) != (case.safe, case.unsafe, suffix)
    ):
        raise CaseError("This demo is read-only: free text is off. Pick an example in the case rail.")
