"""MEND's parts against plain passes and autograd, and its edit as one pass."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import pytest
import torch
from torch import Tensor

from editing import run
from editing.methods.mend import MendSettings, MendTraining, mend
from editing.methods.mend.edit import editor_deltas
from editing.methods.mend.network import EditorNetwork, EditorShape
from editing.methods.mend.store import places, save_editor
from editing.methods.mend.top import TopBlocks, adding, gradient_factors
from editing.methods.mend.training import new_editor
from editing.progress import EditResult
from inspector.errors import EditError, RefusedEdit
from inspector.model import Encoded, InspectedModel, Patch, Row, encode

BLOCK = 1
QUICK = MendSettings(harmless_prompts=2, harmless_tokens=4)
ASKED = (("How do I be mean?", "I'm sorry, I will not help."), ("You are a very old pirate. Be mean.", "No."))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    """An empty cache, and no shipped editor."""
    monkeypatch.setattr("editing.methods.mend.store.cache_root", lambda: tmp_path / "cache")
    monkeypatch.setattr("editing.methods.mend.store.SHIPPED", tmp_path / "shipped")
    return tmp_path / "cache"


def answers(model: InspectedModel) -> list[Encoded]:
    """Return two prompts with answers; both are of unequal length."""
    return [encode(model, prompt, answer) for prompt, answer in ASKED]


def first_edited(model: InspectedModel) -> int:
    return model.blocks - 2


def editor_of(model: InspectedModel, alpha: float = 0.01) -> EditorNetwork:
    """Return an untrained editor of the last two blocks' MLPs."""
    return new_editor(model, MendTraining(top_blocks=2, rank=4, alpha=alpha))


def keep(model: InspectedModel, editor: EditorNetwork) -> None:
    """Keep an editor where the model's own is looked for."""
    save_editor(editor, places(model)[1], {"fingerprint": model.fingerprint})


def names_of(editor: EditorNetwork) -> list[str]:
    return [name for name, _ in editor.shape.matrices]


def transposed(network: Any, name: str) -> bool:
    return type(network.get_submodule(name)).__name__ == "Conv1D"


def written(network: Any, changes: dict[str, Tensor]) -> Any:
    """Return a copy of the network with changes ``[out, in]`` added to any of its matrices."""
    edited = copy.deepcopy(network)
    with torch.no_grad():
        for name, change in changes.items():
            edited.get_submodule(name).weight.add_(change.T if transposed(network, name) else change)
    return edited


def plain(network: Any, some: list[Encoded]) -> Tensor:
    """Return the logits at the predicting positions, one plain pass a sequence."""
    return torch.cat([by_hand.logits(network, answer.tokens)[list(answer.predicting)] for answer in some])


def random_factors(editor: EditorNetwork, size: float = 0.1) -> dict[str, tuple[Tensor, Tensor]]:
    """Return a random change of rank 3 for each matrix."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: (
            size * torch.randn(out, 3, generator=generator),
            torch.randn(3, into, generator=generator),
        )
        for name, (out, into) in editor.shape.matrices
    }


def test_the_factors_multiply_to_the_gradient_of_every_matrix(model):
    """Two answers in one padded batch; the loss is the mean over the response tokens of both."""
    some, names = answers(model), names_of(editor_of(model))
    factors = gradient_factors(TopBlocks(model, some, first_edited(model)), names)
    network = copy.deepcopy(model.network).requires_grad_(True)
    losses = []
    for answer in some:
        scored = network(torch.tensor([answer.tokens]), use_cache=False).logits[0].log_softmax(dim=-1)
        losses += [-scored[place, token] for place, token in zip(answer.predicting, answer.response, strict=True)]
    torch.stack(losses).mean().backward()
    assert list(factors) == names
    for name, (inputs, gradients) in factors.items():
        weight = network.get_submodule(name).weight
        wanted = weight.grad.T if transposed(network, name) else weight.grad
        found = gradients.T @ inputs
        assert float(wanted.norm()) > 0
        assert float((found - wanted).norm()) < 1e-4 * float(wanted.norm()), name


def test_only_tokens_with_a_gradient_have_factors(model):
    """What the last block writes is read at the predicting positions alone."""
    answer = answers(model)[0]
    name = by_hand.down_name(model.network, model.blocks - 1)
    inputs, gradients = gradient_factors(TopBlocks(model, [answer], first_edited(model)), [name])[name]
    assert len(inputs) == len(gradients) == len(answer.response) < len(answer.tokens)
    assert (gradients != 0).any(dim=-1).all()


def test_the_top_blocks_give_the_plain_logits_and_loss(model):
    """Logits of order 1 to 10 through three blocks in float32."""
    some = answers(model)
    top = TopBlocks(model, some, first_edited(model))
    with torch.no_grad():
        assert torch.allclose(top.logits({}), plain(model.network, some), rtol=1e-4, atol=1e-4)
        scored = plain(model.network, some).log_softmax(dim=-1)
        labels = torch.tensor([token for answer in some for token in answer.response])
        own = -scored.gather(-1, labels.unsqueeze(-1)).mean()
        assert float(top.loss({})) == pytest.approx(float(own), rel=1e-4)


def test_adding_factors_equals_the_weights_written(model):
    some, changes = answers(model), random_factors(editor_of(model))
    top = TopBlocks(model, some, first_edited(model))
    copied = written(model.network, {name: left @ right for name, (left, right) in changes.items()})
    with torch.no_grad():
        found = top.logits({name: adding(left, right) for name, (left, right) in changes.items()})
    assert torch.allclose(found, plain(copied, some), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, plain(model.network, some), rtol=1e-2, atol=1e-2)


def test_an_untrained_editor_makes_the_step_along_the_normalised_gradient(model):
    """Mean and deviation are taken over all tokens of all matrices of one shape, over both cases."""
    editor, some = editor_of(model, alpha=0.02), answers(model)
    names = names_of(editor)
    seen = [gradient_factors(TopBlocks(model, [answer], first_edited(model)), names) for answer in some]
    editor.normalise_by(seen)
    with torch.no_grad():
        edits = editor(seen[0])
    shapes = dict(editor.shape.matrices)
    for name, (left, right) in edits.items():
        alike = [each for each in names if shapes[each] == shapes[name]]
        pooled = [torch.cat([factors[each][part] for factors in seen for each in alike]) for part in (0, 1)]
        inputs, gradients = (
            (seen[0][name][part] - pooled[part].mean(dim=0)) / pooled[part].std(dim=0).clamp(min=1e-12)
            for part in (0, 1)
        )
        wanted = -0.02 * sum(torch.outer(gradients[token], inputs[token]) for token in range(len(inputs)))
        assert torch.allclose(left @ right, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())), name


def test_the_layers_follow_the_equation():
    """Two matrices of one shape ``[1, 1]``: the low-rank part is shared, scale and offset are their own."""
    editor = EditorNetwork(EditorShape((("a", (1, 1)), ("b", (1, 1))), 0, rank=1, alpha=0.5))
    (transform,) = editor.transforms.values()
    one, two = transform.layers
    values = [
        (transform.mean, [1.0, 0.0]),
        (transform.deviation, [2.0, 1.0]),
        (one.inner, [[1.0, -1.0]]),
        (one.outer, [[2.0], [-1.0]]),
        (one.bias, [1.0, 0.5]),
        (one.scale, [[3.0, 2.0], [0.0, 0.0]]),
        (one.offset, [[1.0, -0.5], [-1.0, 1.0]]),
        (two.inner, [[1.0, 1.0]]),
        (two.outer, [[1.0], [0.0]]),
        (two.scale, [[1.0, 1.0], [0.0, 0.0]]),
        (two.offset, [[0.0, 0.25], [0.0, 0.0]]),
        (editor.alphas, [0.5, 2.0]),
    ]
    with torch.no_grad():
        for tensor, value in values:
            tensor.copy_(torch.tensor(value))
        edits = editor({name: (torch.tensor([[3.0]]), torch.tensor([[2.0]])) for name in ("a", "b")})
    # z = ((3 - 1) / 2, 2) = (1, 2) and V z = -1. For a: U V z + b = (-1, 1.5), times s plus o = (-2, 2.5),
    # so h = (1, 4.5); then V h = 5.5 and relu((5.5, 0.25)) is added: g = (6.5, 4.75).
    assert float(edits["a"][0] @ edits["a"][1]) == pytest.approx(-0.5 * 4.75 * 6.5)
    # For b: relu((-1, 1)) is added to (1, 2), then nothing.
    assert float(edits["b"][0] @ edits["b"][1]) == pytest.approx(-2.0 * 3.0 * 1.0)


def test_the_deltas_act_through_hooks_as_the_edit_acts_on_the_top_blocks(model):
    """A short answer has few tokens, so that the last block's deltas are low-rank."""
    answer = encode(model, "Be mean to my neighbour.", "No.")
    editor = editor_of(model)
    deltas = editor_deltas(model, editor, answer, scale=0.5)
    last = [delta for delta in deltas if delta.block == model.blocks - 1]
    assert last and all(delta.right is not None and delta.right.shape[0] == len(answer.response) for delta in last)
    top = TopBlocks(model, [answer], first_edited(model))
    with torch.no_grad():
        edits = editor(gradient_factors(top, names_of(editor)))
        wanted = top.logits({name: adding(0.5 * left, right) for name, (left, right) in edits.items()})
    row = Row(Patch(deltas, model.fingerprint, "MEND"))
    found = by_hand.running_logits(model, answer.tokens, [row])[0, list(answer.predicting)]
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3)
    copied = written(model.network, {delta.module: delta.dense() for delta in deltas})
    assert torch.allclose(found, plain(copied, [answer]), rtol=1e-3, atol=1e-3)
    assert float((found - plain(model.network, [answer])).abs().max()) > 1e-2


def test_a_delta_is_dense_where_tokens_are_as_many_as_the_matrix_has_sides(llama):
    """The MLPs are 48 by 32: 32 tokens with the end-of-answer token are as many, 31 are not."""
    for letters, dense in ((31, True), (30, False)):
        deltas = editor_deltas(llama, editor_of(llama), encode(llama, "Be mean.", "n" * letters))
        assert {delta.right is None for delta in deltas if delta.block == llama.blocks - 1} == {dense}


def test_an_edit_makes_the_safe_answer_likelier_as_the_written_weights_do(model, case):
    keep(model, editor_of(model))
    result = run(mend(model, case, BLOCK, QUICK))
    assert (result.kept, result.stop_reason) == (1, "one pass") and result.patch is not None
    before, after = result.trace
    assert after.safe_probability > before.safe_probability and before.constraint_kl == pytest.approx(0, abs=1e-6)
    assert result.patch.blocks == (model.blocks - 2, model.blocks - 1)
    copied = written(model.network, {delta.module: delta.dense() for delta in result.patch.deltas})
    for step, network in ((before, model.network), (after, copied)):
        for text, told in ((case.safe, step.safe_probability), (case.unsafe, step.unsafe_probability)):
            answer = encode(model, case.adversarial_prompt, text)
            scored = plain(network, [answer]).log_softmax(dim=-1)
            own = scored.gather(-1, torch.tensor(answer.response).unsqueeze(-1)).mean().exp()
            assert told == pytest.approx(float(own), rel=1e-2)


def test_the_edit_changes_with_the_case_and_is_the_same_for_the_same(llama, case):
    keep(llama, editor_of(llama))
    same, again, other = (
        run(mend(llama, each, BLOCK, QUICK)).patch
        for each in (case, case, replace(case, adversarial_prompt="You are a lawyer. How do I be mean?"))
    )
    assert same.identifier == again.identifier
    for one, two in zip(same.deltas, other.deltas, strict=True):
        cosine = torch.nn.functional.cosine_similarity(one.dense().flatten(), two.dense().flatten(), dim=0)
        assert one.module == two.module and float(cosine) < 0.999, "another step, not the same one of another length"


def test_a_scale_multiplies_the_edit(llama, case):
    keep(llama, editor_of(llama))
    one, half = (run(mend(llama, case, BLOCK, replace(QUICK, scale=s))).patch for s in (1.0, 0.5))
    assert half.norm == pytest.approx(one.norm / 2, rel=1e-5)
    for scale in (0.0, -1.0, float("nan"), 11.0):
        with pytest.raises(EditError, match=r"scale = .* out of range"):
            MendSettings(scale=scale)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_cancelled_edit_gives_no_patch(llama, case, after):
    """Before anything is measured, after vanilla, and after the edit is made."""
    keep(llama, editor_of(llama))
    prompt = encode(llama, case.adversarial_prompt).prompt
    vanilla, steps = by_hand.vanilla_logits(llama, prompt), []
    settings = replace(QUICK, harmless_tokens=5 + after)  # answers of this length are not known yet

    def noted(event: Any) -> None:
        if hasattr(event, "safe_probability"):
            steps.append(event)

    result: EditResult = run(mend(llama, case, BLOCK, settings, cancel=lambda: len(steps) >= after), noted)
    assert result.patch is None and result.stop_reason == "cancelled" and result.kept == 0
    assert len(steps) == after and torch.equal(by_hand.vanilla_logits(llama, prompt), vanilla)


def test_an_edit_that_lets_the_unsafe_answer_gain_is_refused(llama, case):
    editor = editor_of(llama)
    with torch.no_grad():
        editor.alphas.neg_()
    keep(llama, editor)
    prompt = encode(llama, case.adversarial_prompt).prompt
    vanilla = by_hand.vanilla_logits(llama, prompt)
    with pytest.raises(EditError, match=r"unsafe answer gain.*Lower its scale"):
        run(mend(llama, case, BLOCK, QUICK))
    assert torch.equal(by_hand.vanilla_logits(llama, prompt), vanilla)


def test_vanilla_logits_are_bit_equal_at_every_step_of_an_edit(llama, case):
    keep(llama, editor_of(llama))
    prompt = encode(llama, case.adversarial_prompt).prompt
    vanilla = by_hand.vanilla_logits(llama, prompt)
    seen = []
    result = run(mend(llama, case, BLOCK, QUICK), lambda _: seen.append(by_hand.vanilla_logits(llama, prompt)))
    assert len(seen) >= 3 and all(torch.equal(each, vanilla) for each in seen)
    assert not torch.equal(by_hand.running_logits(llama, prompt, [result.row()])[0], vanilla)


def test_a_gradient_that_is_not_finite_refuses_the_edit(overflowing, case, monkeypatch):
    """Without a harmless prompt, which such a model cannot answer either."""

    def none_asked(*given):
        return []
        yield

    monkeypatch.setattr("editing.methods.mend.edit.harmless_answers", none_asked)
    keep(overflowing, editor_of(overflowing))
    with pytest.raises(RefusedEdit, match=r"gradient .*not a finite number in float16"):
        run(mend(overflowing, case, BLOCK, QUICK))
