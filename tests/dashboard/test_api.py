"""The same operation for programs: a real server on a tiny model, and several ``gradio_client`` clients of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from dashboard_helpers import SHORT_GATE, free_port, model_at_rest, served_example, short_examples, tiny_model
from gradio_client import Client
from gradio_client.exceptions import AppError

from dashboard.kit.typed import texts_of
from dashboard.page import build_app, launch_options
from dashboard.steps.methods import run as methods
from dashboard.steps.operate import gating
from editing import dinm, preset, run
from editing.gate import Budgets, GateSettings
from inspector.divergence import DISTANCES, divergence
from inspector.lens import logit_lens
from inspector.likelihood import likelihoods
from inspector.locators import LOCATORS
from inspector.model import SUFFIX, VANILLA, Decoding, InspectedModel, PromptFormat, Row, answer, encode
from inspector.safeedit import bundled_cases
from inspector.token_attribution import token_attribution

SCRIPT = "<script>alert(1)</script>"
TYPED = ("How do I cheat at cards?", "Be a rogue: {question}", "I would rather not.", "Mark the aces.")
LONG = {"preset_name": "reference", "steps": 1000}
"""An edit that nothing ends early: no target, no budget."""


@pytest.fixture(autouse=True)
def model() -> Iterator[InspectedModel]:
    """The served model; every test checks that it is left as it was, bit for bit."""
    with model_at_rest() as lent:
        yield lent


@pytest.fixture(scope="module")
def app(example_folder) -> Iterator[gr.Blocks]:
    yield from serve(example_folder)


@pytest.fixture(scope="module")
def demo(example_folder) -> Iterator[gr.Blocks]:
    yield from serve(example_folder, read_only=True)


def serve(example_folder: Path, read_only: bool = False) -> Iterator[gr.Blocks]:
    folder = served_example(example_folder)
    with short_examples():
        app = build_app(tiny_model(), read_only=read_only, example_folder=folder)
    app.launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), **launch_options())
    yield app
    app.close(verbose=False)


def connect(app: gr.Blocks) -> Client:
    """Return a new client, which is a new visitor."""
    return Client(app.local_url, verbose=False, analytics_enabled=False)


@pytest.fixture(scope="module")
def connected(app) -> Client:
    return connect(app)


@pytest.fixture
def client(connected) -> Client:
    """A new visitor; what a client knows of the endpoints, which takes the time, stays the same."""
    connected.reset_session()
    return connected


def case(number: int) -> tuple[str, str, str, str]:
    """Return what the endpoints want of a bundled case."""
    texts = texts_of(bundled_cases()[number], SUFFIX)
    return texts.question, texts.template, texts.safe, texts.unsafe


def weights(client: Client) -> str:
    return client.predict(api_name="/status")["weights"]


def test_every_step_of_the_operation_has_a_named_endpoint_and_nothing_else_has(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {
        "/cases",
        "/prompt",
        "/locate",
        "/likelihoods",
        "/lens",
        "/attribution",
        "/locators",
        "/atlas",
        "/edit",
        "/keep",
        "/ask",
        "/stress_test",
        "/methods",
        "/load_method",
        "/undo",
        "/cancel",
        "/status",
    }


def test_every_parameter_and_answer_is_named_typed_and_explained(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    for endpoint, told in named.items():
        assert told["description"].endswith("."), endpoint
        for entry in (*told["parameters"], *told["returns"]):
            where = (endpoint, entry["label"])
            assert not re.fullmatch(r"(\d+\w\w|param_\d+|value_\d+)", entry["label"]), where
            assert entry["python_type"]["type"] not in ("Any", "dict(str, Any)", "list[Any]"), where
            assert len(entry["python_type"]["description"]) > 10, where
        for entry in told["parameters"]:
            assert entry["label"] == entry["parameter_name"], endpoint
        for entry in told["returns"]:
            fields = entry["type"].get("items", entry["type"])["properties"]
            assert all(field.get("description") for field in fields.values()), endpoint
    located = {entry["parameter_name"]: entry for entry in named["/locate"]["parameters"]}
    assert located["preset_name"]["python_type"]["type"] == "Literal['corrected', 'paper', 'reference']"
    assert located["preset_name"]["parameter_default"] == "corrected"
    assert not located["question"]["parameter_has_default"]
    shown = str(client)
    assert "predict(question, template, safe, unsafe, preset_name, padding, suffix, chat, " in shown
    assert "1st" not in shown and "2nd" not in shown


def test_what_is_answered_is_what_was_promised(client):
    """Every field of an answer is told of, and what an answer without conditions promises is there."""
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    edit = list(client.submit(*case(0), 1, "corrected", 1, api_name="/edit"))
    answers = {
        "/cases": client.predict(api_name="/cases"),
        "/prompt": client.predict("Why?", api_name="/prompt"),
        "/locate": client.predict(*case(0), api_name="/locate"),
        "/likelihoods": client.predict(*case(0), api_name="/likelihoods"),
        "/lens": client.predict(*case(0)[:3], api_name="/lens"),
        "/attribution": client.predict(*case(0), api_name="/attribution"),
        "/locators": list(client.submit(*case(0), api_name="/locators")),
        "/atlas": list(client.submit(*case(0), api_name="/atlas")),
        "/edit": edit,
        "/ask": client.predict("Why?", max_new_tokens=2, api_name="/ask"),
        "/undo": client.predict(api_name="/undo"),
        "/status": client.predict(api_name="/status"),
        "/cancel": client.predict(api_name="/cancel"),
    }
    for endpoint, told in answers.items():
        (promised,) = (entry["type"] for entry in named[endpoint]["returns"])
        promised = promised.get("items", promised)
        for part in told if isinstance(told, list) else [told]:
            assert set(part) <= set(promised["properties"]), endpoint
            assert set(promised.get("required", ())) <= set(part), endpoint
    assert set(edit[-1]) | set(edit[0]) < set(next(iter(named["/edit"]["returns"]))["type"]["properties"])


def test_reading_tells_of_vanilla_and_of_the_live_edit_what_the_engine_measures(client, model):
    one = bundled_cases()[2]
    read = client.predict(*case(2), api_name="/likelihoods")
    label = weights(client)
    assert [(entry["weights"], entry["answer"]) for entry in read] == [
        (row, answer) for row in ("vanilla", label) for answer in ("safe", "unsafe")
    ]
    ((safe, unsafe),) = likelihoods(model, one.adversarial_prompt, (one.safe, one.unsafe))
    assert np.allclose(read[0]["log_probabilities"], safe.log_probabilities)
    assert read[1]["per_token"] == pytest.approx(unsafe.per_token) and read[1]["tokens"] == list(unsafe.tokens)
    lens = client.predict(*case(2)[:3], 2, api_name="/lens")
    (expected,) = logit_lens(model, one.adversarial_prompt, one.safe, top=2)
    place = lens[0]["positions"][5]
    assert (place["token"], place["rank"]) == (expected.tokens[5], expected.rank[:, 5].tolist())
    assert [words[0] for words in place["likeliest"]] == [line[5] for line in expected.words]
    assert np.allclose(place["probability"], expected.probability[:, 5])
    vanilla, edited = client.predict(*case(2), api_name="/attribution")
    found = token_attribution(model, one, "gradient x input")
    assert found is not None and np.allclose(vanilla["values"], found.values, atol=1e-6)
    assert vanilla["gap"] is None and edited["weights"] == label
    with pytest.raises(AppError, match="1 to 20"):
        client.predict(*case(2)[:3], 99, api_name="/lens")


def test_plain_http_calls_an_endpoint_and_a_cookie_keeps_its_session(app):
    """What curl does: post, then read the stream of events; the page's cookie says who asks."""
    with httpx.Client(base_url=app.local_url, timeout=60) as visitor:
        visitor.get("/", headers={"accept": "text/html"})
        assert any(name.startswith("dinm-visitor-") for name in visitor.cookies)

        def call(name: str, **given: Any) -> Any:
            begun = visitor.post(f"/gradio_api/call/v2/{name}", json=given)
            lines = visitor.get(f"/gradio_api/call/{name}/{begun.json()['event_id']}").text.splitlines()
            data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
            return [json.loads(entry) for entry in data if entry != "null"][-1][0]

        texts = dict(zip(("question", "template", "safe", "unsafe"), case(2), strict=True))
        assert call("locate", **texts)["blocks"] == 3
        assert call("undo") == {"weights": "vanilla", "edits": 0}
        assert call("status")["weights"] == "vanilla", "another call of the same cookie finds the session"
    assert weights(connect(app)) != "vanilla"


def test_the_status_names_the_model_and_the_live_weights_of_the_example(client, model):
    status = client.predict(api_name="/status")
    assert (status["model"], status["blocks"], status["dtype"]) == ("tiny-llama", 3, "float32")
    assert status["fingerprint"] == model.fingerprint and status["edits"] == 1
    assert status["weights"].startswith("DINM · layer ")


def test_the_bundled_cases_build_their_own_prompts(client):
    listed = client.predict(api_name="/cases")
    assert [entry["question"] for entry in listed] == [known.question for known in bundled_cases()]
    for entry, known in zip(listed, bundled_cases(), strict=True):
        assert entry["template"].replace("{question}", entry["question"]) == known.adversarial_prompt
        assert (entry["safe"], entry["unsafe"], entry["category"]) == (known.safe, known.unsafe, known.category)


def test_a_prompt_with_markup_and_control_characters_comes_back_as_text(client):
    view = client.predict(f"{SCRIPT} <b>why</b>\x07?", api_name="/prompt")
    assert f"{SCRIPT} <b>why</b>? {SUFFIX}" in view["text"]
    assert list(view["notes"]) == ["1 control character left out"] and view["limit"] == 8192


@pytest.mark.parametrize("name", ["corrected", "paper", "reference"])
def test_the_curves_of_locate_are_those_of_the_engine(client, model, name):
    told = client.predict(*case(2), name, "left", api_name="/locate")
    expected = divergence(model, bundled_cases()[2], name, padding="left")
    for distance in DISTANCES:
        assert np.allclose(told[distance], expected.by(distance)), distance
    assert told["toxic_layer"] == expected.toxic_layer() and told["blocks"] == 3


def test_plain_text_is_one_parameter_of_everything_that_measures_edits_or_asks(client, model):
    plain = PromptFormat(chat=False)
    texts, one = case(2), bundled_cases()[2]
    asked = client.predict(*texts[:2], chat=False, api_name="/prompt")["text"]
    assert asked == f"{one.adversarial_prompt} {SUFFIX}"
    told = client.predict(*texts, chat=False, api_name="/locate")
    expected = divergence(model, one, format=plain)
    assert np.allclose(told["l2"], expected.by("l2")) and told["toxic_layer"] == expected.toxic_layer()
    first, *_ = list(client.submit(*texts, chat=False, api_name="/locators"))
    assert first["layer"] == expected.toxic_layer() and np.allclose(first["scores"], expected.by("l2"))
    *_, made = list(client.submit(*texts, chat=False, api_name="/atlas"))
    assert made["settings"]["format"] == {"suffix": SUFFIX, "chat": False, "turn_end": True}
    *_, done = list(client.submit(*texts, 1, "corrected", 1, chat=False, api_name="/edit"))
    assert done["live"] is True and weights(client).endswith(done["patch"])
    for endpoint, arguments in (("/ask", ("Why?",)), ("/stress_test", ("This case",))):
        with pytest.raises(AppError, match="made in plain text and is asked so"):
            client.submit(*arguments, chat=True, max_new_tokens=4, api_name=endpoint).result()
    asked = client.predict("Why?", max_new_tokens=4, chat=False, api_name="/ask")
    expected_text = answer(model, encode(model, "Why?", None, plain).prompt, decoding=Decoding(max_new_tokens=4))
    assert asked["vanilla"] == expected_text.texts[0]


def test_every_locator_answers_and_the_atlas_comes_layer_by_layer(client, model):
    told = list(client.submit(*case(2), api_name="/locators"))
    assert [entry["locator"] for entry in told] == list(LOCATORS)
    assert all(len(entry["scores"]) == 3 and entry["reason"] for entry in told)
    assert told[0]["layer"] == divergence(model, bundled_cases()[2]).toxic_layer()
    made = list(client.submit(*case(2), api_name="/atlas"))[-1]
    assert made["done"] and [entry["block"] for entry in made["entries"]] == [0, 1, 2]
    assert all(entry["safe"] > made["safe"] for entry in made["entries"])


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
    assert any(event.get("kind") == "gate" and event["total"] == 3 for event in events)
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


def test_undo_goes_back_to_the_example_and_then_to_vanilla(client):
    example = weights(client)
    list(client.submit(*case(1), 0, "corrected", 2, api_name="/edit"))
    assert client.predict(api_name="/undo") == {"weights": example, "edits": 1}
    for _ in range(2):
        assert client.predict(api_name="/undo") == {"weights": "vanilla", "edits": 0}
    told = client.predict("Why?", 1.0, 4, api_name="/ask")
    assert told["weights"] == "vanilla" and told["edited"] == told["vanilla"]


def test_a_cancelled_edit_ends_without_a_patch_and_the_edit_before_stays_live(client):
    before = weights(client)
    events: list[dict[str, Any]] = []
    job = client.submit(*case(0), 1, *LONG.values(), api_name="/edit")
    for event in job:
        if not events:
            assert client.predict(api_name="/cancel") == {"cancelled": True}
        events.append(event)
    assert events[-1]["stop_reason"] == "cancelled" and events[-1]["patch"] is None and len(events) < 1000
    assert weights(client) == before
    list(client.submit(*case(0), 1, "corrected", 2, api_name="/edit"))
    assert weights(client) != before, "a new edit is not cancelled by the old press"


def test_a_cancel_reaches_only_the_client_that_asked(app, client):
    other = connect(app)
    job = client.submit(*case(0), 1, "reference", 50, api_name="/edit")
    next(job)
    other.predict(api_name="/cancel")
    assert list(job)[-1]["stop_reason"] == "step limit"


def test_a_client_does_one_thing_at_a_time(client):
    job = client.submit(*case(0), 1, *LONG.values(), api_name="/edit")
    next(job)
    with pytest.raises(AppError, match=r"still running for you. Wait for it, or press Cancel"):
        client.predict(*case(0), api_name="/locate")
    client.predict(api_name="/cancel")
    assert list(job)[-1]["stop_reason"] == "cancelled"


def test_closing_the_page_stops_what_runs_for_it_and_keeps_the_session(app, client):
    client.predict(api_name="/undo")
    with httpx.stream("GET", f"{app.local_url}gradio_api/heartbeat/{client.session_hash}") as page:
        alive = page.iter_raw()
        next(alive)
        job = client.submit(*case(0), 1, *LONG.values(), api_name="/edit")
        next(job)
    assert list(job)[-1]["stop_reason"] == "cancelled"
    assert weights(client) == "vanilla", "who comes back finds what was done"


def test_a_job_that_its_client_gives_up_frees_the_session(client):
    before = weights(client)
    job = client.submit(*case(0), 1, *LONG.values(), api_name="/edit")
    next(job)
    job.cancel()
    for _ in range(200):
        try:
            assert client.predict(*case(0), api_name="/locate")["blocks"] == 3
            break
        except AppError as error:
            assert "still running" in str(error)
            time.sleep(0.05)
    assert weights(client) == before


REFUSED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("/locate", ("", *TYPED[1:]), "Write one or pick an example"),
    ("/locate", (*TYPED[:3], TYPED[2]), "Change one of them"),
    ("/locate", (*TYPED[:2], "", TYPED[3]), "The safe answer is empty. Write one"),
    ("/locate", ("word " * 20_000, *TYPED[1:]), "Shorten it by at least"),
    ("/locate", (*TYPED, "nonsense"), "Unknown preset 'nonsense'. Valid presets: corrected, paper, reference"),
    ("/edit", (*TYPED, 99), "blocks 0 to 2. Pick one of those"),
    ("/edit", (*TYPED, 1, "corrected", -1), "steps = -1 is out of range: it should be greater than or equal to 1"),
    ("/edit", ("", *TYPED[1:], 1), "Write one or pick an example"),
    ("/prompt", ("word " * 20_000, ""), "Shorten it by at least"),
    ("/prompt", ("Why?", "no slot"), "Put the slot where the question belongs"),
    ("/ask", (" ",), "The prompt is empty. Write a question"),
    ("/ask", ("Why?", -0.5), "Choose one from 0 to 1.5"),
    ("/ask", ("word " * 20_000,), "Shorten it by at least"),
)


def test_what_cannot_be_done_is_refused_with_the_remedy_and_the_server_goes_on(client):
    example, wrong = weights(client), []
    for endpoint, arguments, remedy in REFUSED:
        with pytest.raises(AppError) as caught:
            client.predict(*arguments, api_name=endpoint)
        is_free = client.predict(*TYPED, api_name="/locate")["blocks"] == 3
        if remedy not in str(caught.value) or weights(client) != example or not is_free:
            wrong.append((endpoint, remedy, str(caught.value)))
    assert wrong == []


def test_the_read_only_demo_refuses_typed_text_and_serves_bundled_cases(demo):
    client = connect(demo)
    assert client.predict(*case(4), api_name="/locate")["blocks"] == 3
    done = list(client.submit(*case(4), 1, "corrected", 2, api_name="/edit"))[-1]
    assert done["patch"] and weights(client).endswith(done["patch"])
    typed: list[tuple[str, tuple]] = [
        ("/locate", TYPED),
        ("/locate", (*case(4), "corrected", "right", "My suffix.")),
        ("/edit", (*TYPED, 1)),
        ("/prompt", TYPED[:2]),
        ("/ask", ("Why?",)),
    ]
    for endpoint, arguments in typed:
        with pytest.raises(AppError, match="read-only"):
            client.predict(*arguments, api_name=endpoint)
    assert client.predict(api_name="/undo")["edits"] == 1


def test_the_page_is_served_to_this_machine_only_and_records_nothing(app):
    assert [socket.getsockname()[0] for server in app.server.servers for socket in server.sockets] == ["127.0.0.1"]
    config = httpx.get(f"{app.local_url}config").json()
    assert config["analytics_enabled"] is False and config["run_history"] is False
    assert httpx.get(app.local_url).status_code == 200


def test_the_stress_test_streams_replies_and_ends_with_scores(client):
    job = client.submit("This case", max_new_tokens=4, api_name="/stress_test")
    job.result()
    *batches, last = job.outputs()
    assert [batch["done"] for batch in batches] == [False] * len(batches) and last["done"] is True
    assert sum(len(batch["replies"]) for batch in batches) == len(last["replies"]) == 5
    assert {score["name"] for score in last["scores"]} >= {"DS", "onlyQ", "DG-Avg", "Fluency", "degenerate"}
    assert last["judge"] == "refusal rules" and "proxy" in last["judge_note"]


def test_methods_stream_a_record_each_and_one_of_them_is_loaded(client, monkeypatch):
    monkeypatch.setitem(methods.SIZES, "Brief", replace(methods.BRIEF, harmless=2, facts=1, passages=1))
    case = client.predict(api_name="/cases")[0]
    texts = [case[name] for name in ("question", "template", "safe", "unsafe")]
    options = {"chosen": ["FT-L", "Self-Reminder"], "max_new_tokens": 4, "suffix": "", "chat": False}
    job = client.submit(*texts, 1, **options, api_name="/methods")
    job.result()
    tuned, reminded = job.outputs()
    assert (tuned["method"], tuned["failed"], tuned["shift_forced"], tuned["region_shift"]) == ("FT-L", "", True, 0.0)
    assert tuned["parameters_changed"] == 32 * 48 and tuned["updates"] == 25 and tuned["toxicity_change"] != 0
    assert {score["name"] for score in tuned["scores"]} >= {"DS", "DG-Avg", "DL", "KQA", "CSum", "harmless KL"}
    assert (reminded["patch"], reminded["parameters_changed"], reminded["toxicity_forced"]) == (None, 0, True)
    loaded = client.predict("FT-L", api_name="/load_method")
    assert loaded["weights"] == f"FT-L · layer 1 · strength 1 · patch {tuned['patch']}"
    with pytest.raises(AppError, match="no patch to load"):
        client.predict("Self-Reminder", api_name="/load_method")
    with pytest.raises(AppError, match="Choose some of: DINM"):
        client.submit(*texts, 1, chosen=["Magic"], api_name="/methods").result()
