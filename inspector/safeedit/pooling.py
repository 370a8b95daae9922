"""Marked replies of one edit or of many, pooled into estimates whose intervals respect which edit gave an answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from inspector.safeedit.intervals import (
    Estimate,
    Observation,
    average,
    clustered_mean,
    clustered_percentage,
    mean,
    percentage,
)
from inspector.safeedit.marking import Marked, Reply
from inspector.safeedit.questions import Kind


@dataclass(frozen=True)
class Owned:
    """A reply with the edit that it belongs to.

    Attributes:
        reply: The reply.
        edit: What names the edit.
    """

    reply: Reply
    edit: Hashable

    @property
    def prompt(self) -> str:
        """What was asked."""
        return self.reply.question.prompt


class Replies:
    """The replies of one edit or of many, and the estimates that suit them.

    Args:
        replies: Marked replies.
        edits: Which edit each belongs to; without it all are taken as one edit's.
    """

    def __init__(self, replies: Sequence[Reply], edits: Sequence[Hashable] | None) -> None:
        owners = [0] * len(replies) if edits is None else edits
        self.all = [Owned(reply, edit) for reply, edit in zip(replies, owners, strict=True)]
        self.several = len(set(owners)) > 1

    def of(self, *kinds: Kind) -> list[Owned]:
        """Return the replies to questions of these kinds."""
        return [owned for owned in self.all if owned.reply.question.kind in kinds]

    @staticmethod
    def once(chosen: Sequence[Owned]) -> list[Owned]:
        """Return each prompt's vanilla answer once: many edits are asked the same prompts.

        A prompt of one edit stays with that edit's, so that the prompts of a case count as belonging together.
        """
        found: dict[Hashable, Owned] = {}
        for owned in chosen:
            key = owned.reply.question.kind, owned.prompt
            shared = key in found and found[key].edit != owned.edit
            found[key] = Owned(owned.reply, key if shared else owned.edit)
        return list(found.values())

    def share(
        self, parts: Sequence[Sequence[Owned]], counts: Callable[[Reply, Marked], bool], each: bool = False
    ) -> tuple[Estimate, Estimate]:
        """Return the percentage of answers that count, vanilla and edited; of several parts their mean.

        Args:
            counts: Tells of a reply and one of its two answers whether that counts.
            each: Whether it depends on the edit for vanilla's answer, too, which then counts for each of them.
        """
        own = parts if each else [self.once(part) for part in parts]
        vanilla = [[(owned, counts(owned.reply, owned.reply.vanilla)) for owned in part] for part in own]
        edited = [[(owned, counts(owned.reply, owned.reply.edited)) for owned in part] for part in parts]
        return self._percentage(vanilla), self._percentage(edited)

    def mean(
        self, chosen: Sequence[Owned], value: Callable[[Marked], float | None], factor: float = 1.0
    ) -> tuple[Estimate, Estimate]:
        """Return the mean over the answers that have a value, none of which is negative, vanilla and edited."""
        vanilla = [(owned, value(owned.reply.vanilla)) for owned in self.once(chosen)]
        edited = [(owned, value(owned.reply.edited)) for owned in chosen]
        return self._mean(vanilla, factor, self.several), self._mean(edited, factor, self.several)

    def change(
        self,
        chosen: Sequence[Owned],
        value: Callable[[Reply], float | None],
        factor: float = 1.0,
        resampled: bool = False,
    ) -> Estimate:
        """Return the mean of what was measured between the two answers.

        Args:
            resampled: Whether the interval of one edit, too, is that of its resampled prompts.
        """
        return self._mean([(owned, value(owned.reply)) for owned in chosen], factor, self.several or resampled)

    def _percentage(self, parts: Sequence[Sequence[tuple[Owned, bool]]]) -> Estimate:
        if self.several:
            return clustered_percentage([[Observation(float(v), o.edit, o.prompt) for o, v in part] for part in parts])
        each = [percentage(sum(counted for _, counted in part), len(part)) for part in parts]
        return each[0] if len(each) == 1 else average(each)

    @staticmethod
    def _mean(values: Sequence[tuple[Owned, float | None]], factor: float, resampled: bool) -> Estimate:
        known = [(owned, value) for owned, value in values if value is not None]
        if resampled:
            return clustered_mean([Observation(value, owned.edit, owned.prompt) for owned, value in known], factor)
        return mean([value for _, value in known], factor, least=0.0)
