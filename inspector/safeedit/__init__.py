"""SafeEdit: cases (and, later, judges and scores)."""

from inspector.safeedit.cases import (
    Case,
    Constraint,
    Template,
    bundled_cases,
    bundled_constraint_prompts,
    bundled_harmless,
    bundled_templates,
)

__all__ = [
    "Case",
    "Constraint",
    "Template",
    "bundled_cases",
    "bundled_constraint_prompts",
    "bundled_harmless",
    "bundled_templates",
]
