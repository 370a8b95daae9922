"""Keep in a public demo: nothing comes in, no model leaves, no prompt is written."""

from __future__ import annotations

import gradio as gr
import pytest
from dashboard_helpers import Page, Visitor
from keep_helpers import edit, page_of, written

pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A public demo with a ledger on disk."""
    folder = tmp_path_factory.mktemp("demo")
    return page_of(folder, read_only=True, ledger=folder / "ledger.sqlite")


def test_a_public_demo_takes_nothing_in_hands_no_model_out_and_writes_no_prompt(read_only):
    visitor = Visitor(read_only, "guest")
    handlers = {getattr(event.fn, "__name__", "") for event in read_only.app.fns.values()}
    assert "on_take_in" not in handlers and "on_rename_row" not in handlers
    told = [block.value for block in read_only.app.blocks.values() if getattr(block, "elem_id", "") == "keep-on-disk"]
    assert len(told) == 1 and "keeps this list on disk" in told[0], "visitors are told"
    edit(visitor)
    assert written(visitor).exists()
    with pytest.raises(gr.Error, match="Off in this demo"):
        visitor.do("on_write_model")
    edit(visitor, block=0)
    with pytest.raises(gr.Error, match="free text is off"):
        visitor.do("on_ask_two", row_a=1, row_b=2, ask_two_what="Your own text", ask_two_text="Hello?")
    path = read_only.house.rooms["keep"].desk.ledger.path
    stored = b"".join(file.read_bytes() for file in path.parent.glob("ledger*"))
    live = visitor.session.live
    assert live.patch.identifier.encode() in stored
    assert live.case.question.encode() not in stored and live.case.safe.encode() not in stored
