"""What is kept and used again is asked for in one step: another thread may let it go between two."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

import torch
from evicting import evicting

from inspector.model.memory.recent import Recent
from inspector.model.patches import routing
from inspector.model.patches.detector import Detector


class Interrupted:
    """A key while which is looked up another thread puts something in, unless it has to wait."""

    meanwhile: threading.Thread | None = None

    def __hash__(self) -> int:
        thread, self.meanwhile = self.meanwhile, None
        if thread is not None:
            thread.start()
            thread.join(0.2)
        return 1


def test_what_is_asked_for_is_not_let_go_while_it_is_handed_out():
    kept, key = Recent[object, str](1), Interrupted()
    kept[key] = "first"
    key.meanwhile = other = threading.Thread(target=kept.__setitem__, args=("other", "second"))
    assert kept.get(key) == "first"
    other.join()
    assert kept.get(key) is None and kept.get("other") == "second" and len(kept) == 1


def test_what_is_asked_for_is_the_last_one_to_go():
    kept = Recent[str, int](2)
    kept["a"], kept["b"] = 1, 2
    assert kept.get("a") == 1
    kept["c"] = 3
    assert list(kept) == ["a", "c"] and kept.popitem(last=False) == ("a", 1)


def test_states_of_a_prompt_that_are_let_go_meanwhile_are_read_again(llama, monkeypatch):
    monkeypatch.setattr(routing, "_KEPT", WeakKeyDictionary())
    detector = Detector((0, 1), torch.ones(2, 32), 0.0, 0.0, llama.fingerprint, window=5)
    prompts = [[1, 5, 9], [1, 5, 9, 33, 7]]
    first = routing.scores(llama, detector, prompts, keep=[True, True])
    routing._KEPT[llama] = evicting(routing._KEPT[llama])
    assert routing.scores(llama, detector, prompts, keep=[True, True]) == first
