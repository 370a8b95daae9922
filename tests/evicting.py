"""A store that another thread fills just when somebody has asked whether something is there."""

from __future__ import annotations

from inspector.model.memory.recent import Recent


class Evicting(Recent):
    """Says truly whether it has an entry, and has it no longer."""

    def __contains__(self, key: object) -> bool:
        there = super().__contains__(key)
        self.clear()
        return there


def evicting(store: Recent, most: int = 64) -> Evicting:
    """Return one with the entries of another."""
    made = Evicting(most)
    for key, value in store.items():
        made[key] = value
    return made
