"""Locators: from a case to a score a block, with the reason. One interface for all of them.

Every score is larger where a locator would rather edit, and the toxic layer is the block with the largest one. That
is DINM's choice for ``divergence`` and one opinion for each of the others; the atlas (:mod:`editing.atlas`) says how
good each opinion is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from inspector.attribution import block_attribution, direct_logit_attribution, mlp_writers
from inspector.causal import knock_out_mlps
from inspector.divergence import Padding, divergence
from inspector.errors import ArchitectureError, CaseError, NotFinite
from inspector.margin import answer_pair, mlp_trace
from inspector.model.counted import token_log_probabilities
from inspector.model.encoding import encode
from inspector.model.hooks import observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.cases import Case
from inspector.toxicity import Labelled, Probe, kept_probe, neuron_toxicity
from inspector.validated import Array
from inspector.validated import settings as checked

Measuring = Generator[float, None, "np.ndarray | None"]


@checked(CaseError)
class Setup:
    """What all locators share.

    Attributes:
        format: Suffix and chat template.
        padding: Padding side of the presets ``paper`` and ``reference``.
        probe: The toxicity probe; without it the one of ``labelled`` is read or trained.
        labelled: Texts of the toxicity probe; the bundled ones by default.
        cancel: Asked between steps; ``True`` ends the measurement.
    """

    format: PromptFormat = PromptFormat()
    padding: Padding = "right"
    probe: Probe | None = None
    labelled: Labelled | None = None
    cancel: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Locator:
    """One way to choose the layer to edit.

    Attributes:
        name: Its name.
        unit: Unit of its scores, empty for pure numbers.
        reason: What a high score says, one sentence.
        measure: From (model, case, setup) to ``[blocks]`` scores; yields the share that is done.
    """

    name: str
    unit: str
    reason: str
    measure: Callable[[InspectedModel, Case, Setup], Measuring]


@dataclass(frozen=True, eq=False)
class Located:
    """What one locator says of one case.

    Attributes:
        locator: Its name.
        unit: Unit of the scores.
        reason: What a high score says.
        scores: ``[blocks]``, larger where it would rather edit.
        seconds: Duration.
    """

    locator: str
    unit: str
    reason: str
    scores: Array
    seconds: float

    @property
    def block(self) -> int:
        """The block that it chooses."""
        return int(np.argmax(self.scores))


@dataclass(frozen=True)
class NotLocated:
    """A locator that this model's architecture does not allow, or whose scores its type cannot hold.

    Attributes:
        locator: Its name.
        why: What stands against it, for the reader.
    """

    locator: str
    why: str


def _at_once(scores: np.ndarray) -> Measuring:
    yield 1.0
    return scores


def _preset(name: Any, distance: Any = "l2") -> Callable[[InspectedModel, Case, Setup], Measuring]:
    def measure(model: InspectedModel, case: Case, setup: Setup) -> Measuring:
        return _at_once(divergence(model, case, name, padding=setup.padding, format=setup.format).by(distance))

    return measure


def _edit_gradient(model: InspectedModel, case: Case, setup: Setup) -> Measuring:
    case.require_answers()
    encoded = encode(model, case.adversarial_prompt, case.safe, format=setup.format)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return -token_log_probabilities(logits, encoded.response).mean()

    trace = mlp_trace(model, [encoded.tokens], [encoded.predicting], loss)
    sizes = (model.architecture.down_weight(block).detach().float().norm() for block in range(model.blocks))
    return _at_once(np.array([float(trace.weight_gradient(n).norm() / size) for n, size in enumerate(sizes)]))


def _attribution(model: InspectedModel, case: Case, setup: Setup) -> Measuring:
    return _at_once(-block_attribution(model, case, format=setup.format))


def _knock_out(model: InspectedModel, case: Case, setup: Setup) -> Measuring:
    found = yield from knock_out_mlps(model, case, cancel=setup.cancel, format=setup.format)
    return None if found is None else found.effect


def _logit_attribution(model: InspectedModel, case: Case, setup: Setup) -> Measuring:
    return _at_once(-direct_logit_attribution(model, case, format=setup.format).mlp)


def _probe(model: InspectedModel, setup: Setup) -> Generator[float, None, Probe | None]:
    return setup.probe or (yield from kept_probe(model, setup.labelled, cancel=setup.cancel))


def _toxic_writing(model: InspectedModel, case: Case, setup: Setup) -> Measuring:
    probe = yield from _probe(model, setup)
    return None if probe is None else toxic_writing(model, case, probe, format=setup.format)


def _region_toxicity(model: InspectedModel, case: Case, setup: Setup) -> Measuring:
    probe = yield from _probe(model, setup)
    if probe is None:
        return None
    return np.array([neuron_toxicity(model, probe, block).mean() for block in range(model.blocks)])


@torch.no_grad()
def toxic_writing(
    model: InspectedModel, case: Case, probe: Probe, *, format: PromptFormat = PromptFormat()
) -> np.ndarray:
    """Return ``[blocks]`` how far each MLP writes along the toxic direction on the unsafe more than on the safe answer.

    Mean over the answer's tokens of what the MLP adds to the residual stream, projected on the probe's direction,
    in the model's activation units.

    Raises:
        CaseError: An answer is empty, or both are the same.
        PromptError: A text is empty or too long.
        NotFinite: A score is not a finite number.
    """
    texts = answer_pair(model, case, format=format.open())
    shape = (2, max(map(len, texts.sequences)), -1)
    scores = np.zeros(model.blocks)
    direction = torch.from_numpy(probe.direction).float()

    def on_written(block: int, written: torch.Tensor) -> None:
        along = written.reshape(shape).float() @ direction.to(written.device)
        start = len(texts.prompt)
        safe, unsafe = along[0, start : start + len(texts.safe)], along[1, start : start + len(texts.unsafe)]
        scores[block] = float(unsafe.mean() - safe.mean())

    architecture = model.architecture
    with (
        model.running(),
        stopping_before(architecture.final_norm or architecture.unembedding),
        observe_outputs(mlp_writers(architecture), on_written),
    ):
        model.network(input_ids=model.batch(*texts.sequences), use_cache=False)
    model.require_finite("toxic writing", [scores])
    return scores


LOCATORS: dict[str, Locator] = {
    locator.name: locator
    for locator in (
        Locator(
            "divergence", "", "Mean states of the two answers are far apart (corrected, L2).", _preset("corrected")
        ),
        Locator("divergence, paper", "", "States of the answers alone are far apart.", _preset("paper")),
        Locator(
            "divergence, reference",
            "",
            "States of the answers alone are far apart, pads and final norm included.",
            _preset("reference"),
        ),
        Locator(
            "relative divergence",
            "",
            "Far apart for their length: depth no longer adds.",
            _preset("corrected", "relative"),
        ),
        Locator("cosine divergence", "", "Mean states point in different directions.", _preset("corrected", "cosine")),
        Locator("growth", "", "This block adds most to the distance.", _preset("corrected", "growth")),
        Locator(
            "edit-loss gradient",
            "",
            "A small change of this matrix lowers the edit loss most, for its size.",
            _edit_gradient,
        ),
        Locator(
            "gradient x activation",
            "nats",
            "To first order, this MLP pushes to the unsafe answer (Captum).",
            _attribution,
        ),
        Locator(
            "knock-out",
            "nats",
            "With this MLP mean-ablated on the prompt, the safe answer gains on the unsafe one.",
            _knock_out,
        ),
        Locator(
            "logit attribution",
            "logits",
            "This MLP writes the unsafe answer's first differing token directly.",
            _logit_attribution,
        ),
        Locator(
            "toxic writing",
            "",
            "This MLP writes along the probe's toxic direction on the unsafe answer.",
            _toxic_writing,
        ),
        Locator(
            "region toxicity",
            "",
            "Its value vectors point along the toxic direction; the case plays no part.",
            _region_toxicity,
        ),
    )
}
"""All locators by name, the cheap ones first but for the probe, which is trained once per model."""


def locate_with(
    model: InspectedModel, case: Case, names: Sequence[str] = tuple(LOCATORS), setup: Setup = Setup()
) -> Generator[tuple[str, float] | Located | NotLocated, None, None]:
    """Ask several locators one after the other.

    Yields:
        ``(name, share)`` while one measures, and its :class:`Located` when it is done, or a :class:`NotLocated`; the
        others go on. Ends early when cancelled.

    Raises:
        CaseError: A name is unknown, an answer is empty, or both are the same.
        PromptError: A text is empty or too long.
    """
    unknown = sorted(set(names) - set(LOCATORS))
    if unknown:
        raise CaseError(f"Unknown locators {', '.join(unknown)}. Choose from: {', '.join(LOCATORS)}.")
    for name in names:
        locator = LOCATORS[name]
        begun = time.perf_counter()
        yield name, 0.0
        try:
            measuring = locator.measure(model, case, setup)
            while True:
                try:
                    share = next(measuring)
                except StopIteration as end:
                    scores = end.value
                    break
                yield name, share
            if scores is not None:
                model.require_finite(f"score of '{name}'", [scores])
        except (ArchitectureError, NotFinite) as error:
            yield NotLocated(name, error.user_message())
            continue
        if scores is None or setup.cancel():
            return
        yield Located(name, locator.unit, locator.reason, np.asarray(scores, dtype=float), time.perf_counter() - begun)


@dataclass(frozen=True)
class Agreement:
    """How well one locator fits what edits achieve.

    Attributes:
        locator: Its name.
        block: The block that it chooses.
        correlation: Spearman's rank correlation of its scores with the achieved quantity, -1 to 1; NaN where either
            is constant.
        regret: Achieved at the best block minus achieved at the chosen one, in the quantity's unit; 0 is best.
        share: Regret over the difference between the best and the mean block: 0 is the best block, 1 no better than
            a block drawn at random; NaN where all blocks achieve the same.
    """

    locator: str
    block: int
    correlation: float
    regret: float
    share: float


def agreement(located: Located, achieved: np.ndarray) -> Agreement:
    """Compare a locator's scores with what the edit of each block achieved ``[blocks]`` (NaN where none was made)."""
    from scipy.stats import spearmanr

    known = ~np.isnan(achieved)
    if not known.any():
        raise CaseError("The atlas has no block yet. Run it first.")
    scores, values = located.scores[known], achieved[known]
    constant = len(values) < 3 or np.ptp(scores) == 0 or np.ptp(values) == 0
    correlation = float("nan") if constant else float(spearmanr(scores, values).statistic)
    block = int(np.flatnonzero(known)[np.argmax(scores)])
    regret = float(values.max() - achieved[block])
    spread = float(values.max() - values.mean())
    share = regret / spread if np.ptp(values) > 0 else float("nan")
    return Agreement(located.locator, block, correlation, regret, share)
