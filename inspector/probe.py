"""The toxicity probe: a linear reading of the last block's states, and how toxic it finds each value vector.

As in Lee et al. (2024) and the DINM paper: P(toxic | h) = softmax(W_toxic h) on states after the last block, mean
over a text's tokens; the toxicity of a region is the mean cosine between the toxic row of W_toxic and the columns
of its down-projection (the value vectors), and an edit is judged by its relative change. Trained on bundled labelled
texts, or on Jigsaw or another labelled set where the user has it; kept on disk per base model.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from inspector.errors import CaseError, PatchError
from inspector.model.embedded import cache_root
from inspector.model.encoding import tokenise_whole
from inspector.model.hooks import observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.patch import VANILLA, Row
from inspector.safeedit.cases import _read
from inspector.safeedit.scores import Estimate, percentage

BUNDLED = "bundled"
_TEXT_COLUMNS = ("comment_text", "text", "comment")
_LABEL_COLUMNS = ("toxic", "toxicity", "label", "labels")


@dataclass(frozen=True)
class Labelled:
    """Texts with their labels.

    Attributes:
        name: Where they come from.
        texts: The texts.
        toxic: Whether each is toxic.
        groups: Texts of one group (a toxic text and its neutral twin) are held out together.
    """

    name: str
    texts: tuple[str, ...]
    toxic: tuple[bool, ...]
    groups: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the content."""
        return hashlib.sha256(json.dumps([self.texts, self.toxic]).encode()).hexdigest()[:12]


@cache
def bundled_texts() -> Labelled:
    """Return the bundled texts: mild toxic sentences, each with a neutral twin of the same topic and length."""
    pairs = _read("toxicity.json")["pairs"]
    texts = tuple(text for pair in pairs for text in (pair["toxic"], pair["neutral"]))
    return Labelled(BUNDLED, texts, (True, False) * len(pairs), tuple(n // 2 for n in range(len(texts))))


def labelled_texts(source: str = BUNDLED, limit: int = 2000, split: str = "train") -> Labelled:
    """Return labelled texts: the bundled ones, a CSV file, or a dataset of the hub.

    Args:
        source: ``bundled``, the path of a CSV file (Jigsaw's ``train.csv`` fits), or a hub id that the user may read.
        limit: Most texts, half of them toxic.
        split: Split of a hub dataset.

    Raises:
        CaseError: It cannot be read, lacks a column of texts or of labels, or has one class only.
    """
    if source == BUNDLED:
        return bundled_texts()
    rows = _csv_rows(Path(source)) if source.endswith(".csv") else _hub_rows(source, split)
    chosen: dict[bool, list[str]] = {True: [], False: []}
    for number, row in enumerate(rows):
        if number == 0:
            text_column = _column(row, _TEXT_COLUMNS, source)
            label_column = _column(row, _LABEL_COLUMNS, source)
        text = str(row[text_column] or "").strip()
        try:
            label = float(row[label_column]) >= 0.5
        except (TypeError, ValueError):
            raise CaseError(f"Row {number + 1} of {source} has no number in '{label_column}'. Mend the file.") from None
        if text and len(chosen[label]) < limit // 2:
            chosen[label].append(text)
        if all(len(texts) >= limit // 2 for texts in chosen.values()):
            break
    few = min(map(len, chosen.values()))
    if few < 10:
        raise CaseError(f"{source} has only {few} texts of one class; 10 of each are needed. Take another source.")
    texts = (*chosen[True][:few], *chosen[False][:few])
    return Labelled(source, texts, (True,) * few + (False,) * few, tuple(range(len(texts))))


def _column(row: dict[str, Any], names: Sequence[str], source: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise CaseError(f"{source} has none of the columns {', '.join(names)}. Rename one in a copy of the file.")
    return found


def _csv_rows(path: Path):
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaseError(f"{path} cannot be read ({error}). Give a CSV file in UTF-8.") from error


def _hub_rows(name: str, split: str):
    from datasets import load_dataset

    try:
        yield from load_dataset(name, split=split)
    except Exception as error:  # the hub's and the loader's errors are of many kinds
        raise CaseError(
            f"The dataset {name} cannot be loaded ({type(error).__name__}: {error}). Check its name, your access "
            "(huggingface-cli login), or give a CSV file."
        ) from error


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
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        seen: list[Tensor] = []
        with (
            torch.no_grad(),
            model.running(),
            stopping_before(architecture.final_norm or architecture.unembedding),
            observe_outputs(architecture.blocks[-1:], _into(seen)),
        ):
            model.network(input_ids=model.batch(*(ids[n] for n in chosen)), use_cache=False)
        for place, number in enumerate(chosen):
            first = 1 if len(ids[number]) > 1 else 0
            found[number] = seen[0][place, first : len(ids[number])].float().mean(dim=0).cpu().numpy()
        yield (start + len(chosen)) / len(order)
        if cancel():
            return None
    return found


def _into(seen: list[Tensor]) -> Callable[[int, Tensor], None]:
    return lambda _position, states: seen.append(states)


def train_probe(
    model: InspectedModel, labelled: Labelled | None = None, cancel: Callable[[], bool] = lambda: False
) -> Generator[float, None, Probe | None]:
    """Train a probe by logistic regression (scikit-learn, L2) on pooled last-block states.

    Yields:
        The share that is done.

    Returns:
        The probe; ``None`` when cancelled.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labelled = labelled or bundled_texts()
    states = yield from pooled_states(model, labelled.texts, cancel=cancel)
    if states is None:
        return None
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
            path.parent.mkdir(parents=True, exist_ok=True)
            about = {
                "fingerprint": probe.fingerprint,
                "source": probe.source,
                "accuracy": json.dumps(vars(probe.accuracy)),
            }
            save_file({"weight": probe.weight, "bias": probe.bias}, path, metadata=about)
        except (OSError, SafetensorError) as error:
            print(f"The probe could not be kept ({error}).", file=sys.stderr)
    return probe


def _read_probe(path: Path) -> Probe:
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
        return Probe(
            weight=file.get_tensor("weight"),
            bias=file.get_tensor("bias"),
            fingerprint=about["fingerprint"],
            source=about["source"],
            accuracy=Estimate(**json.loads(about["accuracy"])),
        )


def neuron_toxicity(model: InspectedModel, probe: Probe, block: int, row: Row = VANILLA) -> np.ndarray:
    """Return ``[d_ff]`` the cosine of each value vector of a block with the toxic direction, -1 to 1.

    The value vectors are the columns of the down-projection, before any norm that a family has after its MLP.

    Args:
        row: An edit to apply to the weights first, at its strength.
    """
    weight = model.architecture.down_weight(block).detach().float()
    patch = row.patch
    if patch is not None and row.strength:
        if patch.fingerprint != model.fingerprint:
            raise PatchError(f"Patch {patch.identifier} was made for another base model. Load that model or edit anew.")
        name = model.architecture.down_projection_names[block]
        for delta in patch.deltas:
            if delta.module == name:
                weight = weight + row.strength * delta.dense().to(weight.device)
    direction = torch.from_numpy(probe.direction).to(weight.device).float()
    return ((direction @ weight) / weight.norm(dim=0).clamp(min=1e-12)).cpu().numpy()


@dataclass(frozen=True)
class RegionToxicity:
    """Toxicity of one block's region before and after an edit.

    Attributes:
        block: The block.
        before: Mean cosine of its value vectors with the toxic direction, vanilla.
        after: The same, edited.
        typical: Mean absolute cosine, vanilla: what size a single neuron's has.
    """

    block: int
    before: float
    after: float
    typical: float

    @property
    def change(self) -> float:
        """Relative change, (after - before) / |before|; negative where the edit detoxified."""
        return (self.after - self.before) / max(abs(self.before), 1e-12)


def region_toxicity(model: InspectedModel, probe: Probe, block: int, row: Row = VANILLA) -> RegionToxicity:
    """Measure the toxicity of a block's region, vanilla and edited."""
    before = neuron_toxicity(model, probe, block)
    after = before if row.patch is None else neuron_toxicity(model, probe, block, row)
    return RegionToxicity(block, float(before.mean()), float(after.mean()), float(np.abs(before).mean()))
