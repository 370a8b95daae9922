"""Everything that decides what a sweep measures; two runs with the same settings give the same results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from editing.methods.dinm import PRESETS
from editing.methods.registry import METHODS, method_named, method_settings
from inspector.divergence import PRESETS as LOCATE_PRESETS
from inspector.errors import EditError
from inspector.model import SUFFIX
from inspector.safeedit.exam import FULL, Size
from inspector.safeedit.judges import EMBEDDED

TOXIC = "toxic"
"""Edit the layer that the locator picks, case by case."""


@dataclass(frozen=True)
class SweepSettings:
    """Settings of a sweep.

    Attributes:
        cases: Where the cases come from, see :func:`inspector.safeedit.layouts.read_cases`.
        split: SafeEdit split, for a folder or the hub.
        categories: Only cases of these unsafety categories; empty for all.
        limit: Most cases; ``None`` for all.
        method: One of :data:`editing.methods.registry.METHODS`.
        preset: Preset of DINM; the other methods have none.
        changes: Changed settings of the method, by name.
        block: ``toxic``, or the number of the block to edit in every case.
        locate: Preset of the locator.
        judge: Judge, see :func:`inspector.safeedit.judges.load_judge`.
        size: How much each exam asks.
        facts: Source of the fact questions.
        passages: Source of the passages.
        attacks: Installed package whose attack templates are asked as well, empty for none.
        suffix: Suffix prompt S.
        max_new_tokens: Longest answer.
        model: Model, ``embedded`` for the embedded one.
        revision: Its revision on the hub.
        device: Its device.
        dtype: Its data type.
    """

    cases: str = "bundled"
    split: str = "test"
    categories: tuple[str, ...] = ()
    limit: int | None = None
    method: str = "dinm"
    preset: str = "corrected"
    changes: Mapping[str, Any] = field(default_factory=dict)
    block: str = TOXIC
    locate: str = "corrected"
    judge: str = EMBEDDED
    size: Size = FULL
    facts: str = "bundled"
    passages: str = "bundled"
    attacks: str = ""
    suffix: str = SUFFIX
    max_new_tokens: int = 64
    model: str = "embedded"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for name, allowed in (("method", tuple(METHODS)), ("preset", PRESETS), ("locate", LOCATE_PRESETS)):
            if getattr(self, name) not in allowed:
                raise EditError(f"Unknown {name} '{getattr(self, name)}'. Valid ones: {', '.join(allowed)}.")
        if self.block != TOXIC and not self.block.isdecimal():
            raise EditError(f"The block '{self.block}' is neither '{TOXIC}' nor a number.")
        if (self.limit is not None and self.limit < 1) or self.max_new_tokens < 1:
            raise EditError("The limit of cases and the longest answer must be at least 1.")
        self.method_settings()

    def method_settings(self) -> Any:
        """Return the method's own settings.

        Raises:
            EditError: A changed setting is unknown or out of range.
        """
        return method_settings(self.method, self.suffix, self.preset, **self.changes)

    def as_json(self) -> str:
        """Return the settings as JSON with sorted keys."""
        return json.dumps(asdict(replace(self, changes=dict(self.changes))), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SweepSettings:
        """Return the settings that :meth:`as_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "size": Size(**values["size"]), "categories": tuple(values["categories"])})

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name these settings."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()[:16]

    def difference(self, other: SweepSettings) -> str | None:
        """Name the first setting in which another sweep differs, with both values; ``None`` for equal ones."""
        for entry in fields(self):
            mine, theirs = getattr(self, entry.name), getattr(other, entry.name)
            if mine != theirs:
                return f"{entry.name} = {theirs!r} there, {mine!r} here"
        return None


def typed(entries: Sequence[str], method: str = "dinm") -> dict[str, Any]:
    """Read ``NAME=VALUE`` entries as a method's settings want them.

    Raises:
        EditError: The method is unknown, an entry has no equals sign, or a value is of another type.
    """
    kinds = {f.name: str(f.type) for f in fields(method_named(method).settings)}
    found: dict[str, Any] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals:
            raise EditError(f"'{entry}' is no NAME=VALUE. Write for example --set steps=10.")
        kind = kinds.get(name, "str")
        try:
            if text.lower() in ("none", "") and "None" in kind:
                found[name] = None
            elif kind == "bool":
                found[name] = {"true": True, "false": False}[text.lower()]
            elif kind == "int":
                found[name] = int(text)
            elif kind.startswith("float"):
                found[name] = float(text)
            else:
                found[name] = text
        except (ValueError, KeyError):
            raise EditError(f"The setting {name} cannot be '{text}': it is a {kind}. Give another value.") from None
    return found
