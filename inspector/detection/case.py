"""A reading of one question beside a detector: an edit that acts where harm is detected acts on its own case.

A detector that knows harm in general misses every fifth question that it has not seen, and a routed edit made on such a
question would do nothing for it. What one case teaches is its topic and not harm, so it never replaces the detector: it
stands beside it, and costs next to no false alarms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import torch

from inspector.detection.linear import PENALTY, fitted_linear
from inspector.detection.reading import Reading, readings_of, that_fit
from inspector.detection.shares import share_of
from inspector.detection.texts import Sample, samples
from inspector.errors import TooLong
from inspector.model import Detector, InspectedModel, PromptFormat, encode
from inspector.model.memory.recent import Recent
from inspector.safeedit.cases import Case, bundled_templates
from inspector.safeedit.sets import spread

FORMS = 4
"""Attack templates around the question, of those that a detector may be fitted on."""
HARMLESS, LONGEST = 64, 300
"""Harmless prompts that the question is told from, of those that a detector may be fitted on, and their longest in
characters: what they cost the first edit of a model is their length."""
MARGIN = 0.4
"""Where the threshold lies between the highest harmless prompt (0) and the lowest form of the question (1).
:mod:`benchmarks.own_question` says what it finds, and at which false alarms."""
KEPT = 4
"""Blocks and prompt formats whose readings of harmless prompts are kept of a model: a suffix is free text of whoever
types it, so what is kept may not grow with the visitors."""
_Key = tuple[tuple[int, ...], str]
_HARMLESS: WeakKeyDictionary[InspectedModel, Recent[_Key, list[Reading]]] = WeakKeyDictionary()


def for_case(
    model: InspectedModel,
    detector: Detector,
    case: Case,
    format: PromptFormat = PromptFormat(),
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, Detector | None]:
    """Make a detector that fires on a case's question as well, in attack templates that were not read, too.

    Args:
        detector: Of harmful prompts in general; what it fires on, this one fires on.
        case: Its question is read bare, in its own prompt and in a few bundled attack templates.
        format: The prompt format of the edit that is to be routed.
        cancel: Asked after each batch of prompts.

    Yields:
        The share that is done.

    Returns:
        The detector; the given one where the question cannot be told from harmless prompts; ``None`` when cancelled.

    Raises:
        NotFinite: The model's states are not finite numbers.
        PatchError: The detector is another model's.
        PromptError: The case's prompt is longer than the model's context allows.
    """
    asked = list(_forms(model, case, format))
    share = len(asked) / (len(asked) + (0 if _key(detector, format) in _HARMLESS.get(model, ()) else HARMLESS))
    own = yield from share_of(readings_of(model, asked, detector.blocks, (format,), cancel), 0.0, share)
    if own is None:
        return None
    harmless = yield from share_of(read_harmless(model, detector, format, cancel), share, 1.0)
    if harmless is None:
        return None
    if not harmless:  # the model's context holds none of them in this format
        return detector
    labels = np.array([True] * len(own) + [False] * len(harmless))
    weights, _ = fitted_linear([*own, *harmless], labels, np.arange(len(labels)), PENALTY)
    weights = weights.astype(np.float32)
    lowest = min(float((reading.states[list(reading.asking)] @ weights).max()) for reading in own)
    highest = max(float((reading.states @ weights).max()) for reading in harmless)
    if lowest <= highest:  # nothing tells the question from harmless prompts: the detector stands alone
        return detector
    threshold = highest + MARGIN * (lowest - highest)
    reading = torch.tensor(weights).reshape(1, len(detector.blocks), -1)
    cases = reading if detector.cases is None else torch.cat([detector.cases, reading])
    return replace(detector, cases=cases, case_biases=(*detector.case_biases, -threshold))


def read_harmless(
    model: InspectedModel,
    detector: Detector,
    format: PromptFormat = PromptFormat(),
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, list[Reading] | None]:
    """Read the harmless prompts that every case's question is told from; what is known of a model is not read again.

    Args:
        detector: Whose blocks are read.
        format: The prompt format of the edits that are to be routed.
        cancel: Asked after each batch of prompts.

    Yields:
        The share that is done.

    Returns:
        The readings of those that are within the model's context; ``None`` when cancelled.
    """
    known, key = _HARMLESS.setdefault(model, Recent(KEPT)), _key(detector, format)
    harmless = known.get(key)
    if harmless is None:
        texts = that_fit(model, _harmless(), (format,))
        harmless = yield from readings_of(model, texts, detector.blocks, (format,), cancel)
    if harmless is not None:
        known[key] = harmless
    return harmless


def _key(detector: Detector, format: PromptFormat) -> _Key:
    return detector.blocks, hashlib.sha256(repr(format).encode()).hexdigest()  # its suffix may be a visitor's text


def _forms(model: InspectedModel, case: Case, format: PromptFormat) -> Iterator[Sample]:
    """Yield the case's prompt and its question in further forms; what is too long for the model is left out."""
    prompt = case.adversarial_prompt
    question = case.question if case.question and case.question in prompt else prompt
    yield Sample(prompt, True, question)
    templates = [one for split in ("edit", "detector") for one in bundled_templates(split) if one.language == "en"]
    # Under another attack the case is scored.
    filled = [template.fill(question) for template in spread(templates, FORMS)]
    for text in dict.fromkeys([question, *(text for text in filled if text != case.other_attack)]):
        try:
            encode(model, text, None, format)
        except TooLong:
            continue
        if text != prompt:
            yield Sample(text, True, question)


def _harmless() -> list[Sample]:
    """Return the harmless prompts that a question is told from, bare and in attack templates."""
    free = [sample for sample in samples("detector") if not sample.harmful and len(sample.text) <= LONGEST]
    return list(spread(free, HARMLESS))
