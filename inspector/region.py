"""Does an edit erase what is toxic, or route around it? How far it shifts what flows into the toxic region.

The activation shift of the DINM paper's mechanism analysis: the relative change of the mean input of the region's
down-projection over adversarial prompts, taken where the answer begins (the last prompt token). Its source is the
residual stream after attention, shown as in Lee et al. 2024 ("A mechanistic understanding of alignment algorithms",
arXiv 2401.01967): projected on the mean difference of edited and vanilla states and on a principal component.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inspector.errors import PromptError
from inspector.model.encoding import encode
from inspector.model.hooks import observe_inputs, observe_outputs, stopping_before
from inspector.model.inspected import InspectedModel
from inspector.model.memory.batch_size import prompts_that_fit
from inspector.model.memory.halving import halved
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat
from inspector.shift import cannot_shift
from inspector.validated import Array

AFTER_ATTENTION = "residual stream after attention"
INTO_BLOCK = "residual stream into the block"
"""Where attention and MLP of a family run in parallel, there is no stream between them."""


@dataclass(frozen=True, eq=False)
class Projection:
    """States on two axes: the mean difference (edited minus vanilla) and the vanilla first principal component.

    Attributes:
        vanilla: ``[prompts, 2]`` coordinates, the vanilla mean at the origin.
        edited: ``[prompts, 2]``.
        explained: Share of the vanilla states' variance that the component explains, 0 to 1.
    """

    vanilla: np.ndarray
    edited: np.ndarray
    explained: float


@dataclass(frozen=True, eq=False)
class RegionShift:
    """What an edit does to the activations at the last token of adversarial prompts.

    Attributes:
        block: The block of the region.
        mean_input_shift: Relative change of the mean input of its down-projection: ``|mean' - mean| / |mean|``.
        by_block: ``[blocks]`` the same of every block output.
        vanilla: ``[prompts, d_model]`` states where the shift comes from, vanilla.
        edited: The same, edited.
        source: Which states those are.
        forced: The input cannot change: nothing that is edited lies before it.
    """

    block: int
    mean_input_shift: float
    by_block: Array
    vanilla: Array
    edited: Array
    source: str
    forced: bool

    @property
    def source_shift(self) -> float:
        """Relative change of the mean of the source's states."""
        return relative_change(self.vanilla, self.edited)

    def projection(self) -> Projection:
        """Project the source's states; where they do not differ, the first coordinate is zero."""
        centre = self.vanilla.mean(axis=0)
        vanilla, edited = self.vanilla - centre, self.edited - centre
        difference = edited.mean(axis=0)
        length = np.linalg.norm(difference)
        axis = difference / length if length > 0 else np.zeros_like(difference)
        _, sizes, components = np.linalg.svd(vanilla, full_matrices=False)
        total = float((sizes**2).sum())
        explained = float(sizes[0] ** 2) / total if total > 0 else 0.0
        axes = np.stack([axis, components[0]], axis=1)
        return Projection(vanilla @ axes, edited @ axes, explained)


def relative_change(vanilla: np.ndarray, edited: np.ndarray) -> float:
    """Return ``|mean(edited) - mean(vanilla)| / |mean(vanilla)|`` over the first axis."""
    before, after = vanilla.mean(axis=0), edited.mean(axis=0)
    return float(np.linalg.norm(after - before)) / max(float(np.linalg.norm(before)), 1e-12)


@torch.no_grad()
def region_shift(
    model: InspectedModel,
    prompts: Sequence[str],
    row: Row,
    block: int,
    *,
    format: PromptFormat = PromptFormat(),
    prompts_at_once: int = 4,
) -> RegionShift:
    """Measure the activation shift of a row of weights (or of a reminder around the prompts).

    Vanilla and edited share each batch.

    Args:
        prompts: Adversarial prompts, without suffix.
        row: The edited weights.
        block: The block of the region.
        prompts_at_once: Most prompts in a batch; fewer where the memory that is free holds fewer.

    Raises:
        PromptError: No prompt is given, or one is empty or too long.
        ArchitectureError: The block does not exist.
        NotFinite: A state is not a finite number, so that no change can be told.
    """
    if not prompts:
        raise PromptError("An activation shift needs at least one adversarial prompt. Give some.")
    architecture = model.architecture
    architecture.check_block(block)
    plain = [encode(model, text, format=format).prompt for text in prompts]
    asked = [encode(model, row.prompted(text), format=format).prompt for text in prompts]
    join = architecture.part_of_block(block, architecture.paths.after_attention)
    source_module = architecture.blocks[block] if join is None else join

    def observed(some: Sequence[int]) -> list[list[Tensor]]:
        """Return what one batch shows: what enters the region, its source, every block's output."""
        sequences = [ids[n] for ids in (plain, asked) for n in some]
        half = len(some)
        last = [len(ids) - 1 for ids in sequences]
        into: list[list[Tensor]] = [[]]
        source: list[list[Tensor]] = [[]]
        outputs: list[list[Tensor]] = [[] for _ in range(model.blocks)]
        with ExitStack() as stack:
            stack.enter_context(model.running([VANILLA] * half + [row.weights()] * half))
            stack.enter_context(stopping_before(architecture.final_norm or architecture.unembedding))
            stack.enter_context(observe_outputs(architecture.blocks, _keeper(last, outputs)))
            stack.enter_context(observe_inputs([architecture.down_projections[block]], _keeper(last, into)))
            stack.enter_context(observe_inputs([source_module], _keeper(last, source)))
            model.network(input_ids=model.batch(*sequences), use_cache=False)
        return [[seen for (seen,) in (*into, *source, *outputs)]]

    size = prompts_that_fit(model, max(map(len, (*plain, *asked))), 2, prompts_at_once)
    batches = [range(start, start + size) for start in range(0, len(prompts), size)]
    shown = [seen for batch in batches for seen in halved(observed, batch[: len(prompts) - batch.start])]
    model.require_finite("activation shift", [states for batch in shown for states in batch])
    into, source, *outputs = zip(*shown, strict=True)
    vanilla_in, edited_in = _halves(into)
    vanilla, edited = _halves(source)
    return RegionShift(
        block=block,
        mean_input_shift=relative_change(vanilla_in, edited_in),
        by_block=np.array([relative_change(*_halves(parts)) for parts in outputs]),
        vanilla=vanilla,
        edited=edited,
        source=INTO_BLOCK if join is None else AFTER_ATTENTION,
        forced=cannot_shift(model, row, block),
    )


def cannot_detoxify(model: InspectedModel, row: Row, block: int) -> bool:
    """Tell whether a row of weights leaves a block's down-projection, and so its toxicity, as it is."""
    down = model.architecture.down_projection_names[block]
    return row.patch is None or all(delta.module != down for delta in row.patch.deltas)


def _keeper(places: Sequence[int], kept: Sequence[list[Tensor]]) -> Callable[[int, Tensor], None]:
    """Return a callback that keeps the states at one place of each row, by the number of the module."""

    def keep(number: int, states: Tensor) -> None:
        # OPT flattens [rows, tokens, d] to [rows * tokens, d] before its MLP.
        rows = states.reshape(len(places), -1, states.shape[-1])
        kept[number].append(rows[torch.arange(len(places)), torch.tensor(places)].double().cpu())

    return keep


def _halves(parts: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return the vanilla and the edited states of all batches; each batch holds its vanilla ones first."""
    vanilla = torch.cat([part[: len(part) // 2] for part in parts])
    edited = torch.cat([part[len(part) // 2 :] for part in parts])
    return vanilla.numpy(), edited.numpy()
