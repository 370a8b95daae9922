"""Gradio's own copies of what stands on a page: how many there may be, and that they go with the visitor.

Gradio keeps the configuration of every page that it has seen, changed values among it, and what an event has sent until
a browser takes it. Left alone that is 10,000 pages, for as long as the program runs.
"""

from __future__ import annotations

import weakref
from typing import Any

COPIES = 200
"""Pages whose configuration Gradio keeps; the longest unseen go first."""


class Copies:
    """What Gradio keeps of the pages of one app.

    Args:
        app: Gradio's ``Blocks``.
    """

    def __init__(self, app: Any) -> None:
        self._app = weakref.ref(app)

    def forget(self, page: str) -> None:
        """Delete what Gradio keeps of a page: its values, messages that nobody has taken, the names of its events.

        Args:
            page: Gradio's session hash.
        """
        app = self._app()
        if app is None:
            return
        holder = getattr(app, "state_holder", None)
        if holder is not None:
            holder.session_data.pop(page, None)
            holder.time_last_used.pop(page, None)
        queue = app._queue
        if any(event.session_hash == page for event in list(queue.event_ids_to_events.values())):
            return  # something still runs that will want to tell its end
        queue.pending_messages_per_session.pop(page, None)
        queue.pending_event_ids_session.pop(page, None)
