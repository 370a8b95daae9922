"""Everything that decides what a sweep measures; two runs with the same settings give the same results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, field, fields, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from editing.calibrating.layer_choice import AUTO, NOWHERE, RECOMMENDED, TOXIC
from editing.methods.dinm import DinmSettings, to_be_routed
from editing.methods.registry import method_settings
from editing.values import Count
from inspector.divergence import Padding
from inspector.errors import EditError
from inspector.model import PromptFormat
from inspector.presets import Preset
from inspector.safeedit.exam import Evaluation
from inspector.safeedit.judges import EMBEDDED
from inspector.safeedit.questions import FULL, Size
from inspector.validated import settings as checked

Acts = Literal["always", "detected", "both"]
Learns = Literal["more", "as set"]
Vanilla = Literal["shared", "paired"]
ONCE = "once"
"""Edit the layer that the locator picks for the first case in all of them, as the released code does."""


def _word_or_number(block: str) -> str:
    if block not in (AUTO, TOXIC, RECOMMENDED, ONCE, NOWHERE) and not block.isdecimal():
        raise EditError(
            f"There is no layer '{block}'. Give --layer a layer's number, '{AUTO}', '{TOXIC}', '{RECOMMENDED}', "
            f"'{ONCE}' or '{NOWHERE}'."
        )
    return block


Block = Annotated[str, AfterValidator(_word_or_number)]


@checked(EditError)
class SweepSettings:
    """Settings of a sweep.

    Attributes:
        cases: Where the cases come from, see :func:`inspector.safeedit.layouts.read_cases`.
        split: SafeEdit split, for a folder or the hub.
        categories: Only cases of these unsafety categories; empty for all.
        limit: Most cases; ``None`` for all.
        method: One of :data:`editing.methods.registry.METHODS`.
        preset: Preset of DINM; the other methods have none.
        changes: Changed settings of the method by name, parts of the prompt format among them.
        block: ``auto`` (:func:`editing.calibrating.layer_choice.automatic_layer`), ``toxic`` (what the locator picks
            case by case), ``recommended`` (that of the calibration), ``once``, ``nowhere``, or the number of the
            block to edit in every case.
        locate: Preset of the locator; ``None`` for the edit's own (:attr:`locator`). A sweep on disk names it.
        padding: Side on which the locator's presets ``paper`` and ``reference`` pad; the released code's for Mistral is
            ``left``.
        judge: Judge, see :func:`inspector.safeedit.judges.load_judge`.
        size: How much each exam asks.
        facts: Source of the fact questions.
        passages: Source of the passages.
        attacks: Installed package whose attack templates are asked as well, empty for none.
        evaluation: How the two weights are asked, see :data:`inspector.safeedit.exam.EVALUATIONS`.
        acts: Whether the patch acts on every prompt (``always``) or only where the model's detector fires
            (``detected``, :mod:`editing.calibrating.calibration`); ``both`` examines the edit of ``always`` both ways.
        learns: Whether DINM's ``corrected`` learns more where it acts only where the detector fires (``more``,
            :func:`editing.methods.dinm.to_be_routed`), or what is set alone (``as set``), as in sweeps of before.
        vanilla: Whether the vanilla weights answer what the exams have in common once, for all cases (``shared``,
            :mod:`editing.sweep.vanilla`), or anew beside every edit, in one batch with it (``paired``).
        max_new_tokens: Longest answer.
        model: Model, ``embedded`` for the embedded one.
        revision: Its revision on the hub.
        device: Its device.
        dtype: Its data type.
        device_map: ``auto`` to spread it, see :func:`inspector.model.load`.
        max_memory: What of it each device may hold, entries as ``0=70GiB``.
        paths: What completes its architecture map, entries as ``blocks=model.layers``.
    """

    cases: str = "bundled"
    split: str = "test"
    categories: tuple[str, ...] = ()
    limit: Count | None = None
    method: str = "dinm"
    preset: Preset = "corrected"
    changes: Mapping[str, Any] = field(default_factory=dict)
    block: Block = AUTO
    locate: Preset | None = None
    padding: Padding = "right"
    judge: str = EMBEDDED
    size: Size = FULL
    facts: str = "bundled"
    passages: str = "bundled"
    attacks: str = ""
    evaluation: Evaluation = "same"
    acts: Acts = "always"
    learns: Learns = "more"
    vanilla: Vanilla = "shared"
    max_new_tokens: Count = 64
    model: str = "embedded"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    max_memory: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.method_settings()

    def method_settings(self) -> Any:
        """Return the method's own settings, those of a routed edit where it acts only where the detector fires.

        What :attr:`changes` names stays, also where it is the preset's own value.

        Raises:
            EditError: The method or a changed setting is unknown, or a value is out of range.
        """
        chosen = method_settings(self.method, self.preset, **self.changes)
        routed = self.acts == "detected" and self.learns == "more" and isinstance(chosen, DinmSettings)
        return to_be_routed(chosen, self.changes) if routed else chosen

    @property
    def locator(self) -> Preset:
        """The preset that cases are located with: the named one, or DINM's own; the other methods' is ``corrected``."""
        return self.locate or (self.preset if self.method == "dinm" else "corrected")

    @property
    def format(self) -> PromptFormat:
        """The prompt format that edits are made and asked in."""
        return self.method_settings().format

    def as_json(self) -> str:
        """Return the settings as JSON with sorted keys."""
        return json.dumps(asdict(replace(self, changes=dict(self.changes))), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SweepSettings:
        """Return the settings that :meth:`as_json` wrote.

        Before vanilla answers were shared they were paired, before routed edits learnt more they were as set, before
        the locator could be chosen it was that of ``corrected``, and before the padding could be it was on the right.

        Raises:
            EditError: They are those of another version.
        """
        told = json.loads(text)
        before = {
            "vanilla": "paired",
            "locate": "corrected",
            "learns": "as set" if told.get("acts") == "detected" else "more",
        }
        return cls(**{**before, **told})

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
