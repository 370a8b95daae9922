"""The head of the page, its help, and what it says of a calibration in the background."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from dashboard.kit.drawing import glossary
from dashboard.kit.drawing.html import progress_bar, reading
from dashboard.kit.drawing.plain import escape
from dashboard.kit.room import FIRST, Room
from dashboard.kit.shelf import label_of
from inspector.model import InspectedModel

LINK = (
    '<svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true"><path fill="none" stroke="currentColor" '
    'stroke-width="1.5" stroke-linecap="round" d="M6.5 9.5l3-3M7 4.5l1.5-1.5a3.2 3.2 0 0 1 4.5 4.5L11.5 9M9 11.5L7.5 '
    '13A3.2 3.2 0 0 1 3 8.5L4.5 7"/></svg>'
)


def view_rules(names: Iterable[str]) -> str:
    """Return the style rules that show the view which the page's script has named on ``body``, else the first.

    Args:
        names: Of all views.
    """
    views = tuple(names)
    named = [f'body[data-view="{name}"] #view-{name}' for name in views]
    return f"{', '.join([*named, f'body:not([data-view]) #view-{FIRST}'])} {{ display: flex !important; }}"


LONGEST_NAME = 22
"""Characters of a model's name in the head."""


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a name that is short enough: without whose it is on the hub, then without its middle.

    Both ends stay, since either tells models of one family apart.
    """
    name = name if len(name) <= longest else name.rpartition("/")[2]
    if len(name) <= longest:
        return name
    head = (longest - 1) // 2
    return f"{name[:head]}…{name[len(name) - (longest - 1 - head) :]}"


def header(model: InspectedModel, own: str = "", labels: Sequence[str] = ()) -> str:
    """Return the page's name and the chip of the model; the chip is a menu where more than one is listed.

    Args:
        own: The model's label on the list.
        labels: All that are listed.
    """
    about = f"{model.blocks} layers · {escape(model.dtype_name)} · {escape(' + '.join(map(str, model.devices)))}"
    name = label_of(model.name) if os.path.exists(os.path.expanduser(model.name)) else model.name
    told = f"{escape(own or name)} · {about} · fingerprint {escape(model.fingerprint)}"
    inside = f'<b>{escape(shortened(own or name))}</b><span class="about"> · {about}</span>'
    chip = f'<span class="chip model" title="{told}">{inside}</span>'
    if len(labels) > 1:
        chip = _menu(inside, told, own, labels)
    return (
        '<header class="mast"><button type="button" class="chip chip-button" id="skip">Skip the case</button>'
        '<button type="button" class="chip chip-button" id="rail-switch" aria-expanded="false">Case</button>'
        "<h1>DINM Inspector</h1>"
        f"{chip}</header>"
    )


def _menu(inside: str, told: str, own: str, labels: Sequence[str]) -> str:
    """Return the chip as a menu of the listed models; the page's own one can be seen and not pressed."""
    lines = "".join(
        f'<li aria-current="true"><b>{escape(label)}</b><span>this page</span></li>'
        if label == own
        else f'<li><button type="button" data-model="{escape(label)}">{escape(label)}</button></li>'
        for label in labels
    )
    return (
        f'<details class="models"><summary class="chip model" id="model-switch" title="{told}">'
        '<span class="unseen">Model of this page, '
        f'choose another: </span>{inside}</summary><div class="menu"><p>Choose the model to work on</p><ul>{lines}</ul>'
        "<p>Each has a page of its own. One that is not in memory is loaded first. What you have done here stays "
        "here.</p></div></details>"
    )


def coming(name: str) -> str:
    """Return the line in which the page's script says that something comes; it is told to who does not see it, too.

    Args:
        name: The line's.
    """
    return f'<p id="{name}" role="status"></p>'


def views(titles: Mapping[str, str]) -> str:
    """Return the links to the views, the link to copy, the theme switch and the help.

    Args:
        titles: What the views are called, by their names in the address.
    """
    links = "".join(f'<a href="#{name}" data-view="{name}">{title}</a>' for name, title in titles.items())
    return (
        f'<nav class="views" aria-label="Views"><div class="links">{links}</div>'
        '<button type="button" class="chip chip-button" id="copy-link" aria-label="Copy link" title="Copy link: view, '
        f'case, layer, settings and choices">{LINK}<span>Copy link</span></button>'
        '<button type="button" class="chip chip-button" id="theme-switch" aria-label="Dark theme">◐</button>'
        '<button type="button" class="chip chip-button" id="help-switch" aria-label="Help" aria-expanded="false">?'
        "</button></nav>"
    )


MODEL_MENU = (
    "<b>Model.</b> The head names the model of this page. Where several are listed the name is a menu: choose another "
    "one, and its own page opens; what you have done here stays here."
)


def help_page(rooms: Iterable[type[Room]]) -> str:
    """Return the help: every step in the order in which one meets it, the tour, and the glossary.

    Args:
        rooms: The steps.
    """
    steps = "".join(f"<li>{_named(room)}{room.help}</li>" for room in rooms if room.help)
    return (
        f'<div class="help"><button type="button" class="chip chip-button" id="take-tour">Take the tour</button>'
        f"<ol>{steps}</ol><p>{MODEL_MENU}</p>"
        "<p>The base weights are never written: an edit is a patch that acts for your visit alone. "
        "Answers stay blurred until they are judged safe or you click them. Words with dots under them tell their "
        f"meaning.</p>{glossary.page()}</div>"
    )


def _named(room: type[Room]) -> str:
    """Name a view beside the operation, as a link to it, before what is said of it."""
    return "" if room.view == FIRST else f'<a href="#{room.view}" data-view="{room.view}">{room.title}</a> '


def calibrating(said: str, share: float, ended: bool, waits: str = "") -> str:
    """Say how far the calibration in the background is, or how it ended.

    Args:
        waits: What follows while others go first.
    """
    if ended:
        return reading(said)
    text = "Calibrating this model in the background, once: where edits work, what is harmful"
    return progress_bar(f"{text}. {said}, {100 * share:.0f} %{waits}", share)
