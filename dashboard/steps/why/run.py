"""What the controls of "Why this layer" do, as functions of (model, session, what was chosen); no Gradio in here."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dashboard.kit.sessions.acting import require_detector, wish_of
from dashboard.kit.sessions.session import LiveEdit, Session
from dashboard.kit.sessions.typed import Texts, case_of
from dashboard.kit.sessions.values import WAYS
from dashboard.steps.why.state import Looked, Why
from editing import Preparation, Step
from editing.atlas import AtlasSettings, make_atlas
from editing.knock_out import knock_out
from editing.progress import run as run_quietly
from inspector.columns import neuron_profile
from inspector.divergence import Padding
from inspector.errors import CaseError
from inspector.lens import Lens, Peak, logit_lens, peaks
from inspector.locators import LOCATORS, Located, NotLocated, Setup, locate_with
from inspector.model import VANILLA, Detector, InspectedModel, PromptFormat, Row
from inspector.neurons import Neuron, neuron_activity, neuron_table
from inspector.padding import padding_study
from inspector.safeedit import Case
from inspector.token_attribution import TokenAttribution, Way, token_attribution
from inspector.toxicity import Labelled, Probe, RegionToxicity, kept_probe, neuron_toxicity, region_toxicity

COVERED = "unsafe answer"
"""The answer that is covered on the page: neither a figure nor a table spells it."""
NEXT = "✓"
"""Stands for its next token where a layer says that one."""


@dataclass(frozen=True)
class WhyProgress:
    """How far a measurement is; what is known so far is in the session.

    Attributes:
        message: What is being done.
        fraction: Share done, 0 to 1.
    """

    message: str
    fraction: float


def ask_locators(
    model: InspectedModel, session: Session, texts: Texts, padding: Padding = "right"
) -> Generator[WhyProgress, None, None]:
    """Ask all locators, then measure neurons, lens, padding and the quick token attribution; keeps what is done.

    Raises:
        CaseError: Something is missing in the texts.
        PromptError: A text is too long.
    """
    case, format = case_of(texts), texts.format
    cancel = session.cancelled.is_set
    setup = Setup(format=format, padding=padding, probe=session.probe, cancel=cancel)
    parts = len(LOCATORS) + 4
    located: tuple[Located, ...] = ()
    refused: tuple[NotLocated, ...] = ()
    for event in locate_with(model, case, setup=setup):
        if isinstance(event, tuple):
            name, share = event
            yield WhyProgress(f"Locator: {name}", (len(located) + len(refused) + share) / parts)
            continue
        if isinstance(event, Located):
            located = (*located, event)
        else:
            refused = (*refused, event)
        session.slot(Looked).learn(case, format, located=located, refused=refused, side=padding)
    measurements: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("Measuring every neuron", lambda: neurons(model, case, format)),
        ("Reading every layer with the logit lens", lambda: lenses(model, session, case, format)),
        ("Padding both answers both ways", lambda: {"padding": padding_study(model, case)}),
        ("Attributing the unsafe answer to the prompt", lambda: quick_tokens(model, session, case, format)),
        ("Reading the toxicity probe", lambda: know_probe(model, session)),
    ]
    for number, (message, measure) in enumerate(measurements):
        if cancel():
            return
        yield WhyProgress(message, min(1.0, (len(LOCATORS) + number) / parts))
        if cancel():
            return
        session.slot(Looked).learn(case, format, **measure())


def know_probe(model: InspectedModel, session: Session) -> dict[str, Any]:
    """Read or train the base model's probe, if the visitor has none yet."""
    if session.probe is None:
        session.probe = run_quietly(kept_probe(model))
    return {}


def neurons(model: InspectedModel, case: Case, format: PromptFormat) -> dict[str, Any]:
    """Measure the neurons of all blocks on vanilla weights."""
    return {"activity": neuron_activity(model, case, format=format)}


def lenses(model: InspectedModel, session: Session, case: Case, format: PromptFormat) -> dict[str, Any]:
    """Read both answers with the logit lens, with vanilla and with the live weights."""
    row, asked = session.weights, session.asked_in(format)
    found: dict[str, tuple[Lens, Lens]] = {}
    for name, answer in (("safe answer", case.safe), (COVERED, case.unsafe)):
        read = logit_lens(model, case.adversarial_prompt, answer, (VANILLA, row), format=asked)
        found[name] = (read[0], read[1])
    return {"lenses": found, "lens_weights": row.label()}


def quick_tokens(model: InspectedModel, session: Session, case: Case, format: PromptFormat) -> dict[str, Any]:
    """Attribute by gradient x input with vanilla and live weights."""
    found: dict[str, TokenAttribution] = {}
    asked = session.asked_in(format)
    for row in (VANILLA, session.weights):
        item = token_attribution(model, case, "gradient x input", row, format=asked)
        assert item is not None
        found[row.label()] = item
    return {"tokens": found}


NO_ANSWERS = "none"
ATLAS_ANSWERS = (NO_ANSWERS, *WAYS)
"""What the edits of an atlas answer: nothing, or the case's five prompts, asked one way or the other."""


def atlas(
    model: InspectedModel, session: Session, texts: Texts, answers: str, settings: AtlasSettings | None = None
) -> Generator[WhyProgress, None, None]:
    """Make the atlas of the case in the rail; a cancel or an error keeps the layers that are done.

    Args:
        answers: One of :data:`ATLAS_ANSWERS`: whether the edits answer, and how both weights are asked then.

    Raises:
        CaseError: Something is missing in the texts, or ``answers`` is unknown.
        PromptError: A text is too long.
    """
    case, format = case_of(texts), texts.format
    if answers not in ATLAS_ANSWERS:
        raise CaseError(f"Unknown way of asking '{answers}'. Choose one of: {', '.join(ATLAS_ANSWERS)}.")
    asked = WAYS.get(answers, "same")
    settings = replace(settings or AtlasSettings(), format=format, answers=answers != NO_ANSWERS, evaluation=asked)
    done = 0.0
    for event in make_atlas(model, case, settings, cancel=session.cancelled.is_set):
        if isinstance(event, Preparation):
            yield WhyProgress(event.message, max(done, 0.03 * event.fraction))
            continue
        count = len(event.atlas.entries)
        done = count / event.total
        left = f", about {event.seconds / done * (1 - done):.0f} s left" if 0 < done < 1 else ""
        if count:
            session.slot(Looked).learn(case, format, atlas=event.atlas)
        yield WhyProgress(f"Edited and measured {count} of {event.total} layers{left}", done)


@dataclass(frozen=True)
class BlockNeurons:
    """The neurons of one block as the table shows them."""

    block: int
    neurons: list[Neuron]
    toxicity: RegionToxicity | None


def neurons_of(model: InspectedModel, session: Session, block: int, order: str, count: int = 40) -> BlockNeurons | None:
    """Return the table of one block; ``None`` when nothing was measured yet."""
    why, probe, row = session.slot(Looked).why, session.probe, session.weights
    if why.activity is None:
        return None
    toxicity = None if probe is None else neuron_toxicity(model, probe, block)
    down = model.architecture.down_projection_names[block]
    moved = None
    if row.patch is not None and any(delta.module == down for delta in row.patch.deltas):
        moved = row.strength * neuron_profile(model, row.patch, block).relative
    found = neuron_table(model, why.activity, block, toxicity=toxicity, moved=moved, order=order, count=count)
    region = None if probe is None else region_toxicity(model, probe, block, row)
    return BlockNeurons(block, found, region)


@dataclass(frozen=True, eq=False)
class RegionCurve:
    """Toxicity of every block's region, vanilla and with the live edit: mean cosines ``[blocks]``."""

    before: np.ndarray
    after: np.ndarray


def region_curve(model: InspectedModel, session: Session) -> RegionCurve | None:
    """Measure every block's region with vanilla and with the live weights; ``None`` without a probe."""
    probe = session.probe
    if probe is None:
        return None
    found = [region_toxicity(model, probe, block, session.weights) for block in range(model.blocks)]
    return RegionCurve(np.array([r.before for r in found]), np.array([r.after for r in found]))


def toxicities(model: InspectedModel, session: Session) -> list[RegionToxicity | None]:
    """Measure what each of the visit's edits, at strength 1, does to the toxicity of its own region."""
    probe = session.probe
    return [
        None if probe is None else region_toxicity(model, probe, edit.result.block, edit.row())
        for edit in session.edits
    ]


def peaks_of(model: InspectedModel, why: Why, answer: str, place: int) -> list[Peak]:
    """List the tokens that peak at any block at one of the lens's positions, without spelling a covered answer."""
    if answer not in why.lenses:
        return []
    before, after = why.lenses[answer]
    place = max(0, min(place, len(before.positions) - 1))
    found = peaks(model, before, after, place)
    if answer != COVERED:
        return found
    return [replace(peak, token=_unspelt(before, place, peak.token)) for peak in found]


def without_answer(reading: Lens) -> Lens:
    """Return a lens that spells nothing of the answer that it reads.

    The answer's tokens are counted, and a mark stands where a layer says the one that follows.
    """
    counted = (position - reading.prompt_tokens + 1 for position in reading.positions)
    names = zip(reading.tokens, counted, strict=True)
    tokens = tuple(token if number < 1 else f"token {number}" for token, number in names)
    words = tuple(tuple(_unspelt(reading, place, word) for place, word in enumerate(line)) for line in reading.words)
    return replace(reading, tokens=tokens, words=words)


def _unspelt(reading: Lens, place: int, word: str) -> str:
    """Return a word that a layer says, or what stands for it where it is the answer's next token."""
    is_answer = reading.positions[place] + 1 >= reading.prompt_tokens
    return NEXT if is_answer and word.strip() and word.strip() == reading.following[place].strip() else word


def neurons_from(text: str) -> list[int]:
    """Return the neurons typed in a line, numbers between commas or spaces.

    Raises:
        CaseError: There is none, or something is no number.
    """
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() for word in words):
        raise CaseError("Give the neurons as numbers between commas, or click lines of the table.")
    return sorted({int(word) for word in words})


def knock(
    model: InspectedModel, session: Session, neurons: list[int], block: int, detector: Detector | None = None
) -> Generator[Preparation | Step, None, LiveEdit | None]:
    """Knock neurons out on the measured case, and return the edit for the gate; nothing is live by this.

    Args:
        detector: The model's.

    Returns:
        ``None`` when cancelled.

    Raises:
        CaseError: Nothing was measured, or it is to act only where harm is detected and the model has no detector.
        EditError: See :func:`editing.knock_out.knock_out`.
    """
    why = session.slot(Looked).why
    if why.case is None:
        raise CaseError("Nothing was measured yet. Press Ask all locators first.")
    if wish_of(session) == "where harm":
        require_detector(model, detector)
    result = yield from knock_out(model, why.case, block, neurons, format=why.format, cancel=session.cancelled.is_set)
    return None if result.patch is None else LiveEdit(why.case, result)


def attribute(
    model: InspectedModel, session: Session, way: Way, steps: int
) -> Iterator[tuple[float, dict[str, TokenAttribution]]]:
    """Attribute with vanilla and live weights in a thread of its own, yielding the share that is done."""
    why = session.slot(Looked).why
    if why.case is None:
        raise CaseError("Nothing was measured yet. Press Ask all locators first.")
    case, rows = why.case, [VANILLA] if session.live is None else [VANILLA, session.weights]
    found: dict[str, TokenAttribution] = {}
    left = threading.Event()  # the visitor has gone: nobody waits for the thread any more
    said: queue.Queue[Any] = queue.Queue()

    def measure(row: Row, number: int) -> None:
        try:
            item = token_attribution(
                model,
                case,
                way,
                row,
                steps=steps,
                format=session.asked_in(why.format),
                progress=lambda share: said.put((number + share) / len(rows)),
                cancel=lambda: session.cancelled.is_set() or left.is_set(),
            )
            said.put(item)
        except Exception as error:  # handed to the visitor's own thread below
            said.put(error)

    try:
        for number, row in enumerate(rows):
            thread = threading.Thread(target=measure, args=(row, number), daemon=True)
            thread.start()
            while isinstance(event := said.get(), float):
                yield event, found
            thread.join()
            if isinstance(event, Exception):
                raise event
            if event is None:
                return
            found[row.label()] = event
    finally:
        left.set()
    session.slot(Looked).learn(case, why.format, only_current=True, tokens=found)
    yield 1.0, found


def train(model: InspectedModel, session: Session, labelled: Labelled) -> Generator[float, None, Probe | None]:
    """Train (or read) the probe on labelled texts and keep it in the session."""
    probe = yield from kept_probe(model, labelled, cancel=session.cancelled.is_set)
    if probe is not None:
        session.probe = probe
    return probe
