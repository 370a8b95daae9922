"""What one visitor has done: their case, their edits, and a slot for each step. The model is shared, this is not."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from dashboard.kit.limits import Limits
from dashboard.kit.notes import note
from editing import EditResult
from inspector.errors import CaseError
from inspector.model import VANILLA, Detector, Patch, PromptFormat, Row
from inspector.model.memory.recent import forget_visits
from inspector.safeedit import Case
from inspector.toxicity import Probe

Slot = TypeVar("Slot")


@dataclass(frozen=True, eq=False)
class LiveEdit:
    """A finished edit with the case it was made for.

    Attributes:
        case: The case.
        result: What the method returned.
        below: Cases of the edits that it was made on top of, the earliest first; a file of an earlier version does
            not say them.
    """

    case: Case
    result: EditResult
    below: tuple[Case, ...] = ()

    @property
    def patch(self) -> Patch:
        """The edit's patch; a cancelled edit, which has none, never becomes live."""
        assert self.result.patch is not None
        return self.result.patch

    @property
    def format(self) -> PromptFormat:
        """The prompt format that it was made in, and is asked in."""
        return self.patch.format

    def row(self, strength: float = 1.0) -> Row:
        """Return the weights of this edit at a strength."""
        return Row(self.patch, strength)


FOLDER = "dinm-inspector-"
"""Names of visitors' folders begin so."""
HISTORY = 5
"""Edits kept for Undo."""
LARGEST_HISTORY = 2**30
"""Bytes that they may take together; the live one is kept whatever its size."""


@dataclass
class Session:
    """State of one visitor; what a step keeps of them is its own slot.

    Attributes:
        case: The case of the last Locate.
        format: The prompt format it was located with.
        edits: Edits made, the live one last. Each starts from vanilla, or is the stack of those that it was made on.
        strength: Factor on the live patch.
        strengths: Factor on each patch when it was live last, by its identifier; a patch without an entry has 1.
        detector: The live patch acts only where it fires; ``None`` for on every prompt.
        probe: The toxicity probe of the base model that is used for them.
        folders: What is handed out, a folder of its own for each kind; they go with the session.
        closing: Called when the session ends.
        cancelled: Set to end the visitor's running work.
        started: Whether the session has its first content.
        own: Whether the visitor has run anything: the example is not shown over it any more.
        fresh: The parts of the example that have just come onto the page that is drawn, see :meth:`drawn_with`.
        controls: What stood last in each control that a reload brings back, by component.
        shapes: Which values such a control takes, where an event has set that: its range or its choices.
        linked: The controls that the last link has filled, a set of its own for each link.
        typed: Bytes that these take, counted where they are kept.
        page: The page, by Gradio's hash, that what runs belongs to.
        queued: Whether a program's run stands in line.
        passing: It is of one call of a tool: nobody finds it again, and nothing is noted of it.
        broken: The last run was ended before its own end because its page had gone.
        undrawn: A page was told that it is drawn anew, and was not yet: its own session is gone, or it came late.
        began_empty: It took the place of a program's that is gone, and began with nothing.
        edited: A run of it has changed what is live.
        said: What its page is told when it is opened.
        runs: How many runs it has had.
        last_seen: When its visitor was last there, by the clock of the store.
        bytes: What it holds beside the controls and nobody else does, as last weighed.
        limits: What its visitor may ask.
    """

    case: Case | None = None
    format: PromptFormat = PromptFormat()
    edits: list[LiveEdit] = field(default_factory=list)
    strength: float = 1.0
    strengths: dict[str, float] = field(default_factory=dict)
    detector: Detector | None = None
    probe: Probe | None = None
    folders: dict[str, tempfile.TemporaryDirectory] = field(default_factory=dict)
    closing: list[Callable[[], None]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    started: bool = False
    own: bool = False
    fresh: frozenset[str] = frozenset()
    controls: dict[Any, Any] = field(default_factory=dict)
    shapes: dict[Any, dict[str, Any]] = field(default_factory=dict)
    linked: Set[Any] = frozenset()
    typed: int = 0
    page: str | None = None
    queued: bool = False
    passing: bool = False
    broken: bool = False
    undrawn: bool = False
    began_empty: bool = False
    edited: bool = False
    said: str = ""
    runs: int = 0
    last_seen: float = 0.0
    bytes: int = 0
    limits: Limits = field(default_factory=Limits)
    _slots: dict[type, Any] = field(default_factory=dict)
    _busy: threading.Lock = field(default_factory=threading.Lock)
    _gate: threading.Lock = field(default_factory=threading.Lock)
    _drawing: threading.Lock = field(default_factory=threading.Lock)
    _waits: Any = None
    _owned: bool = False

    def slot(self, kind: type[Slot]) -> Slot:
        """Return what a step keeps of this visitor, new on first sight.

        Args:
            kind: The step's own class of it; a method ``live_changed`` is called when other weights are live.
        """
        return self._slots.setdefault(kind, kind())

    def start_from(self, done: Session) -> None:
        """Take over what another session has measured and made; what is done here stays here.

        Of a slot it takes what a new one does not have: what a visitor has picked here and nobody there stays picked.
        """
        self.case, self.format, self.edits, self.probe = done.case, done.format, list(done.edits), done.probe
        self.detector = done.detector
        for kind, kept in done._slots.items():
            self._slots[kind] = replace(self.slot(kind), **_filled(kept))
        self.started = True

    def _other_weights(self, strength: float) -> None:
        self.scale(strength)
        there = {edit.patch.identifier for edit in self.edits}
        self.strengths = {patch: kept for patch, kept in self.strengths.items() if patch in there}
        for kept in self._slots.values():
            if hasattr(kept, "live_changed"):
                kept.live_changed()

    @contextmanager
    def drawn_with(self, fresh: frozenset[str]) -> Iterator[None]:
        """Let parts of the example be the fresh ones, for one page of the visitor after the other."""
        with self._drawing:
            self.fresh = fresh
            try:
                yield
            finally:
                self.fresh = frozenset()

    @property
    def live(self) -> LiveEdit | None:
        """The edit whose patch is live, if any."""
        return self.edits[-1] if self.edits else None

    @property
    def row(self) -> Row:
        """What answers for this visitor: the live patch, perhaps only where harm is detected."""
        return replace(self.weights, detector=self.detector) if self.live else VANILLA

    @property
    def weights(self) -> Row:
        """The live patch as it acts on every prompt: what measurements of weights are made of."""
        return self.live.row(self.strength) if self.live else VANILLA

    def asked_in(self, otherwise: PromptFormat) -> PromptFormat:
        """Return the format that this visitor's weights are asked in: the live edit's own, else ``otherwise``."""
        return self.live.format if self.live else otherwise

    def enqueue(self, asked: Any) -> bool:
        """Let a program's run stand in line; ``False`` if something runs or waits already.

        Args:
            asked: The request that it runs for: :meth:`begin` lets no other one in before :meth:`dequeue`.
        """
        with self._gate:
            if self.busy:
                return False
            self.queued, self._waits = True, asked
            self.cancelled.clear()
            return True

    def dequeue(self) -> None:
        """Hear that the run that stood in line has ended, or has left it."""
        with self._gate:
            self.queued, self._waits = False, None

    def waits_for(self, asked: Any) -> bool:
        """Tell whether it is the run of this request that stands in line."""
        return self.queued and self._waits is asked

    def begin(self, asked: Any = None) -> bool:
        """Reserve this session for one long run; ``False`` if one is running, or waits for another request.

        Args:
            asked: The request that it runs for.
        """
        with self._gate:
            if self.queued and self._waits is not asked:
                return False
            if not self._busy.acquire(blocking=False):
                return False
            if not self.queued:  # else it was cleared when it came, and may have been cancelled since
                self.cancelled.clear()
            self._owned, self.own = self.own, True
            return True

    def end(self, ran: bool = True) -> None:
        """Release what :meth:`begin` reserved.

        Args:
            ran: Whether anything was done; else it is no run that other windows have to be drawn anew after, and the
                session is no more the visitor's own than before.
        """
        if not ran:
            self.own = self._owned
        self.runs += ran
        self._busy.release()

    @property
    def busy(self) -> bool:
        """Whether something runs or waits for the visitor."""
        return self.queued or self._busy.locked()

    @property
    def slots(self) -> list[Any]:
        """What the steps keep of this visitor."""
        return list(self._slots.values())

    def close(self) -> None:
        """End what runs, delete what is on disk, and tell whoever keeps something of it elsewhere."""
        self.cancelled.set()
        with ExitStack() as all_of_it:  # what fails keeps nothing else from being done
            if self.own:
                all_of_it.callback(forget_visits)
            for tell in self.closing:
                all_of_it.callback(tell)
            for folder in list(self.folders.values()):
                all_of_it.callback(folder.cleanup)

    def add(self, edit: LiveEdit) -> None:
        """Make an edit the live one, at strength 1; one that was live before comes up again and is not kept twice."""
        self.edits = [*(kept for kept in self.edits if kept.patch.deltas is not edit.patch.deltas), edit][-HISTORY:]
        while len(self.edits) > 1 and sum(kept.patch.bytes for kept in self.edits) > self._history:
            self.edits = self.edits[1:]
        self._other_weights(1.0)

    @property
    def _history(self) -> int:
        return min(LARGEST_HISTORY, self.limits.stored)

    def require_room(self) -> None:
        """Refuse more work for a visitor whose edits and results take all that they may.

        Raises:
            CaseError: They do; it says what gives room.
        """
        if self.bytes > self.limits.stored:
            note("refused", why="stored")
            raise CaseError(
                f"Your edits and results take {self.bytes / 2**20:,.0f} MiB, {self.limits.stored / 2**20:,.0f} MiB are "
                "allowed here. Press Undo, or delete rows in Keep, until enough is free."
            )

    def drop_folder(self, kind: str) -> None:
        """Delete the folder of a kind, if there is one."""
        before = self.folders.pop(kind, None)
        if before is not None:
            before.cleanup()

    @contextmanager
    def next_folder(self, kind: str) -> Iterator[Path]:
        """Give an empty folder of this visitor's own; it takes the place of the one before when the block ends.

        An error leaves the one before, with what is in it, and so does a block that puts nothing into the new one. It
        goes with the session.
        """
        made = _made_folder()
        try:
            yield Path(made.name)
        except BaseException:
            made.cleanup()
            raise
        if not any(Path(made.name).iterdir()):
            made.cleanup()
            return
        self.drop_folder(kind)
        self.folders[kind] = made

    def scale(self, strength: float) -> None:
        """Set the factor on the live patch.

        Raises:
            PatchError: It is out of range.
        """
        self.strength = Row(strength=strength).strength
        if self.live is not None:
            self.strengths[self.live.patch.identifier] = self.strength

    def strength_of(self, edit: LiveEdit) -> float:
        """Return the factor on an edit's patch, as it is or as it was when the edit was live last."""
        return self.strengths.get(edit.patch.identifier, 1.0)

    def undo(self) -> LiveEdit | None:
        """Drop the live edit and return the one that is live now at the strength that it had, if any."""
        self.edits = self.edits[:-1]
        self._other_weights(1.0 if self.live is None else self.strength_of(self.live))
        return self.live


def _filled(slot: Any) -> dict[str, Any]:
    """Return the fields of a slot in which something else stands than in a new one, by name."""
    new, known = type(slot)(), {part.name: getattr(slot, part.name) for part in fields(slot) if part.init}
    return {name: value for name, value in known.items() if value != getattr(new, name)}


def _made_folder() -> tempfile.TemporaryDirectory:
    """Make a folder that only this user can read, under a name that no visitor guesses.

    It lies where the server hands files out as they are: of a file elsewhere Gradio makes a copy, which does not go
    with the visitor, and makes it within the one loop that serves everyone.
    """
    where = os.environ.get("GRADIO_TEMP_DIR")
    if where:
        os.makedirs(where, exist_ok=True)
    name = f"{FOLDER}{secrets.token_urlsafe(18)}-"
    return tempfile.TemporaryDirectory(prefix=name, dir=where or None, ignore_cleanup_errors=True)
