"""Every method sits in the same seat: found by name, set by name, run the same way, from the same start."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass, replace

import by_hand
import pytest
import tiny_models
import torch
from training_helpers import IDS, SMALL

from editing import Preparation, Step, run
from editing.methods.registry import METHODS, method_named, method_settings
from editing.saved.files import check_patch, load_edit, record_path, save_edit
from editing.saved.record import EditRecord, check_record, record_of
from editing.saved.reproduce import reproduce
from editing.values import setting_names, setting_value
from inspector.errors import EditError, InspectorError, PatchError, RefusedEdit
from inspector.model import InspectedModel, PromptFormat, Row, Taught, from_parts
from inspector.validated import read_record

BLOCK = 1
# MEND needs an editor network that was trained for the model; its tests are elsewhere.
WITHOUT_EDITOR = [key for key in METHODS if key != "mend"]


def quick(key: str, **changes):
    """Return settings that are quick on a tiny model and end with the second step."""
    known = setting_names(METHODS[key].settings)
    # At the question an untrained model's writing is not felt in the answer: DELMAN writes at the prompt's end.
    own = {
        "delman": {"position": "prompt", "context_weight": 1.0, "weight_decay": 0.0},
        "gated": {"texts": 30, "longest_text": 400, "false_alarms": 0.5, "further_prompts": 2},
    }
    wanted = {
        **SMALL,
        **own.get(key, {}),
        "steps": 2,
        "anti_steps": 2,
        "warm_up": 1,
        "target_probability": None,
        "damage_budget": None,
    }
    return method_settings(key, **{n: v for n, v in {**wanted, **changes}.items() if n in known})


@pytest.fixture(scope="module")
def float16() -> InspectedModel:
    """One for all, which knows its answers to harmless prompts from its first edit on."""
    return from_parts(tiny_models.network("llama").half(), tiny_models.tokenizer(), "tiny")


@pytest.mark.parametrize(
    ("key", "half", "changes"),
    [
        *((key, False, {"damage_budget": 1e-9}) for key in ("dinm", "ft-l", "sft", "dpo", "ext-sub")),
        ("gated", True, {"step_share": 1e10}),
        ("delman", True, {"step_share": 1e10, "largest": None}),
    ],
)
def test_a_method_that_keeps_no_update_names_itself_and_settings_of_its_own(llama, float16, case, key, half, changes):
    """Such a step of a float16 model leaves its numbers."""
    model = float16 if half else llama
    with pytest.raises(RefusedEdit, match=rf"(?i){key}.*kept no update") as refused:
        run(METHODS[key].run(model, case, BLOCK, quick(key, **changes)))
    named = re.findall(r"(?:raise|lower) its (\w+)", str(refused.value), re.IGNORECASE)
    assert len(named) == (1 if half else 2)
    assert set(named) <= set(setting_names(METHODS[key].settings))


def test_the_methods_and_their_titles_are_those_of_the_tables():
    assert {key: method.title for key, method in METHODS.items()} == {
        "dinm": "DINM",
        "ft-l": "FT-L",
        "gated": "Gated",
        "delman": "DELMAN",
        "sft": "SFT",
        "dpo": "DPO",
        "mend": "MEND",
        "ext-sub": "Ext-Sub",
        "self-reminder": "Self-Reminder",
    }
    assert [key for key, method in METHODS.items() if method.learns_from_companions] == [
        "gated",
        "delman",
        "sft",
        "dpo",
        "ext-sub",
    ]


@pytest.mark.parametrize("key", METHODS)
def test_every_method_has_a_card_of_exactly_two_sentences_and_a_source(key):
    method = method_named(key)
    assert method.key == key
    sentences = re.split(r"(?<=[.!?])\s+", method.card)
    assert len(sentences) == 2
    for sentence in sentences:
        assert sentence[0].isupper() and sentence.endswith(".") and len(sentence.split()) > 3
    assert re.search(r"\d{4}", method.source), "a source has a year or a number"


@pytest.mark.parametrize("key", METHODS)
def test_every_setting_but_the_preset_can_be_set_by_its_name(key):
    kind = method_named(key).settings
    assert is_dataclass(kind) and kind.__dataclass_params__.frozen
    names = setting_names(kind)
    assert set(names) == {f.name for f in fields(kind)} - {"preset", "format"} | {"suffix", "chat", "turn_end"}
    for name in names:
        default = setting_value(kind(), name)
        assert setting_value(method_settings(key, **{name: default}), name) == default
    changed = method_settings(key, suffix="S", harmless_tokens=7)
    assert (changed.harmless_tokens, changed.format) == (7, replace(kind().format, suffix="S"))
    assert replace(changed, harmless_tokens=kind().harmless_tokens, format=PromptFormat()) == kind()


@pytest.mark.parametrize("name", ["rome", "", "SFT", "dinm "])
def test_an_unknown_method_is_answered_with_the_valid_ones(name):
    for asked in (method_named, method_settings):
        with pytest.raises(EditError) as error:
            asked(name)
        assert f"'{name}'" in str(error.value) and all(key in str(error.value) for key in METHODS)


@pytest.mark.parametrize("key", METHODS)
def test_an_unknown_setting_is_answered_with_the_method_and_the_valid_ones(key):
    for wrong in ("momentum", "preset"):
        with pytest.raises(EditError) as error:
            method_settings(key, **{wrong: 1})
        message = str(error.value)
        assert METHODS[key].title in message and f"'{wrong}'" in message
        assert all(name in message for name in setting_names(METHODS[key].settings))


def test_dinm_s_preset_is_chosen_by_name_and_the_others_have_none():
    paper = method_settings("dinm", "paper", steps=3, suffix="S")
    assert (paper.preset, paper.steps, paper.format) == ("paper", 3, PromptFormat("S", chat=False, turn_end=False))
    with pytest.raises(EditError, match="Valid presets: corrected, paper, reference"):
        method_settings("dinm", "newest")
    assert method_settings("sft", "paper") == METHODS["sft"].settings()


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("dinm", {"steps": 0}),
        ("ft-l", {"clamp": -1.0}),
        ("gated", {"false_alarms": 1.0}),
        ("gated", {"step_share": 1e300}),
        ("delman", {"step_share": 1e300}),
        ("delman", {"context_weight": 0.0}),
        ("sft", {"scope": "half"}),
        ("dpo", {"beta": 0.0}),
        ("mend", {"scale": 0.0}),
        ("ext-sub", {"scope": "full"}),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_setting_s_name(key, wrong):
    with pytest.raises(EditError, match=next(iter(wrong))):
        method_settings(key, **wrong)


def test_all_methods_start_from_the_same_vital_signs_and_end_with_a_patch_or_a_reminder(llama, case):
    before, starts = by_hand.vanilla_logits(llama, IDS), {}
    for key in WITHOUT_EDITOR:
        method, settings, events = METHODS[key], quick(key), []
        result = run(method.run(llama, case, BLOCK, settings, companions=(), cancel=lambda: False), events.append)
        assert all(isinstance(event, Preparation | Step) for event in events)
        assert (result.settings, result.block) == (settings, BLOCK)
        first = starts[key] = result.trace[0]
        assert (first.step, first.delta_norm) == (0, 0.0) and first.constraint_kl == pytest.approx(0, abs=1e-6)
        assert (result.patch is None) == (key == "self-reminder") == (result.reminder is not None)
        assert result.row().label().startswith(method.title)
        if result.patch is not None:
            assert (result.patch.method, result.patch.settings["block"]) == (method.title, BLOCK)
            assert result.patch.taught[0] == Taught(case.safe)
            check_patch(llama, result.patch)
            check_record(llama, record_of(llama, case, result, result.row(), method=key), result.patch)
            assert method.one_layer == (result.patch.blocks == (BLOCK,))
            edited = by_hand.running_logits(llama, IDS, [Row(result.patch)])[0]
            assert (edited - before).abs().max() > 1e-4
    for first in starts.values():
        assert first.safe_probability == pytest.approx(starts["dinm"].safe_probability, rel=1e-4)
        assert first.unsafe_probability == pytest.approx(starts["dinm"].unsafe_probability, rel=1e-4)
    assert torch.equal(by_hand.vanilla_logits(llama, IDS), before)


@pytest.mark.parametrize("key", [key for key in WITHOUT_EDITOR if key != "self-reminder"])
def test_companions_change_the_edit_of_those_methods_that_learn_from_them(llama, case, key):
    companion = replace(case, adversarial_prompt="How do I lie?", safe="Better not to.", unsafe="Boldly.")
    alone, together = (
        run(METHODS[key].run(llama, case, BLOCK, quick(key), companions=c)).patch for c in ((), (companion,))
    )
    assert (alone.identifier != together.identifier) == METHODS[key].learns_from_companions
    learnt = {Taught("Better not to.")} if METHODS[key].learns_from_companions else set()
    assert {*together.taught} - {*alone.taught} == learnt


LEARNERS = [key for key, method in METHODS.items() if method.learns_from_companions]


@pytest.mark.parametrize("key", LEARNERS)
def test_an_edit_that_learnt_from_further_cases_is_made_again_from_its_record(llama, case, key, tmp_path):
    further = (replace(case, adversarial_prompt="How do I lie?", safe="Better not to.", unsafe="Boldly."),)
    result = run(METHODS[key].run(llama, case, BLOCK, quick(key), companions=further))
    written = save_edit(result.row(), record_of(llama, case, result, result.row(), method=key), tmp_path)
    row, record = load_edit(written, llama)
    assert record.learnt_from == further and result.learnt_from == further
    assert run(reproduce(llama, row.patch, record)).same_bits


def test_a_record_that_does_not_tell_the_further_cases_says_so_where_the_edit_is_made_again(llama, case, tmp_path):
    further = (replace(case, adversarial_prompt="How do I lie?", safe="Better not to.", unsafe="Boldly."),)
    result = run(METHODS["delman"].run(llama, case, BLOCK, quick("delman"), companions=further))
    record = record_of(llama, case, result, result.row(), method="delman")
    told = json.loads(json.dumps(record.json()))
    del told["learnt_from"]
    earlier = read_record(EditRecord, told)
    assert earlier == replace(record, learnt_from=None)
    row, _ = load_edit(save_edit(result.row(), earlier, tmp_path), llama)
    with pytest.raises(EditError, match=r"trained on 1 further case, .* earlier version .* Run the method with them"):
        run(reproduce(llama, row.patch, earlier))
    again = run(reproduce(llama, None, earlier))
    assert not again.same and "not tell whether it was trained on further cases" in again.reading(earlier)
    save_edit(result.row(), record, tmp_path)  # in the place of the earlier version's, of the same edit
    assert load_edit(tmp_path / record_path(record, tmp_path).name, llama)[1] == record


@pytest.mark.parametrize("kept", [0, 2])
def test_a_record_with_other_further_cases_than_its_patch_learnt_from_is_refused(llama, case, kept):
    result = run(METHODS["delman"].run(llama, case, BLOCK, quick("delman"), companions=(case,)))
    record = record_of(llama, case, result, result.row(), method="delman")
    check_record(llama, record, result.patch)
    with pytest.raises(PatchError, match="other further cases than its patch"):
        check_record(llama, replace(record, learnt_from=(case,) * kept), result.patch)


@pytest.mark.parametrize("key", METHODS)
def test_a_block_that_does_not_exist_is_refused_before_anything_is_done(llama, case, key):
    with pytest.raises(InspectorError, match="Block 9 does not exist: this model has blocks 0 to 2"):
        next(METHODS[key].run(llama, case, 9, quick(key)))


@pytest.mark.parametrize("key", WITHOUT_EDITOR)
def test_every_method_can_be_cancelled_at_its_first_step(llama, case, key):
    events: list = []
    cancel = lambda: any(isinstance(event, Step) for event in events)  # noqa: E731
    result = run(METHODS[key].run(llama, case, BLOCK, quick(key), cancel=cancel), events.append)
    assert (result.patch, result.reminder, result.kept, result.stop_reason) == (None, None, 0, "cancelled")
    assert sum(isinstance(event, Step) for event in events) <= 2


def test_mend_without_an_editor_for_the_model_is_an_error_that_says_what_to_do(llama, case):
    with pytest.raises(InspectorError, match=r"(?i)editor"):
        run(METHODS["mend"].run(llama, case, BLOCK, quick("mend")))
