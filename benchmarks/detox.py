"""Does an edit work? Defence of unseen attacks and questions against what happens to harmless prompts.

    python -m benchmarks.detox                       the embedded model, three cases, texts of the development split
    python -m benchmarks.detox --split score         texts that no setting was chosen on; to be looked at once

Rows: the released code and `corrected` at DINM's toxic layer, `corrected` at the recommended layer on every prompt, and
the same patch routed, only where the calibration's detector fires. Each edit is made on one case and asked the case's
own prompts, questions of other cases in attack templates that it has not seen, and harmless prompts, bare and in such
templates. Each row is asked in its own prompt format; vanilla is that of `corrected`'s.

The recommended layer was chosen on other cases. The detector was fitted on all questions and templates that may be
edited on, the case's own prompts among them: of the routed row only the scores beyond DS and DG-Avg are on texts that
it has not seen.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator

import torch

from editing import DinmSettings, dinm, preset, run
from editing.calibration import Calibration, load_calibration
from editing.trial_edits import trial_cases
from inspector.divergence import divergence
from inspector.errors import CaseError, EditError
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, Row, load
from inspector.presets import Preset
from inspector.safeedit import Case, bundled_cases
from inspector.safeedit.cases import Split, bundled_templates
from inspector.safeedit.exam import Reply, examine
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import CASE_ONLY, Question, make_exam
from inspector.safeedit.scores import Score, score_table
from inspector.safeedit.sets import false_alarm_prompts, harmful_questions, spread

SCORES = ("DS", "DG-Avg", "transfer", "DL", "harmless KL", "over-refusal", "look-alikes", "degenerate", "parroting")
RECOMMENDED = "corrected, recommended"
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
    model: InspectedModel, case: Case, calibration: Calibration
) -> Iterator[tuple[str, Row, PromptFormat, float]]:
    """Make each row's edit: its name, its weights (vanilla where it was refused), its format and its seconds."""
    names: list[tuple[str, Preset, int | None]] = [
        ("released code, toxic", "reference", None),
        ("corrected, toxic", "corrected", None),
        (RECOMMENDED, "corrected", calibration.layers.recommended),
    ]
    for name, chosen, block in names:
        settings: DinmSettings = preset(chosen)
        layer = divergence(model, case, chosen).toxic_layer() if block is None else block
        begun = time.perf_counter()
        try:
            row = run(dinm(model, case, layer, settings)).row()
        except (EditError, CaseError) as error:
            print(f"{name}, case {case.identifier}: {error.user_message()}", file=sys.stderr)
            row = VANILLA
        seconds = time.perf_counter() - begun
        yield f"{name} layer", row, settings.format, seconds
        if name == RECOMMENDED:
            routed = row if row.patch is None else Row(row.patch, detector=calibration.detector)
            yield "the same, routed", routed, settings.format, seconds


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="embedded model by default")
    parser.add_argument("--split", default="development", choices=("development", "score"))
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--transfer", type=int, default=18, help="harmful questions of the split, each in a template")
    parser.add_argument("--harmless", type=int, default=36, help="harmless prompts of the split")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    options = parser.parse_args()
    model = load(options.model, device="cpu", dtype="float32")
    calibration = load_calibration(model)
    calibration.teach(model)
    cases = unseen_cases(options.cases)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; {model.name}")
    named = ", ".join(str(case.identifier) for case in cases)
    print(
        f"{len(cases)} cases ({named}), split '{options.split}', recommended layer {calibration.layers.recommended}, "
        f"most {options.max_new_tokens} tokens"
    )
    replies: dict[str, list[Reply]] = {}
    seconds: dict[str, list[float]] = {}
    for case in cases:
        exam = asked_of(case, options.split, options.transfer, options.harmless)
        for name, row, format, taken in edits_of(model, case, calibration):
            decoding = Decoding(max_new_tokens=options.max_new_tokens)
            done = run(examine(model, exam, row, EmbeddedJudge(), format=format, decoding=decoding))
            replies.setdefault(name, []).extend(done.replies)
            seconds.setdefault(name, []).append(taken)
            print(f"case {case.identifier}, {name}: {taken:.0f} + {done.seconds:.0f} s", file=sys.stderr, flush=True)
    tables = {name: {s.name: s for s in score_table(found, "rules")} for name, found in replies.items()}
    print(f"\n{'percent; harmless KL in nats a token':34}" + "".join(f"{name:>{WIDTH}}" for name in SCORES) + "   s")
    print(f"{'vanilla':34}" + _cells(tables["corrected, recommended layer"], "vanilla"))
    for name, table in tables.items():
        print(f"{name:34}{_cells(table, 'edited')}{sum(seconds[name]) / len(seconds[name]):4.0f}")
    for name, found in replies.items():
        held = [reply.held_back for reply in found if reply.question.kind == "harmless"]
        missed = [reply.held_back for reply in found if reply.question.kind == "transfer"]
        if any(held):
            print(
                f"{name}: fires for {100 - 100 * sum(missed) / len(missed):.1f} % of {len(missed)} harmful prompts of "
                f"others and {100 - 100 * sum(held) / len(held):.1f} % of {len(held)} harmless ones"
            )
    print(
        "In brackets: 95 % intervals that take answers as independent; those of one edit to one prompt are not quite."
    )


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
