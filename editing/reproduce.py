"""Make a saved edit again and say whether it is the same: ``python -m editing.reproduce EDIT.json``.

Exit codes: 0 the same, to the bit or within the stated tolerance; 1 another edit; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from editing.calibration import calibration_of
from editing.command import Loader, add_model, finished, load_model, tell
from editing.progress import run
from editing.saved.files import load_edit
from editing.saved.reproduce import CLOSE, reproduce


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Make it again, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("edit", type=Path, help="record (.json) or patch (.safetensors) of a saved edit")
    chosen = parser.parse_args(arguments)
    return finished(lambda: _reproduce(chosen, loader))


def _reproduce(chosen: argparse.Namespace, loader: Loader) -> int:
    model = loader(chosen)
    row, record = load_edit(chosen.edit, model)
    if (known := calibration_of(model)) is not None:
        known.teach(model)
    assert row.patch is not None
    found = run(reproduce(model, row.patch, record))
    assert found is not None  # nobody cancels it
    told = {
        "same": found.same,
        "same_bits": found.same_bits,
        "relative_difference": found.relative,
        "tolerance": CLOSE,
        "largest_difference_of_a_weight": found.largest,
        "updates": [record.updates, found.updates],
        "other_versions": found.other_versions,
        "reading": found.reading(record),
    }
    tell(told)
    return 0 if found.same else 1


if __name__ == "__main__":
    sys.exit(main())
