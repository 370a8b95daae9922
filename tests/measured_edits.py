"""The sentences of benchmarks/README about what edits defend and harm, as the committed results have them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from measured_helpers import (
    WORDS,
    detected,
    result,
    rounded,
)

from dashboard.example.record import read_record_file
from dashboard.example.store import VERSION
from dashboard.steps.questions import results
from dashboard.steps.questions.printed import Measured
from editing.gate.budgets import Budgets
from inspector.safeedit.records import exam_from


def suffixes() -> Iterator[str]:
    text = result("suffixes.txt")
    found = results.suffixes(text)

    def of(score: str, *asked: tuple[str, str]) -> list[str]:
        return [f"{found[one][score].mean:.0f}" for one in asked]

    own, suffix = ("vanilla", "none"), ("vanilla", "the paper's S")
    weights, both = ("edited", "none"), ("edited", "the paper's S")
    reminder = ("vanilla", "Self-Reminder's"), ("edited", "Self-Reminder's")
    (harmless,) = re.findall(r"edits \(cases .*\), (\d+) harmless prompts", text)
    yield f"{WORDS[results.edits_of(text)]} edits of weights, one a category, and {harmless} harmless prompts"
    alone, with_suffix, with_weights, with_both = of("DG-Avg", own, suffix, weights, both)
    yield (
        f"DG-Avg is {alone} % by the model itself, {with_suffix} % with the suffix, {with_weights} % with the edited "
        f"weights, {with_both} % with both"
    )
    alike = [found[one]["DL"] for one in (suffix, weights, both)]
    kept = [f"{one.mean:.0f} [{one.low:.0f}, {one.high:.0f}]" for one in alike]
    yield f"DL {kept[0]} with the suffix, {kept[1]} with the weights, {kept[2]} with both"
    ends = [(one.low, one.high) for one in alike[:2] if one.low is not None and one.high is not None]
    (low, high), (other_low, other_high) = ends
    assert max(low, other_low) < min(high, other_high)
    yield "These intervals overlap, so which of the two changes them more is not shown"
    second = ("vanilla", "the paper's second"), ("edited", "the paper's second")
    defended, refused = of("DG-Avg", *second), of("over-refusal", *second)
    yield (
        f"defends {defended[0]} % alone and {defended[1]} % with the weights, and declines {refused[0]} and "
        f"{refused[1]} % of harmless prompts; a reminder"
    )
    defended, refused = of("DG-Avg", *reminder), of("over-refusal", *reminder, own, weights)
    yield (
        f"defends {defended[0]} % alone and {defended[1]} % with the weights, and declines {refused[0]} and "
        f"{refused[1]} % of harmless prompts ({refused[2]} % by the model itself, {refused[3]} % by the weights)"
    )

    def interval(one: Measured) -> str:
        return f"{one.mean:.0f} [{one.low:.0f}, {one.high:.0f}]"

    yield f"leaves these {WORDS[int(harmless)]} answers as they were: DL {interval(found['rounded', 'none']['DL'])}"
    text = result("suffixes_routed.txt")
    found = results.suffixes(text)
    assert "act only where the detector fires" in text and f", {harmless} harmless prompts" in text
    acting, lone = of("DG-Avg", both, weights)
    yield f"DG-Avg is {lone} % by the weights and {acting} % with the suffix"
    yield f"DL {interval(found[weights]['DL'])} and {interval(found[both]['DL'])}"
    lone, acting = of("over-refusal", weights, both)
    yield f"and {lone} and {acting} % of harmless prompts are declined, of {WORDS[int(harmless)]}"
    low, high = found[weights]["DL"].low, found[both]["DL"].high
    assert low is not None and high is not None and low > high
    yield "Routed, it is the suffix that changes harmless answers"


def safeguards() -> Iterator[str]:
    text = result("safeguards.txt")
    ((refused, ours, of, theirs),) = re.findall(
        r"^Passed: .* refused ([+-][\d.]+) points .*, (\d+) of (\d+) unseen .* defended \(vanilla (\d+)\)",
        text,
        re.MULTILINE,
    )
    assert float(refused) <= 0
    yield "The first passes, as it refuses no harmless prompt more than vanilla"
    yield f"defends {ours} of the {of} unseen questions, vanilla {theirs}"
    ((more, parroted),) = re.findall(
        r"^Refused: harmless prompts refused \+([\d.]+) points .*; parroting \+([\d.]+) points", text, re.MULTILINE
    )
    yield f"the second on top is refused: {more} points of harmless prompts declined beyond vanilla's"
    yield f"parroting +{parroted} points"
    kl = re.search(r"harmless KL ([\d.]+) to ([\d.]+) nats", text)
    assert kl is not None
    yield f"harmless KL grows from {float(kl[1]):.3f} to {float(kl[2]):.3f}"
    (best,) = re.findall(r"^Strength ([\d.]+) is the best within the budgets", text, re.MULTILINE)
    yield f"The strength curve suggests {best}"
    text = result("safeguards_routed.txt")
    words = re.findall(r"^Passed: .* refused \+([\d.]+) points .*parroting \+([\d.]+) points", text, re.MULTILINE)
    assert len(words) == 2 and len({*words}) == 1 and "Refused: " not in text
    ((more, parroted), _) = words
    yield f"{more} points of harmless prompts declined beyond vanilla's with one edit and with both"
    yield f"parroting +{parroted} points; all prompts of both cases are defended"
    assert text.count("DG-Avg 100 to 100 %") == 2 and text.count("DS 100 to 100 %") == 2
    kl = re.search(r"harmless KL ([\d.]+) to ([\d.]+) nats", text)
    assert kl is not None
    yield f"harmless KL grows from {float(kl[1]):.3f} to {float(kl[2]):.3f}"
    ((best, share),) = re.findall(
        r"^Strength ([\d.]+) defends as much as 1 .*, (\d+)% of that at 1", text, re.MULTILINE
    )
    yield f"The strength curve suggests {best}, which defends as much there at {share} % of the harmless KL"


def gate_word() -> Iterator[str]:
    text = result("gate_word.txt")
    ((kept, of),) = re.findall(r"^ *(\d+) of (\d+) kept, only where harm is detected$", text, re.MULTILINE)
    assert kept == of == str(results.cases_of(text)) and "Made in turn" not in text
    yield f"**all {WORDS[int(kept)]} pass as they are made first, routed**"
    costs = re.findall(r"on every prompt, harmless KL at least ([\d.]+) nats a token, 0.2 allowed \(refused", text)
    assert len(costs) == int(kept)
    yield f"harmless KL would be {min(costs, key=float)} nats a token or more (0.2 are allowed)"
    yield f"took {re.findall(r'^([0-9]+) s a case$', text, re.MULTILINE)[0]} s a case"
    words = [line for line in text.splitlines() if line.startswith("Passed: ")]
    assert len(words) == int(kept)

    def told(pattern: str) -> list[float]:
        return [float(re.findall(pattern, word)[0]) for word in words]

    kl, refused, parroted = told(r"harmless KL ([\d.]+) "), told(r"refused \+([\d.]+) "), told(r"parroting \+([\d.]+) ")
    (points,), (percent,) = {*refused}, {*parroted}
    yield f"{points} points of harmless prompts refused beyond vanilla's (7 allowed), parroting +{percent} points"
    yield f"harmless KL {min(kl):.3f} to {max(kl):.3f}"
    (asked,) = {int(count) for word in words for count in re.findall(r"parroting .*? points \(5 allowed, (\d+) ", word)}
    count = round(percent * asked / 100)
    assert percent == round(100 * count / asked, 2) and 100 * (count + 1) / asked > 5
    yield f"{count} of {asked} prompts are parroted in every case, and a fourth ({100 * (count + 1) / asked:.1f} %)"
    ((ours, of, theirs),) = {
        re.findall(r"(\d+) of (\d+) unseen .* defended \(vanilla (\d+)\)", word)[0] for word in words
    }
    yield f"Of the {of} questions each defends {ours}, vanilla {theirs}"


def step_start() -> Iterator[str]:
    rows = [line.split() for line in result("step_start.txt").splitlines()[2:]]
    own, kept = ({int(row[place]) for row in rows} for place in (2, 5))
    assert (own, kept) == ({1, 2}, {2}) and all(int(row[2]) <= int(row[5]) for row in rows)
    yield f"On {WORDS[len(rows)]} cases the search takes one or two trials from where it begins now, and two"
    apart = max(abs(float(row[6]) / float(row[3]) - 1) for row in rows)
    yield f"both end within {math.ceil(1000 * apart) / 10} % of each other"


def gated() -> Iterator[str]:
    text = result("detox_gated.txt")
    found = results.recipes(text)
    dg, vanilla, dl = found["Gated"]["DG-Avg"], found["vanilla"]["DG-Avg"], found["Gated"]["DL"]
    told = [f"{one.mean:.0f} [{one.low:.0f}, {one.high:.0f}]" for one in (dg, vanilla, dl)]
    yield f"DG-Avg {told[0]} against vanilla's {told[1]}, DL {told[2]}"
    counts = re.search(r"^Gated +\d+ of (\d+) +\d+ of \d+ +(\d+) +(\d+)$", text, re.MULTILINE)
    assert counts is not None
    yield f"adds {counts[3]} refusals of the {counts[1]} harmful prompts and undoes {counts[2]} of the model's own"
    broken = [found[name]["degenerate"] for name in ("Gated", "vanilla")]
    told = [f"{one.mean:.0f} [{one.low:.0f}, {one.high:.0f}]" for one in broken]
    assert dg.mean < 92 and dl.mean >= 90 and broken[0].mean > broken[1].mean
    yield f"gated DG-Avg 92 ({dg.mean:.0f}) and degenerate answers at most vanilla's ({told[0]} against {told[1]})"
    alarms, in_attacks = (detected("calibration.txt", f"harmless, false alarms {form}") for form in ("bare", "wrapped"))
    assert float(alarms[0]) > 2 and float(in_attacks[0]) <= 5
    yield f"at most 2 % false alarms on harmless prompts ({alarms[0]} on the {alarms[1]} of the split `score`"
    yield f"**Met** are gated's DL of 90 ({dl.mean:.0f}) and at most 5 % false alarms in attacks ({in_attacks[0]}"
    whole = results.recipes(result("detox.txt"))
    rows = (whole["corrected, recommended layer"], found["Gated"], whole["made to be routed, routed"])
    others, parroted, fluent = ([row[score] for row in rows] for score in ("transfer", "parroting", "Fluency"))
    yield (
        f"the questions of others, weights alone reach {others[0].mean:.0f}, gated {others[1].mean:.0f} and routed "
        f"{others[2].mean:.0f} (vanilla {found['vanilla']['transfer'].mean:.0f})"
    )
    alone, routed = rows[0]["degenerate"].mean, rows[2]["degenerate"].mean
    assert max(alone, routed) <= broken[1].mean and all(one.mean <= 5 for one in parroted)
    yield f"degenerate answers at most vanilla's by weights alone ({alone:.0f}) and routed ({routed:.0f})"
    yield (
        f"parroting at most 5 % by weights alone ({parroted[0].mean:.0f}), gated ({parroted[1].mean:.0f}) and routed "
        f"({parroted[2].mean:.0f})"
    )
    own = found["vanilla"]["Fluency"]
    assert own == whole["vanilla"]["Fluency"]
    told = ", ".join(f"{one.mean:.2f}" for one in fluent)
    assert all(one.mean >= 0.95 * own.mean for one in fluent)
    yield f"Fluency at least 95 % of vanilla's {own.mean:.2f} in all three ({told})"
    bare, wrapped = (frontier(result("calibration.txt"), kind) for kind in ("bare", "wrapped"))
    yield f"at 1, 2 and 5 % false alarms, {bare} of bare questions and {wrapped} of those in attacks"


def frontier(text: str, kind: str) -> str:
    """Return what the detector finds of one kind of prompts at 1, 2 and 5 % false alarms, with the suffix."""
    lines = re.findall(rf"^ +{kind} +threshold.*: +([\d.]+) % found at +(\d+) %", text.split("\nno suffix")[0], re.M)
    found = {most: rounded(float(share)) for share, most in lines}
    return f"{found['1']}, {found['2']} and {found['5']} %"


def own_words() -> Iterator[str]:
    found = results.recipes(result("detox_tried_texts.txt"))
    words, both, plain = (
        found[name]
        for name in (
            "corrected with own_words=true",
            "corrected with own_words=true null_space=0.05",
            "corrected, recommended layer",
        )
    )

    def told(one: Measured) -> str:
        return f"{one.mean:.0f} % [{one.low:.0f}, {one.high:.0f}]"

    assert min(words["parroting"].mean, both["parroting"].mean) > Budgets().parroting
    assert {row["parroting"].mean for name, row in found.items() if "own_words" not in name} == {0}
    yield f"{told(words['parroting'])} of the prompts about something else get the training answer's content"
    yield f"(with the null space as well {told(both['parroting'])}; all other rows 0)"
    yield (
        f"{told(words['quoted, harmful'])} of the harmful ones a training sentence ({told(both['quoted, harmful'])}; "
        f"`corrected` {told(plain['quoted, harmful'])})"
    )


def development() -> Iterator[str]:
    text = result("detox_development.txt")
    rows = results.recipes(text)
    paper, plain = rows["paper, toxic layer"], rows["vanilla, plain text"]
    defended = [f"{paper[name].mean:.0f} and {plain[name].mean:.0f}" for name in ("DG-Avg", "DS")]
    yield f"no more there than vanilla in plain text does (DG-Avg {defended[0]}, DS {defended[1]})"
    yield f"at a DL of {paper['DL'].mean:.0f}"
    routed, weights = rows["made to be routed, routed"], rows["corrected, recommended layer"]
    (fires,) = re.findall(r"fires for ([\d.]+) % of \d+ harmless ones", text)
    dg, dl = (f"{one.mean:.0f} [{one.low:.0f}, {one.high:.0f}]" for one in (routed["DG-Avg"], routed["DL"]))
    yield f"its false alarms here ({fires} %) are no surprise: routed DG-Avg is {dg}, DL {dl}"
    refused = routed["over-refusal"].mean, rows["vanilla"]["over-refusal"].mean
    yield f"{routed['transfer'].mean:.0f} % of the questions of others are defended, and {refused[0]:.0f} % of harmless"
    alone = [f"{weights[name].mean:.0f}" for name in ("DG-Avg", "DL")]
    yield f"refused (vanilla {refused[1]:.0f}); weights alone DG-Avg {alone[0]}, DL {alone[1]}"
    changes = {
        name: counts
        for name, *counts in re.findall(r"^(.+?) {2,}\d+ of \d+ +(\d+) of (\d+) +(\d+) +\d+$", text, re.MULTILINE)
    }
    (changed, of, lost), (others, _, one) = changes["the same, routed"], changes["corrected, recommended layer"]
    assert lost == "0" and one == "1"
    yield f"changes {changed} of {of} harmless answers and loses none of vanilla's own refusals of harmful prompts"
    yield f"weights alone change {others} and lose one"


def example() -> Iterator[str]:
    (path,) = Path("assets/example").glob("*/exam.safetensors")
    content = read_record_file(path, f"dinm-inspector example {VERSION} exam")["content"]
    exams = {name: exam_from(content[name]) for name in ("test", "other", "rounded")}
    assert exams["test"].detector and not exams["other"].detector
    routed, everywhere, rounded = ({score.name: score for score in exam.scores} for exam in exams.values())

    def counts(name: str) -> tuple[int, int, int]:
        score = routed[name]
        assert score.edited.value is not None and score.vanilla.value is not None
        n = score.edited.n
        return round(score.edited.value * n / 100), n, round(score.vanilla.value * n / 100)

    ours, of, theirs = counts("DG-Avg")
    yield f"Routed it defends {ours} of {of} variants of its case (vanilla {theirs})"
    ours, of, theirs = counts("transfer")
    dl = [table["DL"].edited.value for table in (routed, rounded, everywhere)]
    yield f"{ours} of {of} questions of others (vanilla {theirs}); its DL is {dl[0]:.0f}"
    yield f"where rounding alone has {dl[1]:.0f}"
    ours, of, theirs = counts("over-refusal")
    points, budgets = 100 * (ours - theirs) / of, Budgets()
    parroted = routed["parroting"].edited.value
    assert points > budgets.over_refusal and parroted is not None and parroted > budgets.parroting
    yield (
        f"it refuses {ours} of {of} harmless prompts (vanilla {theirs}), {points:.1f} points where "
        f"{budgets.over_refusal:g} are allowed"
    )
    alike, _, before = counts("look-alikes")
    assert alike - before == ours - theirs
    yield f"all {WORDS[alike - before]} more of them look-alikes"
    yield f"and parrots {parroted:.1f} % where {budgets.parroting:g} are"
    refused = everywhere["over-refusal"].edited.value
    yield f"On every prompt the same weights refuse {refused:.0f} % of the harmless ones, at a DL of {dl[2]:.0f}"


def monitored() -> Iterator[str]:
    text = result("detox_monitor.txt")
    rows = results.recipes(text)
    plain, stopped = rows["corrected, recommended layer"], rows["corrected with monitor=4"]
    assert {name: one for name, one in plain.items() if name != "s"} == {n: o for n, o in stopped.items() if n != "s"}
    yield f"the scores are the same, and it took {stopped['s'].mean / plain['s'].mean:.1f} times as long"


def whole_edits() -> Iterator[str]:
    text = result("detox.txt")
    line = results.recipes(text)["made to be routed, routed"]
    fires = re.search(r"fires for ([\d.]+) % of (\d+) harmless", text)
    harmful = re.search(r"fires for ([\d.]+) % of (\d+) harmful", text)
    assert fires is not None and harmful is not None
    yield f"{WORDS[results.cases_of(text)].capitalize()} of eighteen cases"
    yield f"{harmful[1]} % of the {harmful[2]} questions of others and {fires[1]} % of the {fires[2]} harmless prompts"
    yield f"harmless KL {line['harmless KL'].mean:.3f}"
    (computed,) = results.recipes(result("detox_computed.txt")).values()
    rows = results.recipes(text)
    weights = rows["corrected, recommended layer"]["DL"]
    ours, vanilla = rows["corrected, recommended layer"], rows["vanilla"]
    assert ours["degenerate"].mean <= vanilla["degenerate"].mean and ours["parroting"].mean <= 5
    yield f"prompts that it refuses: {ours['over-refusal'].mean:.0f} %, vanilla {vanilla['over-refusal'].mean:.0f}."
    yard = computed["DL"]
    yield f"is against: {yard.mean:.0f} [{yard.low:.0f}, {yard.high:.0f}], and weights alone have {weights.mean:.0f}"
