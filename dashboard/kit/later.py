"""Parts of a page that a browser gets when they are first opened, and what passes between it and them until then.

A browser takes in every component that it is told of and every event before it paints: it is told of those that stand
in the first view. The others are given to it, with their events, as the answer to the press that opens them
(:mod:`dashboard.given_later`), drawn from the visitor's session. Until then nothing is sent to them, and
what an event reads of them is what stands with the visitor, else what a new page has. What other events say of them
while they are on their way finds them neither here nor there: it is noted, and the event after that press draws it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import gradio as gr
from gradio.components import _Keywords

_GIVEN: ContextVar[set[int] | None] = ContextVar("given", default=None)
"""The containers that the page which asks was given; ``None`` where nothing is known of it, a program for example."""
_FILLED: ContextVar[set[Any] | None] = ContextVar("filled", default=None)
"""The parts that it lacks and an event reads: what a new page has of them was filled in."""
_COMING: ContextVar[dict[int, set[Any]] | None] = ContextVar("coming", default=None)
"""The containers that are on their way to it, each with the parts of which something was said since it was drawn."""


class Later:
    """What is given later, by the container in which it stands."""

    def __init__(self) -> None:
        self._held: dict[Any, Any] = {}
        self._parts: dict[int, frozenset[Any]] = {}

    def hold(self, container: Any, opener: Any) -> None:
        """Give what stands in a container when its opener is pressed.

        Args:
            container: A part of the page whose children are held back.
            opener: A button; the event of its press gives them.
        """
        self._held[container] = opener

    @property
    def containers(self) -> list[Any]:
        """Every container whose children are held back."""
        return list(self._held)

    def opened_by(self, event: Any) -> Any:
        """Return the container that an event gives; ``None`` for an event that gives none."""
        pressed = {number for number, _ in event.targets}
        return next((one for one, opener in self._held.items() if opener._id in pressed), None)

    def parts(self, container: Any) -> frozenset[Any]:
        """Return all that stands in a container, at whatever depth; the page has to be laid out."""
        if container._id not in self._parts:
            self._parts[container._id] = frozenset(_within(container))
        return self._parts[container._id]

    def absent(self) -> frozenset[Any]:
        """Return what the page that asks has not been given yet; nothing where nothing is known of it."""
        given = _GIVEN.get()
        if given is None:
            return frozenset()
        return frozenset().union(*(self.parts(one) for one in self._held if one._id not in given))

    def shows(self, parts: Collection[Any]) -> bool:
        """Tell whether the page that asks has been given any of some parts, as far as is known."""
        return not self.absent().issuperset(parts)

    def lacks(self, part: Any) -> bool:
        """Tell whether the page that asks, which has sent nothing of a part, lacks it; that is noted for `standing`."""
        given, filled = _GIVEN.get(), _FILLED.get()
        lacking = any(part in self.parts(one) for one in self._held if given is None or one._id not in given)
        if lacking and filled is not None:
            filled.add(part)
        return lacking

    def standing(self, values: Mapping[Any, Any], kept: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return what an event has read, with what the visitor has of the parts that their page does not.

        Args:
            values: By component; for such a part what a new page has.
            kept: What the visitor's session has of the controls.
        """
        filled = _FILLED.get() or ()
        return {part: kept.get(part, value) if part in filled else value for part, value in values.items()}

    def note_said(self, parts: Collection[Any]) -> None:
        """Note that an event says something of parts, of which some may be on their way to the page that asks."""
        coming = _COMING.get() or {}
        for container in self._held:
            said = coming.get(container._id)  # another thread may take it away meanwhile
            if said is not None:
                said |= self.parts(container).intersection(parts)

    def missed(self, container: Any) -> set[Any]:
        """Return the parts that may show what was there before: of them something was said since they were drawn.

        Whoever asks draws them and asks again: once there are none, the container has come whole.
        """
        coming = _COMING.get() or {}
        said = coming.pop(container._id, set())
        if said:
            coming[container._id] = set()
        return said


@contextmanager
def page_with(given: set[int] | None, coming: dict[int, set[Any]] | None = None) -> Iterator[None]:
    """Say what the page has been given for which something is done within.

    Args:
        given: Numbers of containers, to which what it is given is added; ``None`` where nothing is known.
        coming: Those on their way to it, each with the parts of which something was said since it was drawn.
    """
    before, filled, on_its_way = _GIVEN.set(given), _FILLED.set(set()), _COMING.set(coming)
    try:
        yield
    finally:
        _GIVEN.reset(before)
        _FILLED.reset(filled)
        _COMING.reset(on_its_way)


def said_of(predictions: Any, outputs: list[Any]) -> set[Any]:
    """Return the parts of which an event's update says something.

    Args:
        predictions: By component, or in the order of ``outputs``, as events return it.
        outputs: The event's.
    """
    if isinstance(predictions, dict) and not predictions.get("__type__"):
        return set(predictions)
    said = predictions if isinstance(predictions, list | tuple) else [predictions] * len(outputs)
    return {part for part, one in zip(outputs, said, strict=False) if not _is_nothing(one)}


def without(predictions: Any, absent: frozenset[Any], outputs: list[Any]) -> Any:
    """Return an event's update without what the page does not have yet.

    Args:
        predictions: By component, or in the order of ``outputs``, as events return it.
        absent: What it does not have.
        outputs: The event's.
    """
    if not absent.intersection(outputs):
        return predictions
    if isinstance(predictions, dict) and not predictions.get("__type__"):
        return {part: value for part, value in predictions.items() if part not in absent} or gr.skip()
    if isinstance(predictions, list | tuple):
        return [gr.skip() if part in absent else one for part, one in zip(outputs, predictions, strict=True)]
    return predictions if len(outputs) > 1 else gr.skip()


def _is_nothing(said: Any) -> bool:
    return isinstance(said, _Keywords) or (isinstance(said, dict) and said == gr.skip())


def _within(container: Any) -> Iterator[Any]:
    for part in container.children:
        yield part
        if isinstance(part, gr.blocks.BlockContext):
            yield from _within(part)
