"""The whole operation on a case, and its report: ``python -m dashboard.report --out report.html``.

    python -m dashboard.report --case 3 --out report.html         locate, edit, gate, compare; the embedded model
    python -m dashboard.report --case 3 --stress Quick --locators --atlas --out report.html
    python -m dashboard.report --question Q --safe A --unsafe B --layer 20 --redact --out report.html

The report is one HTML file that opens without a network; --script and --notebook write the run down as code. What was
done is printed as JSON. Exit codes: 0 written; 1 written, and the acceptance gate refused the edit, so that nothing was
asked with it (--keep-anyway goes on, and the report says so), or no layer helps on this model, and nothing written; 2
when it cannot be done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dashboard.kit.sessions.acting import Wish, require_detector
from dashboard.kit.sessions.session import Session
from dashboard.report.document import Report, make_report, visit_of
from dashboard.report.further import measured_in
from dashboard.report.operation import look, operate, several, stress
from dashboard.steps.compare import run as comparing
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.methods import run as contests
from dashboard.steps.operate.gating import Gated
from dashboard.steps.stress import run as stressing
from editing import Step
from editing.calibrating.calibration import Calibration, calibration_of
from editing.calibrating.layer_choice import AUTO
from editing.command import (
    EVERYWHERE,
    Loader,
    add_case,
    add_evaluation,
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
from editing.edit import acts_word, layer_of, settings_of
from editing.gate.gate import RECORD
from editing.methods.registry import METHODS, read_settings
from editing.saved.record import digest_of
from inspector.command import add_layer, require_target
from inspector.divergence import Divergence, divergence
from inspector.errors import CaseError, RefusedEdit
from inspector.model import VANILLA, Decoding, InspectedModel, Row
from inspector.model.whole_file import write_whole
from inspector.presets import PRESETS

WISHES: dict[str, Wish] = {"gate": "gate", EVERYWHERE: "everywhere", "detected": "where harm"}
"""What --acts says, as :mod:`editing.edit` does, and what it asks of the edit."""
SAME = "same"
"""What --methods-layer says where all methods edit the operation's layer."""
LONGEST = {
    "max-new-tokens": ("", comparing.LONGEST_ANSWER),
    "stress-tokens": (" of the stress test", stressing.LONGEST_ANSWER),
    "methods-tokens": (" of the methods", contests.LONGEST_ANSWER),
}
"""Options of an answer's length, each with whose answers they are and the page's own length."""
NOTHING_MADE: dict[str, Any] = {
    "weights": VANILLA.label(),
    "patch": None,
    "digest": None,
    "gate": None,
    "parts": [],
    "refused": None,
    "written": [],
}
"""What is told after the marks of the layers, and stays so where no layer helps and nothing is made."""


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Operate, write, print."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboard.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model(parser)
    add_format(parser)
    add_case(parser)
    parser.add_argument("--preset", default="corrected", choices=PRESETS, help="of the measurement and of the edit")
    add_padding(parser)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting; repeatable")
    add_layer(
        parser,
        default=AUTO,
        help="a number; toxic, where the case's answers part; recommended, where trial edits of the calibrated model "
        "work; or auto (default), as in python -m editing.edit",
    )
    parser.add_argument("--strength", type=float, default=1.0, help="factor on the edit, 0 to 1.5 (default: 1)")
    parser.add_argument(
        "--acts", default="gate", type=acts_word, choices=WISHES, help="where it acts, as in python -m editing.edit"
    )
    parser.add_argument("--keep-anyway", action="store_true", help="go on with an edit that the gate refused")
    told = (
        "put the edit to the stress test of this size, both ways where there is a detector, beside what bfloat16 by "
        "itself does"
    )
    parser.add_argument("--stress", choices=stressing.SIZES, help=told)
    add_evaluation(parser, "of the stress test and the methods; ")
    parser.add_argument("--locators", action="store_true", help="ask every locator")
    parser.add_argument("--atlas", action="store_true", help="make the same small edit at every layer")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[],
        choices=METHODS,
        metavar="METHOD",
        help=f"run several with their own settings and compare them by the page's brief exam: {', '.join(METHODS)}",
    )
    routed_too = (
        "with --methods: also each patch only where harm is detected, a line more each; DINM's also as it is first"
    )
    parser.add_argument("--methods-routed", action="store_true", help=routed_too)
    of_methods = (
        f"of --methods: {AUTO}, each edits the layer that --layer {AUTO} takes for it; {SAME}, all edit the "
        f"operation's (default: {AUTO} with --layer {AUTO}, else {SAME})"
    )
    parser.add_argument("--methods-layer", choices=(AUTO, SAME), help=of_methods)
    for name, (whose, longest) in LONGEST.items():
        told = f"longest answer{whose} (default: {longest}, as on the page)"
        parser.add_argument(f"--{name}", type=int, default=longest, help=told)
    parser.add_argument("--redact", action="store_true", help="leave prompts and unsafe answers out of what is written")
    parser.add_argument("--script", type=Path, help="write the run as a Python script, too")
    parser.add_argument("--notebook", type=Path, help="write the run as a notebook, too")
    parser.add_argument("--out", type=Path, required=True, help="the report, an HTML file")
    chosen = parser.parse_args(arguments)
    return finished(lambda: _report(chosen, loader))


def _report(chosen: argparse.Namespace, loader: Loader) -> int:
    from dashboard.house import REPORTERS  # it brings Gradio, which --help and a wrong option need not wait for

    case = case_of(chosen)
    for name in LONGEST:
        if not 1 <= getattr(chosen, name.replace("-", "_")) <= 1024:
            raise CaseError(f"The longest answer must have 1 to 1024 tokens. Change --{name}.")
    if chosen.methods_routed and not chosen.methods:
        raise CaseError("--methods-routed is for the methods of a report. Name some with --methods.")
    settings = settings_of(chosen, "dinm")
    format = measured_in(settings, format_of(chosen))
    named = {"--out": chosen.out, "--script": chosen.script, "--notebook": chosen.notebook}
    _require_targets({option: path for option, path in named.items() if path is not None})
    for name in _lengths_of_their_own(chosen):
        longest = getattr(chosen, name.replace("-", "_"))
        say(f"The answers{LONGEST[name][0]} have at most {longest} tokens (--{name}), not {chosen.max_new_tokens}.")
    Row(strength=chosen.strength)  # it refuses one that is out of range
    model = loader(chosen)
    known = calibration_of(model)
    if chosen.methods_routed:
        require_detector(model, None if known is None else known.detector)
    if known is not None:
        known.teach(model)
        if chosen.acts != EVERYWHERE:
            warn_of(known.detector)
    try:
        block, why = layer_of(model, case, chosen.layer, chosen.preset, known, format, chosen.padding)
    except RefusedEdit as refused:
        say(refused.user_message())
        measured = divergence(model, case, settings.preset, padding=chosen.padding, format=format)
        tell({**_marks(model, measured, None, known), **NOTHING_MADE, "refused": refused.user_message()})
        return 1
    say(why)
    session = Session()
    operate(
        model,
        session,
        case,
        block,
        settings,
        format,
        Decoding(max_new_tokens=chosen.max_new_tokens),
        padding=chosen.padding,
        calibration=known,
        acts=WISHES[chosen.acts],
        strength=chosen.strength,
        by_hand=read_settings("dinm", chosen.set),
        keep_anyway=chosen.keep_anyway,
        tell=_tell,
    )
    if chosen.stress is not None and session.live is not None:
        longest = Decoding(max_new_tokens=chosen.stress_tokens)
        detector = None if known is None else known.detector
        stress(model, session, chosen.stress, chosen.evaluation, longest, _tell, detector)
    look(model, session, chosen.locators, chosen.atlas, _tell, chosen.padding)
    layers = known.layers if known is not None else None
    if chosen.methods:
        longest = Decoding(max_new_tokens=chosen.methods_tokens)
        router = known.detector if known is not None and chosen.methods_routed else None
        several(
            model,
            session,
            block,
            chosen.methods,
            chosen.evaluation,
            longest,
            _tell,
            router,
            picked=(chosen.methods_layer or (AUTO if chosen.layer == AUTO else SAME)) == SAME,
            layers=layers,
        )
    report = make_report(model, visit_of(session, chosen.redact, layers), REPORTERS)
    assert report is not None  # the divergence was measured
    written: list[Path] = []
    try:
        _write(chosen, report, written)
    finally:
        if written:  # it stays, so it is told, whatever has ended the rest
            tell(_told(model, session, block, report, written, known))
    return 0 if session.live is not None else 1


def _lengths_of_their_own(chosen: argparse.Namespace) -> list[str]:
    """Name the options whose answers have another length than both answers: one option was for the stress test, too."""
    made = [name for name, wanted in (("stress-tokens", chosen.stress), ("methods-tokens", chosen.methods)) if wanted]
    return [name for name in made if getattr(chosen, name.replace("-", "_")) != chosen.max_new_tokens]


def _require_targets(targets: Mapping[str, Path]) -> None:
    """Refuse a path that cannot be written, or twice, before anything is computed.

    Args:
        targets: The paths by what names them.

    Raises:
        CaseError: Another of them is the same file.
        EditError: Its folder is not there or not to be written to, or it is a folder itself.
    """
    if len({path.resolve() for path in targets.values()}) < len(targets):
        raise CaseError(
            "Report, script and notebook are files of their own. Give --out, --script, --notebook each its own path."
        )
    for option, path in targets.items():
        require_target(path, option, makes_folder=False)


def _write(chosen: argparse.Namespace, report: Report, written: list[Path]) -> None:
    """Write what is asked for; each path is added to those that are written as soon as its file is whole."""
    pairs = ((chosen.out, report.html), (chosen.script, report.script), (chosen.notebook, report.notebook))
    for path, content in pairs:
        if path is None:
            continue
        try:
            write_whole(path, content)
        except OSError as error:
            raise CaseError(f"{path} cannot be written ({error.strerror}). Choose another path.") from error
        written.append(path)


def _marks(model: InspectedModel, measured: Divergence, block: int | None, known: Calibration | None) -> dict[str, Any]:
    """Return the model, both marks of its layers with their reasons, and the layer that was edited."""
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        **marks(model, measured, None if known is None else known.layers),
        **named_layer(block),
    }


def _told(
    model: InspectedModel,
    session: Session,
    block: int,
    report: Report,
    written: Sequence[Path],
    known: Calibration | None,
) -> dict[str, Any]:
    live, held = session.live, session.slot(Gated).held
    edit = live or (None if held is None else held.edit)
    measured = session.slot(LocatedCase).divergence
    assert measured is not None and edit is not None
    word = held.acceptance.record() if live is None and held and held.acceptance else edit.patch.settings.get(RECORD)
    return {
        **_marks(model, measured, block, known),
        **NOTHING_MADE,
        "weights": session.row.label(),
        "patch": edit.patch.identifier,
        "digest": digest_of(edit.patch),
        "gate": None if word is None else {name: word[name] for name in ("passed", "overridden", "reason")},
        "parts": list(report.titles),
        "written": [str(path) for path in written],
    }


def _tell(event: Any) -> None:
    if isinstance(event, Step):
        print(f"  step {event.step}: P(safe) {event.safe_probability:.3f}", file=sys.stderr, flush=True)
    elif getattr(event, "message", ""):
        print(f"  {event.message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
