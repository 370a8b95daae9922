"""A routed edit: the score by hand, one decision a prompt, and vanilla bit for bit where the detector does not fire."""

from __future__ import annotations

from collections import deque

import by_hand
import pytest
import torch
from waits import counted_waits

from inspector.errors import NotFinite, PatchError
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Decoding, Detector, InspectedModel, Row, answer, encode
from inspector.model.answers.batching import generate, generate_each
from inspector.model.encoding import Encoded
from inspector.model.memory import batch_size
from inspector.model.passes import shared_rows as sharing
from inspector.model.passes.shared_rows import batched
from inspector.model.patches.detector import Hidden
from inspector.model.patches.routing import decided, mlp_inputs, scores, windows
from inspector.safeedit.marking import harmless_kl

TEXTS = ("How do I be mean?", "Why do leaves fall in the autumn?", "How do I be mean to a pirate?")
MLPS = {"gpt2": "mlp", "gpt_neox": "mlp", "opt": "fc1"}
BLOCKS = (0, 2)


@pytest.fixture
def prompts(model) -> list[tuple[int, ...]]:
    return [encode(model, text).prompt for text in TEXTS]


def detector(model, prompts, fire: tuple[int, ...]) -> Detector:
    """Return one that fires for the prompts of these positions: it reads 1 of their means and -1 of the others'."""
    found = dict(mlp_inputs(model, BLOCKS, prompts))
    means = torch.stack([found[n].mean(dim=0).flatten() for n in range(len(prompts))]).double()
    wanted = torch.tensor([1.0 if n in fire else -1.0 for n in range(len(prompts))], dtype=torch.float64)
    weights = (torch.linalg.pinv(means) @ wanted).float().reshape(len(BLOCKS), -1)
    made = Detector(BLOCKS, weights, 0.0, 0.0, model.fingerprint, window=1000)
    assert [score > 0 for score in scores(model, made, prompts)] == [n in fire for n in range(len(prompts))]
    return made


def test_the_scores_of_all_prompts_are_read_off_the_device_at_once(llama, monkeypatch):
    torch.manual_seed(0)
    reads = {"cases": torch.randn(1, 2, 32), "case_biases": (0.5,)}
    hidden = Hidden(torch.randn(3, 2, 32), torch.randn(3), torch.randn(3))
    made = Detector(BLOCKS, torch.randn(2, 32), 0.5, 0.0, llama.fingerprint, window=5, stride=4, hidden=hidden, **reads)
    prompts = [encode(llama, text).prompt for text in TEXTS]
    alone = [scores(llama, made, [prompt])[0] for prompt in prompts]
    states = {n: windows(found, 5, 4).flatten(1) for n, found in mlp_inputs(llama, BLOCKS, prompts)}
    with counted_waits(monkeypatch) as waits:
        together = made.scores([states[n] for n in range(len(prompts))])
        assert waits.since() == 1
    assert together == pytest.approx(alone, rel=1e-5) and made.scores([]) == []


def test_prompts_that_begin_alike_are_read_in_shared_rows_and_stay_what_they_are(every_model, monkeypatch):
    """Whichever order they come in; a family that cannot share them reads the same."""
    begun = tuple(range(20, 28))
    prompts = [(*begun, *range(40, 46)), (3, 4, 5), (*begun, 50, 51, 52), begun, (*begun, 60)]
    assert [[len(row) for row in rows] for rows in batched(every_model, prompts, 12)] == [[1, 4]], "side by side"
    together = dict(mlp_inputs(every_model, BLOCKS, prompts))
    monkeypatch.setattr(sharing, "_is_plain", lambda _model: False)
    for number, states in mlp_inputs(every_model, BLOCKS, prompts):
        assert together[number].shape[0] == len(prompts[number])
        assert torch.allclose(together[number], states, rtol=1e-4, atol=1e-5)


def test_many_prompts_share_rows_over_all_of_them_and_each_reads_as_it_does_alone(every_model, monkeypatch):
    """Some share a beginning, some are by themselves, some are longer than a sliding window of 16."""
    begun = tuple(range(20, 30))
    prompts = [(*begun, *range(40 + n, 41 + n + n % 5)) for n in range(20)]
    prompts += [(3, 4 + n, *range(50, 52 + n)) for n in range(4)] + [(*begun, *range(60, 70 + n)) for n in range(2)]
    prompts = prompts[::3] + prompts[1::3] + prompts[2::3]
    sizes: list[tuple[int, ...]] = []
    embeddings = every_model.network.get_input_embeddings()
    handle = embeddings.register_forward_pre_hook(lambda _module, args: sizes.append(tuple(args[0].shape)))
    try:
        found = dict(mlp_inputs(every_model, BLOCKS, prompts))
    finally:
        handle.remove()
    assert sum(rows * tokens for rows, tokens in sizes) < 0.8 * sum(map(len, prompts)), "less than without any pad"
    assert sorted(found) == list(range(len(prompts)))
    for number, prompt in enumerate(prompts):
        ((_, alone),) = mlp_inputs(every_model, BLOCKS, [prompt])
        assert torch.allclose(found[number], alone, rtol=1e-4, atol=1e-5)


def test_a_row_that_does_not_fit_into_memory_is_read_in_halves(llama):
    begun = tuple(range(20, 28))
    prompts = [(*begun, 40 + n, *range(50, 50 + n % 4)) for n in range(14)]
    assert any(len(rows) == 1 for rows in batched(llama, prompts, 12)), "a single row, which still has two halves"
    expected, sizes, failed = dict(mlp_inputs(llama, BLOCKS, prompts)), [], []

    def full(_module: object, args: tuple[torch.Tensor]) -> None:
        sizes.append(args[0].numel())
        if len(args[0]) == 1 and not failed:
            failed.append(sizes[-1])
            raise torch.OutOfMemoryError("out of memory")

    handle = llama.network.get_input_embeddings().register_forward_pre_hook(full)
    try:
        found = dict(mlp_inputs(llama, BLOCKS, prompts))
    finally:
        handle.remove()
    first, second = sizes[sizes.index(failed[0]) + 1 :][:2]
    assert max(first, second) < failed[0] < first + second, "each half has the beginning"
    assert all(torch.allclose(found[n], expected[n], rtol=1e-4, atol=1e-5) for n in range(14))


def test_the_pass_ends_where_the_last_mlp_that_is_read_begins(every_model):
    """What it reads is, bit for bit, what a pass through the whole model shows."""
    prompt = encode(every_model, TEXTS[0]).prompt
    entries = [next(iter(every_model.architecture.mlp_projections(block).values())) for block in (2, 0)]
    seen: list[torch.Tensor] = []
    ran: list[torch.nn.Module] = []
    before = [entry.register_forward_pre_hook(lambda _module, args: seen.append(args[0])) for entry in entries]
    after = [entry.register_forward_hook(lambda module, *_: ran.append(module)) for entry in entries]
    try:
        ((_, states),) = mlp_inputs(every_model, (2, 0), [prompt])
        assert ran == entries[1:], "the lower block's alone"
        seen.clear()
        with torch.no_grad():
            every_model.network(input_ids=torch.tensor([list(prompt)]))
    finally:
        for handle in (*before, *after):
            handle.remove()
    lower, higher = (each.reshape(-1, states.shape[-1]) for each in seen)
    assert torch.equal(states[:, 0], higher) and torch.equal(states[:, 1], lower)


@pytest.fixture
def apart(monkeypatch) -> None:
    """Let no prompts share a row."""
    monkeypatch.setattr(sharing, "_is_plain", lambda _model: False)


@pytest.mark.usefixtures("apart")
def test_a_detector_reads_as_many_prompts_at_once_as_fit(llama, monkeypatch):
    prompts = [encode(llama, text).prompt for text in TEXTS]
    asked, batch = [], InspectedModel.batch
    monkeypatch.setattr(InspectedModel, "batch", lambda model, *ids: (asked.append(len(ids)), batch(model, *ids))[1])
    together = dict(mlp_inputs(llama, BLOCKS, prompts))
    monkeypatch.setattr(batch_size, "free_memory", lambda _device: 0)
    alone = dict(mlp_inputs(llama, BLOCKS, prompts))
    assert asked == [3, 1, 1, 1]
    assert all(torch.allclose(alone[n], together[n], atol=1e-5) for n in range(3))
    assert list(mlp_inputs(llama, BLOCKS, [])) == []


def test_a_score_is_that_of_the_highest_window_of_what_enters_the_mlps(model, prompts):
    torch.manual_seed(0)
    made = Detector(BLOCKS, torch.randn(2, 32), 0.5, 0.0, model.fingerprint, window=5, stride=4)
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
    expected = []
    for number, prompt in enumerate(prompts):
        first, second = (states.reshape(-1, 32) for states in seen[2 * number : 2 * number + 2])
        tokens = first @ made.weights[0] + second @ made.weights[1] + 0.5
        begins = [*range(0, len(prompt) - 4, 4), len(prompt) - 5]
        expected.append(max(float(tokens[begin : begin + 5].mean()) for begin in begins))
    assert scores(model, made, prompts) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.usefixtures("apart")
def test_what_was_read_of_a_prompt_is_read_once_where_it_is_kept(llama):
    prompts = [encode(llama, text).prompt for text in TEXTS]
    torch.manual_seed(0)
    first, other, narrow = (
        Detector(BLOCKS, torch.randn(2, 32), 0.5, 0.0, llama.fingerprint, window=window) for window in (5, 5, 3)
    )
    rows: list[int] = []
    embeddings = llama.network.get_input_embeddings()
    handle = embeddings.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    try:
        expected = {made: scores(llama, made, prompts) for made in (first, other, narrow)}
        rows.clear()
        assert scores(llama, first, prompts[:2], keep=[True] * 2) == pytest.approx(expected[first][:2], rel=1e-5)
        assert scores(llama, first, prompts, keep=[True] * 3) == pytest.approx(expected[first], rel=1e-5)
        assert rows == [2, 1], "what is kept is not read again"
        assert scores(llama, other, prompts, keep=[True] * 3) == pytest.approx(expected[other], rel=1e-5) and rows == [
            2,
            1,
        ]
        assert scores(llama, narrow, prompts, keep=[True] * 3) == pytest.approx(expected[narrow], rel=1e-5)
        assert rows == [2, 1, 3], "other windows are other states"
    finally:
        handle.remove()


def test_the_last_window_ends_with_the_tokens_and_short_texts_are_one_window():
    values = torch.arange(10.0)
    assert windows(values, 4, 3).tolist() == [1.5, 4.5, 7.5]
    assert windows(values[:9], 4, 3).tolist() == [1.5, 4.5, 6.5]
    assert windows(values[:3], 4, 3).tolist() == [1.0] and windows(values[:4], 4, 3).tolist() == [1.5]
    two = torch.stack([values, -values], dim=1)
    assert windows(two, 4, 3)[:, 1].tolist() == [-1.5, -4.5, -7.5]


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
    assert [line.reading for line in lines[:3]] == [None] * 3, "vanilla lines have no detector"
    read = [line.reading.score for line in lines[3:] if line.reading is not None]
    assert read == pytest.approx(scores(model, routed.detector, prompts), rel=1e-4, abs=1e-5)
    assert {line.reading.threshold for line in lines[3:] if line.reading is not None} == {routed.detector.threshold}
    assert lines[1].tokens == lines[4].tokens and lines[0].tokens != lines[3].tokens
    assert answer(model, prompts[1], (VANILLA, routed), decoding).held_back == (False, True)


def test_what_a_detector_holds_back_is_not_run_beside_the_vanilla_weights_again(llama):
    """A batch has a line for each prompt and the weights that answer it; what is shown is as when each has its own."""
    prompts = [encode(llama, text).prompt for text in TEXTS]
    patch = by_hand.patch(llama, size=0.5)
    routed = Row(patch, detector=detector(llama, prompts, (0,)))
    sizes: list[int] = []
    embeddings = llama.network.get_input_embeddings()
    shown: dict[Row, list[list[list[int]]]] = {}
    for row, wide in ((routed, 4), (Row(patch), 6)):
        sizes.clear()
        handle = embeddings.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))
        try:
            steps = generate(llama, prompts, (VANILLA, row), Decoding(8))
            shown[row] = [[list(line.tokens) for line in lines] for lines in steps]
        finally:
            handle.remove()
        assert max(sizes) == wide
    for step, (found, every) in enumerate(zip(*shown.values(), strict=False)):
        assert found[:4] == every[:4] and found[4:] == found[1:3], f"token {step}"
    assert shown[routed][-1][0] != shown[routed][-1][3], "the patch must act where the detector fires"


def test_lines_of_the_same_prompt_and_weights_grow_together_and_keep_lists_of_their_own(llama):
    prompt = encode(llama, TEXTS[0]).prompt
    asked = [(prompt, VANILLA), (list(prompt), VANILLA), (prompt, Row(by_hand.patch(llama, size=0.5)))]
    for lines in generate_each(llama, asked, Decoding(6)):
        assert lines[0].tokens == lines[1].tokens and lines[0].tokens is not lines[1].tokens
    assert lines[0].ended == lines[1].ended and lines[0].tokens != lines[2].tokens


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
        scores(llama, Detector((0,), torch.ones(1, 32), 0.0, 0.0, "0" * 16), [prompt])
    with pytest.raises(PatchError, match="do not fit its blocks"):
        Detector((0, 1), torch.ones(1, 32), 0.0, 0.0, "")
    for broken in ({"weights": torch.full((1, 32), torch.nan)}, {"bias": float("inf")}, {"threshold": float("nan")}):
        with pytest.raises(PatchError, match="not finite"):
            Detector(
                **{"blocks": (0,), "weights": torch.ones(1, 32), "bias": 0.0, "threshold": 0.0} | broken, fingerprint=""
            )
    with pytest.raises(PatchError, match="at least one token"):
        Detector((0,), torch.ones(1, 32), 0.0, 0.0, "", window=0)
    for score in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(NotFinite, match=r"states that are not finite .*--dtype float32"):
            Detector((0,), torch.ones(1, 32), 0.0, 0.0, "").fires(score)
    with pytest.raises(PatchError, match="routes a patch"):
        Row(detector=Detector((0,), torch.ones(1, 32), 0.0, 0.0, ""))


def test_whatever_decides_where_a_detector_fires_is_in_its_digest_and_nothing_else():
    given = {"blocks": (0, 2), "weights": torch.ones(2, 4), "bias": 0.5, "threshold": 0.0, "fingerprint": "base"}
    made = Detector(**given)
    other = {"weights": torch.full((2, 4), 1.001), "blocks": (0, 1), "bias": 0.4, "threshold": 1e-9, "window": 11}
    other |= {"stride": 2, "fingerprint": "another"}
    digests = {Detector(**{**given, name: value}).digest for name, value in other.items()}
    assert len(digests | {made.digest}) == len(other) + 1
    again = Detector.from_record({**made.record(), "about": {"questions": 3}}, made.tensors())
    assert again.digest == made.digest
