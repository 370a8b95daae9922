"""How steps hear of each other without knowing each other: news that they tell, and things that they offer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dashboard.kit.sessions.session import Session

Update = dict[Any, Any]
"""New values of components, by component."""
Values = dict[Any, Any]
"""What stands in the components that an event reads, by component."""


class News(Enum):
    """What can happen on the page."""

    TYPED = "the texts of the case were changed"
    CASE = "a case was measured"
    LIVE = "the live weights changed"
    MADE = "one of several edits of a run is finished, and not live"
    BEGAN = "a long run began"
    ENDED = "a long run ended"
    CALIBRATED = "the model was calibrated behind the open page"
    EXAMPLE = "parts of the finished example have come"
    BACK = "a page, or a view that is opened, shows a visitor's session: all that it holds, or that it holds nothing"


@dataclass(frozen=True)
class Hearing:
    """One step that wants to hear of something.

    Attributes:
        answer: Called with session and values; returns an update, or yields several.
        inputs: Components whose values it reads.
        outputs: Components that it changes.
        room: The name of the step.
    """

    answer: Callable[[Session, Values], Update | Iterator[Update]]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    room: str = ""

    def answered(self, session: Session, values: Values) -> Iterator[Update]:
        """Yield what it changes, where it changes something: an empty update is no answer of an event."""
        answer = self.answer(session, values)
        yield from filter(None, [answer] if isinstance(answer, dict) else answer)


@dataclass(frozen=True)
class Offer:
    """Something that one step lends to the others, by its name.

    Attributes:
        inputs: Components whose values it reads.
        outputs: Components that it changes.
        call: What is lent; its first argument are the values.
    """

    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()
    call: Callable[..., Any] = lambda values: values


@dataclass
class Bus:
    """News and offers of one page.

    Attributes:
        speaker: The name of the step that says just now what it hears.
    """

    speaker: str = ""
    _hearings: dict[News, list[Hearing]] = field(default_factory=dict)
    _later: dict[News, list[Hearing]] = field(default_factory=dict)
    _offers: dict[str, Offer] = field(default_factory=dict)

    def hear(
        self,
        news: News,
        answer: Callable[[Session, Values], Update | Iterator[Update]],
        *,
        inputs: Iterable[Any] = (),
        outputs: Iterable[Any] = (),
        later: bool = False,
    ) -> None:
        """Let a step hear of news.

        Args:
            later: In an event of its own, where the page has what it changes: when the run that told it is over, and of
                a page or a view that was drawn when nothing runs for the visitor.
        """
        heard = self._later if later else self._hearings
        heard.setdefault(news, []).append(Hearing(answer, tuple(inputs), tuple(outputs), self.speaker))

    @property
    def rooms(self) -> set[str]:
        """The names of the steps that hear of anything."""
        return {heard.room for heard in itertools.chain(*self._hearings.values())}

    def hearings(self, news: News, later: bool = False) -> list[Hearing]:
        """Return who hears of something, in the order of the steps."""
        return (self._later if later else self._hearings).get(news, [])

    def inputs(self, *news: News, rooms: Collection[str] | None = None) -> list[Any]:
        """Return what the hearers of news read; those of some steps only, if they are named."""
        return [part for heard in self._of(news, rooms) for part in heard.inputs]

    def outputs(self, *news: News, rooms: Collection[str] | None = None) -> list[Any]:
        """Return what the hearers of news change; those of some steps only, if they are named."""
        return [part for heard in self._of(news, rooms) for part in heard.outputs]

    def _of(self, news: tuple[News, ...], rooms: Collection[str] | None) -> list[Hearing]:
        return [heard for one in news for heard in self.hearings(one) if rooms is None or heard.room in rooms]

    def tell(
        self,
        news: News,
        session: Session,
        values: Values,
        but: Any = None,
        rooms: Collection[str] | None = None,
        within: Collection[Any] | None = None,
    ) -> Iterator[Update]:
        """Tell news and yield what changes on the page, one hearer after the other.

        Args:
            but: The answer of the one who tells it, and does its own part.
            rooms: The names of the steps that hear it; all of them by default.
            within: Only those hear it who change one of these parts; all of them by default.
        """
        for heard in self._of((news,), rooms):
            if heard.answer == but or (within is not None and not any(part in within for part in heard.outputs)):
                continue
            yield from heard.answered(session, values)

    def told(
        self,
        news: News,
        session: Session,
        values: Values,
        rooms: Collection[str] | None = None,
        within: Collection[Any] | None = None,
    ) -> Update:
        """Tell news, to all steps or to some, and return all that changes as one update."""
        told = self.tell(news, session, values, rooms=rooms, within=within)
        return {part: value for update in told for part, value in update.items()}

    def offer(self, name: str, offer: Offer) -> None:
        """Lend something to the other steps."""
        self._offers[name] = offer

    def offered(self, name: str) -> Offer:
        """Return what some step lends under a name."""
        return self._offers[name]
