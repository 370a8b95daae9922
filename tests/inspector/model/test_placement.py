"""Where a model's parts go is read from options, refused with the valid ones, and told again as it was said."""

from __future__ import annotations

import offloading
import pytest
import torch

from inspector.errors import ModelLoadError
from inspector.model import load, max_memory_entries, placing, read_max_memory


@pytest.mark.parametrize("name", ["tpu7", "", "cuda:x"])
def test_a_device_that_does_not_exist_is_refused_with_the_valid_ones(name):
    with pytest.raises(ModelLoadError, match=r"no device.*auto, cpu, cuda"):
        load("anything", device=name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_cuda_device_is_refused():
    with pytest.raises(ModelLoadError, match=r"no CUDA device for 'cuda:1'.*--device cpu"):
        load("anything", device="cuda:1")


def test_devices_without_a_spread_model_and_devices_that_do_not_go_with_one_are_refused(tmp_path):
    for options, words in (
        ({"max_memory": {"cpu": 10}}, "Add --device-map auto"),
        ({"device_map": "balanced"}, "Use auto"),
    ):
        with pytest.raises(ModelLoadError, match=words):
            load(tmp_path, device="cpu", **options)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match=r"cannot be spread.*folder or hub id"):
        load(tmp_path / "model.gguf", device="cpu", device_map="auto")


def test_where_the_parts_of_a_model_go_is_known_as_it_was_said_or_as_they_lie(tmp_path, monkeypatch):
    folders = offloading.Folders(tmp_path)
    spread, whole = folders.spread("llama"), folders.whole("llama")
    limit = spread.placed["max_memory"]["cpu"]
    assert placing(spread) == {"device": "cpu", "device_map": "auto", "max_memory": {"cpu": limit}} and limit > 0
    assert placing(whole) == {"device": "cpu"}
    for model in (spread, whole):
        monkeypatch.setattr(model, "placed", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placing(spread) == {"device_map": "auto"} and placing(whole) == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert placing(whole) == {"device": "cpu"}, "by itself it would go to the card"


def test_what_devices_may_hold_is_written_so_that_it_is_read_to_the_byte():
    sizes = {0: 70 * 2**30, 1: 3_500_000_001, 2: 2**20, 3: 5 * 2**10, "cpu": 999}
    assert max_memory_entries(sizes) == ["0=70GiB", "1=3500000.001KB", "2=1MiB", "3=5KiB", "cpu=0.999KB"]
    assert read_max_memory(max_memory_entries(sizes)) == sizes
    assert max_memory_entries({"cpu": "1.5GB"}) == ["cpu=1.5GB"]
