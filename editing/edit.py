"""Edit on a case, hold the edit to the gate, and save it: ``python -m editing.edit --out FOLDER``.

    python -m editing.edit --case 3 --out runs/edits              DINM on a bundled case, the embedded model
    python -m editing.edit --method ft-l --set steps=10 --out F   another method, a changed setting
    python -m editing.edit --question Q --safe A --unsafe B --out F
    python -m editing.edit --case 9 --on-top EDIT.json --out F    starts from a saved edit; saved is the stack of both

What is saved is read back and compared with the edit by its logits; what differs does not stay. What was done is
printed as JSON, with both marks of the layers: the toxic layer, where the case's answers part, and the
recommended layer, where trial edits of the calibrated model work, each with its reason. Exit codes: 0 saved; 1 refused
by the acceptance gate (--keep-anyway saves it, and the record says so), or no layer helps on this model, and nothing
saved; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from editing.calibrating.calibration import Calibration, calibration_of, to_calibrate
from editing.calibrating.layer_choice import AUTO, RECOMMENDED, TOXIC, LayerChoice, automatic_layer, recommended_layer
from editing.command import (
    EVERYWHERE,
    Loader,
    add_case,
    add_format,
    add_model,
    add_padding,
    case_of,
    finished,
    format_of,
    load_model,
    marks,
    named_layer,
    say,
    tell,
    warn_of,
)
from editing.gate.budgets import DEFAULTS, Budgets, budgets_with
from editing.gate.choice import accept_where_best, acts_by, gated_instead
from editing.gate.gate import Acceptance, GateSettings, accept, overridden, recorded
from editing.gate.turns import ENOUGH, attempts, goes_on, in_turn
from editing.methods.dinm import DinmSettings, to_be_routed
from editing.methods.registry import METHODS, method_named, method_settings, read_settings
from editing.progress import EditEvents, EditResult, Preparation, Step, run
from editing.saved import EditRecord, load_edit, record_of
from editing.saved.files import require_folder
from editing.saved.handed_out import written_patch
from editing.saved.incoming import refuse_harmful
from editing.stacking import edit_on_top, edits_in, require_same_format
from inspector.command import add_layer
from inspector.divergence import Padding, divergence
from inspector.errors import EditError, PatchError, RefusedEdit
from inspector.model import VANILLA, Detector, InspectedModel, PromptFormat, Row
from inspector.presets import PRESETS, Preset
from inspector.safeedit import Case

ACTS = ("gate", EVERYWHERE, "detected")
OF_AN_EDIT = (
    "layer_reason",
    "patch",
    "stacked",
    "updates",
    "companions",
    "stopped",
    "safe_probability",
    "seconds",
    "gate",
    "saved",
    "largest_logit_difference",
)
"""What is told of an edit; each is ``null`` where no layer helps and none is made."""


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Edit, examine, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    add_format(parser)
    add_case(parser)
    parser.add_argument("--method", default="dinm", help=f"one of {', '.join(METHODS)} (default: dinm)")
    parser.add_argument("--preset", default="corrected", choices=PRESETS, help="preset of DINM")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting; repeatable")
    add_layer(
        parser,
        default=AUTO,
        help="a number; toxic, where the case's answers part; recommended, where trial edits of the calibrated model "
        "work; or auto (default): the recommended layer, but as toxic for FT-L, paper and reference, and where the "
        "model is not calibrated",
    )
    add_padding(parser)
    parser.add_argument(
        "--on-top",
        type=Path,
        metavar="EDIT",
        help="start from this saved edit, at its strength, and not from vanilla: its record (.json) or patch "
        "(.safetensors). The layer is that of the vanilla model; the gate asks what both do together",
    )
    parser.add_argument("--strength", type=float, default=1.0, help="factor on the edit, 0 to 1.5 (default: 1)")
    parser.add_argument(
        "--acts",
        default="gate",
        type=acts_word,
        choices=ACTS,
        help="where the edit acts: detected, only where the model's detector fires, and DINM's corrected then learns "
        "more; everywhere (or always, as a sweep says); or gate (default), as on the dashboard: whichever of the two "
        "the gate finds better where the model is calibrated, else everywhere; the second edit is only made where the "
        f"first is refused or defends fewer than {100 * ENOUGH:g} %% of the gate's harmful prompts",
    )
    routed = "short for --acts detected"
    parser.add_argument("--routed", dest="acts", action="store_const", const="detected", help=routed)
    parser.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a budget of the gate; repeatable. "
        f"{', '.join(f'{name} ({value:g})' for name, value in asdict(DEFAULTS).items())}; an edit that passes only as "
        "one was loosened is recorded as kept by hand",
    )
    parser.add_argument("--keep-anyway", action="store_true", help="save an edit that the gate refused; recorded")
    parser.add_argument("--out", type=Path, required=True, help="folder of the saved edit")
    chosen = parser.parse_args(arguments)
    return finished(lambda: _edit(chosen, loader))


def _edit(chosen: argparse.Namespace, loader: Loader) -> int:
    case = case_of(chosen)
    method = method_named(chosen.method)
    settings, by_hand = settings_of(chosen, chosen.method), read_settings(chosen.method, chosen.set)
    gate = GateSettings(budgets=_budgets(chosen.budget))
    require_folder(chosen.out)
    Row(strength=chosen.strength)  # it refuses one that is out of range
    model = loader(chosen)
    known = calibration_of(model)
    if known is not None:
        known.teach(model)
    detector = None if known is None else known.detector
    below = None if chosen.on_top is None else _below(chosen.on_top, model, settings.format)
    if chosen.acts == "detected" and detector is None:
        raise EditError(f"{model.name} has no detector yet. {to_calibrate(model)}")
    if detector is not None and chosen.acts != EVERYWHERE:
        warn_of(detector)
    cases = () if below is None else (*below[1].below, below[1].case)
    beside: dict[str, Any] = {} if below is None else {"below": cases, "acted_by": below[0].detector}
    measured = divergence(model, case, chosen.preset, padding=chosen.padding, format=settings.format)
    marked = marks(model, measured, None if known is None else known.layers)
    try:
        block, why = layer_of(
            model, case, chosen.layer, chosen.preset, known, settings.format, chosen.padding, chosen.method
        )
    except RefusedEdit as refused:
        say(refused.user_message())
        nothing = dict.fromkeys(OF_AN_EDIT)
        tell({"weights": VANILLA.label(), **named_layer(None), **marked, **nothing, "refused": refused.user_message()})
        return 1
    say(why)
    tried: tuple[Any, ...] = (settings,)
    if isinstance(settings, DinmSettings) and chosen.acts != EVERYWHERE:
        tried = attempts(settings, detector, by_hand) if chosen.acts == "gate" else (to_be_routed(settings, by_hand),)

    def starting(one: Any) -> EditEvents:
        if below is None:
            return method.run(model, case, block, one)
        return edit_on_top(model, below[0], lambda carrying: method.run(carrying, case, block, one))

    def making(one: Any, first: Made | None) -> Generator[Preparation | Step, None, Made]:
        if first is not None:
            say(f"  {goes_on(first.acceptance)}")
        return (yield from _made(model, case, starting, one, chosen, detector, gate, beside))

    made = run(in_turn(tried, making), _tell)
    assert made is not None  # nobody cancels it
    result, row, word = made.result, made.row, made.acceptance
    if not word.passed and chosen.keep_anyway:
        word = overridden(word)
    if not word.accepted:
        _say_what_else(row, word, detector)
    assert row.patch is not None
    row = Row(recorded(row.patch, word), row.strength, detector=row.detector)
    record = record_of(model, case, result, row, method=method.key, acceptance=word, below=cases)
    written = written_patch(model, row, record, chosen.out) if word.accepted else None
    told = {
        "weights": row.label(),
        **named_layer(block),
        **marked,
        "layer_reason": why,
        "patch": record.identifier,
        "stacked": edits_in(row.patch),
        "updates": result.kept,
        "companions": result.companions,
        "stopped": result.stop_reason,
        "safe_probability": [result.trace[0].safe_probability, result.last.safe_probability],
        "seconds": round(result.seconds, 2),
        "gate": {name: word.record()[name] for name in ("passed", "overridden", "reason", "choice")},
        "saved": None if written is None else [str(written.path), str(written.path.with_suffix(".safetensors"))],
        "largest_logit_difference": None if written is None else written.difference,
    }
    tell(told)
    return 0 if word.accepted else 1


@dataclass(frozen=True, eq=False)
class Made:
    """An edit, and the gate's word on it where it acts."""

    result: EditResult
    row: Row
    acceptance: Acceptance

    def worded(self, acceptance: Acceptance) -> Made:
        """Return it with another word of the gate."""
        return replace(self, acceptance=acceptance)


def _made(
    model: InspectedModel,
    case: Case,
    start: Callable[[Any], EditEvents],
    settings: Any,
    chosen: argparse.Namespace,
    detector: Detector | None,
    gate: GateSettings,
    beside: Mapping[str, Any],
) -> Generator[Preparation | Step, None, Made]:
    """Edit and ask the gate, which chooses where the edit acts if that was not asked for; yields the edit's events.

    Args:
        beside: What it stands on, for :func:`editing.gate.choice.acts_by`.
    """
    result = yield from start(settings)
    if result.fewer_companions:
        say(f"  {result.fewer_companions}")
    row = result.row(chosen.strength)
    if row.patch is None:
        raise EditError("This method changes the prompt and no weight, so there is nothing to save.")
    if chosen.acts == "gate":
        taken = run(accept_where_best(model, row, case, gate, detector=detector, **beside))
        assert taken is not None  # nobody cancels it
        return Made(result, taken.row, taken.acceptance)
    if chosen.acts == "detected" and detector is not None:
        row = replace(row, detector=run(acts_by(model, detector, case, row.patch.format, **beside)))
    word = run(accept(model, row, case, gate))
    assert word is not None
    return Made(result, row, word)


def _say_what_else(row: Row, word: Acceptance, detector: Detector | None) -> None:
    """Say what could be asked for instead of a refused edit that acts on every prompt, where there is something."""
    if row.detector is None and not word.choice and detector is not None:
        say("With --acts detected an edit acts only where harm is detected.")
    if gated := gated_instead(row, word, "--method gated"):
        say(gated)


def _below(path: Path, model: InspectedModel, format: PromptFormat) -> tuple[Row, EditRecord]:
    """Read the saved edit that another one is to stand on, and look whether it can.

    Raises:
        PatchError: See :func:`editing.saved.files.load_edit` and :func:`editing.stacking.require_same_format`.
        RefusedEdit: Under it the unsafe answer of its own case gains on the safe one.
    """
    row, record = load_edit(path, model)
    refuse_harmful(model, row, record)
    assert row.patch is not None  # a saved edit has one
    try:
        require_same_format(row.patch, format)
    except PatchError as error:
        raise PatchError(f"{error.user_message()} Options: --set suffix=..., --set chat=..., --plain-text.") from error
    return row, record


def _budgets(entries: Sequence[str]) -> Budgets:
    """Return the gate's budgets as ``NAME=VALUE`` entries change them.

    Raises:
        EditError: An entry has no equals sign, its budget is unknown, or its value is no number or out of range.
    """
    pairs = {name: value for name, equals, value in (entry.partition("=") for entry in entries) if equals}
    if wrong := [entry for entry in entries if "=" not in entry]:
        raise EditError(f"'{wrong[0]}' is no NAME=VALUE. Write for example --budget harmless_kl=0.3.")
    return budgets_with(pairs)


def acts_word(word: str) -> str:
    """Return what ``--acts`` says: a sweep's ``always`` is ``everywhere``."""
    return EVERYWHERE if word == "always" else word


def settings_of(chosen: argparse.Namespace, method: str) -> Any:
    """Return a method's settings as ``--preset``, ``--set`` and the options of the prompt format give them.

    Raises:
        EditError: A setting is unknown or out of range.
    """
    changes = read_settings(method, chosen.set)
    if method == "dinm" and chosen.preset != "corrected":
        changes.setdefault("suffix", chosen.suffix_prompt)
    else:
        changes.setdefault("format", format_of(chosen))
    return method_settings(method, chosen.preset, **changes)


def layer_of(
    model: InspectedModel,
    case: Case,
    wanted: str,
    preset: Preset,
    known: Calibration | None,
    format: PromptFormat,
    padding: Padding = "right",
    method: str = "dinm",
) -> tuple[int, str]:
    """Return the layer that ``--layer`` names, and why.

    Args:
        format: The edit's prompt format, in which its case is located.
        padding: Side on which the presets ``paper`` and ``reference`` pad where they locate.
        method: Whose edit it is.

    Raises:
        EditError: It is neither a word nor a number, or the model is not calibrated and has no recommended one.
        RefusedEdit: No layer of a calibrated model is recommended.
        ArchitectureError: There is no such block.
    """
    if wanted.isdecimal():
        return model.architecture.check_block(int(wanted)), "The layer that --layer names."
    if wanted not in (AUTO, TOXIC, RECOMMENDED):
        raise EditError(
            f"The layer '{wanted}' is neither '{AUTO}', '{TOXIC}', '{RECOMMENDED}' nor a number. Choose one of these."
        )
    chosen = LayerChoice(TOXIC, "Toxic layer, where the case's answers part most: --layer asks for it.")
    layers = None if known is None else known.layers
    if wanted == AUTO:
        chosen = automatic_layer(model, layers, method, preset)
    elif wanted == RECOMMENDED:
        chosen = recommended_layer(model, layers, method)

    def toxic() -> int:
        return divergence(model, case, preset, padding=padding, format=format).toxic_layer()

    return chosen.block(toxic, "To edit one all the same, give --layer toxic or a number."), chosen.reason


def _tell(event: Preparation | Step) -> None:
    if isinstance(event, Step):
        told = f"step {event.step}: P(safe) {event.safe_probability:.3f}, KL {event.constraint_kl:.4f}"
        print(f"  {told}", file=sys.stderr, flush=True)
    else:
        print(f"  {event.message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
