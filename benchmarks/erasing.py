"""Erase or suppress? The tables of :mod:`benchmarks.methods` about the region that is edited."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.kept import keep
from editing.standing import Standing
from inspector.errors import EditError, InspectorError
from inspector.model import VANILLA, InspectedModel, PromptFormat
from inspector.safeedit import Case
from inspector.safeedit.scores import mean
from inspector.toxicity import Probe
from inspector.validated import read_record
from inspector.writing import region_writing


def mechanism_told(everything: Mapping[str, Sequence[Standing]], routed: str) -> None:
    """Print the table of toxicity and shift.

    Args:
        everything: The standings of each row, a case each.
        routed: How the titles of routed rows end, which are measured with the row that they route.
    """
    print("\nErase or suppress? Means over cases [95 % interval]; * forced by construction in every case")
    counts: set[int] = set()
    some_refused = False
    wide = max(16, *(len(title) + 2 for title in everything))
    heads = ("toxicity, %", "neurons less toxic, %", "input shift, %", "source shift, %", "norm", "weights changed")
    print(f"{'':{wide}}{'n':>4}" + "".join(f"{head:>26}" for head in heads))
    for title, standings in everything.items():
        if title.endswith(routed):
            continue
        done = [s for s in standings if s.shift is not None and s.toxicity is not None]
        unchanged = [0.0 for standing in standings if standing.refused]
        count = len(done) + len(unchanged)
        if not count:
            continue
        counts.add(count)
        some_refused = some_refused or bool(unchanged)
        toxicities, shifts = [s.toxicity for s in done if s.toxicity], [s.shift for s in done if s.shift]
        untouched, still = (bool(found) and all(one.forced for one in found) for found in (toxicities, shifts))
        cells = (
            mean_told([100 * t.region.change for t in toxicities] + unchanged) + ("*" if untouched else ""),
            mean_told([100 * t.less_toxic for t in toxicities] + unchanged) + ("*" if untouched else ""),
            mean_told([100 * s.mean_input_shift for s in shifts] + unchanged) + ("*" if still else ""),
            mean_told([100 * s.source_shift for s in shifts] + unchanged) + ("*" if still else ""),
            mean_told([s.delta_norm for s in done] + unchanged),
            f"{np.mean([s.parameters_changed for s in done] + unchanged):,.0f}",
        )
        print(f"{title:{wide}}{count:>4}" + "".join(f"{cell:>26}" for cell in cells))
    if some_refused:
        print("A refused edit leaves the vanilla weights: it counts as no change.")
    if len(counts) > 1:
        print("Not the same cases for all: an edit that was not measured is in no mean here.")
    sizes = [s.toxicity.region for s in next(iter(everything.values())) if s.toxicity is not None]
    if sizes:
        print(
            f"The vanilla region's mean cosine is {np.mean([r.before for r in sizes]):.5f}, a single neuron's "
            f"{np.mean([r.typical for r in sizes]):.4f} in size: a relative change of so small a mean says little."
        )


def mean_told(values: Sequence[float]) -> str:
    """Say a mean with its 95 % interval."""
    found = mean(list(values))
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


@dataclass(frozen=True)
class Written:
    """What the region writes along the toxic direction with one edit of one case.

    All in percent of the mean length of all that the vanilla region writes at a prompt's tokens.

    Attributes:
        before: At the tokens of the case's adversarial prompts, vanilla.
        after: The same, edited.
        answer_before: While it reads the unsafe answer, vanilla; ``None`` where no prompt is followed by one.
        answer_after: The same, edited.
    """

    before: float
    after: float
    answer_before: float | None
    answer_after: float | None


def written_of(
    model: InspectedModel,
    case: Case,
    standings: Sequence[Standing],
    probe: Probe,
    block: int,
    format: PromptFormat = PromptFormat(),
) -> dict[str, Written]:
    """Measure what a block's region writes with each edit of weights, by its title.

    A refused edit leaves the vanilla weights. One that cannot be measured is told on the error stream and left out.

    Args:
        format: In which refused edits would have been asked.
    """
    found: dict[str, Written] = {}
    for standing in standings:
        result = standing.result
        if result is not None and result.patch is not None:
            row, asked = result.row().always(), result.settings.format
        elif standing.refused:
            row, asked = VANILLA, format
        else:
            continue
        try:
            one = region_writing(model, case, row, probe.direction, block, format=asked)
        except InspectorError as error:
            why = f"case {case.identifier}, {standing.method.title}, what the region writes: {error.user_message()}"
            print(why, file=sys.stderr, flush=True)
            continue
        found[standing.method.title] = Written(*one.shares, *(one.answer_shares or (None, None)))
    return found


def keep_written(path: Path, written: Mapping[str, Written]) -> None:
    """Keep what was measured of a case; its folder is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keep(path, {title: asdict(one) for title, one in written.items()})


def kept_written(path: Path) -> dict[str, Written]:
    """Return what was kept of a case; nothing where an earlier version finished it.

    Raises:
        EditError: It cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {title: read_record(Written, one) for title, one in kept.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise EditError(f"{path} cannot be read. Delete its folder, and the same command makes it again.") from error


def writing_told(titles: Sequence[str], cases: Sequence[Mapping[str, Written]]) -> None:
    """Print the table of what the region writes, a line for each of the titles that was measured in any case."""
    if not any(cases):
        return
    print(
        "\nWhat the region writes along the toxic direction on the cases' adversarial prompts, percent of the length\n"
        "of all that it writes; how much less with the edit, there and while it reads the unsafe answer; means over\n"
        "cases [95 % interval]"
    )
    wide = max(16, *(len(title) + 2 for title in titles))
    print(f"{'':{wide}}{'n':>4}" + "".join(f"{head:>24}" for head in ("vanilla", "edited", "less", "less, answer")))
    for title in titles:
        of = [case[title] for case in cases if title in case]
        if not of:
            continue
        answers = [
            one.answer_before - one.answer_after
            for one in of
            if one.answer_before is not None and one.answer_after is not None
        ]
        cells = (
            f"{np.mean([one.before for one in of]):.2f}",
            f"{np.mean([one.after for one in of]):.2f}",
            mean_told([one.before - one.after for one in of]),
            (mean_told(answers) + (f" ({len(answers)})" if len(answers) < len(of) else "")) if answers else "-",
        )
        print(f"{title:{wide}}{len(of):>4}" + "".join(f"{cell:>24}" for cell in cells))
