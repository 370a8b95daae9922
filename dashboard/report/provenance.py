"""Where a report's numbers come from: model, edit, decoding, versions, and the commands that make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from dashboard.kit.sessions.session import Session
from dashboard.kit.sharing.parts import Hidden, Part, Table
from dashboard.report.again import bundled, changes_of, is_rounded, why_not_again
from dashboard.report.further import further, measured_in, other_budgets, padding_of
from editing.gate.gate import RECORD, is_of, reason_for
from editing.methods.dinm import ROUTED
from editing.methods.registry import method_of
from editing.saved.record import digest_of
from editing.values import setting_value
from editing.versions import versions
from inspector.command import model_options
from inspector.model import SUFFIX, InspectedModel, PromptFormat
from inspector.safeedit import Case

PYTHON = ".venv/bin/python"


def provenance(model: InspectedModel, session: Session, facts: Mapping[str, Any], made: datetime) -> Part:
    """Return what identifies the run.

    Args:
        facts: What the steps have said in their parts.
        made: When the report is made.
    """
    rows = [
        ("Model", model.name),
        *([] if model.revision is None else [("Its revision", model.revision)]),
        ("Its fingerprint", model.fingerprint),
        *(("Where its parts are", f"{name}: {path}") for name, path in model.paths.items()),
        ("Data type", model.dtype_name),
        ("Layers", f"{model.blocks}, numbered from 0"),
        ("Devices", ", ".join(map(str, model.devices))),
        ("Live weights", session.row.label()),
    ]
    live = session.live
    if live is not None:
        word = live.patch.settings.get(RECORD)
        rows += [
            ("Patch", live.patch.identifier),
            ("SHA-256 of its deltas", digest_of(live.patch)),
            ("Norm of the change", f"{live.patch.norm:.6g}"),
            ("Gate", "not asked" if word is None else reason_for(word, session.row)),
            *([("Weights that the gate examined", word["weights"])] if word is not None else []),
        ]
    if "decoding" in facts:
        how = facts["decoding"]
        kind = "greedy" if how.greedy else f"sampled at temperature {how.temperature:g}, seed {how.seed}"
        rows.append(("Answers decoded", f"{kind}, at most {how.max_new_tokens} tokens"))
    rows.append(("Software", ", ".join(f"{name} {version}" for name, version in versions().items())))
    rows.append(("Report made", made.isoformat(timespec="seconds")))
    return Part("Where the numbers come from", tables=(Table("The run", ("What", "Value"), tuple(rows)),))


def commands(
    model: InspectedModel, session: Session, facts: Mapping[str, Any], hidden: Hidden, titles: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return what makes the run again on a command line, each with what it does.

    Args:
        facts: What the steps have said in their parts.
        hidden: Texts that are left out have a placeholder.
        titles: Those parts.
    """
    live = session.live
    case = live.case if live is not None else session.case
    if case is None:
        return []
    chosen, of_case = model_options(model), _case(case, hidden)
    found = []
    if "locate" in facts and session.case == case:
        how = ["--preset", facts["locate"]["preset"], "--padding", facts["locate"]["padding"]]
        found.append(
            ("Where the answers part", _line("inspector.locate", *chosen, *of_case, *how, *_format(session.format)))
        )
    key = None if live is None else method_of(live.result.settings)
    if live is None or key is None or why_not_again(live) is not None:
        return found
    settings = live.result.settings
    how = ["--layer", str(live.result.block)]
    changes = changes_of(settings)
    if session.detector is not None and hasattr(
        settings, "preset"
    ):  # unnamed they become those of an edit to be routed
        changes |= {name: setting_value(settings, name) for name in ROUTED}
    for name, value in sorted(changes.items(), key=lambda change: change[1] is None):
        how += ["--set", f"{name}={'none' if value is None else value}"]
    preset = ["--preset", settings.preset] if hasattr(settings, "preset") else []
    acts = ["--acts", "everywhere" if session.detector is None else "detected"]
    strength = ["--strength", f"{session.strength:g}"] if session.strength != 1 else []
    by_hand = [] if _has_passed(session) else ["--keep-anyway"]
    out = ["--out", "runs/edits"]
    edit = ["editing.edit", *chosen, *of_case, "--method", key, *preset, *how, *strength, *acts, *by_hand, *out]
    by_default = " by its default budgets" if other_budgets(live) else ""
    found.append((f"Edit, gate{by_default}, save", _line(*edit)))
    # A finished example's patch was kept in half precision: the one that is saved has another name.
    name = "*" if is_rounded(live.patch) else live.patch.identifier
    again = f"{_line('editing.reproduce', *chosen)} runs/edits/{key}-layer{live.result.block}-{name}.json"
    found.append(("The saved edit again: to the bit, or how far off", again))
    if key == "dinm":
        # The options of the prompt format are the edit's as well, unless it names its own.
        format = measured_in(live.result.settings, session.format)
        if format != PromptFormat():
            own = (name for name in ("suffix", "chat") if name not in changes)
            how += [part for name in own for part in ("--set", f"{name}={setting_value(settings, name)}")]
        side = padding_of(facts)
        padding = [] if side is None else ["--padding", side]
        measured = [*_format(format), *padding]
        more = further(session, live, _as_given(case), facts, titles)
        whole = [*chosen, *of_case, *measured, *preset, *how, *strength, *acts, *by_hand, *more.options]
        report = ["dashboard.report", *whole, "--out", "report.html"]
        said = "All of it, and a report like this one"
        if more.left_out:
            said = f"The operation, and a report like this one without: {'; '.join(more.left_out)}"
        found.append((said, _line(*report)))
    return found


def _has_passed(session: Session) -> bool:
    """Tell whether the gate passed the live weights as they act; a command goes on with others only when told to."""
    word = None if session.live is None else session.live.patch.settings.get(RECORD)
    return word is not None and is_of(word, session.row) and bool(word["passed"])


def _case(case: Case, hidden: Hidden) -> list[str]:
    known = bundled(case)
    if known is not None:
        return ["--case", str(known.identifier)]
    prompt = ["--prompt", hidden.prompt(case.adversarial_prompt)] if case.adversarial_prompt != case.question else []
    question, safe, unsafe = (hidden.prompt(text) for text in (case.question, case.safe, case.unsafe))
    constraint = []
    if case.constraint is not None:
        asked, answered = hidden.prompt(case.constraint.prompt), hidden.prompt(case.constraint.answer)
        constraint = ["--constraint-prompt", asked, "--constraint-answer", answered]
    return ["--question", question, *prompt, "--safe", safe, "--unsafe", unsafe, *constraint]


def _as_given(case: Case) -> Case:
    """Return a case as the options of a command line make it: one of one's own has no other texts there."""
    if bundled(case) is not None:
        return case
    return Case(case.question, case.adversarial_prompt, case.safe, case.unsafe, constraint=case.constraint)


def _format(format: PromptFormat) -> list[str]:
    suffix = [] if format.suffix == SUFFIX else ["--suffix-prompt", format.suffix]
    return [*suffix, *([] if format.chat else ["--plain-text"])]


def _line(module: str, *options: str) -> str:
    return f"{PYTHON} -m {module} {shlex.join(options)}"
