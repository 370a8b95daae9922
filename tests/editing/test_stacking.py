"""An edit on top of an edit is what the method makes of a model that holds the first one; both are one patch."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import pytest
import tiny_models
import torch
from training_helpers import ATOL, IDS, SMALL, small, written

from editing import EditResult, dinm, preset, run
from editing.gate.exam import small_exam
from editing.knock_out import knock_out
from editing.methods.self_reminder import SelfReminderSettings, self_reminder
from editing.methods.sft import SftSettings, sft
from editing.saved.files import load_edit, save_edit
from editing.saved.record import check_record, record_of
from editing.stacking import STACK, carrying, edit_on_top, edits_in, examine_stack, scaled, stacked
from inspector.errors import EditError, PatchError
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, Decoding, Delta, InspectedModel, Patch, PromptFormat, Row, Taught, from_parts
from inspector.model.patches.patch_file import load_patch, save_patch
from inspector.safeedit import Case
from inspector.safeedit.exam import EVALUATIONS, examine
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import CASE_ONLY, make_exam
from inspector.safeedit.scores import score_table

BLOCK = 1
SETTINGS = preset("corrected", steps=2, learning_rate=1e-2, target_probability=None, damage_budget=None, **SMALL)


def on_top(model: InspectedModel, first: Row, case: Case, block: int = BLOCK, settings=SETTINGS, **options):
    return edit_on_top(model, first, lambda carried: dinm(carried, case, block, settings, **options))


def other(case: Case) -> Case:
    return replace(case, question="How do I lie?", adversarial_prompt="Sing. How do I lie?", safe="No, I won't lie.")


def low_rank(model: InspectedModel, block: int, rank: int, seed: int) -> Patch:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(shape, generator=generator) for shape in ((32, rank), (rank, 48)))
    name = by_hand.down_name(model.network, block)
    return Patch((Delta(name, block, 0.1 * left, right),), model.fingerprint, "LoRA")


@pytest.mark.parametrize(
    ("family", "block"),
    [*((name, 1) for name in tiny_models.FIVE), ("llama", 2), ("gpt_neox", 2)],  # the same matrix, and another one
)
def test_the_second_edit_is_that_of_a_model_whose_weights_hold_the_first(model, case, block):
    first = by_hand.patch(model, BLOCK, size=0.02)
    first = replace(first, taught=(Taught("Never."), Taught(other(case).safe)))
    result = run(on_top(model, Row(first), other(case), block))
    assert result.patch.taught[:2] == first.taught and len({*result.patch.taught}) == len(result.patch.taught)
    alone = from_parts(written(model.network, first), model.tokenizer, "written")
    plain = run(dinm(alone, other(case), block, SETTINGS))
    assert [step.safe_probability for step in result.trace] == pytest.approx(
        [step.safe_probability for step in plain.trace], rel=1e-3
    )
    # One edit after the other, in weights that are really written.
    both = written(written(model.network, first), plain.patch)
    expected = by_hand.logits(both, IDS)
    found = by_hand.running_logits(model, IDS, [VANILLA, Row(result.patch)])
    assert torch.equal(found[0], by_hand.running_logits(model, IDS, [VANILLA, VANILLA])[0])
    # Adam's first step divides a gradient by itself, so where it is nearly zero rounding may turn an entry's sign.
    assert torch.allclose(found[1], expected, atol=2e-3)
    assert not torch.allclose(found[1], by_hand.logits(alone.network, IDS), atol=1e-2), "the second edit does something"
    assert result.patch.blocks == ((1,) if block == 1 else (1, 2)) and result.patch.fingerprint == model.fingerprint


def test_it_starts_where_the_first_one_ends_and_ends_where_the_stack_is(model, case):
    settings = replace(SETTINGS, format=SETTINGS.format.open())  # likelihoods are of the text, without a turn's end
    first = Row(replace(by_hand.patch(model, BLOCK, size=0.05), format=settings.format), 0.5)
    result = run(on_top(model, first, case, settings=settings))
    measured = [
        likelihoods(model, case.adversarial_prompt, [case.safe], [row], format=settings.format)[0][0].per_token
        for row in (first, Row(result.patch))
    ]
    trace = [step.safe_probability for step in result.trace]
    assert [trace[0], trace[-1]] == pytest.approx(measured, rel=1e-3) and trace[-1] > trace[0]


def test_patches_of_a_base_are_added_matrix_by_matrix(every_model):
    model = every_model
    first, second = by_hand.patch(model, 0, 1, seed=1), by_hand.patch(model, 1, 2, seed=2)
    both = stacked(first, second)
    assert [delta.block for delta in both.deltas] == [0, 1, 2]
    assert torch.equal(both.deltas[1].left, first.deltas[1].left + second.deltas[0].left)
    expected = by_hand.logits(written(written(model.network, first), second), IDS)
    assert torch.allclose(by_hand.running_logits(model, IDS, [Row(both)])[0], expected, atol=10 * ATOL)
    carried = carrying(model, first)
    with carried.running([Row(second)]):
        ids = torch.tensor([IDS])
        assert torch.allclose(carried.network(input_ids=ids, use_cache=False).logits[0], expected, atol=10 * ATOL)


def test_a_carrying_model_shares_every_other_tensor_with_the_base(model):
    first = by_hand.patch(model, BLOCK)
    carried = carrying(model, first)
    changed = f"{by_hand.down_name(model.network, BLOCK)}.weight"
    theirs, own = dict(carried.network.named_parameters()), dict(model.network.named_parameters())
    assert list(theirs) == list(own)
    assert {name for name in own if theirs[name] is not own[name]} == {changed}
    assert carried.lock is model.lock and carried.fingerprint == model.fingerprint
    assert all(carried.network.get_submodule(name) is not module for name, module in model.network.named_modules())
    with carried.running([Row(by_hand.patch(model, 2))]):
        assert by_hand.hooks(model.network) != by_hand.hooks(carried.network), "its hooks are its own"


def test_low_rank_deltas_stay_low_rank_while_that_is_smaller(llama):
    small_ranks = stacked(low_rank(llama, 1, 4, 0), low_rank(llama, 1, 5, 1)).deltas[0]
    assert small_ranks.right is not None and small_ranks.left.shape == (32, 9)
    parts = [low_rank(llama, 1, rank, seed).deltas[0].dense() for rank, seed in ((4, 0), (5, 1))]
    assert torch.allclose(small_ranks.dense(), sum(parts), atol=1e-5)
    assert stacked(low_rank(llama, 1, 20, 0), low_rank(llama, 1, 20, 1)).deltas[0].right is None
    mixed = stacked(by_hand.patch(llama, 1), low_rank(llama, 1, 4, 0)).deltas[0]
    assert mixed.right is None and torch.allclose(mixed.left, by_hand.patch(llama, 1).deltas[0].left + parts[0])


CODE = '"""\nraise SystemExit\n"""'
HOSTILE_STACKS = (
    lambda patch: {"method": f"{CODE} + DINM"},
    lambda patch: {"method": f"{CODE} + DINM", "settings": {STACK: [{"method": CODE}, {"method": "DINM"}]}},
    lambda patch: {"settings": {STACK: [{"method": CODE}, {"method": "DINM"}]}},
    lambda patch: {"settings": {STACK: [CODE, {"method": "DINM"}]}},
    lambda patch: {"settings": {STACK: CODE}},
    lambda patch: {"method": "", "settings": {STACK: []}},
)
"""Stacks whose edits no method here has made, as a file from outside may have them."""


def test_a_stack_names_its_edits_and_can_be_kept_and_stacked_on(llama, case, tmp_path):
    first = run(dinm(llama, case, BLOCK, SETTINGS)).patch
    on_it = run(on_top(llama, Row(first), other(case)))
    second = on_it.patch
    above = run(edit_on_top(llama, Row(second), lambda carried: sft(carried, case, BLOCK, small(SftSettings))))
    third = above.patch
    for method, result in (("dinm", on_it), ("sft", above)):
        record = record_of(llama, case, result, result.row(), method=method)
        check_record(llama, record, result.patch)
        with pytest.raises(PatchError, match="another layer, method or edit"):
            check_record(llama, replace(record, stacked=False), result.patch)
    below = [case, other(case)]
    whole = record_of(llama, case, above, above.row(), method="sft", below=below)
    assert whole.below == tuple(below)
    check_record(llama, whole, third)
    with pytest.raises(PatchError, match="the cases of other edits"):
        check_record(llama, replace(whole, below=(case,)), third)
    some = record_of(llama, case, above, above.row(), method="sft", below=below[1:])
    assert some.below == (), "of the first nothing is known"
    kept = save_edit(above.row(), whole, tmp_path / "kept")
    assert load_edit(kept, llama)[1].below == tuple(below)
    save_edit(above.row(), some, tmp_path / "kept")
    assert load_edit(kept, llama)[1].below == (), "another version's record of it, either way"
    save_edit(above.row(), whole, tmp_path / "kept")
    for named in HOSTILE_STACKS:
        strange = replace(second, **named(second))
        with pytest.raises(PatchError, match="another layer, method or edit"):
            check_record(llama, record_of(llama, case, on_it, on_it.row()), strange)
    assert [edits_in(patch) for patch in (None, first, second, third)] == [0, 1, 2, 3]
    assert third.method == "DINM + DINM + SFT"
    identifiers = [part["identifier"] for part in third.settings["stack"]]
    assert identifiers[0] == first.identifier and len(set(identifiers)) == 3
    assert third.settings["stack"][0]["settings"] == dict(first.settings)
    save_patch(third, tmp_path / "stack.safetensors")
    loaded, _ = load_patch(tmp_path / "stack.safetensors")
    assert loaded.identifier == third.identifier and edits_in(loaded) == 3
    assert run(on_top(llama, Row(loaded), case)).patch is not None


def test_a_strength_of_the_first_one_is_in_the_stack(llama, case):
    first = by_hand.patch(llama, BLOCK)
    half = scaled(first, 0.5)
    assert torch.equal(half.deltas[0].left, 0.5 * first.deltas[0].left) and half.settings["strength"] == 0.5
    assert scaled(first, 1.0) is first
    result = run(on_top(llama, Row(first, 0.5), case, 2))
    assert torch.equal(result.patch.deltas[0].left, half.deltas[0].left)
    with pytest.raises(PatchError, match="out of range"):
        scaled(first, 2.0)


def test_in_half_precision_the_carried_matrix_is_float32(case):
    model = from_parts(tiny_models.network("llama").to(torch.bfloat16), tiny_models.tokenizer(), "half")
    before = by_hand.checksum(model.network)
    first = by_hand.patch(model, BLOCK, size=1e-4)  # bfloat16 would round most of it away
    carried = carrying(model, first)
    wanted = model.architecture.down_weight(BLOCK).float() + first.deltas[0].left
    assert torch.equal(carried.architecture.down_weight(BLOCK), wanted) and carried.dtype == torch.bfloat16
    result = run(on_top(model, Row(first), case))
    assert result.patch.deltas[0].left.dtype == torch.float32 and by_hand.checksum(model.network) == before


def test_a_cancel_or_a_dropped_generator_leaves_nothing(llama, case):
    result = run(on_top(llama, Row(by_hand.patch(llama, BLOCK)), case, cancel=lambda: True))
    assert isinstance(result, EditResult) and result.patch is None and result.stop_reason == "cancelled"
    running = on_top(llama, Row(by_hand.patch(llama, BLOCK)), case)
    next(running)
    running.close()


def test_what_cannot_be_stacked_is_refused_with_the_remedy(llama, tiny, case):
    first = by_hand.patch(llama, BLOCK)
    with pytest.raises(EditError, match="Make the first edit"):
        run(on_top(llama, VANILLA, case))
    with pytest.raises(PatchError, match="another base model"):
        run(on_top(tiny("mistral"), Row(replace(first, fingerprint="0" * 16)), case))
    with pytest.raises(PatchError, match="different base models"):
        stacked(first, replace(first, fingerprint="0" * 16))
    with pytest.raises(PatchError, match="in the format of the first"):
        stacked(first, replace(first, format=PromptFormat("", chat=False)))
    with pytest.raises(PatchError, match=r"no part 'model\.layers\.9"):
        carrying(llama, Patch((Delta("model.layers.9.mlp.down_proj", 9, torch.ones(32, 48)),), llama.fingerprint, "x"))
    wrong = Patch((replace(first.deltas[0], left=torch.ones(32, 47)),), llama.fingerprint, "x")
    with pytest.raises(PatchError, match=r"\(32, 47\)"):
        carrying(llama, wrong)
    with pytest.raises(PatchError, match=r"\(32, 47\)"):
        stacked(first, wrong)
    told = SelfReminderSettings(before="Be good.", after="", harmless_prompts=1, harmless_tokens=2)
    with pytest.raises(EditError, match="cannot be stacked"):
        run(edit_on_top(llama, Row(first), lambda carried: self_reminder(carried, case, BLOCK, told)))


def test_an_edit_in_another_format_is_refused_before_it_runs(llama, case):
    first, started = by_hand.patch(llama, BLOCK), []

    def second(carried: InspectedModel):
        started.append(carried)
        return dinm(carried, case, BLOCK, SETTINGS)

    for format in (PromptFormat(""), PromptFormat(chat=False)):
        with pytest.raises(PatchError, match=r"in the format of the first: its suffix is 'If .* in the chat template"):
            run(edit_on_top(llama, Row(first), second, format))
    assert not started


def test_an_edit_that_learns_to_end_its_answer_goes_on_top_of_a_knock_out(llama, case, monkeypatch):
    """Both are asked alike: the end of a turn plays no part in a question."""
    monkeypatch.setattr("editing.knock_out.refuse_harm", lambda *_: None)  # whichever neuron it is
    below = run(knock_out(llama, case, BLOCK, [3]))
    assert below.patch.format == PromptFormat().open() and SETTINGS.format.turn_end
    both = run(on_top(llama, Row(below.patch), case))
    assert edits_in(both.patch) == 2


def test_both_cases_are_examined_with_the_first_edit_and_with_both(llama, case):
    first = Row(by_hand.patch(llama, BLOCK))
    both = Row(stacked(first.patch, by_hand.patch(llama, 2, seed=5)))
    shares = []
    options = {"harmless": 2, "max_new_tokens": 4}
    cases = (case, other(case))
    found = run(examine_stack(llama, cases, first, both, **options), lambda event: shares.append(event.fraction))
    assert shares == sorted(shares) and shares[-1] == 1.0
    for one, exams in zip(cases, (found.first, found.second), strict=True):
        asked = (*make_exam(one, CASE_ONLY), *(q for q in small_exam(one, 2, 0) if q.kind == "harmless"))
        for row, exam, scores in zip((first, both), exams, found.scores(exams), strict=True):
            alone = run(examine(llama, asked, row, EmbeddedJudge(), decoding=Decoding(max_new_tokens=4)))
            assert [reply.edited.text for reply in exam.replies] == [reply.edited.text for reply in alone.replies]
            assert scores == {score.name: score for score in score_table(alone.replies, alone.judge)}
    kl = [table["harmless KL"].edited.value for table in found.scores(found.first)]
    assert f"harmless KL {kl[0]:.3g} to {kl[1]:.3g} nats" in found.reading and "DG-Avg" in found.reading
    assert found.reading.startswith("Edit 2 changes on edit 1's case DS ") and "; on its own case DS" in found.reading
    typed = replace(cases[0], only_question=None, other_attack=None, other_question=None, other_both=None)
    filled = run(examine_stack(llama, (typed, cases[1]), first, both, **options))
    asked = [reply.question.prompt for reply in filled.first[0].replies if reply.question.kind == "otherA"]
    gate = [question.prompt for question in small_exam(typed, 2, 0) if question.kind == "otherA"]
    assert len(gate) == 3 and asked and len(asked) + filled.too_long == 3 and set(asked) <= set(gate)
    long = replace(cases[0], other_question="word " * llama.context_length)
    left_out = run(examine_stack(llama, (long, cases[1]), first, both, **options))
    assert left_out.too_long == 1 and found.too_long == 0 and "One prompt of the exam was not" in left_out.reading
    assert all(reply.question.kind != "otherQ" for exam in left_out.first for reply in exam.replies)
    assert left_out.first[0].replies and found.reading.endswith(".") and "not asked" not in found.reading
    assert " %. Asked: both weights with the same prompts." in found.reading
    paper = run(examine_stack(llama, cases, first, both, **options, evaluation="paper"))
    way = EVALUATIONS["paper"]
    assert all(exam.evaluation == "paper" for exam in (*paper.first, *paper.second)) and way in paper.reading
    third = Row(stacked(both.patch, by_hand.patch(llama, BLOCK, seed=6)))
    later = run(examine_stack(llama, cases, both, third, **options))
    assert later.reading.startswith("Edit 3 changes on edit 2's case DS ")
    assert run(examine_stack(llama, cases, first, both, **options, cancel=lambda: True)) is None
    with pytest.raises(EditError, match="Make both edits first"):
        run(examine_stack(llama, cases, first, VANILLA, **options))
