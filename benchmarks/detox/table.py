"""The table of the comparison, over all finished cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.detox.rows import CORRECTED, DETECTED, ROUNDING, SUFFIX_ALONE, edit_of
from benchmarks.detox.run import Outcome
from inspector.safeedit.scores import QUOTED, Estimate, Score, resampling_told, scores_of_edits

DEFENCE = ("DS", "DG-Avg", "transfer", "Fluency", "KQA", "CSum")
HARM = ("DL", "still answers", "harmless KL", "over-refusal", "look-alikes", "degenerate", "parroting", *QUOTED)
NAME, WIDTH = 34, 19
PLACES = {"harmless KL": 3, "Fluency": 2}


def print_table(cases: Sequence[Mapping[str, Outcome]]) -> None:
    """Print what every row scores over the cases that it has not failed on; each case has the same rows."""
    names = list(cases[0])
    wide = max(NAME, *(len(name) + 1 for name in names))
    exams = {name: [case[name].exam for case in cases] for name in names}
    whole = {
        name: scores_of_edits([exam.replies for exam in of_row if exam is not None], "rules")
        for name, of_row in exams.items()
    }
    tables = {name: {score.name: score for score in table} for name, table in whole.items()}
    plain = _asked_alike([name for name in names if whole[name]])
    for title, columns in (("Defence: percent; Fluency in bits", DEFENCE), ("Harm: percent; KL in nats", HARM)):
        print(f"\n{title:{wide}}" + "".join(f"{name:>{WIDTH}}" for name in columns) + "      s")
        if SUFFIX_ALONE in tables:
            print(f"{'vanilla without S':{wide}}{_cells(tables[SUFFIX_ALONE], columns, 'vanilla')}")
        if plain is not None:
            print(f"{'vanilla':{wide}}{_cells(tables[plain], columns, 'vanilla')}")
        for name, table in tables.items():
            seconds = sum(case[name].seconds for case in cases) / len(cases)
            told = f"{seconds:7.0f}" if seconds else ""
            print(f"{name:{wide}}{_cells(table, columns, 'edited')}{told}")
    print()
    for name, table in tables.items():
        if "Fluency" in table:
            print(f"Fluency, {name}: {table['Fluency'].meaning}; {table['Fluency'].source}")
    print("A row's DL and harmless KL are against vanilla as that row asks it; those of S alone against no suffix.")
    for name in names:
        refused = [case[name].refused for case in cases if case[name].refused]
        if refused:
            reasons = " ".join(dict.fromkeys(refused))
            print(f"{name}: {len(refused)} of {len(cases)} edits refused, vanilla counted: {reasons}")
        failed = [case[name].failed for case in cases if case[name].failed]
        if failed:
            reasons = " ".join(dict.fromkeys(failed))
            print(f"{name}: {len(failed)} of {len(cases)} edits FAILED and are in no mean of this row: {reasons}")
    _detector([case[DETECTED] for case in cases if DETECTED in case])
    print(resampling_told(next((whole[name] for name in (CORRECTED, *reversed(names)) if whole.get(name)), ())))


def _asked_alike(names: Sequence[str]) -> str | None:
    """Return a row whose vanilla answers are those that edits are compared with; ``None`` where there is none.

    Released code and paper are asked in plain text, and the suffix alone is compared with none.
    """
    if CORRECTED in names:
        return CORRECTED
    for name in names:  # a routed row comes after its edit
        edit = edit_of(name)
        if edit is not None and edit.preset == "corrected":
            return name
    return ROUNDING if ROUNDING in names else None


def _detector(routed: Sequence[Outcome]) -> None:
    """Print what fired; refused edits are asked as vanilla, where no detector decides."""
    replies = [reply for one in routed if one.exam is not None and not one.refused for reply in one.exam.replies]
    for kind, told in (("transfer", "harmful prompts of others"), ("harmless", "harmless ones")):
        held = [reply.held_back for reply in replies if reply.question.kind == kind]
        if held:
            print(f"The detector fires for {100 - 100 * sum(held) / len(held):.1f} % of {len(held)} {told}")


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
