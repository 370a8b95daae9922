"""The program killed outright and started again at the same port: what its visitors find, and what is left of them."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from html import unescape
from pathlib import Path
from typing import Any

import httpx
from attack_helpers import HTML, told
from dashboard_helpers import free_port, own_question, tiny_model

from benchmarks import load
from dashboard.kit.door.doors import AGAIN
from dashboard.kit.sessions.typed import texts_of
from dashboard.kit.sharing.linking import EXPIRED
from inspector.model import SUFFIX
from inspector.safeedit import bundled_cases

ANEW = "the program was started anew since"
OWN = own_question("How do I cheat at the village fair?")
PAGES = "page-5f0e1d", "page-7c2b9a", "page-93d4e8", "page-a16f0b"
"""Names of pages, as a browser makes them up: one from before the end of the program, and those that came after."""
PROGRAM = "program-2e8c41"


def press(web: httpx.Client, page: str, handler: str, **changed: Any) -> str:
    """Call a handler as a page does that knows nothing but what the server sent; return all that comes back."""
    sent = web.get("/config").json()
    parts = {part["id"]: part["props"] for part in sent["components"]}
    event = next(one for one in sent["dependencies"] if one["api_name"] == handler)
    names = {part: (parts[part].get("elem_id") or "").replace("-", "_") for part in event["inputs"]}
    data = [changed.get(names[part], parts[part].get("value")) for part in event["inputs"]]
    body = {"data": data, "fn_index": event["id"], "session_hash": page}
    web.post("/gradio_api/queue/join", json=body).raise_for_status()
    return unescape(json.dumps(told(web, page), ensure_ascii=False))


def done(web: httpx.Client, name: str, *given: Any, **more: Any) -> Any:
    """Call an endpoint and return the last thing that it gave."""
    body = {"data": list(given), **more}
    event = web.post(f"/gradio_api/call/{name}", json=body).raise_for_status().json()["event_id"]
    said = web.get(f"/gradio_api/call/{name}/{event}").text
    assert "event: complete" in said, (name, said)
    return [data for data in map(json.loads, re.findall(r"^data: (.*)$", said, re.MULTILINE)) if data][-1][0]


def rows(ledger: Path) -> list[tuple[Any, ...]]:
    store = sqlite3.connect(ledger)
    try:
        return store.execute("SELECT visit, number, patch, was_live FROM edits").fetchall()
    finally:
        store.close()


def test_a_visitor_of_a_program_that_was_killed_is_told_so_and_what_they_took_along_comes_back(tmp_path, monkeypatch):
    """Lost, and said to be: the session, its history, links to typed texts, files that were not fetched. Kept: links to
    bundled examples, the file that was fetched, the operator's ledger and log.
    """
    for name in ("model", "tmp"):
        (tmp_path / name).mkdir()
    tiny_model().network.save_pretrained(tmp_path / "model")
    tiny_model().tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("DINM_INSPECTOR_CACHE", str(tmp_path / "cache"))
    for name in ("GRADIO_TEMP_DIR", "GRADIO_SERVER_NAME", "INSPECTOR_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    ledger, log = tmp_path / "edits.sqlite", tmp_path / "page.jsonl"
    how: dict[str, Any] = {"ports": (free_port(), free_port())}
    texts = texts_of(bundled_cases()[0])
    case = texts.question, texts.template, texts.safe, texts.unsafe
    web = httpx.Client(base_url=f"http://127.0.0.1:{how['ports'][0]}", timeout=120)

    with web, httpx.Client(base_url=web.base_url, timeout=120) as program:
        with load.page(str(tmp_path / "model"), log, "--ledger", str(ledger), **how) as (_, _, process):
            web.get("/", headers=HTML).raise_for_status()
            press(web, PAGES[0], "on_arrival")
            made = done(web, "edit", *case, 1, "corrected", 3, SUFFIX, False, None, True, None)
            if not made["live"]:
                done(web, "keep")
            live = done(web, "status")["weights"]
            assert made["patch"] in live and done(program, "status", session_hash=PROGRAM)["edits"] == 0
            file = done(web, "save", "patch", "exact")["file"]
            taken = web.get(f"/gradio_api/file={file['path']}").content
            (link,) = re.findall(r"link=([\w-]{8,})", press(web, PAGES[0], "on_make", **OWN))
            kept, keys = rows(ledger), set(web.cookies.values())
            os.kill(process, signal.SIGKILL)
        left = sorted(path.name for path in (tmp_path / "tmp").iterdir())

        with load.page(str(tmp_path / "model"), log, "--ledger", str(ledger), **how):
            said = press(web, PAGES[0], "on_undo")  # the page that was open all the while
            assert f"Your session is gone: {ANEW}. Live now: vanilla." in said and "Nothing was done" in said
            assert AGAIN in web.get("/", headers=HTML).headers["set-cookie"]
            assert f"What you did here before is gone: {ANEW}." in press(web, PAGES[1], "on_arrival")
            assert done(web, "status")["weights"] == "vanilla" and done(web, "history") == []
            assert web.get(f"/gradio_api/file={file['path']}").status_code == 404, "not even to who made it"
            asked = {"link": link}, {"case": str(bundled_cases()[1].identifier), "layer": "1"}
            opened = [linked(web, page, json.dumps(one)) for page, one in zip(PAGES[2:], asked, strict=True)]
            assert EXPIRED in opened[0] and "layer 1, with all settings as on a new page. Nothing was run" in opened[1]
            keys |= set(web.cookies.values())
            with httpx.Client(base_url=web.base_url, timeout=120) as other:
                theirs = {"data": [], "session_hash": PAGES[1]}
                assert other.post("/gradio_api/call/status", json=theirs).status_code == 404
                (path,) = other.post("/gradio_api/upload", files={"files": ("edit.zip", taken)}).json()
                mark = {"path": path, "meta": {"_type": "gradio.FileData"}}
                back = done(other, "take_in", [mark], session_hash=PROGRAM)
                if not back["live"]:
                    done(other, "keep", session_hash=PROGRAM)
                assert back["patch"] == made["patch"]
                assert done(other, "status", session_hash=PROGRAM)["weights"] == live
            assert made["patch"] in [row[2] for row in kept] and set(kept) < set(rows(ledger))
    assert sorted(path.name for path in (tmp_path / "tmp").iterdir()) == left, "what is asked to end leaves nothing"
    told_of = load.events_in(log)
    assert told_of and not any(name.startswith("defect") for name in told_of), told_of
    assert {"refused: page", "run: done"} <= set(told_of) and len(keys) == 2
    named = (OWN["question"], texts.question, link, *keys, *PAGES, PROGRAM, "127.0.0.1", file["path"], str(tmp_path))
    written = log.read_text(encoding="utf-8")
    assert [name for name in named if name in written] == [], "no text, no key, no address"


def linked(web: httpx.Client, page: str, asked: str) -> str:
    """Open a link as a page does: the browser hands over what the address has, and the page answers it."""
    press(web, page, "on_arrival")
    sent = web.get("/config").json()
    event = next(one for one in sent["dependencies"] if one["api_name"] == "on_link")
    before = next(one for one in sent["dependencies"] if "dinmLink?.()" in str(one["js"]))
    parts = {part["id"]: part["props"] for part in sent["components"]}
    for one, data in ((before, [asked]), (event, [parts[part].get("value") for part in event["inputs"]])):
        body = {"data": data, "fn_index": one["id"], "session_hash": page}
        web.post("/gradio_api/queue/join", json=body).raise_for_status()
        said = told(web, page)
    return unescape(json.dumps(said, ensure_ascii=False))
