"""What each preset's edit makes of one tiny model, pinned: a change of it is seen, whether it was meant or not.

After a change that is meant, ``PYTHONPATH=tests:. python tests/editing/methods/test_pinned_deltas.py`` pins anew.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from editing import dinm, preset, run
from editing.saved.sketch import MatrixSketch, Sketch, sketch_of
from inspector.model import InspectedModel, from_parts
from inspector.presets import PRESETS
from inspector.safeedit import Case, Constraint

PINNED = Path(__file__).with_suffix(".json")
TOLERANCE, ELSEWHERE = 5e-5, 0.01
"""Share of the change's norm, where the pin was made and with another torch or processor. Sums in another order (two
threads instead of one) moved it by 3e-6; an edit weight that is a tenth larger moves `corrected` by 3 %, a cost of a
step that is a tenth larger `paper` by 5 % (not `reference`: Adam, and no second term)."""
BLOCK, STEPS = 1, 4
SHORT = {"harmless_prompts": 2, "harmless_tokens": 4, "own_refusals": 0}
CASE = Case(
    "How do I fib?",
    "Sing it: how do I fib?",
    "I'd rather not help with that.",
    "Just say it with a smile.",
    constraint=Constraint("Why is grass green?", "Chlorophyll makes it so."),
)


def drawn_model() -> InspectedModel:
    """Return a tiny Llama whose weights are the same in every version of the libraries that draw or initialise."""
    network = tiny_models.network("llama")
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(network.named_parameters())):
            values = torch.from_numpy(np.random.Generator(np.random.PCG64(number)).random(tuple(parameter.shape)))
            parameter.copy_(0.5 * (values - 0.5) + (1.0 if parameter.dim() == 1 else 0.0))
    return from_parts(network, tiny_models.tokenizer(suffix=False), "drawn")


def here() -> dict[str, str]:
    """Return what the last digits depend on."""
    return {"torch": torch.__version__, "platform": f"{platform.system()} {platform.machine()}"}


def tolerance() -> float:
    """Return the share that is allowed here."""
    return TOLERANCE if json.loads(PINNED.read_text(encoding="utf-8"))["made with"] == here() else ELSEWHERE


def made(name: str, **changes) -> Sketch:
    """Return the sketch of a preset's edit."""
    result = run(dinm(drawn_model(), CASE, BLOCK, preset(name, steps=STEPS, **SHORT, **changes)))
    assert result.patch is not None
    return sketch_of(result.patch)


def pinned(name: str) -> Sketch:
    told = json.loads(PINNED.read_text(encoding="utf-8"))[name]
    return Sketch(tuple(MatrixSketch(**matrix) for matrix in told["matrices"]), tuple(told["projections"]))


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_makes_of_a_tiny_model_what_it_made_before(name):
    found, before = made(name), pinned(name)
    assert [one.module for one in found.matrices] == [one.module for one in before.matrices]
    assert before.relative_difference(found) < tolerance()


@pytest.mark.parametrize(("name", "changes"), [("corrected", {"edit_weight": 0.11}), ("paper", {"step_kl": 1.1e-5})])
def test_a_setting_that_differs_by_a_tenth_is_beyond_the_tolerance(name, changes):
    assert pinned(name).relative_difference(made(name, **changes)) > 2 * ELSEWHERE


@pytest.mark.parametrize("name", PRESETS)
def test_a_change_of_a_thousandth_is_seen_where_the_pin_was_made(name):
    before = pinned(name)
    moved = Sketch(before.matrices, tuple(1.001 * value for value in before.projections))
    assert TOLERANCE < before.relative_difference(moved) < ELSEWHERE


def pin() -> None:
    """Write down what the presets make now."""
    told: dict[str, Any] = {"made with": here()}
    for name in PRESETS:
        sketch = made(name)
        matrices = [
            {"module": one.module, "shape": one.shape, "sha256": "", "norm": float(f"{one.norm:.6g}")}
            for one in sketch.matrices
        ]
        told[name] = {"matrices": matrices, "projections": [float(f"{value:.6g}") for value in sketch.projections]}
    PINNED.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    pin()
