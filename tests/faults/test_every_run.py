"""Every run of the page, ended in every way: an error, no memory, a cancel, in line, by a client who has gone.

The runs are those that the page itself has wired, so that a new one without an entry here fails.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from traceback import walk_stack
from typing import Any

import gradio as gr
import pytest
import torch
from dashboard_helpers import SHORT_GATE, Page, Visitor, tiny_model
from every_run import RUNS, SECRET, Run, Stage, handler_of
from example_helpers import finished_example, open_page
from memory_faults import no_memory, passes

from dashboard.kit.running.reserving import LEFT_LINE, RUNNING
from dashboard.steps.compare import run as comparing
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.methods import run as methods
from dashboard.steps.operate import gating
from dashboard.steps.stress import run as stress
from dashboard.steps.why import run as why
from editing.atlas import AtlasSettings
from editing.calibrating.calibration import Calibration
from editing.calibrating.trial_edits import Layers, Trial
from editing.contest import ContestSettings
from editing.gate.gate import GateSettings, accept
from editing.saved import handed_out
from inspector.detection import case as case_reading
from inspector.model import Detector
from inspector.safeedit.questions import Size


@pytest.fixture(scope="module")
def page(example_folder: Path) -> Page:
    """The page of a calibrated model with its finished example."""
    layers = Layers((Trial(0, 0.5, 0.1, 1.0), Trial(1, 0.75, 0.1, 1.0)), 0.25, 5, 20)
    about = {"questions": 1, "harmless_prompts": 1}
    detector = Detector((1,), torch.ones(1, 32), 0.0, 0.0, tiny_model().fingerprint, about=about)
    return open_page(example_folder, calibration=Calibration(layers, detector))


@pytest.fixture(autouse=True, scope="module")
def small(example_folder: Path) -> Iterator[None]:
    """Exams of few prompts and short answers; two locators; methods of few steps. The example, which other files look
    at as well, is made before."""
    finished_example(example_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gating, "EXAM", SHORT_GATE)
        brief = GateSettings(**SHORT_GATE)
        patch.setattr(handed_out, "accept", lambda *given, cancel: accept(*given[:3], brief, cancel=cancel))
        patch.setattr(gating, "STACK_EXAM", {"harmless": 1, "max_new_tokens": 3})
        patch.setattr(case_reading, "HARMLESS", 6)
        patch.setattr(comparing, "CURVE", {"harmless": 2, "max_new_tokens": 2})
        patch.setattr(stress, "SUFFIX_SIZE", {"harmless": 2, "max_new_tokens": 2})
        patch.setattr(why, "locate_with", partial(why.locate_with, names=("divergence", "logit attribution")))
        few = {"ft-l": {"steps": 1}}
        patch.setattr(methods, "ContestSettings", lambda **given: ContestSettings(**given, prompts=2, changes=few))
        patch.setattr(why, "AtlasSettings", partial(AtlasSettings, steps=2, harmless_prompts=2))
        patch.setitem(methods.SIZES, "Brief", Size(0, 2, 0, 0))
        yield


READY: dict[Any, Visitor] = {}
"""Visitors for whom what a run needs is there."""


@pytest.fixture(params=RUNS)
def stage(request: pytest.FixtureRequest, page: Page) -> Iterator[Stage]:
    """A visitor who can press one of the runs."""
    run = RUNS[request.param]
    if run.before not in READY:
        READY[run.before] = Visitor(page, f"with {run.before.__name__}")
        run.before(READY[run.before])
    made = Stage(READY[run.before], handler_of(request.param), run)
    yield made
    made.again()


@pytest.fixture(autouse=True)
def one_edit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one edit that passes be enough in every run but one that makes edits: the tiny model's answers are never safe
    ones, and each would be made twice.
    """
    if "on_operate" not in request.node.name:
        monkeypatch.setattr("editing.gate.turns.enough", lambda acceptance: acceptance.passed)


def test_every_run_that_the_page_has_wired_is_here(page):
    assert set(page.context.reserving) == set(map(handler_of, RUNS))


@contextmanager
def failing(run: Run, fail: Callable[[int], None]) -> Iterator[None]:
    """Let what a run calls fail: its forward passes, or what it calls where it makes none."""
    if not run.calls:
        with passes(tiny_model(), fail):
            yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.calls, lambda *_given, **_named: fail(0))
        yield


def broken_at(place: int) -> Callable[[int], None]:
    """Return what lets one pass fail with an error that nobody expects."""

    def fail(number: int) -> None:
        if number == place:
            raise ValueError(SECRET)

    return fail


def test_however_a_run_ends_its_visitor_is_free_is_told_in_words_and_presses_again(stage):
    with passes(tiny_model()) as made:
        assert stage.end() == "" and stage.draws > 0
    assert bool(made.rows) is not bool(stage.run.calls)
    askers: list[tuple[Any, ...]] = []
    with passes(tiny_model(), lambda _: askers.append(asker())) as whole:  # what is known by now needs no passes
        assert stage.end() == ""
    draws, stage.new = stage.draws, stage.visitor.session.row.key
    by_an_error(stage, askers)
    by_memory_that_runs_out(stage, made.rows)
    by_a_cancel_or_a_client_who_has_gone(stage, len(whole.rows), draws)
    if stage.visitor.page.context.reserving[stage.handler]:
        in_line(stage)
    if not stage.run.asks:  # else one that did not fit at first has worked after all
        assert stage.end() == "", "the next press works"


def asker() -> tuple[Any, ...]:
    """Return what makes the pass that is made now: the last two functions of the page or of an edit."""
    within = (frame for frame, _ in walk_stack(None) if frame.f_globals["__name__"].startswith(OF_A_RUN))
    return tuple(frame.f_code for frame in islice(within, 2))


OF_A_RUN = ("dashboard.", "editing.")
"""Packages whose functions ask a model in a run."""


def by_an_error(stage: Stage, askers: list[tuple[Any, ...]]) -> None:
    """End it at its first pass, at its last one, and at the first one of each that asks: at each it is told."""
    count = len(askers)
    for place in sorted({0, max(count - 1, 0), *map(askers.index, askers)}):
        with failing(stage.run, broken_at(place)):
            assert "went wrong on this machine" in stage.end(), f"pass {place} of {count}"
        assert stage.is_as_before or (stage.is_whole and (stage.run.switches or place > 0)), f"pass {place} of {count}"


def by_memory_that_runs_out(stage: Stage, rows: list[int]) -> None:
    """End it as nothing fits; then let its widest pass not fit once."""
    with failing(stage.run, no_memory):
        assert "ran out of memory" in stage.end() + str(stage.visitor.screen)
    assert stage.is_as_before or (stage.is_whole and stage.run.switches)
    other = Visitor(stage.visitor.page, "another one")
    other.session.slot(LocatedCase).divergence = None
    other.do("on_locate")
    assert other.session.slot(LocatedCase).divergence is not None and other.is_free, "everything else goes on"
    if not stage.run.asks:
        return
    failed: list[int] = []

    def once(_number: int) -> None:
        if seen.rows[-1] == max(rows) and not failed:
            failed.append(len(seen.rows))
            no_memory()

    with passes(tiny_model(), once) as seen:
        assert stage.end() == "" and "ran out of memory" not in str(stage.visitor.screen)
    assert failed and seen.rows[failed[0]] < max(rows)


def by_a_cancel_or_a_client_who_has_gone(stage: Stage, count: int, draws: int) -> None:
    """End it at its first draw, when nearly all of its passes are still to come, and in the middle."""
    for after in sorted({1, max(1, draws // 2)}):
        later = stage.run.switches or after > 1
        with passes(tiny_model()) as made:
            assert stage.end(after, partial(stage.visitor.do, "on_cancel")) == ""
        if after == 1 and not stage.run.calls:
            assert (len(made.rows) < count) is not stage.run.at_once, "a cancel ends it before its end"
        assert stage.is_as_before or (later and (stage.is_whole or stage.is_passed))
        stage.leave(after)
        assert stage.is_as_before or (later and (stage.is_whole or stage.is_passed))
        assert len(stage.visitor.page.context.line) == 0


def in_line(stage: Stage) -> None:
    """End it while it waits for another one."""
    line = stage.visitor.page.context.line
    ahead, rest = line.turns(iter_of("ahead", "more"), "edit"), line.rest
    line.rest = 60
    try:
        next(ahead)
        assert stage.end(2, partial(stage.visitor.do, "on_cancel")) == ""
        assert LEFT_LINE in str(stage.visitor.screen)
        assert stage.is_as_before and len(line) == 1
        stage.leave(2)
        assert stage.is_as_before and len(line) == 1
    finally:
        ahead.close()
        line.rest = rest


def iter_of(*events: str) -> Any:
    yield from events


@pytest.mark.parametrize("handler", ["on_locate", "on_ask", "on_edit"])
def test_two_runs_of_one_visitor_that_start_in_the_same_instant_are_one_and_the_other_is_told(page, request, handler):
    told: list[str] = []
    start, refused = threading.Barrier(2), threading.Event()

    def press(visitor: Visitor) -> None:
        start.wait()
        try:
            visitor.do(handler, **RUNS[handler].typed)
            told.append("")
        except gr.Error as error:
            told.append(error.message)
            refused.set()

    both = [Visitor(page, request.node.nodeid) for _ in range(2)]
    runs = both[0].session.runs
    with passes(tiny_model(), lambda _: refused.wait(20)):
        threads = [threading.Thread(target=press, args=(one,)) for one in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(told) == ["", RUNNING] and both[0].session.runs == runs + 1
    assert not both[0].session.busy


BESIDE_PASSES = {
    "the loss's backward pass": "editing.optimising.descent.Descent._backward",
    "the optimiser": "torch.optim.Adam.step",
    "a figure while it runs": "dashboard.steps.operate.figures.vitals_of",
    "a figure of what it has made": "dashboard.steps.compare.figures.shift_by_block",
    "what is done after a run": "dashboard.steps.keep.desk.Desk.note",
}
"""What else an edit does beside forward passes, and what it calls there."""


@pytest.mark.parametrize("stage", ["on_edit"], indirect=True)
@pytest.mark.parametrize("called", BESIDE_PASSES.values(), ids=BESIDE_PASSES)
def test_an_error_beside_the_forward_passes_is_told_and_the_next_press_works(stage, called):
    assert stage.end() == ""
    stage.new = stage.visitor.session.row.key
    with pytest.MonkeyPatch.context() as patch:
        hit: list[str] = []

        def fail(*_given: Any, **_named: Any) -> Any:
            hit.append(called)
            raise ValueError(SECRET)

        patch.setattr(called, fail)
        assert "went wrong on this machine" in stage.end() and hit
    assert stage.is_whole or stage.is_passed
    assert stage.end() == "", "the next press works"
