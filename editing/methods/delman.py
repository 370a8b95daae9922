"""DELMAN: harmful questions as keys whose values make the model decline, written in closed form.

Wang et al. 2025, "DELMAN: Dynamic Defense Against Large Language Model Jailbreaking with Model Editing", ACL Findings
2025, arXiv 2502.11647, after MEMIT (Meng et al. 2023, arXiv 2210.07229). A key is the input of the region at the edit
position of a prompt; its value is what the region has to write there for the safe answer, found by some Adam steps. The
change is the least-squares one that writes the missing R for the keys K and little elsewhere,
R K^T (lambda C + K K^T)^-1, with C the uncentred second moment of the region's inputs over harmless texts.

Where the paper marks harmful words with a language model, the edit position here is the end of the question wherever it
stands in the prompt, and the prompt's end where it does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from editing.guard import refuse_harm
from editing.measured import measured_step
from editing.optimising.descent import Descent, Signs, Stops
from editing.optimising.matrix import Matrix
from editing.optimising.null_space import harmless_moment
from editing.optimising.replay import master_weight
from editing.optimising.smaller import once_smaller, parts_of, together
from editing.optimising.training import encode_pair
from editing.progress import EditEvents, EditResult, Preparation, Step, StopReason
from editing.texts.contexts import after_context, random_contexts
from editing.texts.harmless import harmless_answers
from editing.texts.taught import taught_answers
from editing.values import HarmlessCount, HarmlessTokens, NotNegative, Positive, Probability, Steps, StepShare
from inspector.errors import EditError, RefusedEdit
from inspector.model import VANILLA, Delta, InspectedModel, Patch, PromptFormat, Row, encode
from inspector.model.counted import token_log_probabilities
from inspector.model.encoding import Encoded, clean
from inspector.model.passes.tails import Tails, with_weight
from inspector.safeedit import Case
from inspector.validated import settings as checked

Position = Literal["question", "prompt"]
Contexts = Annotated[int, Field(ge=0, le=32)]


@checked(EditError)
class DelmanSettings:
    """Settings of DELMAN.

    Attributes:
        context_weight: Lambda, the weight of the harmless texts' moment; MEMIT's and DELMAN's 15,000. The larger, the
            less of what is wanted is written.
        steps: Adam steps in which a value is found; 25 in the paper.
        step_share: Size of such a step as a share of the root mean square of what the region writes there, so that it
            means the same in any model.
        weight_decay: Penalty on a value's squared size, as a share of the region's own there; 0.5 in MEMIT.
        largest: Largest norm of a value's change, as a share of the norm of what the region writes there; MEMIT's
            clamp. ``None`` for no limit.
        contexts: Random contexts, texts sampled from the model, after which the prompt is asked as well; the value is
            the same after all of them, each gives a key of its own.
        position: Where the key is read: at the end of the ``question``, wherever it stands, or at that of the
            ``prompt``, from where the answer begins.
        target_probability: A value is good enough when the safe answer's mean token probability reaches this; ``None``
            to take all steps.
        damage_budget: Largest KL on harmless prompts, nats a token, that the closed form may cost; ``None`` for none.
        format: Suffix prompt S, chat template, and whether the end of the turn counts.
        harmless_prompts: Harmless prompts on which the KL is measured.
        harmless_tokens: Most tokens of the model's own answer to each.
    """

    context_weight: Positive = 15_000.0
    steps: Steps = 25
    step_share: StepShare = 0.2
    weight_decay: NotNegative = 0.5
    largest: Positive | None = 4.0
    contexts: Contexts = 4
    position: Position = "question"
    target_probability: Probability | None = None
    damage_budget: Positive | None = None
    format: PromptFormat = PromptFormat()
    harmless_prompts: HarmlessCount = 4
    harmless_tokens: HarmlessTokens = 12


@dataclass(frozen=True)
class Keyed:
    """A prompt with the safe answer, and the position whose key is edited."""

    encoded: Encoded
    place: int


def closed_form(keys: Tensor, wanted: Tensor, moment: Tensor, context_weight: float) -> Tensor:
    """Return ``R K^T (lambda C + K K^T)^-1``, the change that writes R for K and little for what C is made of.

    Args:
        keys: K ``[d_ff, keys]``.
        wanted: R ``[d_model, keys]``.
        moment: C ``[d_ff, d_ff]``, mean of k k^T over harmless texts.
        context_weight: Lambda.

    Returns:
        ``[d_model, d_ff]`` float32.
    """
    keys64, whole = keys.double(), context_weight * moment.double() + keys.double() @ keys.double().T
    # Harmless texts need not reach every direction: a share of a millionth makes the sum invertible.
    whole += 1e-6 * whole.diagonal().mean() * torch.eye(len(whole), dtype=whole.dtype, device=whole.device)
    solved = torch.cholesky_solve(keys64, torch.linalg.cholesky(whole))
    return (wanted.double() @ solved.T).float()


@once_smaller
def delman(
    model: InspectedModel,
    case: Case,
    block: int,
    settings: DelmanSettings = DelmanSettings(),
    *,
    companions: Sequence[Case] = (),
    cancel: Callable[[], bool] = lambda: False,
    smaller: bool = False,
) -> EditEvents:
    """Edit one block's down-projection in closed form; a generator like :func:`editing.dinm`.

    The steps are those in which the value is found, written where it is wanted; the last one is the closed form, which
    is no update. Updates and why they ended are those of this case's own value, whatever its companions needed.

    Args:
        companions: Further cases, whose keys and values are written together with this one's.
        smaller: See :func:`editing.optimising.smaller.once_smaller`, which asks for it where memory runs out.

    Raises:
        EditError: The settings or the case do not allow it.
        RefusedEdit: A loss is not finite, or the change would let the unsafe answer gain on the safe one or damage
            harmless answers beyond the budget.
        CaseError: See :func:`editing.guard.check_case`.
        PromptError: A text is empty or too long.
    """
    started = time.perf_counter()
    model.architecture.check_block(block)
    cases = (case, *companions)
    pairs = [encode_pair(model, each, settings.format) for each in cases]
    base = master_weight(model, block)
    own = yield from harmless_answers(
        model, case, settings.harmless_prompts, settings.harmless_tokens, settings.format, cancel
    )
    moment = None
    if own is not None:
        moment = yield from harmless_moment(model, block, settings.format, cancel)
    trace: list[Step] = []
    patch, cancelled = None, moment is None
    updates, reason = 0, cast(StopReason, "cancelled")
    if own is not None and moment is not None:
        yield Preparation("Sampling contexts", 0.96)
        contexts = ["", *random_contexts(model, settings.contexts)]
        found: list[tuple[Tensor, Tensor]] = []
        for number, each in enumerate(cases):
            keyed = keyed_prompts(model, each, contexts, settings)
            search = _Search(model, block, keyed, base, settings, smaller)
            unsafe = pairs[0].other if number == 0 else None
            for step in search.run(unsafe, cancel):
                if number == 0:
                    trace.append(step)
                    yield step
                else:
                    yield Preparation(f"Finding the value of companion {number} of {len(companions)}", 0.97)
            cancelled = search.descent.reason == "cancelled"
            if cancelled:
                break
            search.descent.require_update("DELMAN", "step_share")
            if number == 0:
                updates, reason = search.descent.updates, search.descent.reason
            found.append((search.keys, search.value))
        if not cancelled:
            keys = torch.cat([k for k, _ in found], dim=1)
            wanted = torch.cat([value.expand(-1, k.shape[1]) for k, value in found], dim=1)
            change = closed_form(keys, wanted, moment.to(keys.device), settings.context_weight)
            delta = Delta(model.architecture.down_projection_names[block], block, change.cpu())
            about = {**asdict(settings), "block": block, "keys": keys.shape[1], "companions": len(companions)}
            patch = Patch((delta,), model.fingerprint, "DELMAN", about, settings.format, taught_answers(cases))
            number, of = trace[-1].step + 1, settings.steps + 1
            trace.append(measured_step(model, pairs[0], own, Row(patch), number, of))
            yield trace[-1]
            cancelled = cancel()
            if not cancelled:
                vanilla = measured_step(model, pairs[0], (), VANILLA, 0, of)
                _check(vanilla, trace[-1], settings)
    return EditResult(
        patch=None if cancelled else patch,
        trace=tuple(trace),
        kept=0 if cancelled else updates,
        stop_reason="cancelled" if cancelled else reason,
        block=block,
        settings=settings,
        seconds=time.perf_counter() - started,
        learnt_from=tuple(companions),
        closing=not cancelled,
    )


def _check(before: Step, after: Step, settings: DelmanSettings) -> None:
    """Refuse a change that does harm: to safety, or beyond the damage budget."""
    refuse_harm("This closed form", before, after, "Raise its context_weight, or choose another layer.")
    if settings.damage_budget is not None and after.constraint_kl > settings.damage_budget:
        raise RefusedEdit(
            f"The closed form moves harmless answers by {after.constraint_kl:.3f} nats a token, beyond the damage "
            f"budget of {settings.damage_budget:g}. Raise its context_weight."
        )


def keyed_prompts(model: InspectedModel, case: Case, contexts: Sequence[str], settings: DelmanSettings) -> list[Keyed]:
    """Return the prompt after each context, with the safe answer and the position of its key."""
    found = []
    for context in contexts:
        text = after_context(context, case.adversarial_prompt) if context else case.adversarial_prompt
        encoded = encode(model, text, case.safe, settings.format)
        place = len(encoded.prompt) - 1
        if settings.position == "question":
            place = end_of(model, text, case.question, encoded.prompt, settings.format) or place
        found.append(Keyed(encoded, place))
    return found


def end_of(model: InspectedModel, text: str, question: str, prompt: Sequence[int], format: PromptFormat) -> int | None:
    """Return the position of a question's last token in a prompt; ``None`` where it does not stand in the text.

    It is the last one at which the prompt differs from the same one with a sign after the question.
    """
    text, question = clean(text)[0], clean(question)[0].strip()
    if not question or question not in text:
        return None
    start = text.rfind(question)
    other = text[:start] + question + " #" + text[start + len(question) :]
    changed = encode(model, other, None, format).prompt
    after = next((n for n in range(min(len(prompt), len(changed))) if prompt[-1 - n] != changed[-1 - n]), 0)
    return len(prompt) - 1 - after


class _Search:
    """The value of one case: what added to the region's output at the edit positions makes the safe answer likely.

    Attributes:
        keys: ``[d_ff, prompts]`` float32, the region's inputs at the edit positions.
        descent: The way down.
    """

    def __init__(
        self,
        model: InspectedModel,
        block: int,
        keyed: Sequence[Keyed],
        base: Tensor,
        settings: DelmanSettings,
        smaller: bool,
    ) -> None:
        self._model, self._block, self._base, self._settings = model, block, base, settings
        encoded = [each.encoded for each in keyed]
        self._places = [each.place for each in keyed]
        self._first = len(encoded[0].response)
        self._head = model.architecture.head_device  # where the logits are: no copy a step
        self._labels = torch.tensor([token for each in encoded for token in each.response], device=self._head)
        split = parts_of(encoded, self._places) if smaller else [(encoded, self._places)]
        parts = [(self._tails_of(texts), places) for texts, places in split]
        self._parts, self._smaller = [partial(self._logits, *part) for part in parts], smaller
        keys = [tails.inner(block)[list(range(len(places))), places] for tails, places in parts]
        self.keys = torch.cat(keys).float().T
        written = base @ self.keys
        self._size = float(written.norm(dim=0).mean()) or 1.0
        self._vector = Matrix(torch.zeros(len(base), 1, device=base.device))
        self.descent = Descent(self._vector, model.lock, model.gradient_scale)
        self._unsafe: tuple[Tails, Tensor] | None = None
        self._marks: dict[Tails, Tensor] = {}

    @property
    def value(self) -> Tensor:
        """``[d_model, 1]``, what is added to the region's output."""
        return self._vector.weight().detach()

    def run(self, unsafe: Encoded | None, cancel: Callable[[], bool]):
        """Descend on the safe answer's mean negative log-likelihood, yielding each step."""
        settings, vector = self._settings, self._vector
        if unsafe is not None:
            self._unsafe = (self._tails_of([unsafe]), torch.tensor(unsafe.response, device=self._head))
        rate = settings.step_share * self._size / math.sqrt(len(self._base))
        optimiser = torch.optim.Adam(vector.parameters, lr=rate)

        def evaluate(_number: int, gradient: bool) -> Signs:
            added = vector.weight()
            scored = token_log_probabilities(self._scores(added), self._labels)
            loss = -scored.mean()
            own = scored[: self._first].detach().mean()
            other = None
            if self._unsafe is not None:
                with torch.no_grad():
                    tails, labels = self._unsafe
                    there = token_log_probabilities(self._logits(tails, self._places[:1], added), labels)
                    other = there.mean().exp()
            decay = settings.weight_decay * added.square().sum() / self._size**2
            total = loss + decay.to(loss.device)
            return Signs(total, loss.detach(), 0.0, -own, own.exp(), other)

        @torch.no_grad()
        def limit() -> None:
            assert settings.largest is not None
            (tensor,) = vector.parameters
            size = tensor.norm().double().clamp(min=1e-30)  # stays on its device, so that no step waits for it
            tensor.mul_((settings.largest * self._size / size).clamp(max=1.0))

        yield from self.descent.run(
            evaluate,
            optimiser,
            settings.steps,
            Stops(target_probability=settings.target_probability),
            cancel,
            of=settings.steps + 1,
            limit=None if settings.largest is None else limit,
        )

    def _tails_of(self, encoded: Sequence[Encoded]) -> Tails:
        return Tails(
            self._model,
            [each.tokens for each in encoded],
            [each.predicting for each in encoded],
            [self._block],
            counted_only=False,
        )

    def _scores(self, added: Tensor) -> Tensor:
        return together(self._parts, added) if self._smaller else self._parts[0](added)

    def _logits(self, tails: Tails, places: Sequence[int], added: Tensor) -> Tensor:
        """Return the logits with a vector added to what the region writes at one position of each sequence."""

        def change(module: nn.Module, inputs: Tensor) -> Tensor:
            output = with_weight(self._base)(module, inputs)
            where = self._marks.get(tails)
            if where is None:
                where = torch.zeros(*output.shape[:2], 1, device=output.device)
                where[list(range(len(places))), list(places)] = 1.0
                self._marks[tails] = where
            return (output.float() + where * added.T).to(output.dtype)

        with self._model.lock:
            return tails.logits({self._block: tails.changed(self._block, change)})[self._block]
