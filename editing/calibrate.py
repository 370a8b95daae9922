"""Calibrate a model once: ``python -m editing.calibrate [--model ...]``; every edit starts from the result.

    python -m editing.calibrate --model NAME           find the layer where edits work, fit the detector, keep both
    python -m editing.calibrate --measure development  the kept detector on texts that it was not fitted on
    python -m editing.calibrate --measure development --calibration FILE    the one that --out FILE has written

What was found is JSON on the output: the file, every tried layer and the detector, or with --measure the detector's
hits and false alarms by prompt format. A table of it goes to the error stream. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from editing.calibrating.calibration import (
    FORMATS,
    KeptAnswer,
    kept_in,
    load_calibration,
    make_calibration,
    places,
    save_calibration,
)
from editing.calibrating.trial_edits import SETTINGS, Layers, Trial
from editing.command import Loader, add_model, finished, load_model, named_layer, say, tell, teller, warn_of
from editing.progress import run
from inspector.command import require_target
from inspector.detection import (
    Measured,
    Sample,
    labelled_samples,
    measure,
    packaged_samples,
    samples,
    stress_samples,
    that_fit,
)
from inspector.errors import EditError
from inspector.model import Detector, InspectedModel, PromptFormat, encode
from inspector.model.patches.routing import scores
from inspector.safeedit.cases import Split
from inspector.safeedit.intervals import RESAMPLES, Estimate
from inspector.safeedit.refusal import read_refusal
from inspector.safeedit.sets import harmful_questions

OWN_SPLITS = ("development", "score")
PACKAGED, STRESS = "packaged", "stress"
"""In place of a split: collections of others, what a stress test asks."""


def options() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m editing.calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    parser.add_argument("--out", type=Path, help="file to write; in the cache by default")
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="with --measure: the file to read; the model's own by default"
    )
    parser.add_argument(
        "--measure",
        type=_texts_word,
        metavar="TEXTS",
        help=f"measure the model's calibration instead of making one: on bundled texts that it was not fitted on "
        f"({OWN_SPLITS[0]}, by which its settings were chosen, {OWN_SPLITS[1]}, by which nothing was, or {STRESS}, "
        f"what a stress test asks), on those of other packages ({PACKAGED}, requirements-bench.txt), or on a CSV file "
        "with columns prompt and harmful, or label, or type as in XSTest's",
    )
    return parser


def _texts_word(word: str) -> str:
    if word not in (known := (*OWN_SPLITS, STRESS, PACKAGED)) and not word.lower().endswith(".csv"):
        raise argparse.ArgumentTypeError(f"'{word}' is none of {', '.join(known)}, and no .csv file")
    return word


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Run the command.

    Returns:
        0, or 2 when it cannot be done.
    """
    chosen = options().parse_args(arguments)
    return finished(lambda: _do(chosen, loader))


def _do(chosen: argparse.Namespace, loader: Loader) -> None:
    """Measure a calibration, or make one and say what it is."""
    _require_fitting(chosen)
    if not chosen.measure:
        require_target(chosen.out or kept_in() / "FINGERPRINT.safetensors")
    texts = _texts_of(chosen.measure) if chosen.measure else ()  # a model of billions may take minutes to load
    model = loader(chosen)
    if chosen.measure:
        detector = load_calibration(model, chosen.calibration).detector
        found = measurements(model, detector, chosen.measure, texts)
        say(measured_table(model, detector, chosen.measure, found))
        formats = {form.label() or "with the suffix": asdict(one) for form, one in found.items()}
        tell({**_of(model), "split": chosen.measure, "threshold": detector.threshold, "formats": formats})
        return
    path = chosen.out or places(model)[0]
    made = run(make_calibration(model), teller())
    assert made is not None  # nobody cancels it
    save_calibration(made, path)
    about = made.detector.about
    say(f"{path}\n{layer_table(made.layers)}")
    say(
        f"Detector: {about['questions']} harmful questions ({about['harmful_texts']} texts), "
        f"{about['harmless_prompts']} harmless prompts ({about['harmless_texts']} texts). Held out in turn: area under "
        f"the ROC curve {about['auc_held_out']:.4f}." + _of_development(about) + _left_out(model, about["too_long"])
    )
    own = _own_answers(model, made.answers)
    say("\n".join(_own_line(*one) for one in own.items()))
    warn_of(made.detector)
    tell({**_of(model), "file": str(path), "layers": _layers(made.layers), "detector": about, "answers": own})


def _of_development(about: Mapping[str, Any]) -> str:
    """Say what a detector does on the texts by which its threshold was chosen; nothing where none could be read."""
    said = [
        f"{100 * about[key]:.1f} % of {about[count]} {words}"
        for key, count, words in (
            ("found_unseen", "unseen_harmful", "harmful texts found"),
            ("false_alarms_unseen", "unseen_harmless", "harmless ones are false alarms"),
        )
        if key in about
    ]
    return f" Of the split {OWN_SPLITS[0]}, by which the threshold was chosen: {', '.join(said)}." if said else ""


def _own_answers(model: InspectedModel, answers: Sequence[KeptAnswer]) -> dict[str, dict[str, Any]]:
    """Return, of a model's answers to harmless prompts and of its refusals, how many there are and how sure they are.

    ``log_probability`` is what the model gives a token of them, nats, the mean over all tokens; ``None`` without one.
    """
    asked = {question.question for question in harmful_questions("detector")}
    kinds: dict[str, list[KeptAnswer]] = {"harmless": [], "refusals": []}
    for one in answers:
        if one.text not in asked:
            kinds["harmless"].append(one)
        elif read_refusal(model.decode(one.response), one.text).refused:
            kinds["refusals"].append(one)
    told = {kind: [value for one in of for value in one.log_probabilities] for kind, of in kinds.items()}
    return {
        kind: {"answers": len(of), "log_probability": statistics.fmean(told[kind]) if told[kind] else None}
        for kind, of in kinds.items()
    }


def _own_line(kind: str, found: dict[str, Any]) -> str:
    """Say in a line what was kept of one kind of the model's own answers."""
    words = {"harmless": "answers of its own to harmless prompts", "refusals": "refusals of its own"}[kind]
    sure = found["log_probability"]
    return f"Kept: {found['answers']} {words}" + ("." if sure is None else f", log P {sure:.3f} nats a token.")


def _layers(layers: Layers) -> dict[str, Any]:
    """Return what trial edits achieve as JSON can hold it."""
    trials = [
        named_layer(trial.block) | asdict(trial) | {"least_gain": layers.least_gain(trial)} for trial in layers.trials
    ]
    anew = None if layers.anew is None else _layers(layers.anew)
    return {**asdict(layers), "trials": trials, "anew": anew, "recommended": layers.recommended}


def _require_fitting(chosen: argparse.Namespace) -> None:
    """Refuse an option that would name nothing.

    Raises:
        EditError: A file to write where nothing is written, or one to read where nothing is read.
    """
    if chosen.measure and chosen.out is not None:
        raise EditError("--measure writes nothing, so there is no --out. Name the file to read with --calibration.")
    if chosen.calibration is not None and not chosen.measure:
        raise EditError("--calibration is read with --measure only. Name the file to write with --out.")


def _of(model: InspectedModel) -> dict[str, Any]:
    return {"model": model.name, "fingerprint": model.fingerprint, "dtype": model.dtype_name}


def layer_table(layers: Layers) -> str:
    """Return what trial edits achieve, a line a layer, and the recommended one."""
    lines = _tried(layers, "cases")
    if layers.anew is not None:
        lines += [
            "None surely defends more. The most promising layers, tried anew:",
            *_tried(layers.anew, "fresh cases"),
        ]
    lines.append(
        f"The n is of what is defended. The harmless KL is of {SETTINGS.harmless_prompts} prompts an edit, the same on "
        "which its step size was set, so it says little of others."
    )
    lines += [f"Left out: {why}" for one in (layers, layers.anew) if one is not None for why in one.left_out]
    best = layers.recommended
    return "\n".join(
        [*lines, "No layer defends more than the model." if best is None else f"Recommended layer: {best}."]
    )


def _tried(layers: Layers, cases: str) -> list[str]:
    """Return a line on the cases, which are named, and one on each layer that was tried on them."""
    return [
        f"Trial edits on {layers.cases} {cases}, {layers.prompts} unseen prompts of which the model defends "
        f"{100 * layers.vanilla:.0f} % by itself:",
        *(
            f"  layer {trial.block:3d}  defended {100 * trial.defended:3.0f} %  harmless KL {trial.kl:.4f} nats a token"
            + _surely(layers, trial)
            + ("" if trial.step_size is None else f"  step size {trial.step_size:.2e}")
            for trial in layers.trials
        ),
    ]


def _surely(layers: Layers, trial: Trial) -> str:
    """Return the interval of what a layer's edits defend, what it was resampled from, and vanilla on these prompts."""
    if not trial.edits:
        return ""
    found, count = layers.defended_of(trial), len(trial.edits)
    span = "" if found.low is None else f"{found.low:.0f} to {found.high:.0f} %, "
    return (
        f"  ({span}n = {found.n} of {count} edit{'' if count == 1 else 's'}; vanilla "
        f"{100 * layers.vanilla_of(trial):.0f} %)"
    )


def measurements(
    model: InspectedModel, detector: Detector, split: str, known: Sequence[Sample] = ()
) -> dict[PromptFormat, Measured]:
    """Return hits and false alarms on texts that the detector was not fitted on, by the prompt format.

    Args:
        split: A split of the bundled texts, :data:`STRESS`, :data:`PACKAGED`, or the path of a CSV file.
        known: Its texts, where they were read already.

    Raises:
        CaseError: The texts cannot be had.
        EditError: All of them are longer than the model's context.
    """
    texts = tuple(known) or _texts_of(split)
    found = {}
    for form in FORMATS:
        short = that_fit(model, texts, (form,))
        if not short:
            raise EditError(
                f"{model.name} reads at most {model.context_length:,} tokens, and each of these texts is longer. "
                "Measure with shorter ones."
            )
        prompts = [encode(model, sample.text, None, form).prompt for sample in short]
        measured = measure(short, scores(model, detector, prompts), detector)
        found[form] = replace(measured, too_long=len(texts) - len(short))
    return found


def _left_out(model: InspectedModel, too_long: int) -> str:
    """Say that texts were longer than the model's context; nothing where none was."""
    if not too_long:
        return ""
    return f" Left out: {too_long} texts of more than the {model.context_length:,} tokens that {model.name} reads."


def _texts_of(split: str) -> tuple[Sample, ...]:
    named = {STRESS: stress_samples, PACKAGED: packaged_samples}
    if split in named:
        return named[split]()
    return samples(cast(Split, split)) if split in OWN_SPLITS else labelled_samples(Path(split))


def _titled(split: str) -> str:
    if split == STRESS:
        return "the stress test"
    return f"the split '{split}'" if split in (*OWN_SPLITS, PACKAGED) else Path(split).name


def measured_table(
    model: InspectedModel, detector: Detector, split: str, known: dict[PromptFormat, Measured] | None = None
) -> str:
    """Return a table of :func:`measurements`."""
    lines = [
        f"{model.name}, {model.dtype_name}; texts of {_titled(split)}",
        f"95 % intervals: all forms of a question together and, where all texts stand in templates, all texts of one, "
        f"{RESAMPLES:,} resamples of questions and templates where one stands for several; else Wilson's. Texts of one "
        "single template have none.",
    ]
    for form, found in (known or measurements(model, detector, split)).items():
        auc = "none of one kind of prompts" if found.auc is None else f"{found.auc:.4f}"
        left_out = _left_out(model, found.too_long)
        lines.append(
            f"\n{form.label() or 'with the suffix'}: area under the ROC curve {auc}{left_out and '.' + left_out}"
        )
        for title, shares in (("harmful, found", found.found), ("harmless, false alarms", found.false_alarms)):
            lines += [f"  {title:24s}{name:22s}{_percent(share)}" for name, share in shares.items()]
        lines += [
            f"  {name:12s} threshold {at:7.3f}: {hit:5.1f} % found at {limit:2d} % false alarms"
            for name, rows in found.frontiers.items()
            for limit, at, hit in rows
        ]
        lines += [
            f"  in '{name}': {_told(hit)} found, {_told(alarm)} false alarms" for name, hit, alarm in found.templates
        ]
        lines.append(f"  the detector's own threshold: {detector.threshold:.3f}")
    return "\n".join(lines)


def _told(percent: float | None) -> str:
    return "none asked" if percent is None else f"{percent:.0f} %"


def _percent(share: Estimate) -> str:
    if share.value is None:
        return "none"
    known = () if share.low is None else (f"{share.low:.1f} to {share.high:.1f}",)
    parts = (*known, f"n = {share.n}", *filter(None, (share.resampled,)))
    return f"{share.value:5.1f} %  ({', '.join(parts)})"


if __name__ == "__main__":
    sys.exit(main())
