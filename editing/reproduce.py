"""Make a saved edit again and say whether it is the same: ``python -m editing.reproduce EDIT.json``.

The record alone is enough, also the dinm-edit.json of an adapter or of a merged model: its hash says whether the edit
is the same to the bit, and if it is not, its sketch how far about they are apart. With the patch beside it both are
compared weight by weight. The detector of a routed edit is made again as well: another one is another edit.

What was found is printed as JSON.
Exit codes: 0 the same, to the bit or within the stated tolerance; 1 another edit; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from editing.calibrating.calibration import calibration_of
from editing.command import Loader, add_model, finished, load_model, tell
from editing.progress import run
from editing.saved.files import load_edit, record_alone
from editing.saved.reproduce import CLOSE, reproduce


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Make it again, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("edit", type=Path, help="record (.json, alone or beside its patch) or patch of a saved edit")
    chosen = parser.parse_args(arguments)
    return finished(lambda: _reproduce(chosen, loader))


def _reproduce(chosen: argparse.Namespace, loader: Loader) -> int:
    model = loader(chosen)
    record, saved = record_alone(chosen.edit), None
    if record is None:
        row, record = load_edit(chosen.edit, model)
        saved = row.patch
    if (known := calibration_of(model)) is not None:
        known.teach(model)
    found = run(reproduce(model, saved, record, detector=None if known is None else known.detector))
    assert found is not None  # nobody cancels it
    told = {
        "same": found.same,
        "same_bits": found.same_bits,
        "compared_with": "the patch" if saved is not None else "the record",
        "relative_difference": found.relative,
        "standard_error_of_that": found.error * found.relative,
        "tolerance": CLOSE,
        "largest_difference_of_a_weight": found.largest,
        "matrices_that_differ": list(found.changed),
        "same_detector": found.same_detector,
        "updates": [record.updates, found.updates],
        "other_versions": found.other_versions,
        "reading": found.reading(record),
    }
    tell(told)
    return 0 if found.same else 1


if __name__ == "__main__":
    sys.exit(main())
