"""Everything that changes a model: the methods, how an edit descends, the gate, saved edits, sweeps.

An edit is a generator: it yields one step at a time and returns an :class:`EditResult` whose patch acts
through hooks. The base weights are never written.
"""

from editing.methods.dinm import DinmSettings, dinm, preset
from editing.progress import EditResult, Preparation, Step, StopReason, run

__all__ = ["DinmSettings", "EditResult", "Preparation", "Step", "StopReason", "dinm", "preset", "run"]
