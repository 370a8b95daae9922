"""How many prompts share a batch: as many as fit into the memory that is free, within a bound."""

from __future__ import annotations

import by_hand
import pytest
import tiny_models
import torch
from labelled_devices import FIRST, SECOND, labelled_devices, sharded

from inspector.model import Decoding, Row, from_parts
from inspector.model.memory import batch_size
from inspector.model.memory.batch_size import ELSEWHERE, MOST, MOST_ALONE, SHARE, line_bytes, prompts_that_fit
from inspector.safeedit import exam
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import Question

TOKENS = 100
STATES = TOKENS * 4 * (4 * 32 + 3 * 48)
KEYS = 2 * TOKENS * 2 * 16 * 4
LOGITS = 2 * 4 * tiny_models.VOCABULARY
"""Bytes of a tiny Llama's line, by hand: 2 of its 4 heads have keys, 8 wide each."""


@pytest.fixture
def free(monkeypatch):
    """Plant what is free: a number, or one a device."""

    def plant(planted) -> None:
        there = planted if isinstance(planted, dict) else {torch.device("cpu"): planted}
        monkeypatch.setattr(batch_size, "free_memory", lambda device: there[device])

    return plant


def test_a_line_is_counted_by_hand(llama):
    assert line_bytes(llama, TOKENS) == {torch.device("cpu"): STATES + 3 * KEYS + LOGITS}


def test_scores_that_are_held_whole_count(tiny, monkeypatch):
    model = tiny("gpt2")
    before = line_bytes(model, TOKENS)[model.device]
    monkeypatch.setattr(model.network.config, "_attn_implementation", "eager")
    assert line_bytes(model, TOKENS)[model.device] - before == TOKENS * 4 * 4 * TOKENS


@pytest.mark.parametrize(("rows", "fits"), [(1, 9), (2, 4), (3, 3), (4, 2)])
def test_a_batch_has_as_many_prompts_as_fit(llama, free, rows, fits):
    (line,) = line_bytes(llama, TOKENS).values()
    free(9.5 * line / SHARE)
    assert prompts_that_fit(llama, TOKENS, rows) == fits
    assert prompts_that_fit(llama, TOKENS, rows, most=2) == 2


def test_it_has_a_bound_where_memory_is_no_matter_and_one_prompt_where_there_is_none(llama, free):
    free(2**40)
    assert prompts_that_fit(llama, TOKENS, 2) == MOST and prompts_that_fit(llama, TOKENS, 2, most=30) == 30
    free(0)
    assert prompts_that_fit(llama, TOKENS, 2) == 1


def test_an_accelerator_s_bound_is_its_own_whatever_answers_beside(llama, free):
    free(2**40)
    assert [prompts_that_fit(llama, TOKENS, 1, alone=alone) for alone in (False, True)] == [MOST, MOST_ALONE]
    with labelled_devices():
        there = from_parts(tiny_models.network("llama").to(FIRST), tiny_models.tokenizer(), "there")
        free({FIRST: 2**40})
        assert [prompts_that_fit(there, TOKENS, 1, alone=alone) for alone in (False, True)] == [ELSEWHERE] * 2
        assert prompts_that_fit(there, TOKENS, 1, most=30) == 30


def test_of_several_devices_the_fullest_decides(free):
    with labelled_devices():
        model = sharded(tiny_models.network("llama"), tiny_models.tokenizer(), "tiny-llama")
        sizes = line_bytes(model, TOKENS)
        assert set(sizes) == {FIRST, SECOND} and sum(sizes.values()) == 2 * STATES + 3 * KEYS + LOGITS
        free({FIRST: 2**40, SECOND: 5.5 * sizes[SECOND] / SHARE})
        assert prompts_that_fit(model, TOKENS, 1) == 5
        free({FIRST: 3.5 * sizes[FIRST] / SHARE, SECOND: 2**40})
        assert prompts_that_fit(model, TOKENS, 1) == 3


def test_an_exam_s_batches_are_what_fits_unless_a_number_is_given(llama, free, monkeypatch):
    asked: list[int] = []
    own = exam.answers_of

    def counted(model, unedited, *given):
        asked.append(len(unedited))
        return own(model, unedited, *given)

    monkeypatch.setattr(exam, "answers_of", counted)
    questions = [Question("harmless", f"How do I bake {number}?") for number in range(5)]
    row, short = Row(by_hand.patch(llama)), Decoding(max_new_tokens=2)
    longest = max(len(exam.encoded(llama, each, each.prompt, exam.PromptFormat(), 2)) for each in questions) + 2
    (line,) = line_bytes(llama, longest).values()
    free(4.5 * line / SHARE)  # lines: two prompts with both weights
    exam.run_exam(exam.examine(llama, questions, row, EmbeddedJudge(), decoding=short))
    assert asked == [2, 2, 1]
    asked.clear()
    exam.run_exam(exam.examine(llama, questions, row, EmbeddedJudge(), decoding=short, prompts_at_once=4))
    assert asked == [4, 1]
