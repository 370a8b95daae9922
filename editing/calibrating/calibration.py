"""What is learnt once about a base model: where edits work, its detector, its harmless answers; kept, and shipped."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from editing.calibrating.trial_edits import Layers, try_layers
from editing.methods.dinm import DinmSettings
from editing.optimising.null_space import harmless_moment, known_moments, moment_key
from editing.progress import Preparation, part_of, share_told
from editing.texts.harmless import (
    ASKED_AT_ONCE,
    answers_by_text,
    known_answer,
    learn_answer,
    own_refusals,
    refusal_texts,
)
from inspector.command import model_options
from inspector.detection import DEPTH, Sample, fit, readings_of, samples, settled, that_fit, unseen_shares
from inspector.errors import EditError, PatchError, PromptError, TooLong
from inspector.model import SUFFIX, VANILLA, Detector, Encoded, InspectedModel, PromptFormat, encode
from inspector.model.counted import counted_logits, token_log_probabilities
from inspector.model.embedded import cache_root
from inspector.model.memory.halving import halved
from inspector.model.patches.detector import TENSORS
from inspector.model.tensor_file import check_unchanged, write_tensors
from inspector.safeedit import bundled_cases
from inspector.validated import read_record

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "calibration"
_FORMAT = "dinm-inspector calibration 4"
_WARNED: set[Path] = set()
"""Files that this process has told to be of no use."""
FORMATS = (PromptFormat(SUFFIX), PromptFormat(""))
"""Prompt formats that the detector is made for: with the paper's suffix and without one, with the chat template."""
FEWEST = 10
"""Harmful texts, and harmless ones, without which no detector is made."""


class _Unreadable(EditError):
    """A calibration's file is damaged, or another version of the program wrote it."""


@dataclass(frozen=True)
class KeptAnswer:
    """The vanilla model's answer to a harmless prompt, or to a harmful question without an attack.

    Log-probabilities of its own tokens are kept. Those of every other token of the vocabulary are not, megabytes an
    answer: a KL is measured from those that the edit's own replay gives with unedited weights, in the same batch, so
    it is zero before the first update, which those of another batch or machine would miss by their rounding.

    Attributes:
        text: The user's text.
        tokens: Its length limit.
        format: The prompt format, open.
        prompt: Token ids of the prompt.
        response: Token ids of the answer.
        log_probabilities: What the model gives each of them, nats; empty in calibrations that have not kept it.
    """

    text: str
    tokens: int
    format: PromptFormat
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    log_probabilities: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is learnt once about a base model in one dtype.

    Attributes:
        layers: Where trial edits work.
        detector: Tells harmful prompts from harmless ones.
        answers: The model's own answers to harmless prompts, and to harmful questions without an attack, of which those
            that it declines are to stay: what edits are constrained on.
        moment: What harmless prompts use of the recommended layer, ``[d_ff, d_ff]``
            (:mod:`editing.optimising.null_space`); ``None`` where no layer is recommended.
        dtype: The model's data type; empty where a file of an earlier version says none.
    """

    layers: Layers
    detector: Detector
    answers: tuple[KeptAnswer, ...] = ()
    moment: Tensor | None = None
    dtype: str = ""

    def teach(self, model: InspectedModel) -> None:
        """Let edits of this model start from what is known instead of asking and measuring again."""
        for kept in self.answers:
            learn_answer(model, kept.text, kept.tokens, kept.format, kept.response)
        if self.moment is not None and self.layers.recommended is not None:
            known_moments(model).setdefault(moment_key(self.layers.recommended, FORMATS[0]), self.moment)


@dataclass(frozen=True)
class _Record:
    """What stands beside the tensors of a calibration."""

    layers: Layers
    detector: dict[str, Any]
    answers: tuple[KeptAnswer, ...]
    dtype: str = ""


def places(model: InspectedModel) -> tuple[Path, Path]:
    """Return where a model's calibration is looked for: in the cache, then among the shipped ones."""
    name = f"{model.fingerprint}-{model.dtype_name}.safetensors"
    return kept_in() / name, SHIPPED / name


def kept_in() -> Path:
    """Return the folder of the cache in which calibrations are kept."""
    return cache_root() / "calibration"


def make_calibration(
    model: InspectedModel, cancel: Callable[[], bool] = lambda: False
) -> Generator[Preparation, None, Calibration | None]:
    """Calibrate a model on the bundled texts; a generator that says how far it is and can be cancelled.

    Returns:
        The calibration; ``None`` when cancelled.

    Raises:
        RefusedEdit: The model cannot be edited on any trial case.
        EditError: Its context holds too few of the detector's texts, or its chat template takes no question or no
            answer; this is looked at first.
    """
    yield Preparation("Looking which bundled prompts the model can read", 0.0)
    _require_template(model)
    labelled = that_fit(model, samples("detector"), FORMATS)
    _require_enough(model, labelled)
    layers = yield from part_of(try_layers(model, cancel=cancel), 0.0, 0.45)
    if layers is None:
        return None
    asked = DinmSettings().harmless_prompts, DinmSettings().harmless_tokens
    # Every edit asks its own case's harmless prompt first, then the same bundled ones.
    cases = [case for case in bundled_cases() if case.split == "edit"]
    own = yield from part_of(answers_by_text(model, cases, *asked, FORMATS[0], cancel), 0.45, 0.5)
    if own is None:
        return None
    declined = yield from part_of(
        own_refusals(model, DinmSettings().own_refusals, asked[1], FORMATS[0], cancel), 0.5, 0.5
    )
    if declined is None:
        return None
    texts = refusal_texts(DinmSettings().own_refusals)
    known = {text: known_answer(model, text, asked[1], FORMATS[0]) for text in texts}
    own |= {text: answered for text, answered in known.items() if answered is not None}
    answers = kept_answers(model, own)
    moment = None
    if layers.recommended is not None:
        moment = yield from part_of(harmless_moment(model, layers.recommended, FORMATS[0], cancel), 0.5, 0.55)
        if moment is None:
            return None
    detector = yield from part_of(_detector(model, labelled, cancel), 0.55, 1.0)
    if detector is None:
        return None
    return Calibration(layers, detector, answers, moment, model.dtype_name)


def kept_answers(model: InspectedModel, own: Mapping[str, Encoded]) -> tuple[KeptAnswer, ...]:
    """Return the vanilla model's own answers, by what was asked, as a calibration keeps them."""
    answers = list(own.values())
    told = [
        tuple(round(value, 5) for value in values.tolist())
        for start in range(0, len(answers), ASKED_AT_ONCE)
        for values in halved(partial(_log_probabilities, model), answers[start : start + ASKED_AT_ONCE])
    ]
    return tuple(
        KeptAnswer(text, DinmSettings().harmless_tokens, FORMATS[0].open(), one.prompt, one.response, values)
        for (text, one), values in zip(own.items(), told, strict=True)
    )


@torch.no_grad()
def _log_probabilities(model: InspectedModel, answers: Sequence[Encoded]) -> list[Tensor]:
    """Return what the model gives each token of some answers, ``[tokens]`` in nats each, on the host."""
    with model.running([VANILLA] * len(answers)):
        logits = counted_logits(model, [one.tokens for one in answers], [one.predicting for one in answers])
    found = token_log_probabilities(logits, [token for one in answers for token in one.response]).cpu()
    return list(found.split([len(one.response) for one in answers]))


def _require_template(model: InspectedModel) -> None:
    """Refuse a chat template that takes no question or no answer: a calibration is made in it.

    Raises:
        EditError: It is such a one.
    """
    try:
        encode(model, "Who are you?", "A model.", FORMATS[0])
    except TooLong:  # which texts are, is counted
        return
    except PromptError as error:
        raise EditError(
            f"{model.name} cannot be calibrated: its chat template takes no question, or no answer after one. Load a "
            "tokenizer whose template takes both. Edits in plain text (--plain-text) need no calibration.",
            error.operator_message(),
        ) from error


def _require_enough(model: InspectedModel, texts: Sequence[Sample]) -> None:
    """Refuse texts that no detector can be fitted on: each kind is held out of it in several groups.

    Raises:
        EditError: There are too few.
    """
    for name, harmful in (("harmful", True), ("harmless", False)):
        folds = [sample.fold for sample in texts if sample.harmful == harmful]
        if len(folds) < FEWEST or len(set(folds)) < 2:
            raise EditError(
                f"{model.name} reads at most {model.context_length:,} tokens, and only {len(folds)} of the bundled "
                f"{name} prompts are that short: too few for a detector. Use a model that reads longer prompts."
            )


def _detector(
    model: InspectedModel, texts: Sequence[Sample], cancel: Callable[[], bool]
) -> Generator[Preparation, None, Detector | None]:
    """Read the texts to fit, fit, set the threshold by the texts of the split ``development``, and say what it finds.

    It is not fitted on those, but its settings were chosen by them (:func:`inspector.detection.settled`).

    What is longer than the model's context is left out, and counted.
    """
    blocks = tuple(sorted({min(model.blocks - 1, round(share * model.blocks)) for share in DEPTH}))
    wanted = samples("development")
    unseen = that_fit(model, wanted, FORMATS)
    too_long = len(samples("detector")) + len(wanted) - len(texts) - len(unseen)
    words = "bundled prompts for the detector" + (f"; {too_long} too long for this model" if too_long else "")
    found = yield from share_told(
        readings_of(model, texts, blocks, FORMATS, cancel), f"Reading {len(texts)} {words}", 0, 0.83
    )
    if found is None:
        return None
    made = yield from share_told(fit(model, texts, found, blocks, cancel), "Fitting the detector", 0.83, 0.93)
    if made is None:
        return None
    found = yield from share_told(
        readings_of(model, unseen, blocks, FORMATS, cancel), f"Reading {len(unseen)} {words}", 0.93, 1
    )
    if found is None:
        return None
    scores = [made.score(torch.from_numpy(reading.states).float()) for reading in found]
    made = settled(made, unseen, scores)
    return replace(made, about={**made.about, **unseen_shares(unseen, scores, made), "too_long": too_long})


def save_calibration(made: Calibration, path: Path) -> None:
    """Write a calibration; a file of that name is replaced at once, never half.

    Raises:
        OSError: It cannot be written.
    """
    record = _Record(made.layers, made.detector.record(), made.answers, made.dtype)
    tensors = made.detector.tensors()
    if made.moment is not None:  # symmetric: one half of it says all
        tensors["moment"] = made.moment[tuple(torch.triu_indices(*made.moment.shape))].contiguous()
    write_tensors(path, tensors, _FORMAT, asdict(record))


def load_calibration(model: InspectedModel, path: Path | None = None) -> Calibration:
    """Return a model's calibration.

    Args:
        path: The file; by default that in the cache, made here, or the shipped one. Where that in the cache is
            damaged or of another version, this is told on the error stream, once, and the shipped one is read.

    Raises:
        EditError: There is none, it cannot be read, or it belongs to another model or data type.
    """
    there = [path] if path else [place for place in places(model) if place.is_file()]
    if not there:
        raise EditError(f"{model.name} is not calibrated yet. {to_calibrate(model)}")
    *kept, last = there
    for place in kept:
        try:
            return _read(model, place)
        except _Unreadable as error:
            if place not in _WARNED:
                _WARNED.add(place)
                said = f"Warning: {error.operator_message()} The shipped calibration is tried."
                print(said, file=sys.stderr, flush=True)
    return _read(model, last)


def _read(model: InspectedModel, found: Path) -> Calibration:
    """Read a model's calibration.

    Raises:
        _Unreadable: It cannot be read.
        EditError: It belongs to another model or data type.
    """
    again = f"Make it again. {to_calibrate(model)}"
    try:
        with safe_open(found, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise _Unreadable(f"The file is no calibration of this version of the program. {again}", str(found))
            check_unchanged(file)
            record = read_record(_Record, json.loads(metadata["record"]))
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names.intersection(TENSORS)}
            detector = Detector.from_record(record.detector, tensors)
            moment = _whole(file.get_tensor("moment")) if "moment" in names else None
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, PatchError) as error:
        raise _Unreadable(f"The calibration cannot be read. {again}", f"{found}: {error}") from error
    if detector.fingerprint != model.fingerprint:
        raise EditError(
            f"The calibration was made for another base model ({detector.fingerprint}, this is {model.fingerprint}). "
            "Load that model, or calibrate this one.",
            str(found),
        )
    dtype = record.dtype or _dtype_named(found, detector)
    if dtype not in ("", model.dtype_name):
        raise EditError(
            f"The calibration was made in {dtype}, and {model.name} is loaded in {model.dtype_name}. Load it with "
            f"--dtype {dtype}, or make one. {to_calibrate(model)}",
            str(found),
        )
    return Calibration(record.layers, detector, record.answers, moment, dtype)


def _dtype_named(path: Path, detector: Detector) -> str:
    """Return the data type that a file's name ends with, if it is a name of :func:`places`."""
    fingerprint, _, dtype = path.stem.partition("-")
    return dtype if fingerprint == detector.fingerprint else ""


def _whole(half: Tensor) -> Tensor:
    """Return the symmetric matrix of which the upper triangle was kept, row by row."""
    size = (math.isqrt(8 * len(half) + 1) - 1) // 2
    upper = torch.zeros(size, size)
    upper[tuple(torch.triu_indices(size, size))] = half
    return upper + upper.triu(1).T


def calibrate_command(model: InspectedModel) -> str:
    """Return the command that calibrates a model as it is loaded, for a shell."""
    return f"python -m editing.calibrate {shlex.join(model_options(model))}"


def to_calibrate(model: InspectedModel) -> str:
    """Say how a model is calibrated: the command, or on a page where others come in who can do it."""
    return "Ask whoever runs this page to calibrate it." if model.public else f"Run: {calibrate_command(model)}"


def calibration_of(model: InspectedModel) -> Calibration | None:
    """Return a model's calibration, ``None`` where it has none.

    Raises:
        EditError: There is one, and it cannot be read.
    """
    return load_calibration(model) if any(place.is_file() for place in places(model)) else None
