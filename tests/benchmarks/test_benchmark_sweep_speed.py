"""The benchmark of sweeps: the same cases paired and shared, their answers compared, a table and a record."""

from __future__ import annotations

import json
import sys

import pytest
import tiny_models
from sweep_helpers import write_cases
from transformers import LlamaConfig

from benchmarks.sweep_speed import Measured, main, table
from inspector.safeedit.known import Pairing


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A tiny model on disk."""
    path = str(tmp_path_factory.mktemp("model"))
    options = {**tiny_models.CONFIGS["llama"][1], "max_position_embeddings": 8192}
    tiny_models.random_network(LlamaConfig(**options), 0).save_pretrained(path)
    tiny_models.tokenizer(limit=8192).save_pretrained(path)
    return path


def test_rows_of_this_process_are_measured_compared_and_written(folder, tmp_path, capsys):
    size = ["--transfer", "0", "--harmless", "3", "--facts", "1", "--passages", "0", "--max-new-tokens", "4"]
    asked = ["--model", folder, "--cases", write_cases(tmp_path, 2), "--steps", "1", "--workers", *size]
    assert main([*asked, "--out", str(tmp_path / "found" / "speed.json")]) == 0
    told = capsys.readouterr()
    assert "2 cases, judge refusal rules" in told.out and told.out.count("of 36") == 2
    record = json.loads((tmp_path / "found" / "speed.json").read_text(encoding="utf-8"))
    paired, shared = record["rows"]
    assert [row["vanilla"] for row in (paired, shared)] == ["paired", "shared"]
    for row in (paired, shared):
        assert row["engine"] == "local" and row["cases"] == 2 and row["same"] == row["answers"] == 36
        assert row["cases a minute"] == pytest.approx(60 * 2 / row["work"], rel=1e-3) and row["start"] == 0
    assert paired["pairing"]["compared"] == 0
    assert shared["pairing"] == {"compared": 4, "vanilla": 0, "edited": 0}
    assert record["settings"]["model"] == folder and record["settings"]["changes"] == {"steps": 1}


def test_the_model_may_be_spread(folder, tmp_path):
    size = ["--transfer", "0", "--harmless", "1", "--facts", "0", "--passages", "0", "--max-new-tokens", "2"]
    spread = ["--device-map", "auto", "--max-memory", "cpu=60KB"]
    asked = ["--model", folder, *spread, "--cases", write_cases(tmp_path, 1), "--steps", "1", "--workers", *size]
    assert main([*asked, "--out", str(tmp_path / "speed.json")]) == 0
    record = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert record["settings"]["device_map"] == "auto" and record["settings"]["max_memory"] == ["cpu=60KB"]
    assert [row["cases"] for row in record["rows"]] == [1, 1]


def test_the_table_has_throughput_and_its_ratio_to_the_first_row():
    rows = [
        Measured("local", 1, "paired", 6, 0.0, 60.0, Pairing(), 240, 240),
        Measured("ray", 4, "shared", 6, 9.5, 15.0, Pairing(72, 1, 2), 237, 240),
    ]
    head, first, second = table(rows).splitlines()
    assert head.split()[:3] == ["engine", "workers", "vanilla"]
    assert first.split() == ["local", "1", "paired", "0.0", "60.0", "6.00", "1.00", "240", "of", "240"]
    assert second.split()[5:] == ["24.00", "4.00", "237", "of", "240", "1", "+", "2", "of", "72"]


def test_a_failed_case_and_a_missing_ray_end_it_with_the_remedy(folder, tmp_path, monkeypatch, capsys):
    long = write_cases(tmp_path, 1, **{"adversarial prompt": "x" * 9000})
    assert main(["--model", folder, "--cases", long, "--workers"]) == 2
    assert "Case 0 failed, so times say nothing" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["--model", folder, "--cases", long, "--workers", "1"]) == 2
    assert "requirements-cluster.txt" in capsys.readouterr().err
