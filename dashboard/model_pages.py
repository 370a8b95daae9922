"""The pages of the listed models: the first one's is always there, another one's is made when somebody chooses it.

Every step of a page works on the page's own model, so a model that is chosen gets a page of its own, with visitors,
edits and links of its own. It stays while anybody has it open or has done something there that is kept, and until its
calibration has ended, unless somebody needs its place; it gives its model back when it closes.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from dashboard.kit.notes import note
from dashboard.kit.room import Context
from dashboard.kit.running.building import built_apart
from dashboard.kit.running.queue import Elsewhere
from dashboard.kit.sharing.links import Links
from dashboard.kit.shelf import IDLE, KEPT, Shelf
from dashboard.mounting import BELOW, Mounts
from inspector.errors import CaseError
from inspector.model import InspectedModel

ON_THEIR_WAY = 30.0
"""Seconds within which a browser comes to the page of a model that was chosen: for so long it makes no room for another
one."""


@dataclass(frozen=True, eq=False)
class ModelPage:
    """One model's page.

    Attributes:
        label: The model's, on the operator's list.
        app: Gradio's ``Blocks``.
        context: What its rooms have at hand.
        stop: Ends what is made behind it: a calibration, an example.
        loan: Gives its model back.
        calibrating: Whether its model is being calibrated behind it.
    """

    label: str
    app: Any
    context: Context
    stop: Callable[[], None] = lambda: None
    loan: ExitStack = field(default_factory=ExitStack)
    calibrating: Callable[[], bool] = lambda: False


class ModelPages:
    """All pages of one program.

    Args:
        first: The page that is launched.
        shelf: Lends the models.
        make: Builds a page for a model: called with its label, the model and where its links are kept.
        options: What pages are launched with, see :func:`dashboard.page.launch_options`; called with a model.
        links_for: Seconds for which links are kept.
        most: Pages that may be open beside the first one.
        now: The clock, seconds.
    """

    def __init__(
        self,
        first: ModelPage,
        shelf: Shelf,
        make: Callable[[str, InspectedModel, Links], ModelPage],
        options: Callable[[InspectedModel], dict[str, Any]],
        links_for: float,
        most: int = KEPT,
    ) -> None:
        self.first, self._shelf, self._make, self._options, self._most = first, shelf, make, options, most
        self.mounts = Mounts(first.app)
        self.mounts.at_end = self.close_all
        self.slugs = slugs_of(shelf.labels)
        self.mounts.listed = frozenset(self.slugs.values())
        self._links: dict[str, Links] = {}
        self._links_for = links_for
        self._open: dict[str, ModelPage] = {}
        self._lock = threading.RLock()

    @property
    def labels(self) -> list[str]:
        """What can be chosen, the first page's model first."""
        return self._shelf.labels

    @property
    def open(self) -> list[str]:
        """Whose pages are open beside the first one."""
        with self._lock:
            return list(self._open)

    def address(self, label: str) -> str:
        """Return where a model's page is, below the first one's address."""
        return "" if label == self.first.label else f"{BELOW}{self.slugs[label]}/".lstrip("/")

    def opened(
        self,
        label: Any,
        cancelled: Callable[[], bool] = lambda: False,
        say: Callable[[str], Any] = str,
    ) -> Generator[Any, None, ModelPage | None]:
        """Open the page of a model, which is loaded for it; one that is open is returned at once.

        Args:
            cancelled: Whether to wait no longer.
            say: Turns how far it is into what is shown.

        Yields:
            :class:`Elsewhere` until it is there: whoever stands in line behind goes first.

        Returns:
            ``None`` if it was cancelled.

        Raises:
            CaseError: It is not listed, or as many pages are open as may be.
            ModelLoadError: It cannot be loaded, or does not fit. Nothing else has changed.
        """
        label = self._shelf.require_listed(label)
        known = self._known(label)
        if known is not None:
            return known
        self._require_place(label)
        loan = yield from self._shelf.lend([label], cancelled, say, hold=True)
        if loan is None:
            return None
        with ExitStack() as stack:
            (model,) = stack.enter_context(loan)
            yield Elsewhere(say(f"Building the page of {label}"))
            with self._lock:
                known = self._known(label)  # who has asked at the same time may have built it
                if known is not None:
                    return known
                self._require_place(label)
                return self._built(label, model, stack)

    def sweep(self, unused: float = IDLE) -> None:
        """Close the pages that nobody has open, where nothing runs, is kept for anybody or is calibrated.

        Args:
            unused: Seconds for which nobody has been there.
        """
        for page in list(self._open.values()):
            page.context.sessions.sweep()
            if not page.calibrating():
                self._close(page, unused)

    def close_all(self) -> None:
        """Close every page but the first one, whoever is there: the program ends."""
        for page in list(self._open.values()):
            self._close(page)

    def _known(self, label: str) -> ModelPage | None:
        """Return a page that is open, which whoever asks for it is on the way to."""
        with self._lock:
            if label == self.first.label:
                return self.first
            known = self._open.get(label)
            if known is not None:
                known.context.sessions.expect()
            return known

    def _require_place(self, label: str) -> None:
        if len(self.open) >= self._most:
            self.sweep(ON_THEIR_WAY)
        for page in list(self._open.values()):  # people go before a calibration, which loses what it has found so far
            if len(self.open) >= self._most:
                self._close(page, ON_THEIR_WAY)
        if len(self.open) >= self._most:
            note("refused", why="model pages")
            raise CaseError(
                f"{label} cannot be chosen now: {' and '.join(self.open)} are open beside {self.first.label}, and no "
                "more are at once. Choose one of these, or try again when nobody works there any more."
            )

    def _built(self, label: str, model: InspectedModel, stack: ExitStack) -> ModelPage:
        began = time.monotonic()
        if label not in self._links:
            self._links[label] = Links(self._links_for, beside=self.first.context.links)
        made = built_apart(lambda: self._make(label, model, self._links[label]))
        try:
            built_apart(lambda: self.mounts.open(self.slugs[label], made.app, self._options(model)))
        except BaseException:
            made.stop()
            made.context.sessions.end()
            raise
        made.loan.push(stack.pop_all())
        self._open[label] = made
        made.context.sessions.expect()  # building it took its time
        note("model page", label=label, outcome="opened", seconds=round(time.monotonic() - began, 1))
        return made

    def _close(self, page: ModelPage, unused: float | None = None) -> None:
        """Close a page; see :meth:`Sessions.end` for whom it stays open."""
        with self._lock:
            if self._open.get(page.label) is not page or not page.context.sessions.end(unused):
                return
            del self._open[page.label]
            self.mounts.close(self.slugs[page.label])  # within the lock: a new one may stand there a moment later
        page.stop()
        page.loan.close()
        note("model page", label=page.label, outcome="closed", seconds=0.0)


def slugs_of(labels: list[str]) -> dict[str, str]:
    """Return what stands for each label in an address: letters, digits, dots and dashes, each its own."""
    found: dict[str, str] = {}
    for label in labels:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.").lower() or "model"
        slug, number = plain, 2
        while slug in found.values():
            slug, number = f"{plain}-{number}", number + 1
        found[label] = slug
    return found
