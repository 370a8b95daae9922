"""The toxicity probe: a linear reading of the last block's states.

As in Lee et al. (2024) and the DINM paper: P(toxic | h) = softmax(W_toxic h) on states after the last block, mean
over a text's tokens. Trained on labelled texts and kept on disk per base model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inspector.model.embedded import cache_root
from inspector.model.encoding import tokenise_whole
from inspector.model.hooks import observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.memory.halving import halved
from inspector.model.tensor_file import check_unchanged, write_tensors
from inspector.safeedit.scores import Estimate, percentage
from inspector.toxicity.labelled import Labelled, bundled_texts
from inspector.validated import read_record


@dataclass(frozen=True, eq=False)
class Probe:
    """A trained probe of one base model.

    Attributes:
        weight: ``[2, d_model]`` W_toxic; row 1 is the toxic one.
        bias: ``[2]``.
        fingerprint: Of the base model.
        source: The texts it was trained on.
        accuracy: Held-out accuracy in percent with its interval (five-fold, twins held out together).
    """

    weight: np.ndarray
    bias: np.ndarray
    fingerprint: str
    source: str
    accuracy: Estimate

    @property
    def direction(self) -> np.ndarray:
        """``[d_model]`` the toxic row of W_toxic at unit length."""
        return self.weight[1] / np.linalg.norm(self.weight[1])

    def probability(self, states: np.ndarray) -> np.ndarray:
        """Return P(toxic) of pooled last-block states ``[..., d_model]``, 0 to 1."""
        logits = states @ self.weight.T + self.bias
        return 1 / (1 + np.exp(logits[..., 0] - logits[..., 1]))


@torch.no_grad()
def pooled_states(
    model: InspectedModel,
    texts: Sequence[str],
    batch: int = 16,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, np.ndarray | None]:
    """Return ``[texts, d_model]``, the mean of the last block's outputs over each text's tokens.

    The first token is left out (unless it is the only one): its state is the same for every text and much longer
    than all others. Texts are cut at 128 tokens.

    Yields:
        The share that is done.

    Returns:
        The states; ``None`` when cancelled.
    """
    architecture = model.architecture
    ids = [tokenise_whole(model, text[:4000], "text")[:128] for text in texts]
    order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
    found = np.zeros((len(ids), architecture.d_model), dtype=np.float32)

    def pooled(chosen: Sequence[int]) -> list[np.ndarray]:
        seen: list[Tensor] = []
        with (
            torch.no_grad(),
            model.running(),
            stopping_before(architecture.final_norm or architecture.unembedding),
            observe_outputs(architecture.blocks[-1:], lambda _position, states: seen.append(states)),
        ):
            model.network(input_ids=model.batch(*(ids[n] for n in chosen)), use_cache=False)
        return [
            seen[0][place, min(1, len(ids[number]) - 1) : len(ids[number])].float().mean(dim=0).cpu().numpy()
            for place, number in enumerate(chosen)
        ]

    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        for number, mean in zip(chosen, halved(pooled, chosen), strict=True):
            found[number] = mean
        yield (start + len(chosen)) / len(order)
        if cancel():
            return None
    return found


def train_probe(
    model: InspectedModel, labelled: Labelled | None = None, cancel: Callable[[], bool] = lambda: False
) -> Generator[float, None, Probe | None]:
    """Train a probe by logistic regression (scikit-learn, L2) on pooled last-block states.

    Yields:
        The share that is done.

    Returns:
        The probe; ``None`` when cancelled.

    Raises:
        NotFinite: A state is not a finite number.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labelled = labelled or bundled_texts()
    states = yield from pooled_states(model, labelled.texts, cancel=cancel)
    if states is None:
        return None
    model.require_finite("toxicity probe's reading", [states])
    labels = np.array(labelled.toxic)
    learner = make_pipeline(StandardScaler(), LogisticRegression(C=_C, max_iter=2000))
    guessed = cross_val_predict(learner, states, labels, groups=labelled.groups, cv=GroupKFold(5))
    learner.fit(states, labels)
    scaler, fitted = learner[0], learner[1]
    row = fitted.coef_[0] / scaler.scale_
    offset = float(fitted.intercept_[0] - row @ scaler.mean_)
    # softmax over (-z/2, z/2) is the logistic function of z.
    return Probe(
        weight=np.stack([-row / 2, row / 2]).astype(np.float32),
        bias=np.array([-offset / 2, offset / 2], dtype=np.float32),
        fingerprint=model.fingerprint,
        source=labelled.name,
        accuracy=percentage(int((guessed == labels).sum()), len(labels)),
    )


_C = 0.01
"""scikit-learn's inverse strength of the L2 penalty."""


def probe_folder() -> Path:
    """Return the folder where probes are kept."""
    return cache_root() / "probes"


def kept_probe(
    model: InspectedModel,
    labelled: Labelled | None = None,
    folder: Path | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[float, None, Probe | None]:
    """Return the probe of a base model from disk, trained first if there is none yet.

    Args:
        folder: Where probes are kept; the cache by default.
    """
    labelled = labelled or bundled_texts()
    name = f"{model.fingerprint}-{model.dtype_name}-{labelled.digest}.safetensors"
    path = (folder or probe_folder()) / name
    if path.exists():
        try:
            return _read_probe(path)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            print(f"The kept probe cannot be used ({error}); it is trained again.", file=sys.stderr)
    probe = yield from train_probe(model, labelled, cancel)
    if probe is not None:
        try:
            record = _KeptProbe(probe.fingerprint, probe.source, probe.accuracy)
            arrays = {name: torch.from_numpy(getattr(probe, name)) for name in ("weight", "bias")}
            write_tensors(path, arrays, _FORMAT, asdict(record))
        except OSError as error:
            print(f"The probe could not be kept ({error}).", file=sys.stderr)
    return probe


_FORMAT = "dinm-inspector probe 1"


@dataclass(frozen=True)
class _KeptProbe:
    """What the file says of a probe beside its arrays; see :class:`Probe`."""

    fingerprint: str
    source: str
    accuracy: Estimate


def _read_probe(path: Path) -> Probe:
    with safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        if about.get("format") != _FORMAT:
            raise ValueError("another version of this program wrote it")
        check_unchanged(file)
        record = read_record(_KeptProbe, json.loads(about["record"]))
        weight, bias = (file.get_tensor(name).numpy().copy() for name in ("weight", "bias"))
        return Probe(weight=weight, bias=bias, **vars(record))
