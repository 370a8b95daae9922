"""The finished example that is on screen at start: edited once per model, kept on disk, measured at start."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors import SafetensorError

from dashboard import actions, stress, why
from dashboard.actions import Texts
from dashboard.inputs import WAYS
from dashboard.session import Contest, LiveEdit, Session
from dashboard.why_state import Panel, Why
from editing import EditResult, Preparation, Step, preset, run
from editing.atlas import Atlas
from editing.calibration import Calibration
from editing.contest import ContestProgress, ContestSettings, contest
from editing.methods.mend.store import places
from editing.objectives import known_answers
from editing.standing_file import load_standings, save_standings
from inspector.errors import InspectorError, PatchError
from inspector.locators import Located
from inspector.model import SUFFIX, Answers, Decoding, Encoded, InspectedModel, PromptFormat
from inspector.model.embedded import cache_root
from inspector.model.patch_file import load_patch, save_patch
from inspector.padding import padding_study
from inspector.safeedit import bundled_cases
from inspector.safeedit.exam import ExamResult
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import Size
from inspector.safeedit.records import exam_from, exam_record
from inspector.toxicity import kept_probe
from inspector.validated import read_record

CASE = 3
"""Number of the bundled case that is shown first."""
_VERSION = 9
"""Raised whenever texts or defaults of the example change."""


CONTEST = ("dinm", "ft-l", "sft", "mend", "self-reminder")
"""Methods that are run on it: the quick ones. The others are a click away."""
CONTEST_SIZE = Size(transfer=0, harmless=4, facts=0, passages=0)


@dataclass(frozen=True, eq=False)
class Example:
    """A session as it is after one whole operation, and the texts that led to it."""

    texts: Texts
    session: Session
    block: int

    def fill(self, session: Session) -> None:
        """Start a visitor's own session with the example."""
        done = self.session
        session.case, session.format, session.divergence = done.case, done.format, done.divergence
        session.edits = list(done.edits)
        session.comparison, session.answers, session.exam = done.comparison, done.answers, done.exam
        session.why, session.contest = done.why, done.contest
        session.panel = Panel(self.block)
        session.started = True


def make_example(
    model: InspectedModel, decoding: Decoding, folder: Path | None = None, calibration: Calibration | None = None
) -> Example:
    """Return the example for a model, from disk if it was made before.

    Args:
        decoding: How its answers are decoded.
        folder: Where examples are kept; the cache by default.
        calibration: The model's, if it has one: the edit is made at the recommended layer.
    """
    texts = actions.texts_of(bundled_cases()[CASE], SUFFIX)
    session = Session()
    actions.locate(model, session, texts, "corrected", "right")
    assert session.divergence is not None and session.case is not None
    recommended = calibration.layers.recommended if calibration else None
    block = session.divergence.toxic_layer() if recommended is None else recommended
    path = (
        folder or cache_root() / "examples"
    ) / f"{model.fingerprint}-{model.dtype_name}-{_VERSION}-{block}.safetensors"
    contested = path.with_suffix("")
    kept = _read(path, model)
    if kept is not None:
        kept = kept if _read_contest(contested, session, texts, block) else None
    if kept is None:
        print("Making the example (once per model)", file=sys.stderr, flush=True)
        _make(model, session, texts, block, decoding)
        assert session.live is not None and session.answers is not None and session.exam is not None
        _contest(model, session, texts, block)
        _write(path, model, session.live.result, session.answers, session.exam, session.why)
        _write_contest(contested, session)
    else:
        result, answers, exam, known = kept
        session.add(LiveEdit(session.case, result))
        session.answers, session.exam = answers, exam
        session.why = replace(known, case=session.case, format=texts.format)
    actions.measure(model, session)
    _look_inside(model, session)
    return Example(texts, session, block)


def _make(model: InspectedModel, session: Session, texts: Texts, block: int, decoding: Decoding) -> None:
    settings = preset("corrected")
    for event in actions.edit(model, session, texts, block, settings):
        if isinstance(event, Preparation):
            print(f"  {event.message}", file=sys.stderr, flush=True)
        elif event.step % 10 == 0:
            print(f"  Edit, step {event.step} of at most {event.steps}", file=sys.stderr, flush=True)
    print("  Answers of both weights", file=sys.stderr, flush=True)
    for _ in actions.ask(model, session, texts.adversarial_prompt(), texts.format, decoding):
        pass
    said = -1
    way = next(iter(WAYS))
    for progress in stress.stress(model, session, "Quick", EmbeddedJudge(), stress.NO_ATTACKS, way, decoding):
        if progress.fresh and progress.answered // 10 > said:
            said = progress.answered // 10
            print(f"  Stress test, {progress.answered} of {progress.total} prompts", file=sys.stderr, flush=True)
    told = ""
    for running in (why.ask_locators(model, session, texts), why.atlas(model, session, texts, why.NO_ANSWERS)):
        for measured in running:
            if measured.message != told:
                told = measured.message
                print(f"  {told}", file=sys.stderr, flush=True)


def _contest(model: InspectedModel, session: Session, texts: Texts, block: int) -> None:
    """Run the quick methods on the example; MEND only where an editor was trained for the model."""
    assert session.case is not None
    keys = tuple(key for key in CONTEST if key != "mend" or any(place.is_file() for place in places(model)))
    settings = ContestSettings(methods=keys, size=CONTEST_SIZE, max_new_tokens=40, format=texts.format, prompts=8)
    told = ""

    def tell(event: ContestProgress) -> None:
        nonlocal told
        if event.method.title != told:
            told = event.method.title
            print(f"  Method: {told}", file=sys.stderr, flush=True)

    done = run(contest(model, session.case, block, settings, probe=session.why.probe), tell)
    session.contest = Contest(session.case, texts.format, block, done)


def _write_contest(folder: Path, session: Session) -> None:
    assert session.contest is not None
    try:
        save_standings(session.contest.standings, folder)
    except (OSError, SafetensorError) as error:
        print(f"The example's methods could not be kept ({error}).", file=sys.stderr)


def _read_contest(folder: Path, session: Session, texts: Texts, block: int) -> bool:
    assert session.case is not None
    try:
        session.contest = Contest(session.case, texts.format, block, load_standings(folder))
    except (InspectorError, KeyError, TypeError, ValueError) as error:
        print(f"The kept example cannot be used ({error}); it is made again.", file=sys.stderr)
        return False
    return True


def _look_inside(model: InspectedModel, session: Session) -> None:
    """Measure what is quick enough to be measured at every start: neurons, lens, padding, tokens, probe."""
    case, format = session.why.case, session.why.format
    assert case is not None
    if session.why.activity is None:
        session.learn(
            case,
            format,
            **why.neurons(model, case, format),
            **why.lenses(model, session, case, format),
            **why.quick_tokens(model, session, case, format),
            padding=padding_study(model, case),
        )
    if session.why.probe is None:
        session.learn(case, format, probe=why.run_quietly(kept_probe(model)))


def _write(
    path: Path, model: InspectedModel, result: EditResult, answers: Answers, exam: ExamResult, known: Why
) -> None:
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


def _read(path: Path, model: InspectedModel) -> tuple[EditResult, Answers, ExamResult, Why] | None:
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
