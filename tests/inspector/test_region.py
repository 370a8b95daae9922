"""The region's activation shift is what plain passes give, is forced where nothing can change, and projected right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import by_hand
import numpy as np
import pytest
import torch

from inspector.errors import ArchitectureError, NotFinite, PromptError
from inspector.model import VANILLA, Delta, InspectedModel, Patch, PromptFormat, Row, encode
from inspector.model.memory import batch_size
from inspector.model.memory.batch_size import SHARE, line_bytes
from inspector.model.patches.patch import Reminder
from inspector.region import (
    AFTER_ATTENTION,
    INTO_BLOCK,
    RegionShift,
    cannot_detoxify,
    region_shift,
    relative_change,
)

PROMPTS = ("Be mean.", "You are a pirate. How do I be mean?", "Why?", "I had a bad day. How do I tell lies?", "Lie!")
NORMS = {
    **dict.fromkeys(("llama", "mistral", "mistral_sliding", "qwen2", "qwen3", "phi3"), "post_attention_layernorm"),
    **dict.fromkeys(("gemma2", "gemma3_text"), "pre_feedforward_layernorm"),
    "gpt2": "ln_2",
}
"""The norm that reads the residual stream after attention; the other families have none here."""
REMINDER = Reminder("Reminder", "Be good.", "Be kind.")


def last_states(network: Any, ids: Sequence[int], modules: Sequence[torch.nn.Module]) -> list[np.ndarray]:
    """Return what each module reads at the last token, from one plain pass of one sequence."""
    seen: dict[int, torch.Tensor] = {}

    def keep(number: int):
        def hook(_module, args, kwargs):
            states = args[0] if args else kwargs["hidden_states"]
            seen[number] = states.reshape(-1, states.shape[-1])[-1].double().clone()

        return hook

    handles = [m.register_forward_pre_hook(keep(n), with_kwargs=True) for n, m in enumerate(modules)]
    try:
        by_hand.logits(network, ids)
    finally:
        for handle in handles:
            handle.remove()
    return [seen[number].numpy() for number in range(len(modules))]


def by_plain_passes(
    model: InspectedModel, network: Any, family: str, block: int, texts: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return input of the region, source and block outputs of each prompt, ``[prompts, ...]``."""
    source = by_hand.blocks(network)[block]
    source = source.get_submodule(NORMS[family]) if family in NORMS else source
    down = network.get_submodule(by_hand.down_name(network, block))
    found: dict[str, list] = {"into": [], "source": [], "outputs": []}
    for text in texts:
        ids = by_hand.prompt(model, text)
        into, state = last_states(network, ids, [down, source])
        found["into"].append(into)
        found["source"].append(state)
        found["outputs"].append([states[-1].double().numpy() for states in by_hand.states(network, ids)[1:]])
    return {name: np.array(values) for name, values in found.items()}


def quotient(vanilla: np.ndarray, edited: np.ndarray) -> float:
    before, after = vanilla.mean(axis=0), edited.mean(axis=0)
    return float(np.sqrt(((after - before) ** 2).sum()) / np.sqrt((before**2).sum()))


def assert_equals(shift: RegionShift, vanilla: dict[str, np.ndarray], edited: dict[str, np.ndarray]) -> None:
    """Compare with plain passes: float32 through three blocks, of order 1 to 10."""
    assert np.allclose(shift.vanilla, vanilla["source"], rtol=1e-3, atol=1e-4)
    assert np.allclose(shift.edited, edited["source"], rtol=1e-3, atol=1e-4)
    assert shift.mean_input_shift == pytest.approx(quotient(vanilla["into"], edited["into"]), rel=1e-3, abs=1e-6)
    assert shift.source_shift == pytest.approx(quotient(vanilla["source"], edited["source"]), rel=1e-3, abs=1e-6)
    blocks = [quotient(vanilla["outputs"][:, n], edited["outputs"][:, n]) for n in range(len(shift.by_block))]
    assert shift.by_block == pytest.approx(blocks, rel=1e-3, abs=1e-6)


def one_change(model: InspectedModel, name: str, block: int) -> Row:
    """Return a random change of one matrix."""
    module = model.network.get_submodule(name)
    shape = (module.weight.T if type(module).__name__ == "Conv1D" else module.weight).shape
    change = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    return Row(Patch((Delta(name, block, change),), model.fingerprint, "random"))


def test_the_shift_is_what_plain_passes_of_written_weights_give(model, family):
    """The block below the region and the region itself are edited; the prompts differ in length."""
    patch = by_hand.patch(model, 0, 1, size=0.3)
    copied = by_hand.written(model.network, *((delta.block, delta.dense()) for delta in patch.deltas))
    shift = region_shift(model, PROMPTS, Row(patch), 1)
    vanilla, edited = (by_plain_passes(model, network, family, 1, PROMPTS) for network in (model.network, copied))
    assert_equals(shift, vanilla, edited)
    assert shift.mean_input_shift > 0.01 and not shift.forced and shift.block == 1
    assert shift.source == (AFTER_ATTENTION if family in NORMS else INTO_BLOCK)
    assert shift.by_block.shape == (model.blocks,) and len(shift.vanilla) == len(PROMPTS)


def test_the_strength_of_the_row_counts(llama):
    patch = by_hand.patch(llama, 0, size=0.3)
    copied = by_hand.written(llama.network, (0, 0.5 * patch.deltas[0].dense()))
    vanilla, edited = (by_plain_passes(llama, network, "llama", 1, PROMPTS) for network in (llama.network, copied))
    assert_equals(region_shift(llama, PROMPTS, Row(patch, 0.5), 1), vanilla, edited)


def test_suffix_and_template_are_those_that_are_asked_for(llama):
    shift = region_shift(llama, ["Be mean."], VANILLA, 0, format=PromptFormat("", chat=False))
    ids = llama.tokenizer("Be mean.")["input_ids"]
    norm = by_hand.blocks(llama.network)[0].get_submodule("post_attention_layernorm")
    assert np.allclose(shift.vanilla[0], last_states(llama.network, ids, [norm])[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mistral_sliding"])
def test_how_many_prompts_share_a_batch_changes_nothing(tiny, family):
    model = tiny(family)
    row = Row(by_hand.patch(model, 0, size=0.3))
    one, four = (region_shift(model, PROMPTS, row, 1, prompts_at_once=count) for count in (1, 4))
    assert one.mean_input_shift == pytest.approx(four.mean_input_shift, rel=1e-4)
    assert np.allclose(one.by_block, four.by_block, rtol=1e-4)
    assert np.allclose(one.vanilla, four.vanilla, rtol=1e-3, atol=1e-4)
    assert np.allclose(one.edited, four.edited, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("lines", "batches"), [(100, [8, 2]), (4, [4, 4, 2]), (0, [2] * 5)])
def test_a_batch_has_as_many_prompts_as_fit_with_both_weights_and_four_at_most(llama, monkeypatch, lines, batches):
    longest = max(len(encode(llama, text).prompt) for text in PROMPTS)
    (line,) = line_bytes(llama, longest).values()
    monkeypatch.setattr(batch_size, "free_memory", lambda _device: (lines + 0.5) * line / SHARE)
    asked, batch = [], InspectedModel.batch
    monkeypatch.setattr(InspectedModel, "batch", lambda model, *ids: (asked.append(len(ids)), batch(model, *ids))[1])
    region_shift(llama, PROMPTS, Row(by_hand.patch(llama)), 1)
    assert asked == batches


def test_an_edit_of_the_region_and_above_is_forced_to_shift_its_input_by_exactly_nothing(model):
    """Block 1 is the region; its own down-projection and the block above are edited, hard."""
    shift = region_shift(model, PROMPTS, Row(by_hand.patch(model, 1, 2, size=1.0)), 1)
    assert shift.forced and shift.mean_input_shift == 0.0 and shift.source_shift == 0.0
    assert np.array_equal(shift.vanilla, shift.edited) and shift.by_block[0] == 0.0
    assert (shift.by_block[1:] > 0).all()


@pytest.mark.parametrize(
    ("family", "name", "block"),
    [
        ("llama", "model.layers.0.mlp.down_proj", 0),
        ("llama", "model.layers.1.mlp.gate_proj", 1),
        ("llama", "model.layers.1.mlp.up_proj", 1),
        ("llama", "model.layers.1.self_attn.v_proj", 1),
        ("llama", "model.layers.1.self_attn.o_proj", 1),
        ("phi3", "model.layers.1.mlp.gate_up_proj", 1),
        ("gpt2", "transformer.h.1.mlp.c_fc", 1),
        ("gpt2", "transformer.h.1.attn.c_proj", 1),
        ("gpt_neox", "gpt_neox.layers.1.mlp.dense_h_to_4h", 1),
        ("opt", "model.decoder.layers.1.fc1", 1),
    ],
)
def test_an_edit_before_the_regions_input_is_not_forced_and_shifts_it(tiny, family, name, block):
    model = tiny(family)
    row = one_change(model, name, block)
    shift = region_shift(model, PROMPTS, row, 1)
    assert not shift.forced and shift.mean_input_shift > 0.01
    if block == 1 and ("mlp" in name or "fc1" in name):
        assert shift.source_shift == 0.0, "what the block's MLP reads has not changed"
    together = Row(Patch((*by_hand.patch(model, 2).deltas, *row.patch.deltas), model.fingerprint, "both"))
    assert not region_shift(model, PROMPTS[:1], together, 1).forced, "one matrix before the input is enough"


def test_vanilla_weights_and_strength_zero_shift_nothing(llama):
    for row in (VANILLA, Row(by_hand.patch(llama, 0, size=1.0), 0.0)):
        shift = region_shift(llama, PROMPTS, row, 1)
        assert shift.mean_input_shift == 0.0 and (shift.by_block == 0).all()
    assert region_shift(llama, PROMPTS, VANILLA, 1).forced


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt"])
def test_a_reminder_is_measured_on_prompts_that_have_it_around_them(tiny, family):
    model = tiny(family)
    wrapped = [f"Be good.\n\n{text}\n\nBe kind." for text in PROMPTS]
    shift = region_shift(model, PROMPTS, Row(reminder=REMINDER), 1)
    vanilla, edited = (by_plain_passes(model, model.network, family, 1, texts) for texts in (PROMPTS, wrapped))
    assert_equals(shift, vanilla, edited)
    assert not shift.forced and shift.mean_input_shift > 0.001


def test_an_edit_detoxifies_only_where_it_touches_the_region_s_matrix(llama):
    assert not cannot_detoxify(llama, Row(by_hand.patch(llama, 0, 1)), 1)
    assert cannot_detoxify(llama, Row(by_hand.patch(llama, 0, 2)), 1)
    assert cannot_detoxify(llama, one_change(llama, "model.layers.1.mlp.up_proj", 1), 1)
    assert cannot_detoxify(llama, VANILLA, 1) and cannot_detoxify(llama, Row(reminder=REMINDER), 1)


def shifted(vanilla: list[list[float]], edited: list[list[float]]) -> RegionShift:
    return RegionShift(0, 0.0, np.zeros(1), np.array(vanilla), np.array(edited), AFTER_ATTENTION, False)


def test_the_projection_on_mean_difference_and_first_component():
    """Around (5, 7) the vanilla states vary 9 times as much along x; the edit moves them along y, by 2 on average."""
    vanilla = [[8.0, 7.0], [2.0, 7.0], [5.0, 8.0], [5.0, 6.0]]
    edited = [[8.0, 9.0], [2.0, 9.0], [5.0, 11.0], [5.0, 7.0]]
    found = shifted(vanilla, edited).projection()
    assert found.explained == pytest.approx(18 / 20)
    assert found.vanilla[:, 0] == pytest.approx([0, 0, 1, -1]) and found.edited[:, 0] == pytest.approx([2, 2, 4, 0])
    sign = np.sign(found.vanilla[0, 1])  # a component has no sign of its own, but one for both
    assert sign * found.vanilla[:, 1] == pytest.approx([3, -3, 0, 0])
    assert sign * found.edited[:, 1] == pytest.approx([3, -3, 0, 0])


def test_equal_states_have_no_first_coordinate_and_equal_prompts_no_variance():
    states = [[3.0, 1.0], [-3.0, 1.0]]
    same = shifted(states, states).projection()
    assert (same.vanilla[:, 0] == 0).all() and (same.edited[:, 0] == 0).all() and same.explained == pytest.approx(1)
    one = shifted([[1.0, 2.0]], [[1.0, 4.0]]).projection()
    assert one.explained == 0.0 and one.edited[0, 0] == pytest.approx(2) and np.isfinite(one.edited).all()


def test_the_relative_change_is_that_of_the_means():
    """Mean (3, 4) of norm 5; changes of single prompts that cancel do not count."""
    vanilla = np.array([[6.0, 8.0], [0.0, 0.0]])
    assert relative_change(vanilla, np.array([[6.0, 8.0], [0.0, 4.0]])) == pytest.approx(2 / 5)
    assert relative_change(vanilla, np.array([[9.0, 8.0], [-3.0, 0.0]])) == 0.0
    assert relative_change(vanilla, np.zeros((2, 2))) == pytest.approx(1.0)
    assert np.isfinite(relative_change(np.zeros((2, 2)), vanilla))


def test_no_prompt_an_empty_one_and_a_block_that_is_not_there_are_refused(llama):
    with pytest.raises(PromptError, match=r"at least one adversarial prompt.*Give some"):
        region_shift(llama, [], VANILLA, 1)
    with pytest.raises(PromptError, match="empty"):
        region_shift(llama, ["Why?", " "], VANILLA, 1)
    with pytest.raises(ArchitectureError, match="blocks 0 to 2"):
        region_shift(llama, PROMPTS, VANILLA, 3)


def test_a_shift_of_states_that_are_not_finite_is_refused(overflowing):
    with pytest.raises(NotFinite, match=r"activation shift .*float16"):
        region_shift(overflowing, PROMPTS, Row(by_hand.patch(overflowing)), 1)
