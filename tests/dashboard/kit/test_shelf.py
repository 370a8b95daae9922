"""The shelf of listed models: nothing else is lent, few stay in memory, what fails or is left changes nothing."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from dashboard_helpers import Clock, tiny_model

from dashboard.kit import shelf as module
from dashboard.kit.notes import LOGGER
from dashboard.kit.running.fetching import LONGEST
from dashboard.kit.running.queue import Elsewhere, Line
from dashboard.kit.shelf import Shelf, label_of, listed, without_paths
from editing.memory import memory_told
from inspector.errors import CaseError, ModelLoadError, OutOfMemory
from inspector.model import InspectedModel, embedded, from_parts
from inspector.model.memory.memory_need import MemoryNeed


class Loads:
    """Stands for loading: remembers what was asked, waits where it is told to, and fails for what is called broken."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.at_once = self.most_at_once = 0
        self.let = threading.Event()
        self.let.set()
        self.hang: dict[str, threading.Event] = {}
        self.free, self.need = 100, 10

    def __call__(self, source: str, **_options: Any) -> InspectedModel:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.names.append(source)
            assert self.hang.pop(source, self.let).wait(20)
            if "broken" in source:
                raise ModelLoadError(f"The folder '{source}' holds no model: no file in {source}/config.json. Look.")
            if "defect" in source:
                raise IndexError("a secret")
            if "heavy" in source:
                raise OutOfMemory("The device ran out of memory. Shorten the prompt.")
            return from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), source)
        finally:
            self.at_once -= 1


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loads]:
    stand_in = Loads()
    monkeypatch.setattr(module, "load", stand_in)
    monkeypatch.setattr(module, "configuration", lambda *_: None)
    monkeypatch.setattr(module, "predicted", lambda *_, **__: MemoryNeed("float32", stand_in.need, 0, 0, 0))
    monkeypatch.setattr(module, "remedies", lambda *_: ["--dtype bfloat16", "--device-map auto"])
    monkeypatch.setattr(module, "free_memory", lambda _: stand_in.free)
    monkeypatch.setattr(module, "RESERVE", 0)
    monkeypatch.setattr(module, "give_back_model", lambda: None)  # it collects, which has tests elsewhere
    yield stand_in
    stand_in.let.set()


def shelf_of(*others: str, kept: int = 2) -> Shelf:
    return Shelf(tiny_model(), ["own/model", *others], kept=kept)


def ended(run: Any) -> Any:
    """Run a loan to its end and return it."""
    while True:
        try:
            assert isinstance(next(run), Elsewhere)
            time.sleep(0.001)  # what loads has its turn
        except StopIteration as end:
            return end.value


def lent(shelf: Shelf, *labels: str) -> None:
    """Borrow models and give them back."""
    with ended(shelf.lend(labels)):
        pass


def waited_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(400):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen")


def test_visitors_read_labels_and_never_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "runs" / "merged").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    sources = [None, "org/model", "runs/merged", str(tmp_path / "runs" / "merged"), "~/secret/x.gguf", "org/model"]
    assert [one.label for one in listed(sources)] == [embedded.NAME, "org/model", "merged", "merged (2)", "x.gguf"]
    for wrong in ("/no/such/folder", "~nobody/model", "a" * 5000, "no\0thing", "..", "/"):
        assert label_of(wrong) and "/" not in label_of(wrong), "a wrong name costs nothing at the start"


def test_only_what_is_listed_is_lent_and_the_page_s_own_needs_no_loading(loads):
    shelf = shelf_of("org/b")
    for wrong in ("org/c", "/etc/passwd", "", None, 3, ["org/b"]):
        with pytest.raises(CaseError, match=r"no such model. Choose one of its list: own/model, org/b"):
            ended(shelf.lend(["own/model", wrong]))
    with ended(shelf.lend(["own/model", "own/model"])) as models:
        assert models == (tiny_model(), tiny_model())
    assert loads.names == [] and shelf.loaded == []


@pytest.mark.parametrize("named", [True, False])
def test_where_others_come_in_what_is_loaded_bears_its_label_and_is_known_as_public(loads, tmp_path, named):
    shelf = Shelf(tiny_model(), ["own/model", str(tmp_path)], named=named)
    with ended(shelf.lend([tmp_path.name])) as (model,):
        assert (model.name, model.public) == ((tmp_path.name, True) if named else (str(tmp_path), False))


def test_it_is_loaded_when_it_is_first_asked_for_and_once(loads):
    shelf = shelf_of("org/b")
    with ended(shelf.lend(["org/b", "own/model"])) as (first, second):
        assert first.name == "org/b" and second is tiny_model()
    with ended(shelf.lend(["own/model", "org/b"])) as (_, again):
        assert again is first
    assert loads.names == ["org/b"] and shelf.loaded == ["org/b"]


def test_few_stay_and_the_one_unused_longest_goes_and_is_freed(loads):
    shelf = shelf_of("b", "c", "d")
    with ended(shelf.lend(["b"])) as (model,):
        gone = weakref.ref(model.network)
    del model
    lent(shelf, "c")
    lent(shelf, "b")
    lent(shelf, "d")
    assert shelf.loaded == ["b", "d"] and gone() is not None
    lent(shelf, "c")
    gc.collect()
    assert shelf.loaded == ["d", "c"] and gone() is None, "nothing keeps a model that was let go"


def test_one_in_use_never_goes_and_whoever_needs_its_place_waits(loads):
    shelf, stop = shelf_of("b", "c", "d"), threading.Event()
    with ended(shelf.lend(["b", "c"])) as held:
        run = shelf.lend(["d"], stop.is_set)
        assert "waiting until one is free" in next(run).update and next(run).update is None
        assert shelf.loaded == ["b", "c"] and [model.name for model in held] == ["b", "c"]
    assert ended(run).__enter__()[0].name == "d" and set(shelf.loaded) == {"c", "d"}
    with ended(shelf.lend(["b"])):
        stop.set()
        assert ended(shelf.lend(["c"], stop.is_set)) is None, "a wait can be cancelled; d is still lent"


def test_two_runs_that_want_each_other_s_place_do_not_wait_for_ever(loads):
    shelf = shelf_of("b", "c", "d", "e")
    first, second = shelf.lend(["b", "c"]), shelf.lend(["d", "e"])
    next(first), next(second)
    with ended(first):
        assert "waiting" in str(next(second).update or "waiting")
    with ended(second) as models:
        assert [model.name for model in models] == ["d", "e"]


def test_one_is_loaded_at_a_time_and_all_who_want_it_get_the_same(loads):
    shelf, found = shelf_of("b", "c"), []
    loads.let.clear()
    threads = [
        threading.Thread(target=lambda name=name: found.append(ended(shelf.lend([name])).__enter__()[0]))
        for name in ("b", "b", "c")
    ]
    for thread in threads:
        thread.start()
    waited_for(lambda: len(loads.names) == 1)
    loads.let.set()
    for thread in threads:
        thread.join(20)
    assert sorted(loads.names) == ["b", "c"] and loads.most_at_once == 1 and len(set(map(id, found))) == 2


def test_a_load_that_fails_is_told_without_a_path_and_leaves_everything_as_it_was(loads, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)  # caplog reads at the root
    source = "/home/operator/private models/broken"
    shelf = shelf_of("b", source, "/srv/heavy", "defect")
    lent(shelf, "b")
    for _ in range(2):  # it is tried anew
        with pytest.raises(ModelLoadError) as error:
            ended(shelf.lend(["b", "broken"]))
        assert error.value.user_message().startswith("The folder 'broken' holds no model: no file in (a path)")
        assert "home" not in error.value.user_message() and source in error.value.operator_message()
    with pytest.raises(ModelLoadError, match=r"^heavy does not fit into the memory that is left. Choose another"):
        ended(shelf.lend(["heavy"]))
    with pytest.raises(IndexError):  # the page gives it a number
        ended(shelf.lend(["defect"]))
    assert shelf.loaded == ["b"] and loads.names == ["b", source, source, "/srv/heavy", "defect"]
    assert any(source in record.told.get("why", "") for record in caplog.records if hasattr(record, "told"))
    with ended(shelf.lend(["b"])):
        assert shelf._lent["b"] == 1 and shelf._lent["broken"] == 0


def test_no_path_of_this_machine_is_left_in_a_text():
    one = listed(["/srv/models/mine"])[0]
    text = (
        "'/srv/models/mine' is no model (see ~/.cache/hub/x, C:\\Users\\me\\y and ../z/w). Use org/name or --dtype a."
    )
    assert (
        without_paths(text, one)
        == "'mine' is no model (see (a path), (a path) and (a path)). Use org/name or --dtype a."
    )
    assert without_paths("Nothing. At all.", listed(["."])[0]) == "Nothing. At all."
    assert without_paths("See https://hub.co/a/b.", one) == "See https://hub.co/a/b."


def test_what_does_not_fit_is_refused_by_name_with_the_remedy_before_it_is_loaded(loads):
    shelf = shelf_of("b")
    loads.need = 5 * 10**9
    loads.free = 3 * 10**9
    with pytest.raises(ModelLoadError) as error:
        ended(shelf.lend(["b"]))
    assert error.value.user_message() == (
        "b in float32 needs 5 GB on cpu, 3 are free beside what is loaded and what runs need. Choose another model of "
        "the list, or start the page with --dtype bfloat16 or --device-map auto."
    )
    assert loads.names == []


def test_a_model_leaves_room_for_the_runs_beside_it(loads, monkeypatch):
    shelf = shelf_of("b")
    monkeypatch.setattr(module, "RESERVE", 91)
    with pytest.raises(ModelLoadError, match=r"^b in float32 needs .* and what runs need"):
        ended(shelf.lend(["b"]))
    monkeypatch.setattr(module, "RESERVE", 90)
    lent(shelf, "b")
    assert shelf.loaded == ["b"]


def test_what_nobody_uses_goes_after_some_minutes_and_where_memory_runs_out(loads):
    clock = Clock()
    shelf = Shelf(tiny_model(), ["own/model", "b", "c"], now=clock)
    with ended(shelf.lend(["b"])):
        clock.seconds += module.IDLE + 1
        shelf.sweep()
        assert shelf.loaded == ["b"], "it is lent"
    clock.seconds += module.IDLE - 1
    shelf.sweep()
    assert shelf.loaded == ["b"]
    lent(shelf, "c")
    clock.seconds += 1
    shelf.sweep()
    assert shelf.loaded == ["c"]
    with ended(shelf.lend(["b"])), pytest.raises(OutOfMemory), memory_told():
        raise MemoryError
    assert shelf.loaded == ["b"], "the one that is lent stays"


@pytest.mark.parametrize(("device", "place"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
def test_what_nobody_uses_goes_first_where_that_makes_enough_room(loads, monkeypatch, device, place):
    shelf = shelf_of("b", "c")
    monkeypatch.setattr(module, "chosen_device", lambda _: torch.device(device))
    monkeypatch.setattr(module, "bytes_of", lambda network: {torch.device(place): 60, torch.device("meta"): 600})
    lent(shelf, "b")
    monkeypatch.setattr(module, "free_memory", lambda _: loads.free - 60 * len(shelf.loaded))
    loads.need = 101
    with pytest.raises(ModelLoadError, match=r"^c in float32 needs"):
        ended(shelf.lend(["c"]))
    assert shelf.loaded == ["b"], "it would not have been enough"
    loads.need = 90
    with ended(shelf.lend(["b"])), pytest.raises(ModelLoadError, match=r"^c in float32 needs"):
        ended(shelf.lend(["c"]))
    lent(shelf, "c")
    assert shelf.loaded == ["c"]


def test_a_load_that_is_cancelled_or_left_holds_no_place_and_stays_for_the_next_one(loads):
    shelf, stop = shelf_of("b", "c"), threading.Event()
    loads.let.clear()
    run = shelf.lend(["b"], stop.is_set)
    assert "Loading b, 0 s" in next(run).update
    stop.set()
    assert ended(run) is None and not shelf._lent["b"]
    left = shelf.lend(["c"])
    assert "Loading b" in next(left).update, "one at a time, those that nobody waits for among them"
    left.close()
    assert not shelf._lent["c"]
    loads.let.set()
    waited_for(lambda: shelf.loaded == ["b"])
    lent(shelf, "b")
    assert loads.names == ["b"]


def test_one_that_nobody_waits_for_keeps_no_place_from_others_and_goes_where_theirs_are_in_use(loads):
    shelf, stop = shelf_of("b", "c", "d"), threading.Event()
    lent(shelf, "b"), lent(shelf, "c")
    loads.let.clear()
    run = shelf.lend(["d"], stop.is_set)
    assert "Loading d" in next(run).update
    both = shelf.lend(["b", "c"])
    assert "waiting until one is free" in next(both).update, "somebody waits for d"
    stop.set()
    assert ended(run) is None
    with ended(both) as models:
        assert [model.name for model in models] == ["b", "c"] and not loads.let.is_set()
        loads.let.set()
        waited_for(lambda: shelf._coming is None)
        assert set(shelf.loaded) == {"b", "c"}, "and no third one stays beside them"


def test_one_that_hangs_is_told_after_half_an_hour_and_the_next_one_is_loaded(loads):
    clock, hangs = Clock(), threading.Event()
    shelf = Shelf(tiny_model(), ["own/model", "b", "c"], now=clock)
    loads.hang["b"] = hangs
    first, behind = shelf.lend(["b"]), shelf.lend(["c"])
    assert "Loading b" in next(first).update and "Loading b" in next(behind).update
    clock.seconds += LONGEST - 1
    next(first), next(behind)
    clock.seconds += 1
    with pytest.raises(ModelLoadError, match=r"^b has been loading for half an hour .* Choose another model"):
        next(first)
    with ended(behind) as (model,):
        assert model.name == "c" and not shelf._lent["b"]
    with ended(shelf.lend(["b"])) as (model,):
        hangs.set()
        waited_for(lambda: not [one for one in threading.enumerate() if one.name == "model"])
        with ended(shelf.lend(["b"])) as (again,):
            assert again is model, "what comes late takes no place"


def test_whoever_stands_in_line_behind_a_load_goes_first(loads):
    line, shelf = Line(rest=0.05), shelf_of("b")
    loads.let.clear()

    def compare() -> Iterator[Any]:
        loan = yield from shelf.lend(["b"], say=lambda text: text)
        with loan:
            yield "compared"

    first = line.turns(compare(), "models", tell=lambda place: place)
    assert "Loading b" in next(first)
    assert list(line.turns(iter_of("brief"), "other")) == ["brief"]
    loads.let.set()
    assert [event for event in first if isinstance(event, str)][-1] == "compared" and len(line) == 0


def iter_of(*events: str) -> Any:
    yield from events


def test_the_prediction_is_the_loader_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "small"
    tiny_models.network("llama").save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    shelf = Shelf(tiny_model(), ["own/model", str(folder)], {"device": "cpu", "dtype": "float32"})
    monkeypatch.setattr(module, "free_memory", lambda _: 1000)
    with pytest.raises(ModelLoadError, match=r"^small in float32 needs .* GB on cpu, .* free beside what is loaded"):
        ended(shelf.lend(["small"]))
    monkeypatch.undo()
    with ended(shelf.lend(["small"])) as (model,):
        assert model.blocks == 3 and model.device.type == "cpu"
