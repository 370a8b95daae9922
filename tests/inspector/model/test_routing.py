"""A routed edit: the score by hand, one decision a prompt, and vanilla bit for bit where the detector does not fire."""

from __future__ import annotations

from collections import deque

import by_hand
import pytest
import torch

from inspector.errors import PatchError
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Decoding, Detector, Row, answer, encode
from inspector.model.batching import generate
from inspector.model.detector import mlp_inputs
from inspector.model.encoding import Encoded
from inspector.model.routing import decided
from inspector.safeedit.marking import harmless_kl

TEXTS = ("How do I be mean?", "Why do leaves fall in the autumn?", "How do I be mean to a pirate?")
MLPS = {"gpt2": "mlp", "gpt_neox": "mlp", "opt": "fc1"}
BLOCKS = (0, 2)


@pytest.fixture
def prompts(model) -> list[tuple[int, ...]]:
    return [encode(model, text).prompt for text in TEXTS]


def detector(model, prompts, fire: tuple[int, ...]) -> Detector:
    """Return one that fires for the prompts of these positions: a direction between their states and the others'."""
    states = mlp_inputs(model, BLOCKS, prompts)
    yes = states[list(fire)].mean(dim=0)
    no = states[[n for n in range(len(prompts)) if n not in fire]].mean(dim=0)
    made = Detector(BLOCKS, yes - no, 0.0, 0.0, model.fingerprint)
    scores = made.scores(model, prompts)
    low, high = (
        max(s for n, s in enumerate(scores) if n not in fire),
        min(s for n, s in enumerate(scores) if n in fire),
    )
    assert low < high
    return Detector(BLOCKS, yes - no, -(low + high) / 2, 0.0, model.fingerprint)


def test_a_score_is_the_product_with_what_enters_the_mlps_at_the_last_token(model, prompts):
    torch.manual_seed(0)
    made = Detector(BLOCKS, torch.randn(2, 32), 0.5, 0.0, model.fingerprint)
    path = by_hand.BLOCKS.get(model.architecture.family, "model.layers")
    blocks = model.network.get_submodule(path)
    entries = [blocks[n].get_submodule(MLPS.get(model.architecture.family, "mlp")) for n in BLOCKS]
    seen: list[torch.Tensor] = []
    handles = [entry.register_forward_pre_hook(lambda _module, args: seen.append(args[0])) for entry in entries]
    with torch.no_grad():
        for prompt in prompts:
            model.network(input_ids=torch.tensor([list(prompt)]))
    for handle in handles:
        handle.remove()
    last = [states.reshape(-1, 32)[-1] for states in seen]
    expected = [float((torch.stack(last[n : n + 2]) * made.weights).sum() + 0.5) for n in range(0, len(last), 2)]
    assert made.scores(model, prompts) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_each_prompt_of_a_batch_gets_its_own_decision(model, prompts):
    patch = by_hand.patch(model, size=0.5)
    routed = Row(patch, detector=detector(model, prompts, (0, 2)))
    assert decided(model, prompts, [routed] * 3) == [Row(patch), VANILLA, Row(patch)]
    decoding = Decoding(10)
    lines = deque(generate(model, prompts, (VANILLA, routed), decoding), maxlen=1)[0]
    for line in lines[3:]:
        alone = answer(model, prompts[line.prompt], (Row(patch) if line.prompt != 1 else VANILLA,), decoding)
        assert tuple(line.tokens) == alone.token_ids[0]
    assert [line.held_back for line in lines] == [False] * 4 + [True, False]
    assert lines[1].tokens == lines[4].tokens and lines[0].tokens != lines[3].tokens
    assert answer(model, prompts[1], (VANILLA, routed), decoding).held_back == (False, True)


def test_an_undetected_prompt_s_numbers_are_vanilla_s_bit_for_bit_and_a_detected_one_s_the_patch_s(model, prompts):
    patch = by_hand.patch(model, size=0.5)
    routed = Row(patch, detector=detector(model, prompts, (0,)))

    def scored(text: str, row: Row) -> list[float]:
        ((found,),) = likelihoods(model, text, ["Smile."], (row,))
        return found.log_probabilities.tolist()

    assert scored(TEXTS[1], routed) == scored(TEXTS[1], VANILLA)
    assert scored(TEXTS[0], routed) == scored(TEXTS[0], Row(patch)) != scored(TEXTS[0], VANILLA)
    answers = [Encoded(prompt, (40, 41, 42)) for prompt in prompts]
    hit, *missed = harmless_kl(model, answers, routed)
    assert hit > 1e-4 and missed == [0.0, 0.0]


def test_a_measurement_without_a_prompt_refuses_a_routed_row(llama):
    prompts = [encode(llama, text).prompt for text in TEXTS]
    patch = by_hand.patch(llama)
    routed = Row(patch, detector=detector(llama, prompts, (0,)))
    with pytest.raises(PatchError, match="Measure the patch itself"), llama.running([routed]):
        pass
    assert routed.always() == Row(patch) and routed.weights() is not routed and routed.weights() == routed
    assert routed.label() == f"{Row(patch).label()} · only where harm is detected"


def test_a_detector_of_another_model_or_with_broken_numbers_is_refused(llama):
    prompt = encode(llama, TEXTS[0]).prompt
    with pytest.raises(PatchError, match="another base model"):
        Detector((0,), torch.ones(1, 32), 0.0, 0.0, "0" * 16).scores(llama, [prompt])
    with pytest.raises(PatchError, match="do not fit its blocks"):
        Detector((0, 1), torch.ones(1, 32), 0.0, 0.0, "")
    for broken in ({"weights": torch.full((1, 32), torch.nan)}, {"bias": float("inf")}, {"threshold": float("nan")}):
        with pytest.raises(PatchError, match="not finite"):
            Detector(
                **{"blocks": (0,), "weights": torch.ones(1, 32), "bias": 0.0, "threshold": 0.0} | broken, fingerprint=""
            )
    with pytest.raises(PatchError, match="routes a patch"):
        Row(detector=Detector((0,), torch.ones(1, 32), 0.0, 0.0, ""))
