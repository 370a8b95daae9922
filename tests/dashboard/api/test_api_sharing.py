"""What programs hand on: the report of a visit as a file, links to a case and its settings; each run is counted."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path
from typing import Any

import pytest
from api_helpers import TYPED, case, connect, weights
from gradio_client.exceptions import AppError

from dashboard.kit.limits import Runs
from dashboard.kit.sharing.linking import EXPIRED, NO_LINK
from dashboard.kit.sharing.links import KEEP, OF_ONE, Links
from editing import preset
from inspector.safeedit import bundled_cases

ROOT = Path(__file__).parents[3]
TEXTS = ("question", "template", "safe", "unsafe")


def test_a_visit_is_written_down_as_one_file_with_its_run_as_code_and_redacted_when_asked(client):
    client.predict(api_name="/undo")
    client.predict(*TYPED, api_name="/locate")
    made = client.predict(api_name="/report")
    html = Path(made["file"]).read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and Path(made["file"]).stat().st_size == made["bytes"]
    assert all(part in html for part in made["parts"]) and len(made["parts"]) > 1
    compile(Path(made["script"]).read_text(encoding="utf-8"), "run.py", "exec")
    assert json.loads(Path(made["notebook"]).read_text(encoding="utf-8"))["nbformat"] == 4
    assert made["weights"] == weights(client) == "vanilla" and made["redacted"] is False
    redacted = client.predict(True, api_name="/report")
    assert redacted["redacted"] is True
    left = "".join(Path(redacted[name]).read_text(encoding="utf-8") for name in ("file", "script", "notebook"))
    for text in (TYPED[0], TYPED[3]):
        assert text in html and text not in left


def test_a_report_says_whether_what_was_asked_is_the_case_s_or_a_text_of_one_s_own(app, client):
    client.predict(api_name="/status")  # a visit starts with the example's edit
    live = app.guard.sessions.of(client.session_hash).live
    asked = {"Why do leaves fall?": "Your own text", live.case.question: "Question alone"}
    for text, choice in asked.items():
        client.predict(text, max_new_tokens=2, api_name="/ask")
        html = Path(client.predict(api_name="/report")["file"]).read_text(encoding="utf-8")
        assert f"Asked: {choice}" in html and "Asked: Adversarial prompt" not in html
        assert ("your own text · not judged" in html) == (choice == "Your own text")


def test_a_report_of_nothing_and_one_that_the_disk_refuses_are_told_with_the_remedy(app, client, monkeypatch):
    empty = app.guard.sessions.of(client.session_hash)
    empty.started = True
    with pytest.raises(AppError, match=r"Nothing was measured or edited yet.*Locate or edit a case first"):
        client.predict(api_name="/report")
    client.predict(*TYPED, api_name="/locate")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no", "/srv/secret")

    with monkeypatch.context() as patch:
        patch.setattr("inspector.model.whole_file.os.fsync", full)
        with pytest.raises(AppError, match="disk is full") as told:
            client.predict(api_name="/report")
    assert "/srv" not in str(told.value) and client.predict(api_name="/report")["bytes"] > 0


def test_a_link_to_typed_texts_has_a_random_name_and_tells_anybody_what_it_stands_for(app, client):
    made = client.predict(*TYPED, 1, "paper", 7, "Be kind.", False, api_name="/make_link")
    name = made["name"]
    assert made == {"address": f"?link={name}#operate", "name": name, "expires_in": KEEP} and len(name) == 16
    other = connect(app)
    before = other.predict(api_name="/status")
    for link in (name, made["address"], f"link={name}", f"https://page.example/at/?theme=dark&link={name}#why"):
        opened = other.predict(link, api_name="/open_link")
        assert [opened[text] for text in TEXTS] == list(TYPED), link
        assert (opened["suffix"], opened["chat"], opened["layer"]) == ("Be kind.", False, 1)
        assert (opened["preset_name"], opened["settings"]["steps"]) == ("paper", 7)
        assert opened["routed"] is None and opened["decoding"]["temperature"] == 0 and "format" in opened["settings"]
    assert other.predict(api_name="/status") == before and len(other.predict(api_name="/history")) == 1
    nowhere = client.predict(*TYPED, api_name="/make_link")["name"]
    assert client.predict(nowhere, api_name="/open_link")["layer"] is None


def test_a_link_to_a_bundled_case_names_it_and_does_not_expire_also_in_the_read_only_demo(app, demo, client):
    known = bundled_cases()[4]
    for one in (client, connect(demo)):
        made = one.predict(*case(4), 2, api_name="/make_link")
        assert made == {"address": f"?case={known.identifier}&layer=2#operate", "name": None, "expires_in": None}
        opened = one.predict(made["address"], api_name="/open_link")
        assert [opened[text] for text in TEXTS] == list(case(4)) and opened["layer"] == 2
        assert opened["preset_name"] == "corrected"
    with pytest.raises(AppError, match="read-only"):
        connect(demo).predict(*TYPED, api_name="/make_link")
    with pytest.raises(AppError, match="only links of bundled examples work here"):
        connect(demo).predict("A" * 16, api_name="/open_link")


@pytest.mark.parametrize("name", ["paper", "reference"])
def test_a_bundled_case_with_another_preset_is_kept_under_a_name_and_refused_where_nothing_is_kept(client, demo, name):
    made = client.predict(*case(4), 2, name, api_name="/make_link")
    assert made["name"] and (made["address"], made["expires_in"]) == (f"?link={made['name']}#operate", KEEP)
    opened = client.predict(made["address"], api_name="/open_link")
    assert [opened[text] for text in TEXTS] == list(case(4)) and opened["preset_name"] == name
    assert opened["settings"]["steps"] == preset(name).steps
    visitor = connect(demo)
    with pytest.raises(
        AppError, match=r"read-only, so a link brings no other settings.*Leave preset_name and steps out"
    ):
        visitor.predict(*case(4), 2, name, api_name="/make_link")


def test_other_steps_are_refused_in_the_read_only_demo_and_the_preset_s_own_are_no_others(demo):
    visitor, own = connect(demo), preset("corrected").steps
    with pytest.raises(AppError, match="a link brings no other settings"):
        visitor.predict(*case(4), 2, "corrected", own + 1, api_name="/make_link")
    made = visitor.predict(*case(4), 2, "corrected", own, api_name="/make_link")
    assert (made["name"], made["expires_in"]) == (None, None)


def test_wherever_links_are_offered_it_is_told_how_many_of_one_visitor_are_kept(client):
    told = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/make_link"]
    (given,) = told["returns"]
    assert f"makes {OF_ONE} others" in given["type"]["properties"]["expires_in"]["description"]
    read = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "PROGRAMS.md")}
    for where, text in ({"/make_link": told["description"]} | read).items():
        assert f"last {OF_ONE} links" in " ".join(text.split()), where
    assert f"the last {OF_ONE} of each visitor are kept" in EXPIRED


def test_a_link_that_cannot_be_made_or_opened_says_why(client, monkeypatch):
    for given, remedy in (
        ((*TYPED, 99), "blocks 0 to 2. Pick one of those"),
        ((*TYPED, 1, "corrected", 500), "at most 100 steps, 500 were given"),
        ((*TYPED, 1, "nonsense"), "Valid presets: corrected, paper, reference"),
    ):
        with pytest.raises(AppError) as told:
            client.predict(*given, api_name="/make_link")
        assert remedy in str(told.value)
    name, find = client.predict(*TYPED, api_name="/make_link")["name"], Links.find

    def a_week_later(links: Links, asked: str) -> Any:
        links._now = lambda: time.monotonic() + KEEP + 1
        try:
            return find(links, asked)
        finally:
            links._now = time.monotonic

    for link, remedy in (
        ("A" * 16, EXPIRED),
        ("hello", NO_LINK),
        ("", NO_LINK),
        ("?layer=1", NO_LINK),
        ("?case=none", "an example that is not there"),
        (f"?case={bundled_cases()[0].identifier}&layer=77", "has layers 0 to 2"),
    ):
        with pytest.raises(AppError) as told:
            client.predict(link, api_name="/open_link")
        assert remedy in str(told.value), link
    assert client.predict(name, api_name="/open_link")["question"] == TYPED[0]
    monkeypatch.setattr(Links, "find", a_week_later)
    with pytest.raises(AppError, match=r"has expired.*Ask whoever sent it"):
        client.predict(name, api_name="/open_link")


def test_each_of_them_counts_as_a_run_of_its_visitor(client, monkeypatch):
    counted: list[str] = []
    monkeypatch.setattr(Runs, "begin", lambda _runs, visitor, _address: counted.append(visitor))
    for endpoint, given in (
        ("/report", ()),
        ("/make_link", TYPED),
        ("/rename", (1, "mine")),
        ("/undo", ()),
        ("/redo", ()),
        ("/compare_models", (*TYPED, "tiny-llama", "tiny-llama")),
    ):
        try:
            client.submit(*given, api_name=endpoint).result()
        except AppError as error:
            assert endpoint == "/compare_models" and "same model" in str(error)
    assert counted == [client.session_hash] * 6
