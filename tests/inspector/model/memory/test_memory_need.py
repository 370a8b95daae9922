"""What a model needs is predicted before anything is loaded: weights to the byte, the rest within a stated factor."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
import quantised_models
import tiny_models
import torch
from allocations import counted_allocations
from transformers import AutoConfig, LlamaConfig

from editing import dinm, preset, run
from editing.memory import peak_memory
from inspector.divergence import divergence
from inspector.errors import ModelLoadError, NoRoom
from inspector.model import from_parts, load
from inspector.model.memory import memory_need as memory
from inspector.model.memory.memory_need import (
    GB,
    EditTexts,
    bytes_in,
    bytes_of,
    in_gb,
    predict,
    require_room,
    room_told,
)
from inspector.model.memory.recent import Recent
from inspector.model.passes import thin_products
from inspector.model.passes.tails import Tails

FACTOR = {"editing": 2.0, "reading": 3.0}
"""Most by which a predicted peak may be off a measured one, up or down: reading a small model is a few MiB."""
COUNTED_FACTOR = 1.5
"""The same where the bytes of every tensor are counted."""
SHAPE = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
LLAMA_70B = LlamaConfig(vocab_size=32000, num_key_value_heads=8, tie_word_embeddings=False, **SHAPE)
"""The shape of Llama-2-70B, 68.98 billion weights."""


@pytest.mark.parametrize(("dtype", "expected"), [("nf4", 39.5), ("int8", 69.5), ("bfloat16", 138), ("float32", 276)])
def test_a_llama_of_70b_is_counted_without_a_weight(dtype, expected):
    need = predict(LLAMA_70B, dtype)
    assert need.weights / GB == pytest.approx(expected, rel=0.01)
    assert need.weights < need.read < 1.1 * need.weights and need.edit > need.read
    if dtype == "bfloat16":
        assert need.weights == 2 * 68_976_648_192 + 4 * 128  # and the frequencies of the rotary embedding


def test_plain_weights_are_predicted_to_the_byte(every_family):
    network = tiny_models.network(every_family)
    for dtype in ("float32", "bfloat16"):
        config = type(network.config)(**tiny_models.CONFIGS[every_family][1])
        loaded = tiny_models.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        assert predict(config, dtype).weights == sum(bytes_of(loaded).values())


def test_a_network_is_built_once_for_each_configuration_and_its_type(monkeypatch):
    monkeypatch.setattr(memory, "_NETWORKS", Recent(4))
    built, build = [], tiny_models.AutoModelForCausalLM.from_config
    monkeypatch.setattr(
        tiny_models.AutoModelForCausalLM,
        "from_config",
        lambda config, **given: (built.append((config.num_hidden_layers, given["dtype"])), build(config, **given))[1],
    )
    small, large = (LlamaConfig(**{**tiny_models._LLAMA, "num_hidden_layers": count}) for count in (3, 5))
    before = small.to_dict()
    first = predict(small, "float32")
    assert predict(large, "float32").weights > first.weights > 1.9 * predict(small, "bfloat16").weights
    assert predict(LlamaConfig(**{**tiny_models._LLAMA, "num_hidden_layers": 3}), "float32") == first
    assert built == [(3, torch.float32), (5, torch.float32), (3, torch.bfloat16)] and small.to_dict() == before
    small._attn_implementation = "eager"
    assert predict(small, "float32").reading > first.reading, "scores are held whole"


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt_post_norm", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_quantised_weights_are_predicted_to_the_byte(family, how, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (requirements-quantised.txt)")
    model = quantised_models.quantised(family, how, tmp_path)
    assert predict(AutoConfig.from_pretrained(tmp_path), how, "float32").weights == sum(
        bytes_of(model.network).values()
    )


def test_double_quantisation_and_fp8_of_a_checkpoint_are_predicted_to_the_byte(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (requirements-quantised.txt)")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    about = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True)
    folder = quantised_models.saved("llama", tmp_path / "plain")
    network = AutoModelForCausalLM.from_pretrained(folder, quantization_config=about, dtype=torch.bfloat16)
    network.save_pretrained(tmp_path / "own")
    config = AutoConfig.from_pretrained(tmp_path / "own")
    assert memory.quantised_in(config) == "fp4" and predict(config, "fp4").weights == sum(bytes_of(network).values())
    config = AutoConfig.from_pretrained(quantised_models.fp8_folder(tmp_path / "fp8"))
    assert memory.quantised_in(config) == "fp8"
    assert predict(config, "fp8", "float32").weights == sum(bytes_of(quantised_models.fp8_network()).values())


@pytest.fixture(scope="module")
def middling():
    """A random Llama whose matrices are large beside what a process needs anyway: 4 million weights."""
    config = LlamaConfig(
        **{**tiny_models._LLAMA, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4},
    )
    return from_parts(tiny_models.random_network(config), tiny_models.tokenizer(suffix=False), "middling")


def within(what: str, predicted: int, measured: float) -> bool:
    """Tell whether a prediction is no further than the stated factor from MiB measured."""
    return measured / FACTOR[what] <= predicted / 2**20 <= FACTOR[what] * measured


@pytest.mark.usefixtures("honest_peaks")
def test_the_peak_of_a_default_edit_is_within_the_stated_factor(middling, case):
    """It is held to fewer harmless prompts than the default, for speed, and the prediction is told."""
    settings = preset("corrected", steps=1, target_probability=None, harmless_prompts=22, own_refusals=2)
    tokens = 350
    with peak_memory(torch.device("cpu")) as peak:
        run(dinm(middling, long(case, middling, tokens), 2, settings))
    need = predict(middling.network.config, "float32", block=2, tokens=tokens, texts=EditTexts(harmless=24))
    assert within("editing", need.editing, peak.mebibytes), (need.editing / 2**20, peak.mebibytes)


@pytest.mark.parametrize(("width", "inner", "block"), [(32, 4096, 3), (256, 512, 1)])
def test_what_a_default_edit_allocates_is_predicted_whatever_the_shape(case, monkeypatch, width, inner, block):
    """Counted to the byte, so that it sees what a process of hundreds of MiB hides: a matrix of d_ff squared, say."""
    monkeypatch.setattr(thin_products, "LEAST_PACKED", 2**40)  # what is packed takes only what is free
    shape = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 4}
    config = LlamaConfig(**{**tiny_models._LLAMA, **shape})
    model = from_parts(tiny_models.random_network(config), tiny_models.tokenizer(suffix=False), "wide")
    settings = preset("corrected", steps=3, target_probability=None, harmless_prompts=22, own_refusals=2)
    tokens = 200
    with counted_allocations(model.network) as counted:
        run(dinm(model, long(case, model, tokens), block, settings))
    predicted = predict(config, "float32", block=block, tokens=tokens, texts=EditTexts(harmless=24)).editing
    assert 1 / COUNTED_FACTOR <= predicted / counted.peak <= COUNTED_FACTOR, (predicted, counted.peak)


@pytest.mark.parametrize("block", [0, 2])
def test_what_harmless_texts_keep_for_a_whole_edit_is_predicted(middling, block):
    texts, counted = [list(range(40, 104))] * 20, [range(50, 62)] * 20
    tails = Tails(middling, texts, counted, [block])
    kept = bytes_in((tails._calls, tails._inner, tails._residual, tails._entering))
    kept += 4 * 20 * 12 * tiny_models.VOCABULARY  # vanilla distributions
    many, few = (
        predict(middling.network.config, "float32", block=block, texts=EditTexts(harmless=number)).editing
        for number in (40, 20)
    )
    assert kept == pytest.approx(many - few, rel=0.1)


@pytest.mark.parametrize("shared", [20, 60])
def test_texts_that_share_rows_keep_less_than_is_predicted_masks_and_all(middling, shared):
    texts = [[*range(40, 40 + shared), *range(100 + n, 164 + n - shared)] for n in range(20)]
    kept = {alike: bytes_in(vars(Tails(middling, texts, [[61, 62]] * 20, [0], alike=alike))) for alike in (True, False)}
    assert kept[True] < kept[False]


@pytest.mark.usefixtures("honest_peaks")
def test_the_peak_of_reading_is_within_the_stated_factor(middling, case):
    with peak_memory(torch.device("cpu")) as peak:
        divergence(middling, long(case, middling, 400))
    need = predict(middling.network.config, "float32", tokens=400)
    assert within("reading", need.reading, peak.mebibytes), (need.reading / 2**20, peak.mebibytes)


def long(case, model, tokens: int):
    """Return the case with a prompt of so many tokens, of which each is a byte, suffix and answer left out."""
    prompt = "You are a pirate. " * 100
    return replace(case, adversarial_prompt=prompt[: tokens - 170] + case.question)


def test_what_does_not_fit_is_refused_before_a_weight_is_read(tmp_path, monkeypatch):
    quantised_models.saved("llama", tmp_path)
    config = {**json.loads((tmp_path / "config.json").read_text()), **LLAMA_70B.to_diff_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr(memory, "free_memory", lambda _device: 80 * GB)
    for dtype, words in (
        ("bfloat16", r"in bfloat16 needs 139 GB on cpu, 80 free: use --dtype nf4 or --device-map auto\."),
        ("float32", r"in float32 needs 277 GB on cpu, 80 free: use --dtype nf4 or"),
    ):
        with pytest.raises(ModelLoadError, match=words):
            load(tmp_path, device="cpu", dtype=dtype)
    monkeypatch.setattr(memory, "free_memory", lambda _device: 24 * GB)
    with pytest.raises(NoRoom, match=r"in nf4 needs 41 GB on cpu, 24 free: use a smaller model or a larger machine\."):
        require_room(LLAMA_70B, "nf4", "bfloat16", torch.device("cpu"))


def test_what_fits_is_not_refused_and_an_edit_that_does_not_is_told(monkeypatch):
    need, asked = predict(LLAMA_70B, "bfloat16"), (LLAMA_70B, "bfloat16", "bfloat16", torch.device("cpu"))
    monkeypatch.setattr(memory, "free_memory", lambda _device: need.edit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_room(*asked)
    monkeypatch.setattr(memory, "free_memory", lambda _device: need.read)
    taken, left = in_gb(need.edit - need.weights), in_gb(need.read - need.weights)
    words = rf"can be read, but an edit .* about {taken} GB .* {left} are left on cpu\. .*load it with --dtype nf4\."
    with pytest.warns(UserWarning, match=words):
        require_room(*asked)


def test_a_spread_model_that_leaves_no_room_for_an_edit_says_so_when_it_is_loaded(tmp_path, monkeypatch):
    folder = quantised_models.saved("llama", tmp_path)
    need = predict(AutoConfig.from_pretrained(folder), "float32")
    spread = {"device": "cpu", "dtype": "float32", "device_map": "auto", "max_memory": {"cpu": 60_000}}
    beside = need.editing + need.loading  # the largest matrix is fetched
    monkeypatch.setattr(memory, "free_memory", lambda _device: beside)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load(folder, **spread)
    monkeypatch.setattr(memory, "free_memory", lambda _device: beside - 1)
    with pytest.warns(
        UserWarning, match=r"can be read, but an edit .*let that device hold less of it \(--max-memory\)"
    ):
        load(folder, **spread)


def test_a_type_that_halves_is_offered_before_one_that_rounds(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda _device: 150 * GB)
    with pytest.raises(ModelLoadError, match="use --dtype bfloat16 or --device-map auto"):
        require_room(LLAMA_70B, "float32", "float32", torch.device("cpu"))


@pytest.mark.parametrize("cards", [1, 2])
def test_quantised_weights_are_spread_over_several_cards_only(monkeypatch, cards):
    monkeypatch.setattr(memory, "free_memory", lambda _device: 24 * GB)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    ways = memory.remedies(LLAMA_70B, "nf4", 24 * GB, torch.device("cuda"))
    assert ways == (["--device-map auto"] if cards == 2 else [])
    assert memory.remedies(LLAMA_70B, "nf4", 24 * GB, torch.device("cpu")) == []
    assert memory.remedies(LLAMA_70B, "bfloat16", 24 * GB, torch.device("cuda")) == ["--device-map auto"]


def test_4_bit_is_offered_for_8_where_the_checkpoint_is_not_8_bit_itself():
    def ways(config: LlamaConfig) -> list[str]:
        return memory.remedies(config, "int8", 48 * GB, torch.device("cpu"))

    assert ways(LLAMA_70B) == ["--dtype nf4"]
    own = LlamaConfig(**{**LLAMA_70B.to_dict(), "quantization_config": {"quant_method": "bitsandbytes"}})
    assert memory.quantised_in(own) == "int8" and ways(own) == []


def test_tensors_are_counted_by_their_storage_once():
    whole = torch.zeros(6, 4)
    shared = {"a": (whole, [whole[1:3], None]), "b": torch.zeros(3, dtype=torch.bfloat16)}
    assert bytes_in(shared) == 6 * 4 * 4 + 3 * 2
    assert bytes_in((torch.zeros(4)[:1], 7, "text")) == 4 * 4, "a slice keeps the whole in memory"


def test_what_runs_out_while_loading_is_told_and_any_other_error_goes_on():
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("std::bad_alloc")):
        with pytest.raises(NoRoom, match=r"memory ran out while 'mine' was loaded\. .*--dtype bfloat16"):  # noqa: SIM117
            with room_told("'mine'"):
                raise error
    with pytest.raises(RuntimeError, match="another"), room_told("'mine'"):
        raise RuntimeError("another")


@pytest.mark.parametrize(("size", "words"), [(39_500_000_000, "40"), (1_230_000_000, "1.2"), (54_000_000, "0.054")])
def test_sizes_are_told_with_two_digits(size, words):
    assert in_gb(size) == words


def test_the_bytes_of_a_network_are_those_of_its_parameters_and_buffers_tied_ones_once():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    network[1].weight = network[0].weight
    assert sum(bytes_of(network).values()) == 4 * (9 + 3 + 3 + 3 + 3 + 3 + 3) + 8
