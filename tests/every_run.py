"""Every run of the page, and a visitor who can press one again and again, from the same state each time."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import by_hand
import gradio as gr
import torch
from dashboard_helpers import QUICK, Visitor, tiny_model
from memory_faults import TOLD

from dashboard.kit.sessions.acting import WHERE_HARM
from dashboard.kit.sessions.values import WAYS
from dashboard.steps.compare import run as comparing
from dashboard.steps.keep.history import Kept
from dashboard.steps.methods.plane import WRITTEN
from dashboard.steps.methods.state import Compared
from dashboard.steps.why.state import Looked
from editing import rounding
from editing.gate.gate import RECORD

SECRET = "a text that belongs to a visitor"
STRICT = {**QUICK, "allowed_harmless_kl": 0}
SHORT = {**QUICK, "steps": 1, "max_new_tokens": 2, "template": "", "safe": "I will not help.", "unsafe": "Sure."}
"""An edit of one step, of the example's question with short answers and without its attack."""
HISTORY = "dashboard.steps.keep.history.History"


def nothing(_visitor: Visitor) -> None:
    """Nothing but the example has to be there."""


def held_back(visitor: Visitor) -> None:
    """An edit that the gate has refused."""
    visitor.do("on_edit", **{**STRICT, "max_new_tokens": 2})


def held_back_on_top(visitor: Visitor) -> None:
    """An edit on top of another that the gate has refused."""
    visitor.do("on_edit", **{**STRICT, "max_new_tokens": 2}, on_top=True)


def stacked(visitor: Visitor) -> None:
    """An edit on top of another, and what it does to that one measured with the same prompts."""
    visitor.do("on_edit", **SHORT, on_top=True)


def two_edits(visitor: Visitor) -> None:
    """Two edits of the visitor's own, the second one live."""
    for block in (0, 1):
        visitor.do("on_edit", **SHORT, block=block)


def undone(visitor: Visitor) -> None:
    """An edit that Undo has dropped."""
    visitor.do("on_edit", **SHORT)
    visitor.do("on_undo_here", max_new_tokens=2)


def suggested(visitor: Visitor) -> None:
    """A strength that the curve suggests."""
    visitor.do("on_curve")
    curve = visitor.session.slot(comparing.Measured).curve
    defended, kl = torch.arange(7).double().numpy(), torch.zeros(7).double().numpy()
    visitor.session.slot(comparing.Measured).curve = replace(curve, defended=defended, harmless_kl=kl)


def written(visitor: Visitor) -> None:
    """A patch that was written, as a file of the visitor's."""
    visitor.do("on_edit", **SHORT)
    visitor.do("on_write_patch")


def pushing(visitor: Visitor) -> dict[str, Any]:
    """Return two neurons that a knock-out may take."""
    return {"why_selected": ", ".join(map(str, visitor.session.slot(Looked).why.activity.pushing(1, 2)))}


def row(visitor: Visitor) -> dict[str, Any]:
    """Return a row that is not live: one that was deleted comes again under another number."""
    desk = visitor.page.house.rooms["keep"].desk
    return {"row_picked": next(one.number for one in desk.rows(visitor.session) if not one.live)}


def new_texts(visitor: Visitor) -> dict[str, Any]:
    """Return a file of labelled texts that no probe was trained on yet."""
    number = next(COUNTED)
    lines = "".join(f"rude words {number} {n},1\nkind words {number} {n},0\n" for n in range(12))
    with visitor.session.next_folder("texts") as folder:
        file = folder / "texts.csv"
        file.write_text(f"comment_text,toxic\n{lines}", encoding="utf-8")
    return {"why_source": str(file)}


COUNTED = itertools.count()


def no_rounding_row(_visitor: Visitor) -> dict[str, Any]:
    """Let the rounded weights be asked anew: what they were asked before needs no passes."""
    rounding._ROWS.clear()
    return {}


def nothing_written(visitor: Visitor) -> dict[str, Any]:
    """Let what regions write be measured anew: what the example has of it needs no passes."""
    visitor.session.slot(Compared).forget_writing()
    return {}


def upload(visitor: Visitor) -> dict[str, Any]:
    """Return a copy of the file that was written: what is taken in goes."""
    file = Path(visitor.session.slot(Kept).saved["patch"].path)
    copy = file.with_name("copy.zip")
    copy.write_bytes(file.read_bytes())
    return {"upload": [str(copy)]}


@dataclass(frozen=True)
class Run:
    """A run of the page.

    Attributes:
        typed: What stands in its controls.
        before: Makes what has to be there besides the example.
        given: What stands in its controls anew each time.
        calls: What it calls, where it makes no forward pass: that fails then.
        switches: It makes other weights live first and measures them then; what fails later leaves them so.
        asks: Its widest pass asks many prompts, and it goes on with half as many.
        at_once: It makes its passes in one go: a cancel comes too late for them.
    """

    typed: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Visitor], None] = nothing
    given: Callable[[Visitor], dict[str, Any]] = lambda _visitor: {}
    calls: str = ""
    switches: bool = False
    asks: bool = False
    at_once: bool = False


ANSWER = {"max_new_tokens": 2}
RUNS = {  # by their handler, with what they are about where one has two
    "on_locate": Run(),
    "on_edit": Run(SHORT),
    "on_operate": Run(SHORT),
    "on_fill": Run({"question": "How can I trick my neighbour?", "safe": "", "unsafe": ""}, asks=True),
    "on_unsafe_ask": Run(ANSWER),
    "on_keep": Run(ANSWER, held_back, switches=True),
    "on_keep, on top": Run(ANSWER, held_back_on_top, switches=True),
    "on_examine": Run(SHORT, asks=True),
    "on_examine, on top": Run({**SHORT, "stack_way": "as in the paper"}, stacked, asks=True),
    "on_ask": Run(ANSWER),
    "on_strength": Run({**ANSWER, "strength": 0.5}, switches=True),
    "on_undo": Run(ANSWER, two_edits, switches=True),
    "on_routed": Run({**ANSWER, "routed": WHERE_HARM}, switches=True),
    "on_curve": Run(asks=True),
    "on_take": Run(ANSWER, suggested, switches=True),
    "on_why": Run(),
    "on_atlas": Run({"why_answers": next(iter(WAYS))}, asks=True),
    "on_knock": Run({**ANSWER, "block": 1}, given=pushing),
    "on_edit_columns": Run({**SHORT, "why_k": 8}),
    "on_attribute": Run({"why_way": "gradient x input"}),
    "on_train": Run(given=new_texts, asks=True),
    "on_methods": Run(
        {"methods_chosen": ["Self-Reminder"], "methods_tokens": 2, **ANSWER}, given=no_rounding_row, asks=True
    ),
    "on_method_load": Run({**SHORT, "methods_picked": "FT-L"}, switches=True),
    "on_upright": Run({"upright": WRITTEN}, given=nothing_written),
    "on_stress": Run({"stress_size": "This case", "stress_tokens": 2}, asks=True),
    "on_rounding": Run(given=no_rounding_row, asks=True),
    "on_suffixes": Run(asks=True),
    "on_ask_two": Run({**ANSWER, "row_a": 1, "row_b": 2, "ask_two_what": "Case of A, question alone"}, two_edits),
    "on_write_patch": Run(before=two_edits, at_once=True),
    "on_write_adapter": Run({"adapter_rank": "exact"}, two_edits),
    "on_write_adapter, rank 4": Run({"adapter_rank": "4"}, two_edits, asks=True),
    "on_write_model": Run(before=two_edits),
    "on_take_in": Run(SHORT, written, upload, asks=True),
    "on_again": Run({**SHORT, "row_picked": 1}, two_edits, switches=True),
    "on_redo": Run(ANSWER, undone, switches=True),
    "on_undo_here": Run(ANSWER, two_edits, switches=True),
    "on_delete_row": Run({}, two_edits, row, calls=f"{HISTORY}.delete"),
    "on_rename_row": Run({"row_name": "a"}, two_edits, row, calls=f"{HISTORY}.rename"),
    "on_report": Run(calls="dashboard.steps.report.run.make_report"),
}


def handler_of(name: str) -> str:
    """Return the handler of a run."""
    return name.partition(",")[0]


def slots_of(slots: dict[type, Any]) -> dict[type, Any]:
    """Return copies of what steps keep, down to the lists, dictionaries and sets in them."""
    copies = {kind: copy.copy(slot) for kind, slot in slots.items()}
    for slot in copies.values():
        for name, value in vars(slot).items():
            if isinstance(value, list | dict | set):
                setattr(slot, name, copy.copy(value))
    return copies


@dataclass
class Stage:
    """A visitor for whom one run can be pressed again and again, from the same state each time."""

    visitor: Visitor
    handler: str
    run: Run
    draws: int = 0
    new: Any = None
    """The key of the weights that the whole run makes live."""

    def __post_init__(self) -> None:
        self.visitor.open(self.visitor._view_of(self.visitor.page.wired(self.handler)))
        session = self.visitor.session
        self.screen, self.slots = dict(self.visitor.screen), slots_of(session._slots)
        self.kept = replace(session, edits=list(session.edits))

    def again(self) -> None:
        """Bring the state back."""
        session = self.visitor.session
        session.case, session.format, session.edits = self.kept.case, self.kept.format, list(self.kept.edits)
        session.strength, session.detector, session.probe = self.kept.strength, self.kept.detector, self.kept.probe
        session._slots = slots_of(self.slots)
        for look in self.visitor.page.context.after:
            look(session)
        self.visitor.screen = dict(self.screen)

    def press(self) -> Iterator[set[str]]:
        """Press it."""
        self.again()
        yield from self.visitor.press(self.handler, **self.run.typed, **self.run.given(self.visitor))

    def end(self, after: int = -1, do: Callable[[], Any] = lambda: None) -> str:
        """Press it, do something after so many draws, wait for the end, and check what must be so however it ends.

        Returns:
            What the visitor is told, empty for nothing.
        """
        self.draws, told = 0, ""
        try:
            for _ in self.press():
                self.draws += 1
                if self.draws == after:
                    do()
        except gr.Error as error:
            told = error.message
        self.check(told)
        live, badge = self.visitor.session.live, self.visitor.standing("live")
        assert ("vanilla" if live is None else live.patch.identifier) in badge, "the badge names what is live"
        return told

    def leave(self, after: int) -> None:
        """Press it, and be gone after so many draws."""
        with closing(self.press()) as run:
            for _, _ in zip(range(after), run, strict=False):
                pass
        self.check()

    def check(self, told: str = "") -> None:
        """Check that the visitor is free, that the model is, and that nothing is told that is not theirs."""
        assert not self.visitor.session.busy and by_hand.lock_is_free(tiny_model())
        assert not any(words in told for words in (SECRET, TOLD, "Traceback", "/"))

    @property
    def is_as_before(self) -> bool:
        """Whether the live weights are those before the press."""
        session = self.visitor.session
        return session.live is self.kept.live and session.row == self.kept.row

    @property
    def is_whole(self) -> bool:
        """Whether the live weights are those before the press, or those that the whole run has made live."""
        return self.is_as_before or self.visitor.session.row.key == self.new

    @property
    def is_passed(self) -> bool:
        """Whether they are those of a whole edit that the gate has passed: a better one may have been on its way."""
        session = self.visitor.session
        word = None if session.live is None else session.live.patch.settings.get(RECORD)
        return word is not None and word["passed"] and word["weights"] == session.row.label()
