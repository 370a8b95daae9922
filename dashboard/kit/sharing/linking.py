"""Links to what a page shows: one is made by the chip in the head, and fills the controls of whoever opens it.

A link of a bundled example is an address by itself (``?case=ID&layer=20#why``) and works for everyone, also after the
program was started anew; it takes all settings back to those of a new page. Any other case, and settings or choices
that were changed, are kept in memory under a random name (``?link=NAME#why``). Opening one runs nothing and leaves what
is live as it is.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

import gradio as gr

from dashboard.kit.bus import News, Update, Values
from dashboard.kit.drawing.html import reading
from dashboard.kit.drawing.plain import escape
from dashboard.kit.room import Choice, Context, Room
from dashboard.kit.running.run import QUIET, shown_to_user
from dashboard.kit.sessions.controls import as_new, can_be_sent, remember
from dashboard.kit.sessions.session import Session
from dashboard.kit.sessions.typed import Texts
from dashboard.kit.sharing.links import OF_ONE
from editing import DinmSettings
from inspector.errors import CaseError, InspectorError
from inspector.model import Decoding

EXPIRED = (
    f"This link has expired, made way for a later one (the last {OF_ONE} of each visitor are kept), or was made before "
    "the program was started anew. Nothing was changed. Ask whoever sent it for a new one."
)
NO_LINK = "This is no link of this page. Nothing was changed. Copy the whole address again."
TOO_LARGE = "A number of the settings is too large for a link. Nothing was changed; give a smaller one under Details."
READ_ONLY = "This demo is read-only, so only links of bundled examples work here. Nothing was changed."
NO_SETTINGS = (
    "This demo is read-only, so a link brings no other settings than those of a new page. Leave preset_name and steps "
    "out."
)
BUSY = (
    "Something is running for you, so the link was not opened. Nothing was changed; open it again when that has ended."
)
TAKE = "() => window.dinmLink?.() ?? ''"
"""What the browser hands over once the page stands: what ``assets/page.js`` has taken out of the address."""
OPENED = "() => { window.dinmLinkOpened?.(); }"
"""Lets the browser draw the view that the address names, which it keeps back as long as a link is not open."""
BOX = """
const fill = () => {
  const box = element.querySelector(".link-box");
  if (!box || box.dataset.filled) return;
  box.dataset.filled = "yes";
  const field = box.querySelector("input"), said = box.querySelector("[role=status]");
  field.value = `${location.origin}${location.pathname}?${box.dataset.query}${location.hash || "#operate"}`;
  document.body.classList.add("link-open");
  field.focus();
  field.select();
  const by_hand = () => { said.textContent = "Press Ctrl+C (Cmd+C) to copy it."; };
  if (!navigator.clipboard) by_hand();
  else navigator.clipboard.writeText(field.value).then(() => { said.textContent = "Copied."; }, by_hand);
};
new MutationObserver(fill).observe(element, { childList: true, subtree: true });
"""
"""Completes the address with where the page stands, shows it and copies it."""


PARTS = ("link", "case", "layer")
"""What of an address belongs to a link, see ``assets/page.js``."""
_NAME = re.compile(r"[\w-]{8,64}")


@dataclass(frozen=True)
class Meant:
    """What a link stands for.

    Attributes:
        texts: Its case.
        layer: The layer; ``None`` for none.
        settings: Those of an edit.
        decoding: How both weights answer.
        choices: What its sender has picked where no control holds it, by :attr:`dashboard.kit.room.Choice.name`.
    """

    texts: Texts
    layer: int | None
    settings: DinmSettings
    decoding: Decoding
    choices: Mapping[str, Any]


@dataclass(frozen=True)
class Linked:
    """Whose a visitor's links are."""

    owner: str = field(default_factory=secrets.token_hex)


class Linking(Room):
    """Makes links and opens them."""

    name = "linking"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._made = 0

    def build(self) -> None:
        """Lay out what the chip in the head presses, and the box with the link."""
        self.make = gr.Button("Make a link", elem_id="make-link", elem_classes="opener")
        self.box = gr.HTML("", js_on_load=BOX, elem_id="link-made")
        self.asked = gr.State("")

    def connect(self) -> None:
        """Wire the button."""
        self.context.react(self.make.click, self.on_make, inputs=list(self.context.carried), outputs=[self.box])

    def connect_to(self, arrived: Any, steps: Collection[str]) -> None:
        """Open the link that a page was opened with, once its session is drawn.

        Args:
            arrived: The event of that.
            steps: Those of the first view, which is drawn by then and is drawn anew. The browser opens any other one
                once the link is open.
        """
        outputs = [*self.context.carried, self.context.notice, *self.bus.outputs(News.BACK, rooms=steps)]

        def on_link(values: Values, request: gr.Request) -> Any:
            asked = values[self.asked]
            if not asked:
                return gr.skip()
            with shown_to_user():
                session = self.context.arrive(request)
                filled = self.opened(session, asked)
                if filled.keys() == {self.context.notice}:  # it was not opened
                    return filled
                remember(self.context.controls, session, filled)
                session.linked = set(filled)
                session.own = True  # the example is not shown over it, and a reload draws what it has filled
                return {**self.bus.told(News.BACK, session, {**values, **session.controls}, steps), **filled}

        # Most pages are opened without a link: what all others are spared is an event with every control in it.
        arrived.then(lambda taken: taken or gr.skip(), self.box, self.asked, js=TAKE, **QUIET)
        read = {self.asked, *self.bus.inputs(News.BACK, rooms=steps)}
        opened = self.asked.change(on_link, read, list(dict.fromkeys(outputs)), **QUIET)
        for done in (opened.then, opened.failure):
            done(None, None, None, js=OPENED, **QUIET)

    def on_make(self, session: Session, values: Values) -> Update:
        """Make a link to what the controls say.

        Raises:
            CaseError: See :meth:`query`.
        """
        query = self.query(session, values)
        if "case" in query:
            note = "It works for everyone, also after a restart: the example and the layer are named in it."
            note += " All settings are those of a new page."
        else:
            note = (
                "Case, layer, settings and what is picked in the views are kept in this server's memory, those of your "
                f"last {OF_ONE} links for {_days(self.context.links.keep_for)}, or until it is started anew. The "
                "address holds no text."
            )
            changed = self._changed(session, self._sayable(values))
            if changed and self.bus.offered("bundled").call(values) is not None:
                note += f" The address of the example alone would not bring back: {', '.join(changed)}."
        self._made += 1  # so that the box is new each time, and shows itself again
        return {
            self.box: f'<div class="link-box" data-query="{escape(urlencode(query))}" data-number="{self._made}">'
            '<label>Link to this view<input type="text" readonly></label>'
            f'<p role="status"></p><p class="note">{escape(note)}</p></div>'
        }

    def query(self, session: Session, values: Values, choices: bool = True) -> dict[str, Any]:
        """Return what stands in the address of a link: ``case`` and ``layer``, or the random name of what is kept.

        Args:
            values: What the controls that links bring back say.
            choices: Say what the session has picked, too; a program has picked nothing.

        Raises:
            CaseError: The texts are too long or a number too large, or they are no bundled ones in a read-only demo.
        """
        (layer,) = self.bus.offered("layer").inputs
        values = self._sayable(values)
        identifier = self.bus.offered("bundled").call(values)
        free = not self.context.read_only
        if not free and identifier is None:
            raise CaseError(READ_ONLY)
        changed = self._changed(session, values) if choices else self._settings_changed(values)
        if identifier is not None and not (free and changed):
            return {"case": identifier, **({} if values[layer] is None else {"layer": int(values[layer])})}
        # By its name: the page of a model is built anew where it was closed meanwhile, and its links still work.
        kept: dict[tuple[str, str] | str, Any] = {
            self.context.carried_as[part]: value
            for part, value in values.items()
            if part is not layer or value is not None
        }
        kept |= {choice.name: choice.read(session) for choice in self.context.choices if choices}
        if not can_be_sent(kept):
            raise CaseError(TOO_LARGE)
        return {"link": self.context.links.keep(session.slot(Linked).owner, kept)}

    def values_of(self, texts: Texts, layer: int | None, preset: str, **changes: Any) -> Values:
        """Return what the controls say on a new page once a program has filled in a case, a layer and settings.

        Args:
            preset: That of the edit's settings.
            changes: Others of them than the preset's, by their names.

        Raises:
            ArchitectureError: The model has no such layer.
            CaseError, EditError: A setting is not one that the page's controls can have, or that a link of a read-only
                demo can bring: a person is told that it brings none, a program would not know.
        """
        (picked,) = self.bus.offered("layer").inputs
        if layer is not None:
            self.model.architecture.check_block(layer)
        filled = {**self.bus.offered("filled case").call({}, texts), picked: layer}
        values = self._standing({**filled, **self.bus.offered("filled settings").call({}, preset, **changes)})
        if self.context.read_only and self._settings_changed(values):
            raise CaseError(NO_SETTINGS)
        return values

    def meant(self, given: Mapping[str, Any]) -> Meant:
        """Return what a link stands for.

        Args:
            given: Its parts.

        Raises:
            CaseError: It has expired, or is no link of this page, or names no case.
        """
        if not {"link", "case"} & set(given):
            raise CaseError(NO_LINK)
        filled, choices, _ = self._filled(given)
        (picked,) = self.bus.offered("layer").inputs
        values = self._standing(filled)
        texts = self.bus.offered("typed").call(values)
        settings = self.bus.offered("settings").call(values, texts.format)
        layer = filled.get(picked)
        decoding, named = self.bus.offered("decoding").call(values), {one.name: said for one, said in choices.items()}
        return Meant(texts, layer if layer is None else int(layer), settings, decoding, named)

    def _standing(self, filled: Update) -> Values:
        """Return what stands in the controls of a new page, with some of them filled in."""
        return {part: part.value for part in self.context.carried} | filled

    def _sayable(self, values: Values) -> Values:
        """Return what a link may say: for a value that it may not, that of a new page."""
        among = self.context.among
        return {part: value if value in among.get(part, (value,)) else part.value for part, value in values.items()}

    def _changed(self, session: Session, values: Values) -> list[str]:
        """Name the settings and choices that are other ones than on a new page."""
        settings = (choice for choice in self.context.choices if choice.is_setting)
        return self._settings_changed(values) + [one.name for one in settings if one.read(session) is not None]

    def _settings_changed(self, values: Values) -> list[str]:
        named = self.context.carried_as
        return [f"{part.label} ({named[part][0]})" for part in self._settings if not _same(values[part], part.value)]

    @property
    def _settings(self) -> list[Any]:
        return [part for part, is_setting in self.context.carried.items() if is_setting]

    def opened(self, session: Session, asked: str) -> Update:
        """Return what a link fills; the notice alone where it cannot be opened.

        Args:
            asked: The link's parts as JSON: ``link``, or ``case`` and ``layer``.
        """
        notice = self.context.notice
        if session.busy:
            return {notice: reading(BUSY, "warn")}
        try:
            given = json.loads(asked)
            if not isinstance(given, Mapping):
                raise CaseError(NO_LINK)
            filled, choices, what = self._filled(given)
        except (ValueError, CaseError) as error:
            said = error.user_message() if isinstance(error, InspectorError) else NO_LINK
            return {notice: reading(said, "warn")}
        for choice, value in choices.items():
            choice.write(session, value)
        (layer,) = self.bus.offered("layer").inputs
        if "layer" in given and filled.get(layer) is not None:
            self.bus.offered("picked layer").call(session, int(filled[layer]))
        said = f"From a link: {what}. Nothing was run; live is still: {session.row.label()}."
        # A value that lies outside the range which this visitor's control was given would be refused as they press.
        fitting = {part: as_new(part, value) if part in session.shapes else value for part, value in filled.items()}
        return {**fitting, notice: reading(said)}

    def _filled(self, given: Mapping[str, Any]) -> tuple[Update, dict[Choice, Any], str]:
        return self._kept(given) if "link" in given else self._bundled(given)

    def _kept(self, given: Mapping[str, Any]) -> tuple[Update, dict[Choice, Any], str]:
        if self.context.read_only:
            raise CaseError(READ_ONLY)
        name = str(given["link"])
        found = self.context.links.find(name) if _NAME.fullmatch(name) else None
        if found is None:
            raise CaseError(EXPIRED)
        filled = {part: found[name] for part, name in self.context.carried_as.items() if name in found}
        choices = {choice: found.get(choice.name) for choice in self.context.choices}
        return filled, choices, "case, layer, settings and choices are filled in"

    def _bundled(self, given: Mapping[str, Any]) -> tuple[Update, dict[Choice, Any], str]:
        filled: Update = {}
        choices: dict[Choice, Any] = {}
        told = []
        if "case" in given:
            case = self.bus.offered("bundled case").call({}, str(given["case"]))
            filled = {part: part.value for part in self._settings} | case
            choices = dict.fromkeys(self.context.choices)
            told.append(f"bundled case {given['case']}")
        if "layer" in given:
            (layer,) = self.bus.offered("layer").inputs
            last = self.model.architecture.last_block
            text = str(given["layer"])
            if not re.fullmatch(r"\d{1,6}", text) or int(text) > last:
                raise CaseError(
                    f"The link names layer {text[:20]}; this model has layers 0 to {last}. Nothing was changed."
                )
            filled[layer] = int(text)
            told.append(f"layer {int(text)}")
        if not filled:
            raise CaseError(NO_LINK)
        return filled, choices, " and ".join(told) + (", with all settings as on a new page" if "case" in given else "")


def parts_of(link: str) -> dict[str, str]:
    """Return the parts of a link that somebody was sent: its name alone, what stands after the ``?``, or all of it."""
    said = link.strip()
    if _NAME.fullmatch(said):
        return {"link": said}
    address = said.partition("#")[0]
    query = address.partition("?")[2] or address
    return {name: value for name, value in parse_qsl(query) if name in PARTS}


def _same(value: Any, other: Any) -> bool:
    """Tell whether two values of a control are the same; of several picks the order is that of the clicks."""
    if isinstance(value, list) and isinstance(other, list):
        return sorted(map(repr, value)) == sorted(map(repr, other))
    return bool(value == other)


def _days(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:.3g} days" if hours >= 48 else f"{hours:.3g} hours"
