"""What tests of the commands share: the case, what makes an edit short, budgets, and a command that is run."""

from __future__ import annotations

import json
from dataclasses import replace

from editing.gate import budgets as gate_budgets
from inspector.safeedit import bundled_cases

CASE = next(case for case in bundled_cases() if case.split == "edit")
QUICK = [part for entry in ("steps=1", "harmless_prompts=1", "harmless_tokens=2") for part in ("--set", entry)]
QUICK += [part for entry in ("own_refusals=0", "learning_rate=0.01", "null_space=none") for part in ("--set", entry)]
LENIENT = gate_budgets.Budgets(100.0, 100.0, 100.0, 100.0, 100.0)
STRICT = replace(LENIENT, harmless_kl=0.0)


def ran(command, options, model, capsys):
    code = command.main([str(option) for option in options], lambda _: model)
    told = capsys.readouterr()
    return code, (json.loads(told.out) if told.out else None), told.err
