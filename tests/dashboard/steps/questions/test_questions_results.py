"""Ten questions: which committed results are read, that they are read as they were printed, and how each is named."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from dashboard_helpers import seen
from questions_helpers import NOBODY

from dashboard.steps.questions import detectors, results
from dashboard.steps.questions.panel import as_printed, source
from dashboard.steps.questions.texts import QUESTIONS, answer
from editing.sweep.paper import PAPER_TOKENS
from inspector.model.patches.rounded import COMPUTED, ROUNDED
from inspector.safeedit.intervals import percentage

pytestmark = pytest.mark.usefixtures("model")

READERS = {
    "calibration.txt": (results.trials, detectors.detection),
    "calibration_packaged.txt": (detectors.elsewhere,),
    "calibration_xstest.txt": (detectors.misled,),
    "calibration_look_alikes.txt": (detectors.misled,),
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
    "calibration_development.txt": "the detector on the texts that its threshold was chosen on",
    "calibration_stress.txt": "the detector on what the page's own stress test asks",
    "detox_computed.txt": "how far answers move where the weights compute in bfloat16, the yardstick of a target",
    "detox_development.txt": "the edits of the table of defence on cases of the other split, with what they change",
    "detox_gated.txt": "Gated as it is today on the cases of the table of defence",
    "detox_methods.txt": "the other methods on the cases of the table of defence, which holds their rows",
    "detox_monitor.txt": "a stop that is built and off, on three cases of the other split",
    "detox_null_space.txt": "an option of an edit that is built and off, on nine cases of the other split",
    "detox_tried.txt": "options of an edit that are built and off, on cases of the other split",
    "detox_tried_texts.txt": "which texts an edit is held to and taught, on the same cases",
    "dtypes.json": "how far bfloat16 is from float32",
    "edit_speed_before.txt": "how fast an edit was before one loop served every method",
    "gate_word.txt": "what the gate says of many default edits",
    "generation_speed.json": "how long answers take to write",
    "limits.json": "the numbers of limits.txt",
    "limits.svg": "the picture of limits.txt",
    "limits_calibration.txt": "how long a calibration takes",
    "limits.txt": "how near each part comes to what the machine allows",
    "load.json": "how the page serves many visitors",
    "methods_routed.txt": "every method on every prompt and only where harm is detected, on four cases",
    "own_question.txt": "what a second reading, of the case's own question, adds to the detector",
    "planted_faults.txt": "what the tests find",
    "safeguards_routed.txt": "the gate's word on edits that act only where harm is detected, and on their stack",
    "suffixes_routed.txt": "what the suffixes do with edits that act only where harm is detected",
    "preset_deltas.txt": "whether the presets' edits are what they were before the engine was rebuilt",
    "scoring_speed.txt": "how long scoring takes",
    "sweep_speed.txt": "how many cases a minute one, two and four workers do",
    "start.json": "how long the page takes to open",
    "start_cold.txt": "how long make demo takes on a fresh clone",
    "step_start.txt": "where the search for a step size begins",
}
"""Results that no question needs, each with the reason: what they are of."""


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


def test_the_methods_own_output_has_the_intervals_and_the_length_that_are_said_of_it():
    said, refused = (
        results.caveat("methods.txt"),
        results.scores(results.text_of("methods.txt"))["FT-L"]["over-refusal"],
    )
    independent = percentage(54, 72)  # eight prompts of each of nine edits
    assert "answers of one edit for independent" in said and f"the paper's of up to {PAPER_TOKENS}." in said
    assert (refused.mean, refused.low, refused.high) == (75, round(independent.low), round(independent.high))


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
        (("detox.txt",), ("(10 and 21)", "made in the attack that the case is scored under", "in plain text")),
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
