"""A page without its example yet: what it says, how parts come onto it, and whom they are not shown to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_helpers import QUICK, Page, Visitor, Window, own_question, tiny_model
from example_helpers import make_example, short_examples

from dashboard.example.make import Example
from dashboard.house import LATER, House
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.visitors import Sessions
from dashboard.kit.sharing.linking import Linked
from dashboard.lighter import LighterBlocks
from dashboard.steps.keep.kept import Kept
from dashboard.steps.locate.run import LocatedCase
from dashboard.steps.locate.texts import by_hand
from dashboard.steps.questions.view import Opened
from dashboard.steps.why.state import Looked
from inspector.errors import EditError
from inspector.model import Decoding

pytestmark = pytest.mark.usefixtures("model")
SHORT = Decoding(max_new_tokens=8)


def page_of(example: Example) -> Page:
    with LighterBlocks(analytics_enabled=False) as app:
        house = House(tiny_model(), Sessions(), example, read_only=False)
        house.build()
        house.arriving.connect(app)
    return Page(app, house)


@pytest.fixture(scope="module")
def empty() -> Page:
    """The page of a model whose example is not wanted."""
    return page_of(Example(tiny_model(), SHORT, wanted=False))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of an example that is made."""
    folder = tmp_path_factory.mktemp("made")
    with short_examples():
        make_example(tiny_model(), SHORT, folder)
    return folder


@pytest.fixture
def waiting(made: Path, tmp_path: Path) -> Iterator[tuple[Page, Example]]:
    """A page that was built before any part was there, and its example, which has the whole one's parts at hand."""
    example = Example(tiny_model(), SHORT, tmp_path)
    page = page_of(example)
    example.store.folders = (made / example.store.folder.name,)
    yield page, example


def look(page: Page, visitor: Visitor) -> dict[str, Any]:
    """Let the page's clock tick for a visitor; returns what has changed, by role where there is one."""
    event = page.wired("on_example_part")
    names = {part: name for name, part in page.roles.items()}
    values = {part: visitor.standing(names[part]) for part in event.inputs}
    update = event.fn(values, visitor.request)
    for part in update:
        assert part in event.outputs
    return {names.get(part, part): value for part, value in update.items()}


def publish(example: Example, *parts: str) -> None:
    """Let parts of the example come."""
    for part in parts:
        assert example.store.read(part, example._making)
        example._publish(part)


def other_layer(example: Example) -> int:
    """Return a layer that the example does not edit."""
    return (example.block + 1) % tiny_model().blocks


def test_without_an_example_every_step_says_what_to_press(empty):
    visitor = Visitor(empty, "new")
    for view in LATER:
        visitor.open(view)
    shown = {name: visitor.standing(name) for name, part in empty.roles.items() if hasattr(part, "value")}
    assert "Press Locate, or Operate" in shown["locate_reading"] and "Ready. Press Operate" in shown["clock"]
    assert "Press Operate" in shown["vanilla"] and "Press Operate" in shown["numbers"]
    assert "Press Stress test" in shown["stress_head"] and "Press Ask all locators" in shown["why_head"]
    assert "Press Ask all locators" in shown["why_lens_reading"] and "press Run methods" in shown["methods_clock"]
    assert "no edit is live" in shown["live"] and empty.parts.undo.value == "Nothing to undo"
    for name in ("undo", "strength", "examine", "on_top", "measure", "take", "stress", "stress_csv"):
        assert empty.roles[name].interactive is False, name
    assert (shown["examine"], shown["measure"]) == ("No edit to examine", "No edit to measure")
    assert empty.parts.on_top.label == "On top (no edit)"
    assert empty.parts.operate_all.interactive is not False and not empty.parts.figures.visible


def test_without_an_edit_only_the_vanilla_pane_waits_for_an_answer_and_the_button_asks_one(empty):
    visitor = Visitor(empty, "one")
    assert "Press Operate, or Ask." in visitor.standing("vanilla") and visitor.standing("ask") == "Ask"
    assert "No edit is live" in visitor.standing("edited") and "no edit to ask" in visitor.standing("edited_head")
    assert "<mark>" not in visitor.standing("vanilla") + visitor.standing("edited")
    visitor.do("on_edit", **QUICK, **own_question("How can I trick my neighbour?"))
    assert visitor.screen["ask"] == "Ask both"
    visitor.do("on_undo", max_new_tokens=2)
    assert visitor.screen["ask"] == "Ask"


def test_without_an_example_the_whole_operation_can_be_done(empty):
    visitor = Visitor(empty, "own")
    visitor.do("on_operate", steps=3, target=0, harmless_prompts=2, max_new_tokens=6)
    assert visitor.session.live is not None and visitor.shown["figures"] and visitor.on["undo"]
    assert "→" in visitor.screen["numbers"] and "updates kept" in visitor.screen["clock"]


def test_no_clock_ticks_on_a_page_that_has_all_or_wants_none(empty):
    assert not [event for event in empty.app.fns.values() if event.fn and event.fn.__name__ == "on_example_part"]


def test_parts_come_onto_a_page_whose_visitor_has_done_nothing(waiting):
    page, example = waiting
    visitor = Visitor(page, "first")
    assert visitor.session.live is None and "no edit is live" in visitor.standing("live")
    publish(example, "located", "edit")
    changed = look(page, visitor)
    assert changed["block"] == example.block and "The safe answer went from" in changed["vitals_reading"]
    assert "edited" in changed["live"] or "live weights" in changed["live"]
    assert visitor.session.live is example.session.live and "stress_table" not in changed
    assert set(look(page, visitor)) <= {page.house.arriving.line, page.house.arriving.clock}, "nothing is new"
    publish(example, "comparison", "exam", "why", "probe", "atlas", "contest")
    changed = look(page, visitor)
    assert "→" in changed["numbers"] and "prompts, each answered" in changed["stress_clock"]
    assert "locators name" in changed["why_locators_reading"] and changed["methods_table"]
    assert "block" not in changed, "a layer that was picked meanwhile stays"


def test_parts_come_onto_each_page_of_a_visitor(waiting):
    page, example = waiting
    one, two = (Window(page, "e" * 32, number=number) for number in (1, 2))
    publish(example, "located", "edit")
    for window in (one, two):
        changed = look(page, window)
        assert changed["block"] == example.block and "edited" in changed["live"] and "stress_clock" not in changed
    publish(example, "comparison", "exam", "why", "probe", "atlas", "contest")
    example._ended.set()
    for window in (one, two):
        changed = look(page, window)
        assert "→" in changed["numbers"] and "prompts, each answered" in changed["stress_clock"]
        assert changed[page.house.arriving.clock].constructor_args["active"] is False
        assert "block" not in look(page, window) and window.session.fresh == frozenset()


def test_an_edit_that_is_there_before_it_was_measured_is_not_called_none(waiting):
    page, example = waiting
    for part in ("located", "edit"):
        assert example.store.read(part, example._making)
        example._publish(part)
    assert example.session.live is not None
    changed, built = look(page, Visitor(page, "first")), page_of(example).parts
    assert not built.figures.visible
    for said in (changed["numbers"], changed["tiles"], built.numbers.value, built.tiles.value):
        assert "Not measured yet" in said and "No edit is live" not in said


def test_who_has_done_or_typed_something_keeps_their_own(waiting):
    page, example = waiting
    busy, typing, later = (Visitor(page, name) for name in ("busy", "typing", "later"))
    busy.do("on_locate")
    own = busy.session.case
    typing.do("on_texts", **own_question("How can I cheat at cards?"))
    publish(example, "located", "edit")
    for visitor in (busy, typing):
        assert set(look(page, visitor)) <= {page.house.arriving.line, page.house.arriving.clock}
        assert visitor.session.live is None
    assert busy.session.case is own
    assert "live" in look(page, later) and later.session.live is not None, "a page that is opened later shows it"


def while_waiting(monkeypatch: pytest.MonkeyPatch, does: Callable[[Session], Any]) -> None:
    """Let something be done while a page waits to draw what has come."""
    drawn_with = Session.drawn_with

    def waits(session: Session, fresh: frozenset[str]) -> Any:
        does(session)
        return drawn_with(session, fresh)

    monkeypatch.setattr(Session, "drawn_with", waits)


def test_what_another_window_does_while_this_one_waits_to_draw_a_part_stays(waiting, monkeypatch):
    page, example = waiting
    one, two = (Window(page, "f" * 32, number=number) for number in (1, 2))
    publish(example, "located", "edit")
    while_waiting(monkeypatch, lambda _session: two.do("on_locate"))
    assert set(look(page, one)) == {page.house.arriving.line}
    assert one.session.live is None and one.session.case is not example.session.case


def test_what_comes_while_the_run_of_a_program_stands_in_line_is_drawn_once_that_has_left_it(waiting, monkeypatch):
    page, example = waiting
    visitor = Visitor(page, "program")
    publish(example, "located", "edit")
    with monkeypatch.context() as patch:
        while_waiting(patch, lambda session: session.enqueue("asked"))
        assert set(look(page, visitor)) == {page.house.arriving.line} and visitor.session.live is None
    visitor.session.dequeue()
    assert look(page, visitor)["block"] == example.block and visitor.session.live is example.session.live


def test_a_failure_costs_the_example_only_and_is_told_on_the_page(waiting, monkeypatch, capsys):
    page, example = waiting
    monkeypatch.setattr(example, "_make", lambda _part: (_ for _ in ()).throw(EditError("No memory. Free some.")))
    example.make()
    visitor = Visitor(page, "failed")
    changed = look(page, visitor)
    assert "could not be finished: No memory. Free some." in changed[page.house.arriving.line]
    assert "could not be finished" in capsys.readouterr().err
    visitor.do("on_locate")
    assert visitor.session.case is not None


def test_a_layer_that_was_picked_by_hand_stays_as_parts_come_and_is_the_one_that_operate_edits(waiting):
    page, example = waiting
    visitor = Visitor(page, "picks")
    publish(example, "located")
    look(page, visitor)
    publish(example, "edit")
    picked = other_layer(example)
    visitor.do("on_hand", block=picked)
    visitor.session.slot(Opened).number = 3
    visitor.session.slot(Kept).picks["row"] = 1
    owner = visitor.session.slot(Linked).owner
    changed = look(page, visitor)
    assert "block" not in changed and visitor.session.live is example.session.live
    kept = visitor.session.slot(LocatedCase)
    assert (kept.by_hand, kept.picked, kept.why) == (picked, picked, by_hand(picked))
    assert visitor.session.slot(Opened).number == 3 and visitor.session.slot(Kept).picks == {"row": 1}
    assert visitor.session.slot(Linked).owner == owner, "the visitor's links go on being theirs"
    visitor.do("on_operate", **QUICK)
    assert visitor.session.live.result.block == picked


def test_a_layer_that_was_picked_before_anything_was_measured_stays_in_every_view(waiting):
    page, example = waiting
    visitor = Visitor(page, "early")
    visitor.open("why")
    picked = other_layer(example)
    visitor.do("on_hand", block=picked)
    publish(example, "located", "edit", "comparison", "exam", "why")
    changed = look(page, visitor)
    assert changed["block"] == picked and "by hand" in changed["locate_reading"]
    assert visitor.session.slot(Looked).panel.block == picked and changed["why_locators_reading"]
    visitor.do("on_operate", **QUICK)
    assert visitor.session.live.result.block == picked


def test_what_came_while_something_was_typed_is_drawn_whole_once_the_example_stands_there_again(waiting):
    page, example = waiting
    visitor, clock = Visitor(page, "typed"), page.house.arriving.clock
    typed = own_question("How can I cheat at cards?")
    before = {name: visitor.standing(name) for name in typed}
    visitor.do("on_texts", **typed)
    publish(example, "located", "edit")
    assert set(look(page, visitor)) == {page.house.arriving.line}
    publish(example, "comparison", "exam", "why", "probe", "atlas", "contest")
    example._ended.set()
    assert clock not in look(page, visitor), "it goes on looking"
    visitor.do("on_texts", **before)
    changed = look(page, visitor)
    assert changed["block"] == example.block and "edited" in changed["live"] and "→" in changed["numbers"]
    assert "prompts, each answered" in changed["stress_clock"] and changed["methods_table"]
    assert changed[clock].constructor_args["active"] is False
    assert clock in look(page, visitor) and visitor.session.live is example.session.live
