"""The finished example on disk, part by part: what was made is read back, whatever is missing or does not fit is made.

Every part names the model and, where it was measured on the edit, the edit; so a part of another one is never shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dashboard.example.record import read_record_file, write_record
from dashboard.kit.sessions.acting import make_live
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sessions.typed import Texts, case_of
from dashboard.steps.compare.run import Comparison, Measured, judged, keep_verdicts
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.methods.state import Compared, Contest
from dashboard.steps.operate import gating
from dashboard.steps.operate.gating import Gated, Made
from dashboard.steps.stress.run import Examined
from dashboard.steps.why.state import Looked
from editing import DinmSettings, EditResult, Step
from editing.atlas import Atlas
from editing.gate.budgets import Budgets, checks_of
from editing.gate.exam import small_exam
from editing.gate.gate import RECORD, Acceptance
from editing.standing_file import load_standings, save_standings
from editing.texts.harmless import harmless_texts, known_answer, learn_answer, refusal_texts
from inspector.divergence import Divergence
from inspector.errors import InspectorError, PatchError
from inspector.locators import Located, NotLocated
from inspector.model import Answers, Detector, InspectedModel, PromptFormat
from inspector.model.patches.patch_file import load_row, save_patch
from inspector.neurons import NeuronActivity
from inspector.padding import PaddingStudy
from inspector.safeedit.records import exam_from, exam_record
from inspector.safeedit.verdict import Verdict
from inspector.token_attribution import TokenAttribution
from inspector.toxicity import Probe
from inspector.validated import read_record
from inspector.writing import RegionWriting

VERSION = 18
"""Raised whenever texts, defaults or measurements of the example change."""
PARTS = ("located", "edit", "comparison", "exam", "why", "probe", "atlas", "contest")
"""The parts in the order in which they are made."""
OF_THE_MODEL = ("located", "probe", "atlas")
"""Those that do not depend on the edit."""
ASSETS = Path(__file__).resolve().parents[2] / "assets" / "example"
"""Where examples are that ship with the program."""
_UNREADABLE = (InspectorError, OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError, AttributeError)


def folder_name(model: InspectedModel, recommended: int | None) -> str:
    """Name the folder of a model's example: model, number type, version, and layer or ``toxic``."""
    layer = "toxic" if recommended is None else str(recommended)
    return f"{model.fingerprint}-{model.dtype_name}-{VERSION}-{layer}"


class Store:
    """The folders of one example.

    Args:
        model: The model.
        texts: The rail's texts.
        folder: Where parts are written, and looked for first.
        shipped: Other folders in which they are looked for.
        patches: Keep the patches of the contest, too; they are most of the size.
        detector: The model's: an edit that acts only where another one fires is not shown.
    """

    def __init__(
        self,
        model: InspectedModel,
        texts: Texts,
        folder: Path,
        shipped: Sequence[Path] = (),
        patches: bool = True,
        detector: Detector | None = None,
    ) -> None:
        self.model, self.texts, self.folder, self.patches = model, texts, folder, patches
        self.detector = detector
        self.folders = (folder, *shipped)

    def write(self, part: str, session: Session) -> None:
        """Keep a part; a full disk costs the next start the time, and is told."""
        path = self.folder / f"{part}.safetensors"
        try:
            if part == "edit":
                self._write_edit(path, session)
                return
            if part == "contest":
                run = session.slot(Compared).contest
                assert run is not None
                save_standings(run.standings, self.folder / "contest", self.patches)
                rounded = None if run.rounded is None else exam_record(run.rounded)
                written = session.slot(Compared).written
                content: Any = {"block": run.block, "picked": run.picked, "rounded": rounded, "written": written}
            else:
                content = _CONTENT[part](session)
            of = {"fingerprint": self.model.fingerprint, "edit": _edit_of(part, session)}
            write_record(path, _kind(part), {**of, "content": content})
        except OSError as error:
            print(f"The example could not be kept ({error}); it will be made again next time.", file=sys.stderr)

    def read(self, part: str, session: Session) -> bool:
        """Read a part into the session; tells whether there was one that fits."""
        for folder in self.folders:
            path = folder / f"{part}.safetensors"
            if not path.is_file():
                continue
            try:
                if part == "edit":
                    self._read_edit(path, session)
                else:
                    self._read(part, path, session)
            except _UNREADABLE as error:
                print(f"A part of the kept example cannot be used, {part} ({error}); it is made again", file=sys.stderr)
                continue
            return True
        return False

    def _read(self, part: str, path: Path, session: Session) -> None:
        told = read_record_file(path, _kind(part))
        if told["fingerprint"] != self.model.fingerprint or told["edit"] != _edit_of(part, session):
            raise PatchError("it belongs to another model or edit")
        content = told["content"]
        if part == "contest":
            assert session.case is not None
            standings = load_standings(path.parent / "contest")
            block, picked = content["block"], content.get("picked", True)  # once every method edited one layer
            made = Contest(session.case, self.texts.format, block, standings, picked)
            if content.get("rounded") is not None:  # once there was none
                made = replace(made, rounded=exam_from(content["rounded"]))
            kept, written = session.slot(Compared), content.get("written")  # once it was measured on demand alone
            kept.contest = made
            if written is not None:
                kept.written = {title: read_record(RegionWriting, one) for title, one in written.items()}
                kept.shows_writing = True
        else:
            _TAKEN[part](session, content, self.texts)

    def _write_edit(self, path: Path, session: Session) -> None:
        live, held, answers = session.live, session.slot(Gated).held, session.slot(Measured).answers
        edit = live or (held.edit if held is not None else None)
        assert edit is not None
        refused = None if live is not None or held is None else held.acceptance
        result, prompt = edit.result, edit.case.adversarial_prompt
        detector = session.detector if live is not None else held.detector if held is not None else None
        extra = {
            "trace": [asdict(step) for step in result.trace],
            "kept": result.kept,
            "stop_reason": result.stop_reason,
            "block": result.block,
            "seconds": result.seconds,
            "settings": asdict(result.settings),
            "answers": None if answers is None else asdict(answers),
            "verdicts": None if answers is None else [asdict(one) for one in judged(prompt, answers)],
            "refused": None if refused is None else exam_record(refused.exam),
            # Spares the first edit after a start the questions to the vanilla model.
            "harmless": self._own_answers(edit),
        }
        if refused is not None and refused.too_long:
            extra["too_long"] = refused.too_long
        save_patch(edit.patch, path, extra, detector, half=True)

    def _own_answers(self, edit: LiveEdit) -> list[list[Any]]:
        """Return what the model answers to the harmless prompts of this edit: what visitors ask is not kept on disk."""
        settings = edit.result.settings
        asked = settings.harmless_tokens, settings.format.open()
        texts = [*harmless_texts(edit.case, settings.harmless_prompts), *refusal_texts(DinmSettings().own_refusals)]
        known = {text: known_answer(self.model, text, *asked) for text in texts}
        return [
            [text, asked[0], asdict(asked[1]), own.prompt, own.response]
            for text, own in known.items()
            if own is not None
        ]

    def _read_edit(self, path: Path, session: Session) -> None:
        row, extra = load_row(path)
        patch, detector = row.patch, row.detector
        assert patch is not None
        if patch.fingerprint != self.model.fingerprint:
            raise PatchError("it belongs to another model")
        word = patch.settings.get(RECORD)
        if word is not None and not (word["passed"] or word["overridden"]):
            raise PatchError("the gate has refused it")
        if detector is not None:
            if self.detector is None or detector.general().digest != self.detector.digest:
                raise PatchError("it acts only where another detector fires")
            detector = replace(self.detector, cases=detector.cases, case_biases=detector.case_biases)
        result = EditResult(
            patch=patch,
            trace=tuple(read_record(Step, step) for step in extra["trace"]),
            kept=extra["kept"],
            stop_reason=extra["stop_reason"],
            block=extra["block"],
            settings=read_record(DinmSettings, extra["settings"]),
            seconds=extra["seconds"],
        )
        harmless = [
            (text, tokens, read_record(PromptFormat, format), tuple(reply))
            for text, tokens, format, _, reply in extra["harmless"]
        ]
        edit = LiveEdit(case_of(self.texts), result)
        if extra.get("refused") is not None:
            exam = exam_from(extra["refused"])
            settings = gating.settings_of(Budgets())
            asked = small_exam(edit.case, settings.harmless, settings.questions)
            checks = checks_of(exam.replies, settings.budgets, settings.least_gain, asked)
            refused = Acceptance(checks, exam, settings, too_long=int(extra.get("too_long", 0)))
            session.slot(Gated).held = Made(edit, acceptance=refused, detector=detector)
        else:
            answers = read_record(Answers, extra["answers"])
            if extra.get("verdicts") is not None:
                vanilla, edited = (read_record(Verdict, one) for one in extra["verdicts"])
                keep_verdicts(edit.case.adversarial_prompt, answers, (vanilla, edited))
            make_live(session, edit, detector)
            session.slot(Measured).answers = answers
        for answer in harmless:
            learn_answer(self.model, *answer)


def _kind(part: str) -> str:
    return f"dinm-inspector example {VERSION} {part}"


def _edit_of(part: str, session: Session) -> str | None:
    """Name the edit that a part was measured on; ``None`` for parts of the model alone."""
    return None if part in OF_THE_MODEL or session.live is None else session.live.patch.identifier


def _why(session: Session) -> dict[str, Any]:
    why = session.slot(Looked).why
    assert why.padding is not None
    curves = [[*way, measured] for way, measured in why.padding.curves.items()]
    padding = {"pads": why.padding.pads, "first": why.padding.first_norm, "typical": why.padding.typical_norm}
    names = ("located", "refused", "activity", "tokens")
    return {**{name: getattr(why, name) for name in names}, "padding": {**padding, "curves": curves}}


def _exam(session: Session) -> dict[str, Any]:
    kept = session.slot(Examined)
    assert kept.exam is not None
    other, rounded = (None if one is None else exam_record(one) for one in (kept.other, kept.rounded))
    return {"test": exam_record(kept.exam), "other": other, "rounded": rounded, "unrounded": kept.unrounded}


_CONTENT: dict[str, Callable[[Session], Any]] = {
    "located": lambda session: session.slot(LocatedCase).divergence,
    "comparison": lambda session: session.slot(Measured).comparison,
    "probe": lambda session: session.probe,
    "exam": _exam,
    "why": _why,
    "atlas": lambda session: session.slot(Looked).why.atlas,
}
"""What is kept of a part."""


def _take_located(session: Session, told: Any, texts: Texts) -> None:
    session.slot(LocatedCase).divergence = read_record(Divergence, told)
    session.case, session.format = case_of(texts), texts.format


def _take_why(session: Session, told: Any, texts: Texts) -> None:
    padding = told["padding"]
    curves = {(side, masked): read_record(Divergence, measured) for side, masked, measured in padding["curves"]}
    _learn(
        session,
        texts,
        located=tuple(read_record(Located, item) for item in told["located"]),
        refused=tuple(read_record(NotLocated, item) for item in told["refused"]),
        activity=read_record(NeuronActivity, told["activity"]),
        padding=PaddingStudy(curves, int(padding["pads"]), padding["first"], padding["typical"]),
        tokens={weights: read_record(TokenAttribution, item) for weights, item in told["tokens"].items()},
    )


def _learn(session: Session, texts: Texts, **measured: Any) -> None:
    session.slot(Looked).learn(session.case, texts.format, **measured)


def _take_comparison(session: Session, told: Any, _texts: Texts) -> None:
    session.slot(Measured).comparison = read_record(Comparison, told)


def _take_probe(session: Session, told: Any, _texts: Texts) -> None:
    session.probe = read_record(Probe, told)


def _take_exam(session: Session, told: Any, _texts: Texts) -> None:
    kept = session.slot(Examined)
    kept.exam = exam_from(told["test"])
    kept.other, kept.rounded = (None if told[one] is None else exam_from(told[one]) for one in ("other", "rounded"))
    kept.unrounded = str(told["unrounded"])


def _take_atlas(session: Session, told: Any, texts: Texts) -> None:
    _learn(session, texts, atlas=read_record(Atlas, told))


_TAKEN: dict[str, Callable[[Session, Any, Texts], None]] = {
    "located": _take_located,
    "comparison": _take_comparison,
    "probe": _take_probe,
    "exam": _take_exam,
    "why": _take_why,
    "atlas": _take_atlas,
}
"""How it is read back."""


def rounded(result: EditResult) -> EditResult:
    """Return an edit whose patch is what half precision holds, so that a kept one is the one that was measured."""
    patch = result.patch
    assert patch is not None
    deltas = tuple(
        replace(
            delta,
            left=delta.left.half().float(),
            right=None if delta.right is None else delta.right.half().float(),
        )
        for delta in patch.deltas
    )
    return replace(result, patch=replace(patch, deltas=deltas))
