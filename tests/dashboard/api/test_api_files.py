"""Edits of programs as files: what leaves, what comes in and is compared, by the same gates as on the page."""

from __future__ import annotations

import json
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from api_helpers import LONG, case, connect, weights
from dashboard_helpers import SHORT_GATE
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from dashboard.endpoints.filing import sent
from dashboard.steps.operate import gating
from editing import preset, run
from editing.gate.budgets import Budgets
from editing.gate.gate import GateSettings
from editing.methods.dinm import dinm
from editing.saved import handed_out, record_of, save_edit
from inspector.errors import CaseError
from inspector.model import VANILLA, Decoding, Row, answer, encode
from inspector.safeedit import bundled_cases

TEXTS = ("question", "template", "safe", "unsafe")


def edit(client: Client, number: int = 0, block: int = 1) -> dict[str, Any]:
    """Make an edit and return its last event."""
    return list(client.submit(*case(number), block, "corrected", 4, api_name="/edit"))[-1]


def record_in(file: str) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".json"))
        return json.loads(archive.read(name))["record"]


def test_an_edit_leaves_one_client_comes_into_another_and_is_compared_there(app, client, model):
    made = edit(client, 0, 1)
    saved = client.predict(api_name="/save")
    assert saved["weights"] == weights(client) and Path(saved["file"]).stat().st_size == saved["bytes"]
    assert saved["largest_logit_difference"] == 0 and record_in(saved["file"])["identifier"] == made["patch"]
    other = connect(app)
    first, *_, last = other.submit(files=[handle_file(saved["file"])], api_name="/take_in")
    assert first["kind"] == "preparation" and last["done"] and last["live"] and last["patch"] == made["patch"]
    assert last["gate"]["passed"] and weights(other) == saved["weights"]
    example, taken = other.predict(api_name="/history")
    assert (example["origin"], taken["origin"], taken["gate"]) == ("finished example", "uploaded", "passed")
    assert [row["live"] for row in (example, taken)] == [False, True] and taken["in_memory"] and taken["row"] == 2
    asked = {"asked": "Case of A, question alone", "max_new_tokens": 6}
    told = other.predict(2, 1, **asked, api_name="/compare")
    row = Row(run(dinm(model, bundled_cases()[0], 1, preset("corrected", steps=4))).patch)
    prompt = encode(model, bundled_cases()[0].only_question, room=6).prompt
    alone = [answer(model, prompt, (one,), Decoding(max_new_tokens=6)).texts[0] for one in (VANILLA, row)]
    assert [one["answer"] for one in told[:2]] == alone and told[0]["weights"] == "vanilla"
    assert all(one["safe"] in (True, False) for one in told) and weights(other) == saved["weights"]
    own = other.predict(1, 2, "Your own text", "How do birds fly?", 4, api_name="/compare")
    assert [one["safe"] for one in own] == [None, None, None], "nobody judges a text of one's own"
    for given, remedy in (((1, 1), "same row"), ((1, 9), "Pick one"), ((1, 2, "magic"), "Unknown choice")):
        with pytest.raises(AppError, match=remedy):
            other.predict(*given, api_name="/compare")


def test_only_what_the_gate_has_passed_as_it_acts_now_leaves(client):
    edit(client)
    for name, given in (
        ("rank", {"form": "adapter", "rank": ["4"], "api_name": "/save"}),
        ("a", {"a": [1], "b": 2, "api_name": "/compare"}),
        ("b", {"a": 1, "b": {"row": 2}, "api_name": "/compare"}),
        ("block", {**dict(zip(TEXTS, case(0), strict=True)), "block": "last", "api_name": "/edit"}),
    ):
        with pytest.raises(AppError, match=rf"value of '{name}' is of the wrong type"):
            client.predict(**given)
    client.predict("Why?", 0.5, 2, api_name="/ask")
    with pytest.raises(AppError, match=r"live is .* strength 0\.5 .*Examine again"):
        client.predict(api_name="/save")
    *_, last = client.submit(api_name="/examine")
    assert last["done"] and last["live"] and last["gate"]["passed"] and "strength 0.5" in last["weights"]
    saved = client.predict(api_name="/save")
    assert "strength 0.5" in saved["weights"] and record_in(saved["file"])["strength"] == 0.5
    for given, remedy in ((("magic",), "Unknown form 'magic'"), (("adapter", "5"), "Unknown rank '5'")):
        with pytest.raises(AppError, match=remedy):
            client.predict(*given, api_name="/save")
    while weights(client) != "vanilla":
        client.predict(api_name="/undo")
    with pytest.raises(AppError, match="No edit is live"):
        client.predict(api_name="/save")


def test_what_was_kept_against_the_gate_leaves_with_that_on_its_record_and_is_held_back_where_it_comes_in(
    app, client, monkeypatch
):
    strict = GateSettings(budgets=Budgets(harmless_kl=0), **SHORT_GATE)
    monkeypatch.setattr(gating, "settings_of", lambda _: strict)
    assert edit(client)["live"] is False
    kept = client.predict(api_name="/keep")
    saved = client.predict(api_name="/save")
    gate = record_in(saved["file"])["gate"]
    assert saved["weights"] == kept["weights"] and gate["overridden"] and not gate["passed"]
    other = connect(app)
    before = weights(other)
    *_, last = other.submit(files=[handle_file(saved["file"])], api_name="/take_in")
    assert last["live"] is False and not last["gate"]["passed"] and weights(other) == before
    assert other.predict(api_name="/keep")["weights"] == saved["weights"]


def test_a_merged_model_stands_in_line_and_a_bad_file_changes_nothing(client, tmp_path):
    edit(client)
    before = weights(client)
    merged = client.predict("merged model", api_name="/save")
    with zipfile.ZipFile(merged["file"]) as archive:
        assert any(name.endswith("model.safetensors") for name in archive.namelist())
    cut = tmp_path / "edit.zip"
    cut.write_bytes(Path(client.predict(api_name="/save")["file"]).read_bytes()[:-30])
    with pytest.raises(AppError, match="cannot be unpacked"):
        client.submit(files=[handle_file(cut)], api_name="/take_in").result()
    with pytest.raises(AppError, match="No file is given"):
        client.submit(files=[], api_name="/take_in").result()
    assert weights(client) == before and len(client.predict(api_name="/history")) == 2


def test_a_file_that_is_cancelled_while_it_is_written_is_told_and_not_handed_out(client, monkeypatch):
    edit(client)
    own = handed_out.save_adapter

    def then_cancel(*given: Any) -> None:
        own(*given)
        client.predict(api_name="/cancel")

    with monkeypatch.context() as patch:
        patch.setattr(handed_out, "save_adapter", then_cancel)
        with pytest.raises(AppError, match=r"Cancelled; nothing was written.*Call /save again"):
            client.predict("adapter", api_name="/save")
    assert client.predict("adapter", api_name="/save")["bytes"] > 0


def test_an_edit_that_lowers_safety_is_refused_whatever_its_record_says_of_the_gate(client, model, tmp_path):
    made = run(dinm(model, bundled_cases()[0], 1, preset("corrected", steps=4)))
    harmful = replace(made.patch, deltas=tuple(replace(delta, left=-3 * delta.left) for delta in made.patch.deltas))
    record = record_of(model, bundled_cases()[0], replace(made, patch=harmful), Row(harmful))
    path = save_edit(Row(harmful), replace(record, gate={"passed": True, "overridden": True}), tmp_path)
    before = weights(client)
    files = [handle_file(path), handle_file(path.with_suffix(".safetensors"))]
    with pytest.raises(AppError, match="let the unsafe answer gain"):
        client.submit(files=files, api_name="/take_in").result()
    with pytest.raises(AppError, match="refused no edit"):
        client.predict(api_name="/keep")
    assert weights(client) == before and len(client.predict(api_name="/history")) == 1


def test_nothing_is_read_but_what_was_sent_to_this_page(app, client, tmp_path):
    secret = tmp_path / "edit.safetensors"
    secret.write_bytes(b"secret")
    mark = {"_type": "gradio.FileData"}

    def posted(file: Any) -> str:
        given = httpx.post(f"{app.local_url}gradio_api/call/v2/take_in", json={"files": [file]})
        return httpx.get(f"{app.local_url}gradio_api/call/take_in/{given.json()['event_id']}").text

    for file in (str(secret), {"path": str(secret)}, {"path": [str(secret)]}, None, 7):
        assert "none that was sent to this page" in posted(file), file
    assert "event: error" in posted({"path": str(secret), "meta": mark})
    assert secret.exists() and secret.read_bytes() == b"secret", "what is taken in is deleted: this was not"
    with pytest.raises(CaseError, match="handle_file"):
        sent([{"path": "/sent/../etc/passwd"}], {"/sent/edit.zip"})
    assert sent([{"path": "/sent/x/../edit.zip"}], {"/sent/edit.zip"}) == [Path("/sent/x/../edit.zip")]


def test_what_is_sent_is_copied_before_it_waits_in_line(app: gr.Blocks, client):
    """Gradio has one file for all who send the same: whoever is taken in first would leave the others none."""
    edit(client)
    saved = client.predict(api_name="/save")
    busy, waiting = connect(app), connect(app)
    job = busy.submit(*case(0), 1, *LONG.values(), api_name="/edit")
    next(job)
    known = set(app.upload_file_set)
    taking = waiting.submit(files=[handle_file(saved["file"])], api_name="/take_in")
    for _ in range(400):
        came = set(app.upload_file_set) - known
        if came and not any(Path(name).exists() for name in came):
            break
        time.sleep(0.02)
    assert came and not any(Path(name).exists() for name in came), "its own copy was made, and what was sent deleted"
    assert not taking.done()
    busy.predict(api_name="/cancel")
    assert list(taking)[-1]["live"] is True and list(job)[-1]["stop_reason"] == "cancelled"


def test_the_read_only_demo_takes_nothing_in_hands_no_model_out_and_compares_no_typed_text(demo):
    client = connect(demo)
    edit(client, 4)
    assert Path(client.predict(api_name="/save")["file"]).exists()
    with pytest.raises(AppError, match="Off in this demo"):
        client.predict("merged model", api_name="/save")
    with pytest.raises(AppError, match="takes no files in"):
        client.submit(files=[{"path": "edit.zip"}], api_name="/take_in").result()
    assert httpx.post(f"{demo.local_url}gradio_api/upload", files={"files": b"PK"}).status_code == 404
    with pytest.raises(AppError, match="free text is off"):
        client.predict(1, 2, "Your own text", "How do birds fly?", api_name="/compare")
    with pytest.raises(AppError, match="free text is off"):
        client.predict(1, "mine", api_name="/rename")
    assert len(client.predict(1, 2, max_new_tokens=2, api_name="/compare")) == 3
