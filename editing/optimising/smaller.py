"""An edit that does not fit into memory is made once more, smaller: half as many texts at once, and one half at a time.

What takes memory in a step is what its backward pass needs of each text. In a smaller edit that is given back as soon
as a half's logits are known, and computed again when its gradient is wanted: a third more work, the same numbers up to
rounding. An edit that does not fit like that, either, is told (:func:`editing.memory.memory_told`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from inspect import signature
from typing import ParamSpec

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from editing.memory import memory_told
from editing.optimising.replay import Replay, ReplayFactory, TailReplay
from editing.progress import EditEvents, EditResult, Preparation, Step
from inspector.model import InspectedModel
from inspector.model.memory.halving import halves, let_go, ran_out

_Given = ParamSpec("_Given")


def once_smaller(edit: Callable[_Given, EditEvents]) -> Callable[_Given, EditEvents]:
    """Let a method make an edit once more, from its start and smaller, where memory runs out (a decorator).

    :attr:`EditResult.smaller` says that it did. Steps that were told before memory ran out are not told again.

    Args:
        edit: Makes the edit of a ``model`` with ``settings``, with the keyword ``smaller`` that says how; one that
            fails must leave nothing behind.
    """

    @functools.wraps(edit)
    def made(*given: _Given.args, **named: _Given.kwargs) -> EditEvents:
        started, told = time.perf_counter(), 0
        try:
            events = edit(*given, **named)
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    return end.value
                told += isinstance(event, Step)
                yield event
        except Exception as error:
            if not ran_out(error):
                raise
            let_go(error)
        # No longer within the handler, which holds the error and all below it.
        yield Preparation("Memory ran out: once more, with half as many texts at once", 0.0)
        named["smaller"] = True
        asked = signature(edit).bind(*given, **named).arguments
        with memory_told(asked.get("model"), asked.get("settings")):
            result = yield from _again(edit(*given, **named), told)
        return replace(result, smaller=True, seconds=time.perf_counter() - started)

    return made


def _again(events: EditEvents, told: int) -> Generator[Preparation | Step, None, EditResult]:
    """Pass on the events of a smaller edit, but for so many steps."""
    while True:
        try:
            # A half is computed again within the backward pass: another thread would wait for the model's lock forever.
            with torch.autograd.set_multithreading_enabled(False):
                event = next(events)
        except StopIteration as end:
            return end.value
        if isinstance(event, Step) and told:
            told -= 1
            event = Preparation(f"Once more, smaller: step {event.step} of at most {event.steps}", 1.0)
        yield event


def parts_of(*each: Sequence) -> list[tuple[Sequence, ...]]:
    """Return several lists of the same length in two halves; a single entry has none."""
    if len(each[0]) < 2:
        return [each]
    return list(zip(*map(halves, each), strict=True))


def together(parts: Sequence[Callable[..., Tensor]], *given: Tensor) -> Tensor:
    """Return what the parts give in one row; what a gradient needs of each is computed anew when it is its turn."""
    with set_checkpoint_early_stop(False):  # a part that ended early would not give fetched weights back
        made = [checkpoint(part, *given, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat(made)


class HalvedReplay:
    """A replay of which one half is in memory at a time (:class:`~editing.optimising.replay.Replay`).

    Args: as for :class:`~editing.optimising.replay.FullReplay`, and

        way: Makes the replay of each half.
    """

    def __init__(
        self,
        model: InspectedModel,
        block: int,
        sequences: Sequence[Sequence[int]],
        counted: Sequence[Sequence[int]],
        way: ReplayFactory = TailReplay,
    ) -> None:
        self._halves: list[Replay] = [way(model, block, *part) for part in parts_of(sequences, counted)]

    def logits(self, weight: Tensor) -> Tensor:
        """See :class:`~editing.optimising.replay.Replay`."""
        return together([half.logits for half in self._halves], weight)
