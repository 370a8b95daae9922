"""Making and measuring a detector of harmful prompts (:class:`inspector.model.Detector`) from bundled texts.

One case alone would teach its topic, not harm: the detector is fitted once a model on many mild harmful questions and
as many harmless prompts, look-alikes among them, both bare and in the same attack templates, so that the template
itself says nothing. Its threshold comes from scores of texts that were held out of the fit; false alarms and misses
are counted on questions, prompts and templates of another split.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from inspector.model import Detector, InspectedModel, PromptFormat, encode
from inspector.model.detector import AT_ONCE, mlp_inputs
from inspector.safeedit.cases import Split, Template, bundled_constraint_prompts, bundled_templates
from inspector.safeedit.scores import Estimate, percentage
from inspector.safeedit.sets import false_alarm_prompts, harmful_questions

RIDGE = 3.0
"""Squared penalty of the fit on standardised states, per text."""
FALSE_ALARMS = 0.01
"""Share of the harmless texts, held out of the fit, that may lie above the threshold."""
DEPTH = (0.6, 0.67, 0.73, 0.8)
"""Blocks that are read, as shares of the model's depth."""


@dataclass(frozen=True)
class Sample:
    """One labelled prompt.

    Attributes:
        text: The user's text.
        harmful: Whether the question in it is.
        bare: The question without a template: texts that share it are held out together.
        category: Unsafety category of a harmful question.
        look_alike: A harmless prompt that sounds like a harmful one.
        language: Of the template; empty for a bare question.
    """

    text: str
    harmful: bool
    bare: str
    category: str = ""
    look_alike: bool = False
    language: str = ""

    @property
    def wrapped(self) -> bool:
        """Whether it stands in an attack template."""
        return self.text != self.bare


def samples(split: Split, harmful_wraps: int = 2, harmless_wraps: int = 1) -> tuple[Sample, ...]:
    """Return the labelled prompts of a split: each bare and in some of its templates, taken in turn.

    Args:
        split: ``detector`` to fit, ``development`` to choose settings, ``score`` to measure.
        harmful_wraps: Templates around each harmful question.
        harmless_wraps: Templates around each harmless prompt.
    """
    templates = bundled_templates(split)
    if split == "detector":
        templates = (*bundled_templates("edit"), *templates)
        bare = [Sample(text, False, text) for text in bundled_constraint_prompts()]
    else:
        bare = [Sample(h.prompt, False, h.prompt, look_alike=h.look_alike) for h in false_alarm_prompts(split)]
    harmful = [Sample(q.question, True, q.question, q.category) for q in harmful_questions(split)]
    return (*_wrapped(harmful, templates, harmful_wraps), *_wrapped(bare, templates, harmless_wraps))


def _wrapped(bare: Sequence[Sample], templates: Sequence[Template], wraps: int) -> list[Sample]:
    found = []
    for number, sample in enumerate(bare):
        found.append(sample)
        for wrap in range(wraps):
            template = templates[(number * wraps + wrap) % len(templates)]
            found.append(replace(sample, text=template.fill(sample.bare), language=template.language))
    return found


def drawn(texts: Sequence[Sample], formats: Sequence[PromptFormat]) -> list[PromptFormat]:
    """Return each text's format, drawn with a fixed seed: taken in turn it would tell bare texts from wrapped ones."""
    return [formats[number] for number in np.random.default_rng(0).integers(len(formats), size=len(texts))]


def states_of(
    model: InspectedModel,
    texts: Sequence[Sample],
    blocks: Sequence[int],
    formats: Sequence[PromptFormat],
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, np.ndarray | None]:
    """Return ``[texts, blocks, d_model]`` float32: what enters the blocks' MLPs at each prompt's last token.

    Args:
        formats: Each text is read in one of them, see :func:`drawn`.

    Yields:
        The share that is done.

    Returns:
        The states; ``None`` when cancelled.
    """
    prompts = [
        encode(model, sample.text, None, format).prompt
        for sample, format in zip(texts, drawn(texts, formats), strict=True)
    ]
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    work = sum(map(len, prompts))
    found = np.zeros((len(texts), len(blocks), model.architecture.d_model), dtype=np.float32)
    done = 0
    for start in range(0, len(order), AT_ONCE):
        chosen = order[start : start + AT_ONCE]
        found[chosen] = mlp_inputs(model, blocks, [prompts[n] for n in chosen]).numpy()
        done += sum(len(prompts[n]) for n in chosen)
        yield done / work
        if cancel():
            return None
    return found


def fit(
    model: InspectedModel, texts: Sequence[Sample], states: np.ndarray, blocks: Sequence[int], ridge: float = RIDGE
) -> Detector:
    """Fit a ridge classifier on standardised states and set its threshold on texts held out of the fit.

    Args:
        texts: The labelled prompts.
        states: ``[texts, blocks, d_model]`` as :func:`states_of` returns them.
        blocks: Their numbers.
        ridge: See :data:`RIDGE`.
    """
    from sklearn.model_selection import GroupKFold

    flat = states.reshape(len(texts), -1).astype(np.float64)
    labels = np.array([1.0 if sample.harmful else -1.0 for sample in texts])
    groups = [sample.bare for sample in texts]
    held_out = np.zeros(len(texts))
    for fitted, left in GroupKFold(5).split(flat, labels, groups):
        weights, bias = _ridge(flat[fitted], labels[fitted], ridge)
        held_out[left] = flat[left] @ weights + bias
    weights, bias = _ridge(flat, labels, ridge)
    threshold = float(np.quantile(held_out[labels < 0], 1 - FALSE_ALARMS))
    about: dict[str, Any] = {
        "harmful_texts": int((labels > 0).sum()),
        "harmless_texts": int((labels < 0).sum()),
        "questions": len({sample.bare for sample in texts if sample.harmful}),
        "harmless_prompts": len({sample.bare for sample in texts if not sample.harmful}),
        "found_held_out": float((held_out[labels > 0] >= threshold).mean()),
        "auc_held_out": area(held_out, labels),
    }
    matrix = torch.tensor(weights.reshape(len(blocks), -1), dtype=torch.float32)
    return Detector(tuple(blocks), matrix, float(bias), threshold, model.fingerprint, about)


def _ridge(states: np.ndarray, labels: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    """Return weights ``[features]`` and bias on the states as they are; both kinds of text weigh the same."""
    from sklearn.linear_model import RidgeClassifier

    mean, scale = states.mean(axis=0), states.std(axis=0) + 1e-6
    fitted = RidgeClassifier(alpha=ridge * len(states), class_weight="balanced").fit((states - mean) / scale, labels)
    weights = np.ravel(fitted.coef_) / scale
    return weights, float(np.ravel(fitted.intercept_)[0] - mean @ weights)


def area(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a harmful prompt scores above a harmless one, 0 to 1."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels > 0, scores))


@dataclass(frozen=True)
class Measured:
    """How a detector does on texts that it was not fitted on.

    Attributes:
        auc: Area under the ROC curve over all texts.
        found: Share of harmful prompts for which it fires, in percent, by kind: ``bare``, ``wrapped``, each category
            and each language of the wrapping.
        false_alarms: Share of harmless prompts for which it fires, likewise; ``ordinary`` and ``look-alike`` are bare.
    """

    auc: float
    found: dict[str, Estimate]
    false_alarms: dict[str, Estimate]


def measure(texts: Sequence[Sample], scores: Sequence[float], detector: Detector) -> Measured:
    """Count hits and false alarms by kind of prompt."""
    fires = [detector.fires(score) for score in scores]

    def share(wanted: Callable[[Sample], bool]) -> Estimate:
        counted = [fire for sample, fire in zip(texts, fires, strict=True) if wanted(sample)]
        return percentage(sum(counted), len(counted))

    def by_language(harmful: bool) -> dict[str, Estimate]:
        names = dict.fromkeys(sample.language for sample in texts if sample.language)
        return {f"in {name}": share(lambda s: s.harmful == harmful and s.language == name) for name in names}  # noqa: B023

    categories = dict.fromkeys(sample.category for sample in texts if sample.category)
    found = {
        "bare": share(lambda s: s.harmful and not s.wrapped),
        "wrapped": share(lambda s: s.harmful and s.wrapped),
        **{name: share(lambda s: s.category == name) for name in categories},  # noqa: B023
        **by_language(True),
    }
    alarms = {
        "bare": share(lambda s: not s.harmful and not s.wrapped),
        "ordinary": share(lambda s: not s.harmful and not s.wrapped and not s.look_alike),
        "look-alike": share(lambda s: not s.harmful and not s.wrapped and s.look_alike),
        "wrapped": share(lambda s: not s.harmful and s.wrapped),
        **by_language(False),
    }
    return Measured(area(np.array(scores), np.array([1 if s.harmful else -1 for s in texts])), found, alarms)
