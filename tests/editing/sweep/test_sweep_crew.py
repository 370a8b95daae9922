"""Who of a crew of Ray workers does what, with workers made up by hand: loading, dying, waiting for room."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import quantised_models
import torch
from sweep_helpers import SHORT, finished, loader, write_cases

from editing.sweep import engines
from editing.sweep.__main__ import main
from editing.sweep.crew import Crew, Died
from editing.sweep.engines import _answered_by, _Worker, load_all
from editing.sweep.settings import SweepSettings
from editing.sweep.vanilla import Batch
from inspector.errors import CaseError, EditError, InspectorError, ModelLoadError, OutOfMemory
from inspector.model import Decoding
from inspector.model.memory import memory_need

ray = pytest.importorskip("ray", reason="ray is not installed (requirements-cluster.txt)")

NEVER = "never"
"""What a worker loads with for which the cluster has no room."""
BATCHES = tuple(Batch(((1, number),), Decoding(3)) for number in (2, 3))
"""What workers find that the cases have in common."""


class Reference:
    """What a call of a worker returns."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome


class Call:
    """A method of a worker."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self.remote = lambda *given: Reference(run(*given))


class Worker:
    """A worker whose loading has a given outcome; it does what it is given, and dies of ``bad`` items."""

    def __init__(self, number: int, opens: Any, bad: list[Any], death: BaseException) -> None:
        self.number, self.done, self.killed = number, [], False
        self.open, self.do = Call(lambda: opens), Call(self._do)
        self.batches, self.answer = Call(lambda: BATCHES), Call(lambda batch: self._do(batch, {batch: "answered"}))
        self._bad, self._death = bad, death

    def _do(self, item: Any, outcome: Any = None) -> Any:
        self.done.append(item)
        if item in self._bad:
            self._bad.remove(item)
            return self._death
        return outcome or f"{item} done"


def failed(cause: BaseException) -> BaseException:
    """Return what Ray raises where a worker has raised."""
    return ray.exceptions.RayTaskError("do", "Traceback", cause)


@pytest.fixture
def crew_of(monkeypatch) -> Callable[..., tuple[Crew, list[Worker]]]:
    """A factory ``crew_of(size, opens, bad, death)``: what each hired worker loads with in turn (then well), what it
    dies of, and what Ray says then.
    """

    def wait(references: list[Reference], num_returns: int) -> tuple[list[Reference], list[Reference]]:
        ready = [reference for reference in references if reference.outcome is not NEVER]
        assert ready, "the crew waits for what never comes"
        return ready[:num_returns], []

    def get(reference: Reference) -> Any:
        if isinstance(reference.outcome, BaseException):
            raise reference.outcome
        return reference.outcome

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda worker: setattr(worker, "killed", True))

    def factory(
        size: int, opens: tuple[Any, ...] = (), bad: tuple[Any, ...] = (), death: BaseException | None = None
    ) -> tuple[Crew, list[Worker]]:
        hired: list[Worker] = []
        left, deadly = list(opens), list(bad)

        def hire() -> Worker:
            hired.append(
                Worker(len(hired), left.pop(0) if left else None, deadly, death or ray.exceptions.RayActorError())
            )
            return hired[-1]

        return Crew(hire, size), hired

    return factory


def done(crew: Crew, items: str) -> dict[str, Any]:
    found = list(crew.do(list(items), lambda worker, item: worker.do.remote(item)))
    assert len(found) == len(dict(found)), "each item comes once"
    return dict(found)


def test_every_item_is_done_once_and_workers_stay_for_what_comes_next(crew_of):
    crew, hired = crew_of(2)
    assert done(crew, "abc") == {item: f"{item} done" for item in "abc"}
    assert done(crew, "de") == {item: f"{item} done" for item in "de"}
    assert len(hired) == 2 and sorted(hired[0].done + hired[1].done) == list("abcde")
    assert done(crew, "") == {}


def test_no_work_waits_for_a_worker_that_the_cluster_has_no_room_for(crew_of):
    crew, hired = crew_of(3, (NEVER, None, NEVER))
    assert set(done(crew, "abcd")) == set("abcd") and hired[1].done == list("abcd")


def test_a_death_costs_one_more_try_of_its_item_and_two_are_its_outcome(crew_of):
    crew, hired = crew_of(1, bad=("b",))
    assert done(crew, "abc") == {item: f"{item} done" for item in "abc"}
    assert [worker.done for worker in hired] == [["a", "b"], ["b", "c"]]
    crew, hired = crew_of(1, bad=("b", "b"))
    found = done(crew, "abc")
    assert isinstance(found["b"], Died) and "actor" in found["b"].why.lower()
    assert [worker.done for worker in hired] == [["a", "b"], ["b"], ["c"]]


def test_a_batch_of_shared_answers_is_made_again_after_a_death_and_left_out_after_two(crew_of):
    first, second = BATCHES
    crew, hired = crew_of(1, bad=(second,))
    assert _answered_by(crew) == {first: "answered", second: "answered"}
    assert [worker.done for worker in hired] == [[first, second], [second]]
    crew, hired = crew_of(1, bad=(first, first))
    assert _answered_by(crew) == {second: "answered"}
    assert [worker.done for worker in hired] == [[first], [first], [second]]


@pytest.fixture
def opened_first(crew_of, monkeypatch) -> None:
    """Workers load, and answer that they live, before any work is done."""
    own, key = ray.wait, lambda reference: reference.outcome is not None
    monkeypatch.setattr(ray, "wait", lambda references, num_returns: own(sorted(references, key=key), num_returns))


@pytest.mark.usefixtures("opened_first")
def test_what_a_worker_died_on_goes_to_one_that_is_loaded_where_no_other_finds_room(crew_of):
    crew, hired = crew_of(2, (None, None, NEVER), bad=("b",))
    assert set(done(crew, "ab")) == {"a", "b"}
    assert [worker.done for worker in hired] == [["a", "b"], ["b"], []]


@pytest.mark.usefixtures("opened_first")
def test_a_worker_that_died_while_it_waited_costs_no_case_a_try(crew_of):
    """The machine of the first two dies while one works and the other waits; the third is elsewhere."""
    crew, hired = crew_of(3)
    assert set(done(crew, "abc")) == set("abc")

    def dying(worker: Any, item: str) -> Reference:
        if worker is not hired[2]:
            for dead in hired[:2]:
                dead.open = dead.do = Call(lambda *_: ray.exceptions.RayActorError())
        return worker.do.remote(item)

    assert dict(crew.do(["d"], dying)) == {"d": "d done"} and hired[2].done[-1] == "d"


def test_a_worker_that_died_between_two_rounds_of_work_is_given_none(crew_of):
    crew, hired = crew_of(2)
    assert set(done(crew, "ab")) == set("ab")
    hired[0].open = Call(lambda: ray.exceptions.RayActorError())
    assert set(done(crew, "cd")) == set("cd") and hired[0].done == ["a", "b"] and len(hired) == 3


def test_a_loaded_worker_that_is_asked_whether_it_lives_loads_nothing():
    loaded: list[SweepSettings] = []

    def load(settings: SweepSettings) -> Any:
        loaded.append(settings)
        return loader(settings)

    worker = _Worker(SweepSettings(), load, None)
    worker.open()
    worker.open()
    assert len(loaded) == 1


def test_an_outcome_that_is_lost_with_its_machine_is_made_again_and_twice_is_its_end(crew_of):
    lost = ray.exceptions.ObjectLostError("00" * 28, None, "")
    crew, hired = crew_of(1, bad=("b",), death=lost)
    assert done(crew, "abc") == {item: f"{item} done" for item in "abc"}
    assert [worker.done for worker in hired] == [["a", "b"], ["b", "c"]]
    assert [worker.killed for worker in hired] == [True, False], "what is left of it would keep its place"
    crew, _ = crew_of(1, bad=("b", "b"), death=lost)
    found = done(crew, "abc")
    assert isinstance(found["b"], Died) and found["c"] == "c done"


def test_workers_that_have_not_the_memory_are_let_go_and_the_others_do_all(crew_of, capsys):
    lacking = failed(OutOfMemory("The device ran out of memory."))
    crew, hired = crew_of(2, (lacking, None))
    assert set(done(crew, "ab")) == {"a", "b"} and hired[0].killed and hired[1].done == ["a", "b"]
    assert "is let go" in capsys.readouterr().err
    crew, hired = crew_of(2, (lacking, lacking))
    with pytest.raises(OutOfMemory, match="No worker has the memory"):
        done(crew, "ab")
    assert len(hired) == 2


def test_the_last_worker_s_place_is_filled_again_where_it_had_worked(crew_of):
    """It died, and its successor lacks the memory that the dead one may not have given back yet."""
    lacking = failed(OutOfMemory("The device ran out of memory."))
    crew, hired = crew_of(1, (None, lacking), bad=("b",))
    assert set(done(crew, "abc")) == set("abc")
    assert [worker.done for worker in hired] == [["a", "b"], [], ["b", "c"]]


def test_workers_that_die_at_loading_end_the_sweep_with_the_remedy(crew_of):
    dying = ray.exceptions.RayActorError()
    crew, hired = crew_of(2, (dying, dying))
    assert set(done(crew, "ab")) == {"a", "b"} and len(hired) == 4
    crew, hired = crew_of(1, (dying,) * 9)
    with pytest.raises(EditError, match=r"Workers die while they load the model.*more memory or fewer"):
        done(crew, "ab")
    assert len(hired) == 3


def test_what_a_worker_says_is_raised_in_its_own_words(crew_of):
    for opens in (failed(EditError("Other weights.")), failed(CaseError("Other weights."))):
        crew, _ = crew_of(1, (opens,))
        with pytest.raises((EditError, CaseError), match="Other weights"):
            done(crew, "a")
    crew, _ = crew_of(1, (failed(ValueError("a defect")),))
    with pytest.raises(ray.exceptions.RayTaskError):
        done(crew, "a")


def in_this_process(kind: type) -> Any:
    """Return what makes workers of a class here; what one raises as it loads comes back as Ray sends it."""

    def hired(*given: Any) -> SimpleNamespace:
        worker = kind(*given)

        def opened() -> Any:
            try:
                return worker.open()
            except InspectorError as error:
                return failed(pickle.loads(pickle.dumps(error)))

        return SimpleNamespace(open=Call(opened))

    return SimpleNamespace(remote=hired)


ROOM = {"CPU": 8.0, "memory": 1e10}
"""What a machine without a GPU has, as Ray says it."""


def cluster_of(monkeypatch, *rooms: dict[str, float]) -> None:
    """Let sweeps find a cluster of machines with such room, whose workers work here."""
    alive = [{"Alive": True, "Resources": room} for room in rooms]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}, *alive])
    monkeypatch.setattr(ray, "remote", lambda **_place: in_this_process)


@pytest.mark.usefixtures("crew_of")
@pytest.mark.parametrize(
    ("asked", "rooms", "said"),
    [
        (("--gpus-per-worker", "1"), (ROOM,), "1 GPUs and 1 CPU cores: the largest has 0 and 8. Lower --gpus-per"),
        (("--cpus-per-worker", "16"), (ROOM, {"CPU": 4.0}), "the largest has 0 and 8. Lower --cpus-per-worker, or"),
        (
            ("--gpus-per-worker", "2", "--cpus-per-worker", "8"),
            (ROOM, {"CPU": 4.0, "GPU": 2.0}),
            "the largest has 2 and 4. Lower --gpus-per-worker (0 with --device cpu) or --cpus-per-worker",
        ),
    ],
)
def test_a_cluster_that_can_never_hold_a_worker_ends_a_sweep_with_what_to_lower(
    tmp_path, capsys, monkeypatch, asked, rooms, said
):
    cluster_of(monkeypatch, *rooms)
    arguments = ["--cases", write_cases(tmp_path, 1), "--engine", "ray", *asked, *SHORT]
    assert main([*arguments, "--out", str(tmp_path / "out")], loader) == 2
    told = capsys.readouterr().err
    assert "No machine of this Ray cluster can hold a worker" in told and said in told


def test_workers_without_a_gpu_of_their_own_do_not_all_load_on_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(engines, "chosen_device", lambda _device: torch.device("cuda"))
    cluster_of(monkeypatch, {**ROOM, "GPU": 8.0})
    arguments = ["--cases", write_cases(tmp_path, 1), "--engine", "ray", *SHORT, "--out", str(tmp_path / "out")]
    assert main(arguments, lambda _settings: pytest.fail("nothing is loaded")) == 2
    assert "Use --gpus-per-worker 1 or --device cpu." in capsys.readouterr().err


@pytest.mark.usefixtures("crew_of")
def test_workers_without_a_gpu_compute_on_cpus_as_the_process_that_has_none(tmp_path, monkeypatch):
    """Their machines may have cards, which Ray does not hide from them."""
    cluster_of(monkeypatch, ROOM)
    devices: list[str] = []

    def noting(settings: SweepSettings) -> Any:
        devices.append(settings.device)
        return loader(settings if len(devices) == 1 else SweepSettings(revision="5"))

    arguments = ["--cases", write_cases(tmp_path, 1), "--engine", "ray", *SHORT]
    assert main([*arguments, "--out", str(tmp_path / "out")], noting) == 2 and devices == ["auto", "cpu"]


@pytest.mark.usefixtures("crew_of")
def test_a_sweep_whose_worker_has_other_base_weights_ends_in_the_worker_s_own_words(tmp_path, capsys, monkeypatch):
    cluster_of(monkeypatch, ROOM)
    loaded: list[str] = []

    def other_after_the_first(settings: SweepSettings) -> Any:
        loaded.append(settings.model)
        return loader(settings if len(loaded) == 1 else SweepSettings(revision="5"))

    arguments = ["--cases", write_cases(tmp_path, 1), "--engine", "ray", *SHORT]
    assert main([*arguments, "--out", str(tmp_path / "out")], other_after_the_first) == 2 and len(loaded) == 2
    said = capsys.readouterr().err
    assert "A worker has base weights" in said and "Traceback" not in said and not finished(tmp_path / "out")


def test_a_worker_without_the_memory_to_load_says_so_in_an_error_that_another_process_can_read():
    def short_of_memory(_settings: SweepSettings) -> Any:
        raise MemoryError

    with pytest.raises(OutOfMemory) as caught:
        _Worker(SweepSettings(), short_of_memory, None).open()
    read = pickle.loads(pickle.dumps(caught.value))
    assert type(read) is OutOfMemory and read.user_message() == caught.value.user_message()


def test_a_worker_whose_machine_has_not_the_room_for_the_real_model_is_let_go_as_well(crew_of, tmp_path, monkeypatch):
    """What the loader finds before it reads a weight; it goes to the driver as Ray sends it."""
    monkeypatch.setattr(memory_need, "free_memory", lambda _device: 1000)
    settings = SweepSettings(model=str(quantised_models.saved("llama", tmp_path)), device="cpu")
    with pytest.raises(ModelLoadError, match="needs") as caught:
        _Worker(settings, load_all, None).open()
    crew, hired = crew_of(2, (failed(pickle.loads(pickle.dumps(caught.value))), None))
    assert set(done(crew, "ab")) == {"a", "b"} and hired[0].killed and hired[1].done == ["a", "b"]
