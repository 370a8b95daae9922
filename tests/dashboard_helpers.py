"""What the dashboard's tests share: a tiny model with room for the bundled cases, its page, and a visitor of it."""

from __future__ import annotations

import re
import socket
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from html import unescape
from pathlib import Path
from typing import Any

import by_hand
import gradio as gr
import gradio_client.utils
import plotly.basedatatypes
import tiny_models
import torch
from starlette.requests import Request
from transformers import BatchEncoding, LlamaConfig

from dashboard.house import LATER, House
from dashboard.kit.door.doors import STARTED
from dashboard.kit.room import Context, Room
from inspector.model import InspectedModel, from_parts
from inspector.safeedit import bundled_cases

CONTEXT = 8192
"""As long as the embedded model's."""
WORDS = 1000
"""Tokens of the tiny model: the bundled texts would be five times as long in single bytes."""
QUICK: dict[str, Any] = {"steps": 3, "target": 0, "harmless_prompts": 2, "max_new_tokens": 6}
"""What makes an edit on the page short."""
SHORT_GATE = {"harmless": 2, "questions": 1, "max_new_tokens": 3, "least_gain": 0}
"""The gate's exam in tests that are about something else; no edit makes the tiny model's answers safe ones."""
GENEROUS: dict[str, Any] = {
    f"allowed_{name}": 100 for name in ("harmless_kl", "over_refusal", "degenerate", "parroting", "lost_defence")
}
"""Budgets that let any edit pass."""
QUICK |= GENEROUS
BRIEF: dict[str, Any] = {**QUICK, "steps": 1, "harmless_prompts": 1, "max_new_tokens": 2}
"""An edit that something else needs: one step, and answers of two tokens."""
CONTROLS = ("locate", "edit", "ask", "undo", "strength", "cancel")
"""What a run switches off or on."""


# plotly takes each property's path apart anew, nearly half of a figure's time; the same path always gives the same.
plotly.basedatatypes._str_to_dict_path_full = cache(plotly.basedatatypes._str_to_dict_path_full)

# A client looks every twentieth of a second whether its answer has come, longer than most of them take here.
gradio_client.utils.time = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(seconds / 25)})


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def taken_apart_once(encode: Callable[..., BatchEncoding]) -> Callable[..., BatchEncoding]:
    """Return what gives the tokens of a text that it was given before without taking it apart anew.

    An edit on the page reads hundreds of bundled texts, each time the same ones.
    """
    seen: dict[Any, BatchEncoding] = {}

    def encoded(text: Any, **options: Any) -> BatchEncoding:
        if not isinstance(text, str) or options.get("return_tensors"):
            return encode(text=text, **options)
        key = (text, *sorted(options.items()))
        if key not in seen:
            seen[key] = encode(text=text, **options)
        return BatchEncoding({name: list(part) for name, part in seen[key].items()}, seen[key].encodings)

    return encoded


@cache
def tiny_model() -> InspectedModel:
    """Return a Llama of three layers, its answers readable."""
    _, options = tiny_models.CONFIGS["llama"]
    room = {"max_position_embeddings": CONTEXT, "vocab_size": WORDS}
    network = tiny_models.random_network(LlamaConfig(**{**options, **room}))
    texts = [text for case in bundled_cases() for text in (case.adversarial_prompt, case.safe, case.unsafe)]
    tokenizer = tiny_models.tokenizer_of_words(texts, WORDS, CONTEXT)
    tokenizer._encode_plus = taken_apart_once(tokenizer._encode_plus)
    decoded = tokenizer.batch_decode([[token] for token in range(WORDS)])
    printable = [n for n, text in enumerate(decoded) if n > tiny_models.END and text.isascii() and text.isprintable()]
    with torch.no_grad():  # answers are readable and never end by themselves: all other logits are zero
        silent = torch.ones(WORDS, dtype=torch.bool)
        silent[printable] = False
        network.lm_head.weight[silent] = 0.0
    return from_parts(network, tokenizer, "tiny-llama")


def save_listed(folder: Path, name: str, layers: int, context: int = CONTEXT) -> str:
    """Save another tiny model, which has no chat template, for the list of a page, and return its source."""
    _, options = tiny_models.CONFIGS["llama"]
    sizes = {"num_hidden_layers": layers, "max_position_embeddings": context}
    config = LlamaConfig(**{**options, **sizes, "vocab_size": tiny_model().architecture.vocabulary})
    tiny_models.random_network(config, seed=1).save_pretrained(folder / name)
    tiny_model().tokenizer.save_pretrained(folder / name)
    (folder / name / "chat_template.jinja").unlink()
    return str(folder / name)


@contextmanager
def model_at_rest() -> Iterator[InspectedModel]:
    """Lend the tiny model; afterwards it must have its parameters bit for bit, no hook left and a free lock.

    What it is called and whether it is known as public, which a program's start may change, are as before then.
    """
    model = tiny_model()
    checksum, hooks = by_hand.checksum(model.network), by_hand.hooks(model.network)
    known = model.name, model.public
    try:
        yield model
    finally:
        model.name, model.public = known
    by_hand.assert_at_rest(model, hooks)
    assert by_hand.checksum(model.network) == checksum, "the base weights were written"


@dataclass
class Page:
    """One page with its events, without a server."""

    app: gr.Blocks
    house: House

    @property
    def context(self) -> Context:
        """What its rooms have at hand."""
        return self.house.context

    @cached_property
    def roles(self) -> dict[str, Any]:
        """Its components by role: a step's own name for it, after the step's where several steps use the same."""
        found: dict[str, Any] = {"live": self.house.badge.live, "notice": self.house.visit.notice}
        found |= {f"{name}_view": view for view, name in self._views.items()}
        found["link"] = self.house.linking.box
        found |= {name: getattr(self.house.visit, name) for name in ("turn", "watch", "over", "to_measure")}
        for name, room in self.house.rooms.items():
            parts = [part for part in vars(room).values() if isinstance(part, Room)]
            for holder in (room, getattr(room, "inside", None), *parts):
                for key, part in vars(holder).items() if holder is not None else ():
                    if isinstance(part, gr.blocks.Block) and part not in found.values():
                        plain = name in ("case", "locate", "operate", "compare") or holder in parts
                        found[key if plain else name if key == "run" else f"{name}_{key}"] = part
        return found

    def view_of(self, component: Any) -> str | None:
        """Return the view that has to be opened before a component is drawn; ``None`` on the first one."""
        while component is not None and component not in self._views:
            component = component.parent
        return self._views.get(component)

    @cached_property
    def _views(self) -> dict[Any, str]:
        return {view: name for name, (_opener, view) in zip(LATER, self.house.openers, strict=True)}

    @cached_property
    def parts(self) -> Any:
        """The same as attributes."""
        return types.SimpleNamespace(**self.roles)

    def wired(self, handler: str) -> Any:
        """Return the event that calls a handler, with the inputs and outputs it was registered with."""
        return next(event for event in self.app.fns.values() if getattr(event.fn, "__name__", "") == handler)

    def has(self, handler: str) -> bool:
        """Tell whether an event calls a handler."""
        return any(getattr(event.fn, "__name__", "") == handler for event in self.app.fns.values())

    def name(self, component: Any) -> str:
        """Return the role of a component."""
        return self._names[component]

    @cached_property
    def _names(self) -> dict[Any, str]:
        return {part: name for name, part in reversed(self.roles.items())}  # of several names the first


def own_question(question: str) -> dict[str, str]:
    """Return what a visitor types who writes a question and both answers to it."""
    return {"question": question, "safe": "I'm sorry, but I won't help with this.", "unsafe": "Sure, nothing easier."}


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


TYPED: set[tuple[str, str]] = set()
"""Roles and values that a file's tests have typed or picked: wrong on purpose, they come back after a reload."""


@dataclass
class Visitor:
    """Presses what the page has wired and sees what is drawn.

    Attributes:
        page: The page.
        key: Session hash.
        screen: Value of each component, by its role, once an update has changed it.
        on: Whether each of :data:`CONTROLS` can be used.
        shown: Whether each component is visible, once an update has said so.
        info: Info line of each component, once an update has said so.
        classes: Its classes in the same way.
        usable: Whether it can be used, in the same way.
        active: Whether each clock ticks, in the same way.
        takes: What each component was changed to take: its range, its choices.
        opened: The views that were opened; one is when something in it is pressed or looked at.
    """

    page: Page
    key: str = "a"
    screen: dict[str, Any] = field(default_factory=dict)
    on: dict[str, bool] = field(default_factory=dict)
    shown: dict[str, bool] = field(default_factory=dict)
    info: dict[str, str] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    usable: dict[str, bool] = field(default_factory=dict)
    active: dict[str, bool] = field(default_factory=dict)
    takes: dict[str, dict[str, Any]] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.on = {name: getattr(self.page.parts, name).interactive is not False for name in CONTROLS}
        self.page.context.arrive(self.request)

    @property
    def request(self) -> Any:
        """What Gradio hands to a handler."""
        return types.SimpleNamespace(session_hash=self.key)

    @property
    def session(self) -> Any:
        """This visitor's session."""
        return self.page.context.session(self.request)

    @property
    def is_free(self) -> bool:
        """Whether nothing runs for this visitor."""
        free = self.session.begin()
        if free:
            self.session.end(ran=False)
        return free

    def reload(self) -> Visitor:
        """Return the same visitor on a page that was opened anew: what the server draws on it is on its screen."""
        again = Visitor(self.page, self.key)
        list(again.arrive())
        return again

    def arrive(self) -> Iterator[set[str]]:
        """Open the page; what is drawn for a visitor who was here before comes in an event of its own."""
        self.do("on_arrival")
        if "turn" in self.screen:
            self.screen.pop("turn")
            yield from self.press("on_return")

    def open(self, view: str | None) -> None:
        """Open a view, as the page's script does when the address first names it."""
        if view is None or view in self.opened:
            return
        self.opened.add(view)
        self.do(f"on_open_{view}")
        self.do(f"on_opened_{view}")

    def standing(self, name: str) -> Any:
        """Return what stands in a component now; its view is opened for that."""
        if name not in self.screen:
            self.open(self.page.view_of(getattr(self.page.parts, name)))
        return self._standing(name)

    def _standing(self, name: str) -> Any:
        return self.screen.get(name, getattr(self.page.parts, name).value)

    def press(self, handler: str, **typed: Any) -> Iterator[set[str]]:
        """Call a handler with what stands on the page; yields after each update the roles that it changed.

        Args:
            handler: Name of the step's method.
            typed: What is typed, dragged or picked before, by role; it stays.
        """
        event = self.page.wired(handler)
        self.open(self._view_of(event))
        self._type(typed)
        if handler == "on_cancel":
            event.fn(self.request)
            return
        values = self._read(event)
        returned = event.fn(values, self.request)
        try:
            for update in returned if isinstance(returned, Iterator) else [returned] if event.outputs else []:
                yield self._draw(event, update)
        finally:  # what Gradio does when a visitor leaves
            if isinstance(returned, Iterator):
                returned.close()

    def do(self, handler: str, **typed: Any) -> list[set[str]]:
        """Press and wait for the end."""
        return list(self.press(handler, **typed))

    def select(self, handler: str, chosen: Any, **typed: Any) -> set[str]:
        """Click something in a table or figure.

        Args:
            chosen: What Gradio tells of the click.
        """
        event = self.page.wired(handler)
        self.open(self._view_of(event))
        self._type(typed)
        return self._draw(event, event.fn(self._read(event), self.request, chosen))

    def _type(self, typed: dict[str, Any]) -> None:
        self.screen.update(typed)
        TYPED.update((name, repr(value)) for name, value in typed.items())

    def _read(self, event: Any) -> dict[Any, Any]:
        """Return what an event reads; a value that the page was sent, and Gradio would refuse, is a defect."""
        values = {component: self._standing(self.page.name(component)) for component in event.inputs}
        for component, value in values.items():
            name = self.page.name(component)
            if (
                (name, repr(value)) in TYPED
                or value is None
                or not isinstance(component, gr.Slider | gr.Number | gr.Dropdown)
            ):
                continue
            takes = {**vars(component), **self.takes.get(name, {})}
            if isinstance(component, gr.Dropdown):
                known = [choice[1] if isinstance(choice, tuple) else choice for choice in takes["choices"]]
                picked = value if isinstance(value, list) else [value]
                assert takes["allow_custom_value"] or set(picked) <= set(known), f"{name}: {value} is none of {known}"
            else:
                low, high = takes["minimum"], takes["maximum"]
                assert (low is None or value >= low) and (high is None or value <= high), (
                    f"{name}: {value}, {low}-{high}"
                )
        return values

    def _view_of(self, event: Any) -> str | None:
        pressed = event.targets[0][0]
        if str(getattr(event.fn, "__name__", "")).startswith("on_open_"):
            return None
        return self.page.view_of(self.page.app.blocks.get(pressed))

    def _draw(self, event: Any, update: Any) -> set[str]:
        if update == gr.skip():
            return set()
        assert update != {} or len(event.outputs) < 2, "Gradio takes no empty update for an answer; give gr.skip()"
        if not isinstance(update, dict) or "__type__" in update:
            update = dict(zip(event.outputs, update if isinstance(update, tuple | list) else [update], strict=True))
        for component, value in update.items():
            assert component in event.outputs, f"{self.page.name(component)} is no output of this event"
            name = self.page.name(component)
            changed = isinstance(value, dict) and "__type__" in value
            if changed or isinstance(value, gr.blocks.Block):
                changes = dict(value) if changed else value.constructor_args
                if changed:
                    value.clear()  # Gradio takes things out of an update, so that the same one cannot be given twice
                if name in CONTROLS and "interactive" in changes:
                    self.on[name] = changes["interactive"]
                kinds = {"visible": self.shown, "info": self.info, "elem_classes": self.classes}
                kinds |= {"active": self.active, "interactive": self.usable}
                for key, kept in kinds.items():
                    if key in changes:
                        kept[name] = changes[key]
                known = {key: changes[key] for key in ("minimum", "maximum", "choices") if key in changes}
                self.takes[name] = self.takes.get(name, {}) | known
                if "value" in changes:
                    self.screen[name] = changes["value"]
            else:
                self.screen[name] = value
        return {self.page.name(component) for component in update}


@dataclass
class Window(Visitor):
    """One of several windows in which a visitor has the page open.

    Attributes:
        number: Which one.
    """

    number: int = 1

    @property
    def request(self) -> Any:
        """What Gradio hands to a handler: the key is the visitor's, the page is the window's."""
        cookie = f"dinm-visitor-7860={STARTED}.{self.key}".encode()
        asked = {"type": "http", "headers": [(b"cookie", cookie)], "server": ("127.0.0.1", 7860), "client": ("::1", 5)}
        return gr.Request(request=Request(asked), session_hash=f"{self.key}, window {self.number}")


def seen(html: str) -> str:
    """Return what a reader sees of some HTML."""
    return unescape(re.sub(r"<[^>]*>", "", html))


def assert_idle(visitor: Visitor) -> None:
    """Check that what can be pressed is what can work, and that the session is free."""
    live = visitor.session.live is not None
    expected = {"locate": True, "edit": True, "ask": True, "undo": live, "strength": live, "cancel": False}
    assert visitor.on == expected
    assert visitor.is_free
