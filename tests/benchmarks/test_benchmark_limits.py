"""What is measured beside the machine's limit: which rows a run has, and what it keeps of them."""

from __future__ import annotations

import json

import pytest

from benchmarks import limits
from editing import preset
from inspector.errors import EditError


def test_a_run_keeps_a_row_a_measurement_with_its_ratio_and_its_share_of_the_limit(
    llama, case, monkeypatch, tmp_path, capsys
):
    short = preset("corrected", harmless_prompts=2, harmless_tokens=3, own_refusals=0, companions=0)
    monkeypatch.setattr(limits, "load_model", lambda _options: llama)
    monkeypatch.setattr(limits, "attempts", lambda _settings, _detector: (short,))
    monkeypatch.setattr(limits, "machine", lambda _model, _positions: limits.Machine(rate=1e-3, bandwidth=1e-3))
    monkeypatch.setattr(limits, "sized_case", lambda *_: case)
    limits.main(["--parts", "locate", "first", "--out", str(tmp_path / "limits")])
    printed = capsys.readouterr().out
    kept = json.loads((tmp_path / "limits.json").read_text())["measured"]
    assert [row["part"] for row in kept] == ["locate", "first", "first"]
    locate, shown, updated = kept
    assert locate["plain"] > 0 and locate["limit"] > 0 and locate["peak"] is not None
    share = f"{locate['limit'] / locate['seconds']:.0%}"
    assert share in printed and share in (tmp_path / "limits.txt").read_text()
    assert 0 < shown["seconds"] < updated["seconds"] and shown["setting"].startswith("step, layer ")
    assert (tmp_path / "limits.svg").read_text().lstrip().startswith("<?xml")


def test_a_model_on_a_card_is_sent_to_the_other_benchmark(llama, monkeypatch):
    class OnCard:
        device = type("Device", (), {"type": "cuda"})()

    monkeypatch.setattr(limits, "load_model", lambda _options: OnCard())
    with pytest.raises(EditError, match=r"benchmarks\.gpu"):
        limits.main(["--parts", "locate"])
