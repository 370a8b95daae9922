"""Settings, cases and blocks that an edit cannot do with are refused before anything runs, with the remedy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from editing import DinmSettings, dinm, preset, run
from editing.texts.harmless import harmless_texts
from inspector.errors import ArchitectureError, CaseError, EditError, PromptError
from inspector.safeedit import Constraint

BLOCK = 1


def small(name: str = "corrected", **changes) -> DinmSettings:
    """Return a preset that is quick on a tiny model."""
    return preset(name, **{"harmless_prompts": 2, "harmless_tokens": 4, "own_refusals": 0, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("learning_rate", 1e9),
        ("steps", 0),
        ("steps", 100_000),
        ("edit_weight", -0.1),
        ("constraint_weight", float("nan")),
        ("weight_decay", -0.1),
        ("stop_below", float("nan")),
        ("clamp", 0.0),
        ("target_probability", 0.0),
        ("target_probability", 1.5),
        ("damage_budget", -1.0),
        ("harmless_prompts", 0),
        ("harmless_tokens", 0),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(name, value):
    with pytest.raises(EditError, match=f"setting {name} = .* out of range"):
        preset("corrected", **{name: value})


@pytest.mark.parametrize("name", ["preset", "optimiser", "constraint", "direction", "loss_positions"])
def test_an_unknown_choice_is_answered_with_the_valid_ones_and_does_not_pass_as_another(name):
    with pytest.raises(EditError, match=f"setting {name} = 'best' is unknown.*{getattr(DinmSettings(), name)}"):
        preset("corrected", **{name: "best"})


def test_an_unknown_preset_is_answered_with_the_valid_ones():
    with pytest.raises(EditError, match=r"'best'.*corrected, paper, reference"):
        preset("best")


def test_cases_and_blocks_that_do_not_fit_are_refused_before_anything_runs(llama, case):
    def refuse(error, match, changed=case, block=BLOCK, name="corrected"):
        with pytest.raises(error, match=match):
            next(dinm(llama, changed, block, small(name)))

    refuse(ArchitectureError, "Block 3 does not exist.*0 to 2", block=3)
    refuse(ArchitectureError, "Block -1 does not exist", block=-1)
    refuse(CaseError, "same text", replace(case, unsafe=case.safe + " "))
    refuse(CaseError, "safe answer is empty", replace(case, safe=" "))
    for name in ("reference", "paper"):
        refuse(CaseError, "no knowledge constraint.*corrected", replace(case, constraint=None), name=name)


@pytest.mark.parametrize("name", ["reference", "paper", "corrected"])
def test_empty_and_too_long_texts_are_refused(tiny, case, name):
    """GPT-2 has no positions beyond its context: without the check it ends in an index error."""
    model = tiny("gpt2")
    with pytest.raises(PromptError, match="prompt is empty"):
        run(dinm(model, replace(case, adversarial_prompt=" "), BLOCK, small(name)))
    for longer in ("adversarial_prompt", "safe", "unsafe"):
        with pytest.raises(PromptError, match="at most 512"):
            run(dinm(model, replace(case, **{longer: "a" * 600}), BLOCK, small(name)))


def test_a_constraint_longer_than_the_context_is_refused(tiny, case):
    for name in ("reference", "paper"):
        long = replace(case, constraint=replace(case.constraint, prompt="a" * 600))
        with pytest.raises(PromptError, match="at most 512"):
            run(dinm(tiny("gpt2"), long, BLOCK, small(name)))


def test_without_a_constraint_corrected_uses_the_bundled_prompts(llama, case):
    """The same edit, bit for bit, as with the first of them as the case's own constraint."""
    bundled = Constraint(harmless_texts(replace(case, constraint=None), 1)[0], "So.")
    none, first, own = (
        run(dinm(llama, replace(case, constraint=one), BLOCK, small(steps=3))).patch.identifier
        for one in (None, bundled, case.constraint)
    )
    assert none == first != own


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"chat": True}, "Set chat and turn_end to false, or loss_positions to 'aligned'"),
        ({"turn_end": True}, "Set chat and turn_end to false, or loss_positions to 'aligned'"),
        ({"chat": True, "loss_positions": "aligned"}, "Set chat to false, or constraint to 'harmless'"),
    ],
)
def test_an_edit_in_plain_text_is_not_asked_in_the_chat_template(changes, remedy):
    with pytest.raises(EditError, match=remedy):
        preset("reference", **changes)


def test_the_presets_and_what_follows_each_remedy_stay_possible():
    for name in ("corrected", "paper", "reference"):
        assert preset(name).preset == name
    aligned = preset("reference", chat=True, loss_positions="aligned", constraint="next token")
    assert aligned.format.chat and preset("paper", chat=True).format.chat
    plain = preset("corrected", loss_positions="reference", safe_answers=1, chat=False, turn_end=False)
    assert plain.loss_positions == "reference"
