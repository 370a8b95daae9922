"""Are the edits of the presets still what they were? The change of the weights that each makes, to the bit.

    python -m benchmarks.preset_deltas

Edits one bundled case of the embedded model with each preset at a middle and at a late layer, on one thread, and prints
the norm of each change and its SHA-256; where a preset's defaults have changed since, step size, steps and constraint
are written out. Two versions whose digests agree on one machine make the same edits, to the last bit; another processor
or another build of torch sums in another order and has others. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch

from editing import dinm, preset, run
from editing.command import Loader, add_model, finished, load_model
from inspector.presets import PRESETS
from inspector.safeedit import bundled_cases

LAYERS = (15, 28)
"""Layers at which the first comparison with the released code was made."""
CASE = 1
WRITTEN_OUT: dict[str, dict[str, Any]] = {
    "corrected": {
        "constraint": "next token",
        "own_refusals": 0,
        "damage_budget": None,
        "steps": 10,
        "learning_rate": 1e-3,
        "safe_answers": 1,
        "harmless_at_once": None,
        "target_probability": 0.8,
    },
    "paper": {"learning_rate": 0.5},
}
"""Settings by preset whose defaults are others today than in the version that is compared with."""


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Make the edits and print what they change.

    Returns:
        0, or 2 when it cannot be done.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    options = parser.parse_args(arguments)
    return finished(lambda: _digests(options, loader))


def _digests(options: argparse.Namespace, loader: Loader) -> None:
    torch.set_num_threads(1)
    model = loader(options)
    case = next(case for case in bundled_cases() if case.identifier == CASE)
    print(f"torch {torch.__version__}, 1 thread, {platform.machine()}; {model.name}, case {case.identifier}")
    for name in PRESETS:
        for layer in options.layers:
            made = run(dinm(model, case, layer, preset(name, **WRITTEN_OUT.get(name, {}))))
            assert made.patch is not None  # nobody cancels it
            (change,) = made.patch.deltas
            digest = hashlib.sha256(change.left.contiguous().numpy().tobytes()).hexdigest()
            print(f"{name:10} layer {layer:2d}  norm {float(change.left.double().norm()):.10f}  {digest}")


if __name__ == "__main__":
    sys.exit(main())
