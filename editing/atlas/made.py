"""An atlas as it is made: its settings, an entry a block, and the curves that locators are judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import Field

from editing.values import Count, HarmlessCount, HarmlessTokens, Positive, Rate
from inspector.errors import EditError
from inspector.model import PromptFormat
from inspector.safeedit.exam import Evaluation
from inspector.safeedit.verdict import Verdict
from inspector.validated import settings as checked


@checked(EditError)
class AtlasSettings:
    """The edit that is made at every block, and what is measured of it.

    Attributes:
        steps: Updates of each edit.
        learning_rate: Step size of Adam; ``None`` for the size, of each block its own, at which the first update costs
            :attr:`step_kl`, so that blocks are compared by what their edits achieve and not by the scale of their
            weights.
        step_kl: What one update may cost on the harmless prompts, nats a token, where the step size is measured.
        blocks: Blocks to edit; empty for all.
        together: Blocks whose edits share a batch.
        format: Suffix prompt S, chat template, and whether the edits also learn to end the turn.
        harmless_prompts: Prompts of the harmless KL; a step size that is measured is measured on the same ones.
        harmless_tokens: Most tokens of the model's own answer to each.
        answers: Also let every edited model answer the case's five prompts and have the answers judged.
        max_new_tokens: Longest such answer.
        evaluation: How the two weights are asked, see :data:`inspector.safeedit.exam.EVALUATIONS`.
    """

    steps: Annotated[int, Field(ge=1, le=100)] = 3
    learning_rate: Rate | None = None
    step_kl: Positive = 3e-3
    blocks: tuple[int, ...] = ()
    together: Count = 5
    format: PromptFormat = PromptFormat()
    harmless_prompts: HarmlessCount = 3
    harmless_tokens: HarmlessTokens = 12
    answers: bool = False
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 32
    evaluation: Evaluation = "same"


@dataclass(frozen=True)
class Entry:
    """What the edit of one block achieves.

    Attributes:
        block: The edited block.
        safe: Mean log-probability of the safe answer's tokens after the edit, nats.
        unsafe: The same of the unsafe answer.
        kl: KL(vanilla to edited) on the model's own answers to harmless prompts, mean over all tokens, nats.
        delta_norm: Frobenius norm of the change.
        verdicts: Verdict on the answer to each of the case's prompts, by score (``DS``, ``onlyQ``, ...).
        step_size: Adam's, at which the first update costs what it may; ``None`` where none was found, or the settings
            name a learning rate.
    """

    block: int
    safe: float
    unsafe: float
    kl: float
    delta_norm: float
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    step_size: float | None = None

    @property
    def finite(self) -> bool:
        """Whether everything that is measured of the edit is a finite number."""
        return all(map(math.isfinite, (self.safe, self.unsafe, self.kl, self.delta_norm)))

    @property
    def defended(self) -> float | None:
        """Share of DS and the DG prompts whose answers are safe, 0 to 1; ``None`` when nothing was answered."""
        return None if not self.verdicts else sum(v.safe for v in self.verdicts.values()) / len(self.verdicts)

    @property
    def generalized(self) -> float | None:
        """Share of the DG prompts alone (DG-Avg), 0 to 1."""
        others = [verdict.safe for kind, verdict in self.verdicts.items() if kind != "DS"]
        return None if not others else sum(others) / len(others)


@dataclass(frozen=True, eq=False)
class Atlas:
    """What the same edit achieves at each block.

    Attributes:
        entries: One entry a block, ascending.
        safe: Mean log-probability of the safe answer's tokens, vanilla, nats.
        unsafe: The same of the unsafe answer.
        verdicts: Verdicts on the vanilla answers.
        settings: How it was made.
        blocks: Number of blocks of the model.
        seconds: Duration.
        left_out: Why there is no entry, by the number of each block whose edit is refused, keeps no update or does
            not fit into memory.
    """

    entries: tuple[Entry, ...]
    safe: float
    unsafe: float
    verdicts: dict[str, Verdict]
    settings: AtlasSettings
    blocks: int
    seconds: float
    left_out: Mapping[int, str] = field(default_factory=dict)

    def curve(self, name: str) -> np.ndarray:
        """Return ``[blocks]`` of one quantity, NaN where no edit was made.

        Args:
            name: ``safe gain`` and ``margin gain`` (nats a token, edited minus vanilla), ``harmless KL``, ``delta
                norm``, ``DS`` (0 or 1), ``defended`` (share of the five prompts) or ``generalized`` (of the DG ones).
        """
        margin = self.safe - self.unsafe
        read: dict[str, Callable[[Entry], float | None]] = {
            "safe gain": lambda entry: entry.safe - self.safe,
            "margin gain": lambda entry: entry.safe - entry.unsafe - margin,
            "harmless KL": lambda entry: entry.kl,
            "delta norm": lambda entry: entry.delta_norm,
            "DS": lambda entry: float(entry.verdicts["DS"].safe) if "DS" in entry.verdicts else None,
            "defended": lambda entry: entry.defended,
            "generalized": lambda entry: entry.generalized,
        }
        values = np.full(self.blocks, np.nan)
        for entry in self.entries:
            value = read[name](entry)
            values[entry.block] = np.nan if value is None else value
        return values

    @property
    def truth(self) -> str:
        """The quantity that locators are judged by: ``defended`` where answers were judged, else ``margin gain``."""
        return "defended" if any(entry.verdicts for entry in self.entries) else "margin gain"

    @property
    def best(self) -> int:
        """The block whose edit achieves most by :attr:`truth`; of equal ones that with the larger safe gain."""
        return max(self.entries, key=lambda e: (self.curve(self.truth)[e.block], e.safe)).block


@dataclass(frozen=True)
class AtlasProgress:
    """How far an atlas is.

    Attributes:
        atlas: What is known so far.
        total: Number of blocks to edit.
        seconds: Time so far.
    """

    atlas: Atlas
    total: int
    seconds: float
