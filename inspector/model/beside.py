"""Something that is done in a thread of its own while the one that wants it does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Beside(Generic[Made]):
    """A call that has begun; whoever wants its result waits for it.

    Args:
        work: What is called, without arguments. A program that ends does not wait for it.
        name: Of the thread.
    """

    def __init__(self, work: Callable[[], Made], name: str) -> None:
        self._work, self._made = work, list[Made]()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def result(self) -> Made:
        """Wait for the end and return what the call has returned.

        Raises:
            BaseException: Whatever the call has raised.
        """
        self.wait()
        if self._error is not None:
            raise self._error
        return self._made[0]

    def wait(self) -> None:
        """Wait for the end, whatever it is."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._made.append(self._work())
        except BaseException as error:
            self._error = error
