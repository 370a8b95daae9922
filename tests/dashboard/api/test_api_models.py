"""Two models of the operator's list for programs: each says what it says alone, and mistakes name the remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from api_helpers import LONG, case, connect, weights
from gradio_client.exceptions import AppError

from inspector.divergence import DISTANCES, divergence
from inspector.model import Decoding, answer, encode
from inspector.safeedit import bundled_cases


def test_both_are_as_each_alone_what_is_live_stays_and_the_report_has_them(client, model):
    before, (own, other) = weights(client), client.predict(api_name="/status")["models"]
    *events, last = client.submit(*case(0), own, other, 6, api_name="/compare_models")
    assert (own, other) == ("tiny-llama", "deeper") and not any(event["done"] for event in events)
    assert {"Both models answer"} < {event["doing"] for event in events} and len(events[-1]["answers"]) == 2
    first, second = last["models"]
    known = bundled_cases()[0]
    alone, prompt = divergence(model, known), encode(model, known.adversarial_prompt, room=6).prompt
    for distance in DISTANCES:
        assert np.allclose(first["distances"][distance], alone.by(distance)), distance
    assert (first["model"], first["toxic_layer"], first["blocks"]) == (own, alone.toxic_layer(), 3)
    assert first["answer"] == answer(model, prompt, decoding=Decoding(max_new_tokens=6)).texts[0] != ""
    assert (second["model"], second["blocks"], len(second["distances"]["l2"])) == (other, 5, 5)
    assert first["templated"] and not second["templated"] and first["fingerprint"] != second["fingerprint"]
    assert {"label", "judge"} < set(second["verdict"]) and weights(client) == before
    assert "Two models" in client.predict(api_name="/report")["parts"]


def test_what_cannot_be_compared_is_told_by_name(app, demo, client):
    for pair, remedy in (
        (("tiny-llama", "org/unlisted"), "no such model. Choose one of its list: tiny-llama, deeper"),
        (("tiny-llama", str(Path("/etc"))), "no such model"),
        (("deeper", "deeper"), "Both are the same model. Choose another one"),
    ):
        with pytest.raises(AppError) as told:
            client.submit(*case(0), *pair, api_name="/compare_models").result()
        assert remedy in str(told.value)
    with pytest.raises(AppError, match=r"Only one model is listed.*--model A --model B"):
        connect(demo).submit(*case(0), "tiny-llama", "deeper", api_name="/compare_models").result()
    with pytest.raises(AppError, match="At most 1,024 tokens an answer are allowed"):
        client.submit(*case(0), "tiny-llama", "deeper", 5000, api_name="/compare_models").result()


def test_it_stands_in_line_and_ends_within_a_step(app, client):
    busy = connect(app)
    job = busy.submit(*case(0), 1, *LONG.values(), api_name="/edit")
    next(job)
    waiting = client.submit(*case(0), "tiny-llama", "deeper", api_name="/compare_models")
    while len(app.line) < 2:
        assert not waiting.done()
    client.predict(api_name="/cancel")
    with pytest.raises(AppError, match="Cancelled while it waited in line"):
        waiting.result()
    busy.predict(api_name="/cancel")
    list(job)
    running = client.submit(*case(0), "tiny-llama", "deeper", 1024, api_name="/compare_models")
    next(running)
    client.predict(api_name="/cancel")
    with pytest.raises(AppError, match="Cancelled; nothing was changed"):
        running.result()
