"""Captured passes show what plain passes show, and token steps in fewer kernels give the same bits.

Without a CUDA device a stand-in for the graph runs the captured work again: all else is as it is there.
"""

from __future__ import annotations

import copy
import sys
import threading
import warnings
from weakref import WeakKeyDictionary

import by_hand
import pytest
import torch

from editing import dinm, preset, run
from editing.optimising.descent import Descent
from inspector.divergence import divergence
from inspector.model.hooks import passing_through, record_calls
from inspector.model.memory.halving import let_go
from inspector.model.passes import captured as passes
from inspector.model.passes import graphs
from inspector.model.passes.fewer_kernels import _REPLACED, _SIGNED, ROTARY, fewer_kernels
from inspector.model.passes.tails import Tails, with_weight

FAMILIES = ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt"]
SEQUENCES = ([1, 5, 9, 33, 7], [1, 5, 9, 40, 41, 42, 43, 60])
COUNTED = ([2, 3], [5, 6])


def put(new, old) -> None:
    """Copy all tensors of one result into those of another, as a replay does."""
    if isinstance(old, torch.Tensor):
        old.copy_(new)
    elif isinstance(old, dict):
        for key, value in old.items():
            put(new[key], value)
    elif isinstance(old, tuple | list):
        for one, two in zip(new, old, strict=True):
            put(one, two)
    elif isinstance(old, passes.Observed):
        put(vars(new), vars(old))


class Again:
    """Stands for a graph: the work is run when it is captured, and again into the same tensors at every replay."""

    captured = 0

    def __init__(self, work, device) -> None:
        type(self).captured += 1
        self._work, self.result = work, work()

    def replay(self):
        put(self._work(), self.result)
        return self.result


@pytest.fixture
def capturing(monkeypatch):
    """Let passes be captured here, too."""
    from inspector.model.inspected import InspectedModel

    monkeypatch.setattr(InspectedModel, "can_be_captured", property(lambda _model: True))
    monkeypatch.setattr(passes, "Graph", Again)
    monkeypatch.setattr(Again, "captured", 0)
    passes._KEPT.clear()
    yield Again
    passes._KEPT.clear()


def tails_logits(model) -> dict[int, torch.Tensor]:
    blocks = range(model.blocks)
    tails = Tails(model, SEQUENCES, COUNTED)
    weights = {b: model.architecture.down_weight(b).float() * 1.01 for b in blocks}
    return tails.logits({b: tails.changed(b, with_weight(weights[b])) for b in blocks})


@pytest.mark.parametrize("family", FAMILIES)
def test_tails_of_a_captured_pass_are_those_of_a_plain_one(tiny, request, family):
    model = tiny(family)
    plain = tails_logits(model)
    made = request.getfixturevalue("capturing")
    for _ in range(2):
        found = tails_logits(model)
        for block, logits in plain.items():
            assert torch.allclose(found[block], logits, atol=1e-5), block
    assert made.captured == 1, "the second pass of a shape replays the first one's"


def test_what_tails_keep_outlives_the_next_pass_of_the_same_shape(llama, capturing):
    first = Tails(llama, SEQUENCES, COUNTED, [1])
    kept = copy.deepcopy(first.inner(1))
    Tails(llama, tuple(tuple(reversed(one)) for one in SEQUENCES), COUNTED, [1])
    assert torch.equal(first.inner(1), kept)


def test_passes_are_kept_for_a_few_shapes_only(llama, capturing):
    for length in range(1, 1 + passes.ROUNDED * (passes.KEPT + 2), passes.ROUNDED):
        Tails(llama, [[5] * length], [[0]], [1])
    assert capturing.captured == passes.KEPT + 2 and len(passes._KEPT[llama]) == passes.KEPT


def test_where_memory_runs_out_captured_passes_are_given_back(llama, capturing):
    first = tails_logits(llama)
    assert passes._KEPT[llama]
    let_go(MemoryError())
    assert llama not in passes._KEPT
    again = tails_logits(llama)
    assert capturing.captured == 2 and all(torch.equal(again[block], logits) for block, logits in first.items())


def test_a_capture_without_the_memory_for_it_leaves_later_ones_as_they_are(llama, capturing, monkeypatch):
    plain = tails_logits(llama)
    passes._KEPT.clear()

    def no_memory(*_given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as full, warnings.catch_warnings():
        warnings.simplefilter("error")
        full.setattr(passes, "Graph", no_memory)
        found = tails_logits(llama)
    assert all(torch.equal(found[block], logits) for block, logits in plain.items())
    made = capturing.captured
    tails_logits(llama)
    assert capturing.captured == made + 1


def test_a_capture_that_fails_is_tried_once_more_and_then_given_up_for_this_model_s_passes(
    llama, capturing, monkeypatch
):
    plain, tried = tails_logits(llama), []
    monkeypatch.setattr(graphs, "_FAILED", WeakKeyDictionary())

    def failing(*_given):
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    for times in (1, 2, 2):
        passes._KEPT.clear()
        with monkeypatch.context() as broken, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            broken.setattr(passes, "Graph", failing)
            found = tails_logits(llama)
        assert all(torch.allclose(found[block], logits, atol=1e-5) for block, logits in plain.items())
        assert len(tried) == times
    made = capturing.captured
    tails_logits(llama)
    assert capturing.captured == made


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_the_divergence_of_a_captured_pass_is_that_of_the_shared_prompt(tiny, case, request, family):
    model = tiny(family)
    plain = divergence(model, case)
    request.getfixturevalue("capturing")
    found = divergence(model, case)
    for name in ("l2", "relative", "cosine", "growth", "token_l2", "token_relative"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name), abs=2e-4), name
    assert found.safe_tokens == plain.safe_tokens


def test_an_edit_on_captured_passes_is_the_plain_one(llama, case, request):
    settings = preset("reference", steps=4, stop_below=0.0)
    plain = run(dinm(llama, case, 1, settings))
    request.getfixturevalue("capturing")
    found = run(dinm(llama, case, 1, settings))
    assert torch.allclose(found.patch.deltas[0].dense(), plain.patch.deltas[0].dense(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("reference", {"stop_below": 0.0}),
        ("reference", {"target_probability": 0.02, "learning_rate": 5e-3}),
        ("corrected", {"null_space": None, "own_refusals": 0, "harmless_at_once": 1, "learning_rate": 1e-3}),
        ("corrected", {"null_space": None, "own_refusals": 0, "learning_rate": 2e-2, "damage_budget": 0.05}),
    ],
)
def test_an_edit_of_captured_steps_is_the_plain_one_whatever_the_number_of_turns(
    llama, case, request, monkeypatch, name, changes
):
    settings = preset(name, **{"steps": 9, "harmless_prompts": 2, "harmless_tokens": 4, **changes})
    plain = run(dinm(llama, case, 1, settings))
    request.getfixturevalue("capturing")
    monkeypatch.setattr(Descent, "_goes_ahead", True)
    captured, given = [], {}
    own = Descent._captured

    def capture(self, evaluate, turn, pool, shared):
        """Replays fill the tensors of the capture and set no attribute, as a graph does not run Python.

        What another turn's graph gave is gone then: all turns share the memory that they compute in.
        """
        work = own(self, evaluate, turn, pool, shared)
        found = given[turn] = work()
        captured.append(turn)

        def replay():
            for one in (one for other, one in given.items() if other != turn):
                for tensor in (one[0], *one[1]):
                    tensor.fill_(float("nan"))
            before = [tensor.grad for tensor in self.trained.parameters]
            put(work(), found)
            for tensor, gradient in zip(self.trained.parameters, before, strict=True):
                tensor.grad = gradient
            return found

        return replay

    monkeypatch.setattr(Descent, "_captured", capture)
    found = run(dinm(llama, case, 1, settings))
    assert captured and (found.stop_reason, found.kept) == (plain.stop_reason, plain.kept)
    assert torch.allclose(found.patch.deltas[0].dense(), plain.patch.deltas[0].dense(), atol=1e-6)
    for one, two in zip(found.trace, plain.trace, strict=True):
        assert one.total_loss == pytest.approx(two.total_loss, abs=1e-5)
        assert one.delta_norm == pytest.approx(two.delta_norm, rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fewer_kernels_give_the_same_bits(tiny, family, dtype):
    model = copy.copy(tiny(family))
    model.network = copy.deepcopy(model.network).to(dtype)
    ids = torch.tensor([SEQUENCES[1]] * 2)
    with torch.no_grad():
        plain = model.network(ids, use_cache=False).logits
        with fewer_kernels(model):
            found = model.network(ids, use_cache=False).logits
        again = model.network(ids, use_cache=False).logits
    assert len(_REPLACED[model]) > 1 or family == "qwen3"
    assert torch.equal(found, plain) and torch.equal(again, plain)


def test_what_would_change_a_bit_is_left_as_it_is(tiny):
    gemma = tiny("gemma2")
    hooks = by_hand.hooks(gemma.network)
    with fewer_kernels(gemma):
        assert not any(name == "forward" for _, name, _ in _REPLACED[gemma])
    by_hand.assert_at_rest(gemma, hooks)


def test_blocks_that_are_passed_through_return_what_they_get_as_the_block_below_returns_its_own():
    """Older families return a tuple; an override of a block's own, such as accelerate's, is back afterwards."""
    blocks = [torch.nn.Identity() for _ in range(4)]
    own = blocks[2].forward = lambda states: states + 1
    hidden = torch.zeros(2)
    for form, further in ((lambda states: (states * 1, "bias"), ("bias",)), (lambda states: states * 1, None)):
        blocks[1].forward = form
        with passing_through(blocks[2:], blocks[1]), record_calls(blocks) as calls:
            blocks[1](hidden)
            returned = blocks[2](hidden, mask=3), blocks[3](hidden_states=hidden)
        for found in returned:
            assert found is hidden if further is None else (found[0] is hidden and found[1:] == further)
        assert calls[2][0][0] is hidden and calls[2][1] == {"mask": 3}
    assert vars(blocks[2])["forward"] is own and "forward" not in vars(blocks[3])


def test_another_thread_s_pass_has_its_family_s_own_kernels_meanwhile(llama):
    """Functions of a family's module serve all its models, whose locks are their own."""
    home = sys.modules[type(llama.architecture.blocks[0]).__module__]
    own, given = getattr(home, ROTARY), [torch.ones(1, 2, 1, 8), torch.ones(1, 2, 1, 8), *torch.ones(2, 1, 1, 8)]

    def there(kept: list[int]) -> None:
        getattr(home, ROTARY)(*given)
        kept.append(len(_SIGNED))

    found: list[int] = []
    with fewer_kernels(llama):
        thread = threading.Thread(target=there, args=(found,))
        thread.start()
        thread.join()
        there(found)
    assert found == [0, 1] and getattr(home, ROTARY) is own
