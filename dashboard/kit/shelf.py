"""The models that the operator has listed: the page's own, and others that are loaded when somebody chooses them.

Visitors choose by label and never name a source. A label is a hub id or the last part of a path; what an error says of
a path goes to the operator. At most :data:`KEPT` models stay beside the page's own, until nobody has used them for
:data:`IDLE` or memory runs out; one that is lent is never let go.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from dashboard.kit.notes import note, places
from dashboard.kit.running.fetching import LONGEST
from dashboard.kit.running.queue import Elsewhere
from editing.memory import give_back_model, memory_told
from inspector.errors import CaseError, InspectorError, ModelLoadError, OutOfMemory
from inspector.model import InspectedModel, embedded, load
from inspector.model.loading import configuration, predicted
from inspector.model.memory.halving import when_memory_runs_out
from inspector.model.memory.memory_need import bytes_of, free_memory, in_gb, remedies
from inspector.model.placement import chosen_device

KEPT = 2
"""Models that stay loaded beside the page's own: as many as one comparison may need."""
IDLE = 20 * 60.0
"""Seconds for which a model that nobody uses stays."""
RESERVE = 2**30
"""Bytes that a model leaves free where it is loaded, for the runs beside it."""
LATE = (
    "{label} has been loading for half an hour and has not come. Choose another model of the list, or try again later."
)
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PATH = re.compile(r"(?<![\w/\\.:~-])(?:~|\.{1,2}|[A-Za-z]:)?[/\\][^\s'\"(),;:]+")
"""What looks like a path of this machine in a library's words."""


@dataclass(frozen=True)
class Listed:
    """One model of the operator's list.

    Attributes:
        label: What visitors read and choose.
        source: As on the command line; ``None`` for the embedded model.
    """

    label: str
    source: str | None


@dataclass(frozen=True)
class Coming:
    """A model that is being loaded.

    Attributes:
        label: Its label.
        began: When, on the shelf's clock.
        done: Ends with it, or with its error.
    """

    label: str
    began: float
    done: Future[None]


class Loan:
    """Models that are lent until the block ends; the shelf lets none of them go meanwhile.

    Args:
        models: In the order in which they were asked for.
        end: Gives them back.
    """

    def __init__(self, models: Sequence[InspectedModel], end: Callable[[], None]) -> None:
        self._models, self._end = tuple(models), end

    def __enter__(self) -> tuple[InspectedModel, ...]:
        return self._models

    def __exit__(self, *_error: object) -> None:
        self._models = ()
        self._end()


class Shelf:
    """Lends listed models by their labels; one is loaded at a time, and keeps others waiting for half an hour at most.

    Args:
        own: The page's model, which is always there.
        sources: All that are listed, the page's own first; that one alone by default.
        options: How each of them is loaded, for :func:`inspector.model.load`.
        kept: See :data:`KEPT`.
        now: The clock, seconds.
        named: What is loaded bears its label: where others come in, a path is the operator's.
    """

    def __init__(
        self,
        own: InspectedModel,
        sources: Sequence[str | None] = (),
        options: Mapping[str, Any] | None = None,
        kept: int = KEPT,
        now: Callable[[], float] = time.monotonic,
        named: bool = False,
    ) -> None:
        self._named = named
        self._own, self._options, self._most = own, dict(options or {}), kept
        self._listed = {one.label: one for one in listed(sources or (own.name,))}
        self._loaded: OrderedDict[str, InspectedModel] = OrderedDict()
        self._lent: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._used: dict[str, float] = {}
        self._coming: Coming | None = None
        self._lock, self._now = threading.Lock(), now
        when_memory_runs_out(self.let_idle_go)

    @property
    def labels(self) -> list[str]:
        """What can be chosen, the page's own model first."""
        return list(self._listed)

    @property
    def loaded(self) -> list[str]:
        """Which models are in memory beside the page's own, the one unused longest first."""
        with self._lock:
            return list(self._loaded)

    def sweep(self) -> None:
        """Let the models go that nobody has used for :data:`IDLE`."""
        self.let_idle_go(IDLE)

    def let_idle_go(self, unused: float = 0.0) -> None:
        """Let the models go that nobody uses.

        Args:
            unused: Seconds for which nobody has used them.
        """
        with self._lock:
            since = self._now() - unused
            idle = [label for label in self._loaded if not self._lent[label] and self._used.get(label, since) <= since]
            for label in idle:
                del self._loaded[label]
        for label in idle:
            note("model", label=label, outcome="released", seconds=0.0)
        if idle:
            give_back_model()

    def lend(
        self,
        labels: Sequence[Any],
        cancelled: Callable[[], bool] = lambda: False,
        say: Callable[[str], Any] = str,
        hold: bool = False,
    ) -> Generator[Any, None, Loan | None]:
        """Lend models, loading what is not there.

        Yields :class:`Elsewhere` until they are: whoever stands in line behind goes first.

        Places for all of them are taken at once, so that no two runs wait for each other.

        Args:
            labels: From :attr:`labels`.
            cancelled: Whether to wait no longer: what is being loaded stays on the shelf for the next one who asks.
            say: Turns how far it is into what is shown.
            hold: For long, as a page of their own does: they take no place of those who compare, whoever asks bounds
                them.

        Returns:
            ``None`` if it was cancelled.

        Raises:
            CaseError: One of them is not listed.
            ModelLoadError: One cannot be loaded, does not fit, or takes too long. Nothing else has changed.
        """
        asked = [self.require_listed(label) for label in labels]
        others = {label for label in asked if label != self.labels[0]}
        last = ""

        def waiting(text: str) -> Elsewhere:
            nonlocal last
            fresh, last = text != last, text
            return Elsewhere(say(text) if fresh else None)

        while not self._take(others, hold):
            if cancelled():
                return None
            yield waiting("Other runs use the models that are loaded; waiting until one is free")
        lent = False
        try:
            for label in sorted(others, key=asked.index):
                began = time.monotonic()
                while (coming := self._start(label)) is not None:
                    while not coming.done.done() and not self._is_late(coming):
                        if cancelled():
                            return None
                        seconds = int(time.monotonic() - began)
                        yield waiting(f"Loading {coming.label}, {seconds} s")
                    if coming.label == label:
                        if not coming.done.done():
                            raise ModelLoadError(LATE.format(label=label))
                        coming.done.result()
            with self._lock:
                models = [self._own if label not in others else self._loaded[label] for label in asked]
            lent = True
            return Loan(models, lambda: self._give_back(others, hold))
        finally:
            if not lent:
                self._give_back(others, hold)

    def require_listed(self, label: Any) -> str:
        """Return the label of a model that is listed.

        Raises:
            CaseError: It is not.
        """
        if not isinstance(label, str) or label not in self._listed:
            note("refused", why="model")
            raise CaseError(f"This page has no such model. Choose one of its list: {', '.join(self.labels)}.")
        return label

    def _take(self, labels: set[str], hold: bool) -> bool:
        """Take places for models unless too many others are lent, or on their way to somebody who waits for them."""
        with self._lock:
            places = {label for label, times in self._lent.items() if times} | labels
            if not hold and len(places - set(+self._held)) > self._most:
                return False
            self._lent.update(labels)
            self._held.update(labels if hold else ())
            return True

    def _give_back(self, labels: set[str], hold: bool) -> None:
        with self._lock:
            self._lent.subtract(labels)
            self._held.subtract(labels if hold else ())
            self._used |= dict.fromkeys(labels, self._now())

    def _is_late(self, coming: Coming) -> bool:
        return self._now() - coming.began >= LONGEST

    def _start(self, label: str) -> Coming | None:
        """Return what is being loaded, this model if none is; ``None`` once it is there."""
        with self._lock:
            if label in self._loaded:
                self._loaded.move_to_end(label)
                return None
            if self._coming is None or self._is_late(self._coming):
                self._coming = Coming(label, self._now(), Future())
                threading.Thread(target=self._load, args=(self._coming,), name="model", daemon=True).start()
            return self._coming

    def _load(self, coming: Coming) -> None:
        label, began = coming.label, time.monotonic()
        try:
            with memory_told():
                model = self._read(self._listed[label])
        except BaseException as error:  # told to everyone who waits for it
            self._end(coming)
            coming.done.set_exception(self._told(self._listed[label], error))
            return
        with self._lock:
            if self._coming is not coming:  # its place was given away, and nobody waits for it any more
                note("model", label=label, outcome="late", seconds=round(time.monotonic() - began, 1))
                return
            self._loaded[label], self._coming, self._used[label] = model, None, self._now()
            idle = [one for one in self._loaded if not self._lent[one]]  # it is one where nobody waits for it any more
            most = self._most + len(+self._held)
            gone = [self._loaded.pop(one) for one in idle[: max(0, len(self._loaded) - most)]]
        note("model", label=label, outcome="loaded", seconds=round(time.monotonic() - began, 1))
        if gone:
            gone.clear()
            give_back_model()
        coming.done.set_result(None)

    def _end(self, coming: Coming) -> None:
        with self._lock:
            if self._coming is coming:  # else its place was given away
                self._coming = None

    def _read(self, one: Listed) -> InspectedModel:
        """Load a model that fits, beside what is in use.

        Raises:
            ModelLoadError: It does not fit, or cannot be loaded.
        """
        source = one.source
        if source is not None and not source.lower().endswith(".gguf") and not self._options.get("device_map"):
            self._make_room(
                one, source
            )  # a .gguf file is measured where it is read, a spread model takes what there is
        model = load(source, **self._options)
        if self._named:
            model.name, model.public = one.label, True
        return model

    def _make_room(self, one: Listed, source: str) -> None:
        how = {name: self._options.get(name, "auto") for name in ("device", "dtype")}
        where = str(embedded.ensure()) if source == "embedded" else source
        config = configuration(where, self._options.get("revision"))
        need = predicted(config, where, **how, paths=self._options.get("paths"))
        device = chosen_device(how["device"])
        while (wanted := need.read + RESERVE - free_memory(device)) > 0:
            if not self._let_one_go(device, wanted):
                free = max(0, free_memory(device) - RESERVE)
                ways = remedies(config, need.dtype, free, device)
                started = f", or start the page with {' or '.join(ways)}" if ways else ""
                raise ModelLoadError(
                    f"{one.label} in {need.dtype} needs {in_gb(need.read)} GB on {device.type}, {in_gb(free)} are free "
                    f"beside what is loaded and what runs need. Choose another model of the list{started}."
                )

    def _let_one_go(self, device: torch.device, wanted: int) -> bool:
        """Let the model go that is unused longest, if all that nobody uses would make enough room."""
        with self._lock:
            idle = [label for label in self._loaded if not self._lent[label]]
            held = sum(_held_on(device, self._loaded[label]) for label in idle)
            if not idle or held < wanted:
                return False
            del self._loaded[idle[0]]
        note("model", label=idle[0], outcome="released", seconds=0.0)
        give_back_model()
        return True

    def _told(self, one: Listed, error: BaseException) -> BaseException:
        """Return an error as visitors may read it; the operator is told the whole."""
        if not isinstance(error, InspectorError):  # a defect; who waits is told a number, and perhaps nobody does
            why, at = type(error).__name__, places(error.__traceback__)
            note("model", logging.ERROR, label=one.label, outcome="failed", why=why, at=at)
            return error
        note("model", logging.ERROR, label=one.label, outcome="failed", why=error.operator_message())
        if isinstance(error, OutOfMemory):
            said = f"{one.label} does not fit into the memory that is left. Choose another model of the list."
        else:
            said = without_paths(error.user_message(), one)
            said = said if one.label in said else f"{one.label} was not loaded. {said}"
        made = ModelLoadError(said, error.operator_message())
        made.__cause__ = error
        return made


def _held_on(device: torch.device, model: InspectedModel) -> int:
    """Return the bytes of a model on a device; ``cuda`` without a number is the one card that all of a page go to."""
    return sum(
        size
        for place, size in bytes_of(model.network).items()
        if place == device or (device.index is None and place.type == device.type)
    )


def listed(sources: Sequence[str | None]) -> list[Listed]:
    """Return the list that visitors choose from: each source once, labels that are its own."""
    found: dict[str, Listed] = {}
    for source in dict.fromkeys(sources):
        name, number = label_of(source), 2
        label = name
        while label in found:
            label, number = f"{name} ({number})", number + 1
        found[label] = Listed(label, source)
    return list(found.values())


def label_of(source: str | None) -> str:
    """Return what visitors read of a source: a hub id, or the last part of a path."""
    if source is None or source == "embedded":
        return embedded.NAME
    if HUB_ID.fullmatch(source) and not os.path.exists(source):
        return source
    return os.path.basename(os.path.abspath(os.path.expanduser(source))) or "a model"


def without_paths(text: str, one: Listed) -> str:
    """Return a text of an error with the model's label where its source stands, and no other path of this machine."""
    if one.source is not None and one.source != one.label:
        given = os.path.expanduser(one.source)
        for path in sorted({one.source, given, os.path.abspath(given), os.path.realpath(given)}, key=len, reverse=True):
            text = re.sub(rf"(?<![\w./\\-]){re.escape(path)}(?![\w/\\-])", lambda _: one.label, text)
    return PATH.sub("(a path)", text)
