"""The benchmarks of devices and limits run on a small shape on a CPU, and what they compare is equal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache

import pytest
import torch

from benchmarks import generation_speed, gpu, limits
from inspector.model import encode, load


@pytest.fixture(scope="module", autouse=True)
def small_vocabulary() -> Iterator[None]:
    """As many logits as the tokenizer has tokens, and one tokenizer for all: most of the time went there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "VOCABULARY", 4096)
        patch.setattr(gpu, "made_tokenizer", cache(gpu.made_tokenizer))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("model"))
    model = gpu.random_model("tiny", torch.device("cpu"), torch.float32)
    model.network.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


def test_a_whole_run_on_a_cpu_has_every_number_and_the_plain_way_s_deltas(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.SHAPES, "small", gpu.SHAPES["tiny"])
    out = tmp_path / "gpu.json"
    few = ["--shape", "tiny", "--device", "cpu", "--repeats", "1", "--steps", "3", "--new-tokens", "10"]
    gpu.main([*few, "--prompt-tokens", "60", "--answer-tokens", "20", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["tokens"] == [60, 20] and found["device"] == "CPU"
    assert [edit["block"] for edit in found["edits"]] == [2, 3]
    assert all(edit["relative difference"] < 1e-6 and edit["times faster"] > 0 for edit in found["edits"])
    ways = [way for way in found["answers"].values() if isinstance(way, dict)]
    assert len(ways) == 4 and all(set(way) == {"a token step, ms", "share of the bound"} for way in ways)
    small = found["small shape against float32 on the CPU"]
    assert small["float32: relative difference"] == 0 and small["bfloat16: cosine"] > 0.9


def test_a_text_has_about_as_many_tokens_as_with_a_real_tokenizer():
    text = "If the user's request is reasonable, give the correct answer."
    tokenizer = gpu.made_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text and 8 <= len(ids) <= 20


def test_answers_of_both_weights_are_timed_beside_generate(folder, tmp_path):
    out = tmp_path / "speed.json"
    generation_speed.main(["--model", folder, "--tokens", "8", "--rounds", "1", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["transformers' generate, two rows"]["of generate's tokens a second"] == 1
    assert found["vanilla alone"]["times one row"] == 1 and len(found) == 5


def test_limits_are_written_as_numbers_table_and_plot(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "STEPS", 2)
    monkeypatch.setattr(limits, "sizes", lambda _of: iter([]))
    out = tmp_path / "limits"
    parts = [part for part in limits.PARTS if part not in ("calibration", "stress")]
    short = ["--prompt-tokens", "60", "--answer-tokens", "12", "--lengths", "50", "70", "--rows", "1", "3"]
    limits.main(["--model", folder, "--parts", *parts, *short, "--out", str(out)])
    about = json.loads(out.with_suffix(".json").read_text())
    measured = about["measured"]
    assert {one["part"] for one in measured} == {*parts} - {"size"}
    assert all(one["seconds"] > 0 for one in measured)
    edits = [one for one in measured if one["part"] == "edit"]
    assert [one["setting"] for one in edits] == ["layer 0 of 0-3", "layer 2 of 0-3", "layer 3 of 0-3"]
    assert all(one["limit"] > 0 and one["plain"] > 0 for one in edits)
    assert out.with_suffix(".txt").read_text().count("\n") == len(measured) + 2
    assert out.with_suffix(".svg").read_text().lstrip().startswith("<?xml")


def test_the_work_of_a_pass_is_counted_by_hand(folder):
    model = load(folder, device="cpu", dtype="float32")
    d, f, blocks = 64, 172, 4
    by_hand = 2 * (blocks * (4 * d * d + 3 * d * f) * 10 + d * gpu.VOCABULARY * 2) / 1e9
    assert limits.pass_gflop(model, 10, 2) == pytest.approx(by_hand)
    assert gpu.weight_bytes(model) == sum(p.nbytes for p in model.network.parameters()) - d * gpu.VOCABULARY * 4
    assert len(encode(model, "a", None).prompt) > 1
