"""The benchmark of the methods goes on in its own folder only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.methods import same_settings
from editing.contest import ContestSettings
from inspector.errors import EditError


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


def test_a_folder_of_finished_cases_without_their_settings_is_refused(llama, tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "standings.json").write_text("{}")
    with pytest.raises(EditError, match="Give another --out"):
        same_settings(tmp_path, llama, ContestSettings())
