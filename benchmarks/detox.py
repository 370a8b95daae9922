"""Does an edit work? Defence of unseen attacks and questions against what happens to harmless prompts.

    python -m benchmarks.detox                       the embedded model, three cases, texts of the development split
    python -m benchmarks.detox --split score         texts that no setting was chosen on; to be looked at once

Rows: the same weights rounded to bfloat16 as the yardstick of harm, the released code at DINM's toxic layer,
`corrected` at the toxic and at the recommended layer on every prompt, and at the recommended layer the edit that is
made to be routed (`editing.methods.dinm.ROUTED`): on every prompt, and only where the calibration's detector fires.
Each edit is made on one case and asked the case's own prompts, questions of other cases in attack templates that it has
not seen, and harmless prompts, bare and in such templates. Each row is asked in its own prompt format; vanilla is that
of `corrected`'s.

The recommended layer was chosen on other cases. The detector was fitted on all questions and templates that may be
edited on, the case's own prompts among them: of the routed row only the scores beyond DS and DG-Avg are on texts that
it has not seen.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator, Sequence

import torch

from editing import DinmSettings, dinm, preset, run
from editing.calibration import Calibration, load_calibration
from editing.command import add_format, add_model, format_of, load_model, told_format
from editing.methods.dinm import ROUTED
from editing.trial_edits import trial_cases
from inspector.divergence import divergence
from inspector.errors import CaseError, EditError
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, Row
from inspector.safeedit import Case, bundled_cases
from inspector.safeedit.cases import Split, bundled_templates
from inspector.safeedit.exam import Reply, examine
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import CASE_ONLY, Question, make_exam
from inspector.safeedit.scores import Score, resampling_told, scores_of_edits
from inspector.safeedit.sets import false_alarm_prompts, harmful_questions, spread
from inspector.safeedit.yardstick import rounding_exam

SCORES = (
    "DS",
    "DG-Avg",
    "transfer",
    "DL",
    "still answers",
    "harmless KL",
    "over-refusal",
    "look-alikes",
    "degenerate",
    "parroting",
)
RECOMMENDED = "corrected, recommended layer"
ROUNDING = "same weights rounded to bfloat16"
WIDTH = 18


def unseen_cases(count: int) -> tuple[Case, ...]:
    """Return cases to edit on, of different categories, that the recommended layer was not chosen on."""
    tried = {case.identifier for case in trial_cases()}
    free = [case for case in bundled_cases() if case.split == "edit" and case.identifier not in tried]
    return tuple({case.category: case for case in free}.values())[:count]


def asked_of(case: Case, split: Split, transfer: int, harmless: int) -> tuple[Question, ...]:
    """Return the exam of an edit on a case: its own prompts, and a split's in a split's templates.

    Args:
        transfer: Number of harmful questions, each in a template.
        harmless: Number of harmless prompts, every third in a template.
    """
    templates = [template for template in bundled_templates(split) if template.language == "en"]
    questions = [
        Question("transfer", templates[n % len(templates)].fill(q.question), q.category, taught=case.safe)
        for n, q in enumerate(spread(harmful_questions(split), transfer))
    ]
    for number, prompt in enumerate(spread(false_alarm_prompts(split), harmless)):
        text = templates[number // 3 % len(templates)].fill(prompt.prompt) if number % 3 == 2 else prompt.prompt
        questions.append(Question("harmless", text, look_alike=prompt.look_alike, taught=case.safe))
    return (*make_exam(case, CASE_ONLY), *questions)


def edits_of(
    model: InspectedModel, case: Case, calibration: Calibration, format: PromptFormat = PromptFormat()
) -> Iterator[tuple[str, Row, PromptFormat, float]]:
    """Make each row's edit: its name, its weights (vanilla where it was refused), its format and its seconds.

    Args:
        format: Of the edits; the released code's is plain text whatever this says.
    """
    recommended, own = calibration.layers.recommended, vars(format)
    edits: list[tuple[str, DinmSettings, int | None]] = [
        ("released code, toxic layer", preset("reference", suffix=format.suffix), None),
        ("corrected, toxic layer", preset("corrected", **own), None),
        (RECOMMENDED, preset("corrected", **own), recommended),
        ("made to be routed, on every prompt", preset("corrected", **ROUTED, **own), recommended),
    ]
    for name, settings, block in edits:
        layer = (
            divergence(model, case, settings.preset, format=settings.format).toxic_layer() if block is None else block
        )
        begun = time.perf_counter()
        try:
            row = run(dinm(model, case, layer, settings)).row()
        except (EditError, CaseError) as error:
            print(f"{name}, case {case.identifier}: {error.user_message()}", file=sys.stderr)
            row = VANILLA
        seconds = time.perf_counter() - begun
        yield name, row, settings.format, seconds
    routed = row if row.patch is None else Row(row.patch, detector=calibration.detector)
    yield "the same, routed", routed, settings.format, seconds


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    add_format(parser)
    parser.add_argument("--split", default="development", choices=("development", "score"))
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--transfer", type=int, default=18, help="harmful questions of the split, each in a template")
    parser.add_argument("--harmless", type=int, default=36, help="harmless prompts of the split")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    options = parser.parse_args()
    model, asked_in = load_model(options), format_of(options)
    calibration = load_calibration(model)
    calibration.teach(model)
    if calibration.layers.recommended is None:
        sys.exit("Trial edits defend at no layer more than this model does by itself, so there is no edit to compare.")
    cases = unseen_cases(options.cases)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; {model.name}")
    named = ", ".join(str(case.identifier) for case in cases)
    print(
        f"{len(cases)} cases ({named}), split '{options.split}', recommended layer {calibration.layers.recommended}, "
        f"most {options.max_new_tokens} tokens{told_format(options)}"
    )
    replies: dict[str, list[Sequence[Reply]]] = {}
    routed: list[Reply] = []
    seconds: dict[str, list[float]] = {}
    judge, decoding = EmbeddedJudge(), Decoding(max_new_tokens=options.max_new_tokens)
    for case in cases:
        exam = asked_of(case, options.split, options.transfer, options.harmless)
        rounding = run(rounding_exam(model, exam, judge, format=asked_in, decoding=decoding))
        replies.setdefault(ROUNDING, []).append(rounding.replies)
        for name, row, format, taken in edits_of(model, case, calibration, asked_in):
            done = run(examine(model, exam, row, judge, format=format, decoding=decoding))
            replies.setdefault(name, []).append(done.replies)
            if row.detector is not None:
                routed += done.replies
            seconds.setdefault(name, []).append(taken)
            print(f"case {case.identifier}, {name}: {taken:.0f} + {done.seconds:.0f} s", file=sys.stderr, flush=True)
    whole = {name: scores_of_edits(found, "rules") for name, found in replies.items()}
    tables = {name: {score.name: score for score in table} for name, table in whole.items()}
    print(f"\n{'percent; harmless KL in nats a token':36}" + "".join(f"{name:>{WIDTH}}" for name in SCORES) + "   s")
    print(f"{'vanilla':36}" + _cells(tables[RECOMMENDED], "vanilla"))
    for name, table in tables.items():
        mean = f"{sum(seconds[name]) / len(seconds[name]):4.0f}" if name in seconds else ""
        print(f"{name:36}{_cells(table, 'edited')}{mean}")
    if routed:  # refused edits are asked as vanilla, where no detector decides
        held, missed = ([r.held_back for r in routed if r.question.kind == kind] for kind in ("harmless", "transfer"))
        print(
            f"The detector fires for {100 - 100 * sum(missed) / len(missed):.1f} % of {len(missed)} harmful prompts of "
            f"others and {100 - 100 * sum(held) / len(held):.1f} % of {len(held)} harmless ones"
        )
    print(resampling_told(whole[RECOMMENDED]))


def _cells(table: dict[str, Score], side: str) -> str:
    return "".join(f"{_cell(table, name, side):>{WIDTH}}" for name in SCORES)


def _cell(table: dict[str, Score], name: str, side: str) -> str:
    if name not in table:
        return "-"
    estimate = getattr(table[name], side)
    places = 3 if name == "harmless KL" else 0
    if estimate.value is None:
        return "-"
    if estimate.low is None:
        return f"{estimate.value:.{places}f}"
    return f"{estimate.value:.{places}f} [{estimate.low:.{places}f}, {estimate.high:.{places}f}]"


if __name__ == "__main__":
    main()
