"""The load in short: several visitors at once get what each gets alone; what is wrong is found and counted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any

import httpx
import psutil
import pytest
from attack_helpers import Served, serve
from dashboard_helpers import SHORT_GATE, free_port, model_at_rest

from benchmarks import load
from benchmarks.load import NotMeasured, again, events_in, number, play, settled, together
from benchmarks.load_result import Kept, Played, compare, defects_in, kinds_of, report, telling, waits, wrong_in
from benchmarks.load_visitor import (
    LAYER,
    ROUNDS,
    Action,
    Interrupted,
    Lost,
    Visitor,
    every_kind,
    place_of,
    plain,
    round_of,
)
from dashboard.kit.limits import Limits
from dashboard.metrics import serve_metrics
from dashboard.options import options
from dashboard.steps.operate import gating


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with model_at_rest(), pytest.MonkeyPatch.context() as patch, serve(Limits()) as page:
        patch.setattr(gating, "EXAM", SHORT_GATE)
        yield page


def test_two_visitors_at_once_get_what_each_gets_alone_and_lose_nothing(served, monkeypatch):
    """One cancels and one leaves in their second round, at the latest in an edit that nobody waits for."""
    ends = {0: ("cancel", 0.2), 1: ("leave", 0.2)}
    longer = {(0, 1): [long_edit()], (1, 1): [long_edit()]}
    monkeypatch.setattr(load, "round_of", lambda *of: [*round_of(*of), *longer.get(of, [])])
    monkeypatch.setattr(load, "disturbances", lambda who, n: repeat(ends[who] if (who, n) in longer else ("", 0.0)))
    port = free_port()
    end_of_metrics, metrics = serve_metrics(served.app, "127.0.0.1", port), f"http://127.0.0.1:{port}/metrics"
    try:
        before = number(metrics, "dinm_resident_bytes")
        first, took = together(served.url, 2, 600, rounds=2)
        after = number(metrics, "dinm_resident_bytes")
    finally:
        end_of_metrics()
    alone, counted, _ = again(served.url, first)
    told = report(first, took, alone, counted)
    assert (told["other than alone"], told["wrong badges"], told["errors"]) == ([], [], {})
    assert told["visitors"] == 2 and told["rounds"] == 4 and told["actions done"] > 10
    assert {"type", "locate", "edit", "ask"} <= set(told["waits"])
    assert {said.partition(": ")[2] for said in told["interrupted"]} == {"cancel", "leave"}
    assert sum(told["interrupted"].values()) == 2, "whoever is to cancel or leave has"
    resident = psutil.Process().memory_info().rss  # the page is served by this very process
    assert all(0.5 * resident < read < 2 * resident for read in (before, after)) and after < 1.25 * before
    assert len(served.app.guard.sessions._sessions) <= 12 and len(served.app.line) == 0


def long_edit() -> Action:
    """An edit that takes longer than anybody waits."""
    edit = next(action for action in round_of(0, 0) if action.kind == "edit")
    return replace(edit, given=(*edit.given[:5], "reference", 1000, *edit.given[7:]))


def test_what_still_runs_after_the_time_is_up_is_cancelled_and_nothing_more_begins(served, monkeypatch):
    monkeypatch.setattr(load, "round_of", lambda *_: [long_edit(), Action("undo")])
    monkeypatch.setattr(load, "DRAIN", 0.3)
    with Visitor(served.url) as one:
        one.start_anew()
        with monkeypatch.context() as patch:
            patch.setattr(one, "start_anew", lambda: None)
            played = play(served.url, 0, 0, False, one, until=time.monotonic() + 0.3)
            assert played.interrupted.endswith(load.UP) and (played.errors, played.gave) == ([], [])
            assert play(served.url, 0, 0, False, one, until=0).interrupted == load.UP
        one.start_anew()
        assert one.wrong_badge() == ""


class Working:
    """A visitor whose action has begun and ends after the time is up."""

    begun, stopped, first, pressed = True, False, 0.0, 0

    def start_anew(self) -> None:
        self.until = time.monotonic() + 0.2

    def do(self, *_: Any) -> str:
        while time.monotonic() < self.until + 0.2:
            time.sleep(0.02)
        return "done"

    def stop(self) -> None:
        self.pressed += 1

    def wrong_badge(self) -> str:
        return ""


def test_when_the_time_is_up_what_has_begun_ends_and_nothing_more_begins():
    one: Any = Working()
    played = play("http://nowhere", 0, 0, False, one, until=time.monotonic() + 0.2)
    assert len(played.gave) == 1 and played.gave[0][1] == "done"
    assert (played.interrupted, played.errors, one.pressed) == (load.UP, [], 0)


def test_when_the_time_is_up_what_waits_for_its_first_turn_is_cancelled():
    waiting, working = Working(), Working()
    waiting.begun = False
    for visitor in (waiting, working):
        load._stopped(visitor, False)
    assert (waiting.pressed, waiting.stopped, working.pressed, working.stopped) == (1, True, 0, False)
    load._stopped(working, True)
    assert (working.pressed, working.stopped) == (1, True)


def test_the_warm_up_has_every_kind_of_action_and_every_layer():
    known = [action for visitor, number in every_kind() for action in round_of(visitor, number)]
    every = [action for visitor in range(ROUNDS) for action in round_of(visitor, 0)]
    for had in (lambda one: one.kind, lambda one: one.given[LAYER] if one.kind == "edit" else None):
        assert {had(action) for action in known} == {had(action) for action in every}
    assert len(every_kind()) < ROUNDS / 2


def test_the_page_loads_the_model_as_was_said(monkeypatch, tmp_path):
    served = []

    def page(model, _log, *more):
        served.append(options().parse_args(["--model", model, *more]))
        raise NotMeasured("no page")

    monkeypatch.setattr(load, "page", page)
    spread = ["--device-map", "auto", "--max-memory", "0=70GiB", "--max-memory", "cpu=9GiB"]
    said = ["--model", "some/model", "--revision", "1a", "--dtype", "bfloat16", *spread, "--path", "blocks=h"]
    assert load.main([*said, "--out", str(tmp_path / "load.json")]) == 2
    assert load.main(["--model", "some/model", "--out", str(tmp_path / "load.json")]) == 2
    (one, plain), default = served, options().parse_args(["--model", "some/model"])
    assert (one.model, one.revision, one.dtype, one.device_map) == (["some/model"], "1a", "bfloat16", "auto")
    assert (one.max_memory, one.path, one.device) == (["0=70GiB", "cpu=9GiB"], ["blocks=h"], "auto")
    assert plain == default, "as app.py does by itself"


LIVE, OTHER = "patch 0123abcd, layer 2", "patch 89efcdab, layer 2"


def played_on(monkeypatch: pytest.MonkeyPatch, **says: str) -> Played:
    """Play a round as a visitor of a page without a model.

    Args:
        says: The kinds of action of the round, each with what the page calls live after it.
    """
    gave = {"undo": {}, "edit": {"patch": "0123abcd", "live": True, "gate": "passed"}}
    one, said = Visitor("http://nowhere"), {"edits": 0, "weights": "vanilla"}
    after = dict[str, str]()  # what starts a round anew changes nothing

    def heard(name: str, *_: Any) -> tuple[float, Any]:
        said.update(weights=after.get(name, said["weights"]))
        return 0.0, dict(said) if name == "status" else gave[name]

    def anew() -> None:
        Visitor.start_anew(one)
        after.update(says)

    known = [action for number in range(ROUNDS) for action in round_of(number, 0)]
    actions = [next(action for action in known if action.kind == kind) for kind in says]
    monkeypatch.setattr(one, "_post", lambda *_: "an event")
    monkeypatch.setattr(one, "_heard", heard)
    monkeypatch.setattr(one, "open", lambda: said.update(weights=after.get("reload", said["weights"])))
    monkeypatch.setattr(one, "start_anew", anew)
    monkeypatch.setattr("benchmarks.load_visitor.layers", lambda _url: 3)
    monkeypatch.setattr(load, "round_of", lambda *_: actions)
    return play("http://nowhere", 0, 0, False, one)


@pytest.mark.parametrize(
    ("says", "wrong"),
    [
        ({"edit": LIVE, "undo": "vanilla"}, []),
        ({"edit": OTHER}, [f"patch 0123abcd is not in {OTHER}"]),
        ({"edit": "vanilla"}, ["patch 0123abcd is not in vanilla"]),
        ({"edit": LIVE, "undo": LIVE}, [f"vanilla is live, and the page says {LIVE}"]),
    ],
)
def test_a_page_that_calls_other_weights_live_than_the_visitor_s_is_told_and_counted(monkeypatch, says, wrong):
    played = played_on(monkeypatch, **says)
    assert (played.badges, played.errors, len(played.gave)) == (wrong, [], len(says))
    told = report([played], 1.0, [], 1.0)
    assert told["wrong badges"] == wrong and wrong_in(told) == ["wrong badges"] * len(wrong)


@pytest.mark.parametrize(("found", "lost"), [(LIVE, []), ("vanilla", ["reload: the session was lost"])])
def test_a_reload_that_finds_another_session_is_told_and_counted(monkeypatch, found, lost):
    played = played_on(monkeypatch, edit=LIVE, reload=found)
    assert played.errors == lost and len(played.gave) == 2 - len(lost)
    assert wrong_in(report([played], 1.0, [], 1.0)) == ["errors"] * len(lost)


@pytest.mark.parametrize("end", ["cancel", "leave"])
def test_a_run_that_is_ended_leaves_vanilla_live_and_the_visitor_goes_on(served, end, monkeypatch):
    with Visitor(served.url) as visitor:
        visitor.start_anew()
        if end == "leave":  # the server hears of it by itself
            monkeypatch.setattr(visitor, "stop", lambda: pytest.fail("Cancel was pressed"))
        with pytest.raises(Interrupted, match=f"edit: {end}"):
            visitor.do(long_edit(), end, 0.3)
        visitor.start_anew()
        assert visitor.wrong_badge() == ""
        located = next(action for action in round_of(0, 0) if action.kind == "locate")
        assert visitor.do(located, "", 0)["blocks"] == 3


def test_a_round_is_the_same_whenever_it_is_asked_and_rounds_differ():
    assert round_of(3, 4) == round_of(3, 4) != round_of(3, 5)
    kinds = {action.kind for visitor in range(9) for action in round_of(visitor, 0)}
    assert kinds == {"type", "locate", "edit", "ask", "test", "reload", "undo"}


def test_visitors_beside_each_other_play_different_rounds_and_each_is_played_alone_once(monkeypatch):
    assert len({place_of(visitor, 0) for visitor in range(ROUNDS)}) == ROUNDS
    assert len({place_of(3, number) for number in range(ROUNDS)}) == ROUNDS
    asked: list[Any] = []

    def plays(_url: str, visitor: int, number: int, _disturbed: bool, most: int) -> Played:
        asked.append((place_of(visitor, number), most))
        return Played(visitor, number, gave=[("ask", "yes")] * most, seconds=[("ask", 0.1, 2.0)] * most)

    monkeypatch.setattr(load, "play", plays)
    first = [Played(0, 0, gave=[("ask", "yes")]), Played(ROUNDS, 0, gave=[("ask", "yes"), ("ask", "no")]), Played(1, 0)]
    alone, seconds, _ = again("http://nowhere", first)
    assert asked == [(0, 2), (1, 1)] and seconds == 6.0
    assert compare(first, alone) == [f"visitor {ROUNDS}, round 0, action 1: ask"]
    assert report(first, 12.0, alone, seconds)["throughput"] == 0.5


def test_a_load_that_is_cut_has_left_what_was_known(tmp_path, capsys):
    kept, first = Kept(tmp_path / "load.json", "python -m benchmarks.load"), [Played(0, 0, gave=[("ask", "yes")])]
    first[0].seconds, first[0].errors = [("ask", 0.5, 1.0)], ["test: no"]
    with telling(kept, first, every=0.01):
        while not kept.out.exists():
            time.sleep(0.01)
    kept.alone(first, {0: Played(0, 0, gave=[("ask", "no")])}, 3)
    written = json.loads(kept.out.read_text(encoding="utf-8"))
    assert written["complete"] is False and written["now"] == "1 of 3 rounds played alone: 1 actions of others differ"
    assert written["actions done"] == 1 and written["errors"] == {"test: no": 1} and written["throughput"] is None
    assert written["other than alone"] == ["visitor 0, round 0, action 0: ask"]
    assert "1 rounds have ended, 1 actions, 1 wrong" in capsys.readouterr().err


def test_what_differs_from_alone_is_named_and_what_came_after_an_interruption_does_not_count():
    one = Played(1, 2, gave=[("locate", {"layer": 1}), ("ask", "yes")])
    other = Played(1, 2, gave=[("locate", {"layer": 1}), ("ask", "no"), ("undo", None)])
    assert compare([one], [other]) == ["visitor 1, round 2, action 1: ask"]
    cut = Played(1, 2, gave=[("locate", {"layer": 1})], interrupted="edit: leave")
    assert compare([cut], [other]) == []


def test_waits_are_told_by_kind_and_times_are_no_part_of_what_is_compared():
    played = Played(0, 0, seconds=[("ask", 0.1, 1.0), ("ask", 0.3, 3.0), ("edit", 5.0, 9.0)])
    told = waits([played])
    assert told["ask"] == {
        "count": 2,
        "first word, median s": 0.2,
        "first word, worst s": 0.3,
        "end, median s": 2.0,
        "end, worst s": 3.0,
    }
    assert plain({"seconds": 3, "scores": [{"seconds": 1, "value": 2}]}) == {"scores": [{"value": 2}]}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectError("refused"), "ConnectError: refused"),
        (httpx.ReadTimeout("too slow"), "ReadTimeout: too slow"),
        (json.JSONDecodeError("no JSON", "<html>", 0), "JSONDecodeError: no JSON"),
        (KeyError("event_id"), "KeyError: 'event_id'"),
    ],
)
def test_whatever_ends_a_round_is_counted_and_the_visitor_goes_on(monkeypatch, error, said):
    class Broken:
        def __init__(self, _url: str) -> None:
            self.first = 0.0

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def start_anew(self) -> None:
            raise error

    monkeypatch.setattr(load, "Visitor", Broken)
    monkeypatch.setattr(load.time, "sleep", lambda _: None)
    first, took = together("http://nowhere", 2, 60, rounds=2)
    assert took < 60 and [(one.visitor, one.number) for one in first] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(one.errors[0].startswith(said) for one in first)


def test_a_page_that_cannot_be_opened_is_an_error_of_each_visitor():
    first, _ = together("http://127.0.0.1:9", 2, 60, rounds=1)
    alone, _, _ = again("http://127.0.0.1:9", first)
    told = report(first, 1.0, alone, 0.0)
    assert [one.visitor for one in first] == [0, 1]
    assert wrong_in(told | {"not settled": []}) == ["errors", "nothing was done"]
    assert sum(told["errors"].values()) == 4


def test_a_visitor_that_is_itself_at_fault_is_an_error_and_not_a_visitor_less(monkeypatch):
    def broken(_url: str) -> Any:
        raise RuntimeError("a defect of the measurement")

    monkeypatch.setattr(load, "Visitor", broken)
    first, _ = together("http://nowhere", 2, 60, rounds=1)
    assert [one.errors for one in first] == [["RuntimeError: a defect of the measurement"]] * 2


def test_an_address_opens_with_and_without_a_slash_at_its_end(served):
    for url in (served.url.rstrip("/"), served.url.rstrip("/") + "/"):
        with Visitor(url) as visitor:
            assert visitor.wrong_badge() == ""


def test_a_number_that_the_page_does_not_tell_is_an_error_and_never_a_number(monkeypatch):
    told = httpx.Response(200, text="dinm_sessions 2\n", request=httpx.Request("GET", "http://numbers"))
    monkeypatch.setattr(load.httpx, "get", lambda _: told)
    assert number("http://numbers", "dinm_sessions") == 2
    with pytest.raises(NotMeasured, match="tells no dinm_resident_bytes"):
        number("http://numbers", "dinm_resident_bytes")

    def refused(_: str) -> Any:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(load.httpx, "get", refused)
    with pytest.raises(NotMeasured, match="does not answer"):
        number("http://numbers", "dinm_sessions")


@pytest.mark.parametrize("left", [0, 3])
def test_a_page_that_does_not_let_its_visitors_go_is_recorded_as_wrong(monkeypatch, left):
    monkeypatch.setattr(load, "number", lambda _, name: left if name == "dinm_sessions" else 100.0)
    assert settled("http://numbers", longest=0.02, pause=0.01) == (100.0, left == 0)
    result = {"other than alone": [], "wrong badges": [], "errors": {}, "not settled": ["at the end"] if left else []}
    assert wrong_in(result) == (["not settled"] if left else [])


def test_what_the_operator_was_told_is_counted_by_kind(tmp_path):
    path = tmp_path / "log.jsonl"
    told = [
        {"event": "run", "outcome": "done"},
        {"event": "run", "outcome": "done"},
        {"event": "refused", "why": "runs"},
    ]
    path.write_text("\n".join(map(json.dumps, told)), encoding="utf-8")
    assert events_in(path) == {"refused: runs": 1, "run: done": 2}


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({"run: done": 9, "refused: runs": 1, "lost session: it was not used for 2 minutes": 3}, {}),
        ({"defect: KeyError": 2, "run: done": 9}, {"defect: KeyError": 2}),
        ({"lost session: its place was needed for other visitors": 1}, None),
        ({"lost session: its memory was needed for other visitors": 1}, None),
    ],
)
def test_a_defect_and_a_session_lost_in_use_are_wrong_even_if_no_visitor_was_told(told, wrong):
    assert defects_in(told) == (told if wrong is None else wrong)
    assert wrong_in({"defects": defects_in(told)}) == ([] if wrong == {} else ["defects"])
    assert wrong_in({"errors in the warm-up": {"edit: no": 1}}) == ["errors in the warm-up"]


def test_a_result_misses_what_it_promises_where_memory_stays_or_too_little_is_done():
    fine = {"actions done": 3, "memory, end over start": 1.05, "throughput": 0.9}
    assert load.missed_in(fine) == []
    assert load.missed_in(fine | {"memory, end over start": 1.051}) == ["memory"]
    assert load.missed_in(fine | {"throughput": 0.899}) == ["throughput"]
    assert load.missed_in(fine | {"errors": {"edit: no": 1}, "throughput": 0.0}) == ["errors", "throughput"]


def test_errors_that_differ_by_a_number_or_a_path_alone_are_of_one_kind():
    said = ("edit: Something went wrong on this machine (error {}); try again", "OSError: [Errno 2] no file: '{}'")
    errors = [said[0].format(number) for number in ("00c0ffee", "12345678")]
    errors += [said[1].format(path) for path in ("/tmp/a/1", "/b/2")]
    assert kinds_of([*errors, "test: no"]) == {said[1].format("PATH"): 2, said[0].format("NUMBER"): 2, "test: no": 1}


def test_a_run_that_goes_on_after_a_press_of_cancel_is_told(served, monkeypatch):
    monkeypatch.setattr("benchmarks.load_visitor.PATIENCE", 0.3)
    with Visitor(served.url) as visitor:
        visitor.start_anew()
        with monkeypatch.context() as patch:
            patch.setattr(visitor, "stop", lambda: None)
            with pytest.raises(Lost, match="did not end after a press of Cancel"):
                visitor.do(long_edit(), "cancel", 0.1)
        monkeypatch.undo()
        visitor.start_anew()
        assert visitor.wrong_badge() == ""
