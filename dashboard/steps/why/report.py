"""Why this layer, in a report: locators, the atlas that judges them, padding; each where it was run."""

from __future__ import annotations

from dashboard.kit.drawing.html import other_case
from dashboard.kit.sharing.parts import Figure, Part, Visit
from dashboard.steps.why import figures
from dashboard.steps.why import texts as words
from dashboard.steps.why.state import Looked


def parts(visit: Visit) -> list[Part]:
    """Return what was measured of the layers."""
    session, known = visit.session, visit.session.slot(Looked).why
    picked = session.slot(Looked).panel.block
    drawn = []
    if known.located:
        said = words.locators_reading(known.located, picked, known.refused)
        drawn.append(Figure("Every locator, by layer", figures.locators(known.located, picked), said))
    if known.atlas is not None and known.atlas.entries:
        said = words.atlas_reading(known.atlas, picked)
        drawn.append(Figure("Atlas: the same edit at each layer", figures.atlas(known.atlas, picked), said))
    if known.padding is not None:
        said = words.padding_reading(known.padding)
        drawn.append(Figure("The released locator, padded both ways", figures.padding(known.padding), said))
    if not drawn:
        return []
    found = known.agreements()
    judged = (words.agreements(found, known.atlas),) if found else ()
    head = words.head(session, other_case(session, known.case, "these panels", "Ask all locators and Run atlas"))
    return [Part("Why this layer", (head, *judged), figures=tuple(drawn))]
