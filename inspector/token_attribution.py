"""Which tokens of the prompt push the model to the unsafe answer.

Three ways to attribute log P(unsafe) - log P(safe), each a mean over the answer's tokens, to the prompt's tokens:

- ``gradient x input``: one pass; exact for a linear model only.
- ``integrated gradients`` (Sundararajan et al. 2017), Captum's, along the straight line of embeddings from a baseline
  in which the user's text is replaced by one neutral token; template and suffix stay. One pass a step scores all
  answer tokens at once. The values should sum to the difference between prompt and baseline; the gap is always
  reported.
- ``ablation``: Captum's, each token of the user's text replaced by the neutral token in turn. It needs no gradient and
  is the check on the other two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from inspector.errors import PromptError
from inspector.gradients import backed_off
from inspector.margin import AnswerPair, answer_pair
from inspector.model.counted import Counted, only_counted
from inspector.model.encoding import encode, tokenise
from inspector.model.inspected import InspectedModel
from inspector.model.patches.patch import VANILLA, Row
from inspector.model.prompt_format import PromptFormat
from inspector.safeedit.cases import Case

Way = Literal["gradient x input", "integrated gradients", "ablation"]
ATTRIBUTION_WAYS: tuple[Way, ...] = get_args(Way)


class Cancelled(Exception):
    """Raised inside a measurement to end it; callers of :func:`token_attribution` get ``None``."""


@dataclass(frozen=True, eq=False)
class TokenAttribution:
    """Attribution of the unsafe answer to the prompt's tokens.

    Attributes:
        way: How it was computed.
        tokens: Text of each prompt token.
        values: ``[tokens]`` in nats; positive pushes to the unsafe answer.
        user: The range of tokens that are the user's text; only those are replaced in a baseline.
        difference: What the values should sum to: the explained quantity at the prompt minus at the baseline;
            ``None`` for ``gradient x input``.
        evaluations: How often the model was evaluated.
    """

    way: Way
    tokens: tuple[str, ...]
    values: np.ndarray
    user: range
    difference: float | None
    evaluations: int

    @property
    def gap(self) -> float | None:
        """Sum of the values minus the difference they should explain (for ``ablation`` no error: tokens interact)."""
        return None if self.difference is None else float(self.values.sum()) - self.difference


def user_tokens(model: InspectedModel, text: str, *, format: PromptFormat = PromptFormat()) -> range:
    """Return which tokens of the encoded prompt are the user's text: neither the template's nor the suffix'."""
    ids = encode(model, text, format=format).prompt
    start = back = len(ids)
    for other_text in ("~", "^"):  # two texts that share no end with each other: one of them differs from any text
        other = encode(model, other_text, format=format).prompt
        limit = min(len(ids), len(other))
        start = min(start, next((n for n in range(limit) if ids[n] != other[n]), limit))
        back = min(back, next((n for n in range(limit) if ids[-1 - n] != other[-1 - n]), limit))
    return range(start, max(start + 1, len(ids) - back))


def neutral_token(model: InspectedModel) -> int:
    """Return the id of the token that stands for nothing said: a space, or the padding token."""
    found = tokenise(model, " ", special=False)
    return found[0] if found else model.pad


def token_attribution(
    model: InspectedModel,
    case: Case,
    way: Way = "integrated gradients",
    row: Row = VANILLA,
    *,
    steps: int = 32,
    format: PromptFormat = PromptFormat(),
    progress: Callable[[float], None] = lambda share: None,
    cancel: Callable[[], bool] = lambda: False,
) -> TokenAttribution | None:
    """Attribute the unsafe answer, against the safe one, to the tokens of a case's adversarial prompt.

    The model's lock is held for one evaluation at a time.

    Args:
        row: The weights.
        steps: Steps of ``integrated gradients``.
        progress: Told the share that is done after every evaluation.
        cancel: Asked before every evaluation.

    Returns:
        The attribution; ``None`` when cancelled.

    Raises:
        CaseError: An answer is empty, or both are the same.
        PromptError: A text is empty or too long, or the way is unknown.
        NotFinite: A value is not a finite number, in float16 whatever scale its gradient is given.
    """
    if way not in ATTRIBUTION_WAYS:
        raise PromptError(f"Unknown way '{way}'. Choose one of: {', '.join(ATTRIBUTION_WAYS)}.")
    texts = answer_pair(model, case, format=format.open())
    user = user_tokens(model, case.adversarial_prompt, format=format)
    planned = {"gradient x input": 1, "integrated gradients": steps + 2, "ablation": len(user) + 4}[way]
    run = _Run(model, texts, row, planned, progress, cancel)
    from captum.attr import InputXGradient, IntegratedGradients  # they take a second to import, and only this asks

    baseline = list(texts.prompt)
    for place in user:
        baseline[place] = neutral_token(model)
    prompt, empty = (torch.tensor([ids], device=model.device) for ids in (list(texts.prompt), baseline))
    embed = model.network.get_input_embeddings()
    with torch.no_grad():
        embedded, embedded_empty = embed(prompt).detach(), embed(empty).detach()
    embedded.requires_grad_(True)
    difference: float | None = None
    try:
        if way == "ablation":
            values = _ablation(run, prompt, empty, user)
            with torch.no_grad():
                difference = (float(run.of_ids(prompt)) - float(run.of_ids(empty))) / run.scale
            model.require_finite("attribution", [values, difference])
        elif way == "gradient x input":
            values = _by_gradient(run, lambda: InputXGradient(run.of_embeddings).attribute(embedded))
        else:
            method = IntegratedGradients(run.of_embeddings)
            values = _by_gradient(
                run,
                lambda: method.attribute(
                    embedded, baselines=embedded_empty, n_steps=steps, method="gausslegendre", internal_batch_size=1
                ),
            )
            with torch.no_grad():
                whole = float(run.of_embeddings(embedded)) - float(run.of_embeddings(embedded_empty))
                difference = whole / run.scale
    except Cancelled:
        return None
    return TokenAttribution(way, model.token_texts(texts.prompt), values / run.scale, user, difference, run.done)


def _by_gradient(run: _Run, attribute: Callable[[], Tensor]) -> np.ndarray:
    """Return ``[tokens]`` what a way that needs a gradient attributes, times the run's scale."""

    def attributed(scale: float) -> tuple[Tensor, ...]:
        run.begin(scale)
        return (attribute().detach(),)

    _, found = backed_off(attributed, run.scale)
    run.model.require_finite("attribution", found)
    return found[0].float().sum(dim=-1)[0].cpu().numpy()


def _ablation(run: _Run, prompt: Tensor, empty: Tensor, user: range) -> np.ndarray:
    from captum.attr import FeatureAblation

    mask = torch.zeros_like(prompt)
    mask[0, user.start : user.stop] = torch.arange(1, len(user) + 1, device=prompt.device)
    # Feature 0 (all that is not the user's text) has its own value as baseline, so replacing it changes nothing.
    found = FeatureAblation(run.of_ids).attribute(prompt, baselines=empty, feature_mask=mask)
    values = found.detach().float()[0].cpu().numpy().copy()
    values[: user.start] = 0.0
    values[user.stop :] = 0.0
    return values


class _Run:
    """The explained quantity, times :attr:`scale`, as a function of the prompt; lock, progress, cancel at each."""

    def __init__(
        self,
        model: InspectedModel,
        texts: AnswerPair,
        row: Row,
        planned: int,
        progress: Callable[[float], None],
        cancel: Callable[[], bool],
    ) -> None:
        self.model, self._texts, self._row = model, texts, row
        self._each, self._progress, self._cancel = planned, progress, cancel
        self._planned = planned
        self.done = 0
        self.scale = model.gradient_scale
        self._counted = Counted(texts.counted)
        embed = model.network.get_input_embeddings()
        longest = max(len(texts.safe), len(texts.unsafe))
        padded = model.batch(texts.safe, texts.unsafe)
        assert padded.shape[1] == longest
        self._answer_ids = padded
        with torch.no_grad():
            self._answers = embed(padded).detach()

    def begin(self, scale: float) -> None:
        """Start to measure at a scale; what an earlier one took stays counted."""
        self.scale, self._planned = scale, self.done + self._each

    def of_embeddings(self, prompts: Tensor) -> Tensor:
        """Return log P(unsafe) - log P(safe) ``[prompts]`` for embedded prompts ``[prompts, tokens, width]``."""
        return torch.stack([self._of(prompt) for prompt in prompts])

    def of_ids(self, prompts: Tensor) -> Tensor:
        """The same for prompts given as token ids ``[prompts, tokens]``."""
        embed = self.model.network.get_input_embeddings()
        return torch.stack([self._of(embed(prompt)) for prompt in prompts])

    def _of(self, prompt: Tensor) -> Tensor:
        if self._cancel():
            raise Cancelled
        both = torch.cat([prompt.unsqueeze(0).expand(2, -1, -1), self._answers.to(prompt.dtype)], dim=1)
        unembedding = self.model.architecture.unembedding
        with self.model.running([self._row, self._row]), only_counted(unembedding, self._counted):
            logits = self.model.network(inputs_embeds=both, use_cache=False).logits
        self.done += 1
        self._progress(min(1.0, self.done / self._planned))
        return -self.scale * self._texts.margin(logits)
