"""What the first edit needs and no case has a part in, done in the background of an open page that nobody works on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from dashboard.kit.running.queue import Line
from editing.gate.beforehand import get_ready
from editing.memory import memory_told
from inspector.errors import InspectorError
from inspector.model import Detector, InspectedModel


class Beforehand:
    """:func:`editing.gate.beforehand.get_ready` in a thread, behind everybody in the line of long runs.

    What fails here costs the first edit its time and nothing else.

    Args:
        model: The model.
        detector: Its detector.
        block: Its recommended layer; ``None`` for none.
    """

    def __init__(self, model: InspectedModel, detector: Detector | None, block: int | None) -> None:
        self._model, self._detector, self._block = model, detector, block
        self._stopped, self._ended = threading.Event(), threading.Event()
        self.line = Line()
        """The line of long runs behind which it is done."""

    def start(self, after: Callable[[], object]) -> None:
        """Begin; the thread ends with the program.

        Args:
            after: Waits for what goes first.
        """
        threading.Thread(target=self._run, args=(after,), name="beforehand", daemon=True).start()

    def stop(self) -> None:
        """End it within one step."""
        self._stopped.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; tells whether it has come."""
        return self._ended.wait(seconds)

    def _run(self, after: Callable[[], object]) -> None:
        try:
            after()
            self.line.give_way(self._stopped.is_set)
            with memory_told():
                for _ in get_ready(self._model, self._detector, block=self._block, cancel=self._stopped.is_set):
                    self.line.give_way(self._stopped.is_set)
        except InspectorError as error:
            print(f"Not made ready for the first edit: {error.operator_message()}", file=sys.stderr)
        finally:
            self._ended.set()
