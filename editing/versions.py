"""Versions of the software that computes, for everything that is written down."""

from __future__ import annotations

import platform
from importlib.metadata import version

COMPUTING = ("torch", "transformers", "tokenizers", "numpy", "rouge-score", "alt-profanity-check")
"""Packages on whose versions a number may depend."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of :data:`COMPUTING`."""
    return {"python": platform.python_version(), **{name: version(name) for name in COMPUTING}}
