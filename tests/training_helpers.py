"""What the tests of the trained methods share: quick settings, and plain ways to compute what they compute."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import by_hand
import tiny_models
import torch
from torch import Tensor

from editing import EditResult, Step, run
from editing.measured import measured_step
from editing.optimising.training import encode_pair
from editing.texts.harmless import harmless_answers, harmless_texts
from inspector.model import Decoding, InspectedModel, Patch, Row, answer
from inspector.safeedit import Case

IDS = (1, 40, 80, 120, 160, 200, 240, 30, 77, 5)
SMALL = {"harmless_prompts": 2, "harmless_tokens": 4}
FEW: dict[str, Any] = {"harmless_prompts": 1, "harmless_tokens": 3}
BRIEF: dict[str, dict[str, Any]] = {
    "dinm": {**FEW, "steps": 2},
    "ft-l": {**FEW, "steps": 2},
    "gated": {**FEW, "steps": 2, "texts": 30, "longest_text": 400, "false_alarms": 0.5, "further_prompts": 2},
    "delman": {**FEW, "steps": 2, "contexts": 1},
    "sft": {**FEW, "steps": 2},
    "dpo": {**FEW, "steps": 1, "warm_up": 1},
    "mend": dict(FEW),
    "ext-sub": {**FEW, "steps": 2, "anti_steps": 1},
}
"""Settings of every method that changes weights, by its key: the shortest edit that has all of its parts."""
# Logits of order 1 to 5 from float32 sums over 3 or 4 blocks; two correct ways differ by a few 1e-6.
ATOL = 2e-5

PARTS = {
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "gpt_neox": ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "opt": ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"),
    "phi3": ("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj"),
}
GATED = (*(f"self_attn.{part}_proj" for part in "qkvo"), *(f"mlp.{part}_proj" for part in ("gate", "up", "down")))
"""The matrices of a block of all other families."""

Settings = TypeVar("Settings")


class Broken(Exception):
    """What a test throws."""


def small(kind: Callable[..., Settings], **changes: Any) -> Settings:
    """Return settings that are quick on a tiny model and never end before their step limit unless told so."""
    return kind(**{**SMALL, "target_probability": None, "learning_rate": 1e-2, "steps": 3, **changes})


def matrices(network: Any) -> dict[str, int]:
    """Return the block of every matrix of every block by its full name."""
    kind = network.config.model_type
    start = by_hand.BLOCKS.get(kind, "model.layers")
    parts = PARTS.get(kind, GATED)
    return {f"{start}.{n}.{part}": n for n in range(len(by_hand.blocks(network))) for part in parts}


def weight(network: Any, name: str) -> Tensor:
    """Return a matrix as ``[out, in]``, a view of the parameter."""
    module = network.get_submodule(name)
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


def written(network: Any, patch: Patch, strength: float = 1.0) -> Any:
    """Return a copy of the network with all deltas of a patch added to its matrices."""
    edited = copy.deepcopy(network)
    with torch.no_grad():
        for delta in patch.deltas:
            weight(edited, delta.module).add_((strength * delta.dense()).to(edited.dtype))
    return edited


def encoded(model: InspectedModel, text: str, response: str, end: bool = True) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt with suffix and template, and of a response with its end."""
    return by_hand.prompt(model, text), [*by_hand.response(model, response), *([tiny_models.END] if end else [])]


def token_log_probabilities(network: Any, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """Return log P of every response token, ``[tokens]``, from one plain forward pass; it has a gradient."""
    ids = torch.tensor([[*prompt, *response]])
    scored = network(input_ids=ids, use_cache=False).logits[0].log_softmax(dim=-1)
    return scored[len(prompt) - 1 : -1].gather(-1, torch.tensor(response).unsqueeze(-1)).squeeze(-1)


def of_answer(model: InspectedModel, network: Any, case: Case, response: str) -> Tensor:
    """Return log P of every token of a response to a case, ``[tokens]``, with any network of the model's kind."""
    return token_log_probabilities(network, *encoded(model, case.adversarial_prompt, response))


def nll(model: InspectedModel, network: Any, cases: Sequence[Case]) -> Tensor:
    """Return the mean negative log-likelihood over all tokens of the cases' safe answers."""
    return -torch.cat([of_answer(model, network, case, case.safe) for case in cases]).mean()


@torch.no_grad()
def harmless_kl(
    model: InspectedModel, edited: Any, case: Case, wrap: Callable[[str], str] = lambda text: text
) -> float:
    """Return KL(vanilla to edited) on the vanilla model's own answers to :data:`SMALL` harmless prompts, per token.

    Args:
        wrap: What is put around the prompts that the edited network gets.
    """
    first, second = [], []
    for text in harmless_texts(case, 2):
        prompt = by_hand.prompt(model, text)
        own = answer(model, prompt, decoding=Decoding(SMALL["harmless_tokens"]))
        response = [*own.token_ids[0], *([tiny_models.END] if own.finished[0] else [])]
        for network, start, found in (
            (model.network, prompt, first),
            (edited, by_hand.prompt(model, wrap(text)), second),
        ):
            found.append(by_hand.logits(network, [*start, *response])[len(start) - 1 : -1].log_softmax(dim=-1))
    vanilla, other = torch.cat(first), torch.cat(second)
    return float((vanilla.exp() * (vanilla - other)).sum(dim=-1).mean())


def all_deltas(network: Any, trained: Any) -> dict[str, Tensor]:
    """Return the change of every matrix of the blocks between two networks."""
    return {name: (weight(trained, name) - weight(network, name)).detach() for name in matrices(network)}


def relative_difference(patch: Patch, expected: dict[str, Tensor]) -> float:
    """Return the largest norm of (patch - expected) over the norm of expected, over all matrices; all must be there."""
    own = {delta.module: delta.dense() for delta in patch.deltas}
    assert set(own) == {name for name, change in expected.items() if bool((change != 0).any())}
    return max(float((own[name] - expected[name]).norm() / expected[name].norm()) for name in own)


def measured(model: InspectedModel, case: Case, result: EditResult) -> Step:
    """Return the vital signs of a result's patch as measured through hooks."""
    own = run(harmless_answers(model, case, *SMALL.values(), result.settings.format))
    return measured_step(model, encode_pair(model, case, result.settings.format), own, Row(result.patch), 1, 1)
