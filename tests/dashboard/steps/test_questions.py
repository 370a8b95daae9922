"""Ten questions: each is answered by the visitor's own session or by a committed result, and by nothing else."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import made_up
import pytest
import torch
from dashboard_helpers import QUICK, Page, Visitor, own_question, seen
from measured_helpers import SETS, detected, timed_settings

from dashboard.house import VIEWS
from dashboard.kit.drawing.plots import EDITED
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.steps.questions import detectors, figures, results
from dashboard.steps.questions.panel import FIRST, Held, as_printed, percent, source
from dashboard.steps.questions.results import Measured
from dashboard.steps.questions.texts import QUESTIONS, answer, listed
from editing import preset
from editing.methods.dinm import to_be_routed
from editing.suffixes import SCORES, SUFFIXES, WEIGHTS, Condition, ScoreName, SuffixStudy
from inspector.model import Detector, InspectedModel
from inspector.model.patches.rounded import COMPUTED, ROUNDED
from inspector.safeedit import bundled_cases
from inspector.safeedit.cases import CATEGORIES
from inspector.safeedit.intervals import Estimate

pytestmark = pytest.mark.usefixtures("model")

READERS = {
    "calibration.txt": (results.trials, detectors.detection),
    "calibration_packaged.txt": (detectors.elsewhere,),
    "calibration_xstest.txt": (detectors.misled,),
    "locators.txt": (results.regrets, results.chosen, results.cases_of),
    "methods.txt": (results.erasing, results.scores, results.region_means, results.cases_of),
    "detox.txt": (results.recipes, results.cases_of),
    "edit_speed.txt": (results.speeds,),
    "judge_accuracy.txt": (results.judge,),
    "gpu_h100.json": (results.device,),
    "gpu_h200.json": (results.device,),
    "packaged.json": (results.public_sets, results.packaged_edit),
    "safeguards.txt": (results.guarded,),
    "suffixes.txt": (results.suffixes, results.edits_of),
    "categories.txt": (results.matrix, results.cases_of),
}
UNASKED = {
    "atlas_speed.txt": "how long an atlas takes",
    "detox_computed.txt": "how far answers move where the weights compute in bfloat16, the yardstick of a target",
    "detox_methods.txt": "the other methods on the cases of the table of defence, which holds their rows",
    "dtypes.json": "how far bfloat16 is from float32",
    "edit_speed_before.txt": "how fast an edit was before one loop served every method",
    "generation_speed.json": "how long answers take to write",
    "limits.json": "the numbers of limits.txt",
    "limits.svg": "the picture of limits.txt",
    "limits.txt": "how near each part comes to what the machine allows",
    "load.json": "how the page serves many visitors",
    "own_question.txt": "what a second reading, of the case's own question, adds to the detector",
    "planted_faults.txt": "what the tests find",
    "scoring_speed.txt": "how long scoring takes",
    "start.json": "how long the page takes to open",
    "start_cold.txt": "how long make demo takes on a fresh clone",
}
"""Results that no question needs, each with the reason: what they are of."""
NOBODY = Held(Session(), lambda name: None)


def example_of(page: Page) -> Held:
    session = page.context.example.session
    return Held(session, lambda name: page.context.bus.offered(name).call({}, session))


def test_every_committed_result_is_read_or_no_question_needs_it(monkeypatch: pytest.MonkeyPatch):
    """What the answers read is recorded: a new result that no panel reads fails, and one that is gone."""
    taken: set[tuple[str, Callable]] = set()
    opened: set[str] = set()

    def reading(name: str, reader: Callable):
        taken.add((name, reader))
        return read(name, reader)

    def opening(name: str) -> str | None:
        opened.add(name)
        return text_of(name)

    read, text_of = results.read, results.text_of
    monkeypatch.setattr(results, "read", reading)
    monkeypatch.setattr(results, "text_of", opening)
    for question in QUESTIONS:
        question.answer(NOBODY)
    known = {(name, reader) for name, readers in READERS.items() for reader in readers}
    assert taken <= known and {name for name, _ in taken} == READERS.keys()
    assert opened == READERS.keys() and not opened & UNASKED.keys()
    assert opened | UNASKED.keys() == {path.name for path in results.FOLDER.iterdir()}
    assert [(name, reader.__name__) for name, reader in known if read(name, reader) is None] == []


def test_what_is_read_is_what_was_printed():
    """Each number is looked up in the output itself, in a line that is found another way."""

    def line(name: str, begins: str, after: str = "") -> str:
        text = results.text_of(name)
        return next(one for one in text[text.index(after) :].splitlines() if one.strip().startswith(begins))

    found = results.read("calibration.txt", results.trials)
    for block, defended, kl in zip(found.blocks, found.defended, found.kl, strict=True):
        printed = line("calibration.txt", f"layer  {block:2d}")
        assert f" {defended:.0f} %" in printed and f"{kl:.4f}" in printed
    heads = re.split(r"\s{2,}", line("methods.txt", "toxicity, %", "Erase or suppress").strip())
    for name, cells in results.read("methods.txt", results.erasing).items():
        printed = re.split(r"\s{2,}", line("methods.txt", f"{name} ", "Erase or suppress").strip())[1:]
        for head, shown in zip(heads, printed, strict=True):
            one = cells[head]
            interval = "" if one.low is None else f" [{one.low:.2f}, {one.high:.2f}]{'*' if one.forced else ''}"
            assert shown == f"{f'{one.mean:.2f}' if interval else f'{one.mean:,.0f}'}{interval}", (name, head)
    for name, cells in results.read("locators.txt", results.regrets).items():
        printed = line("locators.txt", f"{name}  ", "regret  ")
        assert all(f"{cell.mean:.2f}" in printed for cell in cells.values()), name
    for name, cells in results.read("detox.txt", results.recipes).items():
        for score, after in (("DG-Avg", "Defence: "), ("degenerate", "Harm: ")):
            printed = line("detox.txt", f"{name.replace('made to be routed, routed', 'the same, routed')}  ", after)
            assert f" {cells[score].mean:.0f} [{cells[score].low:.0f}, {cells[score].high:.0f}]" in printed
    packaged = results.text_of("calibration_packaged.txt")
    misled = results.read("calibration_xstest.txt", detectors.misled)
    for title, found in results.read("calibration_packaged.txt", detectors.elsewhere).items():
        printed = next(one for one in packaged.splitlines() if f" {title} " in one)
        assert f" {found.mean:.1f} %  ({found.low:.1f} to {found.high:.1f}, " in printed, title
    assert f"{misled.area:.4f}" in line("calibration_xstest.txt", "with the suffix")
    for begins, found in (("harmful, found  ", misled.found), ("harmless, false alarms  ", misled.alarms)):
        printed = line("calibration_xstest.txt", begins)
        assert f" {found.mean:.1f} %  ({found.low:.1f} to {found.high:.1f}, " in printed, begins
    scores = results.read("methods.txt", results.scores)["DINM"]
    assert f"{scores['DG-Avg'].mean:.2f}" in line("methods.txt", "DINM ") and scores["transfer"].low is not None


def test_only_the_same_edit_routed_is_called_by_the_line_above_it():
    printed = results.text_of("detox.txt")
    lines = [line for line in printed.splitlines() if line.startswith(f"{ROUNDED} ")][:2]
    for line in lines:
        printed = printed.replace(line, f"{line}\n{line.replace(ROUNDED, COMPUTED)}")
    found = list(results.recipes(printed))
    assert found[found.index(ROUNDED) + 1] == COMPUTED and found[-1] == "made to be routed, routed"


def test_there_are_ten_and_each_has_text_a_figure_and_a_place_to_try_it(page: Page):
    held = example_of(page)
    assert len(QUESTIONS) == 10 and listed().count("data-number") == 10
    for number, question in enumerate(QUESTIONS):
        panel = question.answer(held)
        shown = answer(number, panel)
        assert question.asked in seen(shown) and len(panel.text) >= 2 and panel.tries
        assert {view for view, _ in panel.tries} <= set(VIEWS)
        assert panel.live.figure is not None or panel.kept.figure is not None, question.asked
        if panel.kept.figure is not None:
            assert '<p class="source"><code>python -m' in panel.kept.below, question.asked
            assert "benchmarks/results/" in panel.kept.below


def test_the_example_s_own_measurements_answer_most_of_them(page: Page):
    live = [question.answer(example_of(page)).live for question in QUESTIONS]
    assert sum(part.figure is not None for part in live) >= 8
    assert all(seen(part.below).strip() for part in live)


def test_with_nothing_measured_on_the_visit_each_says_what_to_do():
    for question in QUESTIONS:
        live = question.answer(NOBODY).live
        assert live.figure is None and re.search(r"press|Stress test", seen(live.below)), question.asked


def test_without_committed_results_no_number_is_invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    for number, question in enumerate(QUESTIONS):
        panel = question.answer(NOBODY)
        assert panel.kept.figure is None and not re.search(r"\d %|\d\.\d", seen(panel.kept.below)), question.asked
        assert not re.search(r"\(\d+ to \d+\)|\d+\.\d\d", seen(answer(number, panel))), question.asked


def test_a_result_that_looks_otherwise_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    for name in READERS:
        (tmp_path / name).write_text("$ python -m somewhere\nanother table [1, 2]\n", encoding="utf-8")
    assert all(results.read(name, reader) is None for name, readers in READERS.items() for reader in readers)
    for question in QUESTIONS:
        assert question.answer(NOBODY).kept.figure is None


def test_a_result_that_is_committed_later_is_shown_as_it_was_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    committed = as_printed("calibration.txt", "Trials", "python -m other")
    (printed,) = re.findall(r"<pre tabindex=\"0\">(.*?)</pre>", committed, flags=re.DOTALL)
    assert html.unescape(printed) == results.text_of("calibration.txt") and "not measured yet" not in committed
    assert "python -m other" not in committed, "the output names its command itself"
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert "not measured yet. <code>python -m benchmarks.suffixes</code>" in as_printed(
        "suffixes.txt", "Suffix", "python -m benchmarks.suffixes"
    )
    (tmp_path / "suffixes.txt").write_text("$ python -m benchmarks.suffixes --cases 9\n<b>DS 1\n", encoding="utf-8")
    shown = as_printed("suffixes.txt", "Suffix", "python -m benchmarks.suffixes")
    assert "&lt;b&gt;DS 1" in shown and "--cases 9</code>" in shown


def test_a_visit_that_has_measured_nothing_has_a_committed_figure_with_its_command_for_every_question():
    for question in QUESTIONS:
        kept = question.answer(NOBODY).kept
        assert kept.figure is not None and len(kept.figure.data) > 0, question.asked
        assert re.search(r'<p class="source"><code>python -m \S', kept.below), question.asked


def study() -> SuffixStudy:
    """A made-up study of two edits, each of its numbers another one."""
    names: tuple[ScoreName, ...] = SCORES
    conditions = []
    for edited, (place, suffix) in itertools.product((False, True), enumerate(SUFFIXES)):
        first = 50 * edited + 10 * place
        scores = {name: Estimate(first + n, 8, first, first + n + 5) for n, name in enumerate(names)}
        conditions.append(Condition(suffix, edited, scores | {"over-refusal": Estimate(None, 0)}))
    return SuffixStudy(tuple(conditions), SUFFIXES, 2, {})


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
        assert "over-refusal" not in cells and set(cells) == {"DS", "DG-Avg", "DL"}
        for name, cell in cells.items():
            score = one.scores[name]
            assert (cell.mean, cell.low, cell.high) == (score.value, score.low, score.high)
    panel = question.answer(NOBODY)
    assert panel.kept.title != before.kept.title and "python -m benchmarks.suffixes --cases 2" in panel.kept.below
    assert "2 edits of the embedded model" in panel.kept.below and "not measured yet" not in panel.kept.below
    drawn = {bar.name: list(bar.x)[::-1] for bar in panel.kept.figure.data}
    assert drawn["DG-Avg"] == [1, 11, 21, 51, 61, 71] and drawn["refused"] == [None] * 6
    told = seen(answer(0, panel))
    assert "the model by itself defends 21 % (20 to 26), the edited weights alone 71 % (70 to 76)" in told
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


def test_what_other_collections_show_is_told_of_all_weights_that_were_asked():
    (panel,) = (one.answer(NOBODY) for one in QUESTIONS if "categories" in one.asked)
    shown, found = seen(panel.kept.below), results.read("packaged.json", results.public_sets)
    assert len(found) == 3
    for title, defended in found.items():
        edited, routed, vanilla = (percent(defended[weights]) for weights in ("edited", "routed", "vanilla"))
        assert f"{title} {edited}, routed {routed}, without an edit {vanilla}" in shown
    edited, printed = json.loads(results.text_of("packaged.json")), results.text_of("safeguards.txt")
    assert f"corrected at layer {edited['layer']}, cases {edited['case']} and " in printed, "the gate was asked apart"
    refused = re.search(r"^gate: .*\n(\w+)", printed, flags=re.MULTILINE)[1] == "Refused"
    assert refused and "The gate was asked of neither; it refuses the first." in shown
    assert "benchmarks/results/safeguards.txt" in shown


@pytest.mark.parametrize("change", [("cases 18 and", "cases 21 and"), ("Refused: ", "Passed: "), ("edit: ", "")])
def test_of_another_edit_and_of_one_that_passes_the_gate_is_not_said_to_refuse_it(change, tmp_path, monkeypatch):
    for name in ("categories.txt", "packaged.json", "safeguards.txt"):
        text = results.text_of(name)
        (tmp_path / name).write_text(text.replace(*change, 1) if name == "safeguards.txt" else text, encoding="utf-8")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    (panel,) = (one.answer(NOBODY) for one in QUESTIONS if "categories" in one.asked)
    shown = seen(panel.kept.below)
    assert "The gate was asked of neither." in shown and "it refuses" not in shown


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
    assert f"layer 20 on 2 threads, took {edit} s, its gate {gate} s more" in told
    assert "corrected at layer 20" in printed and " 2 threads" in printed
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
    found, alarms = (
        float(detected("calibration_xstest.txt", f"{kind} bare")[0])
        for kind in ("harmful, found", "harmless, false alarms")
    )
    assert f"the detector finds {found:.0f} % (" in told and f"fires for {alarms:.0f} % (" in told
    assert "chosen with a part of them in sight" in told and "partly in sight too" in told


def test_what_is_said_of_an_older_result_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, (_, said) in results.CAVEATS.items():
        assert results.caveat(name) == said, f"{name} was measured anew: what is said of the older one can go"
        panels = [seen(part.below) for part in (question.answer(NOBODY).kept for question in QUESTIONS)]
        using = [shown for shown in panels if f"benchmarks/results/{name}" in shown]
        assert using and all(said in shown for shown in using), name
        shutil.copy(results.FOLDER / name, tmp_path / name)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    for name in results.CAVEATS:
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write("\n")
        assert results.caveat(name) == ""


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("methods.txt",), ("before the calibration", "toxic layer with a step size of 1e-3", "attack templates")),
        (("safeguards.txt",), ("seconds were taken beside other work",)),
        (("gpu_h100.json", "gpu_h200.json"), ("a token a byte then", "constraint was some 250 tokens long")),
    ],
)
def test_what_benchmarks_readme_says_of_how_an_older_result_was_measured_stands_beside_the_answer_too(names, words):
    readme = " ".join((results.FOLDER.parent / "README.md").read_text(encoding="utf-8").split())
    for word in words:
        assert word in readme and all(word in results.caveat(name) for name in names), word


SOURCE = re.compile(r'<p class="source"><code>(.*?)</code> <span>(.*?)</span></p>')


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_every_result_that_an_answer_reads_is_named_with_its_command_and_what_has_changed_since(number, monkeypatch):
    taken: set[str] = set()

    def recording(name: str, reader):
        found = read(name, reader)
        if found is not None:
            taken.add(name)
        return found

    read = results.read
    monkeypatch.setattr(results, "read", recording)
    shown = QUESTIONS[number].answer(NOBODY).kept.below
    named = {name: html.unescape(command) for command, names in SOURCE.findall(shown) for name in names.split(", ")}
    assert taken and {f"benchmarks/results/{name}" for name in taken} <= named.keys()
    for name in taken:
        printed = [line[2:] for line in results.text_of(name).splitlines() if line.startswith("$ ")]
        command = named[f"benchmarks/results/{name}"]
        assert command in printed if printed else re.fullmatch(r"python -m benchmarks\.\w+( --\w+)?", command), name
        assert results.caveat(name) in seen(shown), name


def test_of_a_file_with_several_commands_the_one_that_gave_the_numbers_is_named():
    (panel,) = (one.answer(NOBODY) for one in QUESTIONS if "safeguards" in one.asked)
    text = results.text_of("calibration.txt")
    (command, _), *_ = SOURCE.findall(panel.kept.below)
    printed = f"$ {html.unescape(command)}\n"
    assert text.count(printed) == 1 and "with the suffix: area" in text[text.index(printed) :], "the detector's numbers"


def test_one_that_names_no_command_and_one_that_does_have_a_line_each(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    for name, text in (("a.json", "{}"), ("b.txt", "$ python -m b <x>\n"), ("c.json", "{}")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert SOURCE.findall(source("a.json", "b.txt", "c.json", command="python -m a")) == [
        ("python -m a", "benchmarks/results/a.json, benchmarks/results/c.json"),
        ("python -m b &lt;x&gt;", "benchmarks/results/b.txt"),
    ]


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


def anything(model: InspectedModel) -> Detector:
    """Return a detector that finds harm everywhere."""
    return Detector((0,), torch.ones(1, model.architecture.d_model), 0.0, -1e9, model.fingerprint)


@pytest.mark.parametrize("moved", ["strength", "routing"])
def test_the_gate_s_numbers_of_other_weights_are_not_the_live_edit_s(visitor: Visitor, model, moved: str):
    asking = [number for number, one in enumerate(QUESTIONS) if re.search("repeat|safeguards", one.asked)]
    assert len(asking) == 2
    for number in asking:
        visitor.select("on_question", SimpleNamespace(number=number))
        assert visitor.shown["questions_own_figure"] and "allowed" in visitor.screen["questions_own_reading"]
    if moved == "strength":
        visitor.do("on_strength", strength=0.5)
    else:
        visitor.session.detector = anything(model)
    for number in asking:
        visitor.select("on_question", SimpleNamespace(number=number))
        told = seen(visitor.screen["questions_own_reading"])
        assert not visitor.shown["questions_own_figure"] and "allowed" not in told
        assert told == "The gate has not examined the live edit as it acts now: press Examine again."


def test_a_suffix_study_of_other_weights_says_so_and_one_of_another_detector_does_not(visitor: Visitor, model):
    (question,) = (one for one in QUESTIONS if "suffix" in one.asked)
    session = visitor.session
    measured = {"suffixes": (study(), session.weights.label())}
    held = Held(session, measured.get)
    everywhere = "here its weights act on every prompt"
    before = question.answer(held).live.below
    assert "other weights" not in before and everywhere not in before
    session.detector = anything(model)
    assert "other weights" not in question.answer(held).live.below, "it asks the weights as they act everywhere"
    assert everywhere in question.answer(held).live.below
    session.scale(0.5)
    assert "Live now are other weights." in question.answer(held).live.below


def test_the_picked_question_is_drawn_from_what_the_visitor_has_done(visitor: Visitor):
    visitor.select("on_question", SimpleNamespace(number=1))
    assert "How does the loss balance?" in visitor.screen["questions_answer"] and visitor.shown["questions_own_figure"]
    assert "a case of your own" not in visitor.screen["questions_own_reading"].lower()
    visitor.do("on_texts", **own_question("How do I cheat at cards?"))
    visitor.do("on_operate", **QUICK)
    visitor.select("on_question", SimpleNamespace(number=1))
    assert "A case of your own" in visitor.screen["questions_own_reading"]
    assert len(visitor.screen["questions_own_figure"].data[0].x) == len(visitor.session.live.result.taken)
    assert "How do I cheat" not in visitor.screen["questions_own_reading"], "texts of visitors stand in none of it"
    while visitor.session.live is not None:  # the example's edit comes up again
        visitor.do("on_undo")
    visitor.select("on_question", SimpleNamespace(number=1))
    assert not visitor.shown["questions_own_figure"] and "No edit is live" in visitor.screen["questions_own_reading"]


def test_what_is_said_of_our_edit_is_said_of_the_one_that_operate_makes_first_too():
    made = to_be_routed(preset("corrected"))
    assert (made.constraint_weight, made.damage_budget, made.target_probability) == (0, None, None)
    for asked, sentence in (
        ("loss", f"has the weight 0 and no budget, and it ends after {made.steps} updates"),
        ("repeat", "has neither that KL in its loss nor that target"),
    ):
        (panel,) = (one.answer(NOBODY) for one in QUESTIONS if asked in one.asked)
        assert f"{FIRST}, " in seen(panel.text[1]) and sentence in seen(panel.text[1])


def test_an_update_that_was_taken_back_is_no_point_of_the_loss():
    made, session = made_up.result(), Session()
    session.edits = [LiveEdit(bundled_cases()[0], replace(made, kept=made.kept - 1))]
    figure = QUESTIONS[1].answer(Held(session, {}.get)).live.figure
    drawn = [list(trace.x) for trace in figure.data]
    assert drawn == [[step.step for step in made.trace if step.step < made.kept]] * 3 and len(made.trace) > len(
        drawn[0]
    )


def test_a_question_that_is_not_there_is_refused(visitor: Visitor):
    for number in (-1, 10):
        with pytest.raises(gr.Error, match="There are 10 questions"):
            visitor.select("on_question", SimpleNamespace(number=number))


def test_nothing_is_drawn_before_a_question_is_opened(page: Page, visitor: Visitor):
    room = page.house.rooms["questions"]
    assert room.own_figure.value is None and room.kept_figure.value is None
    assert room.on_back(visitor.session, {}) == {}
    visitor.select("on_question", SimpleNamespace(number=4))
    assert room.answer in room.on_back(visitor.session, {})
