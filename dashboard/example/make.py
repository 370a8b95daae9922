"""The finished example that is on screen at start: edited once per model, kept on disk, measured at start."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from dashboard.example.store import read, read_contest, write, write_contest
from dashboard.kit.run import run_quietly
from dashboard.kit.session import LiveEdit, Session
from dashboard.kit.typed import Texts, texts_of
from dashboard.kit.values import WAYS
from dashboard.steps.compare import run as compare_run
from dashboard.steps.compare.run import Measured
from dashboard.steps.locate import run as locate_run
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.methods.state import Compared, Contest
from dashboard.steps.operate import run as operate_run
from dashboard.steps.stress import run as stress_run
from dashboard.steps.stress.run import Examined
from dashboard.steps.why import run as why_run
from dashboard.steps.why.state import Looked, Panel
from editing import Preparation, preset, run
from editing.calibration import Calibration
from editing.contest import ContestProgress, ContestSettings, contest
from editing.methods.mend.store import places
from inspector.model import SUFFIX, Decoding, InspectedModel
from inspector.model.embedded import cache_root
from inspector.padding import padding_study
from inspector.safeedit import bundled_cases
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.questions import Size
from inspector.toxicity import kept_probe

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
        session.start_from(self.session)
        session.slot(Looked).panel = Panel(self.block)


def make_example(
    model: InspectedModel, decoding: Decoding, folder: Path | None = None, calibration: Calibration | None = None
) -> Example:
    """Return the example for a model, from disk if it was made before.

    Args:
        decoding: How its answers are decoded.
        folder: Where examples are kept; the cache by default.
        calibration: The model's, if it has one: the edit is made at the recommended layer.
    """
    texts = texts_of(bundled_cases()[CASE], SUFFIX)
    session = Session()
    locate_run.locate(model, session, texts, "corrected", "right")
    measured = session.slot(LocatedCase).divergence
    assert measured is not None and session.case is not None
    recommended = calibration.layers.recommended if calibration else None
    block = measured.toxic_layer() if recommended is None else recommended
    path = (
        folder or cache_root() / "examples"
    ) / f"{model.fingerprint}-{model.dtype_name}-{_VERSION}-{block}.safetensors"
    contested = path.with_suffix("")
    kept = read(path, model)
    if kept is not None:
        kept = kept if read_contest(contested, session, texts, block) else None
    if kept is None:
        print("Making the example (once per model)", file=sys.stderr, flush=True)
        _make(model, session, texts, block, decoding)
        answers, exam = session.slot(Measured).answers, session.slot(Examined).exam
        assert session.live is not None and answers is not None and exam is not None
        _contest(model, session, texts, block)
        write(path, model, session.live.result, answers, exam, session.slot(Looked).why)
        write_contest(contested, session)
    else:
        result, answers, exam, known = kept
        session.add(LiveEdit(session.case, result))
        session.slot(Measured).answers, session.slot(Examined).exam = answers, exam
        session.slot(Looked).why = replace(known, case=session.case, format=texts.format)
    compare_run.measure(model, session)
    _look_inside(model, session)
    return Example(texts, session, block)


def _make(model: InspectedModel, session: Session, texts: Texts, block: int, decoding: Decoding) -> None:
    settings = preset("corrected")
    for event in operate_run.edit(model, session, texts, block, settings):
        if isinstance(event, Preparation):
            print(f"  {event.message}", file=sys.stderr, flush=True)
        elif event.step % 10 == 0:
            print(f"  Edit, step {event.step} of at most {event.steps}", file=sys.stderr, flush=True)
    print("  Answers of both weights", file=sys.stderr, flush=True)
    for _ in compare_run.ask(model, session, texts.adversarial_prompt(), texts.format, decoding):
        pass
    said = -1
    way = next(iter(WAYS))
    for progress in stress_run.stress(model, session, "Quick", EmbeddedJudge(), stress_run.NO_ATTACKS, way, decoding):
        if progress.fresh and progress.answered // 10 > said:
            said = progress.answered // 10
            print(f"  Stress test, {progress.answered} of {progress.total} prompts", file=sys.stderr, flush=True)
    told = ""
    for running in (
        why_run.ask_locators(model, session, texts),
        why_run.atlas(model, session, texts, why_run.NO_ANSWERS),
    ):
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

    done = run(contest(model, session.case, block, settings, probe=session.probe), tell)
    session.slot(Compared).contest = Contest(session.case, texts.format, block, done)


def _look_inside(model: InspectedModel, session: Session) -> None:
    """Measure what is quick enough to be measured at every start: neurons, lens, padding, tokens, probe."""
    case, format = session.slot(Looked).why.case, session.slot(Looked).why.format
    assert case is not None
    if session.slot(Looked).why.activity is None:
        session.slot(Looked).learn(
            case,
            format,
            **why_run.neurons(model, case, format),
            **why_run.lenses(model, session, case, format),
            **why_run.quick_tokens(model, session, case, format),
            padding=padding_study(model, case),
        )
    if session.probe is None:
        session.probe = run_quietly(kept_probe(model))
