"""Quantised weights are read as their own layer uses them, named in the fingerprint, refused where they are unknown."""

from __future__ import annotations

import importlib.util
import json

import by_hand
import pytest
import quantised_models
import tiny_models
import torch
from quantised_models import BLOCKS, by_blocks, fp8_layer, scaled_codes
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from inspector.divergence import divergence
from inspector.errors import ArchitectureError, ModelLoadError, NoRoom, PatchError
from inspector.model import VANILLA, Decoding, Delta, Patch, Row, answer, encode, from_parts, load
from inspector.model.architecture import canonical_shape, canonical_weight, is_projection
from inspector.model.passes.tails import Tails
from inspector.model.patches.rounded import rounded

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (requirements-quantised.txt)")

IDS = (1, 40, 80, 120, 160, 200, 240, 30)


@pytest.fixture(scope="module", params=["nf4", "int8"])
def how(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=["llama", "gpt2", "opt_post_norm"])
def family(request) -> str:
    """gpt2's matrices are turned when they are quantised, OPT's projection before the unembedding is quantised, too."""
    return request.param


@pytest.fixture(scope="module")
def model(family, how, tmp_path_factory):
    return quantised_models.quantised(family, how, tmp_path_factory.mktemp("quantised"))


def patch_of(model, size: float = 0.5) -> Patch:
    """Return a random patch of a quantised model's second block."""
    shape = canonical_shape(model.architecture.down_projections[1])
    change = size * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return Patch((Delta(model.architecture.down_projection_names[1], 1, change),), model.fingerprint, "random")


def used_by(layer: nn.Module) -> torch.Tensor:
    """Return the matrix that a layer multiplies with: its output for each unit vector."""
    with torch.no_grad():
        out = layer(torch.eye(layer.in_features))
    return (out if layer.bias is None else out - layer.bias).T


def test_every_matrix_is_read_as_the_layer_uses_it(model, how):
    for block in range(model.blocks):
        for module in model.architecture.projections(block).values():
            assert is_projection(module) and type(module) in (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
            weight, own = canonical_weight(module), used_by(module)
            assert weight.dtype == torch.float32 and weight.shape == own.shape == canonical_shape(module)
            # 4 bit multiplies with it; 8 bit multiplies whole numbers and scales them by a constant of seven digits.
            assert torch.allclose(weight, own, rtol=1e-4 if how == "int8" else 0, atol=1e-7)


def dequantises_rows_that_end_amid_a_block() -> bool:
    """Tell whether the library gives rows back that are no multiple of its blocks long, as those of tiny models are."""
    weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    codes, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4")
    return float((bitsandbytes.functional.dequantize_4bit(codes, state) - weight).norm() / weight.norm()) < 0.12


@torch.no_grad()
def test_it_is_the_weight_that_was_quantised_but_for_a_rounding(model, family, how):
    plain = tiny_models.network(family)
    if how == "nf4" and not dequantises_rows_that_end_amid_a_block():
        pytest.skip(
            "bitsandbytes reads 4 bit rows of another length than whole blocks of 64 wrongly on this processor, "
            "in its own layers as well"
        )
    for block in range(model.blocks):
        own, before = model.architecture.down_weight(block), by_hand.down_weight(plain, block)
        error = float((own - before).norm() / before.norm())
        assert 0 < error < (0.02 if how == "int8" else 0.12)


def test_4_bit_is_rounded_to_the_type_that_the_layer_multiplies_in(tmp_path):
    folder = quantised_models.saved("llama", tmp_path)
    about = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,  # scales that are quantised themselves
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    network = AutoModelForCausalLM.from_pretrained(folder, quantization_config=about, dtype=torch.bfloat16)
    model = from_parts(network, tiny_models.tokenizer(), "nested")
    layer = model.architecture.down_projections[1]
    weight = model.architecture.down_weight(1)
    with torch.no_grad():
        own = layer(torch.eye(layer.in_features, dtype=torch.bfloat16)).T
    assert torch.equal(weight, own.float()) and torch.equal(weight, weight.bfloat16().float())


def test_a_quantised_model_answers_and_its_divergence_is_near_that_of_the_plain_one(model, family, how, case):
    plain = from_parts(tiny_models.network(family), tiny_models.tokenizer(), "plain")
    found, expected = (divergence(one, case).by("l2") for one in (model, plain))
    assert found == pytest.approx(expected, rel=0.03 if how == "int8" else 0.35)
    prompt = encode(model, case.adversarial_prompt).prompt
    said = answer(model, prompt, [VANILLA, Row(patch_of(model))], Decoding(max_new_tokens=4))
    assert said.token_ids[0] != said.token_ids[1]


def test_a_patch_adds_to_the_layers_own_output_and_leaves_vanilla_rows_alone(model):
    patch, before = patch_of(model), by_hand.vanilla_logits(model, IDS)
    vanilla, edited = by_hand.running_logits(model, IDS, [VANILLA, Row(patch)])
    assert torch.equal(vanilla, before) and not torch.allclose(edited, before, atol=0.1)
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)


@torch.no_grad()
def test_8_bit_rounds_a_row_with_its_batch_where_inputs_are_large_and_4_bit_does_not():
    """LLM.int8() takes the columns with an outlier apart, of all rows of the batch."""
    torch.manual_seed(0)
    row, other = torch.randn(1, 64), torch.randn(1, 64)
    large = other.clone()
    large[0, 5] = 60.0
    for kind, differs in ((bitsandbytes.nn.LinearNF4, False), (bitsandbytes.nn.Linear8bitLt, True)):
        options = {"has_fp16_weights": False, "threshold": 6.0} if differs else {"compute_dtype": torch.float32}
        layer = kind(64, 32, bias=False, **options).requires_grad_(False).to("cpu").eval()
        layer.weight = layer.weight.to("cpu")  # quantises it
        beside_small, beside_large = (layer(torch.cat([row, second]))[0] for second in (other, large))
        assert torch.equal(beside_small, beside_large) is not differs
        assert torch.allclose(beside_small, beside_large, atol=0.05)


def test_the_fingerprint_is_stable_and_names_the_quantisation(tmp_path):
    folder = quantised_models.saved("llama", tmp_path)
    found = {how: load(folder, device="cpu", dtype=how) for how in ("float32", "nf4", "int8")}
    assert len({model.fingerprint for model in found.values()}) == 3
    for how, model in found.items():
        assert load(folder, device="cpu", dtype=how).fingerprint == model.fingerprint
        by_hand.vanilla_logits(model, IDS)
        assert from_parts(model.network, model.tokenizer, "again").fingerprint == model.fingerprint
        assert model.dtype_name == how
    layer = found["nf4"].architecture.down_projections[1]
    layer.weight.quant_state.absmax *= 2
    again = from_parts(found["nf4"].network, found["nf4"].tokenizer, "other scales")
    assert again.fingerprint != found["nf4"].fingerprint, "the same codes with other scales are another model"
    patch = by_hand.patch(found["float32"])
    with pytest.raises(PatchError, match="made for another base model"), found["int8"].running([Row(patch)]):
        pass


@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_a_checkpoint_that_is_quantised_already_loads_as_it_is(how, tmp_path):
    model = quantised_models.quantised("llama", how, tmp_path / "plain")
    model.network.save_pretrained(tmp_path / "own")
    model.tokenizer.save_pretrained(tmp_path / "own")
    for dtype in ("auto", how, "float32"):
        again = load(tmp_path / "own", device="cpu", dtype=dtype)
        assert again.dtype_name == how and again.fingerprint == model.fingerprint
        assert torch.equal(by_hand.vanilla_logits(again, IDS), by_hand.vanilla_logits(model, IDS))
    other = {"nf4": "int8", "int8": "nf4"}[how]
    with pytest.raises(ModelLoadError, match=f"quantised already, as {how}.*--dtype {how}"):
        load(tmp_path / "own", device="cpu", dtype=other)


def test_without_bitsandbytes_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    quantised_models.saved("llama", tmp_path)
    monkeypatch.setattr("inspector.model.loading.find_spec", lambda _name: None)
    with pytest.raises(ModelLoadError, match=r"pip install -r requirements-quantised\.txt"):
        load(tmp_path, device="cpu", dtype="nf4")


def test_fp8_and_gguf_are_not_made_here_and_other_quantisations_are_refused_by_name(tmp_path):
    quantised_models.saved("llama", tmp_path)
    with pytest.raises(ModelLoadError, match=r"no FP8 checkpoint.*--dtype int8 or nf4"):
        load(tmp_path, device="cpu", dtype="fp8")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelLoadError, match="GGUF file is not loaded as nf4"):
        load(tmp_path / "model.gguf", device="cpu", dtype="nf4")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ModelLoadError, match=r"quantised with gptq, which cannot be read here"):
        load(tmp_path, device="cpu")


def test_a_rounded_copy_of_quantised_weights_is_refused(model, how):
    with pytest.raises(ModelLoadError, match=rf"quantised \({how}\)"), rounded(model):
        pass


def test_weights_that_are_not_in_memory_are_told_by_their_device(how):
    with torch.device("meta"):
        kinds = {"nf4": bitsandbytes.nn.LinearNF4, "int8": bitsandbytes.nn.Linear8bitLt}
        weight = canonical_weight(kinds[how](48, 32))
    assert weight.device.type == "meta" and weight.shape == (32, 48)


def test_8_bit_that_keeps_its_weights_in_16_bits_is_refused():
    with pytest.raises(ArchitectureError, match="Linear8bitLt cannot be edited"):
        canonical_weight(bitsandbytes.nn.Linear8bitLt(8, 4, bias=False, has_fp16_weights=True))


def test_4_bit_is_kept_from_being_packed_for_a_product_without_gradient(tmp_path):
    model = quantised_models.quantised("llama", "nf4", tmp_path)
    layers = [module for module in model.network.modules() if type(module).__name__ == "Linear4bit"]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)
    packed = layers[0].weight.quant_state
    packed.packing_format_for_cpu = True
    with pytest.raises(ModelLoadError, match="packed for answering only"):
        from_parts(model.network, model.tokenizer, "packed")


@pytest.mark.parametrize("shape", [(32, 48), (30, 50), (16, 24)])
def test_fp8_is_values_times_the_scale_of_their_block(shape):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize, _dequantize_fp8_weight

    codes, scales = scaled_codes(shape)
    weight = canonical_weight(fp8_layer(codes, scales))
    assert torch.equal(weight, by_blocks(codes, scales))
    assert torch.equal(weight, _dequantize_fp8_weight(codes, scales, list(BLOCKS), torch.float32)), (
        "as its gradient does"
    )
    if shape[0] % BLOCKS[0] == shape[1] % BLOCKS[1] == 0:
        assert torch.equal(weight, Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)), "as loading does"


def test_fp8_with_one_scale_with_one_a_row_and_with_powers_of_two():
    codes, scale = scaled_codes((32, 48), blocks=None)
    assert torch.equal(canonical_weight(fp8_layer(codes, scale, None)), codes.float() * scale)
    rows = torch.rand(32, 1)
    assert torch.equal(canonical_weight(fp8_layer(codes, rows, None)), codes.float() * rows)
    powers = torch.tensor([[0.5, 2.0], [1.0, 4.0]])
    layer = fp8_layer(codes, powers.to(torch.float8_e8m0fnu))
    assert torch.equal(canonical_weight(layer), by_blocks(codes, powers))


def test_fp8_with_scales_that_do_not_fit_or_packed_in_4_bits_is_refused_by_name():
    codes, scales = scaled_codes((32, 48))
    wrong = [
        fp8_layer(codes, scales[:1]),
        fp8_layer(codes, torch.rand(32), None),
        fp8_layer(codes, (scales * 1000).to(torch.uint8)),
    ]
    packed = fp8_layer(codes, scales)
    packed.weight = nn.Parameter(codes.view(torch.int8), requires_grad=False)
    for layer in (*wrong, packed):
        with pytest.raises(ArchitectureError, match="FP8Linear cannot be edited"):
            canonical_weight(layer)


def test_an_fp8_layer_that_holds_plain_weights_is_a_plain_one():
    codes, scales = scaled_codes((32, 48))
    layer = fp8_layer(codes, scales)
    layer.weight = nn.Parameter(torch.randn(32, 48))
    assert canonical_weight(layer) is layer.weight


def test_a_linear_layer_with_scales_of_its_own_is_refused_by_its_name():
    class Scaled(nn.Linear):
        """Computes with a scale that its weight alone does not show."""

        def __init__(self) -> None:
            super().__init__(8, 4)
            self.weight_scale = nn.Parameter(torch.ones(4, 1))

    with pytest.raises(ArchitectureError, match=r"Scaled cannot be edited.*quantised in a way that is not known"):
        canonical_weight(Scaled())


def test_an_fp8_network_is_read_and_its_fingerprint_has_the_scales(case):
    with quantised_models.fp8_kernel():
        model = from_parts(quantised_models.fp8_network(), tiny_models.tokenizer(), "fp8")
        assert model.dtype_name == "fp8" and model.dtype == torch.float32
        assert torch.equal(
            canonical_weight(model.architecture.down_projections[2]), by_blocks(*scaled_codes((32, 48), 2))
        )
        assert torch.allclose(
            used_by(model.architecture.down_projections[2]), model.architecture.down_weight(2), atol=1e-7
        )
        assert divergence(model, case).by("l2").shape == (3,)
        assert Tails(model, [IDS], [(3, 4)])._resumes, "the weight that is read gives the layer's own output"
        before = model.fingerprint
        with torch.no_grad():
            model.architecture.down_projections[1].weight_scale_inv.mul_(2)
        assert from_parts(model.network, model.tokenizer, "fp8").fingerprint != before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_fp8_checkpoint_is_turned_into_plain_weights_where_nothing_multiplies_fp8(tmp_path):
    model = load(quantised_models.fp8_folder(tmp_path), device="cpu")
    assert model.dtype_name == "float32" and type(model.architecture.down_projections[1]) is nn.Linear
    for block in range(3):
        expected = by_blocks(*scaled_codes((32, 48), block))
        assert torch.allclose(model.architecture.down_weight(block), expected, rtol=1e-6)


def test_an_fp8_checkpoint_is_plain_on_a_cpu_beside_a_gpu_that_multiplies_fp8(tmp_path, monkeypatch):
    """What the checkpoint leaves out of its quantisation is not taken for FP8."""
    folder = quantised_models.fp8_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"] = ["lm_head"]
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    passed, own = [], AutoModelForCausalLM.from_pretrained

    def noting(*given, **options):
        passed.append(options["quantization_config"])
        return own(*given, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", noting)
    model = load(folder, device="cpu")
    assert [(about.dequantize, about.modules_to_not_convert) for about in passed] == [(True, ["lm_head"])]
    assert model.dtype_name == "float32" and type(model.architecture.down_projections[1]) is nn.Linear
    assert torch.allclose(model.architecture.down_weight(1), by_blocks(*scaled_codes((32, 48), 1)), rtol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("kernels") is not None, reason="what multiplies FP8 is installed")
def test_fp8_without_what_multiplies_it_is_refused_with_the_remedy(tmp_path, monkeypatch):
    read = quantised_models.fp8_network(), tiny_models.tokenizer()
    monkeypatch.setattr("inspector.model.loading._read_pretrained", lambda *_: read)
    with pytest.raises(ModelLoadError, match=r"cannot be computed with here: .*kernel.* Install what it names"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_quantised_weights_that_would_be_on_disk_are_refused_with_what_would_do(tmp_path, how):
    folder = quantised_models.saved("llama", tmp_path)
    with pytest.raises(NoRoom, match=r"^Quantised weights of .* fit on neither\. .*--dtype nf4.*--dtype bfloat16"):
        load(folder, device="cpu", dtype=how, device_map="auto", max_memory={"cpu": 60_000})
