"""The head of the page with its model; where several are listed, the menu that opens another one's page."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dashboard import heading
from dashboard.kit.bus import Update, Values
from dashboard.kit.drawing.html import message
from dashboard.kit.drawing.plain import escape
from dashboard.kit.room import Context, Room
from dashboard.kit.sessions.controls import remember
from dashboard.kit.sessions.session import Session
from dashboard.model_pages import ModelPage, ModelPages
from inspector.errors import CaseError, InspectorError

MENU = """
const menu = () => element.querySelector("details.models");
element.addEventListener("click", (event) => {
  const picked = event.target.closest("[data-model]");
  if (!picked) return;
  menu().open = false;
  menu().querySelector("summary").focus();
  trigger("click", { model: picked.dataset.model });
});
document.addEventListener("click", (event) => {
  if (menu()?.open && !menu().contains(event.target)) menu().open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !menu()?.open) return;
  menu().open = false;
  menu().querySelector("summary").focus();
});
"""
"""What the menu does in the browser: it tells what was chosen, and closes by Escape or a click elsewhere."""
GO = """
new MutationObserver(() => {
  const there = element.querySelector("[data-page]");
  if (!there) return;
  const { page, here } = there.dataset, path = location.pathname.replace(/\\/?$/, "/");
  location.assign(`${path.slice(0, path.length - here.length)}${page}${location.hash}`);
}).observe(element, { childList: true, subtree: true });
"""
"""Takes the browser to the page that was opened, to the same view."""
FIT = """
const frame = element.closest(".block") ?? element;
const fit = () => { frame.style.display = element.textContent.trim() ? "" : "none"; };
new MutationObserver(fit).observe(element, { childList: true, subtree: true, characterData: true });
fit();
"""
"""A line takes no room while it is empty."""
STOPPED = "Stopped; this page is as it was. A model that was being loaded is ready for the next one who chooses it."
ALONE = (
    "Only one model is listed, so there is no other to choose. Whoever runs this page lists a second one: "
    "python app.py --model A --model B"
)


@dataclass
class Chosen:
    """What a visitor has chosen.

    Attributes:
        label: The model whose page is to be opened.
        address: Where that page is, below the first one, once it is open.
    """

    label: str = ""
    address: str | None = None


class Chooser(Room):
    """Say which model a page works on, and open the page of another one."""

    name = "chooser"

    @property
    def several(self) -> bool:
        """Whether there is another model to choose."""
        return len(self.context.shelf.labels) > 1

    def build(self) -> None:
        """Lay out the page's name and its model, with the menu where there is something to choose."""
        if not self.several:
            gr.HTML(heading.header(self.model), elem_id="header")
            return
        shown = heading.header(self.model, self.context.label, self.context.shelf.labels)
        self.head = gr.HTML(shown, elem_id="header", js_on_load=MENU)

    def build_line(self) -> None:
        """Lay out the line that says how far a page is that is opened."""
        if self.several:
            self.clock = gr.HTML("", elem_id="choosing", js_on_load=FIT)
            self.go = gr.HTML("", js_on_load=GO, elem_classes="opener")

    def connect(self) -> None:
        """Wire the menu: what was chosen is noted, its page opened in a run, and the browser goes there after it."""
        if not self.several:
            return
        typed = self.bus.offered("typed")
        chosen = self.context.react(self.head.click, self.on_model, event=gr.EventData)
        opened = self.context.press(
            chosen.then,
            self.on_open_model,
            clock=self.clock,
            inputs=[*typed.inputs, *_rail(self.context).values()],
            starting="Opening the model's page",
            when=lambda session, _values: bool(session.slot(Chosen).label),
        )
        self.context.react(opened.then, self.on_opened, outputs=[self.go])

    def on_model(self, session: Session, _values: Values, event: gr.EventData) -> Update:
        """Note which model was chosen."""
        session.slot(Chosen).label = str(event.model)
        return {}

    def on_open_model(self, session: Session, values: Values) -> Iterator[Update]:
        """Open the page of the model that was chosen; an error or Cancel leaves everything as it was."""
        chosen = session.slot(Chosen)
        label, chosen.label = chosen.label, ""
        if label == self.context.label:
            yield {self.clock: ""}
            return
        page = yield from self.opened(session, label, self._say)
        if page is None:
            yield {self.clock: message(STOPPED)}
            return
        self._hand_over(session, values, page.context)
        chosen.address = self._pages.address(label)
        yield {self.clock: message(f"Going to the page of {label}. What you have done here stays here.")}

    def opened(self, session: Session, label: Any, say: Any) -> Generator[Any, None, ModelPage | None]:
        """Open the page of a model: see :meth:`ModelPages.opened`.

        Raises:
            CaseError: There is no other model to choose, or see there.
            ModelLoadError: See there.
        """
        if not self.several:
            raise CaseError(ALONE)
        page = yield from self._pages.opened(label, session.cancelled.is_set, say)
        return page

    def address(self, label: str) -> str:
        """Return where a model's page is, below the first one's address."""
        return self._pages.address(label)

    def on_opened(self, session: Session, _values: Values) -> Update:
        """Let the browser go to the page that was opened, now that nothing runs here any more."""
        chosen = session.slot(Chosen)
        address, chosen.address = chosen.address, None
        if address is None:
            return {}
        here = self._pages.address(self.context.label)
        return {self.go: f'<i data-page="{escape(address)}" data-here="{escape(here)}"></i>'}

    def tidy(self) -> None:
        """Close the pages of other models that nobody uses any more."""
        if self.several:
            self._pages.sweep()

    @property
    def _pages(self) -> ModelPages:
        return self.context.shared(ModelPages, _no_pages)

    def _say(self, said: str) -> Update:
        return {self.clock: message(f"{said}. Cancel stops waiting.")}

    def _hand_over(self, session: Session, values: Values, there: Context) -> None:
        """Let the case in the rail go along, by the visitor's key, unless they have run something there already."""
        key = self.context.sessions.owner(session.page or "")
        if key is None:
            return
        try:
            self.bus.offered("typed").call(values)
        except InspectorError:  # the other page could not use it either
            return
        theirs = there.sessions.of(key)
        if not theirs.started:
            there.example.fill(theirs)
        if not theirs.own:
            own = _rail(self.context)
            remember(there.controls, theirs, {part: values[own[name]] for name, part in _rail(there).items()})


def _rail(context: Context) -> dict[tuple[str, str], Any]:
    """Return the controls of the case, by their names in links: what these bring back beside settings and the layer,
    which is the model's.
    """
    (layer,) = context.bus.offered("layer").inputs
    named = context.carried_as
    return {named[part]: part for part, is_setting in context.carried.items() if not is_setting and part is not layer}


def _no_pages() -> ModelPages:
    raise RuntimeError("Pages of other models are made beside one of dashboard.page.build_app.")
