"""What the controls of "Why this layer" do, as functions of (model, session, what was chosen); no Gradio in here."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dashboard.actions import Texts, case_of
from dashboard.session import LiveEdit, Session
from dashboard.why_state import Why
from editing import EditResult, Preparation, Step
from editing.atlas import Atlas, AtlasProgress, AtlasSettings, make_atlas
from editing.knock_out import knock_out
from inspector.divergence import Padding
from inspector.errors import CaseError
from inspector.lens import Lens, Peak, logit_lens, peaks
from inspector.locators import LOCATORS, Located, Setup, locate_with
from inspector.model import VANILLA, InspectedModel, Patch, Row
from inspector.neurons import Neuron, neuron_activity, neuron_table
from inspector.padding import padding_study
from inspector.probe import Labelled, Probe, RegionToxicity, kept_probe, neuron_toxicity, region_toxicity
from inspector.safeedit import Case
from inspector.shift import neuron_profile
from inspector.token_attribution import TokenAttribution, Way, token_attribution


@dataclass(frozen=True)
class WhyProgress:
    """How far a measurement is.

    Attributes:
        message: What is being done.
        fraction: Share done, 0 to 1.
        why: What is known so far.
    """

    message: str
    fraction: float
    why: Why


def begin(session: Session, case: Case, suffix: str) -> Why:
    """Return what is known of a case: everything if it is the one measured before, else nothing but the probe."""
    known = session.why
    return known if (known.case, known.suffix) == (case, suffix) else Why(case, suffix, probe=known.probe)


def ask_locators(
    model: InspectedModel, session: Session, texts: Texts, padding: Padding = "right"
) -> Generator[WhyProgress, None, Why]:
    """Ask all locators, then measure neurons, lens, padding and the quick token attribution; keeps what is done.

    Raises:
        CaseError: Something is missing in the texts.
        PromptError: A text is too long.
    """
    case = case_of(texts)
    why = begin(session, case, texts.suffix)
    why = replace(why, located=())
    cancel = session.cancelled.is_set
    setup = Setup(suffix=texts.suffix, padding=padding, cancel=cancel)
    parts = len(LOCATORS) + 4
    for event in locate_with(model, case, setup=setup):
        if isinstance(event, Located):
            why = session.why = replace(why, located=(*why.located, event))
        else:
            name, share = event
            yield WhyProgress(f"Locator: {name}", (len(why.located) + share) / parts, why)
    if cancel():
        return why
    measurements: list[tuple[str, Callable[[Why], Why]]] = [
        ("Measuring every neuron", lambda w: with_neurons(model, w)),
        ("Reading every layer with the logit lens", lambda w: with_lenses(model, session, w)),
        ("Padding both answers both ways", lambda w: replace(w, padding=padding_study(model, case))),
        ("Attributing the unsafe answer to the prompt", lambda w: with_quick_tokens(model, session, w)),
    ]
    for number, (message, measure) in enumerate(measurements):
        yield WhyProgress(message, (len(LOCATORS) + number) / parts, why)
        if cancel():
            return why
        why = session.why = measure(why)
    probe = run_quietly(kept_probe(model))
    why = session.why = replace(why, probe=probe)
    yield WhyProgress("Done", 1.0, why)
    return why


def run_quietly(measuring: Generator[float, None, Any]) -> Any:
    """Run a measurement to its end and return its result."""
    while True:
        try:
            next(measuring)
        except StopIteration as end:
            return end.value


def with_neurons(model: InspectedModel, why: Why) -> Why:
    """Measure the neurons of all blocks on vanilla weights."""
    assert why.case is not None
    return replace(why, activity=neuron_activity(model, why.case, suffix=why.suffix))


def with_lenses(model: InspectedModel, session: Session, why: Why) -> Why:
    """Read both answers with the logit lens, with vanilla and with the live weights."""
    case, row = why.case, session.row
    assert case is not None
    lenses: dict[str, tuple[Lens, Lens]] = {}
    for name, answer in (("safe answer", case.safe), ("unsafe answer", case.unsafe)):
        found = logit_lens(model, case.adversarial_prompt, answer, (VANILLA, row), suffix=why.suffix, chat=session.chat)
        lenses[name] = (found[0], found[1])
    return replace(why, lenses=lenses, lens_weights=row.label())


def with_quick_tokens(model: InspectedModel, session: Session, why: Why) -> Why:
    """Attribute by gradient x input with vanilla and live weights."""
    found: dict[str, TokenAttribution] = {}
    for row in (VANILLA, session.row):
        assert why.case is not None
        item = token_attribution(model, why.case, "gradient x input", row, suffix=why.suffix, chat=session.chat)
        assert item is not None
        found[row.label()] = item
    return replace(why, tokens=found)


def atlas(
    model: InspectedModel, session: Session, texts: Texts, answers: bool, settings: AtlasSettings | None = None
) -> Generator[WhyProgress, None, Why]:
    """Make the atlas of the case in the rail; a cancel keeps the layers that are done.

    Raises:
        CaseError: Something is missing in the texts.
        PromptError: A text is too long.
    """
    case = case_of(texts)
    why = begin(session, case, texts.suffix)
    settings = replace(settings or AtlasSettings(), suffix=texts.suffix, answers=answers)
    run = make_atlas(model, case, settings, cancel=session.cancelled.is_set)
    done = 0.0
    while True:
        try:
            event = next(run)
        except StopIteration as end:
            made: Atlas = end.value
            break
        if isinstance(event, Preparation):
            yield WhyProgress(event.message, max(done, 0.03 * event.fraction), why)
            continue
        assert isinstance(event, AtlasProgress)
        count = len(event.atlas.entries)
        done = count / event.total
        left = f", about {event.seconds / done * (1 - done):.0f} s left" if 0 < done < 1 else ""
        why = replace(why, atlas=event.atlas if count else why.atlas)
        yield WhyProgress(f"Edited and measured {count} of {event.total} layers{left}", done, why)
    if made.entries:
        why = replace(why, atlas=made)
    session.why = why
    return why


@dataclass(frozen=True)
class BlockNeurons:
    """The neurons of one block as the table shows them."""

    block: int
    neurons: list[Neuron]
    toxicity: RegionToxicity | None


def neurons_of(model: InspectedModel, session: Session, block: int, order: str, count: int = 40) -> BlockNeurons | None:
    """Return the table of one block; ``None`` when nothing was measured yet."""
    why, patch = session.why, session.live.patch if session.live else None
    if why.activity is None:
        return None
    toxicity = None if why.probe is None else neuron_toxicity(model, why.probe, block)
    down = model.architecture.down_projection_names[block]
    touched = patch is not None and any(delta.module == down for delta in patch.deltas)
    moved = neuron_profile(model, patch, block).relative if patch is not None and touched else None
    found = neuron_table(model, why.activity, block, toxicity=toxicity, moved=moved, order=order, count=count)
    region = None if why.probe is None else region_toxicity(model, why.probe, block, patch)
    return BlockNeurons(block, found, region)


@dataclass(frozen=True, eq=False)
class RegionCurve:
    """Toxicity of every block's region, vanilla and with the live edit: mean cosines ``[blocks]``."""

    before: np.ndarray
    after: np.ndarray


def region_curve(model: InspectedModel, probe: Probe, patch: Patch | None) -> RegionCurve:
    """Measure every block's region."""
    found = [region_toxicity(model, probe, block, patch) for block in range(model.blocks)]
    return RegionCurve(np.array([r.before for r in found]), np.array([r.after for r in found]))


def peaks_of(model: InspectedModel, why: Why, answer: str, place: int) -> list[Peak]:
    """List the tokens that peak at any block at one of the lens's positions."""
    if answer not in why.lenses:
        return []
    before, after = why.lenses[answer]
    return peaks(model, before, after, max(0, min(place, len(before.positions) - 1)))


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
    model: InspectedModel, session: Session, neurons: list[int], block: int
) -> Generator[Preparation | Step, None, EditResult]:
    """Knock neurons out on the measured case; the patch becomes the live edit."""
    case = session.why.case
    if case is None:
        raise CaseError("Nothing was measured yet. Press Ask all locators first.")
    result = yield from knock_out(
        model, case, block, neurons, suffix=session.why.suffix, cancel=session.cancelled.is_set
    )
    if result.patch is not None:
        session.add(LiveEdit(case, result))
    return result


def attribute(
    model: InspectedModel, session: Session, way: Way, steps: int
) -> Iterator[tuple[float, dict[str, TokenAttribution]]]:
    """Attribute with vanilla and live weights in a thread of its own, yielding the share that is done."""
    why = session.why
    if why.case is None:
        raise CaseError("Nothing was measured yet. Press Ask all locators first.")
    case, rows = why.case, [VANILLA] if session.live is None else [VANILLA, session.row]
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
                suffix=why.suffix,
                chat=session.chat,
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
    session.why = replace(session.why, tokens=found)
    yield 1.0, found


def train(model: InspectedModel, session: Session, labelled: Labelled) -> Generator[float, None, Probe | None]:
    """Train (or read) the probe on labelled texts and keep it in the session."""
    probe = yield from kept_probe(model, labelled, cancel=session.cancelled.is_set)
    if probe is not None:
        session.why = replace(session.why, probe=probe)
    return probe
