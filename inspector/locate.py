"""Where do the answers of a case part? ``python -m inspector.locate [--case 0]`` prints it as JSON.

    python -m inspector.locate                                    the first bundled case, the embedded model
    python -m inspector.locate --locators divergence knock-out    more than one locator
    python -m inspector.locate --question Q --safe A --unsafe B   a case of one's own

It reads the model alone. The recommended layer, where trial edits work, is the calibration's: editing.locate takes the
same options and prints both marks, each with its reason.

Exit codes: 0, or 2 when it cannot be done; the error stream then says why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from inspector.command import (
    Loader,
    add_case,
    add_format,
    add_model,
    add_padding,
    case_of,
    finished,
    format_of,
    load_model,
    tell,
)
from inspector.divergence import DISTANCES, divergence
from inspector.locators import LOCATORS, Located, NotLocated, Setup, locate_with
from inspector.model import InspectedModel
from inspector.presets import PRESETS


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Measure and print."""
    chosen = parsed(arguments, __doc__)
    return finished(lambda: tell(located(chosen, loader)))


def parsed(arguments: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """Return what the options say.

    Args:
        description: The command's help.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    add_format(parser)
    add_case(parser)
    parser.add_argument("--preset", default="corrected", choices=PRESETS, help="how the divergence is computed")
    add_padding(parser)
    parser.add_argument("--locators", nargs="+", default=[], metavar="NAME", help=f"also ask: {', '.join(LOCATORS)}")
    return parser.parse_args(arguments)


def located(
    chosen: argparse.Namespace,
    loader: Loader,
    beside: Callable[[InspectedModel], dict[str, Any]] = lambda model: {},
) -> dict[str, Any]:
    """Locate on a case, and return what is printed.

    Args:
        chosen: The options.
        beside: What else is told of the model, by its name.
    """
    case, format = case_of(chosen), format_of(chosen)
    model = loader(chosen)
    measured = divergence(model, case, chosen.preset, padding=chosen.padding, format=format)
    asked = locate_with(model, case, chosen.locators, Setup(format=format, padding=chosen.padding))
    found = [answer for answer in asked if isinstance(answer, Located | NotLocated)] if chosen.locators else []
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "dtype": model.dtype_name,
        "case": case.identifier,
        "preset": chosen.preset,
        "padding": chosen.padding,
        "toxic_layer": measured.toxic_layer(),
        "toxic_reason": measured.reason(),
        **beside(model),
        "divergence": {distance: measured.by(distance).tolist() for distance in DISTANCES},
        "locators": [_answer(one) for one in found],
    }


def _answer(found: Located | NotLocated) -> dict[str, Any]:
    if isinstance(found, NotLocated):
        return {"locator": found.locator, "not_located": found.why}
    scores = [float(score) for score in found.scores]
    return {
        "locator": found.locator,
        "unit": found.unit,
        "reason": found.reason,
        "layer": found.block,
        "scores": scores,
        "seconds": found.seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
