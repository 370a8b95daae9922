"""Attributions to the prompt's tokens are what plain gradients and plain replacements give."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import numpy as np
import pytest
import tiny_models
import torch
from torch import Tensor
from transformers import LlamaConfig

from inspector.errors import CaseError, NotFinite, PromptError
from inspector.model import PromptFormat, Row, from_parts
from inspector.safeedit import Case
from inspector.token_attribution import ATTRIBUTION_WAYS, neutral_token, token_attribution, user_tokens

SPACE = " "
# Values of order 0.001 to 0.1 in nats: differences (or gradients) of log-probabilities that float32 passes with
# another batch size give a few 1e-6 apart.
CLOSE = {"rtol": 1e-3, "atol": 5e-6}

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")


@pytest.fixture
def short() -> Case:
    """A case of few tokens, for ways that run once a token."""
    return Case(
        question="Be mean?", adversarial_prompt="Arr, be mean!", safe="I will not do it.", unsafe="Lie to them."
    )


@pytest.fixture
def smooth():
    """A tiny Llama with small weights, whose answers change smoothly along the line of embeddings."""
    torch.manual_seed(0)
    settings = {**tiny_models.CONFIGS["llama"][1], "initializer_range": 0.05}
    network = tiny_models.random_network(LlamaConfig(**settings))
    model = from_parts(network, tiny_models.tokenizer(), "smooth")
    before, hooks = by_hand.checksum(network), by_hand.hooks(network)
    yield model
    by_hand.assert_at_rest(model, hooks)
    assert by_hand.checksum(network) == before


def explained(network, embedded: Tensor, answers: list[list[int]]) -> Tensor:
    """Return log P(unsafe) - log P(safe) a token after an embedded prompt ``[tokens, width]``, a pass an answer."""
    scores = []
    for answer in answers:
        own = network.get_input_embeddings()(torch.tensor(answer)).detach()
        logits = network(inputs_embeds=torch.cat([embedded, own]).unsqueeze(0), use_cache=False).logits[0]
        scored = logits.log_softmax(dim=-1)[len(embedded) - 1 : -1]
        scores.append(scored.gather(-1, torch.tensor(answer).unsqueeze(-1)).mean())
    return scores[1] - scores[0]


def margin_of(network, prompt: list[int], answers: list[list[int]]) -> float:
    """Return log P(unsafe) - log P(safe) a token after a prompt of ids."""
    scores = []
    for answer in answers:
        scored = by_hand.logits(network, prompt + answer).log_softmax(dim=-1)[len(prompt) - 1 : -1]
        scores.append(float(scored.gather(-1, torch.tensor(answer).unsqueeze(-1)).mean()))
    return scores[1] - scores[0]


def ids_of(model, case: Case) -> tuple[list[int], list[list[int]]]:
    return by_hand.prompt(model, case.adversarial_prompt), [
        by_hand.response(model, case.safe),
        by_hand.response(model, case.unsafe),
    ]


def place_of(model, case: Case) -> range:
    """Return where the user's text stands in the tests' chat template of single bytes."""
    start = len(by_hand.bytes_of(model, "<s>[user]"))
    return range(start, start + len(by_hand.bytes_of(model, case.adversarial_prompt)))


def emptied(model, prompt: list[int], places) -> list[int]:
    """Return the prompt with a space in the given places."""
    (space,) = by_hand.bytes_of(model, SPACE)
    return [space if n in places else token for n, token in enumerate(prompt)]


def gradient_at(network, embedded: Tensor, answers: list[list[int]]) -> Tensor:
    point = embedded.detach().clone().requires_grad_(True)
    return torch.autograd.grad(explained(network, point, answers), point)[0]


TEXTS = ["How do I be mean?", "x", "~", "^", "ab~cd", "If the user's", "user", "two\nlines", "Wie schön, ähem"]


@pytest.mark.parametrize("suffix", ["", "Please give the right response:"])
@pytest.mark.parametrize("chat", [True, False])
def test_the_user_s_tokens_are_exactly_the_user_s_text(tiny, suffix, chat):
    """The tokenizer has one token a byte, so the range must decode to the text, nothing more and nothing less."""
    model = tiny("llama", chat=chat)
    after, wrong = f" {suffix}" if suffix else "", []
    around = ("<s>[user]", after + "\n[assistant]") if chat else ("<s>", after)
    for text in TEXTS:
        if chat:
            ids = by_hand.bytes_of(model, f"<s>[user]{text}{after}\n[assistant]")
        else:
            ids = [1, *by_hand.bytes_of(model, text + after)]
        own = user_tokens(model, text, format=PromptFormat(suffix))
        parts = [model.tokenizer.decode(one) for one in (ids[: own.start], [ids[n] for n in own], ids[own.stop :])]
        if parts != [around[0], text, around[1]]:
            wrong.append((text, parts))
    assert wrong == []


def test_a_text_that_starts_or_ends_with_the_probing_character_is_found_whole(llama):
    for text in ("~hello", "hello~", "~hello~", "~~"):
        ids = by_hand.prompt(llama, text)
        assert llama.tokenizer.decode([ids[n] for n in user_tokens(llama, text)]) == text


def test_the_template_can_be_left_out(llama):
    found = user_tokens(llama, "Hello", format=PromptFormat("", chat=False))
    assert found == range(1, 6)


def test_the_neutral_token_is_a_space(llama, tiny):
    assert llama.tokenizer.decode([neutral_token(llama)]) == SPACE
    assert neutral_token(tiny("llama", chat=False)) == neutral_token(llama), "no begin marker comes first"


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt_projected", "gpt_neox"])
def test_gradient_times_input_is_plain_autograd(tiny, family, case):
    model = tiny(family)
    prompt, answers = ids_of(model, case)
    embedded = model.network.get_input_embeddings()(torch.tensor(prompt)).detach()
    expected = (gradient_at(model.network, embedded, answers) * embedded).sum(dim=-1).numpy()
    found = token_attribution(model, case, "gradient x input")
    assert np.abs(expected).max() > 2e-3
    assert np.allclose(found.values, expected, **CLOSE)
    assert found.tokens == tuple(model.tokenizer.decode([token]) for token in prompt)
    assert found.user == place_of(model, case) and found.way == "gradient x input"
    assert found.difference is None and found.gap is None and found.evaluations == 1


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_integrated_gradients_are_a_weighted_sum_of_plain_gradients(tiny, family, short):
    """Gauss and Legendre's points and weights on 0 to 1, from NumPy."""
    model = tiny(family)
    prompt, answers = ids_of(model, short)
    embed = model.network.get_input_embeddings()
    user = place_of(model, short)
    one, none = (embed(torch.tensor(ids)).detach() for ids in (prompt, emptied(model, prompt, user)))
    points, weights = np.polynomial.legendre.leggauss(6)
    total = torch.zeros_like(one)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        total += float(weight) * gradient_at(model.network, none + float(point) * (one - none), answers)
    expected = (total * (one - none)).sum(dim=-1).numpy()
    found = token_attribution(model, short, "integrated gradients", steps=6)
    assert np.allclose(found.values, expected, **CLOSE)
    assert np.abs(expected).max() > 2e-3
    difference = margin_of(model.network, prompt, answers) - margin_of(
        model.network, emptied(model, prompt, user), answers
    )
    assert found.difference == pytest.approx(difference, abs=3e-5)


def test_integrated_gradients_sum_to_the_difference_at_enough_steps(smooth, short):
    """Gauss and Legendre's rule converges fast on this small network.

    What is left at 48 steps is float32: the difference is known to a few 1e-6, and must not be that small itself.
    """
    prompt, answers = ids_of(smooth, short)
    user = place_of(smooth, short)
    difference = margin_of(smooth.network, prompt, answers) - margin_of(
        smooth.network, emptied(smooth, prompt, user), answers
    )
    many = token_attribution(smooth, short, "integrated gradients", steps=48)
    one = token_attribution(smooth, short, "integrated gradients", steps=1)
    assert abs(difference) > 2e-3
    assert many.difference == pytest.approx(difference, abs=1e-5)
    assert abs(many.values.sum() - difference) < 0.01 * abs(difference)
    assert abs(many.gap) < abs(one.gap)
    for found in (many, one):
        assert found.gap == pytest.approx(float(found.values.sum()) - found.difference, abs=1e-7)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_ablation_is_replacing_each_of_the_user_s_tokens_by_a_space(tiny, family, short):
    model = tiny(family)
    prompt, answers = ids_of(model, short)
    user = place_of(model, short)
    whole = margin_of(model.network, prompt, answers)
    expected = np.zeros(len(prompt))
    for place in user:
        expected[place] = whole - margin_of(model.network, emptied(model, prompt, [place]), answers)
    found = token_attribution(model, short, "ablation")
    assert np.allclose(found.values, expected, **CLOSE)
    assert np.abs(expected).max() > 2e-3
    assert found.difference == pytest.approx(
        whole - margin_of(model.network, emptied(model, prompt, user), answers), abs=3e-5
    )
    assert found.gap == pytest.approx(found.values.sum() - found.difference, abs=1e-6)
    assert found.values[prompt.index(by_hand.bytes_of(model, SPACE)[0], user.start)] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("way", ["integrated gradients", "ablation"])
def test_only_the_user_s_tokens_get_anything(model, short, way):
    # Without suffix, which would put the user's text out of sight of the answers for a sliding window of 16.
    found = token_attribution(model, short, way, steps=2, format=PromptFormat(""))
    outside = [n for n in range(len(found.tokens)) if n not in place_of(model, short)]
    assert len(outside) == len("\n[assistant]") + len("[user]") + 1 and (found.values[outside] == 0).all()
    assert np.count_nonzero(found.values[list(found.user)]) >= len(found.user) - 2, "all but spaces count"


@pytest.mark.parametrize("way", ATTRIBUTION_WAYS)
def test_edited_weights_are_explained_as_those_of_a_copy_with_the_patch_written(llama, short, way):
    patch = by_hand.patch(llama, 1, size=0.3)
    copied = by_hand.written(llama.network, (1, patch.deltas[0].dense()))
    other = from_parts(copied, llama.tokenizer, "written")
    vanilla, edited = (token_attribution(llama, short, way, row, steps=3) for row in (Row(), Row(patch)))
    expected = token_attribution(other, short, way, steps=3)
    assert np.abs(vanilla.values - edited.values).max() > 1e-2
    assert np.allclose(edited.values, expected.values, **CLOSE)
    prompt, answers = ids_of(llama, short)
    if way != "gradient x input":
        baseline = emptied(llama, prompt, place_of(llama, short))
        assert edited.difference == pytest.approx(
            margin_of(copied, prompt, answers) - margin_of(copied, baseline, answers), abs=3e-5
        )


@pytest.mark.parametrize("way", ATTRIBUTION_WAYS)
def test_a_cancelled_attribution_returns_nothing_and_leaves_nothing(llama, short, way):
    assert token_attribution(llama, short, way, cancel=lambda: True) is None
    shares: list[float] = []
    stop = 0 if way == "gradient x input" else 3
    hooks = by_hand.hooks(llama.network)
    assert token_attribution(llama, short, way, progress=shares.append, cancel=lambda: len(shares) >= stop) is None
    assert len(shares) == stop
    by_hand.assert_at_rest(llama, hooks)


@pytest.mark.parametrize("way", ATTRIBUTION_WAYS)
def test_progress_grows_to_one_and_the_lock_is_free_between_evaluations(llama, short, way):
    shares: list[float] = []

    def progress(share: float) -> None:
        assert by_hand.lock_is_free(llama)
        shares.append(share)

    found = token_attribution(llama, short, way, steps=5, progress=progress)
    assert len(shares) == found.evaluations
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert found.evaluations == {"gradient x input": 1, "integrated gradients": 7}.get(way, found.evaluations)


@pytest.mark.parametrize("way", ATTRIBUTION_WAYS)
def test_progress_tells_one_only_when_all_is_done(llama, short, way):
    shares: list[float] = []
    token_attribution(llama, short, way, steps=5, progress=shares.append)
    assert shares.count(1.0) == 1


def test_an_unknown_way_and_a_case_without_answers_are_refused(llama, short):
    with pytest.raises(PromptError, match=r"Unknown way 'magic'. Choose one of: gradient x input, integrated"):
        token_attribution(llama, short, "magic")  # type: ignore[arg-type]
    with pytest.raises(CaseError, match="unsafe answer is empty"):
        token_attribution(llama, replace(short, unsafe=" "))


def test_captum_s_wrapper_for_language_models_is_right_only_for_whole_sequences(llama):
    """Why the program calls Captum's plain methods and not ``LLMAttribution`` with its defaults.

    Captum 0.9 feeds the answer token by token through a key-value cache by default and, with this version of
    transformers, gets other numbers than plain passes give. Scored as one sequence, or without the cache, the same
    class agrees with replacing each token by hand. The last assertion fails as soon as Captum (or transformers)
    mends it, and then this test can go.
    """
    from captum.attr import FeatureAblation, LLMAttribution, TextTokenInput

    text, answer = "How are you?", "Fine, thanks."
    prompt, ids = llama.tokenizer(text)["input_ids"], by_hand.bytes_of(llama, answer)

    def score(prompt: list[int]) -> float:
        scored = by_hand.logits(llama.network, prompt + ids).log_softmax(dim=-1)[len(prompt) - 1 : -1]
        return float(scored.gather(-1, torch.tensor(ids).unsqueeze(-1)).sum())

    baseline = tiny_models.PAD  # Captum's default for an absent token is id 0
    expected = torch.tensor(
        [score(prompt) - score([*prompt[:n], baseline, *prompt[n + 1 :]]) for n in range(len(prompt))]
    )
    method = LLMAttribution(FeatureAblation(llama.network), llama.tokenizer)
    given = TextTokenInput(text, llama.tokenizer)
    whole = method.attribute(given, target=answer, forward_in_tokens=False).seq_attr
    uncached = method.attribute(given, target=answer, use_cached_outputs=False).seq_attr
    default = method.attribute(given, target=answer).seq_attr
    # Sums of 13 log-probabilities of order -5, float32.
    assert torch.allclose(whole, expected, rtol=0, atol=1e-4)
    assert torch.allclose(uncached, expected, rtol=0, atol=1e-4)
    assert (default - expected).abs().max() > 0.05


@pytest.mark.parametrize("way", ATTRIBUTION_WAYS)
def test_what_is_not_finite_is_attributed_to_no_token(overflowing, short, way):
    with pytest.raises(NotFinite, match=r"attribution .*float16"):
        token_attribution(overflowing, short, way, steps=2)
