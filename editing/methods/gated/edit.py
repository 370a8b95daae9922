"""A gated edit: a few neurons that harmless prompts hardly use are rewritten so that they fire on harm and decline.

The precedent is Transformer-Patcher (Huang et al., ICLR 2023, arXiv 2301.09785), which adds neurons for mistakes; here
none is added. Two neurons make one gate: their rows hold a detector's direction (:mod:`.reading`) with its threshold
folded in, the second one's a little higher, so that their difference rises from 0 to 1 over a short stretch of the
reading and stays there. Their columns hold one direction, once with either sign, that makes the model decline. It goes
down by the same loop as every other edit. It is plain weights: changes of two or three matrices of one block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from editing.guard import check_case
from editing.measured import measured_step
from editing.methods.dinm import FURTHER_ANSWERS, SafeAnswers
from editing.methods.gated.neurons import (
    Wiring,
    bias_of,
    merged,
    rows_replaced,
    spare_neurons,
    wiring,
)
from editing.methods.gated.reading import TokenReading, token_reading
from editing.optimising.descent import Descent, Signs
from editing.optimising.matrix import Matrix
from editing.optimising.null_space import harmless_moment
from editing.optimising.objectives import AnswerTerm, KlTerm, aligned_answer
from editing.optimising.replay import ReplayFactory, TailReplay, master_weight
from editing.optimising.smaller import HalvedReplay, once_smaller
from editing.optimising.training import encode_pair
from editing.progress import EditEvents, EditResult, Preparation
from editing.stacking import carrying
from editing.texts.harmless import harmless_answers
from editing.texts.taught import taught_answers
from editing.values import (
    Count,
    HarmlessCount,
    HarmlessTokens,
    NotNegative,
    Positive,
    Probability,
    Steps,
    StepShare,
)
from inspector.detection import samples
from inspector.errors import EditError, PromptError, RefusedEdit
from inspector.kl import not_negative, told
from inspector.model import VANILLA, Delta, InspectedModel, Patch, PromptFormat, Taught, encode
from inspector.model.counted import counted_logits
from inspector.model.encoding import Encoded
from inspector.model.hooks import observe_outputs, stopping_before
from inspector.safeedit import Case
from inspector.safeedit.sets import spread
from inspector.validated import settings as checked

HEIGHT = 8.0
"""How far the activation's argument rises over a gate's ramp: at its ends the bend of SiLU is a hundredth of it."""
FalseAlarms = Annotated[float, Field(gt=0, lt=1)]
Gates = Annotated[int, Field(ge=1, le=64)]


@checked(EditError)
class GatedSettings:
    """Settings of a gated edit.

    Attributes:
        gates: Number of gates, two neurons each, at evenly spaced thresholds: with several the write grows in steps.
        false_alarms: Share of the bundled harmless texts, held out of the fit, that may reach the first threshold.
        ramp: Length of a gate's rise as a share of the spread of harmless texts' readings.
        positions: Tokens at the end of a prompt at which gates may open; 1 for where the answer begins.
        answer_tokens: Tokens of an answer that declines at which gates may stay open, so that what they write does not
            end with its first word.
        own_answers: Harmless prompts in whose answers by the model itself gates are shut, at every token.
        texts: Bundled texts that the reading is fitted on, harmful and harmless ones together.
        longest_text: Tokens of the longest of them.
        steps: Most updates of the direction that declines.
        step_share: Size of an update as a share of the size of what the block's MLP writes, so that it means the same
            in any model.
        edit_weight: Weight of the safe answers' loss.
        constraint_weight: Weight of the KL on harmless prompts.
        safe_answers: The case's own safe answer and, beyond it, short ones that fit any question.
        first_token_weight: What the first token of a safe answer counts in the loss beside 1 for one of its tail: gates
            open where the answer begins.
        further_prompts: Bundled harmful prompts, of other questions and in other attacks, on which the short ones are
            made likely as well.
        further_at_once: How many of them share an update with the case; they take turns.
        target_probability: Stop when the case's own safe answer's mean token probability reaches this; ``None`` for
            never.
        damage_budget: Largest KL on harmless prompts, nats a token; ``None`` for none.
        stop_below: Stop when the total loss is below this.
        format: Suffix prompt S, chat template, and whether the edit also learns to end the turn.
        harmless_prompts: Harmless prompts on which the KL is measured.
        harmless_at_once: How many of them a step measures, in turn.
        harmless_tokens: Most tokens of the model's own answer to each.
    """

    gates: Gates = 1
    false_alarms: FalseAlarms = 0.05
    ramp: Positive = 0.5
    positions: Annotated[int, Field(ge=1, le=32)] = 1
    answer_tokens: Annotated[int, Field(ge=0, le=16)] = 0
    own_answers: Annotated[int, Field(ge=0, le=256)] = 96
    texts: Annotated[int, Field(ge=20, le=4096)] = 1500
    longest_text: Annotated[int, Field(ge=16, le=4096)] = 110
    steps: Steps = 16
    step_share: StepShare = 0.5
    edit_weight: NotNegative = 1.0
    constraint_weight: NotNegative = 1.0
    safe_answers: SafeAnswers = 2
    first_token_weight: Annotated[float, Field(ge=1, le=100)] = 10.0
    further_prompts: Annotated[int, Field(ge=0, le=128)] = 12
    further_at_once: Count = 3
    target_probability: Probability | None = 0.6
    damage_budget: Positive | None = 0.2
    stop_below: NotNegative = 1e-4
    format: PromptFormat = PromptFormat()
    harmless_prompts: HarmlessCount = 24
    harmless_at_once: Count = 6
    harmless_tokens: HarmlessTokens = 12


@once_smaller
def gated(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: GatedSettings = GatedSettings(),
    *,
    companions: Sequence[Case] = (),
    cancel: Callable[[], bool] = lambda: False,
    smaller: bool = False,
) -> EditEvents:
    """Rewrite neurons of one block as gates; a generator like :func:`editing.dinm`.

    Step 0 is vanilla, step 1 the gates before they write anything, the others are updates of what they write.

    Args:
        companions: Further cases whose safe answers are made likely, in turn.
        smaller: See :func:`editing.optimising.smaller.once_smaller`, which asks for it where memory runs out.

    Raises:
        EditError: The settings do not allow it, the MLP cannot hold a gate, or too few texts fit the model.
        RefusedEdit: A loss is not finite, taking the neurons away costs more than the damage budget, or no update was
            kept.
        NotFinite: The states that the gates read are not finite numbers.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
    """
    replay = HalvedReplay if smaller else TailReplay
    started = time.perf_counter()
    model.architecture.check_block(block)
    check_case(case)
    pair, *_others = [encode_pair(model, each, settings.format) for each in (case, *companions)]
    wired = wiring(model, block)
    own = yield from harmless_answers(
        model, case, settings.harmless_prompts, settings.harmless_tokens, settings.format, cancel
    )
    built = None
    if own is not None:
        built = yield from _build(model, case, block, wired, settings, cancel)
    if own is None or built is None:
        return EditResult(None, (), 0, "cancelled", block, settings, time.perf_counter() - started)
    trace = [measured_step(model, pair, (), VANILLA, 0, settings.steps + 1)]
    yield trace[0]
    yield Preparation("Computing the states that enter the gates", 0.9)
    if cancel():
        return EditResult(None, tuple(trace), 0, "cancelled", block, settings, time.perf_counter() - started)
    terms = _terms(model, case, companions, block, built, settings, own, replay)
    base = master_weight(built.carrying, block)
    size = len(built.neurons)
    # Both neurons of a gate write the same direction, one with the other sign.
    tie = torch.block_diag(*[torch.tensor([[0.5, -0.5], [-0.5, 0.5]])] * (size // 2)).to(base.device)
    matrix = Matrix(base, built.neurons, tie)
    descent = Descent(matrix, model.lock, model.gradient_scale, trace, updates=1)

    def evaluate(number: int, gradient: bool) -> Signs:
        weight = matrix.weight()
        with torch.set_grad_enabled(gradient):
            loss, own = terms.answers[number % len(terms.answers)](weight)
            kl = terms.harmless[number % len(terms.harmless)](weight)
        with torch.no_grad():
            unsafe = terms.unsafe(weight)[1]
        total = settings.edit_weight * loss + settings.constraint_weight * kl
        return Signs(total, loss.detach(), not_negative(kl), None, own, unsafe)

    with model.lock, torch.no_grad():
        costs = [told(term(base)) for term in terms.harmless]
    if settings.damage_budget is not None and max(costs) > settings.damage_budget:
        raise RefusedEdit(
            f"Taking {size} neurons of layer {block} for gates costs {max(costs):.3f} nats a token on harmless "
            f"prompts, beyond the damage budget of {settings.damage_budget:g}. Choose a middle layer, or fewer gates."
        )
    rate = settings.step_share * built.written * built.unit
    optimiser = torch.optim.Adam(matrix.parameters, lr=rate, eps=1e-30)
    yield from descent.run(evaluate, optimiser, settings.steps, settings, cancel, of=settings.steps + 1)
    cancelled, patch = descent.reason == "cancelled", None
    if not cancelled:
        descent.require_update("The gated edit", "step_share")
        down = _columns(model, block, built.neurons, matrix.change().cpu())
        about = {**asdict(settings), "block": block, "updates": descent.updates, "companions": len(companions)}
        about |= built.about
        patch = Patch(merged((*built.rows, down)), model.fingerprint, "Gated", about, settings.format, terms.taught)
    return EditResult(
        patch=patch,
        trace=tuple(trace),
        kept=0 if patch is None else descent.updates,
        stop_reason=descent.reason,
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
        learnt_from=tuple(companions),
    )


@dataclass(frozen=True, eq=False)
class _Built:
    """Gates that write nothing yet.

    Attributes:
        neurons: Their numbers, two a gate.
        rows: The changes of their rows.
        carrying: A model with these changes and without the neurons' old columns.
        unit: Size of a column that writes as much as its gate's full height of 1.
        written: Root mean square of what the MLP writes for a token of the case's prompt.
        about: For the patch's record.
    """

    neurons: Tensor
    rows: tuple[Delta, ...]
    carrying: InspectedModel
    unit: float
    written: float
    about: dict[str, object]


def _build(
    model: InspectedModel,
    case: Case,
    block: int,
    wired: Wiring,
    settings: GatedSettings,
    cancel: Callable[[], bool],
) -> Generator[Preparation, None, _Built | None]:
    reading = yield from token_reading(
        model,
        block,
        settings.format,
        settings.texts,
        settings.longest_text,
        settings.positions,
        settings.answer_tokens,
        settings.own_answers,
        cancel,
    )
    moment = None
    if reading is not None:
        moment = yield from harmless_moment(model, block, settings.format, cancel)
    if reading is None or moment is None:
        return None
    neurons = spare_neurons(model, block, moment, 2 * settings.gates)
    first = reading.threshold(settings.false_alarms)
    rows = gate_rows(reading, first, settings.ramp * reading.spread, settings.gates)
    rows -= bias_of(model, wired.gate, neurons)[:, None] * reading.constant
    deltas = [rows_replaced(model, block, wired.gate, neurons, rows)]
    unit = 1 / HEIGHT
    if wired.up is not None:
        ups = (1 - bias_of(model, wired.up, neurons))[:, None] * reading.constant
        deltas.append(rows_replaced(model, block, wired.up, neurons, ups))
    weight = model.architecture.down_weight(block).detach().float()
    empty = _columns(model, block, neurons, torch.zeros(len(weight), len(neurons)))
    taken = Patch(merged((*deltas, empty)), model.fingerprint, "Gated", {}, settings.format)
    seen: dict[int, Tensor] = {}
    prompt = encode(model, case.adversarial_prompt, None, settings.format).prompt
    architecture = model.architecture
    with (
        model.running(),
        torch.no_grad(),
        stopping_before(architecture.final_norm or architecture.unembedding),
        observe_outputs([architecture.down_projections[block]], seen.__setitem__),
    ):
        model.network(input_ids=model.batch(prompt), use_cache=False)
    sizes = seen[0].reshape(-1, seen[0].shape[-1]).float().square().mean(dim=-1).sqrt()
    about = {"neurons": neurons.tolist(), **reading.record(first)}
    return _Built(neurons, tuple(deltas), carrying(model, taken), unit, float(sizes.median()), about)


def gate_rows(reading: TokenReading, first: float, ramp: float, gates: int) -> Tensor:
    """Return ``[2 * gates, d_model]``: rows at which pairs of neurons begin to rise and stop rising.

    Args:
        first: Reading at which the first gate begins.
        ramp: Length of a gate's rise; the next one begins where it ends.
    """
    starts = [first + ramp * (gate + end) for gate in range(gates) for end in (0, 1)]
    return torch.stack([HEIGHT / ramp * (reading.direction - start * reading.constant) for start in starts])


def _columns(model: InspectedModel, block: int, neurons: Tensor, columns: Tensor) -> Delta:
    """Return the change that gives neurons other columns ``[d_model, neurons]``."""
    weight = model.architecture.down_weight(block).detach().float().cpu()
    right = torch.zeros(len(neurons), weight.shape[1])
    right[torch.arange(len(neurons)), neurons] = 1.0
    return Delta(model.architecture.down_projection_names[block], block, columns - weight[:, neurons], right)


@dataclass(frozen=True, eq=False)
class _Terms:
    answers: Sequence[AnswerTerm]
    harmless: Sequence[KlTerm]
    unsafe: AnswerTerm
    taught: tuple[Taught, ...]


def _terms(
    model: InspectedModel,
    case: Case,
    companions: Sequence[Case],
    block: int,
    built: _Built,
    settings: GatedSettings,
    own: Sequence[Encoded],
    replay: ReplayFactory,
) -> _Terms:
    """Make what is minimised and watched; vanilla is the model itself, not the one whose neurons are taken."""
    gates, format = built.carrying, settings.format
    answers = [case.safe, *FURTHER_ANSWERS[: settings.safe_answers - 1]]
    first = [encode(model, case.adversarial_prompt, answer, format) for answer in answers]
    further = [encode(model, each.adversarial_prompt, each.safe, format) for each in companions]
    further += further_refusals(model, settings.further_prompts, format)
    turns = max(1, math.ceil(len(further) / settings.further_at_once))
    heavier = settings.first_token_weight
    learnt = [
        aligned_answer(gates, block, first[0], replay, (*first[1:], *further[turn::turns]), heavier)
        for turn in range(turns)
    ]
    parts = math.ceil(len(own) / settings.harmless_at_once)
    harmless = []
    for part in (own[n::parts] for n in range(parts)):
        sequences, places = [one.tokens for one in part], [one.predicting for one in part]
        with model.running(), torch.no_grad():
            vanilla = counted_logits(model, sequences, places).log_softmax(dim=-1)
        vanilla = vanilla.to(model.architecture.head_device)  # where a tail's logits are
        harmless.append(KlTerm(replay(gates, block, sequences, places), vanilla, "vanilla to edited"))
    unsafe = aligned_answer(gates, block, encode(model, case.adversarial_prompt, case.unsafe, format), replay)
    # The further prompts are answered with all of the short answers in turn.
    short = FURTHER_ANSWERS[: max(settings.safe_answers - 1, settings.further_prompts)]
    return _Terms(learnt, harmless, unsafe, taught_answers((case, *companions), short))


def further_refusals(model: InspectedModel, count: int, format: PromptFormat) -> list[Encoded]:
    """Return bundled harmful prompts, each with a short answer that declines; those too long are left out."""
    found = []
    for number, sample in enumerate(spread([each for each in samples("detector") if each.harmful], count)):
        try:
            found.append(encode(model, sample.text, FURTHER_ANSWERS[number % len(FURTHER_ANSWERS)], format))
        except PromptError:
            continue
    return found
