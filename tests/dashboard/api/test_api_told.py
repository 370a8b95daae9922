"""What programs are told of the endpoints, and that each answers what it has promised."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
from api_helpers import SCRIPT, case, connect, weights
from dashboard_helpers import SHORT_GATE
from gradio_client import handle_file

from dashboard.steps.methods import run as contests
from dashboard.steps.operate import gating
from editing.gate.budgets import Budgets
from editing.gate.gate import GateSettings
from inspector.model import SUFFIX
from inspector.safeedit import bundled_cases
from inspector.safeedit.questions import Size


def test_every_step_of_the_operation_has_a_named_endpoint_and_nothing_else_has(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {
        "/cases",
        "/open_model",
        "/prompt",
        "/locate",
        "/likelihoods",
        "/lens",
        "/attribution",
        "/locators",
        "/atlas",
        "/edit",
        "/keep",
        "/examine",
        "/save",
        "/take_in",
        "/history",
        "/compare",
        "/redo",
        "/rename",
        "/delete",
        "/report",
        "/make_link",
        "/open_link",
        "/compare_models",
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


def test_what_is_answered_is_what_was_promised(client, monkeypatch):
    """Every field of an answer is told of, and what an answer without conditions promises is there."""
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    with monkeypatch.context() as patch:
        patch.setattr(gating, "settings_of", lambda _: GateSettings(budgets=Budgets(harmless_kl=0), **SHORT_GATE))
        list(client.submit(*case(1), 1, "corrected", 1, api_name="/edit"))
    kept = client.predict(api_name="/keep")
    monkeypatch.setitem(contests.SIZES, "Brief", Size(0, 1, 0, 0))
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
        "/keep": kept,
        "/stress_test": list(client.submit("This case", max_new_tokens=2, api_name="/stress_test")),
        "/ask": client.predict("Why?", max_new_tokens=2, api_name="/ask"),
        "/examine": list(client.submit(api_name="/examine")),
        "/save": (saved := client.predict(api_name="/save")),
        "/take_in": list(client.submit(files=[handle_file(saved["file"])], api_name="/take_in")),
        "/methods": list(client.submit(*case(0), 1, ["FT-L"], max_new_tokens=2, api_name="/methods")),
        "/load_method": client.predict("FT-L", True, api_name="/load_method"),
        "/history": client.predict(api_name="/history"),
        "/compare": client.predict(1, 2, max_new_tokens=2, api_name="/compare"),
        "/report": client.predict(api_name="/report"),
        "/make_link": client.predict(*case(0), api_name="/make_link"),
        "/open_link": client.predict(f"?case={bundled_cases()[0].identifier}", api_name="/open_link"),
        "/open_model": list(client.submit("tiny-llama", api_name="/open_model")),
        "/compare_models": list(client.submit(*case(0), "tiny-llama", "deeper", 2, api_name="/compare_models")),
        "/rename": client.predict(2, "mine", api_name="/rename"),
        "/delete": client.predict(1, api_name="/delete"),
        "/undo": client.predict(api_name="/undo"),
        "/redo": client.predict(api_name="/redo"),
        "/status": client.predict(api_name="/status"),
        "/cancel": client.predict(api_name="/cancel"),
    }
    assert set(answers) == set(named), "none is left out"
    for endpoint, told in answers.items():
        (promised,) = (entry["type"] for entry in named[endpoint]["returns"])
        promised = promised.get("items", promised)
        for part in told if isinstance(told, list) else [told]:
            assert set(part) <= set(promised["properties"]), endpoint
            assert set(promised.get("required", ())) <= set(part), endpoint
    fields = {endpoint: set(told["returns"][0]["type"].get("properties", ())) for endpoint, told in named.items()}
    assert set(edit[-1]) | set(edit[0]) < fields["/edit"]
    told = set().union(*answers["/stress_test"])
    assert told == fields["/stress_test"] - {"kind", "message", "fraction"}, "and nothing that never comes"


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


def test_the_page_is_served_to_this_machine_only_and_records_nothing(app):
    assert [socket.getsockname()[0] for server in app.server.servers for socket in server.sockets] == ["127.0.0.1"]
    config = httpx.get(f"{app.local_url}config").json()
    assert config["analytics_enabled"] is False and config["run_history"] is False
    assert httpx.get(app.local_url).status_code == 200
