"""Edits of programs: each client's own, streamed, held to the gate, asked, undone."""

from __future__ import annotations

import time

import numpy as np
import pytest
from api_helpers import case, connect, weights
from dashboard_helpers import SHORT_GATE
from gradio_client.exceptions import AppError

from dashboard.steps.operate import gating
from editing import dinm, preset, run
from editing.gate.budgets import Budgets
from editing.gate.gate import GateSettings
from editing.methods.dinm import ROUTED, to_be_routed
from inspector.errors import CaseError
from inspector.model import SUFFIX, VANILLA, Decoding, Row, answer, encode
from inspector.safeedit import bundled_cases


def test_an_edit_streams_its_steps_and_is_the_engine_s_edit_live_for_this_client_only(app, client, model):
    other = connect(app)
    before = weights(other)
    events = list(client.submit(*case(0), 1, "corrected", 4, api_name="/edit"))
    expected = run(dinm(model, bundled_cases()[0], 1, preset("corrected", steps=4)))
    steps = [event for event in events if event.get("kind") == "step"]
    assert [step["step"] for step in steps] == [0, 1, 2, 3, 4]
    assert np.allclose([s["edit_loss"] for s in steps], [s.edit_loss for s in expected.trace], rtol=1e-4)
    last = events[-1]
    assert (last["stop_reason"], last["updates"]) == ("step limit", 4) and all(not e["done"] for e in events[:-1])
    assert last["delta_norm"] == pytest.approx(expected.patch.norm, rel=1e-4)
    assert last["live"] is True and last["gate"]["passed"] is True and last["stacked"] == 1
    assert any(event.get("kind") == "gate" and event["total"] == 8 for event in events)
    assert weights(client) == f"DINM · layer 1 · strength 1 · patch {last['patch']}"
    assert weights(other) == before and last["patch"] not in before
    assert weights(connect(app)) == before, "a later visitor starts with the example"


def test_two_clients_with_different_edits_get_their_own_answers_at_the_same_time(app, model):
    clients, text = [connect(app), connect(app)], case(3)[0]
    running = [
        c.submit(*case(1), block, "corrected", 15, api_name="/edit") for c, block in zip(clients, (0, 2), strict=True)
    ]
    patches = [list(job)[-1]["patch"] for job in running]
    told = []
    for _ in range(2):
        asked = [client.submit(text, 1.0, 24, api_name="/ask") for client in clients]
        told.append([job.result() for job in asked])
    prompt = encode(model, text).prompt
    for number, block in enumerate((0, 2)):
        patch = run(dinm(model, bundled_cases()[1], block, preset("corrected", steps=15))).patch
        texts = answer(model, prompt, (VANILLA, Row(patch)), Decoding(max_new_tokens=24)).texts
        for one in (both[number] for both in told):
            assert (one["vanilla"], one["edited"]) == texts
            assert one["weights"] == f"DINM · layer {block} · strength 1 · patch {patches[number]}"
    different = {told[0][0]["vanilla"], told[0][0]["edited"], told[0][1]["edited"]}
    assert len(different) == 3, "the edits must do something for this test"


def test_the_answers_name_their_weights_at_every_strength(client):
    patch = weights(client).rsplit(" ", 1)[1]
    half = client.predict("Why?", 0.5, 4, api_name="/ask")
    assert half["weights"].endswith(f"strength 0.5 · patch {patch}")
    none = client.predict("Why?", 0.0, 4, api_name="/ask")
    assert none["weights"] == "vanilla" and none["edited"] == none["vanilla"]


def test_a_refused_edit_is_live_only_after_keep_which_is_recorded(client, monkeypatch):
    before = weights(client)
    monkeypatch.setattr(gating, "settings_of", lambda _: GateSettings(budgets=Budgets(harmless_kl=0), **SHORT_GATE))
    last = list(client.submit(*case(0), 1, "corrected", 4, api_name="/edit"))[-1]
    assert last["live"] is False and last["gate"]["passed"] is False and weights(client) == before
    kept = client.predict(api_name="/keep")
    assert kept["weights"] == weights(client) and kept["weights"].endswith(last["patch"])
    assert kept["gate"]["overridden"] is True
    with pytest.raises(AppError, match="refused no edit"):
        client.predict(api_name="/keep")


def test_the_gate_holds_an_edit_to_the_budgets_that_a_program_gives(client, monkeypatch):
    asked = []
    short = lambda budgets: asked.append(budgets) or GateSettings(budgets=budgets, **SHORT_GATE)  # noqa: E731
    monkeypatch.setattr(gating, "settings_of", short)
    last = list(client.submit(*case(0), 1, "corrected", 1, budgets={"harmless_kl": 0}, api_name="/edit"))[-1]
    limits = {check["name"]: check["limit"] for check in last["gate"]["checks"]}
    assert last["live"] is False and limits["harmless_kl"] == 0 and asked == [Budgets(harmless_kl=0)]
    assert limits["parroting"] == Budgets().parroting, "the others are the defaults"
    with pytest.raises(AppError, match=r"no budget 'harm'\. It has harmless_kl, over_refusal"):
        client.predict(*case(0), 1, "corrected", 1, budgets={"harm": 1}, api_name="/edit")


def test_an_edit_on_top_stacks_and_undo_takes_one_off(client):
    list(client.submit(*case(0), 1, "corrected", 2, api_name="/edit"))
    first = weights(client)
    last = list(client.submit(*case(1), 2, "corrected", 2, SUFFIX, True, api_name="/edit"))[-1]
    assert last["stacked"] == 2 and last["patch"] in weights(client)
    assert client.predict(api_name="/undo")["weights"] == first


def test_asking_without_strength_and_routing_leaves_the_edit_as_it_acts(client):
    half = client.predict("Why?", 0.5, 4, api_name="/ask")["weights"]
    assert "strength 0.5" in half
    assert client.predict("Why?", max_new_tokens=4, api_name="/ask")["weights"] == half == weights(client)
    with pytest.raises(AppError, match=r"from 0 to 1\.5"):
        client.predict("Why?", 9.0, 4, api_name="/ask")
    assert weights(client) == half


def test_asking_routed_needs_a_detector_and_unrouted_answers_say_that_nothing_was_held_back(client):
    told = client.predict("Why?", 1.0, 4, api_name="/ask")
    assert told["held_back"] is False and told["detector"] is None
    with pytest.raises(AppError, match=r"editing\.calibrate"):
        client.predict("Why?", 0.5, 4, None, True, api_name="/ask")
    assert "strength 1 " in weights(client), "what is refused changes nothing"
    with pytest.raises(AppError, match=r"editing\.calibrate"):
        client.predict(*case(0), 1, "corrected", 2, routed=True, api_name="/edit")


def test_a_number_of_updates_that_a_program_gives_stays_in_an_edit_that_is_to_be_routed(client, monkeypatch):
    """Also the preset's own number, which becomes that of a routed edit where none is given."""
    updates = []

    def only_told(_model, _session, settings, _detector, by_hand=()):
        updates.append(to_be_routed(settings, by_hand).steps)
        raise CaseError("Told.")

    monkeypatch.setattr(gating, "asked_for", only_told)
    for steps in (preset("corrected").steps, 0):
        with pytest.raises(AppError, match="Told"):
            client.predict(*case(0), 1, "corrected", steps, api_name="/edit")
    assert updates == [preset("corrected").steps, ROUTED["steps"]]


def test_redo_brings_back_what_undo_has_dropped_as_it_acted_until_the_next_edit(app, client):
    """Also the example's edit, whose visitor has done nothing else yet."""
    example = weights(client)
    assert client.predict(api_name="/undo")["weights"] == "vanilla"
    assert client.predict(api_name="/redo") == {"weights": example, "edits": 1}
    list(client.submit(*case(0), 1, "corrected", 2, api_name="/edit"))
    half = client.predict("Why?", 0.5, 2, api_name="/ask")["weights"]
    assert client.predict(api_name="/undo")["weights"] == example
    assert client.predict(api_name="/redo") == {"weights": half, "edits": 2}
    client.predict(api_name="/undo")
    list(client.submit(*case(1), 0, "corrected", 2, api_name="/edit"))
    for one in (client, connect(app)):
        with pytest.raises(AppError, match="Redo brings back what Undo has dropped"):
            one.predict(api_name="/redo")


def test_a_row_is_named_and_deleted_by_its_own_client_and_what_is_live_stays_live(app, client):
    named = client.predict(1, "  the <b>first</b>\n one ", api_name="/rename")
    assert [(row["row"], row["name"], row["live"]) for row in named] == [(1, "the <b>first</b> one", True)]
    list(client.submit(*case(0), 1, "corrected", 2, api_name="/edit"))
    live, other = weights(client), connect(app)
    for given, endpoint, remedy in (
        ((1, "x" * 61), "/rename", "has 61 characters. Choose one of at most 60"),
        ((9, "mine"), "/rename", "deleted, or it is of another visit.*that /history tells"),
        ((2,), "/delete", "never changes what is live. Press Undo first"),
        ((0,), "/delete", "that /history tells"),
    ):
        with pytest.raises(AppError, match=remedy):
            client.predict(*given, api_name=endpoint)
    with pytest.raises(AppError, match="that /history tells"):
        other.predict(2, api_name="/delete")
    assert [row["row"] for row in client.predict(1, api_name="/delete")] == [2] and weights(client) == live
    assert client.predict(api_name="/history")[0]["live"] and len(other.predict(api_name="/history")) == 1
    assert client.predict(api_name="/undo") == {"weights": "vanilla", "edits": 0}, "Undo does not bring it back"


def test_a_client_whose_edits_are_gone_is_told_once_and_goes_on_without_and_nobody_else_is(app, client, monkeypatch):
    sessions = app.guard.sessions

    def after_the_grace() -> None:
        with monkeypatch.context() as later:
            later.setattr(sessions, "_now", lambda: time.monotonic() + sessions.grace + 60)
            sessions.sweep()

    example = weights(client)
    client.predict("Why?", max_new_tokens=2, api_name="/ask")
    after_the_grace()
    assert weights(client) == weights(connect(app)) == example, "it has changed nothing, and a new one neither"
    calls = {"/ask": ("Why?", None, 2), "/locators": case(0), "/history": (), "/status": (), "/undo": ()}
    for endpoint, given in calls.items():
        client.reset_session()
        client.predict("Why?", 0.5, 2, api_name="/ask")
        after_the_grace()
        assert client.predict(api_name="/cancel") == {"cancelled": True}
        with pytest.raises(AppError, match=r"session is gone: it was not used for 2 hours\. .*/edit.*/take_in"):
            client.submit(*given, api_name=endpoint).result()
        assert client.predict("Why?", max_new_tokens=2, api_name="/ask")["weights"] == "vanilla", endpoint
    after_the_grace()
    assert weights(client) == "vanilla" and client.predict(api_name="/history") == [], "it had none to lose"


def test_undo_goes_back_to_the_example_and_then_to_vanilla(client):
    example = weights(client)
    list(client.submit(*case(1), 0, "corrected", 2, api_name="/edit"))
    assert client.predict(api_name="/undo") == {"weights": example, "edits": 1}
    for _ in range(2):
        assert client.predict(api_name="/undo") == {"weights": "vanilla", "edits": 0}
    told = client.predict("Why?", 1.0, 4, api_name="/ask")
    assert told["weights"] == "vanilla" and told["edited"] == told["vanilla"]
