"""From the page's values to settings, decoding and texts: complete, checked, and refused with the remedy."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from dashboard.kit.running.run import shown_to_user
from dashboard.kit.sessions.typed import Texts, texts_of
from dashboard.kit.sessions.values import decoding_from, require_bundled
from dashboard.steps.operate.settings import SETTING_FIELDS, settings_from
from editing import DinmSettings, preset
from editing.values import setting_names, setting_value
from inspector.divergence import PRESETS
from inspector.errors import CaseError, EditError
from inspector.model import SUFFIX, Decoding, PromptFormat
from inspector.safeedit import bundled_cases

SCRIPT = "<script>alert(1)</script>"
RAIL = PromptFormat("")
CHANGEABLE = ("question", "template", "safe", "unsafe")


def values(**changes: Any) -> dict[str, Any]:
    """Return what the page's settings hold for ``corrected``, with changes, in no order that anybody may count on."""
    settings = preset("corrected")
    shown = {part: setting_value(settings, name) for part, name in SETTING_FIELDS.items()}
    return dict(reversed({**shown, **changes}.items()))


def test_every_setting_of_an_edit_is_on_the_page(page):
    names = set(setting_names(DinmSettings)) - {"suffix"}
    assert set(SETTING_FIELDS.values()) == names
    assert all(isinstance(getattr(page.parts, part), gr.components.Component) for part in SETTING_FIELDS)


@pytest.mark.parametrize("name", PRESETS)
def test_the_settings_that_a_preset_shows_are_the_ones_that_run(visitor, name):
    visitor.do("on_preset", edit_preset=name)
    shown = {part: visitor.standing(part) for part in SETTING_FIELDS}
    assert settings_from(name, PromptFormat(), shown) == preset(name)


def test_the_page_starts_with_the_settings_of_corrected(visitor):
    shown = {part: visitor.standing(part) for part in SETTING_FIELDS}
    assert settings_from(visitor.standing("edit_preset"), PromptFormat(), shown) == preset("corrected")


@pytest.mark.parametrize("part", ["learning_rate", "clamp", "target", "budget"])
@pytest.mark.parametrize("nothing", [0, 0.0, None])
def test_zero_means_none_where_a_number_may_be_left_out(part, nothing):
    assert getattr(settings_from("corrected", RAIL, values(**{part: nothing})), SETTING_FIELDS[part]) is None


@pytest.mark.parametrize("part", ["step_kl", "steps", "edit_weight", "weight_decay", "harmless_tokens"])
def test_an_empty_number_is_refused_by_name(part):
    with pytest.raises(CaseError, match=f"'{SETTING_FIELDS[part].replace('_', ' ')}' is empty. Give it a value"):
        settings_from("corrected", RAIL, values(**{part: None}))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("step_kl", 0),
        ("learning_rate", -1.0),
        ("steps", 0),
        ("steps", 100_000),
        ("edit_weight", -0.1),
        ("constraint_weight", -1),
        ("clamp", -0.5),
        ("target", 1.5),
        ("budget", -1),
        ("harmless_prompts", 0),
        ("harmless_tokens", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(part, value):
    with pytest.raises(EditError, match=f"{SETTING_FIELDS[part]} = .*out of range: it should"):
        settings_from("corrected", RAIL, values(**{part: value}))


def test_whole_numbers_are_whole_whatever_the_slider_sends():
    settings = settings_from("corrected", RAIL, values(steps=7.0, harmless_prompts=3.0, harmless_tokens=5.0))
    for count in (settings.steps, settings.harmless_prompts, settings.harmless_tokens):
        assert isinstance(count, int)


def test_the_suffix_of_the_rail_is_the_suffix_of_the_edit():
    assert settings_from("paper", PromptFormat("Be good."), values()).format.suffix == "Be good."


@pytest.mark.parametrize("setting", [True, False])
def test_an_edit_is_in_plain_text_where_the_rail_or_its_own_setting_says_so(setting):
    for rail in (True, False):
        made = settings_from("corrected", PromptFormat(chat=rail), values(chat=setting))
        assert made.format.chat is (rail and setting)


def test_an_unknown_preset_is_refused_with_the_valid_ones_and_its_name_escaped(visitor):
    with pytest.raises(gr.Error) as caught:
        visitor.do("on_preset", edit_preset=SCRIPT)
    assert "Valid presets: corrected, paper, reference" in caught.value.message
    assert "<script" not in caught.value.message and "&lt;script&gt;" in caught.value.message


def test_other_exceptions_are_not_dressed_as_the_person_s_mistake():
    with pytest.raises(gr.Error, match="ran out of memory"), shown_to_user():
        raise MemoryError
    with pytest.raises(gr.Error, match="went wrong on this machine") as caught, shown_to_user():
        raise ZeroDivisionError("a prompt")
    assert "a prompt" not in caught.value.message and isinstance(caught.value.__cause__, ZeroDivisionError)


def test_decoding_comes_from_the_page():
    shown = {"seed": 3, "temperature": 0.5, "max_new_tokens": 16}
    assert decoding_from(shown) == Decoding(max_new_tokens=16, temperature=0.5, seed=3)
    assert decoding_from(shown | {"seed": None}).seed == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((None, 0, 0), "longest answer must have 1 to 1024"),
        ((0, 0, 0), "longest answer must have 1 to 1024"),
        ((1025, 0, 0), "longest answer must have 1 to 1024"),
        ((8, None, 0), "temperature must be between 0 and 5"),
        ((8, -0.1, 0), "temperature must be between 0 and 5"),
        ((8, 5.1, 0), "temperature must be between 0 and 5"),
        ((8, 1, 10**30), "seed must be"),
        ((8, 1, -(10**30)), "seed must be"),
    ],
)
def test_decoding_out_of_range_is_refused_with_the_place_to_change_it(values, words):
    with pytest.raises(CaseError, match=f"{words}.* Change it under Decoding"):
        decoding_from(dict(zip(("max_new_tokens", "temperature", "seed"), values, strict=True)))


def test_the_demo_accepts_every_bundled_case_and_refuses_each_single_changed_text():
    def said(texts: Texts) -> str:
        try:
            require_bundled(texts)
        except CaseError as error:
            return str(error)
        return ""

    refused, taken = [], []
    for case in (one for one in bundled_cases() if one.split == "edit"):
        texts = texts_of(case)
        allowed = (texts, replace(texts, template=""), replace(texts, format=PromptFormat(chat=False)))
        refused += [(case.identifier, said(one)) for one in allowed if said(one)]
        changed = {name: replace(texts, **{name: getattr(texts, name) + "!"}) for name in CHANGEABLE}
        changed["suffix"] = replace(texts, format=PromptFormat(SUFFIX + "!"))
        changed["exchanged"] = replace(texts, safe=texts.unsafe, unsafe=texts.safe)
        found = [(name, said(one)) for name, one in changed.items()]
        taken += [(case.identifier, *one) for one in found if not re.search("read-only.* Pick an example", one[1])]
    assert (refused, taken) == ([], [])
