"""Does a routed edit act on its own case? ``python -m benchmarks.own_question [--questions 48]``

Questions that no detector was fitted on are taken as cases of their own, one by one, each in an attack template
of the development split. A detector beside which the case's question is read (:func:`inspector.detection.for_case`) is
asked the question bare and in other templates of that split, which nothing was fitted on; false alarms are counted on
that split's harmless prompts, bare and in those templates. The table is printed; so is the general detector's, alone.

Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editing.calibrating.calibration import load_calibration
from editing.command import Loader, add_model, finished, load_model
from editing.progress import run
from inspector.detection import Reading, Sample, for_case, readings_of, samples
from inspector.model import Detector, InspectedModel, PromptFormat
from inspector.safeedit import Case
from inspector.safeedit.cases import bundled_templates
from inspector.safeedit.intervals import percentage
from inspector.safeedit.sets import harmful_questions, spread

IN_TEMPLATES = 4
"""Templates that each question is asked in, other ones than its case's."""


@dataclass(frozen=True)
class Fired:
    """Whether a detector fires: on each form of its own question, and on each harmless prompt."""

    own: list[bool]
    harmless: list[bool]


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--questions", type=int, default=48, help="questions taken as cases (default: 48)")
    parser.add_argument("--harmless", type=int, default=600, help="harmless prompts at most (default: 600)")
    chosen = parser.parse_args(arguments)
    return finished(lambda: _measured(loader(chosen), chosen.questions, chosen.harmless))


def _measured(model: InspectedModel, count: int, most_harmless: int) -> None:
    general, format = load_calibration(model).detector, PromptFormat()
    templates = [one for one in bundled_templates("development") if one.language == "en"]
    questions = [one.question for one in spread(harmful_questions("development"), count)]
    forms = []
    for number, question in enumerate(questions):
        after = (templates[(number + 1 + n) % len(templates)] for n in range(IN_TEMPLATES))
        forms.append([Sample(text, True, question) for text in (question, *(one.fill(question) for one in after))])
    harmless = spread([one for one in samples("development") if not one.harmful], most_harmless)
    flat = [one for each in forms for one in each]
    read = run(readings_of(model, [*flat, *harmless], general.blocks, (format,)))
    assert read is not None  # nobody cancels it
    asked, other = read[: len(flat)], read[len(flat) :]
    size = 1 + IN_TEMPLATES
    alone, beside, seconds = [], [], 0.0
    for number, question in enumerate(questions):
        begun = time.perf_counter()
        prompt = templates[number % len(templates)].fill(question)
        detector = run(for_case(model, general, Case(question, prompt, "No.", "Yes."), format))
        assert detector is not None  # nobody cancels it
        seconds += time.perf_counter() - begun
        mine = asked[number * size : (number + 1) * size]
        alone.append(Fired(fired(general, mine), fired(general, other)))
        beside.append(Fired(fired(detector, mine), fired(detector, other)))
        print(f"{number + 1} of {len(questions)}", file=sys.stderr, flush=True)
    wrapped = [one.wrapped for one in harmless]
    print(f"{model.name}, {len(questions)} questions, {len(harmless)} harmless prompts; percent that fire")
    _print("the detector alone", alone, wrapped)
    _print("and the case's question", beside, wrapped)
    print(f"{seconds / len(questions):.1f} s a case, the first one's reading of harmless prompts included")


def fired(detector: Detector, readings: Sequence[Reading]) -> list[bool]:
    """Tell for each reading whether a detector fires."""
    return [detector.fires(detector.score(torch.tensor(reading.states).float())) for reading in readings]


def _print(name: str, rows: Sequence[Fired], wrapped: Sequence[bool]) -> None:
    """Print one row; the harmless prompts are the same ones for every question."""
    bare = [row.own[0] for row in rows]
    inside = [fires for row in rows for fires in row.own[1:]]
    alarms = {
        kind: [f for row in rows for f, inner in zip(row.harmless, wrapped, strict=True) if inner == kind]
        for kind in (False, True)
    }
    parts = (("bare", bare), ("in unseen attacks", inside), ("harmless", alarms[False]), ("in attacks", alarms[True]))
    told = (f"{part} {percentage(sum(of), len(of)).value:.2f} ({sum(of)} of {len(of)})" for part, of in parts if of)
    print(f"{name}: {'; '.join(told)}")


if __name__ == "__main__":
    sys.exit(main())
