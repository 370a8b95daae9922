"""Edits of quantised models work on the float32 copy of one matrix; what cannot be done is refused by name."""

from __future__ import annotations

from contextlib import ExitStack

import by_hand
import peft
import pytest
import quantised_models
import tiny_models
import torch
from training_helpers import small

from editing import dinm, preset, run
from editing.atlas import make_atlas
from editing.methods.mend.training import MendTraining, train
from editing.methods.sft import SftSettings, sft
from editing.optimising.replay import FullReplay, TailReplay, master_weight
from editing.optimising.trainee import TrainedScope, shared_copy, trainee
from editing.saved.adapter import save_adapter
from editing.saved.checking import largest_difference, probes
from editing.saved.files import most_bytes
from editing.saved.merged import save_merged
from editing.stacking import edit_on_top
from inspector.errors import EditError, PatchError
from inspector.model import VANILLA, Delta, InspectedModel, Patch, Row, from_parts
from inspector.model.architecture import canonical_shape, canonical_weight
from inspector.model.quantised import beside_parameters, shared_with_copies

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (requirements-quantised.txt)")

IDS = [1, *range(20, 60)]
SEQUENCES = (IDS, [1, *range(100, 125)])
COUNTED = (range(30, 40), (0, 3, 24, 25))
QUICK = {"harmless_prompts": 2, "harmless_tokens": 4, "own_refusals": 2, "steps": 3, "target_probability": None}


KINDS = [("llama", "nf4"), ("llama", "int8"), ("llama", "fp8"), ("gpt2", "nf4"), ("gpt2", "int8")]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def kind(request) -> tuple[str, str]:
    """Family and quantisation; there is no FP8 layer for gpt2's matrices."""
    return request.param


@pytest.fixture
def how(kind) -> str:
    return kind[1]


@pytest.fixture(scope="module")
def make(kind, tmp_path_factory):
    """Make the same model anew; FP8's product is a stand-in for the one that needs a GPU, its gradient is its own."""
    family, how = kind
    folder = tmp_path_factory.mktemp("quantised")
    with ExitStack() as stack:
        if how == "fp8":
            stack.enter_context(quantised_models.fp8_kernel())

        def made() -> InspectedModel:
            if how == "fp8":
                return from_parts(quantised_models.fp8_network(), tiny_models.tokenizer(), "fp8")
            return quantised_models.quantised(family, how, folder)

        yield made


@pytest.fixture(scope="module")
def model(make) -> InspectedModel:
    return make()


@pytest.fixture(autouse=True)
def untouched(model):
    """Whatever a test does: weights, scales and vanilla logits are the same to the bit afterwards."""
    besides = {name: tensor.clone() for name, tensor in beside_parameters(model.network)}
    before, sums, hooks = by_hand.vanilla_logits(model, IDS), stored(model.network), by_hand.hooks(model.network)
    yield
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
    assert stored(model.network) == sums
    assert all(torch.equal(tensor, besides[name]) for name, tensor in beside_parameters(model.network))
    by_hand.assert_at_rest(model, hooks)


def patch_of(model) -> Patch:
    """Return a dense random patch of one block."""
    shape = canonical_shape(model.architecture.down_projections[1])
    change = 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(3))
    return Patch((Delta(model.architecture.down_projection_names[1], 1, change),), model.fingerprint, "random")


def stored(network) -> dict[str, bytes]:
    """Return every parameter's bytes."""
    flat = {name: parameter.detach().reshape(-1) for name, parameter in network.named_parameters()}
    return {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in flat.items()}


def test_tail_replay_equals_full_replay_in_logits_and_gradient_at_every_block(model):
    for block in range(model.blocks):
        found = []
        for way in (FullReplay, TailReplay):
            base = master_weight(model, block)
            noise = torch.randn(base.shape, generator=torch.Generator().manual_seed(block))
            weight = (base + 0.1 * noise).requires_grad_(True)
            logits = way(model, block, SEQUENCES, COUNTED).logits(weight)
            mixture = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)
            (logits.log_softmax(dim=-1) * mixture).sum().backward()
            found.append((logits.detach(), weight.grad))
        (full, gradient), (tail, other) = found
        assert torch.allclose(tail, full, rtol=1e-4, atol=2e-5)
        assert torch.allclose(other, gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()))


def test_the_float32_copy_replays_vanilla(model, how):
    for block in range(model.blocks):
        replayed = TailReplay(model, block, SEQUENCES[:1], COUNTED[:1]).logits(master_weight(model, block))
        own = by_hand.vanilla_logits(model, IDS)[list(COUNTED[0])]
        # 8 bit layers round what enters them, too, which the copy does not: one part in 254 of a token's largest value.
        assert float((replayed - own).abs().max()) < (0.1 if how == "int8" else 2e-5) * float(own.std())


def test_dinm_makes_the_safe_answer_likelier(model, case):
    result = run(dinm(model, case, 1, preset("corrected", **QUICK)))
    assert result.kept == 3 and result.trace[-1].safe_probability > 1.1 * result.trace[0].safe_probability
    vanilla, edited = by_hand.running_logits(model, IDS, [VANILLA, Row(result.patch)])
    with torch.no_grad():  # as many rows: FP8 products may round a row with their number
        plain = model.network(input_ids=torch.tensor([IDS, IDS]), use_cache=False).logits[0]
    assert torch.equal(vanilla, plain) and not torch.equal(edited, vanilla)


def test_lora_factors_are_trained_and_full_weights_are_refused(model, how, case):
    result = run(sft(model, case, 1, small(SftSettings)))
    assert len(result.patch.deltas) == sum(len(model.architecture.projections(b)) for b in range(model.blocks))
    assert result.trace[-1].safe_probability > 1.2 * result.trace[0].safe_probability
    with pytest.raises(EditError, match=rf"quantised \({how}\).*Set scope to 'LoRA'.*--dtype bfloat16"):
        run(sft(model, case, 1, small(SftSettings, scope="full")))


def test_a_trainee_computes_as_the_base_does_and_shares_its_weights_and_scales(model):
    with model.lock:
        copied = shared_copy(model.network)
    own, other = (list(shared_with_copies(network)) for network in (model.network, copied))
    assert [tensor.data_ptr() for tensor in own] == [tensor.data_ptr() for tensor in other]
    with torch.no_grad():
        logits = trainee(model, TrainedScope(rank=2)).logits([IDS], [range(len(IDS))])
    assert torch.equal(logits, by_hand.vanilla_logits(model, IDS)), "LoRA's second factor starts at zero"


def test_an_adapter_that_peft_puts_on_the_same_quantised_base_answers_as_the_live_edit(model, make, case, tmp_path):
    patch = run(sft(model, case, 1, small(SftSettings, steps=1))).patch
    save_adapter(model, patch, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(make().network, tmp_path / "adapter").eval()
    difference, spread = largest_difference(model, Row(patch), loaded, probes(model, Row(patch)))
    assert difference <= 1e-4 * spread


def test_merging_into_quantised_weights_is_refused(model, how, tmp_path):
    with pytest.raises(PatchError, match=rf"quantised \({how}\).*as a patch or as an adapter"):
        run(save_merged(model, Row(patch_of(model)), tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_a_patch_of_every_matrix_is_not_larger_than_any_patch_file_may_be(model):
    everything = sum(
        canonical_weight(m).numel() for b in range(model.blocks) for m in model.architecture.projections(b).values()
    )
    assert most_bytes(model) > 4 * everything


def test_an_edit_on_top_starts_where_the_first_one_ends(model, case):
    settings = preset("corrected", **QUICK)
    first = run(dinm(model, case, 1, settings))
    second = run(edit_on_top(model, Row(first.patch), lambda carrying: dinm(carrying, case, 1, settings)))
    ended, begun = first.trace[-1].safe_probability, second.trace[0].safe_probability
    assert begun == pytest.approx(ended, rel=1e-3) and second.trace[-1].safe_probability > begun


def test_the_atlas_edits_every_block(model, case):
    assert not run(make_atlas(model, case)).left_out


def test_an_editor_network_is_trained(model, case):
    settings = MendTraining(steps=2, cases_at_once=1, harmless_at_once=1, top_blocks=2, harmless_tokens=4)
    reports = list(train(model, [case], ["Who are you?"], settings))
    assert reports[-1].safe_after < reports[-1].safe_before
