"""What a region writes along a direction is what plain passes of written weights give, and reads in plain words."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import numpy as np
import pytest
import torch

from inspector.errors import ArchitectureError, CaseError, NotFinite, PatchError
from inspector.model import VANILLA, PromptFormat, Row, encode
from inspector.model.patches.patch import Reminder
from inspector.writing import PROMPTS, RegionWriting, region_writing


def by_plain_pass(network, ids, prompt: int, block: int, direction: np.ndarray) -> tuple[float, float]:
    """Return the means over the prompt's tokens but the first, and over those after it."""
    module = network.get_submodule(by_hand.down_name(network, block))
    seen = []
    handle = module.register_forward_hook(lambda _m, _a, output: seen.append(output.reshape(len(ids), -1)))
    by_hand.logits(network, ids)
    handle.remove()
    bias = 0.0 if module.bias is None else module.bias
    along = ((seen[0] - bias).double() @ torch.as_tensor(direction)).numpy() / np.sqrt((direction**2).sum())
    return float(along[1:prompt].mean()), float(along[prompt:].mean())


def test_what_is_written_is_what_plain_passes_of_written_weights_give(model, case):
    """The region and the block below it are edited, at a strength."""
    patch = by_hand.patch(model, 0, 1, size=0.3)
    edited = by_hand.written(model.network, *((delta.block, 0.5 * delta.dense()) for delta in patch.deltas))
    direction = np.random.default_rng(3).normal(size=model.architecture.d_model)
    found = region_writing(model, case, Row(patch, 0.5), direction, 1, format=PromptFormat(""))
    assert found.prompts == PROMPTS and found.block == 1
    for place, name in enumerate(PROMPTS):
        follows = case.unsafe if place < 2 else None
        encoded = encode(model, getattr(case, name), follows, PromptFormat("").open())
        for side, network in enumerate((model.network, edited)):
            prompt, answer = (
                by_plain_pass(network, encoded.tokens, len(encoded.prompt), 1, direction)
                if follows
                else (*by_plain_pass(network, encoded.tokens, len(encoded.prompt), 1, direction)[:1], np.nan)
            )
            assert found.prompt[side, place] == pytest.approx(prompt, rel=1e-3, abs=1e-5)
            assert found.answer[side, place] == pytest.approx(answer, rel=1e-3, abs=1e-5, nan_ok=True)
    assert found.before != pytest.approx(found.after, rel=1e-3)
    assert (np.abs(found.prompt) <= found.size + 1e-9).all()


def test_vanilla_against_itself_writes_the_same_and_a_projected_out_direction_nothing(llama, case):
    direction = np.random.default_rng(4).normal(size=llama.architecture.d_model)
    same = region_writing(llama, case, VANILLA, direction, 1)
    assert np.array_equal(same.prompt[0], same.prompt[1]) and same.before != 0
    unit = torch.as_tensor(direction / np.linalg.norm(direction)).float()
    patch = by_hand.patch(llama, 1)
    (delta,) = patch.deltas
    weight = by_hand.down_weight(llama.network, 1)
    delta.left.copy_(-torch.outer(unit, unit @ weight))
    found = region_writing(llama, case, Row(patch), direction, 1)
    assert found.after == pytest.approx(0.0, abs=1e-6) and abs(found.before) > 1e-4


def test_wrong_directions_blocks_and_rows_are_refused(llama, case):
    width = llama.architecture.d_model
    for wrong in (np.zeros(width), np.ones(width + 1)):
        with pytest.raises(CaseError, match="Train the probe"):
            region_writing(llama, case, VANILLA, wrong, 1)
    with pytest.raises(ArchitectureError, match="does not exist"):
        region_writing(llama, case, VANILLA, np.ones(width), 99)
    with pytest.raises(PatchError, match="measured for weights"):
        region_writing(llama, case, Row(reminder=Reminder("Reminder", "Be good.", "")), np.ones(width), 1)


def test_what_is_no_number_is_told_with_its_type(overflowing, case):
    direction = np.ones(overflowing.architecture.d_model)
    with pytest.raises(NotFinite, match=r"writing of the region .*not a finite number in float16.*--dtype float32"):
        region_writing(overflowing, case, VANILLA, direction, overflowing.architecture.last_block)


def test_an_unsafe_answer_that_does_not_follow_is_no_measurement_and_no_fault(llama, case):
    direction = np.ones(llama.architecture.d_model)
    found = region_writing(llama, replace(case, unsafe=""), VANILLA, direction, 1)
    assert np.isnan(found.answer).all() and np.isfinite(found.prompt).all()


def test_the_reading_by_hand():
    found = RegionWriting(
        20,
        PROMPTS[:2],
        np.array([[0.5, 0.3], [-0.1, -0.3]]),
        np.array([[1.0, np.nan], [0.25, np.nan]]),
        np.array([[4.0, 4.0], [4.0, 4.0]]),
    )
    assert found.reading == (
        "On 2 adversarial prompts the MLP of layer 20 writes 0.4 along the toxic direction a token (10.0 % of the "
        "length of all that it writes), and 0.2 against the toxic direction with the edit. While it reads the unsafe "
        "answer: 1 along the toxic direction, and 0.25 along the toxic direction with the edit."
    )
