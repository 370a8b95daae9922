"""Numbers for Prometheus, on a port of their own: the line, waits, memory, visitors, refusals; no texts."""

from __future__ import annotations

import logging
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from dashboard.kit.notes import LOGGER

WAITS = (0.1, 1, 5, 15, 60, 300, 900)
"""Bounds of the classes of waits and runs, seconds."""


class Metrics(logging.Handler):
    """Counts the events of :mod:`dashboard.kit.notes` and looks at a page when it is asked.

    Args:
        page: The page, as :func:`dashboard.page.build_app` returns it.
    """

    def __init__(self, page: Any) -> None:
        super().__init__(logging.INFO)
        self.registry = CollectorRegistry()
        self._waits = Histogram(
            "dinm_wait_seconds",
            "Time in line before a run's first step",
            ["kind"],
            buckets=WAITS,
            registry=self.registry,
        )
        self._runs = Histogram(
            "dinm_run_seconds", "Time that a run has used", ["kind", "outcome"], buckets=WAITS, registry=self.registry
        )
        self._refused = Counter("dinm_refused", "Requests and runs that were refused", ["why"], registry=self.registry)
        self._told = Counter("dinm_told", "Errors that visitors were told of", ["error"], registry=self.registry)
        self._defects = Counter("dinm_defects", "Errors of this program", ["error"], registry=self.registry)
        self._lost = Counter(
            "dinm_sessions_lost", "Sessions with work in them that were let go", registry=self.registry
        )
        process = psutil.Process()
        for name, words, look in (
            ("dinm_line_runs", "Runs that stand in line, the one whose turn it is among them", lambda: len(page.line)),
            ("dinm_sessions", "Visitors whose session is kept", lambda: sum(map(len, page.guard.sessions.stores))),
            (
                "dinm_session_bytes",
                "What their edits and results hold",
                lambda: sum(store.bytes for store in page.guard.sessions.stores),
            ),
            ("dinm_resident_bytes", "Memory of the whole program", lambda: process.memory_info().rss),
        ):
            Gauge(name, words, registry=self.registry).set_function(look)

    def emit(self, record: logging.LogRecord) -> None:
        """Count an event."""
        told, event = getattr(record, "told", {}), record.getMessage()
        if event == "run":
            self._waits.labels(told["kind"]).observe(told["waited"])
            self._runs.labels(told["kind"], told["outcome"]).observe(told["seconds"])
        elif event == "refused":
            self._refused.labels(told["why"]).inc()
        elif event == "told":
            self._told.labels(told["error"]).inc()
        elif event == "defect":
            self._defects.labels(told["error"]).inc()
        elif event == "lost session":
            self._lost.inc()


def serve_metrics(page: Any, host: str, port: int) -> Any:
    """Count what happens from now on and answer Prometheus at an address that visitors need not reach.

    Returns:
        A function that ends it.

    Raises:
        OSError: The port cannot be had.
    """
    counts = Metrics(page)
    server, thread = start_http_server(port, host, registry=counts.registry)
    LOGGER.addHandler(counts)

    def end() -> None:
        LOGGER.removeHandler(counts)
        server.shutdown()
        server.server_close()
        thread.join()

    return end
