"""How an atlas is made: the loop over groups of blocks, and which blocks it leaves out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from editing.atlas.answering import case_verdicts
from editing.atlas.group import AtlasTails, Descended, descended, likelihood
from editing.atlas.made import Atlas, AtlasProgress, AtlasSettings, Entry
from editing.guard import check_case
from editing.memory import memory_told
from editing.optimising.replay import master_weight
from editing.progress import Preparation
from editing.texts.harmless import harmless_answers
from inspector.errors import OutOfMemory, RefusedEdit
from inspector.margin import mlp_trace
from inspector.model import Delta, InspectedModel, Patch, Row, encode
from inspector.model.patches.patch import VANILLA
from inspector.model.waiting import read
from inspector.safeedit import Case
from inspector.safeedit.exam import asked_as
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.verdict import Judge, Verdict


def make_atlas(
    model: InspectedModel,
    case: Case,
    settings: AtlasSettings = AtlasSettings(),
    *,
    judge: Judge | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Generator[Preparation | AtlasProgress, None, Atlas]:
    """Edit every block in turn on one case and measure each edit; nothing is kept of the patches.

    The edit is DINM's: Adam on the negative log-likelihood of the safe answer (``corrected``'s alignment). The
    constraint's KL is measured and has no gradient, as in the authors' released code.

    Args:
        judge: Reads the answers, if ``settings.answers``; the embedded rules by default.
        cancel: Asked between steps; ``True`` ends the atlas and keeps the blocks that are done.

    Returns:
        The atlas. A block whose edit is refused, keeps no update or does not fit into memory by itself has no entry:
        see :attr:`Atlas.left_out`.

    Raises:
        EditError: A weight is not in memory.
        RefusedEdit: No block has an edit.
        OutOfMemory: No block has one, and memory ran out at one of them.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
        ArchitectureError: A block does not exist.
    """
    started = time.perf_counter()
    check_case(case)
    chosen = sorted({model.architecture.check_block(b) for b in settings.blocks or range(model.blocks)})
    own = yield from harmless_answers(
        model, case, settings.harmless_prompts, settings.harmless_tokens, settings.format, cancel
    )
    text = case.adversarial_prompt
    safe, unsafe = (encode(model, text, answer, settings.format) for answer in (case.safe, case.unsafe))
    entries: list[Entry] = []
    left_out: dict[int, str] = {}
    said: dict[str, Verdict] = {}
    before = (float("nan"), float("nan"))

    def so_far() -> Atlas:
        seconds = time.perf_counter() - started
        return Atlas(tuple(entries), *before, dict(said), settings, model.blocks, seconds, dict(left_out))

    if own is None or cancel():
        return so_far()
    yield Preparation("Computing the states that enter every down-projection", 0.5)
    with torch.no_grad():
        tails = AtlasTails(model, safe, unsafe, own, chosen)
    before = tails.before

    def loss(logits: Tensor) -> Tensor:
        return -likelihood(logits, safe.response)

    first = mlp_trace(model, [safe.tokens], [safe.predicting], loss, every_block=False)
    reader = judge or EmbeddedJudge()
    if settings.answers:
        plain = asked_as(settings.format, settings.evaluation)
        answers = yield from case_verdicts(model, case, (VANILLA,), reader, settings, plain, cancel, 0.7)
        if answers is None:
            return so_far()
        said.update(answers[0])
    together = settings.together
    groups, no_memory = _groups(chosen, together), ""

    def descending(gradients: dict[int, Tensor]) -> Generator[AtlasProgress, None, Descended]:
        run = descended(model, tails, first.value, gradients, settings, cancel)
        while True:
            try:
                step = next(run)
            except StopIteration as end:
                return end.value
            if step.step < settings.steps - 1:
                yield AtlasProgress(so_far(), len(chosen), time.perf_counter() - started)

    while groups:
        blocks, left = groups[0], [block for group in groups for block in group]
        gradients = {block: first.weight_gradient(block) for block in blocks}
        finite = read([gradient.isfinite().all() for gradient in gradients.values()])
        broken = [block for block, is_finite in zip(gradients, finite, strict=True) if not is_finite]
        if broken:
            left_out |= {block: _not_finite(block) for block in broken}
            groups = _groups([block for block in left if block not in broken], together)
            continue
        try:
            with memory_told(model, settings):
                made = yield from descending(gradients)
        except OutOfMemory as error:
            gradients.clear()
            if len(blocks) > 1:
                together = (len(blocks) + 1) // 2
                groups = _groups(left, together)
            else:
                groups.pop(0)
                no_memory = left_out[blocks[0]] = error.user_message()
            continue
        groups.pop(0)
        if made.cancelled:
            return so_far()
        if made.refused is not None:
            if len(blocks) > 1:  # one of them spoils what they share: each by itself
                groups[:0] = [(block,) for block in blocks]
            else:
                left_out[blocks[0]] = made.refused or _not_finite(blocks[0])
            continue
        kept = [entry for entry in made.entries if entry.finite]
        left_out |= {entry.block: _not_finite(entry.block) for entry in made.entries if not entry.finite}
        if settings.answers and kept:
            rows = [Row(_patch(model, entry.block, made.weights[entry.block], settings)) for entry in kept]
            share = (len(entries) + len(left_out) + len(kept)) / len(chosen)
            answers = yield from case_verdicts(model, case, rows, reader, settings, settings.format, cancel, share)
            if answers is None:
                return so_far()
            kept = [replace(entry, verdicts=said) for entry, said in zip(kept, answers, strict=True)]
        entries += sorted(kept, key=lambda entry: entry.block)
        yield AtlasProgress(so_far(), len(chosen), time.perf_counter() - started)
        if cancel():
            return so_far()
    if not entries and no_memory:
        raise OutOfMemory(f"No layer has an edit. {no_memory}")
    if not entries:
        raise RefusedEdit(f"No layer has an edit. {next(iter(left_out.values()))}")
    return so_far()


def _groups(blocks: Sequence[int], together: int) -> list[tuple[int, ...]]:
    return [tuple(blocks[start : start + together]) for start in range(0, len(blocks), together)]


def _not_finite(block: int) -> str:
    return (
        f"The edit of layer {block} is not finite. Lower the atlas's step_kl or learning_rate, or load the model in "
        "float32."
    )


def _patch(model: InspectedModel, block: int, weight: Tensor, settings: AtlasSettings) -> Patch:
    delta = (weight.detach() - master_weight(model, block)).contiguous()
    name = model.architecture.down_projection_names[block]
    return Patch((Delta(name, block, delta),), model.fingerprint, "DINM", asdict(settings), settings.format)
