"""The model's lock goes to whoever has waited longest."""

from __future__ import annotations

import threading
import time

import pytest

from inspector.model.fair_lock import FairLock


def test_it_is_re_entrant_and_only_its_owner_releases_it():
    lock, refused = FairLock(), []
    with lock, lock:
        assert lock._is_owned()

        def other() -> None:
            refused.append(lock.acquire(blocking=False))
            with pytest.raises(RuntimeError, match="has not taken"):
                lock.release()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(5)
    assert refused == [False] and not lock._is_owned()
    assert lock.acquire(blocking=False)
    lock.release()


def test_who_takes_it_for_every_step_lets_those_who_wait_go_first():
    lock, steps, waited = FairLock(), [0], []
    ended = threading.Event()

    def long_run() -> None:
        while not ended.is_set():
            with lock:
                time.sleep(0.002)
                steps[0] += 1

    def short_work() -> None:
        for _ in range(5):
            before = steps[0]
            with lock:
                waited.append(steps[0] - before)

    runner, visitor = threading.Thread(target=long_run), threading.Thread(target=short_work)
    runner.start()
    time.sleep(0.02)
    visitor.start()
    visitor.join(10)
    ended.set()
    runner.join(10)
    assert len(waited) == 5 and max(waited) <= 2, "at most the step that runs, and one that had asked before"


def test_threads_get_it_in_the_order_in_which_they_ask():
    lock, order, threads = FairLock(), [], []

    def take(number: int) -> None:
        with lock:
            order.append(number)

    with lock:
        for number in range(6):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(lock._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert order == list(range(6))
