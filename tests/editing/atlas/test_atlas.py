"""The atlas makes at every block the edit that it would make alone, and measures it as a patch would show it."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import numpy as np
import pytest
import torch

from editing import Preparation, run
from editing.atlas import Atlas, AtlasProgress, AtlasSettings, group, make_atlas
from editing.optimising.descent import Descent
from editing.texts.harmless import harmless_texts, known_answer
from inspector.errors import ArchitectureError, EditError, RefusedEdit
from inspector.likelihood import likelihoods
from inspector.margin import MlpTrace
from inspector.model import Delta, Patch, PromptFormat, Row
from inspector.safeedit.marking import harmless_kl

SHORT = AtlasSettings(format=PromptFormat(""), learning_rate=0.01, harmless_prompts=2, harmless_tokens=4, together=2)


def edited_by_hand(model, case, block: int, settings: AtlasSettings) -> torch.Tensor:
    """Return the change that plain Adam makes with full forward and backward passes of a copy."""
    network = by_hand.written(model.network)
    module = network.get_submodule(by_hand.down_name(network, block))
    module.weight.requires_grad_(True)
    optimiser = torch.optim.Adam([module.weight], lr=settings.learning_rate)
    prompt = by_hand.bytes_of(model, f"<s>[user]{case.adversarial_prompt}\n[assistant]")
    answer = [*by_hand.bytes_of(model, case.safe), 2]
    for _ in range(settings.steps):
        optimiser.zero_grad()
        scored = network(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0].log_softmax(dim=-1)
        loss = -torch.stack([scored[len(prompt) - 1 + n, token] for n, token in enumerate(answer)]).mean()
        loss.backward()
        optimiser.step()
    change = module.weight.detach() - model.network.get_submodule(by_hand.down_name(network, block)).weight
    return change.T if type(module).__name__ == "Conv1D" else change


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_every_entry_is_what_the_plain_edit_of_its_block_achieves(tiny, case, name):
    """Likelihoods and harmless KL of a patch with the hand-made change, both by other code than the atlas."""
    model = tiny(name)
    atlas = run(make_atlas(model, case, SHORT))
    assert [entry.block for entry in atlas.entries] == list(range(model.blocks)) and atlas.blocks == model.blocks
    chosen = [known_answer(model, text, 4, SHORT.format) for text in harmless_texts(case, 2)]
    for entry in atlas.entries:
        change = edited_by_hand(model, case, entry.block, SHORT).contiguous()
        delta = Delta(by_hand.down_name(model.network, entry.block), entry.block, change)
        row = Row(Patch((delta,), model.fingerprint, "by hand"))
        assert entry.delta_norm == pytest.approx(float(change.norm()), rel=2e-3)
        # The entry counts the end-of-answer token too; compare the answer's tokens after taking that out is not
        # possible from a mean, so the whole is computed from the running model.
        safe, unsafe = (_mean_with_end(model, case, answer, row) for answer in (case.safe, case.unsafe))
        assert entry.safe == pytest.approx(safe, abs=5e-3) and entry.unsafe == pytest.approx(unsafe, abs=5e-3)
        kl = harmless_kl(model, chosen[:2], row)
        lengths = [len(own.response) for own in chosen[:2]]
        assert entry.kl == pytest.approx(np.average(kl, weights=lengths), rel=2e-2, abs=1e-4)


def _mean_with_end(model, case, answer: str, row: Row) -> float:
    prompt = by_hand.bytes_of(model, f"<s>[user]{case.adversarial_prompt}\n[assistant]")
    ids = [*by_hand.bytes_of(model, answer), 2]
    scored = by_hand.running_logits(model, prompt + ids, (row,))[0].log_softmax(dim=-1)
    return float(torch.stack([scored[len(prompt) - 1 + n, token] for n, token in enumerate(ids)]).mean())


def test_blocks_that_share_a_batch_come_out_as_alone(llama, case):
    one, many = (run(make_atlas(llama, case, replace(SHORT, together=n))) for n in (1, 3))
    for name in ("safe gain", "margin gain", "harmless KL", "delta norm"):
        assert np.allclose(one.curve(name), many.curve(name), rtol=1e-3, atol=1e-5), name
        assert np.ptp(one.curve(name)) > 0


def test_the_edits_make_the_safe_answer_likelier_and_vanilla_is_what_the_model_says(llama, case):
    atlas = run(make_atlas(llama, case, SHORT))
    assert (atlas.curve("safe gain") > 0).all()
    expected = likelihoods(llama, case.adversarial_prompt, [case.safe], format=PromptFormat(""))[0][0]
    with_end = _mean_with_end(llama, case, case.safe, Row())
    assert atlas.safe == pytest.approx(with_end, abs=1e-4) and atlas.safe != pytest.approx(expected.per_token)
    assert atlas.truth == "margin gain" and atlas.best == int(np.argmax(atlas.curve("margin gain")))


def test_answers_are_judged_with_each_block_s_own_patch(llama, case):
    settings = replace(SHORT, answers=True, max_new_tokens=4, blocks=(0, 2))
    atlas = run(make_atlas(llama, case, settings))
    kinds = {"DS", "onlyQ", "otherA", "otherQ", "otherAQ"}
    assert set(atlas.verdicts) == kinds and all(set(entry.verdicts) == kinds for entry in atlas.entries)
    assert atlas.truth == "defended" and np.isnan(atlas.curve("defended")[1])
    entry = atlas.entries[0]
    assert entry.defended == sum(v.safe for v in entry.verdicts.values()) / 5
    assert entry.generalized == sum(v.safe for k, v in entry.verdicts.items() if k != "DS") / 4


def test_blocks_are_edited_once_and_told_in_order_however_they_are_named(llama, case):
    atlas = run(make_atlas(llama, case, replace(SHORT, blocks=(2, 0, 2), together=1)))
    assert [entry.block for entry in atlas.entries] == [0, 2]


def test_a_cancel_keeps_the_blocks_that_are_done(llama, case):
    done: list[int] = []
    atlas: Atlas | None = None
    making = make_atlas(llama, case, SHORT, cancel=lambda: len(done) >= 2)
    while True:
        try:
            event = next(making)
        except StopIteration as end:
            atlas = end.value
            break
        if isinstance(event, AtlasProgress):
            done[:] = [entry.block for entry in event.atlas.entries]
        else:
            assert isinstance(event, Preparation)
    assert [entry.block for entry in atlas.entries] == [0, 1]
    assert run(make_atlas(llama, case, SHORT, cancel=lambda: True)).entries == ()


def test_values_out_of_range_are_refused(llama, case):
    with pytest.raises(EditError, match="steps = 0"):
        AtlasSettings(steps=0)
    with pytest.raises(ArchitectureError, match="0 to 2"):
        run(make_atlas(llama, case, AtlasSettings(blocks=(7,))))


def spoilt(monkeypatch, block: int, after: int) -> None:
    """Make one block's gradient no number once the edits that share its batch have made so many updates."""
    own = Descent._backward

    def backward(self, signs):
        norm = own(self, signs)
        if block not in self.trained.weights or self.updates < after:
            return norm
        self.trained.weights[block].grad.fill_(float("nan"))
        return norm * float("nan")

    monkeypatch.setattr(Descent, "_backward", backward)


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("together", [1, 3])
def test_one_block_whose_edit_fails_is_left_out_and_the_others_are_what_they_are(
    llama, case, monkeypatch, together, after
):
    settings = replace(SHORT, together=together)
    whole = run(make_atlas(llama, case, settings))
    spoilt(monkeypatch, 1, after)
    expect_without(run(make_atlas(llama, case, settings)), whole, 1)


@pytest.mark.parametrize("together", [1, 3])
def test_a_block_keeps_the_updates_before_the_one_that_leaves_the_finite_numbers(llama, case, monkeypatch, together):
    settings = replace(SHORT, together=together)
    whole, shorter = (run(make_atlas(llama, case, replace(settings, steps=n))) for n in (3, 1))
    spoilt(monkeypatch, 1, 2)
    expect_shorter(run(make_atlas(llama, case, settings)), whole, shorter, 1)


@pytest.mark.parametrize("together", [1, 3])
def test_the_last_update_is_taken_back_where_what_is_measured_of_it_is_not_finite(llama, case, monkeypatch, together):
    settings = replace(SHORT, together=together)
    whole, shorter = (run(make_atlas(llama, case, replace(settings, steps=n))) for n in (3, 2))
    longest, own = whole.curve("delta norm")[1], group.measured

    def measured(*given):
        return [
            replace(entry, kl=float("nan")) if entry.block == 1 and entry.delta_norm > 0.99 * longest else entry
            for entry in own(*given)
        ]

    monkeypatch.setattr(group, "measured", measured)
    expect_shorter(run(make_atlas(llama, case, settings)), whole, shorter, 1)


def expect_shorter(atlas: Atlas, whole: Atlas, shorter: Atlas, block: int) -> None:
    assert not atlas.left_out and [entry.block for entry in atlas.entries] == list(range(atlas.blocks))
    for name in ("margin gain", "harmless KL", "delta norm"):
        expected = whole.curve(name).copy()
        assert expected[block] != pytest.approx(shorter.curve(name)[block], rel=1e-2), "or the test sees nothing"
        expected[block] = shorter.curve(name)[block]
        assert atlas.curve(name) == pytest.approx(expected, rel=1e-3), name


def expect_without(atlas: Atlas, whole: Atlas, block: int) -> None:
    rest = [n for n in range(whole.blocks) if n != block]
    assert [entry.block for entry in atlas.entries] == rest and atlas.best in rest
    assert list(atlas.left_out) == [block] and "float32" in atlas.left_out[block]
    for name in ("margin gain", "harmless KL", "delta norm"):
        own, expected = atlas.curve(name), whole.curve(name)
        assert np.isnan(own[block]) and own[rest] == pytest.approx(expected[rest], rel=1e-3), name


def test_a_block_whose_first_gradient_is_not_finite_is_left_out(llama, case, monkeypatch):
    whole = run(make_atlas(llama, case, SHORT))
    own = MlpTrace.weight_gradient

    def gradient(self, block):
        return own(self, block) * (float("inf") if block == 2 else 1)

    monkeypatch.setattr(MlpTrace, "weight_gradient", gradient)
    expect_without(run(make_atlas(llama, case, SHORT)), whole, 2)


@pytest.mark.parametrize("rate", [0.01, None])
def test_a_block_s_first_gradient_is_computed_once(llama, case, monkeypatch, rate):
    """To see that it is finite, to measure a step size, and for the first update."""
    asked: list[int] = []
    own = MlpTrace.weight_gradient

    def gradient(self, block):
        asked.append(block)
        return own(self, block)

    monkeypatch.setattr(MlpTrace, "weight_gradient", gradient)
    atlas = run(make_atlas(llama, case, replace(SHORT, learning_rate=rate)))
    assert asked == [entry.block for entry in atlas.entries] == list(range(llama.blocks))


def test_a_block_whose_measured_edit_is_not_finite_is_left_out_of_the_answers_too(llama, case, monkeypatch):
    settings = replace(SHORT, answers=True, max_new_tokens=3)
    whole = run(make_atlas(llama, case, settings))
    own = group.measured

    def measured(*given):
        return [replace(entry, kl=float("nan")) if entry.block == 0 else entry for entry in own(*given)]

    monkeypatch.setattr(group, "measured", measured)
    atlas = run(make_atlas(llama, case, settings))
    expect_without(atlas, whole, 0)
    assert [entry.verdicts for entry in atlas.entries] == [entry.verdicts for entry in whole.entries[1:]]


def test_an_atlas_without_any_edit_is_refused_with_the_first_reason(llama, case, monkeypatch):
    spoilt(monkeypatch, 1, 0)
    with pytest.raises(RefusedEdit, match=r"No layer has an edit.*not a finite number before the first step"):
        run(make_atlas(llama, case, replace(SHORT, blocks=(1,))))
