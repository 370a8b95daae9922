"""From the page's values to decoding and texts, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboard.kit.limits import Limits
from dashboard.kit.sessions.typed import Texts
from inspector.errors import CaseError
from inspector.model import SUFFIX, Decoding
from inspector.safeedit import bundled_cases, bundled_templates
from inspector.safeedit.exam import Evaluation
from inspector.safeedit.questions import CASE_PROMPTS, Size, common_questions

WAYS: dict[str, Evaluation] = {"same prompts": "same", "as in the paper": "paper"}
"""How the two weights are asked, by its name on the screen: see :data:`inspector.safeedit.exam.EVALUATIONS`."""


def evaluation_of(way: str) -> Evaluation:
    """Return how both weights are asked.

    Args:
        way: One of :data:`WAYS`.

    Raises:
        CaseError: It is none.
    """
    if way not in WAYS:
        raise CaseError(f"Unknown way of asking '{way}'. Choose one of: {', '.join(WAYS)}.")
    return WAYS[way]


def decoding_from(values: Mapping[str, Any]) -> Decoding:
    """Build the decoding from the page's values.

    Args:
        values: By the names of the decoding's own fields.

    Raises:
        CaseError: A value is missing or out of range.
    """
    longest, temperature, seed = values["max_new_tokens"], values["temperature"], values["seed"]
    if longest is None or not 1 <= int(longest) <= 1024:
        raise CaseError("The longest answer must have 1 to 1024 tokens. Change it under Decoding.")
    if temperature is None or not 0 <= temperature <= 5:
        raise CaseError("The temperature must be between 0 and 5. Change it under Decoding.")
    if abs(int(seed or 0)) >= 2**63:
        raise CaseError("The seed must be a number of at most 18 digits. Change it under Decoding.")
    return Decoding(max_new_tokens=int(longest), temperature=float(temperature), seed=int(seed or 0))


def sizes_within(sizes: Mapping[str, Size], limits: Limits) -> list[str]:
    """Return the names of the exams that a visitor may ask for: no larger than their limit of prompts.

    Args:
        sizes: Exams beside a case's own prompts, by their names on the screen.
    """
    return [n for n, size in sizes.items() if len(CASE_PROMPTS) + len(common_questions(size)) <= limits.prompts]


def require_bundled(texts: Texts) -> None:
    """Refuse texts that are not the project's own; for the read-only demo.

    Raises:
        CaseError: Some text was typed.
    """
    case = next((c for c in bundled_cases() if c.question == texts.question), None)
    templates = {"", *(t.text for t in bundled_templates())}
    if (
        case is None
        or texts.template not in templates
        or (texts.safe, texts.unsafe, texts.format.suffix) != (case.safe, case.unsafe, SUFFIX)
    ):
        raise CaseError("This demo is read-only: free text is off. Pick an example in the case rail.")
