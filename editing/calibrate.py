"""Calibrate a model once: ``python -m editing.calibrate [--model ...]``; every edit starts from the result."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from editing.calibration import FORMATS, load_calibration, make_calibration, places, save_calibration
from editing.command import Loader, add_model, finished, load_model, teller
from editing.progress import run
from editing.trial_edits import Layers
from inspector.detection import samples
from inspector.detection_scores import measure
from inspector.model import Detector, InspectedModel, encode
from inspector.model.routing import scores
from inspector.safeedit.cases import Split
from inspector.safeedit.scores import Estimate


def options() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m editing.calibrate",
        description="Find the layer where edits of a model work, fit its detector of harmful prompts, and keep both.",
    )
    add_model(parser)
    parser.add_argument("--out", type=Path, help="file to write; in the cache by default")
    parser.add_argument(
        "--measure",
        choices=("development", "score"),
        help="measure the model's calibration on bundled texts that it was not made with, instead of making one",
    )
    return parser


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Run the command.

    Returns:
        0, or 2 when it cannot be done.
    """
    chosen = options().parse_args(arguments)
    try:
        return finished(lambda: _do(chosen, loader))
    except OSError as error:
        print(f"Error: {error}. Choose another --out.", file=sys.stderr)
        return 2


def _do(chosen: argparse.Namespace, loader: Loader) -> None:
    """Measure a calibration, or make one and say what it is."""
    model = loader(chosen)
    if chosen.measure:
        print(measured(model, load_calibration(model, chosen.out).detector, chosen.measure))
        return
    path = chosen.out or places(model)[0]
    made = run(make_calibration(model), teller())
    assert made is not None  # nobody cancels it
    save_calibration(made, path)
    about = made.detector.about
    print(f"{path}\n{layer_table(made.layers)}")
    print(
        f"Detector: {about['questions']} harmful questions ({about['harmful_texts']} texts), "
        f"{about['harmless_prompts']} harmless prompts ({about['harmless_texts']} texts). Held out in turn: "
        f"{100 * about['found_held_out']:.1f} % found, {100 * about['false_alarms_held_out']:.1f} % false alarms, area "
        f"under the ROC curve {about['auc_held_out']:.4f}."
    )


def layer_table(layers: Layers) -> str:
    """Return what trial edits achieve, a line a layer, and the recommended one."""
    lines = [
        f"Trial edits on {layers.cases} cases, {layers.prompts} unseen prompts of which the model defends "
        f"{100 * layers.vanilla:.0f} % by itself:",
        *(
            f"  layer {trial.block:3d}  defended {100 * trial.defended:3.0f} %  harmless KL {trial.kl:.4f} nats a token"
            for trial in layers.trials
        ),
    ]
    lines += [f"Left out: {why}" for why in layers.left_out]
    best = layers.recommended
    return "\n".join(
        [*lines, "No layer defends more than the model." if best is None else f"Recommended layer: {best}."]
    )


def measured(model: InspectedModel, detector: Detector, split: Split) -> str:
    """Return a table of hits and false alarms on a split that the detector was not fitted on."""
    texts = samples(split)
    lines = [f"{model.name}, {model.dtype_name}; texts of the split '{split}'"]
    for form in FORMATS:
        prompts = [encode(model, sample.text, None, form).prompt for sample in texts]
        found = measure(texts, scores(model, detector, prompts), detector)
        lines.append(f"\n{form.label() or 'with the suffix'}: area under the ROC curve {found.auc:.4f}")
        for title, shares in (("harmful, found", found.found), ("harmless, false alarms", found.false_alarms)):
            lines += [f"  {title:24s}{name:22s}{_percent(share)}" for name, share in shares.items()]
        lines += [
            f"  threshold {at:7.3f}: {hit:5.1f} % found at {limit} % false alarms" for limit, at, hit in found.frontier
        ]
        lines.append(f"  the detector's own threshold: {detector.threshold:.3f}")
    return "\n".join(lines)


def _percent(share: Estimate) -> str:
    if share.value is None:
        return "none"
    return f"{share.value:5.1f} %  ({share.low:.1f} to {share.high:.1f}, n = {share.n})"


if __name__ == "__main__":
    sys.exit(main())
