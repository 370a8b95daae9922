"""Memory that runs out while many prompts are asked: they are asked in halves and give the same, else it is told."""

from __future__ import annotations

import errno
import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import by_hand
import numpy as np
import pytest
import torch
from memory_faults import TOLD, no_memory, once_at, passes

from editing import run
from editing.atlas import AtlasSettings, group, make_atlas
from editing.measured import measured_step
from editing.memory import memory_told
from editing.methods.sft import SftSettings
from editing.optimising.null_space import harmless_moment, known_moments
from editing.optimising.training import Pair
from editing.strength import StrengthSettings, strength_curve
from inspector import causal
from inspector.detection import Sample, readings_of
from inspector.errors import OutOfMemory
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, Row, encode
from inspector.model.answers import by_length
from inspector.model.answers.batching import generate, generate_each
from inspector.model.memory.halving import halved, halves, ran_out
from inspector.model.passes.tails import Tails
from inspector.region import region_shift
from inspector.safeedit import Case
from inspector.safeedit.exam import examine, run_exam
from inspector.safeedit.judges import MatcherJudge
from inspector.safeedit.marking import harmless_kl
from inspector.safeedit.questions import Question
from inspector.toxicity import pooled_states

TEXTS = ("How do I be mean?", "Why?", "How do I bake bread in a pan?", "Sing a song about the seven seas to me.")
SHORT = Decoding(max_new_tokens=6)
PLAIN = PromptFormat("")
ATLAS = AtlasSettings(format=PLAIN, learning_rate=0.01, harmless_prompts=2, harmless_tokens=4, together=2, steps=2)

Measure = Callable[[InspectedModel, Row, Case], Any]


def prompts(model: InspectedModel) -> list[tuple[int, ...]]:
    return [encode(model, text, None, PLAIN).prompt for text in TEXTS]


def answers(model: InspectedModel, row: Row, _case: Case) -> Any:
    lines = deque(generate(model, prompts(model), (VANILLA, row), SHORT), maxlen=1)[0]
    return [(line.row, line.prompt, line.tokens, line.ended) for line in lines]


def answers_of_each(model: InspectedModel, row: Row, _case: Case) -> Any:
    asked = [(prompt, weights) for weights in (VANILLA, row) for prompt in prompts(model)]
    return [line.tokens for line in deque(generate_each(model, asked, SHORT), maxlen=1)[0]]


def exam(model: InspectedModel, row: Row, _case: Case) -> Any:
    asked = [Question("harmless", text) for text in TEXTS]
    shares: list[float] = []
    asking = examine(model, asked, row, MatcherJudge(), format=PLAIN, decoding=SHORT)
    made = run_exam(asking, lambda event: shares.append(event.fraction))
    assert max(shares) <= 1
    return [(reply.vanilla.text, reply.edited.text, pytest.approx(reply.kl, abs=1e-5)) for reply in made.replies]


def kl(model: InspectedModel, row: Row, _case: Case) -> Any:
    return harmless_kl(model, [encode(model, text, "Words.", PLAIN) for text in TEXTS], row)


def calibration(model: InspectedModel, _row: Row, _case: Case) -> Any:
    texts = [Sample(text, n % 2 == 0, text) for n, text in enumerate(TEXTS)]
    return [reading.states.astype(float) for reading in run(readings_of(model, texts, [0, 1], [PLAIN]))]


def region(model: InspectedModel, row: Row, _case: Case) -> Any:
    shift = region_shift(model, TEXTS, row, 1, format=PLAIN)
    return [shift.by_block, shift.vanilla, shift.edited, np.array(shift.mean_input_shift)]


def probe(model: InspectedModel, _row: Row, _case: Case) -> Any:
    return [run(pooled_states(model, TEXTS))]


def means(model: InspectedModel, _row: Row, _case: Case) -> Any:
    causal._MEANS.clear()
    return [mean.numpy() for mean in causal.mean_writings(model, PLAIN)]


def null_space(model: InspectedModel, _row: Row, _case: Case) -> Any:
    known_moments(model).clear()
    return [run(harmless_moment(model, 1, PLAIN)).numpy()]


def vital_signs(model: InspectedModel, row: Row, _case: Case) -> Any:
    safe, unsafe, *harmless = (encode(model, text, "Words.", PLAIN) for text in TEXTS)
    step = measured_step(model, Pair(safe, unsafe), harmless, row, 1, 1)
    return [np.array([step.edit_loss, step.constraint_kl, step.safe_probability, step.unsafe_probability])]


def strength(model: InspectedModel, row: Row, case: Case) -> Any:
    asked = [Question("DS" if n % 2 else "harmless", text) for n, text in enumerate(TEXTS)]
    settings = StrengthSettings(strengths=(0.0, 0.5), max_new_tokens=4)
    curve = run(strength_curve(model, row, case, settings, judge=MatcherJudge(), questions=asked))
    return [curve.defended, curve.harmless_kl, curve.degenerate]


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        *(answers, answers_of_each, exam, kl, calibration, region, probe, means, null_space, vital_signs, strength),
    )
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_batch_that_does_not_fit_is_asked_in_halves_and_gives_the_same(llama, case, measure, monkeypatch):
    monkeypatch.setitem(by_length.COST, "cpu", 10**6)  # all lengths in one pass, which is the widest
    row = Row(by_hand.patch(llama, size=0.3), 1.0)
    with passes(llama) as seen:
        plain = measure(llama, row, case)
    widest = seen.rows.index(max(seen.rows))
    with passes(llama, once_at(widest)) as halved_once:
        smaller = measure(llama, row, case)
    assert len(halved_once.rows) > len(seen.rows) and halved_once.rows[widest + 1] < max(seen.rows)
    if isinstance(plain[0], np.ndarray):
        assert all(np.allclose(one, other, rtol=1e-3, atol=1e-5) for one, other in zip(plain, smaller, strict=True))
    else:
        assert smaller == (pytest.approx(plain, abs=1e-5) if measure is kl else plain)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_what_does_not_fit_in_halves_either_is_told_with_the_remedy_and_works_later(llama, case, measure):
    row = Row(by_hand.patch(llama, size=0.3), 1.0)
    with (
        passes(llama, no_memory) as seen,
        pytest.raises(OutOfMemory, match=r"ran out of memory\. Shorten"),
        memory_told(),
    ):
        measure(llama, row, case)
    assert len(seen.rows) == 2, "once, and once smaller"
    by_hand.assert_at_rest(llama, by_hand.hooks(llama.network))
    measure(llama, row, case)


def test_memory_that_runs_out_in_the_middle_of_an_answer_begins_it_anew(llama, case):
    row = Row(by_hand.patch(llama, size=0.3))
    plain = answers(llama, row, case)
    with passes(llama, once_at(4)) as seen:
        assert answers(llama, row, case) == plain
    assert max(seen.rows[5:]) == max(seen.rows) // 2


def test_one_prompt_with_its_rows_of_weights_stays_in_one_batch(llama):
    prompt = prompts(llama)[0]
    with passes(llama, no_memory) as seen, pytest.raises(torch.OutOfMemoryError):
        list(generate(llama, [prompt], (VANILLA, VANILLA), SHORT))
    assert len(seen.rows) == 1


def test_an_atlas_goes_on_with_half_as_many_layers_at_once(llama, case, monkeypatch):
    plain, together = run(make_atlas(llama, case, ATLAS)), []
    own = group._run

    def fewer(tails: Tails, weights: dict[int, torch.Tensor]) -> Any:
        together.append(len(weights))
        if len(weights) > 1:
            no_memory()
        return own(tails, weights)

    monkeypatch.setattr(group, "_run", fewer)
    made = run(make_atlas(llama, case, ATLAS))
    assert [entry.block for entry in made.entries] == [entry.block for entry in plain.entries] and max(together) == 2
    assert together.count(2) == 1, "all other layers are in smaller groups from then on"
    for one, other in zip(made.entries, plain.entries, strict=True):
        assert one.safe == pytest.approx(other.safe, abs=1e-4) and one.kl == pytest.approx(other.kl, abs=1e-4)


def test_an_atlas_leaves_a_layer_out_that_does_not_fit_by_itself_either(llama, case, monkeypatch):
    plain, together = run(make_atlas(llama, case, ATLAS)), []
    own = group._run

    def fewer(tails: Tails, weights: dict[int, torch.Tensor]) -> Any:
        together.append(len(weights))
        if len(weights) > 1 or 1 in weights:
            no_memory()
        return own(tails, weights)

    monkeypatch.setattr(group, "_run", fewer)
    found = run(make_atlas(llama, case, replace(ATLAS, together=3)))
    assert [size for size in together if size > 1] == [3, 2], "halved until it fits"
    assert list(found.left_out) == [1] and "ran out of memory. Shorten" in found.left_out[1]
    assert [entry.block for entry in found.entries] == [0, 2]
    for one, other in zip(found.entries, plain.entries[::2], strict=True):
        assert one.safe == pytest.approx(other.safe, abs=1e-4) and one.kl == pytest.approx(other.kl, abs=1e-4)
    monkeypatch.setattr("editing.atlas.making.descended", no_memory)
    with pytest.raises(OutOfMemory, match=r"No layer has an edit\. The device ran out of memory\. Shorten"):
        run(make_atlas(llama, case, ATLAS))


def test_a_knock_out_of_every_mlp_goes_on_with_half_as_many(llama, case, monkeypatch):
    plain = run(causal.knock_out_mlps(llama, case, format=PLAIN))
    own, failed = Tails.logits, []

    def fewer(tails: Tails, changed: Any) -> Any:
        if len(changed) > 1 and not failed:
            failed.append(len(changed))
            no_memory()
        return own(tails, changed)

    monkeypatch.setattr(Tails, "logits", fewer)
    found = run(causal.knock_out_mlps(llama, case, format=PLAIN))
    assert failed and np.allclose(found.ablated, plain.ablated, atol=1e-4)


def test_another_error_is_no_reason_to_try_again_and_a_single_thing_has_no_halves():
    tried: list[int] = []

    def work(some: Any) -> list[Any]:
        tried.append(len(some))
        raise MemoryError if len(some) == 1 else RuntimeError("a shape does not fit")

    with pytest.raises(RuntimeError, match="shape"):
        halved(work, [1, 2, 3])
    with pytest.raises(MemoryError):
        halved(work, [1])
    assert tried == [3, 1] and halves([1, 2, 3]) == ([1, 2], [3])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(TOLD),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 12"),
        RuntimeError("unable to mmap 4096 bytes from file </tmp/x>: Cannot allocate memory (12)"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError("Cannot allocate memory (os error 12)"),
    ],
    ids=str,
)
def test_every_way_of_saying_that_there_is_no_memory_is_told_with_the_remedy(error):
    assert ran_out(error)
    with pytest.raises(OutOfMemory, match=r"ran out of memory\. Shorten"), memory_told():
        raise error


@pytest.mark.parametrize(
    ("dtype", "way"),
    [
        ("float32", "load the model in bfloat16"),
        ("bfloat16", "load the model in nf4"),
        ("nf4", "use a larger machine"),
        ("fp8", "use a larger machine"),
    ],
)
def test_the_remedy_is_a_type_that_takes_less_than_the_model_s_own(llama, monkeypatch, dtype, way):
    monkeypatch.setattr(InspectedModel, "dtype_name", dtype)
    less = f"The device ran out of memory. Shorten prompt and answers, watch fewer harmless prompts, or {way}."
    with pytest.raises(OutOfMemory, match=f"^{re.escape(less)}$"), memory_told(llama, SftSettings()):
        raise MemoryError


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("a shape does not fit"), ValueError("bad")]
)
def test_another_error_is_told_as_what_it_is(error):
    assert not ran_out(error)
    with pytest.raises(type(error)) as raised, memory_told():
        raise error
    assert raised.value is error
