"""Gated edits: a few spare neurons become gates that fire on harm and write what makes the model decline."""

from editing.methods.gated.edit import GatedSettings, gated

__all__ = ["GatedSettings", "gated"]
