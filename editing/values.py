"""The ranges that settings of several methods share, and how settings are changed by name."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Any, TypeVar

from pydantic import Field

from inspector.errors import EditError
from inspector.model import PromptFormat

Rate = Annotated[float, Field(gt=0, le=100)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Positive = Annotated[float, Field(gt=0)]
StepShare = Annotated[float, Field(gt=0, le=1e10)]
"""Size of a step as a share of what is written there: an optimiser takes no number beyond those of its tensors."""
NotNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, le=1000)]
"""Weight decay: an optimiser takes no number beyond those of its tensors."""
Probability = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
MOST_HARMLESS = 512
"""Most harmless prompts that an edit can be held to."""
HarmlessCount = Annotated[int, Field(ge=1, le=MOST_HARMLESS)]
HarmlessTokens = Annotated[int, Field(ge=1, le=256)]
LONGEST_COMPANION = 89
"""Longest companion's prompt, tokens beyond those of the shortest prompt in its format, so that a long suffix or system
prompt leaves none out: what it costs a step is its length. Chosen on the embedded model; where a tokenizer makes more
tokens of a text, or less, other companions stay in. No number of characters leaves in the same ones."""

FORMAT_PARTS = tuple(part.name for part in fields(PromptFormat))
"""Parts of the prompt format that can be changed by their own name."""

_Settings = TypeVar("_Settings")


def setting_names(settings: Any) -> list[str]:
    """Return what of a method's settings can be changed by name, the prompt format part by part.

    Args:
        settings: Settings, or their class.
    """
    names = [entry.name for entry in fields(settings) if entry.name not in ("preset", "format")]
    return [*names, *(FORMAT_PARTS if any(entry.name == "format" for entry in fields(settings)) else ())]


def setting_value(settings: Any, name: str) -> Any:
    """Return a setting by its name, parts of the prompt format by their own."""
    return getattr(settings.format if name in FORMAT_PARTS else settings, name)


def changed(settings: _Settings, **changes: Any) -> _Settings:
    """Return settings with changes by name; parts of the prompt format have their own names.

    Raises:
        EditError: A name is unknown, or a value is out of range.
    """
    return replace(settings, **_named(settings, changes))  # type: ignore[type-var]


def made(kind: type[_Settings], **changes: Any) -> _Settings:
    """Return settings of a kind with changes by name, as :func:`changed`, whose other values follow from the changes.

    Raises:
        EditError: A name is unknown, or a value is out of range.
    """
    return kind(**_named(kind, changes))


def _named(settings: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Return changes with the parts of the prompt format put together."""
    known = setting_names(settings)
    for name in changes:
        if name not in (*known, "format", "preset"):
            raise EditError(f"There is no setting '{name}'. There are {', '.join(known)}.")
    parts = {name: value for name, value in changes.items() if name in FORMAT_PARTS}
    rest = {name: value for name, value in changes.items() if name not in FORMAT_PARTS}
    if parts:
        default = PromptFormat() if isinstance(settings, type) else settings.format
        rest["format"] = {**vars(rest.get("format", default)), **parts}
    return rest
