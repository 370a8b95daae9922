"""The SafeEdit benchmark: its cases, judges of answers, the exam of an edit, and its scores with intervals."""

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
