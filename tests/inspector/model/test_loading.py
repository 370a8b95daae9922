"""Models load from where they are, offline and without running anything that came with them, or say what to do."""

from __future__ import annotations

import errno
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import by_hand
import huggingface_hub.constants
import pytest
import tiny_models
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, MixtralConfig

from inspector.errors import ArchitectureError, ModelLoadError, NoRoom
from inspector.model import load, loading

IDS = (1, 40, 80, 120, 160, 200, 240, 30)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing here may ask the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def saved(folder: Path, family: str = "llama") -> Path:
    tiny_models.network(family).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def test_a_local_folder_loads_bit_for_bit(family, tmp_path):
    model = load(saved(tmp_path, family), device="cpu", dtype="float32")
    origin = tiny_models.network(family)
    assert torch.equal(by_hand.logits(model.network, IDS), by_hand.logits(origin, IDS))
    assert model.name == str(tmp_path)
    assert not model.network.training and not any(p.requires_grad for p in model.network.parameters())


def test_the_data_type_is_the_asked_for_one_and_the_fingerprint_the_same(tmp_path):
    saved(tmp_path)
    models = {name: load(tmp_path, device="cpu", dtype=name) for name in ("auto", "float32", "bfloat16", "float16")}
    assert {name: model.dtype_name for name, model in models.items()} == {
        "auto": "float32",
        "float32": "float32",
        "bfloat16": "bfloat16",
        "float16": "float16",
    }
    assert models["float32"].fingerprint == models["bfloat16"].fingerprint


def test_paths_for_the_architecture_map_reach_it(tmp_path):
    saved(tmp_path)
    with pytest.raises(ArchitectureError, match="--path final_norm="):
        load(tmp_path, device="cpu", paths={"final_norm": "model.nowhere"})


def test_weights_for_a_card_are_read_to_it_and_make_an_ordinary_model_of_one_device(family, tmp_path, monkeypatch):
    saved(tmp_path, family)
    plain, own, asked = load(tmp_path, device="cpu"), AutoModelForCausalLM.from_pretrained, []

    def read(where: str, **options: Any) -> Any:
        asked.append(options["device_map"])
        return own(where, **{**options, "device_map": {"": torch.device("cpu")}})  # there is no card here

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", read)
    monkeypatch.setattr(loading, "require_room", lambda *_: None)
    card = torch.device("cuda", 1)
    network, tokenizer = loading._read_pretrained(str(tmp_path), torch.float32, None, {}, None, card, None)
    assert asked == [{"": card}]
    found = loading.from_parts(network, tokenizer, "read to a card")
    assert found.on_one_device and found.fingerprint == plain.fingerprint
    assert not any(hasattr(module, "_hf_hook") for module in network.modules())
    assert by_hand.checksum(network) == by_hand.checksum(plain.network)
    assert torch.equal(by_hand.logits(network, IDS), by_hand.logits(plain.network, IDS))


def test_what_the_configuration_alone_refuses_is_refused_before_any_weight_is_looked_for(tmp_path):
    tiny_models.tokenizer().save_pretrained(tmp_path)
    MixtralConfig(**tiny_models._LLAMA, num_local_experts=2).save_pretrained(tmp_path)
    with pytest.raises(ArchitectureError, match="mixture of experts"):
        load(tmp_path, device="cpu")
    with pytest.raises(ArchitectureError, match="mixture of experts"):
        loading.predicted(loading.configuration(tmp_path), "a model", device="cpu")
    BloomConfig(hidden_size=32, n_layer=2, n_head=2).save_pretrained(tmp_path)
    with pytest.raises(ArchitectureError, match="'bloom' is not in the architecture map"):
        load(tmp_path, device="cpu")
    paths = {"blocks": "transformer.h", "down_projection": "mlp.dense_4h_to_h", "final_norm": "transformer.ln_f"}
    with pytest.raises(ModelLoadError, match="safetensors"):
        load(tmp_path, device="cpu", paths=paths)


def test_a_data_type_that_does_not_exist_is_refused_with_the_valid_ones():
    with pytest.raises(
        ModelLoadError, match=r"'int4' is no data type.*auto, float32, bfloat16, float16, nf4, fp4, int8 or fp8"
    ):
        load("anything", device="cpu", dtype="int4")


class Trap:
    """A pickle that leaves a trace when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_folder_with_pickled_weights_only_is_refused_and_the_pickle_is_not_opened(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    with pytest.raises(ModelLoadError, match=r"no model that can be loaded safely.*\*\.safetensors.*pickled weights"):
        load(tmp_path, device="cpu")
    assert not (tmp_path / "opened").exists()


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(ModelLoadError, match="no model that can be loaded safely"):
        load(tmp_path, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
@pytest.mark.parametrize("place", ["reading", "moving"])
def test_memory_that_runs_out_while_a_model_is_loaded_is_no_bad_path(tmp_path, monkeypatch, error, place):
    def no_memory(*_given, **_named):
        raise error

    if place == "reading":
        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", no_memory)
    else:
        monkeypatch.setattr(torch.nn.Module, "to", no_memory)
    with pytest.raises(NoRoom, match=r"memory ran out while .* was loaded\. Load it in a smaller type"):
        load(saved(tmp_path), device="cpu")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_with_what_it_needs(tmp_path, missing):
    saved(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ModelLoadError, match=r"config\.json, tokenizer files and \*\.safetensors"):
        load(tmp_path, device="cpu")


def test_a_folder_without_tokenizer_is_refused_with_what_it_needs(tmp_path):
    tiny_models.network("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="tokenizer files"):
        load(tmp_path, device="cpu")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="no model that can be loaded safely"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": 7}', '{"model_type": "no such family"}'])
def test_a_broken_configuration_is_refused(tmp_path, content):
    saved(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelLoadError, match="no model that can be loaded safely"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize("content", ["", "{", '{"version": "1.0"}'])
def test_a_broken_tokenizer_is_refused(tmp_path, content):
    saved(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelLoadError, match="no model that can be loaded safely"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_safetensors_are_refused(tmp_path, share):
    saved(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelLoadError, match=r"damaged or cut short.*Download them again"):
        load(tmp_path, device="cpu")


def test_weights_of_another_shape_are_refused_and_not_made_up(tmp_path):
    """transformers would rather start such a matrix at random."""
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(ModelLoadError, match="no model that can be loaded safely"):
        load(tmp_path, device="cpu")


def test_weights_that_are_missing_are_refused_and_not_made_up(tmp_path):
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ModelLoadError, match="lack"):
        load(tmp_path, device="cpu")


def test_a_checkpoint_without_the_head_loads_where_the_head_is_the_embedding(tmp_path):
    """The published GPT-2 is saved like this; nothing is missing from it."""
    origin = tiny_models.network("gpt2")
    origin.transformer.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    model = load(tmp_path, device="cpu", dtype="float32")
    assert torch.equal(by_hand.logits(model.network, IDS), by_hand.logits(origin, IDS))


def test_a_hub_name_that_cannot_be_reached_says_what_to_check(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError) as error:
        load("nobody/no-such-model", device="cpu", revision="v2")
    message = error.value.user_message()
    for part in ("'nobody/no-such-model'", "'v2'", "spelling", "connection", "hf auth login", "without --model"):
        assert part in message


@pytest.mark.parametrize("name", ["no/such/folder/here", "what a name?", "../nowhere"])
def test_a_name_that_is_neither_path_nor_hub_name_is_refused(name):
    with pytest.raises(ModelLoadError, match="spelling"):
        load(name, device="cpu")


def refused_as(error: Exception, monkeypatch, name: str = "some/model") -> ModelLoadError:
    """Return what is told of a model that the hub has, where reading its tokenizer ends in an error."""

    def broken(*_given: Any, **_named: Any) -> None:
        raise error

    monkeypatch.setattr(loading, "_on_hub", lambda *_: True)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", broken)
    with pytest.raises(ModelLoadError) as told:
        load(name, device="cpu")
    return told.value


def http(kind: type[HfHubHTTPError], status: int) -> OSError:
    """Return transformers' error of an answer of the hub."""
    answer = SimpleNamespace(status_code=status, headers={}, request=None)
    error = OSError("There was a specific connection error when trying to load some/model")
    error.__cause__ = kind("refused", response=answer)
    return error


UNKNOWN = "The checkpoint has model type `new` but Transformers does not recognize this architecture. Update it."
NO_CONFIG = "some/model does not appear to have a file named config.json. Checkout its page for available files."
HASH = "Cannot read blobs/4c401f40300cb0b3: unexpected end"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/cache/model.safetensors"), "The disk was full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "The disk was full"),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), "The disk was full"),
        (http(GatedRepoError, 403), "is gated"),
        (http(HfHubHTTPError, 401), "is gated"),
        (http(RepositoryNotFoundError, 401), "Check the spelling"),
        (http(HfHubHTTPError, 503), "Start again"),
        (ImportError("LlamaTokenizer requires the SentencePiece library"), "a Python package that is not installed"),
        (ValueError(UNKNOWN), "does not know. Install a newer one"),
        (OSError(NO_CONFIG), "as GGUF files and adapters do"),
        (OSError("Can't load tokenizer for 'some/model'."), "as GGUF files and adapters do"),
        (OSError(HASH), "Start again, or choose another"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_went_wrong_with_a_model_of_the_hub_is_told_apart(monkeypatch, error, words):
    told = refused_as(error, monkeypatch)
    assert words in told.user_message()
    assert ("spelling" in words) == ("spelling" in told.user_message())
    assert told.detail == " ".join(str(error).split()) and told.detail not in told.user_message()


def test_a_model_whose_name_has_a_word_of_an_error_is_not_told_it(monkeypatch):
    name = "gated-401/safetensors"
    told = refused_as(OSError(f"{name} broke off"), monkeypatch, name)
    assert "Start again" in told.user_message()
