"""The finished example: read from disk, made in the background part by part where it is not there yet, and shown.

    python -m dashboard.example.make --ship          makes the embedded model's and writes it where examples ship from

Its folder and its size are printed as JSON. Exit codes: 0 written; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import atexit
import shutil
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from dashboard.example.store import ASSETS, PARTS, Store, folder_name, rounded
from dashboard.kit.running.queue import BEHIND, Line
from dashboard.kit.running.run import drain
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sessions.typed import case_of, texts_of
from dashboard.kit.sessions.values import WAYS
from dashboard.steps.compare import run as compare_run
from dashboard.steps.locate import run as locate_run
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.methods import run as contest_run
from dashboard.steps.methods.further import of_own_patches, rounded_beside, routed_too, write_regions
from dashboard.steps.methods.state import Compared, Contest
from dashboard.steps.operate import gating
from dashboard.steps.operate.run import why_no_layer
from dashboard.steps.stress import run as stress_run
from dashboard.steps.stress.rounding import with_rounding
from dashboard.steps.why import run as why_run
from dashboard.steps.why.state import Looked, Panel
from editing import DinmSettings, EditResult, Preparation, Step, dinm, preset
from editing.calibrating.calibration import Calibration, calibration_of
from editing.command import add_model, finished, load_model, tell
from editing.contest import ContestSettings, Standing, contest
from editing.gate.budgets import Budgets
from editing.gate.turns import goes_on, in_turn
from editing.memory import memory_told
from editing.methods.mend.store import places
from inspector.errors import InspectorError
from inspector.model import Decoding, InspectedModel
from inspector.model.embedded import cache_root
from inspector.safeedit import Case, bundled_cases
from inspector.safeedit.judges import EmbeddedJudge
from inspector.toxicity import kept_probe

CASE = 21
"""Number of the bundled case that is shown first."""
CONTEST = ("dinm", "ft-l", "sft", "mend", "self-reminder")
"""Methods that are run on it: the quick ones. The others are a click away."""
OF_AN_EDIT = ("edit", "comparison", "exam", "contest")
"""The parts that are made by editing: none where trial edits of the model helped at no layer."""
OF_THE_LIVE_EDIT = ("comparison", "exam")
"""The parts that measure the edit: none where the gate has refused it."""
_TITLES = {
    "located": "where the answers part",
    "edit": "the edit and its answers",
    "comparison": "before and after",
    "exam": "the stress test",
    "why": "why this layer",
    "probe": "the toxicity probe",
    "atlas": "the atlas of layers",
    "contest": "the methods",
}


class Example:
    """A session as it is after one whole operation, as far as it is made, and the texts that led to it.

    Args:
        model: The model.
        decoding: How its answers are decoded.
        folder: Where examples are kept; the cache by default.
        calibration: The model's, if it has one: the edit is made at the recommended layer.
        wanted: Read and make it; else it stays empty.
        shipped: Where examples are that ship with the program.
        patches: Keep the patches of the contest as well.
        whole: Its stress test is the full one; it and the methods have the rounding row, which takes a second network.
    """

    def __init__(
        self,
        model: InspectedModel,
        decoding: Decoding = Decoding(max_new_tokens=compare_run.LONGEST_ANSWER),
        folder: Path | None = None,
        calibration: Calibration | None = None,
        *,
        wanted: bool = True,
        shipped: Path = ASSETS,
        patches: bool = True,
        whole: bool = False,
    ) -> None:
        self.texts = texts_of(bundled_cases()[CASE])
        self.session = Session()
        self.drawn: frozenset[str] = frozenset()
        self._model, self._decoding, self._whole = model, decoding, whole
        self._layers = calibration.layers if calibration else None
        self._recommended = calibration.layers.recommended if calibration else None
        self._nowhere = why_no_layer(calibration.layers, preset("corrected")) if calibration else None
        name = folder_name(model, self._recommended)
        own = (folder or cache_root() / "examples") / name
        detector = calibration.detector if calibration else None
        self.store = Store(model, self.texts, own, (shipped / name,), patches, detector)
        self._making, self._parts = Session(), frozenset[str]()
        self._making.case, self._making.format = case_of(self.texts), self.texts.format
        self._said = ""
        self.line = Line()
        """The line of long runs behind which it is made."""
        self._ended, self._stopped = threading.Event(), threading.Event()
        if wanted:
            self._read()
        else:
            self._ended.set()

    @property
    def parts(self) -> frozenset[str]:
        """The parts that are there."""
        return self._parts

    @property
    def block(self) -> int:
        """The layer of the edit; before there is one, the layer that would be edited."""
        if self.session.live is not None:
            return self.session.live.result.block
        measured = self.session.slot(LocatedCase).divergence
        if self._recommended is not None or measured is None:
            return self._model.blocks * 2 // 3 if self._recommended is None else self._recommended
        return measured.toxic_layer()

    @property
    def ended(self) -> bool:
        """Whether no part will come any more."""
        return self._ended.is_set()

    @property
    def said(self) -> str:
        """What is being made and whether it waits, or how it ended; empty if there is nothing to say."""
        said, waits = self._said, not self.ended and len(self.line) > 0
        return said.removesuffix(".") + BEHIND if said and waits else said

    @property
    def share(self) -> float:
        """How far it is, 0 to 1."""
        return len(self._parts) / len(PARTS)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; tells whether it has come."""
        return self._ended.wait(seconds)

    def stop(self) -> None:
        """End it within one step; the parts that are done stay on disk."""
        self._stopped.set()
        self._making.cancelled.set()

    def fill(self, session: Session) -> None:
        """Start a visitor's own session with what is there, or add what has come since to it."""
        if not session.started:
            session.slot(Looked).panel = Panel(self.block)
        session.start_from(self.session)

    def start(self) -> None:
        """Make what is missing in the background, behind everybody in the line of long runs."""
        if not self.ended:
            # A thread that is still in the middle of a forward pass when Python ends would abort the program.
            atexit.register(self._leave)
            threading.Thread(target=self.make, name="example", daemon=True).start()

    def _leave(self) -> None:
        self.stop()
        self.wait(3)

    def make(self) -> None:
        """Make what is missing. A failure costs the example only, and is told."""
        try:
            with memory_told():
                for part in PARTS:
                    if self._is_wanted(part) and not self._make(part):
                        return
            self._tell(self._word())
        except InspectorError as error:
            self._tell(f"The example could not be finished: {error.user_message()}")
        except Exception:
            self._tell("The example could not be finished: an error, see the server's log.")
            raise
        finally:
            self._ended.set()
            atexit.unregister(self._leave)  # which would keep the model of a page that is closed

    def _tell(self, said: str) -> None:
        if said and said != self._said:
            print(f"  {said}", file=sys.stderr, flush=True)
        self._said = said

    def _publish(self, part: str) -> None:
        shown = Session()
        shown.start_from(self._making)
        self.session, self._parts = shown, self._parts | {part}

    def _read(self) -> None:
        for part in PARTS:
            if self._is_wanted(part) and self.store.read(part, self._making):
                self._publish(part)
        if not any(map(self._is_wanted, PARTS)):
            self._said = self._word()
            self._ended.set()

    def _is_wanted(self, part: str) -> bool:
        """Tell whether a part is missing and can be: without a live edit there is nothing to measure of it."""
        if part in self._parts or (part in OF_AN_EDIT and self._nowhere is not None):
            return False
        return part not in OF_THE_LIVE_EDIT or "edit" not in self._parts or self._making.live is not None

    def _word(self) -> str:
        """Say why no edit is live in the whole example; empty where one is."""
        if self._nowhere is not None:
            return f"The example has no edit. {self._nowhere}"
        if "edit" in self._parts and self._making.live is None:
            return (
                "The gate has refused the example's edit, so vanilla is live and the edit waits: see the gate's line."
            )
        return ""

    def _make(self, part: str) -> bool:
        """Make one part, publish and keep it; tells whether it was not stopped."""
        self._tell(f"Making the example: {_TITLES[part]}")
        self.line.give_way(self._stopped.is_set)
        for said in _MAKERS[part](self, self._making):
            if self._stopped.is_set():
                break
            self._tell(f"Making the example: {_TITLES[part]}. {said}")
            self.line.give_way(self._stopped.is_set)
        if self._stopped.is_set():
            self._tell("The example was stopped.")
            return False
        self._publish(part)
        self.store.write(part, self._making)
        return True

    def located(self, session: Session) -> Iterator[str]:
        """Measure where the answers part."""
        locate_run.locate(self._model, session, self.texts, "corrected", "right")
        yield from ()

    def edit(self, session: Session) -> Iterator[str]:
        """Edit; what the gate passes is live and both weights answer, what it refuses is held back as on the page."""
        case = case_of(self.texts)
        measured = session.slot(LocatedCase).divergence
        assert measured is not None
        block = measured.toxic_layer() if self._recommended is None else self._recommended

        def making(settings: DinmSettings, first: gating.Made | None) -> Generator[str, None, gating.Made | None]:
            if first is not None and first.acceptance is not None:
                yield goes_on(first.acceptance)
            result = yield from self._edited(case, block, settings, session)
            if result.patch is None:
                return None
            made = gating.Made(LiveEdit(case, rounded(result)))
            exam = gating.examined(self._model, session, made, gating.settings_of(Budgets()), self.store.detector)
            return (yield from drain(exam, lambda _event: "The gate's small exam"))

        tried = gating.asked_for(self._model, session, preset("corrected"), self.store.detector)
        best = yield from in_turn(tried, making)
        if best is None or not gating.settle(session, best):
            return
        asked = compare_run.Prompt(compare_run.ADVERSARIAL, self.texts.adversarial_prompt(), self.texts.question)
        for _ in compare_run.ask(self._model, session, asked, self.texts.format, self._decoding):
            yield "Answers of both weights"

    def _edited(
        self, case: Case, block: int, settings: DinmSettings, session: Session
    ) -> Generator[str, None, EditResult]:
        """Make an edit; says after each step how far it is, in tens of steps."""

        def told(event: Preparation | Step) -> str:
            if isinstance(event, Preparation):
                return event.message
            return f"Step {tens(event.step)} of at most {event.steps}"

        editing = dinm(self._model, case, block, settings, cancel=session.cancelled.is_set)
        return (yield from drain(editing, told))

    def comparison(self, session: Session) -> Iterator[str]:
        """Measure the edit."""
        compare_run.measure(self._model, session)
        yield from ()

    def exam(self, session: Session) -> Iterator[str]:
        """Score the edit on the benchmark's prompts, as it acts and as it does elsewhere."""
        way, attacks = next(iter(WAYS)), stress_run.NO_ATTACKS
        size, judge = "Full" if self._whole else "Quick", EmbeddedJudge()
        making = stress_run.other_way(self._model, session, self.store.detector)
        other = yield from drain(making, lambda event: event.message)
        for progress in stress_run.stress(self._model, session, size, judge, attacks, way, self._decoding, other):
            yield f"{tens(progress.answered)} of {progress.total} prompts"
        if self._whole:
            for progress in with_rounding(self._model, session):
                yield f"{tens(progress.answered)} of {progress.total} prompts, rounded"

    def why(self, session: Session) -> Iterator[str]:
        """Ask the locators and look inside the layers."""
        for event in why_run.ask_locators(self._model, session, self.texts):
            yield event.message

    def probe(self, session: Session) -> Iterator[str]:
        """Read or train the toxicity probe."""
        if session.probe is None:
            reading = kept_probe(self._model, cancel=session.cancelled.is_set)
            session.probe = yield from drain(reading, lambda _share: "Reading its texts")

    def atlas(self, session: Session) -> Iterator[str]:
        """Make the same edit at every layer."""
        for event in why_run.atlas(self._model, session, self.texts, why_run.NO_ANSWERS):
            yield event.message

    def contest(self, session: Session) -> Iterator[str]:
        """Run the quick methods, each at its own layer; MEND only where an editor was trained for the model.

        Where the model has a detector each patch is a routed line as well, as behind the page's Routed as well; then
        what the region writes with each is measured, which the plane opens on.
        """
        model = self._model
        assert session.case is not None
        block = self.block
        keys = tuple(key for key in CONTEST if key != "mend" or any(place.is_file() for place in places(model)))
        settings = ContestSettings(
            methods=keys,
            size=contest_run.EXAMPLE_SIZE,
            max_new_tokens=contest_run.LONGEST_ANSWER,
            format=self.texts.format,
            prompts=8,
        )
        running = contest(
            model,
            session.case,
            None,
            settings,
            region=block,
            layers=self._layers,
            probe=session.probe,
            cancel=session.cancelled.is_set,
        )
        standings = yield from drain(running, lambda event: event.method.title)
        kept = session.slot(Compared)
        kept.contest = Contest(session.case, self.texts.format, block, standings, picked=False)
        if self._whole:
            for event in rounded_beside(model, session):
                yield f"Rounded weights, {tens(int(100 * event.fraction))} %"
        detector = self.store.detector
        if detector is not None:
            for added in routed_too(model, session, settings, detector, EmbeddedJudge(), self._layers):
                said = added.method.title if isinstance(added, Standing) else added.message.partition(":")[0]
                yield f"Routed lines, {said}"
        if of_own_patches(kept.contest.standings):
            for writing in write_regions(model, session):
                yield writing.message
            kept.shows_writing = kept.written is not None


def tens(number: int) -> int:
    """Round down to tens: what is told after every step is new to the operator's log after ten."""
    return number // 10 * 10


_MAKERS: dict[str, Callable[[Example, Session], Iterator[str]]] = {part: getattr(Example, part) for part in PARTS}


def ship(model: InspectedModel, folder: Path = ASSETS) -> Path:
    """Make a model's example anew, as it ships: with a full stress test, without the patches of the contest.

    Returns:
        Its folder.

    Raises:
        InspectorError: It cannot be made.
    """
    calibration = calibration_of(model)
    if calibration is not None:
        calibration.teach(model)
    made = folder / folder_name(model, calibration.layers.recommended if calibration else None)
    for old in folder.glob(f"{model.fingerprint}-{model.dtype_name}-*"):
        shutil.rmtree(old)
    example = Example(model, folder=folder, calibration=calibration, shipped=folder, patches=False, whole=True)
    for part in PARTS:
        if example._is_wanted(part):
            example._make(part)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the example of a model, write it where examples ship from, and print its folder as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboard.example.make",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ship", action="store_true", required=True, help="write it into assets/example/")
    add_model(parser, device="cpu", dtype="float32")
    parser.add_argument("--out", type=Path, default=ASSETS, help="another folder to write to")
    # It was --folder once; what was written with it still runs.
    parser.add_argument("--folder", dest="out", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    return finished(lambda: _ship(chosen))


def _ship(chosen: argparse.Namespace) -> None:
    made = ship(load_model(chosen), chosen.out)
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    tell({"folder": str(made), "megabytes": round(size / 1e6, 1)})


if __name__ == "__main__":
    sys.exit(main())
