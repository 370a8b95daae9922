"""What the command lines that edit share, beyond those that read: how an error ends them, how far a run is."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, _ArgumentGroup
from collections.abc import Callable
from typing import Any

from editing.calibrating.calibration import to_calibrate
from editing.calibrating.trial_edits import Layers
from editing.memory import memory_told
from editing.progress import Preparation
from inspector import command
from inspector.command import (
    Loader,
    add_case,
    add_format,
    add_model,
    add_padding,
    case_of,
    format_of,
    load_model,
    say,
    tell,
    told_format,
)
from inspector.detection import doubts
from inspector.divergence import Divergence
from inspector.model import Detector, InspectedModel
from inspector.safeedit.exam import EVALUATIONS

__all__ = [
    "EVERYWHERE",
    "Loader",
    "add_case",
    "add_evaluation",
    "add_format",
    "add_model",
    "add_padding",
    "case_of",
    "finished",
    "format_of",
    "load_model",
    "marks",
    "named_layer",
    "recommended",
    "say",
    "tell",
    "teller",
    "told_format",
    "warn_of",
]


EVERYWHERE = "everywhere"
"""What ``--acts`` says of an edit that acts on every prompt; a sweep's own word for it is ``always``."""


def finished(work: Callable[[], int | None]) -> int:
    """Do a command's work as :func:`inspector.command.finished` does; too little memory is told in its words, too."""

    def within_memory() -> int | None:
        with memory_told():
            return work()

    return command.finished(within_memory)


def add_evaluation(parser: ArgumentParser | _ArgumentGroup, of: str = "") -> None:
    """Add the option of how both weights are asked.

    Args:
        of: What is asked so, before the help's words, where that is not all.
    """
    ways = "; ".join(f"{name}: {meaning}" for name, meaning in EVALUATIONS.items())
    parser.add_argument("--evaluation", default="same", choices=EVALUATIONS, help=f"{of}{ways} (default: same)")


def named_layer(layer: int | None) -> dict[str, int | None]:
    """Return the layer that was edited, ``None`` for none, for a command's JSON.

    Commands said ``block`` once; what reads that still finds it.
    """
    return {"layer": layer, "block": layer}


def recommended(model: InspectedModel, layers: Layers | None) -> dict[str, Any]:
    """Return the mark that a calibration sets beside the toxic layer, with its reason.

    Args:
        layers: What trial edits achieve there; ``None`` for a model that is not calibrated.
    """
    if layers is None:
        why = f"Not known yet: this model is not calibrated. {to_calibrate(model)}"
        return {"recommended_layer": None, "recommended_reason": why}
    return {"recommended_layer": layers.recommended, "recommended_reason": layers.reason}


def marks(model: InspectedModel, measured: Divergence, layers: Layers | None) -> dict[str, Any]:
    """Return both marks of a case's layers, the toxic and the recommended one, each with its reason.

    Args:
        layers: As for :func:`recommended`.
    """
    toxic = {"toxic_layer": measured.toxic_layer(), "toxic_reason": measured.reason()}
    return {**toxic, **recommended(model, layers)}


def warn_of(detector: Detector) -> None:
    """Say to people that a detector is weak or gives many false alarms, where it does."""
    if against := doubts(detector):
        say(f"Warning: {against}")


def teller() -> Callable[[Preparation], None]:
    """Return what prints a run's progress to the error stream, a line a tenth."""
    said = -1

    def tell(event: Preparation) -> None:
        nonlocal said
        tenth = int(10 * event.fraction)
        if tenth > said:
            said = tenth
            print(f"  {event.message}, {100 * event.fraction:.0f} %", file=sys.stderr, flush=True)

    return tell
