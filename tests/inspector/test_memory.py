"""The command that tells how much memory a model needs reads a configuration and nothing else."""

from __future__ import annotations

import json

import pytest
import quantised_models
from transformers import BloomConfig, LlamaConfig, MixtralConfig

from inspector import memory
from inspector.model.memory import spread_need
from inspector.model.memory.memory_need import GB

SHAPE = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}


@pytest.fixture
def folder(tmp_path):
    """A folder with the configuration of a 70B Llama alone."""
    LlamaConfig(vocab_size=32000, num_key_value_heads=8, tie_word_embeddings=False, **SHAPE).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def free(monkeypatch):
    for module in (memory, spread_need):
        monkeypatch.setattr(module, "free_memory", lambda _device: 80 * GB)


def rows(printed: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in printed.splitlines()[2:]}


def test_every_type_is_told_with_what_fits(folder, capsys):
    assert memory.main(["--model", str(folder), "--device", "cpu", "--tokens", "64"]) == 0
    told = capsys.readouterr()
    printed, types = told.err, json.loads(told.out)["types"]
    assert types["nf4"]["fits"] == "yes" and round(types["float32"]["weights"] / GB) == 276
    assert "80 GB free on cpu, prompts of 64 tokens" in printed
    found = rows(printed)
    assert {name: (row[0], row[-1]) for name, row in found.items()} == {
        "float32": ("276", "no"),
        "bfloat16": ("138", "no"),
        "int8": ("70", "read"),  # "to read"
        "nf4": ("40", "yes"),
    }


def test_one_type_a_layer_and_longer_prompts_can_be_asked_for(folder, capsys):
    needs = []
    for layer, tokens in ((70, "64"), (0, "64"), (0, "512")):
        asked = ["--dtype", "nf4", "--layer", str(layer), "--tokens", tokens]
        assert memory.main(["--model", str(folder), "--device", "cpu", *asked]) == 0
        ((name, row),) = rows(capsys.readouterr().err).items()
        assert name == "nf4"
        needs.append(float(row[3]))
    assert needs == sorted(needs) and needs[0] < needs[-1]


def test_a_spread_model_is_told_with_where_its_weights_go_and_what_is_left(folder, capsys):
    """Cards that this machine has not are taken to have what is named."""
    cards = [f"{number}=80GB" for number in range(7, 9)]
    named = [part for entry in (*cards, "cpu=40GB") for part in ("--max-memory", entry)]
    asked = ["--model", str(folder), "--device-map", "auto", "--tokens", "64", *named]
    assert memory.main(asked) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["free"] == {"7": 80 * GB, "8": 80 * GB, "cpu": 80 * GB} and found["device_map"] == "auto"
    bfloat16, float32, nf4 = (found["types"][name] for name in ("bfloat16", "float32", "nf4"))
    assert round(bfloat16["places"]["7"] / GB) == round(bfloat16["places"]["8"] / GB) == 69
    assert bfloat16["left"] == 80 * GB - bfloat16["places"]["7"] and bfloat16["places"]["disk"] == 0
    assert (round(bfloat16["weights"] / GB), bfloat16["fits"], nf4["fits"]) == (138, "to read", "yes")
    assert float32["places"]["cpu"] == 40 * GB and round(float32["places"]["disk"] / GB) == 76
    assert float32["fits"] == "no", "cards that are full have no room to read"
    assert "80 GB free on card 7, 80 GB free on card 8, 80 GB free on cpu; prompts of 64 tokens" in told.err
    assert rows(told.err)["bfloat16"][:5] == ["138", "69", "69", "0", "0"]


def test_a_spread_model_without_a_card_may_lie_on_disk_and_one_that_has_no_room_to_read_ends_with_1(folder, capsys):
    asked = ["--model", str(folder), "--device", "cpu", "--device-map", "auto", "--dtype", "bfloat16"]
    asked += ["--layer", "79", "--tokens", "64"]
    assert memory.main([*asked, "--max-memory", "cpu=60GB"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["types"].values()
    assert found["places"]["cpu"] == 60 * GB and found["left"] == 20 * GB and found["fits"] == "yes"
    assert memory.main([*asked, "--max-memory", "cpu=80GB"]) == 1


def test_where_nothing_fits_the_exit_code_says_so(folder, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda _device: 24 * GB)
    assert memory.main(["--model", str(folder), "--device", "cpu"]) == 1


def test_a_checkpoint_that_is_quantised_has_its_own_type_only(tmp_path, capsys):
    quantised_models.saved("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    about = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": about}))
    assert memory.main(["--model", str(tmp_path), "--device", "cpu"]) == 0
    assert list(json.loads(capsys.readouterr().out)["types"]) == ["nf4"]
    assert memory.main(["--model", str(tmp_path), "--device", "cpu", "--dtype", "float32"]) == 2
    assert "cannot be loaded in float32. Its types: nf4." in capsys.readouterr().err


def test_a_mixture_of_experts_is_refused_and_an_unknown_family_told(tmp_path, capsys):
    asked = ["--model", str(tmp_path), "--device", "cpu", "--dtype", "bfloat16"]
    MixtralConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, vocab_size=100).save_pretrained(tmp_path)
    assert memory.main(asked) == 2
    assert "mixture of experts" in capsys.readouterr().err
    BloomConfig(hidden_size=64, n_layer=2, n_head=2, vocab_size=100).save_pretrained(tmp_path)
    assert memory.main(asked) == 0
    assert "'bloom' is not in the architecture map" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", "80"], "Layer 80 does not exist: this model has layers 0 to 79."),
        (["--tokens", "0"], "--tokens 1 or more"),
        (["--dtype", "fp8"], "cannot be loaded in fp8"),
        (["--max-memory", "cpu=8GiB"], "Add --device-map auto."),
        (["--model", "some.gguf"], "no configuration of its own"),
    ],
)
def test_what_cannot_be_told_ends_with_code_2_and_the_remedy(folder, arguments, words, capsys):
    assert memory.main(["--model", str(folder), "--device", "cpu", *arguments]) == 2
    assert words in capsys.readouterr().err
