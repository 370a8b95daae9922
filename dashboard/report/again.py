"""The run of a visit as plain Python: a script, and a notebook of the same lines, that come to the same numbers.

Both use the public functions of ``inspector`` and ``editing`` alone. They hold the case, the settings and the numbers
of the visit; of the answers of both weights only their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import pprint
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dashboard.kit.drawing.plain import escape, visible
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sharing.parts import Hidden
from editing.knock_out import KnockOutSettings
from editing.methods.registry import METHODS, method_of, method_settings
from editing.saved.record import digest_of, further_cases
from editing.stacking import STACK
from editing.values import setting_names, setting_value
from inspector.model import Detector, InspectedModel, Patch, PromptFormat, placing
from inspector.model.embedded import NAME as EMBEDDED
from inspector.safeedit import Case, bundled_cases

LOCATED, EDITED, ASKED = "Where the answers part", "The edit", "Both answers"
REPEATED = {LOCATED: "the divergence", EDITED: "the patch", ASKED: "both answers"}
"""What a cell makes again whose result a report has, by the cell's title."""


@dataclass(frozen=True)
class Cell:
    """Some lines that belong together.

    Attributes:
        title: What they do.
        code: The lines.
    """

    title: str
    code: str


def bundled(case: Case) -> Case | None:
    """Return the bundled case that a visit's case is, ``None`` for one of the visitor's own."""

    def told(one: Case) -> tuple[Any, ...]:
        return one.question, one.adversarial_prompt, one.safe, one.unsafe, one.constraint

    return next((known for known in bundled_cases() if told(known) == told(case)), None)


def changes_of(settings: Any) -> dict[str, Any]:
    """Return what a method's settings differ in from those of its preset, by name."""
    key = method_of(settings)
    assert key is not None
    given = method_settings(key, getattr(settings, "preset", "corrected"))
    named = ((name, setting_value(settings, name)) for name in setting_names(settings))
    return {name: value for name, value in named if value != setting_value(given, name)}


def why_not_again(edit: LiveEdit | None) -> str | None:
    """Say why an edit cannot be made again in one go; ``None`` where it can."""
    if edit is not None and STACK in edit.patch.settings:
        return "The edit was made on top of another one; make both again, one after the other."
    key = None if edit is None else method_of(edit.result.settings)
    if edit is None or key is None or not METHODS[key].learns_from_companions:
        return None
    count, kept = further_cases(METHODS[key], edit.patch), edit.result.learnt_from is not None
    if not kept and (count or "companions" not in edit.patch.settings):
        return (
            "An earlier version made the edit, and did not keep which further cases it was trained on, if any. Make it "
            "anew to have a record of them."
        )
    if count:
        return (
            f"The edit was trained on {count} further case{'' if count == 1 else 's'}, which neither script, notebook "
            "nor commands carry. Write its patch in Keep: the record beside it keeps them, and "
            "python -m editing.reproduce makes it again from that."
        )
    return None


def is_rounded(patch: Patch) -> bool:
    """Tell whether a patch was kept in half precision, as a finished example's is."""
    parts = [part for delta in patch.deltas for part in (delta.left, delta.right) if part is not None]
    return all(bool((part == part.half().float()).all()) for part in parts)


def cells(model: InspectedModel, session: Session, facts: Mapping[str, Any], hidden: Hidden) -> list[Cell]:
    """Write the run down.

    Args:
        facts: What the steps have said in their parts.
        hidden: Texts that are left out have a placeholder, with which the run is another one.
    """
    live = session.live if why_not_again(session.live) is None else None
    case = live.case if live is not None else session.case
    if case is None:
        return []
    located = "locate" in facts and session.case == case
    asks = facts.get("asked") is not None and (session.live is None or live is not None)
    made = [_model(model, live, located, asks, case), Cell("The case", _case(case, hidden))]
    numbers: dict[str, str] = {}
    report: dict[str, Any] = {}
    if located:
        made.append(Cell(LOCATED, _locate(facts["locate"], session.format)))
        numbers |= {
            "toxic layer": "measured.toxic_layer()",
            "divergence": "[round(float(value), 6) for value in measured.l2]",
        }
        report |= {name: facts[name] for name in ("toxic layer", "divergence")}
    if live is not None:
        made.append(Cell(EDITED, _edit(live, session)))
        numbers["patch"], report["patch"] = "digest_of(patch)", digest_of(live.patch)
    if asks:
        made.append(Cell(ASKED, _ask(session, live, case, facts, hidden)))
        numbers["answers"] = "[hashlib.sha256(text.encode()).hexdigest() for text in texts]"
        report["answers"] = [hashlib.sha256(text.encode()).hexdigest() for text in facts["answers"]]
    if numbers:
        made.append(Cell("Are the numbers those of the report?", _compare(numbers, report)))
    return made


def repeats(made: Sequence[Cell]) -> str:
    """Say what script and notebook make again, and what of a report they do not."""
    done = [said for title, said in REPEATED.items() if any(cell.title == title for cell in made)]
    again = " and ".join(filter(None, (", ".join(done[:-1]), *done[-1:])))
    what = f"make {again} again and hold them against the report's" if done else "load the model and name the case"
    return (
        f"Script and notebook {what}. They repeat neither the gate nor a stress test, locators, atlas, other methods, "
        "measurements or the history."
    )


def script(title: str, made: list[Cell]) -> str:
    """Return cells as one script."""
    why = "" if made else "\nNothing was measured or edited, so there is nothing to make again."
    # Else a name in it could end the text and go on as code.
    named = visible(title).replace("\\", "\\\\").replace('"', '\\"')
    told = "\n".join(textwrap.wrap(repeats(made), 116)) + "\n" if made else ""
    head = f'"""{named}\n\nRun it in the folder of DINM Inspector: .venv/bin/python FILE{why}\n{told}"""\n'
    return head + "".join(f"\n# {cell.title}\n{cell.code}\n" for cell in made)


def notebook(title: str, made: list[Cell]) -> str:
    """Return cells as a notebook, format 4.5, JSON."""

    def lines(text: str) -> list[str]:
        return text.splitlines(keepends=True)

    said = f"# {escape(title)}\n\nStart Jupyter in the folder of DINM Inspector, with its packages.\n\n{repeats(made)}"
    written: list[dict[str, Any]] = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": lines(said)}]
    for number, cell in enumerate(made, start=1):
        about = {"cell_type": "markdown", "id": f"about-{number}", "metadata": {}, "source": [f"## {cell.title}"]}
        code: dict[str, Any] = {"cell_type": "code", "id": f"code-{number}", "metadata": {}, "source": lines(cell.code)}
        written += [about, code | {"execution_count": None, "outputs": []}]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    content = {"cells": written, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False)


def _model(model: InspectedModel, live: LiveEdit | None, located: bool, asks: bool, case: Case) -> Cell:
    knocked = live is not None and isinstance(live.result.settings, KnockOutSettings)
    known = {"bundled_cases"} if bundled(case) else {"Case", *(["Constraint"] if case.constraint else [])}
    asking = "VANILLA, Decoding, PromptFormat, Row, answer, encode, load"
    imported = [
        ("hashlib", asks and ""),
        ("dataclasses", live is not None and is_rounded(live.patch) and "replace"),
        ("editing", live is not None and "run"),
        ("editing.calibrating.calibration", "calibration_of"),
        ("editing.knock_out", knocked and "knock_out"),
        ("editing.methods.registry", live is not None and not knocked and "METHODS, method_settings"),
        ("editing.saved.record", live is not None and "digest_of"),
        ("inspector.divergence", located and "divergence"),
        ("inspector.model", asking if asks else "PromptFormat, load"),
        ("inspector.safeedit", ", ".join(sorted(known))),
    ]
    lines = [
        f"import {module}" if names == "" else f"from {module} import {names}"
        for module, names in imported
        if names is not False
    ]
    source = "" if model.name == EMBEDDED else f"{model.name!r}, "
    devices = ", ".join(map(str, model.devices))
    placed = "".join(f", {name}={given!r}" for name, given in placing(model).items())
    revision = "" if model.revision is None else f", revision={model.revision!r}"
    paths = f", paths={dict(model.paths)!r}" if model.paths else ""
    lines += [
        "",
        f"model = load({source}dtype={model.dtype_name!r}{placed}{revision}{paths})  # of the report: on {devices}",
        f'assert model.fingerprint == {model.fingerprint!r}, "This is another model than that of the report."',
        "known = calibration_of(model)",
        "if known is not None:",
        "    known.teach(model)  # its own harmless answers, which edits are held to",
    ]
    return Cell("The model, with what was learnt about it", "\n".join(lines))


def _case(case: Case, hidden: Hidden) -> str:
    known = bundled(case)
    if known is not None:
        return f"case = next(one for one in bundled_cases() if one.identifier == {known.identifier!r})"
    lines = ["case = Case("]
    for part in fields(case):
        value = getattr(case, part.name)
        if part.name in ("identifier", "split") or (value == part.default):
            continue
        if isinstance(value, str) and part.name not in ("category", "attack_category", "attack_name"):
            value = hidden.prompt(value)
        if part.name == "constraint":
            asked, told = hidden.prompt(value.prompt), hidden.prompt(value.answer)
            lines.append(f"    constraint=Constraint({asked!r}, {told!r}),")
        else:
            lines.append(f"    {part.name}={value!r},")
    note = ["# The report leaves these texts out: put your own in their places, and the numbers are other ones."]
    return "\n".join([*(note if hidden.texts else []), *lines, ")"])


def _locate(how: Mapping[str, Any], format: PromptFormat) -> str:
    return (
        f"format = {_format(format)}\n"
        f"measured = divergence(model, case, {how['preset']!r}, padding={how['padding']!r}, format=format)\n"
        'print("toxic layer:", measured.toxic_layer(), "L2 by layer:", measured.l2.round(3).tolist())'
    )


def _format(format: PromptFormat) -> str:
    default = PromptFormat()
    parts = {part.name: getattr(format, part.name) for part in fields(format)}
    given = [f"{name}={value!r}" for name, value in parts.items() if value != getattr(default, name)]
    return f"PromptFormat({', '.join(given)})"


def _edit(live: LiveEdit, session: Session) -> str:
    settings, block = live.result.settings, live.result.block
    key = method_of(settings)
    if key is None:
        neurons, format = list(settings.neurons), _format(settings.format)
        made = [f"result = run(knock_out(model, case, {block}, {neurons}, format={format}))"]
    else:
        preset = [repr(settings.preset)] if hasattr(settings, "preset") else []
        changes = [f"{name}={value!r}" for name, value in changes_of(settings).items()]
        given = ", ".join([repr(key), *preset, *changes])
        made = [
            f"settings = method_settings({given})",
            f"result = run(METHODS[{key!r}].run(model, case, {block}, settings))",
        ]
    made.append("patch = result.patch")
    if is_rounded(live.patch):
        made += [
            "# The report's patch was kept in half precision.",
            "halves = [(d, d.left.half().float(), d.right if d.right is None else d.right.half().float()) "
            "for d in patch.deltas]",
            "patch = replace(patch, deltas=tuple(replace(d, left=left, right=right) for d, left, right in halves))",
        ]
    made.append('print(f"patch {patch.identifier}, {result.kept} updates: {result.stop_reason}")')
    return "\n".join(made)


def _ask(session: Session, live: LiveEdit | None, case: Case, facts: Mapping[str, Any], hidden: Hidden) -> str:
    text = facts["asked"]
    names = ("adversarial_prompt", "only_question", "other_attack", "other_question", "other_both")
    name = next((name for name in names if getattr(case, name) == text), None)
    asked = f"case.{name}" if name is not None else repr(hidden.prompt(text))
    decoding = facts["decoding"]
    given = ", ".join(f"{part.name}={getattr(decoding, part.name)!r}" for part in fields(decoding))
    row = ["row = VANILLA  # no edit was live"]
    format = _format(session.format)
    if live is not None:
        row, format = _row(session.strength, session.detector), "patch.format"
    return "\n".join(
        [
            *row,
            f"decoding = Decoding({given})",
            f"prompt = encode(model, {asked}, None, {format}, room=decoding.max_new_tokens).prompt",
            "texts = answer(model, prompt, [VANILLA, row], decoding).texts",
            "# texts[0] is the vanilla answer, texts[1] the edited one. They may be unsafe, so they are not printed.",
        ]
    )


def _row(strength: float, detector: Detector | None) -> list[str]:
    if detector is None:
        return [f"row = Row(patch, {strength!r})"]
    if not detector.case_biases:
        return [f"row = Row(patch, {strength!r}, detector=known.detector)"]
    return [
        "from editing.gate.choice import acts_by",
        "",
        "detector = run(acts_by(model, known.detector, case, patch.format))  # it fires on its own question, too",
        f"row = Row(patch, {strength!r}, detector=detector)",
    ]


def _compare(numbers: Mapping[str, str], report: Mapping[str, Any]) -> str:
    wide = pprint.pformat(dict(report), sort_dicts=False, width=116, compact=True)
    lines = [f"report = {wide}", "numbers = {", *(f"    {name!r}: {code}," for name, code in numbers.items()), "}"]
    lines += [
        "for name, number in numbers.items():",
        '    same = "the same" if number == report[name] else f"{number}, in the report {report[name]}"',
        '    print(f"{name}: {same}")',
    ]
    return "\n".join(lines)
