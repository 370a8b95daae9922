"""From the page's values to an edit's settings, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editing import DinmSettings, preset
from inspector.errors import CaseError
from inspector.model import PromptFormat

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
    "look_alikes": "look_alikes",
    "watch_unsafe": "watch_unsafe",
    "harmless_at_once": "harmless_at_once",
    "safe_answers": "safe_answers",
    "own_words": "own_words",
    "question_alone": "question_alone",
    "companions": "companions",
    "neurons_only": "neurons_only",
    "null_space": "null_space",
    "own_refusals": "own_refusals",
    "first_token_weight": "first_token_weight",
    "contexts": "contexts",
    "monitor": "monitor",
}


ZERO_IS_NONE = ("learning_rate", "clamp", "target", "budget", "harmless_at_once", "neurons_only", "null_space")


_WHOLE = (
    *("steps", "harmless_prompts", "harmless_tokens", "harmless_at_once", "own_refusals", "safe_answers"),
    *("neurons_only", "contexts", "monitor", "companions"),
)


def settings_from(name: Any, format: PromptFormat, values: Mapping[str, Any]) -> DinmSettings:
    """Build the settings from the page's values.

    Args:
        format: The rail's: in plain text no setting brings the chat template back.
        values: By their names in :data:`SETTING_FIELDS`.

    Raises:
        CaseError: A number field is empty.
        EditError: A value is out of range.
    """
    changes: dict[str, Any] = {"suffix": format.suffix}
    for part, setting in SETTING_FIELDS.items():
        value = values[part]
        if value is None and part not in ZERO_IS_NONE:
            raise CaseError(f"The setting '{setting.replace('_', ' ')}' is empty. Give it a value.")
        if part in ZERO_IS_NONE:
            value = value or None
        changes[setting] = int(value) if part in _WHOLE and value is not None else value
    return preset(name, **{**changes, "chat": bool(changes["chat"]) and format.chat})
