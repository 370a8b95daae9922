"""The three presets that locating and editing share; see :func:`editing.preset` and :mod:`inspector.divergence`."""

from __future__ import annotations

from typing import Literal

Preset = Literal["corrected", "paper", "reference"]
PRESETS: tuple[Preset, ...] = ("corrected", "paper", "reference")
"""``corrected`` is ours, ``paper`` does what the paper's equations say, ``reference`` what the authors' code does."""
