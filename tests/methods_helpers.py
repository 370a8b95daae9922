"""A short run of several methods, and what its table says."""

from __future__ import annotations

SHORT = {"methods_chosen": ["FT-L", "SFT", "Self-Reminder"], "methods_tokens": 6, "max_new_tokens": 6}


def titles(lines: list[list[str]]) -> list[str]:
    return [line[0] for line in lines]
