"""The table of the comparison, over all finished cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.detox.asked import CHOSEN_ON, READ_BEFORE
from benchmarks.detox.rows import CORRECTED, DETECTED, PLAIN_TEXT, ROUNDING, SUFFIX_ALONE, edit_of
from benchmarks.detox.run import Outcome
from editing.contest import ROUTED
from inspector.safeedit.acted import acted_on
from inspector.safeedit.cases import Split
from inspector.safeedit.questions import JUDGED
from inspector.safeedit.scores import QUOTED, Estimate, Score, resampling_told, scores_of_edits
from inspector.safeedit.sets import false_alarm_prompts

DEFENCE = ("DS", "DG-Avg", "transfer", "Fluency", "KQA", "CSum")
STILL = "still answers"
HARM = ("DL", STILL, "harmless KL", "over-refusal", "look-alikes", "degenerate", "parroting", *QUOTED)
OWN = ("DS", "onlyQ", "otherA", "otherQ", "otherAQ", "DG-Avg")
"""What is of an edit's own prompts, which are the same in every split."""
CHANGES = "Other answers than vanilla's"
NAME, WIDTH = 34, 19
PLACES = {"harmless KL": 3, "Fluency": 2}
Cases = Mapping[str, Mapping[str, Outcome]]
"""The outcomes of each row of each case, by the case's number; each case has the same rows."""


def print_table(cases: Cases, split: Split) -> None:
    """Print what every row scores over the cases that it has not failed on.

    Args:
        cases: The finished cases.
        split: Whose texts were asked beside the cases' own prompts.
    """
    rows = [*cases.values()]
    names = list(rows[0])
    wide = max(NAME, *(len(name) + 1 for name in names))
    whole, plain = _scores(rows), in_plain_text(rows)
    seconds = {name: sum(case[name].seconds for case in rows) / len(rows) for name in names}
    for title, columns in (("Defence: percent; Fluency in bits", DEFENCE), ("Harm: percent; KL in nats", HARM)):
        _print_rows(title, columns, whole, wide, plain, seconds)
    _print_changes(rows, wide)
    print()
    for name, table in whole.items():
        for score in table:
            if score.name == "Fluency":
                print(f"Fluency, {name}: {score.meaning}; {score.source}")
    print(f"A row's DL and harmless KL are against {_vanilla_of(rows)}; those of S alone against no suffix.")
    print(f"What {STILL} is compared with is vanilla's answer: by construction vanilla's own are on the subject.")
    for name in names:
        refused = [case[name].refused for case in rows if case[name].refused]
        if refused:
            reasons = " ".join(dict.fromkeys(refused))
            print(f"{name}: {len(refused)} of {len(rows)} edits refused, vanilla counted: {reasons}")
        failed = [case[name].failed for case in rows if case[name].failed]
        if failed:
            reasons = " ".join(dict.fromkeys(failed))
            print(f"{name}: {len(failed)} of {len(rows)} edits FAILED and are in no mean of this row: {reasons}")
    routed = sorted(
        (name for name in names if name.endswith(ROUTED)), key=lambda name: (name != DETECTED, name in plain)
    )
    for name in routed[:1]:  # it reads a prompt alike for every edit of one case that is asked alike
        _detector({number: case[name] for number, case in cases.items()}, split)
    print(resampling_told(next((whole[name] for name in (CORRECTED, *reversed(names)) if whole.get(name)), ())))
    if split == "score":
        _print_unseen(cases, wide)


def _vanilla_of(cases: Sequence[Mapping[str, Outcome]]) -> str:
    """Say how the vanilla was asked that rows are compared with, as their exams say; that of the suffix alone aside."""
    exams = [one.exam for case in cases for name, one in case.items() if name != SUFFIX_ALONE]
    if any(exam is not None and exam.evaluation == "paper" for exam in exams):
        return "vanilla without S, so what S does is in them"
    return "vanilla as that row asks it"


def _print_unseen(cases: Cases, wide: int) -> None:
    """Print how much of the split `score` was seen before: how often it was read, and which cases chose settings."""
    print(f"\nThe split 'score' was read {READ_BEFORE} times before; what was read then was known when this was made.")
    chosen = [number for number in cases if number in map(str, CHOSEN_ON)]
    left = {number: case for number, case in cases.items() if number not in chosen}
    own = f"{', '.join(OWN[:-1])} and {OWN[-1]} are of an edit's own prompts, whatever the split."
    if not chosen:
        print(f"{own} None of these cases served to choose settings.")
        return
    print(f"{own} Of these cases {', '.join(chosen)} served to choose settings.")
    if not left:
        print("None is left, so nothing of the edits' own prompts is unseen here.")
        return
    title = f"The other {len(left)}: percent"
    others = [*left.values()]
    _print_rows(title, OWN, _scores(others), wide, in_plain_text(others))
    print(
        f"The others: {', '.join(left)}. The detector was fitted on their own questions (DS, onlyQ, otherA) and on all "
        "attacks all the same; the questions of otherQ and otherAQ it has not seen."
    )


def _scores(cases: Sequence[Mapping[str, Outcome]]) -> dict[str, tuple[Score, ...]]:
    """Return each row's scores over the cases that it has not failed on."""
    exams = {name: [case[name].exam for case in cases] for name in cases[0]}
    return {
        name: scores_of_edits([exam.replies for exam in of_row if exam is not None], "rules")
        for name, of_row in exams.items()
    }


def _print_rows(
    title: str,
    columns: Sequence[str],
    scores: Mapping[str, Sequence[Score]],
    wide: int,
    plain: Sequence[str],
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Print one table: vanilla, with and without S, and in plain text where rows are, then every row.

    Args:
        plain: Rows in plain text beside others (:func:`in_plain_text`).
    """
    tables = {name: {score.name: score for score in table} for name, table in scores.items()}
    alike = _asked_alike([name for name in tables if tables[name]])
    print(f"\n{title:{wide}}" + "".join(f"{name:>{WIDTH}}" for name in columns) + ("      s" if seconds else ""))
    if SUFFIX_ALONE in tables:
        print(f"{'vanilla without S':{wide}}{_cells(tables[SUFFIX_ALONE], columns, 'vanilla')}")
    if alike is not None:
        print(f"{'vanilla':{wide}}{_cells(tables[alike], columns, 'vanilla')}")
    if plain:
        print(f"{PLAIN_TEXT:{wide}}{_cells(tables[plain[0]], columns, 'vanilla')}")
    for name, table in tables.items():
        took = seconds[name] if seconds else 0.0
        print(f"{name:{wide}}{_cells(table, columns, 'edited')}{f'{took:7.0f}' if took else ''}")
    if plain:
        named = ", ".join(name for name in tables if name in plain)
        print(f"In plain text, as '{PLAIN_TEXT}' is and no other row: {named}.")


def in_plain_text(cases: Sequence[Mapping[str, Outcome]]) -> tuple[str, ...]:
    """Return the rows that were asked in plain text, the one with most finished cases first, as their exams say.

    None where the vanilla that the other rows are compared with was asked so, too.
    """
    exams = {name: [exam for case in cases if (exam := case[name].exam) is not None] for name in cases[0]}
    plain = {name: len(of_row) for name, of_row in exams.items() if of_row and not of_row[0].format.chat}
    alike = _asked_alike([name for name, of_row in exams.items() if of_row])
    return () if alike in plain else tuple(sorted(plain, key=lambda name: -plain[name]))


def _asked_alike(names: Sequence[str]) -> str | None:
    """Return a row whose vanilla answers are those that edits are compared with; ``None`` where there is none.

    Released code and paper are asked in plain text (:func:`in_plain_text`), and the suffix alone is compared with none.
    """
    if CORRECTED in names:
        return CORRECTED
    for name in names:  # a routed row comes after its edit
        edit = edit_of(name)
        if edit is not None and edit.preset == "corrected":
            return name
    return ROUNDING if ROUNDING in names else None


def _print_changes(cases: Sequence[Mapping[str, Outcome]], wide: int) -> None:
    """Print of every row how many answers are not its vanilla's, and what becomes of vanilla's refusals.

    Harmful prompts are the edits' own and those of others; a refusal is one that the refusal rules read.
    """
    heads = ("harmful changed", "harmless changed", "refusals lost", "refusals added")
    print(f"\n{CHANGES:{wide}}" + "".join(f"{head:>{WIDTH}}" for head in heads))
    for name in cases[0]:
        replies = [reply for case in cases if (exam := case[name].exam) is not None for reply in exam.replies]
        harmful = [reply for reply in replies if reply.question.kind in JUDGED]
        cells = [
            f"{sum(reply.vanilla.text != reply.edited.text for reply in of)} of {len(of)}"
            for of in (harmful, [reply for reply in replies if reply.question.kind == "harmless"])
        ]
        refused = [(reply.vanilla.refused, reply.edited.refused) for reply in harmful]
        cells += [str(refused.count(change)) for change in ((True, False), (False, True))]
        print(f"{name:{wide}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells))
    print("Refusals are those of harmful prompts, by the refusal rules: vanilla's that the row loses, and its own.")


def _detector(routed: Mapping[str, Outcome], split: Split) -> None:
    """Print what fired, harmless prompts by whether they stand in an attack.

    Refused edits are asked as vanilla, where no detector decides.

    Args:
        routed: Outcomes by the case's number.
        split: Whose texts were asked.
    """
    bare = {prompt.prompt for prompt in false_alarm_prompts(split)}
    asked = [
        (reply, number)
        for number, one in routed.items()
        if one.exam is not None and not one.refused
        for reply in one.exam.replies
    ]
    harmless = [(reply, number) for reply, number in asked if reply.question.kind == "harmless"]
    for told, chosen in (
        ("harmful prompts of others", [one for one in asked if one[0].question.kind == "transfer"]),
        ("harmless ones", harmless),
        ("bare harmless ones", [one for one in harmless if one[0].question.prompt in bare]),
        ("wrapped harmless ones, in attacks", [one for one in harmless if one[0].question.prompt not in bare]),
    ):
        if chosen:
            found = acted_on([reply for reply, _ in chosen], [number for _, number in chosen]).share
            span = "" if found.low is None else f" [{found.low:.1f}, {found.high:.1f}]"
            print(f"The detector fires for {found.value:.1f} % of {found.n} {told}{span}")


def _cells(table: Mapping[str, Score], names: Sequence[str], side: str) -> str:
    return "".join(f"{_cell(table, name, side):>{WIDTH}}" for name in names)


def _cell(table: Mapping[str, Score], name: str, side: str) -> str:
    if name not in table:
        return "-"
    estimate: Estimate = getattr(table[name], side)
    if estimate.value is None:
        return "-"
    places = PLACES.get(name, 0)
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{places}f}"
    return f"{estimate.value:.{places}f} [{estimate.low:.{places}f}, {estimate.high:.{places}f}]"
