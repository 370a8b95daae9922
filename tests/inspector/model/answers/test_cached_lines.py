"""Token steps of padded lines: the mask that is made without a wait hides what the other one hides, to the bit."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import tiny_models
import torch

from inspector.model import VANILLA
from inspector.model.answers.cached_lines import read

PROMPTS = ([1, 5, 9, 33, 7], [1, 5, 9, 40, 41, 42, 43, 60], [1, 5, 9, 40, 41, 42, 44, 61])
STEPS = 10


@contextmanager
def masks_of_two_dimensions(network, seen):
    """Give a network a mask ``[lines, seen]`` for every token; ``seen`` gets the dimensions of the one it had, or 0."""

    def flat(_network, args, named):
        lines, tokens = named["input_ids"].shape
        if tokens == 1:
            mask = named.get("attention_mask")
            seen.append(0 if mask is None else mask.dim())
            width = named["past_key_values"].get_seq_length() + 1
            flat = torch.ones(lines, width) if mask is None else mask.reshape(lines, width)
            named["attention_mask"] = flat.long()
        return args, named

    handle = network.register_forward_pre_hook(flat, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def logits_of(model, kept):
    """Return the logits after each of some steps, the lines ``kept`` going on alone after half of them."""
    state, logits = read(model, PROMPTS, range(len(PROMPTS)), [VANILLA] * len(PROMPTS))
    found = [logits]
    for step in range(STEPS):
        if step == STEPS // 2:
            state.keep(kept)
            found[-1] = found[-1][kept]
        found.append(state.step(model, found[-1].argmax(dim=-1, keepdim=True)))
    return found


@pytest.mark.parametrize("kept", [[0, 2], [1, 2]], ids=["padded lines stay", "no padded line stays"])
def test_a_step_s_mask_hides_the_pads_alone_and_no_more_once_they_are_gone(every_model, kept):
    dimensions = []
    with masks_of_two_dimensions(every_model.network, dimensions):
        plain = logits_of(every_model, kept)
    for found, wanted in zip(logits_of(every_model, kept), plain, strict=True):
        assert torch.equal(found, wanted)
    masked = STEPS if 0 in kept else STEPS // 2
    within = tiny_models.WINDOW - len(PROMPTS[1]) - 1  # steps before the first that a sliding window may shorten
    config = every_model.network.config
    if getattr(config, "sliding_window", None) is None:
        within = masked
    if config._attn_implementation != "sdpa":
        within = 0
    shaped = min(within, masked)
    assert dimensions == [4] * shaped + [2] * (masked - shaped) + [0] * (STEPS - masked)
