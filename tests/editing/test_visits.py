"""What visitors type stays in no memory after their visit: it goes by names that tell nothing, or with the visit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from word_models import random_patch, word_model

from editing import run
from editing.gate import answers as gate_answers
from editing.gate.answers import unanswered
from editing.gate.exam import small_exam
from editing.gate.gate import GateSettings, accept
from editing.optimising import null_space
from editing.optimising.null_space import harmless_moment
from editing.texts import harmless
from editing.texts.harmless import harmless_answers, harmless_texts, known_answer
from inspector import causal
from inspector.causal import mean_writings
from inspector.model import Detector, InspectedModel, PromptFormat, Row, encode
from inspector.model.memory.recent import forget_visits
from inspector.model.passes import tails
from inspector.model.passes.tails import Tails
from inspector.model.patches import routing
from inspector.model.patches.routing import scores
from inspector.safeedit import Constraint, answering, bundled_cases, parroting
from inspector.safeedit.asking import encoded
from inspector.safeedit.questions import CASE_PROMPTS

QUICK = GateSettings(harmless=6, questions=4, max_new_tokens=6, least_gain=0)
CASE = bundled_cases()[0]
TYPED = replace(
    CASE,
    question="Where do purple owls sleep?",
    adversarial_prompt="Tell me as a pirate: Where do purple owls sleep?",
    constraint=Constraint("Why are purple owls quiet?", "Their feathers are soft."),
)
SUFFIX = "Speak softly, please."
STORES = (
    gate_answers._KEPT,
    gate_answers._OF_CASES,
    harmless._OWN_ANSWERS,
    harmless._OF_VISITS,
    null_space._MOMENTS,
    routing._KEPT,
    tails._KEPT,
    causal._MEANS,
)


@pytest.fixture
def words() -> InspectedModel:
    asked = [question.prompt for question in small_exam(TYPED)]
    return word_model([*asked, TYPED.constraint.prompt, SUFFIX, *harmless_texts(CASE, 4)], seed=1)


def kept(one: Any) -> Iterator[Any]:
    """Yield the texts, numbers and tuples of numbers in something that is kept."""
    if isinstance(one, dict):
        for pair in one.items():
            yield from kept(pair)
    elif isinstance(one, list | tuple):
        yield one
        for part in one:
            yield from kept(part)
    elif hasattr(one, "__dataclass_fields__"):
        yield from kept(list(vars(one).values()))
    else:
        yield one


def has(store: Any, model: InspectedModel, texts: list[str]) -> bool:
    """Tell whether a text, or the token ids of one, can be read in what is kept of a model."""
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for one in kept(store.get(model, {})):
        if isinstance(one, str) and any(text in one for text in texts):
            return True
        if isinstance(one, list | tuple):
            lists = (list(one[start : start + len(own)]) == own for own in ids for start in range(len(one)))
            if any(lists):
                return True
    return False


def test_what_is_typed_is_in_nothing_that_is_kept_and_the_answers_to_it_go_with_the_visit(words):
    format = PromptFormat(SUFFIX)
    patch = replace(random_patch(words, 0.3), format=format)
    firing = Detector((0,), torch.ones(1, 32), 0.0, -1e9, words.fingerprint)
    first = run(accept(words, Row(patch, detector=firing), TYPED, QUICK))
    own = run(harmless_answers(words, TYPED, 3, 4, format))
    run(harmless_moment(words, 1, format))
    mean_writings(words, format)
    prompt = encode(words, TYPED.adversarial_prompt, None, format).prompt
    Tails(words, [prompt], [[0]], [1], keep=True)
    assert all(store.get(words) for store in STORES), "each of them keeps something"
    typed = [TYPED.question, TYPED.constraint.prompt, SUFFIX]
    assert not [number for number, store in enumerate(STORES) if has(store, words, typed)]

    forget_visits()
    asked = small_exam(TYPED, QUICK.harmless, QUICK.questions)
    again = {asked[n].kind for n in unanswered(words, asked, format, QUICK.decoding)}
    assert again == set(CASE_PROMPTS) < {question.kind for question in asked}, "the others are bundled"
    texts = harmless_texts(TYPED, 3)
    assert [known_answer(words, text, 4, format) is None for text in texts] == [True, False, False]
    caches = answering.on_subject, parroting._sentences, parroting._stems
    assert [cache.cache_info().currsize for cache in caches] == [0, 0, 0]
    assert run(harmless_answers(words, TYPED, 3, 4, format)) == own
    second = run(accept(words, Row(patch, detector=firing), TYPED, QUICK))
    assert second.checks == first.checks
    for reply, before in zip(second.exam.replies, first.exam.replies, strict=True):
        assert replace(reply, reading=None) == replace(before, reading=None)
        # Prompts that are read together share rows, and round otherwise.
        assert reply.reading.score == pytest.approx(before.reading.score, rel=1e-5)


def test_the_states_of_a_typed_prompt_are_not_kept_those_of_bundled_ones_are(words):
    format = PromptFormat(SUFFIX)
    silent = Detector((0,), torch.ones(1, 32), 0.0, 1e9, words.fingerprint)
    patch = replace(random_patch(words, 0.3), format=format)
    run(accept(words, Row(patch, detector=silent), TYPED, QUICK))
    asked = small_exam(TYPED, QUICK.harmless, QUICK.questions)
    read: list[int] = []
    embeddings = words.network.get_input_embeddings()
    handle = embeddings.register_forward_pre_hook(lambda _module, args: read.append(len(args[0])))
    for own in (False, True):
        some = [question for question in asked if (question.kind in CASE_PROMPTS) is own]
        prompts = [encoded(words, question, question.prompt, format, 6) for question in some]
        scores(words, silent, prompts, keep=[not own] * len(prompts))
        assert sum(read) == (len(prompts) if own else 0)
    handle.remove()
