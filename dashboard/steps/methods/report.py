"""The methods in a report: their table, the plane, the shift by layer."""

from __future__ import annotations

from dashboard.kit.drawing.html import other_case
from dashboard.kit.sharing.parts import Figure, Part, Table, Visit
from dashboard.steps.methods import figures
from dashboard.steps.methods import texts as words
from dashboard.steps.methods.state import Compared


def parts(visit: Visit) -> list[Part]:
    """Return the visitor's last run of several methods."""
    session, kept = visit.session, visit.session.slot(Compared)
    if kept.contest is None or not kept.contest.standings:
        return []
    standings = kept.contest.standings
    drawn = []
    if figures.measured(standings):
        said = words.plane_reading(standings)
        drawn = [Figure("Erase or suppress, by method", figures.plane(standings, kept.method), said)]
        if kept.written is not None:
            plane = figures.plane(standings, kept.method, kept.written)
            drawn.append(Figure("What the region writes, by method", plane, words.written_reading(kept.written)))
        shifts = figures.shifts_by_block(standings, kept.method)
        drawn.append(Figure("Activation shift by layer and method", shifts, words.shifts_reading(standings)))
    table = Table("Methods on the same case", words.HEADERS, tuple(map(tuple, words.rows(standings))))
    failed = [f"{one.method.title}: {one.failed}" for one in standings if one.failed]
    left_out = (Table("Methods that made no edit", ("Method and reason",), tuple((one,) for one in failed)),)
    other = other_case(session, kept.contest.case, "this table", "Run methods")
    readings = (words.head(session, other), words.all_scores(kept.contest))
    tables = (table, *(left_out if failed else ()))
    return [Part("Methods", readings, figures=tuple(drawn), tables=tables)]
