"""DINM: edit the down-projection of a layer so that the safe answer becomes likely.

Wang et al., "Detoxifying Large Language Models via Knowledge Editing", ACL 2024, arXiv 2403.14472. Three
presets: ``reference`` does what the authors' released code does, ``paper`` what the paper's equations say,
``corrected`` is ours. Each of their differences is an option here (:class:`DinmSettings`, :func:`preset`).
"""

from editing.methods.dinm.edit import dinm
from editing.methods.dinm.settings import (
    FURTHER_ANSWERS,
    ROUTED,
    DinmSettings,
    SafeAnswers,
    preset,
    to_be_routed,
)
from editing.methods.dinm.terms import Terms, prepare_terms, term_values

__all__ = [
    "FURTHER_ANSWERS",
    "ROUTED",
    "DinmSettings",
    "SafeAnswers",
    "Terms",
    "dinm",
    "prepare_terms",
    "preset",
    "term_values",
    "to_be_routed",
]
