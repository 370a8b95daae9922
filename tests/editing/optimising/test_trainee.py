"""A trainee shares the base's weights and learns in its own modules; nobody else ever sees what it learns."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import pytest
import tiny_models
import torch
from training_helpers import ATOL, IDS, Broken, matrices, small, written

from editing import Preparation, run
from editing.methods.dpo import DpoSettings, dpo
from editing.methods.sft import SftSettings, sft
from editing.optimising.trainee import TrainedScope, trainee
from inspector.errors import ArchitectureError, EditError
from inspector.model import VANILLA, Delta, Patch, Row, from_parts
from inspector.model.counted import counted_logits

SCOPES = ("LoRA", "full")
METHODS = {"SFT": (sft, SftSettings), "DPO": (dpo, DpoSettings)}


def perturbed(model, scope: str, seed: int = 3, size: float = 0.05):
    """Return a trainee whose every trained parameter got noise."""
    student = trainee(model, TrainedScope(scope))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in student.parameters:
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return student


def plain(student, ids=IDS):
    """Return a trainee's logits ``[tokens, vocabulary]`` of one sequence."""
    with torch.no_grad():
        return student.logits([ids], [range(len(ids))])


def quick_edit(model, case, method: str, scope: str, **options):
    edit, settings = METHODS[method]
    rate = 1e-2 if scope == "LoRA" else 2e-3
    extra = {"warm_up": 2} if method == "DPO" else {}
    return edit(model, case, 1, small(settings, scope=scope, learning_rate=rate, **extra), **options)


def test_projections_are_all_matrices_of_a_block_and_no_others(every_model):
    model, expected = every_model, matrices(every_model.network)
    for block in range(model.blocks):
        own = model.architecture.projections(block)
        assert set(own) == {name for name, number in expected.items() if number == block}
        assert all(model.network.get_submodule(name) is module for name, module in own.items())


def test_mlp_projections_end_with_the_down_projection_and_leave_attention_out(every_model):
    model = every_model
    for block in range(model.blocks):
        names = list(model.architecture.mlp_projections(block))
        assert names[-1] == by_hand.down_name(model.network, block)
        assert set(names) == {n for n, b in matrices(model.network).items() if b == block and "att" not in n}


def test_counted_logits_are_the_plain_ones_at_those_positions(model):
    """Sequences of different lengths, each with another row of weights, in one batch."""
    patch = by_hand.patch(model)
    sequences, counted = (IDS, IDS[3:7], IDS[:8]), ((0, 5, 9), (3,), (2, 1))
    with torch.no_grad(), model.running([VANILLA, Row(patch), VANILLA]):
        own = counted_logits(model, sequences, counted).split([3, 1, 2])
    networks = (model.network, by_hand.written(model.network, (patch.deltas[0].block, patch.deltas[0].dense())))
    for logits, ids, places, network in zip(
        own, sequences, counted, (networks[0], networks[1], networks[0]), strict=True
    ):
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, by_hand.logits(network, ids)[list(places)], atol=ATOL)


@pytest.mark.parametrize("scope", SCOPES)
def test_an_untrained_student_is_vanilla_and_has_no_change(model, scope):
    """Bit for bit what the base gives at the same positions: there is nothing yet that could be added to it."""
    student = trainee(model, TrainedScope(scope))
    with torch.no_grad(), model.running():
        base = counted_logits(model, [IDS], [range(len(IDS))])
    assert torch.equal(plain(student), base)
    assert torch.allclose(base, by_hand.vanilla_logits(model, IDS), atol=ATOL)
    assert student.deltas() == () and student.delta_norm() == 0


@pytest.mark.parametrize("scope", SCOPES)
def test_a_student_learns_through_each_of_its_matrices(model, scope):
    """LoRA's first factors are not zero, so that the second ones, which are, get a gradient and change the logits."""
    student, names = trainee(model, TrainedScope(scope)), list(matrices(model.network))
    size, generator = 2 if scope == "LoRA" else 1, torch.Generator().manual_seed(0)
    before = plain(student)
    student.logits([IDS], [range(len(IDS))]).log_softmax(dim=-1)[:, 7].sum().backward()
    # LoRA's parameters come in pairs, the one that starts with zeros second.
    for first, last in zip(student.parameters[::size], student.parameters[size - 1 :: size], strict=True):
        assert bool((first != 0).any()) and float(last.grad.abs().max()) > 0
        assert scope == "full" or (not last.any() and not first.grad.any())
        kept = student.kept()
        with torch.no_grad():
            last.add_(0.05 * torch.randn(last.shape, generator=generator))
        (delta,) = student.deltas()
        names.remove(delta.module)
        assert (plain(student) - before).abs().max() > 1e-3, delta.module
        student.restore(kept)
    assert names == [], "every matrix has had its turn"


@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_trained_is_float32_and_no_tensor_of_the_base(model, scope):
    parameters = trainee(model, TrainedScope(scope)).parameters
    base = {p.data_ptr() for p in model.network.parameters()}
    assert all(p.requires_grad and p.dtype == torch.float32 and p.data_ptr() not in base for p in parameters)
    assert len(parameters) == len(matrices(model.network)) * (2 if scope == "LoRA" else 1)
    assert not any(p.requires_grad for p in model.network.parameters())


@pytest.mark.parametrize("scope", SCOPES)
def test_the_change_of_every_matrix_written_into_a_copy_gives_the_student_s_logits(model, scope):
    student = perturbed(model, scope)
    deltas = student.deltas()
    assert {delta.module: delta.block for delta in deltas} == matrices(model.network)
    assert all((delta.right is not None) == (scope == "LoRA") for delta in deltas)
    patch = Patch(deltas, model.fingerprint, "noise")
    assert student.delta_norm() == pytest.approx(sum(float(d.dense().norm()) ** 2 for d in deltas) ** 0.5, rel=1e-5)
    own = plain(student)
    assert (own - by_hand.vanilla_logits(model, IDS)).abs().max() > 1e-2
    # The noise is large and acts on every matrix, which magnifies rounding.
    near = {"atol": 5 * ATOL}
    copied, hooked = (
        by_hand.logits(written(model.network, patch), IDS),
        by_hand.running_logits(model, IDS, [Row(patch)]),
    )
    assert torch.allclose(own, copied, **near) and torch.allclose(own, hooked[0], **near)
    half = by_hand.running_logits(model, IDS, [Row(patch, 0.5)])[0]
    assert torch.allclose(half, by_hand.logits(written(model.network, patch, 0.5), IDS), **near)
    if scope == "LoRA":
        assert all(delta.left.shape[1] == 8 for delta in deltas)
        dense = replace(patch, deltas=tuple(Delta(d.module, d.block, d.dense()) for d in deltas))
        assert torch.allclose(own, by_hand.running_logits(model, IDS, [Row(dense)])[0], **near)


@pytest.mark.parametrize("scope", SCOPES)
def test_sequences_padded_together_have_the_logits_that_they_have_alone(model, scope):
    student = perturbed(model, scope)
    sequences, counted = (IDS[:4], IDS), (range(4), range(2, 9))
    with torch.no_grad():
        together = student.logits(sequences, counted).split([4, 7])
    for own, ids, places in zip(together, sequences, counted, strict=True):
        assert torch.allclose(own, plain(student, ids)[list(places)], atol=ATOL)


@pytest.mark.parametrize("scope", SCOPES)
def test_restored_weights_are_bit_for_bit_those_that_were_kept(llama, scope):
    student = perturbed(llama, scope)
    kept, before = student.kept(), plain(student)
    with torch.no_grad():
        for parameter in student.parameters:
            parameter.mul_(1.5)
    assert not torch.equal(plain(student), before)
    student.restore(kept)
    assert torch.equal(plain(student), before)


def test_lora_starts_from_its_seed_and_leaves_the_global_generator_alone(llama):
    state = torch.get_rng_state()
    first, again, other = (trainee(llama, TrainedScope(seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters, again.parameters, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters, other.parameters, strict=True))


def test_a_running_measurement_s_hook_is_not_copied(llama):
    """The lock is only given once the measurement that holds it has removed its hook."""
    handle = llama.architecture.blocks[0].register_forward_hook(lambda *_: torch.zeros(1, len(IDS), 32))

    class Lock:
        def __enter__(self) -> None:
            handle.remove()

        def __exit__(self, *_error) -> None:
            pass

    student = trainee(replace(llama, lock=Lock()))
    assert torch.allclose(plain(student), by_hand.vanilla_logits(llama, IDS), atol=ATOL)


@pytest.mark.parametrize("scope", SCOPES)
def test_steps_far_below_bfloat16_s_spacing_are_not_lost(case, scope):
    network = tiny_models.network("llama").to(torch.bfloat16)
    model = from_parts(network, tiny_models.tokenizer(), "tiny-llama")
    checksum = by_hand.checksum(network)
    settings = small(SftSettings, scope=scope, learning_rate=1e-6, steps=2)
    deltas = run(sft(model, case, 1, settings)).patch.deltas
    assert len(deltas) == len(matrices(network)) and all(delta.left.dtype == torch.float32 for delta in deltas)
    assert max(float(delta.left.abs().max()) for delta in deltas) < 1e-5
    assert by_hand.checksum(network) == checksum


def test_weights_that_are_not_in_memory_or_quantised_are_refused():
    offloaded, quantised = (from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "x") for _ in range(2))
    offloaded.network.model.layers[1].self_attn.q_proj.to("meta")
    with pytest.raises(EditError, match=r"weights of block 1 are offloaded.*without offloading"):
        trainee(offloaded)
    matrix = quantised.network.model.layers[0].mlp.up_proj
    matrix.weight = torch.nn.Parameter(torch.zeros(48, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ArchitectureError, match="unquantised"):
        trainee(quantised)


@pytest.mark.parametrize("wrong", [{"scope": "lora"}, {"rank": 0}, {"rank": 1025}, {"alpha": 0}])
def test_what_cannot_be_trained_is_refused_with_the_valid_values(wrong):
    for kind in (TrainedScope, SftSettings, DpoSettings):
        with pytest.raises(
            EditError, match=r"Valid values: LoRA, full|(rank|alpha) = \d+ is out of range: it should be"
        ):
            kind(**wrong)


@pytest.mark.parametrize(
    ("family", "method", "scope"),
    [*((family, "DPO", "LoRA") for family in tiny_models.FIVE), ("llama", "SFT", "full"), ("gpt2", "SFT", "full")],
)
def test_between_two_steps_and_afterwards_the_base_is_vanilla_bit_for_bit(model, case, method, scope):
    before, hooks, checksum = (
        by_hand.vanilla_logits(model, IDS),
        by_hand.hooks(model.network),
        by_hand.checksum(model.network),
    )
    seen = []

    def look(_event) -> None:
        by_hand.assert_at_rest(model, hooks)
        seen.append(torch.equal(by_hand.vanilla_logits(model, IDS), before))

    result = run(quick_edit(model, case, method, scope), look)
    assert result.trace[-1].delta_norm > 0 and len(seen) > len(result.trace) and all(seen)
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
    assert by_hand.checksum(model.network) == checksum


@pytest.mark.parametrize(
    ("way", "families"),
    [("close", ("llama", "opt")), ("throw", ("gpt2",)), ("drop", ("opt", "gpt2")), ("cancel", ("llama",))],
)
@pytest.mark.parametrize(("method", "scope"), [("SFT", "LoRA"), ("DPO", "full")])
def test_a_run_that_does_not_end_leaves_the_model_as_it_was(tiny, case, method, scope, way, families):
    for family in families:
        model = tiny(family)
        before, hooks = by_hand.vanilla_logits(model, IDS), by_hand.hooks(model.network)
        events: list = []
        edit = quick_edit(model, case, method, scope, cancel=lambda e=events: way == "cancel" and len(e) >= 4)
        if way == "cancel":
            result = run(edit, events.append)
            assert len(events) == 4, "the first event after a cancel is the last one"
            assert (result.patch, result.kept, result.stop_reason) == (None, 0, "cancelled")
        else:
            while not events or isinstance(events[-1], Preparation) or events[-1].step < 2:
                events.append(next(edit))
        if way == "close":
            edit.close()
        elif way == "throw":
            with pytest.raises(Broken):
                edit.throw(Broken)
        del edit
        assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
        by_hand.assert_at_rest(model, hooks)
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(("family", "call"), [("llama", 1), ("gemma2", 3), ("gpt2", 10)])
@pytest.mark.parametrize("method", METHODS)
def test_a_crash_inside_a_forward_pass_leaves_the_model_as_it_was(model, case, method, call):
    """The student's modules are copied with the hook that crashes, so that late calls are the student's."""
    before, hooks = by_hand.vanilla_logits(model, IDS), by_hand.hooks(model.network)
    with by_hand.crashing(model.architecture.unembedding, call, Broken), pytest.raises(Broken):
        run(quick_edit(model, case, method, "LoRA"))
    assert torch.equal(by_hand.vanilla_logits(model, IDS), before)
    by_hand.assert_at_rest(model, hooks)
    assert torch.is_grad_enabled()


def test_two_runs_interleaved_on_one_model_give_what_they_give_alone(llama, case):
    ways = [("SFT", "LoRA"), ("DPO", "full"), ("SFT", "full")]
    alone = [run(quick_edit(llama, case, *way)).patch.identifier for way in ways]
    edits, found = {way: quick_edit(llama, case, *way) for way in ways}, {}
    while edits:
        for way in list(edits):
            try:
                next(edits[way])
            except StopIteration as end:
                found[way] = end.value.patch.identifier
                del edits[way]
    assert [found[way] for way in ways] == alone
