"""Token steps of fixed shapes choose the tokens that the growing cache chooses, for every mechanism and any weights."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from contextlib import contextmanager
from itertools import count
from weakref import WeakKeyDictionary

import by_hand
import pytest
import tiny_models
import torch
from labelled_devices import SECOND, labelled_devices
from waits import counted_waits

from inspector.errors import NotFinite
from inspector.model import VANILLA, Decoding, Delta, Patch, Row, from_parts
from inspector.model.answers import static_steps
from inspector.model.answers.batching import generate
from inspector.model.answers.static_steps import can_be_static
from inspector.model.passes import graphs

LENGTH = 14
PROMPTS = ([1, 5, 9, 33, 7], [1, 5, 9, 40, 41, 42, 43, 60])


def thin_patch(model):
    """A change of rank 2 in every block, as a LoRA patch is."""
    draw, deltas = torch.Generator().manual_seed(4), []
    for block in range(model.blocks):
        rows, columns = by_hand.down_weight(model.network, block).shape
        left, right = (torch.randn(shape, generator=draw) for shape in ((rows, 2), (2, columns)))
        deltas.append(Delta(by_hand.down_name(model.network, block), block, 0.2 * left, 0.2 * right))
    return Patch(tuple(deltas), model.fingerprint, "thin")


def lines(model, rows, decoding):
    return [(line.tokens, line.ended) for line in deque(generate(model, PROMPTS, rows, decoding), maxlen=1)[0]]


@pytest.fixture
def fixed(monkeypatch):
    """Let steps have fixed shapes here, too; without a CUDA device they are not captured."""
    made = []
    own = static_steps.StaticSteps.__init__

    def counted(self, *given, **named):
        made.append(self)
        own(self, *given, **named)

    monkeypatch.setattr("inspector.model.answers.batching.can_be_static", lambda model, steps: steps > 0)
    monkeypatch.setattr(static_steps.StaticSteps, "__init__", counted)
    return made


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("decoding", [Decoding(LENGTH), Decoding(LENGTH, temperature=0.9, top_p=0.8, seed=3)])
def test_they_choose_what_the_growing_cache_chooses(tiny, request, family, decoding):
    model = tiny(family)
    dense = by_hand.patch(model, seed=2, size=0.3)
    rows = (VANILLA, Row(dense), Row(dense, 0.5), Row(thin_patch(model)))
    plain = lines(model, rows, decoding)
    assert plain[-1] != plain[0], "the thin one shows"
    made = request.getfixturevalue("fixed")
    assert lines(model, rows, decoding) == plain
    assert len(made) == 1


def test_an_answer_that_ends_leaves_the_others_as_they_are(llama, request):
    rows = tuple(Row(by_hand.patch(llama, seed=seed, size=0.4)) for seed in range(6))
    decoding = Decoding(40, temperature=1.5, seed=1)
    plain = lines(llama, rows, decoding)
    assert len({ended is None for _, ended in plain}) == 2, "some answers have to end before the others"
    request.getfixturevalue("fixed")
    assert lines(llama, rows, decoding) == plain


@contextmanager
def no_numbers_from(model, call, rows=slice(None)):
    """Let the head's output be no number for some rows from a call on; the first one reads the prompts."""
    calls = count()

    def broken(_head, _args, logits):
        if next(calls) >= call:
            logits[rows] = torch.nan
        return logits

    handle = model.network.lm_head.register_forward_hook(broken)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("decoding", [Decoding(LENGTH), Decoding(LENGTH, temperature=0.9, top_p=0.8, seed=3)])
@pytest.mark.parametrize("static", [False, True])
def test_logits_that_are_no_numbers_later_on_end_the_answer(llama, request, static, decoding):
    if static:
        request.getfixturevalue("fixed")
    seen = []
    with no_numbers_from(llama, 3, slice(0, 1)), pytest.raises(NotFinite, match="prediction"):
        for each in generate(llama, PROMPTS[:1], (VANILLA, Row(by_hand.patch(llama))), decoding):
            seen.append([len(line.tokens) for line in each])
    assert seen == [[1, 1], [2, 2], [3, 3]]


def test_what_comes_after_the_end_of_an_answer_may_be_no_number(llama, request, monkeypatch):
    request.getfixturevalue("fixed")
    rows = (VANILLA, Row(by_hand.patch(llama, seed=2, size=0.3)))
    monkeypatch.setattr(type(llama), "end_tokens", lambda _model: frozenset())
    (first, _), (second, _) = lines(llama, rows, Decoding(LENGTH))[::2]
    assert first[0] not in second, "an end for the first answer alone"
    monkeypatch.setattr(type(llama), "end_tokens", lambda _model: frozenset({first[0]}))
    with no_numbers_from(llama, 3, slice(0, 1)):
        found = deque(generate(llama, PROMPTS[:1], rows, Decoding(LENGTH)), maxlen=1)[0]
    assert [line.tokens for line in found] == [[], second]


@pytest.mark.parametrize("static", [False, True])
def test_a_token_waits_for_its_device_once(llama, request, monkeypatch, static):
    if static:
        request.getfixturevalue("fixed")
    each = []
    rows = (VANILLA, Row(by_hand.patch(llama, seed=2, size=0.3)))
    with counted_waits(monkeypatch) as waits:
        for _ in generate(llama, PROMPTS, rows, Decoding(LENGTH)):
            each.append(waits.since())
    assert set(each) == {1}, "the first one says as well whether the logits are numbers"


def test_a_generator_closed_midway_leaves_nothing_behind(llama, fixed):
    running = generate(llama, PROMPTS, (VANILLA, Row(by_hand.patch(llama))), Decoding(LENGTH))
    next(running)
    next(running)
    running.close()
    assert fixed and by_hand.lock_is_free(llama)


@pytest.mark.parametrize("family", ["mistral_sliding", "gemma2", "gemma3_text"])
def test_models_that_do_not_see_every_position_are_answered_step_by_step(tiny, family, monkeypatch):
    other, model = (copy.copy(tiny(name)) for name in ("llama", family))
    for each in (model, other):
        vars(each).pop("can_be_captured", None)  # what it was on this device
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    monkeypatch.setattr(type(model), "on_one_device", property(lambda _model: True))
    assert not can_be_static(model, 100)
    assert can_be_static(other, 100) and not can_be_static(other, 3)


def test_a_model_whose_steps_cannot_be_captured_is_answered_step_by_step_after_the_last_try(
    llama, monkeypatch, request
):
    """A failed capture leaves an answer's own steps as they are; the next answers have the growing cache."""
    plain = lines(llama, (VANILLA,), Decoding(LENGTH))
    own = static_steps.captured
    made = request.getfixturevalue("fixed")
    monkeypatch.setattr("inspector.model.answers.batching.can_be_static", can_be_static)
    monkeypatch.setitem(vars(llama), "can_be_captured", True)
    monkeypatch.setattr(graphs, "_FAILED", WeakKeyDictionary())
    monkeypatch.setattr(static_steps, "captured", lambda work, _device, *given: own(work, SECOND, *given))

    def failing(*_given):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "Graph", failing)
    for answers in (1, 2, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert lines(llama, (VANILLA,), Decoding(LENGTH)) == plain
        assert len(made) == answers


def test_a_step_is_awaited_on_the_stream_of_its_own_device_whichever_is_the_thread_s_current_one(
    llama, fixed, monkeypatch
):
    recorded = []

    class Event:
        def record(self, stream=None) -> None:
            recorded.append(stream)

        def synchronize(self) -> None: ...

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **named: empty(*size, **named))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device}")
    monkeypatch.setattr(static_steps, "captured", lambda work, *_: work)
    plain = lines(llama, (VANILLA,), Decoding(LENGTH))
    with labelled_devices():
        there = from_parts(tiny_models.network("llama").to(SECOND), tiny_models.tokenizer(), "second")
        assert there.device == SECOND and lines(there, (VANILLA,), Decoding(LENGTH)) == plain
    assert len(fixed) == 2 and set(recorded) == {f"stream of {SECOND}"}
