"""What is told of a data type: a model beside itself differs in nothing, a rounded one in what rounding moves."""

from __future__ import annotations

import json

import tiny_models
import torch

from benchmarks import dtypes
from editing import preset
from editing.gate.gate import GateSettings
from inspector.model import from_parts


def test_each_type_stands_beside_the_first_one(case, monkeypatch, tmp_path, capsys):
    quick = {"steps": 2, "learning_rate": 1e-2, "harmless_prompts": 1, "harmless_tokens": 2, "damage_budget": None}
    own = {"own_refusals": 0, "companions": 0}
    monkeypatch.setattr(dtypes, "preset", lambda name: preset(name, **quick, **own))
    monkeypatch.setattr(dtypes, "GateSettings", lambda: GateSettings(harmless=2, questions=1, max_new_tokens=3))
    monkeypatch.setattr(dtypes, "chosen_cases", lambda count: (case,) * count)

    def loaded(options):
        network = tiny_models.network("llama").to(getattr(torch, options.dtype))
        return from_parts(network, tiny_models.tokenizer(), "tiny")

    asked = ["--layer", "1", "--cases", "2", "--dtypes", "float32", "bfloat16", "--tokens", "4", "--rounds", "1"]
    asked += ["--out", str(tmp_path / "types.json")]
    assert dtypes.main(asked, loaded) == 0
    told = capsys.readouterr().out
    assert "tiny, corrected at layer 1, 2 cases" in told and told.splitlines()[1].split() == ["float32", "bfloat16"]
    types = json.loads((tmp_path / "types.json").read_text())["types"]
    first, rounded = types["float32"], types["bfloat16"]
    same, moved = "harmless answers of vanilla, the same text, %", "divergence, largest relative difference"
    least = "change of the weights, least cosine"
    assert (first[same], first[moved]) == (100, 0) and abs(first[least] - 1) < 1e-5
    assert 0 < rounded[moved] < 0.1 and 0.5 < rounded[least] < 1 - 1e-5
    assert first["toxic layer"] == rounded["toxic layer"] and rounded["weights, MiB"] < first["weights, MiB"]
    assert first["updates kept"] == rounded["updates kept"] == "2, 2"
    for one in (first, rounded):
        assert "a token of both answers, ms" in one and one["both answers, of generate's tokens a second"] != 0
    assert "a token of both answers, ms" in told
