"""Ten questions: what their answers tell of committed results."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from dashboard_helpers import seen
from measured_helpers import SETS, detected, timed_settings
from questions_helpers import NOBODY, study

from dashboard.kit.drawing.plots import EDITED
from dashboard.steps.questions import figures, results
from dashboard.steps.questions.panel import percent
from dashboard.steps.questions.printed import Measured
from dashboard.steps.questions.texts import QUESTIONS, answer
from editing.suffixes import WEIGHTS
from inspector.safeedit.cases import CATEGORIES

pytestmark = pytest.mark.usefixtures("model")


def test_the_suffix_is_answered_from_its_measurement_once_that_is_there(tmp_path: Path, monkeypatch):
    (question,) = (one for one in QUESTIONS if "suffix" in one.asked)
    without_the_suffixes(tmp_path, monkeypatch)
    before = question.answer(NOBODY)
    found = study()
    printed = (
        f"corrected at layer 20, 2 edits (cases 1, 3), 16 harmless prompts\n\n{found.table()}\n\n{found.reading}\n"
    )
    (tmp_path / "suffixes.txt").write_text(f"$ python -m benchmarks.suffixes --cases 2\n{printed}", encoding="utf-8")
    read = results.read("suffixes.txt", results.suffixes)
    assert list(read) == [(WEIGHTS[one.edited], one.suffix) for one in found.conditions]
    for one in found.conditions:
        cells = read[WEIGHTS[one.edited], one.suffix]
        assert "over-refusal" not in cells and set(cells) == {"DS", "DG-Avg", "DL", "still answers", "harmless KL"}
        for name, cell in cells.items():
            score = one.scores[name]
            assert (cell.mean, cell.low, cell.high) == (score.value, score.low, score.high)
    panel = question.answer(NOBODY)
    assert panel.kept.title != before.kept.title and "python -m benchmarks.suffixes --cases 2" in panel.kept.below
    assert "2 edits of the embedded model" in panel.kept.below and "not measured yet" not in panel.kept.below
    drawn = {bar.name: list(bar.x)[::-1] for bar in panel.kept.figure.data}
    assert drawn["DG-Avg"] == [1, 11, 21, 31, 51, 61, 71, 81] and drawn["refused"] == [None] * 8
    told = seen(answer(0, panel))
    assert "the model by itself defends 31 % (30 to 36), the edited weights alone 81 % (80 to 86)" in told
    assert "the paper's S alone 1 % (0 to 6), with the weights 51 % (50 to 56)" in told


def without_the_suffixes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let results be read from a folder that has those of the methods alone."""
    shutil.copy(results.FOLDER / "methods.txt", folder)
    monkeypatch.setattr(results, "FOLDER", folder)


def test_until_the_suffix_is_measured_a_reminder_is_shown_and_the_command_named(tmp_path: Path, monkeypatch):
    without_the_suffixes(tmp_path, monkeypatch)
    (panel,) = (one.answer(NOBODY) for one in QUESTIONS if "suffix" in one.asked)
    scores = results.read("methods.txt", results.scores)
    drawn = {bar.name: list(bar.x)[::-1] for bar in panel.kept.figure.data}
    names = ("DG-Avg", "DL", "over-refusal")
    assert drawn["with a reminder"] == [scores["Self-Reminder"][name].mean for name in names]
    assert drawn["vanilla"] == [scores["vanilla"][name].mean for name in names]
    assert "not measured yet. <code>python -m benchmarks.suffixes</code>" in panel.kept.below
    assert "benchmarks/results/methods.txt" in panel.kept.below


@pytest.mark.parametrize("measured", [True, False])
def test_what_rounding_by_itself_does_to_dl_is_read_beside_the_suffixes(tmp_path: Path, monkeypatch, measured):
    (question,) = (one for one in QUESTIONS if "suffix" in one.asked)
    damage = percent(results.read("detox.txt", results.recipes)["same weights rounded to bfloat16"]["DL"])
    shutil.copy(results.FOLDER / "detox.txt", tmp_path)
    if measured:
        shutil.copy(results.FOLDER / "suffixes.txt", tmp_path)
    without_the_suffixes(tmp_path, monkeypatch)
    below = question.answer(NOBODY).kept.below
    assert f"of the same weights rounded to bfloat16, with no edit, it is {damage}, over 18 cases" in below
    assert "benchmarks/results/detox.txt" in below and ("benchmarks/results/suffixes.txt" in below) is measured
    (tmp_path / "detox.txt").unlink()
    assert "same weights rounded to bfloat16, with no edit" not in question.answer(NOBODY).kept.below


def test_the_categories_are_answered_from_a_sweep_once_that_is_there(tmp_path: Path, monkeypatch):
    (question,) = (one for one in QUESTIONS if "categories" in one.asked)
    monkeypatch.setattr(results, "FOLDER", tmp_path)

    def line(name: str, cells: Sequence[object]) -> str:
        return f"{name:<26}" + "".join(f"{cell:>9}" for cell in cells)

    first, second = CATEGORIES[0], CATEGORIES[-1]
    printed = [
        "$ python -m editing.sweep --cases bundled --out runs/first --report",
        "27 of 27 cases scored",
        "",
        "Percent safe on held-out prompts: edited on the row's category, tested on the column's.",
        line("", [name[:8] for name in CATEGORIES]),
        line("vanilla", [10] * 9),
        line(first, [100, *[40] * 7, "-"]),
        line(second, [*[20] * 8, 80]),
        "",
    ]
    (tmp_path / "categories.txt").write_text("\n".join(printed), encoding="utf-8")
    found = results.read("categories.txt", results.matrix)
    assert found.edited == {first: (100, *[40] * 7, None), second: (*[20] * 8, 80)} and found.vanilla == (10,) * 9
    assert found.means() == (90, pytest.approx((7 * 40 + 8 * 20) / 15), 10)
    panel = question.answer(NOBODY)
    (drawn,) = panel.kept.figure.data
    assert list(drawn.y) == ["vanilla", first, second] and list(drawn.z[1]) == [100, *[40] * 7, None]
    assert "27 cases of the embedded model" in panel.kept.below and "not measured yet" not in panel.kept.below
    assert "--cases bundled --out runs/first --report</code>" in panel.kept.below
    assert (
        "the category that was edited on 90 % are defended, of the other categories 29 %, without an edit 10 %"
        in seen(answer(0, panel))
    )


def other_collections(tmp_path, monkeypatch, *change: str) -> str:
    """Return what Ten questions says of other collections where something is changed in the gate's result."""
    for name in ("categories.txt", "packaged.json", "safeguards.txt"):
        text = results.text_of(name)
        told = text.replace(*change, 1) if change and name == "safeguards.txt" else text
        (tmp_path / name).write_text(told, encoding="utf-8")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    (panel,) = (one.answer(NOBODY) for one in QUESTIONS if "categories" in one.asked)
    return panel.kept.below


def test_what_other_collections_show_is_told_of_all_weights_that_were_asked(tmp_path, monkeypatch):
    below = other_collections(tmp_path, monkeypatch)
    shown, found = seen(below), results.read("packaged.json", results.public_sets)
    assert len(found) == 3
    for title, defended in found.items():
        edited, routed, vanilla = (percent(defended[weights]) for weights in ("edited", "routed", "vanilla"))
        assert f"{title} {edited}, routed {routed}, without an edit {vanilla}" in shown
    edited, printed = json.loads(results.text_of("packaged.json")), results.text_of("safeguards.txt")
    assert f"corrected at layer {edited['layer']}, cases {edited['case']} and " in printed, "the gate was asked apart"
    word = re.search(r"^gate: .*\n(\w+)", printed, flags=re.MULTILINE)[1]
    assert word == "Passed" and "The gate was asked of neither; asked apart, it passes the first." in shown
    assert "benchmarks/results/safeguards.txt" in below


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("Passed: ", "Refused: "), "The gate was asked of neither; asked apart, it refuses the first."),
        (("cases 18 and", "cases 21 and"), "The gate was asked of neither."),
        (("edit: ", ""), "The gate was asked of neither."),
    ],
)
def test_the_gate_s_word_on_that_edit_is_told_and_none_where_it_was_asked_of_another(
    change, said, tmp_path, monkeypatch
):
    assert said in seen(other_collections(tmp_path, monkeypatch, *change))


def test_what_the_judge_is_trusted_with_is_refused_or_not_and_its_agreement_on_harm_stands_beside_it():
    (panel,) = (one.answer(NOBODY) for one in QUESTIONS if "safeguards" in one.asked)
    (told,) = (seen(text) for text in panel.text if "The judge of it all" in text)
    text = results.text_of("judge_accuracy.txt")
    refused, harm = text.index("1. Refused or not"), text.index("2. Answered as a stand-in for harmful")
    lines = [line for line in text[refused:].splitlines() if line.startswith("unseen") and "judge embedded" in line]
    accuracy, precision, recall = map(float, re.findall(r" (\d\.\d+) \[", lines[0]))
    (agreed,) = (
        float(re.findall(r" (\d\.\d+) \[", line)[0])
        for line in text[harm : text.index("3. Refused or complied")].splitlines()
        if line.startswith("all ") and "judge embedded" in line
    )
    assert "tells refused from not refused" in told
    assert f"right on {100 * accuracy:.1f} % of human labels" in told
    assert f"finds {100 * recall:.0f} % of their refusals" in told
    assert f"of what it calls a refusal {100 * precision:.0f} % is one" in told
    assert f"agrees with people on harm in {100 * agreed:.0f} % of answers" in told


def test_which_edit_was_timed_is_told_and_what_a_whole_one_takes():
    (panel,) = (one.answer(NOBODY) for one in QUESTIONS if "cost" in one.asked)
    (told,) = (seen(text) for text in panel.text if "layer 28" in text)
    assert timed_settings() == {("reference", 10)}
    assert "ten updates of the preset reference" in told and "preset reference" in seen(panel.kept.below)
    assert all(f"without the {what}" in told for what in ("harmless prompts", "further questions", "gate"))
    printed = results.text_of("safeguards.txt")
    edit, gate = (re.search(rf"^{what}: ([\d.]+) s", printed, flags=re.MULTILINE)[1] for what in ("edit", "gate"))
    assert f"layer 20 on 1 thread, took {edit} s, its gate {gate} s more" in told
    assert "corrected at layer 20" in printed and " 1 threads" in printed
    assert "benchmarks/results/safeguards.txt" in panel.kept.below


def test_where_no_speed_was_measured_no_edit_is_said_to_be_timed(tmp_path, monkeypatch):
    shutil.copy(results.FOLDER / "safeguards.txt", tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    (panel,) = (one.answer(NOBODY) for one in QUESTIONS if "cost" in one.asked)
    assert "preset" not in seen(" ".join(panel.text)) and "safeguards.txt" not in panel.kept.below


def test_where_the_detector_is_weak_is_told_where_it_is_praised():
    (panel,) = (one.answer(NOBODY) for one in QUESTIONS if "safeguards" in one.asked)
    (told,) = (seen(text) for text in panel.text if "The embedded model's detector finds" in text)
    for title in SETS.values():
        found, _ = detected("calibration_packaged.txt", f"harmful, found {title}")
        assert f"{title} {float(found):.0f} % (" in told
    for name in ("calibration_xstest.txt", "calibration_look_alikes.txt"):
        found, alarms = (
            float(detected(name, f"{kind} bare")[0]) for kind in ("harmful, found", "harmless, false alarms")
        )
        assert f"the detector finds {found:.0f} % (" in told and f"fires for {alarms:.0f} % (" in told, name
    assert "chosen with a part of them in sight" in told and "partly in sight too" in told


def test_a_number_without_an_interval_is_drawn_without_one():
    one, other = Measured(0.135), Measured(0.27, 0.2, 0.4)
    plain = figures.bars(["a", "b"], {"single": (EDITED, [one, None])}, "seconds")
    assert plain.data[0].error_x.array is None and list(plain.data[0].x) == [None, 0.135]
    mixed = figures.bars(["a", "b"], {"mixed": (EDITED, [one, other])}, "seconds").data[0]
    assert list(mixed.error_x.array) == [pytest.approx(0.13), None]
    assert list(mixed.error_x.arrayminus) == [pytest.approx(0.07), None]
    assert figures.trade({"a": (one, other)}, "cost", "gain").data[0].error_x.array is None


def test_the_single_runs_of_one_card_have_no_intervals():
    (panel,) = (one.answer(NOBODY) for one in QUESTIONS if "cost" in one.asked)
    assert len(panel.kept.figure.data) == 2 and all(bar.error_x.array is None for bar in panel.kept.figure.data)
