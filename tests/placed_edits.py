"""Every kind of edit, quick on a tiny model: what tests of models over several devices and of offloaded ones make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tiny_models import FIVE
from training_helpers import SMALL, small

from editing import dinm, preset, run
from editing.atlas import AtlasSettings, make_atlas
from editing.knock_out import knock_out
from editing.methods.delman import DelmanSettings, delman
from editing.methods.dpo import DpoSettings, dpo
from editing.methods.ext_sub import ExtSubSettings, ext_sub
from editing.methods.ft_l import FtLSettings, ft_l
from editing.methods.gated import GatedSettings, gated
from editing.methods.mend import MendTraining
from editing.methods.mend.edit import editor_deltas
from editing.methods.mend.training import train
from editing.methods.sft import SftSettings, sft
from editing.optimising.replay import FullReplay
from editing.stacking import edit_on_top
from inspector.model import Delta, InspectedModel, Patch, Row, encode
from inspector.safeedit import Case

Edit = Callable[[InspectedModel, Case, int], tuple[Delta, ...]]
NEVER = {**SMALL, "steps": 2, "target_probability": None, "damage_budget": None}
CORRECTED = preset("corrected", **NEVER)
PLAIN: dict[str, Any] = {**NEVER, "safe_answers": 1, "own_refusals": 0}
"""Without what the edit that is called DINM prepares as well."""
GATES = {
    **NEVER,
    "texts": 20,
    "own_answers": 1,
    "longest_text": 400,
    "false_alarms": 0.5,
    "further_prompts": 1,
    "harmless_at_once": 2,
}
DELMAN = {"contexts": 1, "context_weight": 1.0, "position": "prompt", "weight_decay": 0.0}
EDITOR = MendTraining(steps=2, cases_at_once=1, harmless_at_once=1, top_blocks=2, rank=4, alpha=1e-2, harmless_tokens=4)
HARMLESS = ("Why do leaves fall?", "What is bread?")


def _patch(running) -> tuple[Delta, ...]:
    return run(running).patch.deltas


def _stacked(model: InspectedModel, case: Case, block: int) -> tuple[Delta, ...]:
    settings = preset("corrected", **PLAIN)
    first = run(dinm(model, case, block, settings)).row()
    above = min(block + 1, model.blocks - 1)
    return _patch(edit_on_top(model, first, lambda carrying: dinm(carrying, case, above, settings)))


def _mend(model: InspectedModel, case: Case, block: int) -> tuple[Delta, ...]:
    editor = run(train(model, [case], HARMLESS, EDITOR))
    return editor_deltas(model, editor, encode(model, case.adversarial_prompt, case.safe))


def _monitored(model: InspectedModel, case: Case, block: int) -> tuple[Delta, ...]:
    settings = preset(
        "corrected", **{**NEVER, "damage_budget": 1e6}, monitor=2, contexts=1, own_refusals=1, safe_answers=2
    )
    return _patch(dinm(model, case, block, settings))


ONE_MATRIX: dict[str, Edit] = {
    "DINM": lambda model, case, block: _patch(dinm(model, case, block, CORRECTED)),
    "DINM, plain way": lambda model, case, block: _patch(
        dinm(model, case, block, preset("corrected", **PLAIN), replay=FullReplay)
    ),
    "DINM, monitored": _monitored,
    "DINM, reference": lambda model, case, block: _patch(dinm(model, case, block, preset("reference", steps=2))),
    "DINM, some neurons": lambda model, case, block: _patch(
        dinm(model, case, block, preset("corrected", **PLAIN, neurons_only=5))
    ),
    "FT-L": lambda model, case, block: _patch(ft_l(model, case, block, FtLSettings(**NEVER, learning_rate=1e-2))),
    "DELMAN": lambda model, case, block: _patch(delman(model, case, block, DelmanSettings(**NEVER, **DELMAN))),
    "Gated": lambda model, case, block: _patch(gated(model, case, block, GatedSettings(**GATES))),
    "an edit on an edit": _stacked,
    "MEND": _mend,
}
"""Edits that read one matrix, or a few: what a model whose other weights are offloaded can do."""
EVERY_MATRIX: dict[str, Edit] = {
    "SFT": lambda model, case, block: _patch(sft(model, case, block, small(SftSettings))),
    "SFT, full": lambda model, case, block: _patch(sft(model, case, block, small(SftSettings, scope="full"))),
    "DPO": lambda model, case, block: _patch(dpo(model, case, block, small(DpoSettings, warm_up=1))),
    "Ext-Sub": lambda model, case, block: _patch(ext_sub(model, case, block, small(ExtSubSettings, anti_steps=2))),
}
"""Edits that train every matrix."""


def combined(ways: Mapping[str, Edit]) -> list[tuple[str, str]]:
    """Return ways and families: DINM with all five that cover every mechanism, the others with two.

    Of those two one has its head on the last device, the other beside its embeddings, to which it is tied.
    """
    return [(way, family) for way in ways for family in (FIVE if way == "DINM" else ("llama", "gpt2"))]


def placed() -> list[tuple[str, str, int]]:
    """Return ways that edit one matrix, families and which of two places it lies in.

    Every way is made in both places, each with other families: all find where a matrix lies by the same code.
    """
    return [
        (way, family, FIVE.index(family) % 2 if way == "DINM" else ("llama", "gpt2").index(family))
        for way, family in combined(ONE_MATRIX)
    ]


def atlas(model: InspectedModel, case: Case):
    """Return an atlas of all blocks, each with a step size of its own."""
    return run(make_atlas(model, case, AtlasSettings(steps=2, harmless_prompts=2, harmless_tokens=4, together=2)))


def knocked_out(model: InspectedModel, case: Case, block: int, neurons: list[int]) -> Patch:
    """Return the patch that takes neurons away."""
    return run(knock_out(model, case, block, neurons)).patch


def difference(one: tuple[Delta, ...], two: tuple[Delta, ...]) -> float:
    """Return the largest norm of a difference of two edits' deltas, over its own; both change the same parts."""
    assert [delta.module for delta in one] == [delta.module for delta in two]
    pairs = [(a.dense().cpu(), b.dense().cpu()) for a, b in zip(one, two, strict=True)]
    return max(float((a - b).norm() / a.norm()) for a, b in pairs)


def row_of(model: InspectedModel, deltas: tuple[Delta, ...]) -> Row:
    """Return the deltas as weights of a model."""
    return Row(Patch(deltas, model.fingerprint, "test"))
