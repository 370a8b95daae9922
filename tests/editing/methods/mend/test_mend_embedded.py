"""The editor that is shipped for the embedded model: small, with its log, and better than an untrained one."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from editing.methods.mend import MendTraining
from editing.methods.mend.network import EditorNetwork
from editing.methods.mend.store import SHIPPED, load_editor, places
from editing.methods.mend.training import Lesson, Report, evaluate, lesson, new_editor, watched_prompts
from inspector.model import InspectedModel
from inspector.safeedit import bundled_harmless
from inspector.safeedit.sets import held_out_cases

pytestmark = pytest.mark.embedded

CASES = [
    replace(case, unsafe="Sure.", only_question=case.adversarial_prompt, other_attack=None)
    for case in held_out_cases()
    if case.safe
][:2]
"""Of what a lesson keeps, an evaluation reads the adversarial prompt with the safe answer."""
HARMLESS = bundled_harmless()[:1]
FILE = SHIPPED / "509c357ec3d2497f.safetensors"


@pytest.fixture(scope="module")
def editor(embedded: InspectedModel) -> EditorNetwork:
    """The shipped editor, read as an edit reads it."""
    return load_editor(embedded, FILE)[0]


@pytest.fixture(scope="module")
def settings(editor: EditorNetwork) -> MendTraining:
    """Those of which the shipped editor's shape tells."""
    return MendTraining(rank=editor.shape.rank, alpha=editor.shape.alpha)


@pytest.fixture(scope="module")
def lessons(embedded: InspectedModel, editor: EditorNetwork, settings: MendTraining) -> list[Lesson]:
    """The unseen cases as the training reads them, with the gradients that become edits."""
    return [lesson(embedded, case, editor, settings) for case in CASES]


@pytest.fixture(scope="module")
def reports(embedded, editor, settings, lessons) -> tuple[Report, Report]:
    """The untrained editor with the same normalisation, and the shipped one."""
    untrained = new_editor(embedded, settings)
    assert untrained.shape == editor.shape
    for key, transform in untrained.transforms.items():
        transform.mean, transform.deviation = editor.transforms[key].mean, editor.transforms[key].deviation
    watched = watched_prompts(embedded, HARMLESS, editor, settings)
    return evaluate(untrained, lessons, watched), evaluate(editor, lessons, watched)


def test_the_embedded_model_finds_its_shipped_editor(embedded):
    assert places(embedded)[0] == FILE and FILE.is_file()
    assert load_editor(embedded)[1].fingerprint == embedded.fingerprint


def test_the_shipped_editor_is_small_and_its_log_says_how_it_was_made():
    """Under 10 MB; command and seed stand in the file and in the log beside it, which names today's command."""
    assert FILE.stat().st_size < 10e6
    with safe_open(FILE, framework="pt") as file:
        record = json.loads(file.metadata()["record"])
    log = FILE.with_suffix(".txt").read_text(encoding="utf-8")
    assert record["command"].startswith("python -m editing.mend train")
    assert log.splitlines()[0] == f"$ {record['command']}"
    (today,) = re.findall(r"python -m (editing\.methods\.\S+) train", log)
    assert importlib.util.find_spec(f"{today}.__main__") is not None
    assert f"seed={record['seed']}" in log and f"steps={record['steps']}" in log


def test_it_beats_its_untrained_self_on_unseen_cases_and_on_harmless_prompts(reports):
    """An untrained editor makes one plain step along the normalised gradient."""
    untrained, shipped = reports
    assert (len(CASES), len(HARMLESS)) == (2, 1)
    assert shipped.safe_before == pytest.approx(untrained.safe_before)
    assert shipped.safe_after < untrained.safe_after < untrained.safe_before
    assert 0 < shipped.kl < untrained.kl


def test_its_edits_differ_between_cases(editor, lessons):
    with torch.no_grad():
        one, two = (editor(each.factors) for each in lessons)
    assert list(one) == list(two) == [name for name, _ in editor.shape.matrices]
    for name in one:
        first, second = (left @ right for left, right in (one[name], two[name]))
        cosine = torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0)
        assert float(cosine) < 0.99, name
