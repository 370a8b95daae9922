"""What cannot be captured as a CUDA graph runs as it is; no CUDA device is needed to see that."""

from __future__ import annotations

import threading
import warnings
from contextlib import nullcontext, suppress

import pytest
import torch

from inspector.model.memory.halving import when_memory_runs_out
from inspector.model.passes import graphs


class Holder:
    """Holds memory that nobody uses just now."""

    def __init__(self) -> None:
        self.given = 0

    def give(self) -> None:
        self.given += 1


@pytest.mark.parametrize(
    ("error", "given"),
    [(torch.OutOfMemoryError("CUDA out of memory."), 2), (RuntimeError("operation not permitted when capturing"), 0)],
)
def test_a_capture_that_fails_leaves_the_work_and_gives_back_what_it_took(monkeypatch, error, given):
    holder = Holder()
    when_memory_runs_out(holder.give)

    def failing(*_given):
        raise error

    monkeypatch.setattr(graphs, "Graph", failing)
    with pytest.warns(UserWarning, match=r"A step cannot be captured .* and runs step by step"):
        run = graphs.captured(lambda: 7, torch.device("cuda"), "A step", holder)
    assert run() == 7 and holder.given == given


def test_a_capture_that_runs_out_of_memory_is_made_once_more_with_what_others_have_given_back(monkeypatch):
    holder = Holder()
    when_memory_runs_out(holder.give)

    class Large:
        def __init__(self, work, *_given) -> None:
            if not holder.given:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            self.replay = lambda: -work()

    monkeypatch.setattr(graphs, "Graph", Large)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = graphs.captured(lambda: 7, torch.device("cuda"), "A step", holder)
    assert run() == -7 and holder.given == 1


def test_a_kind_of_work_that_fails_twice_in_a_row_is_not_captured_again(monkeypatch):
    working = iter((False, True, False, False, True, True))
    tried: list[bool] = []

    class Captured:
        def __init__(self, work, *_given) -> None:
            tried.append(next(working))
            if not tried[-1]:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.replay = work

    def capture(what: str = "A step", of: object = None) -> None:
        graphs.captured(lambda: 7, torch.device("cuda"), what, of or owner)

    monkeypatch.setattr(graphs, "Graph", Captured)
    owner, other = Holder(), Holder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(6):
            capture()
        assert tried == [False, True, False, False], "one failure is tried again, two in a row are not"
        capture("A pass")
        capture(of=other)
    assert tried[4:] == [True, True], "another kind of work, and another owner's, may be captured as before"


def test_why_a_capture_failed_is_told_and_not_that_it_did(monkeypatch):
    class Broken:
        def capture_begin(self, **_options) -> None: ...

        def capture_end(self) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    def work():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Broken)
    monkeypatch.setattr(graphs, "beside", lambda _device: nullcontext())
    with pytest.raises(torch.OutOfMemoryError):
        graphs.Graph(work, torch.device("cuda"))
    with pytest.raises(RuntimeError, match="previous error"):
        graphs.Graph(lambda: 7, torch.device("cuda"))
    assert not graphs.warm(torch.device("cuda"))


def test_graphs_that_take_turns_share_the_first_one_s_memory_but_never_that_of_a_failed_capture(monkeypatch):
    begun: list[object] = []

    class Taken:
        def capture_begin(self, pool=None, **_options) -> None:
            begun.append(pool)
            self._pool = pool or f"memory {len(begun)}"

        def capture_end(self) -> None: ...

        def pool(self):
            return self._pool

    def broken():
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Taken)
    monkeypatch.setattr(graphs, "beside", lambda _device: nullcontext())
    monkeypatch.setattr(graphs, "_WARM", set())
    device, pool = torch.device("cuda"), graphs.Pool()
    for work in (int, int, broken, int, int):
        with suppress(RuntimeError):
            graphs.Graph(work, device, pool)
    graphs.Graph(int, device)
    assert begun == [None, "memory 1", "memory 1", None, "memory 4", None]


def test_what_runs_beside_on_a_device_keeps_captures_of_other_models_waiting(monkeypatch):
    class Stream:
        def wait_stream(self, _other) -> None: ...

    def captures() -> None:
        taken = graphs.CAPTURING.acquire(blocking=False)
        found.append(taken)
        if taken:
            graphs.CAPTURING.release()

    def elsewhere() -> bool:
        thread = threading.Thread(target=captures)
        thread.start()
        thread.join()
        return found.pop()

    found: list[bool] = []
    monkeypatch.setattr(graphs, "side_stream", lambda _device: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: nullcontext())
    with graphs.beside(torch.device("cuda", 0)):
        assert not elsewhere()
    assert elsewhere()
