"""Keep's parts of a report: the rows of the visit and the last two that were asked side by side."""

from __future__ import annotations

import pytest
from dashboard_helpers import seen
from keep_helpers import edit, rows

from dashboard.kit.sharing.parts import Hidden, Visit
from dashboard.report.document import make_report
from dashboard.steps.keep.kept import Kept
from dashboard.steps.keep.report import parts
from dashboard.steps.keep.texts import HEADERS

pytestmark = pytest.mark.usefixtures("model")


def test_a_visit_without_an_edit_has_no_history_in_its_report(visitor):
    assert parts(Visit(visitor.session)) == []


def test_every_row_is_in_the_report_as_on_the_page_and_none_that_was_deleted(visitor):
    edit(visitor, block=0)
    edit(visitor, block=2)
    visitor.do("on_rename_row", row_picked=1, row_name="the shallow one")
    visitor.do("on_undo")
    (history,) = parts(Visit(visitor.session))
    table = history.tables[0]
    assert history.title == "History" and table.head == HEADERS
    assert [line[:2] for line in table.rows] == [("2", "–"), ("1", "the shallow one")]
    noted = {str(row.number): row for row in rows(visitor)}
    for line in table.rows:
        told = tuple(line[HEADERS.index(head)] for head in ("Method", "Gate", "Model"))
        assert told == (noted[line[0]].method, noted[line[0]].gate, visitor.page.context.label)
    assert table.rows[1][-1] == "live", "Undo went back to it"
    model = visitor.page.context.model
    assert [seen(one) for one in history.readings] == [
        f"Edits of {visitor.page.context.label}, fingerprint {model.fingerprint}."
    ]
    reasons = history.tables[1]
    visitor.do("on_strength", strength=0.5)
    scaled = parts(Visit(visitor.session))[0]
    assert scaled.tables[0].rows[1][HEADERS.index("Gate")] == "not as it acts now"
    assert scaled.tables[1].rows[1][2] == "0.5" and scaled.tables[1].rows[1][3].startswith(
        "Not examined as it acts now"
    )
    assert reasons.folded and [line[3] for line in reasons.rows] == [noted[line[0]].reason for line in reasons.rows]
    visitor.do("on_delete_row", row_picked=2)
    assert [line[0] for line in parts(Visit(visitor.session))[0].tables[0].rows] == ["1"]


def test_two_edits_side_by_side_are_told_and_a_redacted_report_leaves_their_texts_out(visitor):
    edit(visitor, block=0)
    visitor.do("on_rename_row", row_picked=1, row_name="Zebras hide umbrellas")
    edit(visitor, block=2)
    visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what="Your own text", ask_two_text="How do pelicans sleep?")
    asked = visitor.session.slot(Kept).asked
    assert asked.prompt == "How do pelicans sleep?"
    shown, hidden = (
        make_report(visitor.page.context.model, Visit(visitor.session, Hidden(left_out)), [parts]).html
        for left_out in (False, True)
    )
    whole, redacted = seen(shown), seen(hidden)
    assert "Two edits side by side" in whole and "How do pelicans sleep?" in whole and "A: 1 · Zebras" in whole
    assert "Two edits side by side" in redacted and "[redacted, 4 words]" in redacted
    for text in ("pelicans", "Zebras", *(one for one in asked.texts if len(one) > 8)):
        assert text not in hidden, text
    assert f"A: 1 · {asked.labels[1].rpartition(' · ')[2]}" in redacted
