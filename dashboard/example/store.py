"""The finished example on disk: written, and read back if it fits the model and this version."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError

from dashboard.kit.session import Session
from dashboard.kit.typed import Texts
from dashboard.steps.methods.state import Compared, Contest
from dashboard.steps.why.state import Why
from editing import EditResult, Step, preset
from editing.atlas import Atlas
from editing.objectives import known_answers
from editing.standing_file import load_standings, save_standings
from inspector.errors import InspectorError, PatchError
from inspector.locators import Located
from inspector.model import Answers, Encoded, InspectedModel, PromptFormat
from inspector.model.patch_file import load_patch, save_patch
from inspector.safeedit.exam import ExamResult
from inspector.safeedit.records import exam_from, exam_record
from inspector.validated import read_record


def write_contest(folder: Path, session: Session) -> None:
    """Keep the methods that were run on it."""
    run = session.slot(Compared).contest
    assert run is not None
    try:
        save_standings(run.standings, folder)
    except (OSError, SafetensorError) as error:
        print(f"The example's methods could not be kept ({error}).", file=sys.stderr)


def read_contest(folder: Path, session: Session, texts: Texts, block: int) -> bool:
    """Read the methods back into the session; tells whether that worked."""
    assert session.case is not None
    try:
        session.slot(Compared).contest = Contest(session.case, texts.format, block, load_standings(folder))
    except (InspectorError, KeyError, TypeError, ValueError) as error:
        print(f"The kept example cannot be used ({error}); it is made again.", file=sys.stderr)
        return False
    return True


def write(
    path: Path, model: InspectedModel, result: EditResult, answers: Answers, exam: ExamResult, known: Why
) -> None:
    """Keep the edit with its answers, exam, locators and atlas."""
    assert result.patch is not None
    extra = {
        "trace": [asdict(step) for step in result.trace],
        "kept": result.kept,
        "stop_reason": result.stop_reason,
        "block": result.block,
        "seconds": result.seconds,
        "answers": asdict(answers),
        "located": [{**vars(item), "scores": item.scores.tolist()} for item in known.located],
        "atlas": None if known.atlas is None else asdict(known.atlas),
        "exam": exam_record(exam),
        # Spares the first edit after a start the questions to the vanilla model.
        "harmless": [
            [text, tokens, asdict(format), own.prompt, own.response]
            for (text, tokens, format), own in known_answers(model).items()
        ],
    }
    try:
        save_patch(result.patch, path, extra)
    except (OSError, SafetensorError) as error:  # the latter for a full disk
        print(f"The example could not be kept ({error}); it will be made again next time.", file=sys.stderr)


def read(path: Path, model: InspectedModel) -> tuple[EditResult, Answers, ExamResult, Why] | None:
    """Read edit, answers, exam and what was located back; ``None`` if there is none that fits."""
    if not path.exists():
        return None
    try:
        patch, extra = load_patch(path)
        result = EditResult(
            patch=patch,
            trace=tuple(read_record(Step, step) for step in extra["trace"]),
            kept=extra["kept"],
            stop_reason=extra["stop_reason"],
            block=extra["block"],
            settings=preset("corrected"),
            seconds=extra["seconds"],
        )
        harmless = {
            (text, tokens, read_record(PromptFormat, format)): Encoded(tuple(own), tuple(reply))
            for text, tokens, format, own, reply in extra["harmless"]
        }
        answers = read_record(Answers, extra["answers"])
        exam = exam_from(extra["exam"])
        located = tuple(read_record(Located, item) for item in extra["located"])
        known = Why(located=located, atlas=None if extra["atlas"] is None else read_record(Atlas, extra["atlas"]))
    except (PatchError, KeyError, TypeError, ValueError) as error:
        print(f"The kept example cannot be used ({error}); it is made again.", file=sys.stderr)
        return None
    if patch.fingerprint != model.fingerprint:
        return None
    known_answers(model).update(harmless)
    return result, answers, exam, known
