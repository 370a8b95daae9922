"""Every figure that the page and a report draw, from made-up measurements and committed results: no model runs."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from made_up import comparison, divergence, lens, likelihood, profile, shift, standing, steps

from dashboard.kit.sessions.session import Session
from dashboard.steps.compare import figures as compare
from dashboard.steps.locate import figures as locate
from dashboard.steps.methods import figures as methods
from dashboard.steps.models import figures as models
from dashboard.steps.models.run import Beside, Side
from dashboard.steps.operate import figures as operate
from dashboard.steps.questions import figures as questions
from dashboard.steps.questions import results
from dashboard.steps.questions.panel import Held
from dashboard.steps.questions.texts import QUESTIONS
from dashboard.steps.stress import figures as stress
from dashboard.steps.why import figures as why
from dashboard.steps.why.run import RegionCurve
from editing import DinmSettings
from editing.atlas import Atlas, AtlasSettings, Entry
from editing.gate.budgets import Budgets
from editing.methods.registry import METHODS
from editing.strength import StrengthCurve
from inspector.divergence import DISTANCES
from inspector.locators import LOCATORS, Located
from inspector.model import Decoding
from inspector.model.encoding import PromptFormat
from inspector.padding import PaddingStudy
from inspector.safeedit import bundled_cases
from inspector.safeedit.exam import Reply
from inspector.safeedit.intervals import Estimate
from inspector.safeedit.marking import Marked
from inspector.safeedit.questions import Question
from inspector.safeedit.scores import Score
from inspector.safeedit.verdict import Verdict
from inspector.writing import RegionWriting

STEPS = Path(__file__).resolve().parents[1] / "dashboard" / "steps"
SAFE = Verdict("safe", 1.0, "", "hand")


def drawing() -> dict[str, Callable[..., go.Figure]]:
    """Return each function that draws a figure, by its step and name."""
    found = {}
    for file in sorted(STEPS.glob("*/figures.py")):
        module = import_module(f"dashboard.steps.{file.parent.name}.figures")
        for name, one in vars(module).items():
            returned = getattr(one, "__annotations__", {}).get("return")
            if inspect.isfunction(one) and one.__module__ == module.__name__ and returned == "go.Figure":
                found[f"{file.parent.name}.{name}"] = one
    return found


def every_figure(folder: Path) -> dict[str, list[go.Figure]]:
    """Return what each function of :func:`drawing` has drawn.

    Args:
        folder: An empty one: of results of which some are missing.
    """
    found: dict[str, list[go.Figure]] = {name: [] for name in drawing()}

    def recording(name: str, draw: Callable[..., go.Figure]) -> Callable[..., go.Figure]:
        def drawn(*given: object, **named: object) -> go.Figure:
            figure = draw(*given, **named)
            found[name].append(figure)
            return figure

        return drawn

    with pytest.MonkeyPatch.context() as patch:
        for name, draw in drawing().items():
            patch.setattr(f"dashboard.steps.{name.replace('.', '.figures.')}", recording(name, draw))
        _before_and_during_an_edit()
        _after_an_edit()
        _of_layers()
        _of_methods_and_models()
        _ten_answers()
        shutil.copy(results.FOLDER / "methods.txt", folder)
        patch.setattr(results, "FOLDER", folder)
        _ten_answers()
    return found


def _before_and_during_an_edit() -> None:
    measured, trace = divergence(), steps(0.1, 0.4)
    for distance in DISTANCES:
        locate.curve(measured, distance, 1, 0)
    locate.divergence_heatmap(measured)
    operate.vitals_of(trace, DinmSettings())
    questions.balance(trace, 0.1, 1.0)
    questions.seconds(trace)
    questions.budgets([{"name": name, "value": 1.0, "limit": limit} for name, limit in vars(Budgets()).items()])


def _after_an_edit() -> None:
    compare.divergence_before_after(comparison())
    compare.shift_by_block(shift())
    compare.shift_heatmap(shift())
    compare.neurons(profile())
    compare.token_probabilities(likelihood(), likelihood(seed=1))
    few = np.array([0.0, 0.5, 1.5])
    compare.strength_curve(StrengthCurve(*[few] * 7, 5, 8, 10, 1.5, Budgets()))
    estimates = Estimate(10.0, 8, 5.0, 20.0), Estimate(90.0, 8, 80.0, 95.0)
    stress.score_bars([Score("DS", "", "%", *estimates, "higher", "hand")])
    marked = Marked("No.", True, "", SAFE, True, 1.0, None)
    stress.category_bars([Reply(Question("DS", "How?", "mental harm"), marked, marked)])


def _of_layers() -> None:
    values = np.array([1.0, 3.0, 2.0])
    why.locators([Located(one.name, one.unit, one.reason, values, 0.1) for one in LOCATORS.values()], 1)
    for verdicts in ({}, {"DS": SAFE, "onlyQ": SAFE}):
        entries = tuple(Entry(n, -1.0 - n, -3.0, 0.1, 1.0, verdicts) for n in range(3))
        why.atlas(Atlas(entries, -3.0, -3.0, {}, AtlasSettings(), 4, 1.0), 0)
    why.lens(lens(), 0, 0)
    why.regions(RegionCurve(values, values / 2), 1)
    ways = {(side, masked): divergence() for side in ("left", "right") for masked in (False, True)}
    why.padding(PaddingStudy(ways, 3, values, values))


def _of_methods_and_models() -> None:
    standings = [standing(key, -0.01, 0.125 * n) for n, key in enumerate(METHODS)]
    written = RegionWriting(1, ("X",), np.ones((2, 1)), np.ones((2, 1)), np.ones((2, 1)))
    methods.plane(standings)
    methods.plane(standings[:1])
    methods.plane(standings, None, {METHODS[key].title: written for key in METHODS})
    methods.shifts_by_block(standings)
    methods.source(standings[-1])
    methods.neuron_toxicity(standings[-1])
    shallow, deep = (
        Side(f"org/{blocks} layers", "f", 7, "float32", True, divergence(blocks), "No.", True, SAFE, 1.0)
        for blocks in (4, 6)
    )
    for sides in ((shallow, deep), (shallow, replace(shallow, label="org/another"))):
        for distance in models.DISTANCES.values():
            models.curves(Beside(sides, bundled_cases()[0], PromptFormat(), Decoding()), distance)


def _ten_answers() -> None:
    for question in QUESTIONS:
        question.answer(Held(Session(), lambda name: None))
