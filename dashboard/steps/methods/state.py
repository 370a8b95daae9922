"""What one visitor has run of several methods."""

from __future__ import annotations

from dataclasses import dataclass

from editing.contest import Standing
from editing.methods.registry import Method
from editing.rounding import row_told
from inspector.model import PromptFormat
from inspector.safeedit import Case
from inspector.safeedit.exam import ExamResult
from inspector.safeedit.scores import Score
from inspector.safeedit.yardstick import yardstick
from inspector.writing import RegionWriting


@dataclass(frozen=True, eq=False)
class Contest:
    """Several methods on one case.

    Attributes:
        case: The case.
        format: The prompt format of its exams.
        block: The layer whose region was looked at.
        standings: The methods that are done.
        picked: Whether every method was to edit that layer, as somebody had picked it; else each takes its own.
        rounded: The same weights in bfloat16, or rounded to it, asked the harmless prompts of these exams.
        unrounded: Why there is no such row; empty where there is one, or it was not asked for.
    """

    case: Case
    format: PromptFormat
    block: int
    standings: tuple[Standing, ...]
    picked: bool = True
    rounded: ExamResult | None = None
    unrounded: str = ""

    @property
    def exam(self) -> ExamResult | None:
        """The exam of the first method that has one: all ask the same."""
        return next((one.exam for one in self.standings if one.exam is not None), None)

    @property
    def yardstick(self) -> tuple[Score, ...]:
        """What rounding gives to compare the methods with, nothing without its row."""
        return () if self.rounded is None else yardstick(self.rounded)

    @property
    def rounded_as(self) -> str:
        """What was rounded, or why nothing was, in a sentence; empty where nothing is to be said."""
        return row_told(self.rounded, self.unrounded)

    @property
    def elsewhere(self) -> dict[str, int]:
        """The layers of the patches that edit a single one, where it is not the one that was looked at.

        By the title of the line that comes first: a routed line can be about the patch of the plain one.
        """
        made: dict[int, tuple[Method, int]] = {}
        for one in self.standings:
            if one.result is not None:
                made.setdefault(id(one.result.patch or one.result), (one.method, one.result.block))
        return {method.title: block for method, block in made.values() if method.one_layer and block != self.block}

    def named(self, title: str) -> Standing | None:
        """Return the standing of a method by its title."""
        return next((s for s in self.standings if s.method.title == title), None)


@dataclass
class Compared:
    """The visitor's last run of several methods.

    Attributes:
        contest: The run.
        method: The method that is picked in its figures, by title.
        written: What the region writes along the toxic direction with each method, by title; whole, and on demand
            where it is of a visitor's run.
        shows_writing: Whether the plane shows it, and not the region's mean cosine.
    """

    contest: Contest | None = None
    method: str | None = None
    written: dict[str, RegionWriting] | None = None
    shows_writing: bool = False

    @property
    def shown_writing(self) -> dict[str, RegionWriting] | None:
        """What the plane shows of :attr:`written`; ``None`` where it shows the mean cosine."""
        return self.written if self.shows_writing else None

    def forget_writing(self) -> None:
        """Forget what regions write, and show the mean cosine."""
        self.written, self.shows_writing = None, False
