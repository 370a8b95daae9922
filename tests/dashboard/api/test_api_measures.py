"""What endpoints measure is what the engine measures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from api_helpers import case, weights
from dashboard_helpers import SHORT_GATE
from gradio_client.exceptions import AppError

from dashboard.steps.methods import run as methods
from dashboard.steps.operate import gating
from editing.calibrating.calibration import calibrate_command
from editing.gate.budgets import Budgets
from editing.gate.gate import GateSettings
from inspector.divergence import DISTANCES, divergence
from inspector.lens import logit_lens
from inspector.likelihood import likelihoods
from inspector.locators import LOCATORS
from inspector.model import SUFFIX, Decoding, PromptFormat, answer, encode
from inspector.safeedit import bundled_cases
from inspector.safeedit.yardstick import YARDSTICK
from inspector.token_attribution import token_attribution


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


@pytest.mark.parametrize("name", ["corrected", "paper", "reference"])
def test_the_curves_of_locate_are_those_of_the_engine(client, model, name):
    told = client.predict(*case(2), name, "left", api_name="/locate")
    expected = divergence(model, bundled_cases()[2], name, padding="left")
    for distance in DISTANCES:
        assert np.allclose(told[distance], expected.by(distance)), distance
    assert told["toxic_layer"] == expected.toxic_layer() and told["blocks"] == 3
    assert told["toxic_reason"] == expected.reason() and told["recommended_layer"] is None
    assert told["recommended_reason"].endswith(f"Run: {calibrate_command(model)}")


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
    tuned, reminded, rounded = job.outputs()
    assert (tuned["method"], tuned["failed"], tuned["shift_forced"], tuned["region_shift"]) == ("FT-L", "", True, 0.0)
    assert tuned["parameters_changed"] == 32 * 48 and tuned["updates"] == 25 and tuned["toxicity_change"] != 0
    assert {score["name"] for score in tuned["scores"]} >= {"DS", "DG-Avg", "DL", "KQA", "CSum", "harmless KL"}
    assert (reminded["patch"], reminded["parameters_changed"], reminded["toxicity_forced"]) == (None, 0, True)
    assert (rounded["method"], rounded["failed"], rounded["patch"]) == ("Rounded", "", None)
    assert {score["name"] for score in rounded["scores"]} == set(YARDSTICK)
    (row,) = (row for row in client.predict(api_name="/history") if row["patch"] == tuned["patch"])
    assert (row["origin"], row["live"], row["in_memory"]) == ("run in Methods", False, True) and row["scores"]["DS"]
    before = weights(client)
    with monkeypatch.context() as patch:
        patch.setattr(gating, "settings_of", lambda _: GateSettings(budgets=Budgets(harmless_kl=0), **SHORT_GATE))
        with pytest.raises(
            AppError, match=r"Refused: harmless KL [\d.e+-]+ nats a token \(0 allowed.*pass keep_anyway"
        ):
            client.predict("FT-L", api_name="/load_method")
        assert weights(client) == before
        kept = client.predict("FT-L", keep_anyway=True, api_name="/load_method")["weights"]
        assert kept.endswith(tuned["patch"]) and client.predict(api_name="/undo")["weights"] == before
    free = Budgets(harmless_kl=100, over_refusal=100, degenerate=100, parroting=100, lost_defence=100)
    monkeypatch.setattr(gating, "settings_of", lambda _: GateSettings(budgets=free, **SHORT_GATE))
    loaded = client.predict("FT-L", api_name="/load_method")
    assert loaded["weights"] == f"FT-L · layer 1 · strength 1 · patch {tuned['patch']}"
    listed = [known for known in client.predict(api_name="/history") if known["patch"] == tuned["patch"]]
    word = {name: listed[0][name] for name in ("gate", "reason")}
    assert listed == [{**row, "live": True, "was_live": True, **word}], "its row has become the live one"
    assert word["gate"] != row["gate"] and word["reason"].startswith("Passed")
    with pytest.raises(AppError, match="no patch to load"):
        client.predict("Self-Reminder", api_name="/load_method")
    with pytest.raises(AppError, match=r"Run: python -m editing\.calibrate"):
        client.submit(*texts, 1, **options, routed=True, api_name="/methods").result()
    with pytest.raises(AppError, match="Choose some of: DINM"):
        client.submit(*texts, 1, chosen=["Magic"], api_name="/methods").result()
