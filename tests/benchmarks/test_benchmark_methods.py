"""The benchmark of the methods goes on in its own folder only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.methods import all_asked, same_settings
from editing.contest import ContestSettings, Standing
from editing.methods.registry import METHODS
from inspector.errors import EditError
from inspector.model import Decoding, PromptFormat, answer, encode
from inspector.safeedit.exam import EVALUATIONS, asked_as
from inspector.safeedit.questions import CASE_ONLY


def test_a_folder_of_other_settings_or_another_model_is_refused_and_its_own_goes_on(tiny, tmp_path):
    settings, model = ContestSettings(methods=("dinm", "sft")), tiny("llama")
    same_settings(tmp_path / "out", model, settings)
    same_settings(tmp_path / "out", model, settings)
    others = (
        (model, replace(settings, methods=("sft",))),
        (model, replace(settings, scope="full")),
        (model, replace(settings, max_new_tokens=3)),
        (tiny("qwen2"), settings),
    )
    for other, changed in others:
        with pytest.raises(EditError, match=r"other settings or another model. Give another --out"):
            same_settings(tmp_path / "out", other, changed)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_a_refused_edit_is_asked_as_the_vanilla_weights_that_it_leaves(llama, case, evaluation):
    settings = ContestSettings(methods=("dinm", "sft"), size=CASE_ONLY, max_new_tokens=3, evaluation=evaluation)
    refused = Standing(METHODS["dinm"], failed="No update is kept. Change it.", refused=True)
    failed = Standing(METHODS["sft"], failed="No memory. Train LoRA.")
    first, second = all_asked(llama, case, (refused, failed), settings)
    assert second is failed and first.refused and first.exam.evaluation == evaluation
    for reply in first.exam.replies:
        vanilla = encode(llama, reply.question.prompt, None, PromptFormat())
        plain = encode(llama, reply.question.prompt, None, asked_as(PromptFormat(), evaluation))
        assert reply.edited.text == said(llama, vanilla) and reply.vanilla.text == said(llama, plain)


def said(model, encoded) -> str:
    return answer(model, encoded.prompt, decoding=Decoding(3)).texts[0].strip()


def test_a_folder_of_finished_cases_without_their_settings_is_refused(llama, tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "standings.json").write_text("{}")
    with pytest.raises(EditError, match="Give another --out"):
        same_settings(tmp_path, llama, ContestSettings())
