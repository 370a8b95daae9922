"""The suffix benchmark asks the suffixes that it lists, with edits made at the layer that it names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import suffixes
from dashboard.steps.questions import results
from editing import dinm, preset
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial, trial_cases
from editing.methods.dinm import to_be_routed
from editing.suffixes import SUFFIXES, study_of
from editing.values import changed
from inspector.errors import EditError, NotFinite
from inspector.model import VANILLA, Decoding, Detector, PromptFormat, Row, answer, encode
from inspector.model.patches.routing import scores


def test_a_run_prints_every_condition_and_the_reading(llama, case, monkeypatch, capsys):
    quick = {"steps": 1, "learning_rate": 1e-2, "harmless_prompts": 1, "harmless_tokens": 2, "damage_budget": None}
    monkeypatch.setattr(suffixes, "preset", lambda name, **own: preset(name, **quick, **own))
    monkeypatch.setattr(suffixes, "chosen_cases", lambda count: (case,) * count)
    asked = ["--layer", "1", "--cases", "1", "--harmless", "1", "--max-new-tokens", "3", "--suffix", "kind=Be kind."]
    made = []
    own = suffixes.suffix_study
    monkeypatch.setattr(
        suffixes,
        "suffix_study",
        lambda model, edits, *given, **how: own(model, made.extend(edits) or edits, *given, **how),
    )
    assert suffixes.main([*asked, "--plain-text"], lambda _options: llama) == 0
    told = capsys.readouterr().out
    assert [row.patch.format for _, row in made] == [PromptFormat(chat=False)]
    assert (
        "corrected at layer 1 (plain text), 1 edits" in told and "kind: Be kind." in told and "none: (nothing)" in told
    )
    rows = [line.split()[0] for line in told.splitlines() if line.startswith(("vanilla  ", "edited  "))]
    assert rows == ["vanilla"] * 5 + ["edited"] * 5 and "by the edited weights alone" in told
    assert "act on every prompt" in told and all(row.detector is None for _, row in made)
    read = results.suffixes(told)  # as the view Ten questions will, once it is committed
    asked = [(weights, name) for weights in rows[::5] for name in (*SUFFIXES, "kind")]
    assert list(read) == [*asked, ("rounded", "none")], "the yardstick of a suffix's damage stands beside it"
    assert set(read["rounded", "none"]) == {"DL", "still answers", "over-refusal", "harmless KL"}
    assert "without an edit and without a suffix, on the 1 harmless prompts" in told
    assert results.edits_of(told) == 1 and read["vanilla", "none"]["DL"].mean == 100
    assert {"still answers", "harmless KL"} <= read["edited", "none"].keys() and "harmless KL" not in read[
        "vanilla", "none"
    ]


def test_a_routed_run_asks_edits_made_to_be_routed_as_they_act(llama, case, monkeypatch, capsys):
    never = Detector((0,), torch.zeros(1, llama.architecture.d_model), 0.0, 1.0, llama.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), never)
    quick = {"steps": 1, "learning_rate": 1e-2, "harmless_prompts": 1, "harmless_tokens": 2, "damage_budget": None}
    quick |= {"companions": 0, "own_refusals": 0, "null_space": None}
    made, asked, kept, plain, own = [], [], [], suffixes.dinm, suffixes.suffix_study

    def studied(model, edits, *given, **how):
        asked.extend(edits)
        kept.append((yield from own(model, edits, *given, **how)))
        return kept[-1]

    monkeypatch.setattr(suffixes, "load_calibration", lambda _model: known)
    monkeypatch.setattr(suffixes, "chosen_cases", lambda count: (case,) * count)
    monkeypatch.setattr(
        suffixes, "dinm", lambda *given: made.append(given[-1]) or plain(*given[:-1], changed(given[-1], **quick))
    )
    monkeypatch.setattr(suffixes, "suffix_study", studied)
    few = ["--layer", "1", "--cases", "1", "--harmless", "2", "--max-new-tokens", "3", "--routed"]
    assert suffixes.main(few, lambda _options: llama) == 0
    told = capsys.readouterr().out
    assert made == [to_be_routed(preset("corrected"))]
    ((_, row),) = asked
    assert row.detector is not None and row.detector.digest != never.digest, "it knows the question of its case"
    assert "made to be routed at layer 1, 1 edits" in told and "act only where the detector fires" in told
    assert "by the edited weights alone" in told and results.edits_of(told) == 1
    (study,) = kept
    different = 0
    for name, text in SUFFIXES.items():
        form = replace(row.patch.format, suffix=text)
        prompts = [encode(llama, reply.question.prompt, None, form).prompt for reply in study.replies[name]]
        fires = [row.detector.fires(score) for score in scores(llama, row.detector, prompts)]
        assert [not reply.held_back for reply in study.replies[name]] == fires and set(fires) == {True, False}
        for reply, prompt, acts in zip(study.replies[name], prompts, fires, strict=True):
            vanilla, edited = answer(llama, prompt, (VANILLA, Row(row.patch)), Decoding(3)).texts
            assert reply.vanilla.text == vanilla.strip()
            assert reply.edited.text == (edited if acts else vanilla).strip(), "with each suffix, as the edit acts"
            different += edited != vanilla
    assert different


@pytest.mark.parametrize(
    ("error", "said"), [(NotFinite("No number. Use float32."), "No number"), (MemoryError(), "The device ran out")]
)
def test_a_case_without_an_edit_is_left_out_and_the_table_says_over_how_many_it_is(
    llama, case, monkeypatch, capsys, error, said
):
    cases = [replace(case, identifier=number) for number in (7, 8)]

    def failing_first(_model, case, _layer, settings):
        if case is cases[0]:
            raise error
        return (yield from dinm(llama, case, 1, replace(settings, steps=1, harmless_prompts=1, harmless_tokens=2)))

    def study(_model, edits, _settings, **_how):
        yield from ()
        asked.extend(edits)
        return study_of({name: ((),) * len(edits) for name in SUFFIXES}, SUFFIXES, "none")

    asked = []
    monkeypatch.setattr(suffixes, "dinm", failing_first)
    monkeypatch.setattr(suffixes, "chosen_cases", lambda _count: cases)
    monkeypatch.setattr(suffixes, "suffix_study", study)
    assert suffixes.main(["--layer", "1"], lambda _options: llama) == 0
    told = capsys.readouterr().out
    assert f"Left out: case 7: {said}" in told and [made for made, _ in asked] == cases[1:]
    assert "1 edits (cases 8; left out: 7)" in told and results.edits_of(told) == 1


def test_a_suffix_without_a_name_or_a_text_is_an_error_with_the_remedy(llama, capsys):
    assert suffixes.named_suffixes(["a=b=c"]) == {**SUFFIXES, "a": "b=c"}
    for wrong in ("only a name", "=text", "name="):
        with pytest.raises(EditError, match="NAME=TEXT"):
            suffixes.named_suffixes([wrong])
    assert suffixes.main(["--suffix", "x"], lambda _options: llama) == 2
    assert "NAME=TEXT" in capsys.readouterr().err


def test_cases_are_of_different_categories_and_none_that_the_layer_was_chosen_on():
    chosen = suffixes.chosen_cases(9)
    assert len(chosen) == len({case.category for case in chosen}) == 9 and {case.split for case in chosen} == {"edit"}
    assert not {case.identifier for case in chosen} & {case.identifier for case in trial_cases()}
