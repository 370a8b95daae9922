"""Attacks by what is typed: markup, hidden and turned characters, format tricks, huge numbers and endless texts."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from functools import partial
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import plotly.graph_objects as go
import pytest
from attack_helpers import call, opened, press, told
from dashboard_helpers import CONTEXT, QUICK, Visitor, tiny_model
from keep_helpers import copied, page_of, written
from made_up import result
from memory_faults import passes

from dashboard.kit.drawing import html as kit_html
from dashboard.kit.drawing.plain import escape, is_hidden, visible
from dashboard.kit.drawing.plots import label
from dashboard.kit.limits import Pace, Runs
from dashboard.kit.sessions.session import LiveEdit
from dashboard.kit.sessions.typed import Texts, texts_of
from dashboard.steps.compare.asking import OWN_PROMPT
from dashboard.steps.keep.asking import OWN, PROMPTS
from dashboard.steps.report.run import Reported
from dashboard.steps.why import run as why
from inspector.errors import CaseError, InspectorError
from inspector.model import SUFFIX, InspectedModel
from inspector.safeedit import bundled_cases

MARKUP = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "</textarea><script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](http://127.0.0.1:9/x.png)",
    "<a href='javascript:alert(1)'>x</a>",
    "&lt;script&gt;",
    "{{7*7}}${7*7}#{7*7}<%= 7*7 %>",
]
HIDDEN = [
    "\u202egnp.exe",
    "a\u2066b\u2069",
    "\u200b\u2060\ufeff",
    "\x1b[31m",
    "\x00",
    "\x07\x08",
    "\u2028\u2029",
    "\U000e0041",
]
FORMATS = [
    "{question.__class__.__mro__}",
    "{question!r:>1000000}",
    "{0}{1}{}",
    "%s%n%d",
    "${question}",
    "{question}" * 50,
    "{{question}}",
    "{question",
    "{}",
]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def page(served):
    """A visitor with an open page, and how they press a handler."""
    with httpx.Client(base_url=served.url, timeout=120) as web:
        name = secrets.token_hex(6)
        opened(served, web, name)

        def do(handler: str, **changed: Any) -> str:
            return json.dumps(press(served, web, name, handler, **changed), ensure_ascii=False)

        do.session = served.sessions.of(served.sessions.owner(name))
        yield do


def htmls(said: str) -> list[str]:
    """Return every string in messages that holds a tag of the page's own: what is drawn as HTML."""
    found: list[str] = []

    def look(one: Any) -> None:
        if isinstance(one, str):
            if "<p class" in one or "<div class" in one or "<span class" in one:
                found.append(one)
        elif isinstance(one, dict):
            for value in one.values():
                look(value)
        elif isinstance(one, list):
            for value in one:
                look(value)

    look(json.loads(said))
    return found


def test_markup_that_is_typed_stays_text_in_everything_the_page_draws(page):
    text = " ".join(MARKUP)
    drawn = htmls(page("on_texts", question=f"How {text}?", template=f"{text} {{question}}", suffix=text))
    assert drawn
    for one in drawn:
        for tag in ("<script", "<img", "<svg", "<a href", "</textarea"):
            assert tag not in one


class Markup(HTMLParser):
    """Collects what a browser would make of some HTML that no text may make: tags, handlers, addresses that run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "x-typed"):
            self.found.append(tag)
        self.found += [f"{tag} {name}" for name, _ in attrs if name.startswith("on")]
        self.found += [f"{tag} {value}" for _, value in attrs if value and value.strip().startswith("javascript:")]


def strings_in(value: Any) -> Iterator[str]:
    """Yield the strings of what a component shows, a figure's among them."""
    if isinstance(value, go.Figure):
        value = value.to_plotly_json()
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from strings_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from strings_in(one)


TYPED = f"{' '.join(MARKUP)} <x-typed a=1>"
CASE = {"question": f"How {TYPED}?", "safe": f"No. {TYPED}", "unsafe": f"Sure: {TYPED}", "suffix": TYPED}
BRIEF = {**QUICK, "steps": 1, "max_new_tokens": 2}
PRESSED: dict[str, dict[str, Any]] = {
    "on_texts": {**CASE, "template": f"{TYPED} {{question}}"},
    "on_locate": {},
    "on_edit": {**BRIEF, "block": 0},
    "on_ask": {"ask_what": OWN_PROMPT, "own_text": f"Why {TYPED}?", "max_new_tokens": 2},
    "on_why": {},
    "on_attribute": {"why_way": "gradient x input"},
    "on_methods": {"methods_chosen": ["Self-Reminder"], "methods_tokens": 2},
    "on_stress": {"stress_size": "This case", "stress_tokens": 2},
    "on_rename_row": {"row_picked": 1, "row_name": f"<x-typed> {MARKUP[1]}"},
    "on_ask_two": {"row_a": 1, "row_b": 2, "ask_two_what": OWN, "ask_two_text": f"Why {TYPED}?"},
    "on_take_in": {**BRIEF, "max_new_tokens": 2},
    "on_report": {},
}
"""What a visitor presses, and what they have typed for it."""


def test_markup_of_visitor_and_model_stays_text_in_what_every_view_draws(tmp_path, monkeypatch):
    """The model answers in markup as well, and each of its tokens is some: answers, tables, tokens in figures."""
    monkeypatch.setattr(InspectedModel, "decode", lambda *_: f"Well {TYPED}.")
    monkeypatch.setattr(
        InspectedModel, "token_texts", lambda _, tokens: ("<img src=x onerror=alert(1)>",) * len(tokens)
    )
    monkeypatch.setattr(why, "locate_with", partial(why.locate_with, names=("divergence", "logit attribution")))
    # Whether one step on such texts helps the tiny model is not what is asked here.
    monkeypatch.setattr("editing.saved.incoming.refuse_harm", lambda *_: None)
    visitor, showing = Visitor(page_of(tmp_path), "markup"), set[str]()
    for handler, typed in PRESSED.items():
        if handler == "on_ask_two":
            visitor.do("on_edit", **BRIEF, block=1)
        if handler == "on_take_in":
            name = f"{MARKUP[1]}\u202e.zip"
            typed = {**typed, "upload": [str(copied(written(visitor), tmp_path / name))]}
        changed = set().union(*visitor.do(handler, **typed))
        for name in changed & set(visitor.screen):
            part = visitor.page.roles[name]
            for shown in strings_in(visitor.screen[name]) if isinstance(part, gr.HTML | gr.Markdown | gr.Plot) else ():
                assert Markup(shown).found == [], (handler, name)
                if "alert(1)" in shown or "x-typed" in shown:
                    showing.add(handler)
    written_down = visitor.session.slot(Reported).written
    html = Path(written_down.files[0]).read_text(encoding="utf-8")
    own = 4 + html.count('<script type="application/json" data-figure="figure-')
    assert Markup(html).found == ["script"] * own, "those of the report itself"
    assert TYPED in unescape(html)
    assert showing | {"on_report"} == set(PRESSED), "each of them has shown some, the report in its file"


def test_an_error_shows_markup_as_text(served, web):
    kind, said = call(web, "load_method", "<img src=x onerror=alert(1)>", False)
    assert kind == "error" and "<img" not in json.dumps(said)


@pytest.mark.parametrize("text", HIDDEN)
def test_what_hides_or_turns_a_line_around_is_written_out_in_names_labels_and_errors(text):
    hidden = [one for one in text if is_hidden(one)]
    assert hidden
    for shown in (
        visible(text),
        escape(text),
        kit_html.reading(text),
        kit_html.message(text),
        kit_html.progress_bar(text, 0.5),
        label(text, longest=100),
    ):
        assert not any(one in shown for one in hidden), shown
    assert f"U+{ord(hidden[0]):04X}" in visible(text)


@pytest.mark.parametrize(
    "text", ["plain", "naïve", "日本語", "עברית", "العربية", "👩‍👩‍👧", "e\u0301", "नमस्ते", "a\tb\nc\r\n"]
)
def test_texts_of_every_script_stay_as_they_are(text):
    assert visible(text) == text


def test_hidden_characters_in_a_case_reach_the_model_or_are_counted_and_break_nothing(page):
    said = page("on_texts", question=f"How {' '.join(HIDDEN)} so?")
    assert "process_completed" in said and "went wrong" not in said


@pytest.mark.parametrize("template", FORMATS)
def test_a_template_is_no_format_string(template):
    texts = Texts("Q?", template, "No.", "Yes.")
    try:
        made = texts.adversarial_prompt()
    except InspectorError as error:
        assert "slot" in error.user_message()
    else:
        assert made == template.replace("{question}", "Q?") and len(made) < 10_000


def test_a_template_with_tricks_is_drawn_as_it_was_typed(page):
    tricks = " ".join(FORMATS)
    said = page("on_texts", template=tricks)
    assert "went wrong" not in said and "<class" not in said and "process_completed" in said


NUMBERS = [10**400, 1e308, "NaN", [], None, "9" * 5000]
OWN_CASE = "Q?", "", "No, I will not.", "Yes, sure."


def asked_with(part: str, number: Any) -> tuple[str, list[Any]]:
    """Return the endpoint that takes a number, and what it is given with that one in its place."""
    return {
        "max_new_tokens": ("ask", ["Hello", None, number, None, None, None]),
        "strength": ("ask", ["Hello", number, 2, None, None, None]),
        "block": ("edit", [*OWN_CASE, number, "corrected", 1, SUFFIX, False, None, True, None]),
        "steps": ("edit", [*OWN_CASE, 1, "corrected", number, SUFFIX, False, None, True, None]),
        "top": ("lens", [*OWN_CASE[:3], number, SUFFIX, True]),
        "row a": ("compare", [number, 1, next(iter(PROMPTS)), "", 2]),
        "row b": ("compare", [1, number, next(iter(PROMPTS)), "", 2]),
        "row to name": ("rename", [number, "mine"]),
        "row to delete": ("delete", [number]),
        "layer of a link": ("make_link", [*OWN_CASE, number, "corrected", 0, SUFFIX, True]),
        "steps of a link": ("make_link", [*OWN_CASE, 1, "corrected", number, SUFFIX, True]),
    }[part]


MAY_BE_LEFT_OUT = ("strength", "layer of a link")


@pytest.mark.parametrize(
    "part",
    [
        *("max_new_tokens", "strength", "block", "steps", "top", "row a", "row b", "row to name", "row to delete"),
        *("layer of a link", "steps of a link"),
    ],
)
def test_a_number_of_any_kind_is_an_error_in_words_and_no_work(web, part):
    for number in NUMBERS:
        if number is None and part in MAY_BE_LEFT_OUT:
            continue  # left out it means something
        endpoint, given = asked_with(part, number)
        with passes(tiny_model()) as made:
            kind, said = call(web, endpoint, *given)
        text = json.dumps(said)
        assert kind == "error" and "Traceback" not in text and "Error:" not in text and "<class" not in text, number
        assert said["error"].rstrip()[-1] in ".)" and "went wrong" not in said["error"], number
        assert made.rows == [], number


SIZES = (10**400, 1e308, -1e308)
ASKED = "The model was asked."
READ_NUMBERS = (
    *("on_locate", "on_pick", "on_hand", "on_layer", "on_texts", "on_edit", "on_operate", "on_examine", "on_keep"),
    *("on_ask", "on_unsafe_ask", "on_curve", "on_strength", "on_take", "on_routed", "on_undo", "on_live_changed"),
    *("on_why", "on_why_pick", "on_order", "on_lens", "on_atlas", "on_knock", "on_edit_columns", "on_attribute"),
    *(
        "on_train",
        "on_open_why",
        "on_opened_why",
        "on_open_details",
        "on_opened_details",
        "on_distance",
        "on_methods",
        "on_method_load",
        "on_stress",
    ),
    *(
        "on_again",
        "on_redo",
        "on_undo_here",
        "on_ask_two",
        "on_take_in",
        "on_make",
        "on_link",
        "on_return",
        "on_waking",
        "on_over",
        "on_measured",
        "on_touched",
    ),
)
"""Handlers of every view that read a number; one makes a link of all controls, some draw the page anew with them."""


def numbers_of(served: Any, handler: str) -> list[int]:
    """Return the places of the numbers that a handler reads."""
    inputs = served.app.fns[served.number(handler)].inputs
    return [place for place, part in enumerate(inputs) if isinstance(part, gr.Number | gr.Slider)]


def test_every_handler_that_reads_a_number_is_here(served):
    private = {fn.name or "" for fn in served.app.fns.values() if fn.api_visibility == "private"} - {""}
    assert {name for name in private if numbers_of(served, name)} == set(READ_NUMBERS)


@pytest.fixture
def owner_of_an_edit(served, monkeypatch):
    """A visitor with an open page, a case and a live edit, who may press as often as they like."""
    monkeypatch.setattr(Runs, "begin", lambda *_: None)
    monkeypatch.setattr(served.app.guard, "pace", Pace(None))
    with httpx.Client(base_url=served.url, timeout=120) as web:
        web.page = secrets.token_hex(6)
        opened(served, web, web.page)
        web.session = served.sessions.of(served.sessions.owner(web.page))
        web.session.case = bundled_cases()[0]
        web.session.add(LiveEdit(web.session.case, result()))
        yield web


def is_refused(part: Any, size: float) -> bool:
    """Tell whether a number is beyond what its control says that it takes, which Gradio refuses before any handler."""
    return (part.minimum is not None and size < part.minimum) or (part.maximum is not None and size > part.maximum)


def sizes_of(served: Any, handler: str) -> list[tuple[int, float]]:
    """Return the places of a handler's numbers, each with what is put there.

    What its control refuses is put there by the first handler that reads it, and one such number by every handler.
    """
    inputs = served.app.fns[served.number(handler)].inputs
    before = READ_NUMBERS[: READ_NUMBERS.index(handler)]
    known = {part for one in before for part in served.app.fns[served.number(one)].inputs}
    found = [(place, size) for place in numbers_of(served, handler) for size in SIZES]
    refused = [(place, size) for place, size in found if is_refused(inputs[place], size)]
    again = {(place, size) for place, size in refused[1:] if inputs[place] in known}
    return [one for one in found if one not in again]


@pytest.mark.parametrize("handler", READ_NUMBERS)
def test_a_number_of_any_size_in_any_control_ends_in_words(served, owner_of_an_edit, handler):
    """Whatever is taken for a number that is possible ends as soon as the model is asked."""

    def asked(_number: int) -> None:
        raise CaseError(ASKED)

    web, case = owner_of_an_edit, texts_of(bundled_cases()[0])
    plain = served.values(handler, **{name: getattr(case, name) for name in ("question", "template", "safe", "unsafe")})
    inputs = served.app.fns[served.number(handler)].inputs
    with passes(tiny_model(), asked):
        for place, size in sizes_of(served, handler):
            data = [size if at == place else value for at, value in enumerate(plain)]
            body = {"data": data, "fn_index": served.number(handler), "session_hash": web.page}
            web.post("/gradio_api/queue/join", json=body).raise_for_status()
            (end,) = (one for one in told(web, web.page) if one["msg"] == "process_completed")
            said = end["output"].get("error", "")
            assert end["success"] or (said and "went wrong" not in said), (inputs[place].label, size, said)
            assert not (is_refused(inputs[place], size) and end["success"]), (inputs[place].label, size)
            assert not web.session.busy and "went wrong" not in json.dumps(end)


@pytest.mark.parametrize("number", [10**400, 999999999999999900000, 1e308], ids=["beyond all", "of 21 digits", "large"])
def test_a_page_opens_again_whatever_numbers_stood_on_it(served, owner_of_an_edit, number):
    """A browser writes numbers beyond 2**53 as they are, and the server cannot send those beyond 2**64 back."""
    web, question = owner_of_an_edit, bundled_cases()[1].question
    parts, data = served.app.fns[served.number("on_make")].inputs, served.values("on_make", question=question)
    unbounded = [place for place in numbers_of(served, "on_make") if parts[place].maximum is None]
    assert len(unbounded) > 10
    for place in unbounded:
        data[place] = number
    body = {"data": data, "fn_index": served.number("on_make"), "session_hash": web.page}
    web.post("/gradio_api/queue/join", json=body).raise_for_status()
    assert "too large for a link" in json.dumps(told(web, web.page))
    again = secrets.token_hex(6)
    opened(served, web, again)
    said = press(served, web, again, "on_return")
    (end,) = (one for one in said if one["msg"] == "process_completed")
    assert end["success"] and question in json.dumps(said)


LONG = " ".join(["word"] * 20_000)


def test_a_text_of_twenty_thousand_words_is_refused_before_it_is_read(page):
    began = time.process_time()
    said = page("on_texts", question=LONG)
    assert "At most 20,000 characters" in said and time.process_time() - began < 20


@pytest.mark.parametrize("endpoint", ["prompt", "ask", "locate"])
def test_programs_are_told_the_same(served, web, endpoint):
    given = {
        "prompt": (LONG, "", SUFFIX, True),
        "ask": (LONG, None, 8, None, None, None),
        "locate": (LONG, "", "No.", "Yes.", "corrected", "right", SUFFIX, True),
    }[endpoint]
    kind, said = call(web, endpoint, *given)
    assert kind == "error" and "characters a text" in said["error"]


def test_a_text_that_is_allowed_and_too_long_for_the_model_is_told_in_tokens(served, web):
    text = "\u2603 " * 4500  # the tokenizer knows no such sign, and takes it byte by byte
    assert len(text) < 20_000
    kind, said = call(web, "ask", text, None, 8, None, None, None)
    told = re.search(r"has ([\d,]+) tokens.* reads at most ([\d,]+)\. Shorten it", said["error"])
    assert kind == "error" and told and [int(one.replace(",", "")) > CONTEXT for one in told.groups()] == [True, False]


def test_a_page_of_ones_own_takes_twenty_thousand_words_without_a_pause(tmp_path):
    from dashboard.steps.case.run import view_prompt

    began = time.process_time()
    with pytest.raises(InspectorError, match="tokens"):
        view_prompt(tiny_model(), Texts(LONG, "", "No.", "Yes."))
    assert time.process_time() - began < 20


@pytest.mark.parametrize("data", [[None] * 60, [{"x": ["x"]}] * 60])
def test_a_handler_that_gets_values_of_other_kinds_ends_in_words_and_the_page_goes_on(served, data):
    name = secrets.token_hex(6)
    with httpx.Client(base_url=served.url, timeout=60) as web:
        opened(served, web, name)
        for handler in ("on_texts", "on_ask", "on_locate", "on_example"):
            inputs = len(served.app.fns[served.number(handler)].inputs)
            body = {"data": data[:inputs], "fn_index": served.number(handler), "session_hash": name}
            answer = web.post("/gradio_api/queue/join", json=body)
            if answer.status_code == 200:
                said = web.get("/gradio_api/queue/data", params={"session_hash": name}).text
                assert "Traceback" not in said and "site-packages" not in said and str(ROOT) not in said
        assert not served.sessions.of(served.sessions.owner(name)).busy
