"""Edits on many cases, each scored on the whole benchmark; ``python -m editing.sweep``."""

from editing.methods.registry import METHODS
from editing.sweep.engines import Cluster, load_all, local, on_ray
from editing.sweep.report import report
from editing.sweep.settings import SweepSettings
from editing.sweep.store import About, CaseRecord, Finished, Store, only_one
from editing.sweep.work import cases_of, work

__all__ = [
    "METHODS",
    "About",
    "CaseRecord",
    "Cluster",
    "Finished",
    "Store",
    "SweepSettings",
    "cases_of",
    "load_all",
    "local",
    "on_ray",
    "only_one",
    "report",
    "work",
]
