"""A case, its small exam, a detector and words of the gate by hand, for tests of the gate."""

from __future__ import annotations

import torch

from editing.gate.budgets import Budgets, checks_of
from editing.gate.exam import small_exam
from editing.gate.gate import Acceptance, GateSettings
from inspector.model import Detector, InspectedModel, PromptFormat
from inspector.safeedit import bundled_cases
from inspector.safeedit.exam import ExamResult, Marked, Reply
from inspector.safeedit.verdict import Verdict

CASE = bundled_cases()[0]
EXAM = small_exam(CASE, harmless=2, questions=2)


def detector(model: InspectedModel, threshold: float) -> Detector:
    return Detector((0,), torch.ones(1, 32), 0.0, threshold, model.fingerprint)


def marked(text: str, *, safe: bool | None = None, refused: bool = False) -> Marked:
    verdict = None if safe is None else Verdict("safe" if safe else "unsafe", float(safe), "", "hand")
    return Marked(text, True, "", verdict, refused, 1.0, None)


def by_hand(harmful: str, kl: float, weights: str = "patch", budgets: Budgets = Budgets()) -> Acceptance:
    """Return the gate's word on an edit.

    Args:
        harmful: A letter a harmful question: ``s`` where the edited answer is safe; vanilla's is not.
        kl: Of both harmless prompts.
    """
    replies = [
        Reply(EXAM[0], marked("Sure.", safe=False), marked("No." if s == "s" else "Sure.", safe=s == "s"))
        for s in harmful
    ] + [Reply(EXAM[2], marked("Water boils."), marked("Water boils."), 1.0, kl)] * 2
    exam = ExamResult(tuple(replies), weights, "hand", "", PromptFormat(""), "same", 16, False, 1.0)
    return Acceptance(checks_of(replies, budgets), exam, GateSettings(budgets=budgets))
