"""A tiny model for the commands, and a short gate in each of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from command_helpers import CASE, LENIENT
from word_models import word_model

from editing import apply, edit
from editing.gate import budgets as gate_budgets
from editing.gate import choice as gate_choice
from editing.gate import gate
from editing.gate.exam import small_exam
from editing.saved import handed_out


@pytest.fixture(scope="package")
def words():
    texts = [question.prompt for question in small_exam(CASE, 2, 1)]
    return word_model([*texts, CASE.adversarial_prompt, CASE.safe, CASE.unsafe], seed=1)


@pytest.fixture
def budgets(monkeypatch):
    """A short gate whose budgets a test sets."""

    def to(chosen) -> None:
        short = gate.GateSettings(chosen, harmless=2, questions=1, max_new_tokens=2, least_gain=0)

        def given(settings) -> gate.GateSettings:
            """The short gate with what a command was told."""
            return short if settings.budgets == gate_budgets.DEFAULTS else replace(short, budgets=settings.budgets)

        monkeypatch.setattr(apply, "accept", lambda model, row, case: gate.accept(model, row, case, short))
        monkeypatch.setattr(
            edit, "accept", lambda model, row, case, settings: gate.accept(model, row, case, given(settings))
        )
        monkeypatch.setattr(
            handed_out, "accept", lambda model, row, case, _, cancel: gate.accept(model, row, case, short)
        )
        monkeypatch.setattr(
            edit,
            "accept_where_best",
            lambda model, row, case, settings, **how: gate_choice.accept_where_best(
                model, row, case, given(settings), **how
            ),
        )

    to(LENIENT)
    return to
