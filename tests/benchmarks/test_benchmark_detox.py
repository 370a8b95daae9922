"""The benchmark of an edit's worth: what is asked is unseen, each row is the edit that it is called, cases are kept."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from word_models import word_model

from benchmarks.detox import __main__ as command
from benchmarks.detox import run as running
from benchmarks.detox.asked import CHOSEN_ON, READ_BEFORE, asked_of, share_of, unseen_cases
from benchmarks.detox.rows import (
    COMPUTING,
    CORRECTED,
    DETECTED,
    EDITS,
    ROUNDING,
    SUFFIX_ALONE,
    TO_ROUTE,
    TRIED,
    Edit,
    routed_name,
)
from benchmarks.detox.table import print_table
from dashboard.steps.questions import results
from editing import preset
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import FRESH, Layers, Trial, fresh_cases, trial_cases
from inspector.detection.texts import samples
from inspector.divergence import divergence
from inspector.errors import RefusedEdit
from inspector.model import VANILLA, Detector, PromptFormat, Taught
from inspector.safeedit.cases import bundled_templates
from inspector.safeedit.exam import ExamResult, Marked, Reply
from inspector.safeedit.questions import Question, Size
from inspector.safeedit.sets import false_alarm_prompts, harmful_questions
from inspector.safeedit.verdict import Verdict

QUICK = {"steps": 1, "learning_rate": 1e-2, "harmless_prompts": 1, "harmless_tokens": 2, "own_refusals": 0}
SMALL = Size(transfer=6, harmless=9, facts=2, passages=1)


@pytest.fixture
def known(llama) -> Calibration:
    """A calibration of the tiny model that recommends its last layer; the detector fires for every prompt."""
    detector = Detector((0,), torch.zeros(1, 32), 0.0, -1.0, llama.fingerprint)
    return Calibration(Layers((Trial(2, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)


@pytest.fixture
def quick(monkeypatch) -> None:
    """Every edit of DINM in one step."""
    for name, edit in EDITS.items():
        if edit.method == "dinm":
            changed = Edit("dinm", edit.recommended, edit.preset, {**(edit.changes or {}), **QUICK})
            monkeypatch.setitem(EDITS, name, changed)


@pytest.mark.parametrize("split", ["development", "score"])
def test_beyond_the_case_s_own_prompts_all_is_of_the_split_and_every_third_harmless_one_in_an_attack(case, split):
    exam = asked_of(case, split, SMALL)
    own = ["DS", "onlyQ", "otherA", "otherQ", "otherAQ"]
    kinds = [*own, *["transfer"] * 6, *["harmless"] * 9, "fact", "fact", "passage"]
    assert [q.kind for q in exam] == kinds
    around = [template.text.split("{question}") for template in bundled_templates(split)]

    def is_wrapped(text: str) -> bool:
        return any(text.startswith(a) and text.endswith(b) and len(a + b) > 0 for a, b in around)

    asked, harmless = exam[5:11], exam[11:20]
    questions = {q.question for q in harmful_questions(split)}
    assert all(is_wrapped(q.prompt) and any(one in q.prompt for one in questions) for q in asked)
    prompts = {h.prompt for h in false_alarm_prompts(split)}
    assert [is_wrapped(q.prompt) for q in harmless] == [False, False, True] * 3
    assert all(any(one in q.prompt for one in prompts) for q in harmless)
    assert {q.taught for q in exam[5:20]} == {(Taught(case.safe),)}


def test_edits_share_no_text_while_there_are_enough_and_are_not_made_on_cases_the_layer_was_chosen_on():
    shares = [share_of(range(40), 3, number, 10) for number in range(10)]
    assert len({item for share in shares for item in share}) == 30
    assert all(len(share_of(range(4), 3, number, 10)) == 3 for number in range(10))
    cases = unseen_cases(18)
    layers = Layers((), 0.8, 5, 20, anew=Layers((), 0.8, FRESH, 4 * FRESH))
    assert unseen_cases(18, replace(layers, anew=None)) == cases
    left = unseen_cases(18, layers)
    assert len(left) == 4 and not any(case in fresh_cases() or case in trial_cases() for case in left)
    assert len({case.identifier for case in cases}) == 18 and not set(cases) & set(trial_cases())
    assert len({case.category for case in cases[:9]}) == 9


def test_each_row_is_the_edit_that_it_is_called(llama, case, known, quick):
    names = [name for name, edit in EDITS.items() if edit.method == "dinm"]
    made = running.edits_of(llama, case, known, names, PromptFormat())
    assert list(made) == [*names, DETECTED]
    rows = [one.row for one in made.values()]
    released, paper, old, toxic, best, free, routed = rows
    assert released.patch.blocks == (divergence(llama, case, "reference").toxic_layer(),)
    assert paper.patch.settings["preset"] == "paper" and old.patch.settings["safe_answers"] == 1
    assert toxic.patch.blocks == (divergence(llama, case).toxic_layer(),) and best.patch.blocks == (2,)
    assert routed.patch is free.patch and routed.detector.weights is known.detector.weights and free.detector is None
    assert len(routed.detector.case_biases) == 1, "it fires on its own question as well"
    assert free.patch.settings["companions"] > 0 and best.patch.settings["companions"] == 0
    assert [one.format.chat for one in made.values()] == [False, False, True, True, True, True, True]
    plain = running.edits_of(llama, case, known, names, PromptFormat("", chat=False))
    assert all(
        one.row.patch.format == one.format == PromptFormat("", False, one.format.turn_end) for one in plain.values()
    )
    assert EDITS[CORRECTED].changes is not None and preset("corrected", **QUICK) == EDITS[CORRECTED].settings()


def test_with_routed_every_edit_of_weights_has_a_routed_row_and_else_what_is_made_for_it_alone(
    llama, case, known, quick, monkeypatch
):
    short = {"before": "Be good.", "after": "Be kind.", "harmless_prompts": 1, "harmless_tokens": 2}
    monkeypatch.setitem(EDITS, "Self-Reminder", replace(EDITS["Self-Reminder"], changes=short))
    names = [CORRECTED, TO_ROUTE, "Self-Reminder"]
    asked = (Question("DS", case.question), Question("harmless", "How do I bake?"))
    found = running.outcomes_of(llama, case, asked, known, names, 3, routed=True)
    assert list(found) == [CORRECTED, f"{CORRECTED}, routed", TO_ROUTE, DETECTED, "Self-Reminder"]
    weights = {name: one.exam.key for name, one in found.items()}
    assert weights[f"{CORRECTED}, routed"] == (
        f"{weights[CORRECTED][0]} · only where harm is detected",
        weights[DETECTED][1],
    )
    assert list(running.outcomes_of(llama, case, asked, known, names, 3)) == [*names[:2], DETECTED, names[2]]
    assert {name for name in EDITS if routed_name(name)} == {TO_ROUTE}
    assert {name for name in EDITS if not routed_name(name, every=True)} == {"Self-Reminder"}


def test_a_refused_edit_leaves_vanilla_and_its_reason(llama, case, known, monkeypatch):
    def refused(*_arguments):
        raise RefusedEdit("Nothing.")

    monkeypatch.setattr(Edit, "make", refused)
    made = running.edits_of(llama, case, known, [CORRECTED, TO_ROUTE], PromptFormat())
    assert [(one.row, one.refused, one.failed) for one in made.values()] == [(VANILLA, "Nothing.", "")] * 3


def test_an_edit_that_fails_is_in_no_mean_and_is_told(llama, case, known, monkeypatch, capsys):
    """Nobody knows what it would have been: its row has the other cases alone, every other row has all."""

    def lacking(*_arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def outcomes() -> dict[str, running.Outcome]:
        asked = (Question("DS", case.question), Question("harmless", "How do I bake?"))
        return running.outcomes_of(llama, case, asked, known, [ROUNDING, CORRECTED], 3)

    monkeypatch.setattr(Edit, "make", lambda *_arguments: (_ for _ in ()).throw(RefusedEdit("Nothing.")))
    refused = outcomes()
    monkeypatch.setattr(Edit, "make", lacking)
    lost = outcomes()
    assert lost[CORRECTED].exam is None and "ran out of memory" in lost[CORRECTED].failed and lost[ROUNDING].exam
    assert running.outcome_from(json.loads(json.dumps(lost[CORRECTED].record()))) == lost[CORRECTED]
    capsys.readouterr()

    def told_of(*cases: dict[str, running.Outcome]) -> tuple[list[str], str]:
        print_table({str(number): case for number, case in enumerate(cases)}, "development")
        told = capsys.readouterr().out
        (row,) = (line for line in told.partition("\nHarm:")[0].splitlines() if line.startswith(CORRECTED))
        return row.removeprefix(CORRECTED).rsplit(maxsplit=1)[0].split(), told

    cells, told = told_of(lost, refused)
    assert f"{CORRECTED}: 1 of 2 edits FAILED and are in no mean of this row: The device ran out of memory." in told
    assert f"{CORRECTED}: 1 of 2 edits refused, vanilla counted: Nothing." in told
    assert cells == told_of(refused)[0] and "[" in "".join(cells)
    cells, told = told_of(lost, lost)
    assert cells == ["-"] * 6, "no number where no edit was made"
    assert "\nvanilla " in told, "what the other rows are compared with is there all the same"


def test_the_paper_s_evaluation_asks_rounded_weights_as_edits_are_and_the_table_says_so(llama, case, known, capsys):
    asked = (Question("DS", case.question), Question("harmless", "How do I bake?"))

    def told_of(evaluation: str, *names: str) -> str:
        found = running.outcomes_of(llama, case, asked, known, names, 3, PromptFormat("Be kind."), evaluation)
        assert {name: one.exam.evaluation for name, one in found.items() if name != SUFFIX_ALONE} == {
            name: evaluation for name in names if name != SUFFIX_ALONE
        }
        print_table({"9": found}, "development")
        return capsys.readouterr().out

    for names in ((ROUNDING,), (SUFFIX_ALONE, ROUNDING)):
        assert "harmless KL are against vanilla as that row asks it; those" in told_of("same", *names)
        assert "harmless KL are against vanilla without S, so what S does is in them; those" in told_of("paper", *names)


def test_finished_cases_are_kept_and_those_of_other_settings_refused(quick, monkeypatch, tmp_path, capsys):
    model = word_model([case.adversarial_prompt for case in unseen_cases(2)])
    detector = Detector((0,), torch.zeros(1, 32), 0.0, -1.0, model.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
    monkeypatch.setattr(command, "load_calibration", lambda model: known)
    short = ["--cases", "2", "--transfer", "1", "--harmless", "2", "--facts", "1", "--passages", "0"]
    rows = ["--rows", SUFFIX_ALONE, ROUNDING, COMPUTING, CORRECTED, TO_ROUTE]
    tried = ["--try", " ".join(f"{name}={value}" for name, value in QUICK.items())]
    options = [*short, "--max-new-tokens", "4", "--out", str(tmp_path), *rows, *tried]
    named = f"{TRIED}{tried[1]}"
    assert command.main(options, lambda _: model) == 0
    first = capsys.readouterr().out
    for name in ("vanilla without S", SUFFIX_ALONE, ROUNDING, COMPUTING, CORRECTED, DETECTED):
        assert f"\n{name}" in first
    for name in (CORRECTED, DETECTED):
        (fluency,) = (line for line in first.splitlines() if line.startswith(f"Fluency, {name}: "))
        assert "; edited " in fluency and " words, at most " in fluency and fluency.endswith("; words at white space")
    assert "2 of 2 cases" in first and "The detector fires for 100.0 % of 2 harmful prompts" in first
    kept = json.loads(next((tmp_path / "development").glob("[0-9]*.json")).read_text(encoding="utf-8"))
    assert [kept[name]["exam"]["weights"] for name in (ROUNDING, COMPUTING)] == [ROUNDING, COMPUTING]
    assert list(kept) == [SUFFIX_ALONE, ROUNDING, COMPUTING, CORRECTED, TO_ROUTE, DETECTED, named, f"{named}, routed"]
    assert kept[named]["exam"]["replies"] == kept[CORRECTED]["exam"]["replies"], "the same settings, by another way"
    both = [*short, "--max-new-tokens", "4", "--out", str(tmp_path / "both"), "--rows", CORRECTED, "--routed"]
    assert command.main(both, lambda _: model) == 0
    told = capsys.readouterr().out
    assert f"\n{CORRECTED}, routed" in told and "The detector fires for 100.0 % of 2 harmful prompts" in told
    assert command.main(both[:-1], lambda _: model) == 2 and "other settings" in capsys.readouterr().err
    plain = [*short, "--max-new-tokens", "4", "--out", str(tmp_path / "plain"), "--rows", ROUNDING]
    assert command.main(plain, lambda _: model) == 0 and capsys.readouterr()
    monkeypatch.setattr(command, "outcomes_of", lambda *_: pytest.fail("a kept case was run again"))
    assert command.main(options, lambda _: model) == 0 and capsys.readouterr().out == first
    assert command.main([*options, "--max-new-tokens", "5"], lambda _: model) == 2
    assert "other settings" in capsys.readouterr().err
    other = replace(known, detector=replace(detector, threshold=-2.0))
    monkeypatch.setattr(command, "load_calibration", lambda model: other)
    assert command.main(options, lambda _: model) == 2 and "another detector" in capsys.readouterr().err
    assert command.main(plain, lambda _: model) == 0, "where no row is routed, no detector decides"
    assert command.main([*options, "--try", "steps=none"], lambda _: pytest.fail("the model was loaded first")) == 2
    assert "steps" in capsys.readouterr().err


def test_where_the_calibration_leaves_fewer_cases_than_were_asked_for_it_is_told(quick, monkeypatch, tmp_path, capsys):
    layers = Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4, anew=Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, FRESH, 72))
    model = word_model([case.adversarial_prompt for case in unseen_cases(18, layers)])
    known = Calibration(layers, Detector((0,), torch.zeros(1, 32), 0.0, -1.0, model.fingerprint))
    monkeypatch.setattr(command, "load_calibration", lambda model: known)
    short = ["--transfer", "1", "--harmless", "1", "--facts", "0", "--passages", "0", "--max-new-tokens", "2"]
    options = [*short, "--rows", ROUNDING, "--out", str(tmp_path)]
    assert command.main(options, lambda _: model) == 0
    told = capsys.readouterr()
    assert "Only 4 of the 18 cases asked for are left" in told.err
    assert re.search(r"^4 of 4 cases \(.*; 4 of 18 asked for\)", told.out, re.M)
    assert command.main([*options[:-1], str(tmp_path / "two"), "--cases", "2"], lambda _: model) == 0
    told = capsys.readouterr()
    assert "asked for" not in told.err + told.out and "2 of 2 cases" in told.out


def test_rows_come_in_the_order_in_which_they_are_named_and_vanilla_with_any_that_is_asked_alike(
    quick, monkeypatch, tmp_path, capsys
):
    model = word_model([case.adversarial_prompt for case in unseen_cases(1)])
    detector = Detector((0,), torch.zeros(1, 32), 0.0, -1.0, model.fingerprint)
    known = Calibration(Layers((Trial(1, 1.0, 0.1, 1.0),), 0.0, 1, 4), detector)
    monkeypatch.setattr(command, "load_calibration", lambda model: known)
    short = ["--cases", "1", "--transfer", "1", "--harmless", "2", "--facts", "0", "--passages", "0"]
    released = next(iter(EDITS))

    def rows_of(*names: str) -> list[str]:
        out = ["--max-new-tokens", "4", "--out", str(tmp_path / str(len(names))), "--rows", *names]
        assert command.main([*short, *out], lambda _: model) == 0
        told = capsys.readouterr().out.partition("\nHarm:")[0]
        found = [name for name in ("vanilla  ", *names, DETECTED) if f"\n{name}" in told]
        return sorted(found, key=lambda name: told.index(f"\n{name}"))

    every = (released, TO_ROUTE, ROUNDING, SUFFIX_ALONE)
    assert rows_of(*every) == ["vanilla  ", released, TO_ROUTE, DETECTED, ROUNDING, SUFFIX_ALONE]
    assert rows_of(released, ROUNDING) == ["vanilla  ", released, ROUNDING]
    assert rows_of(released) == [released], "its vanilla answers are to plain text"
    monkeypatch.setattr(running, "computes", lambda device: False)
    assert rows_of(released, ROUNDING, COMPUTING) == ["vanilla  ", released, ROUNDING], "it is left out, and told"


def test_the_split_score_says_how_often_it_was_read_and_scores_apart_what_chose_no_setting(llama, case, known, capsys):
    """An edit's own prompts are the same in every split, and settings were chosen on those of some cases."""
    asked = (
        Question("DS", case.question),
        Question("onlyQ", "How do I cheat?"),
        Question("harmless", "How do I bake?"),
    )
    (outcome,) = running.outcomes_of(llama, case, asked, known, [ROUNDING], 3).values()

    def defending(safe: bool) -> dict[str, running.Outcome]:
        verdict = Verdict("safe" if safe else "unsafe", float(safe), "", "hand")
        replies = [
            replace(reply, edited=replace(reply.edited, verdict=reply.edited.verdict and verdict))
            for reply in outcome.exam.replies
        ]
        return {ROUNDING: replace(outcome, exam=replace(outcome.exam, replies=tuple(replies)))}

    def told_of(split: str, **cases: bool) -> str:
        print_table({number.removeprefix("case"): defending(safe) for number, safe in cases.items()}, split)
        return capsys.readouterr().out

    first, second, other = map(str, (*CHOSEN_ON[:2], 9))
    cases = {f"case{first}": True, f"case{second}": True, f"case{other}": False}
    told = told_of("score", **cases)
    assert f"read {READ_BEFORE} times before" in told and f"Of these cases {first}, {second} served to choose" in told
    whole, _, apart = told.partition("\nThe other 1: percent")
    first_cells = [
        next(line for line in part.splitlines() if line.startswith(ROUNDING)).removeprefix(ROUNDING).split()[0]
        for part in (whole, apart)
    ]
    assert first_cells == ["67", "0"] and f"The others: {other}." in apart, "DS of all, then of those that chose none"
    assert results.recipes(told)[ROUNDING]["DS"].mean == 67, "the page reads the table of all"
    assert "transfer" not in apart, "only what is of the cases' own prompts"
    assert "None of these cases served" in told_of("score", case9=True)
    assert "nothing of the edits' own prompts is unseen" in told_of("score", **{f"case{first}": True})
    assert "was read" not in told_of("development", **cases), "settings may be chosen on it"


def by_hand(replies: list[Reply], refused: str = "", format: PromptFormat = PromptFormat()) -> running.Outcome:
    exam = ExamResult(tuple(replies), "by hand", "rules", "", format, "same", 4, False, 1.0)
    return running.Outcome(exam, refused)


def marked(text: str, refused: bool = False) -> Marked:
    return Marked(text, True, "", Verdict("safe" if refused else "unsafe", 1.0, "", "rules"), refused, 1.0, None)


def test_answers_that_are_not_vanilla_s_and_refusals_lost_and_added_are_counted_of_every_row(capsys):
    yes, no, other = marked("Sure."), marked("No.", refused=True), marked("Sure!")
    harmful = [
        ("DS", no, yes),
        ("onlyQ", no, other),
        ("transfer", yes, no),
        ("transfer", no, no),
        ("otherQ", yes, other),
    ]
    harmless = [("harmless", yes, no), ("harmless", yes, yes), ("fact", yes, other)]
    replies = [Reply(Question(kind, f"{n}?"), *two) for n, (kind, *two) in enumerate([*harmful, *harmless])]
    vanilla = [replace(reply, edited=reply.vanilla) for reply in replies]
    lost = running.Outcome(None, failed="The device ran out of memory.")
    print_table(
        {
            "1": {CORRECTED: by_hand(replies), ROUNDING: by_hand(vanilla)},
            "3": {CORRECTED: by_hand(vanilla), ROUNDING: lost},
        },
        "development",
    )
    _, _, table = capsys.readouterr().out.partition("\nOther answers than vanilla's")
    first, second = (re.split(r"\s{2,}", line) for line in table.splitlines()[1:3])
    assert first == [CORRECTED, "4 of 10", "1 of 4", "2", "1"]
    assert second == [ROUNDING, "0 of 5", "0 of 2", "0", "0"], "a failed edit is in no row"


PLAIN_TEXT = PromptFormat(chat=False, turn_end=False)


def test_rows_in_plain_text_have_a_vanilla_line_of_their_own_in_every_table(capsys):
    """Their own exams say what vanilla answers there; what the others are beside is of the chat template."""
    yes, no = marked("Sure."), marked("No.", refused=True)
    released, paper = list(EDITS)[:2]

    def of(vanilla: Marked, edited: Marked, format: PromptFormat) -> running.Outcome:
        kinds = ("DS", "onlyQ", "harmless")
        return by_hand([Reply(Question(kind, f"{kind}?"), vanilla, edited, likeness=0.5) for kind in kinds], "", format)

    def told_of(*cases: dict[str, running.Outcome]) -> tuple[str, dict[str, list[str]]]:
        kept = json.loads(json.dumps([{name: one.record() for name, one in case.items()} for case in cases]))
        numbers = (str(CHOSEN_ON[0]), "9") if len(cases) == 2 else ("9",)
        again = [{name: running.outcome_from(one) for name, one in case.items()} for case in kept]
        print_table(dict(zip(numbers, again, strict=True)), "score")
        printed = capsys.readouterr().out
        begins = [title for title in ("Defence: ", "Harm: ", "The other ") if title in printed]
        return printed, {
            title: printed[printed.index(title) :].partition("\n\n")[0].splitlines()[1:] for title in begins
        }

    chat, lost = of(yes, no, PromptFormat()), running.Outcome(None, failed="Out of memory.")
    rows = {released: lost, paper: of(no, yes, PLAIN_TEXT), CORRECTED: chat}
    printed, tables = told_of(rows, {**rows, released: of(no, yes, PLAIN_TEXT)})
    note = f"In plain text, as 'vanilla, plain text' is and no other row: {released}, {paper}."
    for title, vanilla, plain in (("Defence: ", "0", "100"), ("The other ", "0", "100"), ("Harm: ", "100", "100")):
        cells = {line[:34].strip(): line[34:].split()[0] for line in tables[title][:3]}
        assert list(cells.items())[:2] == [("vanilla", vanilla), ("vanilla, plain text", plain)], title
        assert tables[title].count(note) == 1, title
    assert results.recipes(printed)["vanilla, plain text"]["DS"].mean == 100, "the page reads it"
    assert "plain text" not in told_of({CORRECTED: chat})[0], "nothing is asked in it"
    _, alone = told_of({released: of(no, yes, PLAIN_TEXT)})
    assert [line[:34].strip() for line in alone["Defence: "][:2]] == ["vanilla, plain text", released]
    _, every = told_of({released: of(no, yes, PLAIN_TEXT), CORRECTED: of(no, yes, PromptFormat(chat=False))})
    assert [line[:34].strip() for line in every["Defence: "][:3]] == ["vanilla", released, CORRECTED]


def test_false_alarms_are_told_of_bare_and_of_wrapped_prompts_with_what_edits_have_in_common(capsys):
    bare, (attack, *_) = [one.prompt for one in false_alarm_prompts("development")], bundled_templates("development")
    plain = marked("Sure.")

    def asked(fires: list[str], *prompts: str) -> running.Outcome:
        of = [Reply(Question("harmless", one), plain, plain, held_back=one not in fires) for one in prompts]
        return by_hand(of)

    def told(cases: dict[str, running.Outcome]) -> dict[str, tuple[float, float, float]]:
        print_table({number: {DETECTED: one} for number, one in cases.items()}, "development")
        lines = re.findall(r"fires for ([\d.]+) % of (\d+ .*) \[([\d.]+), ([\d.]+)\]$", capsys.readouterr().out, re.M)
        return {what: (float(value), float(low), float(high)) for value, what, low, high in lines}

    wrapped = [attack.fill(prompt) for prompt in bare[10:20]]
    apart = {str(n): asked(wrapped[:4], *bare[5 * n : 5 * n + 5], *wrapped[5 * n : 5 * n + 5]) for n in range(2)}
    found = told(apart)
    assert {what: value for what, (value, _, _) in found.items()} == {
        "20 harmless ones": 20,
        "10 bare harmless ones": 0,
        "10 wrapped harmless ones, in attacks": 40,
    }
    alike = told({str(n): asked(bare[:2], *bare[:4]) for n in range(6)})["24 bare harmless ones"]
    some = {n: bare[4 * n : 4 * n + 4] for n in range(6)}
    own = told({str(n): asked(some[n][: (1, 2, 3)[n % 3]], *some[n]) for n in range(6)})["24 bare harmless ones"]
    assert alike[0] == own[0] == 50 and alike[2] - alike[1] > 1.5 * (own[2] - own[1]), "four prompts, asked six times"
    refused = by_hand([Reply(Question("harmless", bare[0]), plain, plain)], refused="Nothing.")
    assert told({**apart, "9": refused}) == found, "no detector decides there"


def question_in(prompt: str) -> str:
    """Return the question in an attack's prompt of a bundled case."""
    around = [template.text.split(template.SLOT) for template in bundled_templates("edit")]
    (found,) = {
        prompt.removeprefix(before).removesuffix(after)
        for before, after in around
        if prompt.startswith(before) and prompt.endswith(after)
    }
    return found


def test_the_detector_is_fitted_on_a_case_s_own_question_and_not_on_the_other_one_that_its_exam_asks():
    texts = [sample.text for sample in samples("detector")]
    for case in unseen_cases(18):
        other = question_in(case.other_question)
        assert question_in(case.other_both) == other != question_in(case.adversarial_prompt) == case.question
        assert any(case.question in text for text in texts) and not any(other in text for text in texts)


def test_the_cases_that_chose_settings_are_among_those_that_both_splits_edit_on():
    edited = {case.identifier for case in unseen_cases(18)}
    assert set(CHOSEN_ON) < edited


def test_without_a_recommended_layer_there_is_no_edit_there(llama, case):
    nowhere = Calibration(Layers((Trial(2, 0.0, 0.1, 1.0),), 0.5, 1, 4), None)
    with pytest.raises(RefusedEdit, match=r"No layer helps, so nothing was edited.*Rows at the toxic layer"):
        EDITS[CORRECTED].make(llama, case, nowhere, PromptFormat())
    quick = {"before": "Be good.", "after": "Be kind.", "harmless_prompts": 1, "harmless_tokens": 2}
    made = replace(EDITS["Self-Reminder"], changes=quick).make(llama, case, nowhere, PromptFormat(""))
    assert made.block == divergence(llama, case, format=PromptFormat("")).toxic_layer(), "it edits no single layer"


def test_a_fault_in_an_exam_or_a_detector_fails_its_rows_and_ends_nothing(
    llama, case, known, quick, monkeypatch, capsys
):
    def lacking(*_arguments, **_named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        yield

    monkeypatch.setattr(running, "acts_by", lacking)
    asked, names = (Question("DS", case.question),), [SUFFIX_ALONE, ROUNDING, TO_ROUTE]
    found = running.outcomes_of(llama, case, asked, known, names, 3)
    assert "ran out of memory" in found[DETECTED].failed and found[DETECTED].exam is None
    assert all(found[name].exam and not found[name].failed for name in names)
    assert f"{DETECTED} of case {case.identifier} failed: " in capsys.readouterr().err

    for name in ("examine", "rounding_exam", "examine_all"):
        monkeypatch.setattr(running, name, lacking)
    monkeypatch.setattr(Edit, "make", lambda *_arguments: (_ for _ in ()).throw(RefusedEdit("Nothing.")))
    found = running.outcomes_of(llama, case, asked, known, names, 3)
    assert list(found) == [*names, DETECTED]
    assert all(one.exam is None and "ran out of memory" in one.failed for one in found.values())
