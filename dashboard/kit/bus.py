"""How steps hear of each other without knowing each other: news that they tell, and things that they offer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dashboard.kit.session import Session

Update = dict[Any, Any]
"""New values of components, by component."""
Values = dict[Any, Any]
"""What stands in the components that an event reads, by component."""


class News(Enum):
    """What can happen on the page."""

    TYPED = "the texts of the case were changed"
    CASE = "a case was measured"
    LIVE = "the live weights changed"
    BEGAN = "a long run began"
    ENDED = "a long run ended"
    CALIBRATED = "the model was calibrated behind the open page"
    EXAMPLE = "parts of the finished example have come"
    BACK = "a page shows a visitor's session anew: all that it holds, or that it holds nothing"


@dataclass(frozen=True)
class Hearing:
    """One step that wants to hear of something.

    Attributes:
        answer: Called with session and values; returns an update, or yields several.
        inputs: Components whose values it reads.
        outputs: Components that it changes.
    """

    answer: Callable[[Session, Values], Update | Iterator[Update]]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


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
    """News and offers of one page."""

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
            later: In an event of its own when the run that told it is over.
        """
        heard = self._later if later else self._hearings
        heard.setdefault(news, []).append(Hearing(answer, tuple(inputs), tuple(outputs)))

    def hearings(self, news: News, later: bool = False) -> list[Hearing]:
        """Return who hears of something, in the order of the steps."""
        return (self._later if later else self._hearings).get(news, [])

    def inputs(self, *news: News) -> list[Any]:
        """Return what the hearers of news read."""
        return [part for one in news for heard in self.hearings(one) for part in heard.inputs]

    def outputs(self, *news: News) -> list[Any]:
        """Return what the hearers of news change."""
        return [part for one in news for heard in self.hearings(one) for part in heard.outputs]

    def tell(self, news: News, session: Session, values: Values, but: Any = None) -> Iterator[Update]:
        """Tell news and yield what changes on the page, one hearer after the other.

        Args:
            but: The answer of the one who tells it, and does its own part.
        """
        for heard in self.hearings(news):
            if heard.answer == but:
                continue
            answered = heard.answer(session, values)
            if isinstance(answered, dict):
                yield answered
            else:
                yield from answered

    def told(self, news: News, session: Session, values: Values) -> Update:
        """Tell news and return all that changes as one update."""
        return {part: value for update in self.tell(news, session, values) for part, value in update.items()}

    def offer(self, name: str, offer: Offer) -> None:
        """Lend something to the other steps."""
        self._offers[name] = offer

    def offered(self, name: str) -> Offer:
        """Return what some step lends under a name."""
        return self._offers[name]
