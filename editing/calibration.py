"""What is learnt once about a base model: its detector of harmful prompts, kept on disk and, for some, shipped."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from editing.progress import Preparation
from inspector.detection import DEPTH, fit, samples, states_of
from inspector.errors import EditError, PatchError
from inspector.model import SUFFIX, Detector, InspectedModel, PromptFormat
from inspector.model.embedded import cache_root
from inspector.model.tensor_file import write_tensors

SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "calibration"
_FORMAT = "dinm-inspector calibration 1"
FORMATS = (PromptFormat(SUFFIX), PromptFormat(""))
"""Prompt formats that the detector is made for: with the paper's suffix and without one, with the chat template."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is learnt once about a base model.

    Attributes:
        detector: Tells harmful prompts from harmless ones.
    """

    detector: Detector


def places(model: InspectedModel) -> tuple[Path, Path]:
    """Return where a model's calibration is looked for: among the shipped ones, then in the cache."""
    name = f"{model.fingerprint}.safetensors"
    return SHIPPED / name, cache_root() / "calibration" / name


def make_calibration(
    model: InspectedModel, cancel: Callable[[], bool] = lambda: False
) -> Generator[Preparation, None, Calibration | None]:
    """Calibrate a model on the bundled texts; a generator that says how far it is and can be cancelled.

    Returns:
        The calibration; ``None`` when cancelled.
    """
    blocks = tuple(sorted({min(model.blocks - 1, round(share * model.blocks)) for share in DEPTH}))
    texts = samples("detector")
    reading = states_of(model, texts, blocks, FORMATS, cancel)
    while True:
        try:
            share = next(reading)
        except StopIteration as end:
            states = end.value
            break
        yield Preparation(f"Reading {len(texts)} bundled prompts for the detector", 0.95 * share)
    if states is None:
        return None
    yield Preparation("Fitting the detector", 0.97)
    return Calibration(fit(model, texts, states, blocks))


def save_calibration(made: Calibration, path: Path) -> None:
    """Write a calibration; a file of that name is replaced at once, never half."""
    detector = made.detector
    write_tensors(path, {"detector.weights": detector.weights}, _FORMAT, detector.record())


def load_calibration(model: InspectedModel, path: Path | None = None) -> Calibration:
    """Return a model's calibration.

    Args:
        path: The file; by default the shipped one or that in the cache.

    Raises:
        EditError: There is none, it cannot be read, or it belongs to another model.
    """
    found = path or next((place for place in places(model) if place.is_file()), None)
    if found is None:
        name = "" if model.name.startswith("SmolLM2") else f" --model {model.name}"
        raise EditError(f"{model.name} is not calibrated yet. Run: python -m editing.calibrate{name}")
    try:
        with safe_open(found, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise EditError(f"{found} is no calibration of this program. Choose another file.")
            detector = Detector.from_record(json.loads(metadata["record"]), file.get_tensor("detector.weights"))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, PatchError) as error:
        raise EditError(f"The calibration {found} cannot be read ({error}). Make it again.") from error
    if detector.fingerprint != model.fingerprint:
        raise EditError(
            f"The calibration {found} was made for another base model ({detector.fingerprint}, this is "
            f"{model.fingerprint}). Load that model, or calibrate this one."
        )
    return Calibration(detector)
