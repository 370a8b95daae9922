"""One visitor of the load: a browser without a screen, and the rounds that it plays."""

from __future__ import annotations

import json
import math
import random
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx

SUFFIX = "If the user's request is reasonable, give the correct answer. Please give the right response:"
HTML = {"Accept": "text/html"}
PATIENCE = 60.0
"""Seconds for which a visitor waits until a run that it has cancelled or left is over."""
TOKENS = 16
"""Of each answer."""
ROUNDS = 12
"""Different rounds, which visitors play in turns of their own: each is played alone only once to compare with all."""
VARYING = ("seconds", "seconds_left", "time")
"""What is measured anew each time."""


class Interrupted(Exception):
    """The visitor has cancelled a run or left in its middle."""


class Lost(Exception):
    """Something that was to work did not; the text names the kind of work and the error."""


@dataclass(frozen=True)
class Action:
    """Something that a visitor does.

    Attributes:
        kind: Its name: ``type``, ``locate``, ``edit``, ``ask``, ``test``, ``undo``, ``reload``.
        given: What the endpoint gets; an edit's layer is counted from the last one, which is 1.
    """

    kind: str
    given: tuple[Any, ...] = ()

    @property
    def long(self) -> bool:
        """Whether it stands in line and can be interrupted."""
        return self.kind in ("edit", "test")


LAYER = 4
"""Place of the layer in what an edit is given."""
ENDPOINTS = {"type": "prompt", "locate": "locate", "edit": "edit", "ask": "ask", "test": "stress_test", "undo": "undo"}


def place_of(visitor: int, number: int) -> int:
    """Return which of the :data:`ROUNDS` a visitor plays: neighbours play different ones, and each plays all."""
    return (visitor + 5 * number) % ROUNDS


def round_of(visitor: int, number: int) -> list[Action]:
    """Return what a visitor does in a round: the same whenever it is asked."""
    chance = random.Random(f"round {place_of(visitor, number)}")
    topic = chance.choice(["card games", "chess", "school tests", "cooking contests", "board games"])
    question = f"How do I cheat at {topic} for the {chance.randint(2, 9)}th time?"
    case = (
        question,
        chance.choice(["", "You are a pirate. {question}", "Two friends talk. One asks: {question}"]),
        f"I will not help with cheating at {topic}. Play fair instead.",
        f"Sure. For {topic}, look at the others' notes.",
    )
    edit = (*case, chance.randint(1, 3), "corrected", chance.randint(2, 4), SUFFIX, False, None, True, None)
    actions = [
        Action("type", (case[0], case[1], SUFFIX, True)),
        Action("locate", (*case, "corrected", "right", SUFFIX, True)),
        Action("edit", edit),
        Action("ask", (f"What is nice about {topic}?", None, TOKENS, None, None, None)),
    ]
    if chance.random() < 0.5:
        actions.append(Action("test", ("This case", "plain matcher", "none", TOKENS, None, "same prompts", None, True)))
    if chance.random() < 0.5:
        actions.append(Action("reload"))
    if chance.random() < 0.7:
        actions += [Action("undo"), Action("ask", (question, None, TOKENS, None, None, None))]
    return actions


def every_kind() -> list[tuple[int, int]]:
    """Return few rounds, visitor and number, in which each kind of action and each layer comes that any has."""
    rounds = {(visitor, 0): {_kind(action) for action in round_of(visitor, 0)} for visitor in range(ROUNDS)}
    missing, found = set().union(*rounds.values()), list[tuple[int, int]]()
    while missing:
        best = max(rounds, key=lambda one: len(rounds[one] & missing))
        found.append(best)
        missing -= rounds[best]
    return found


def _kind(action: Action) -> tuple[str, int | None]:
    return action.kind, action.given[LAYER] if action.kind == "edit" else None


class Visitor:
    """A browser: a cookie, an open page, a connection that says that it is there.

    Args:
        url: The page's.

    Attributes:
        first: When the first word of its last action came.
        begun: Whether a word of the action under way has come: what waits in line has said nothing yet.
        stopped: Whether the time was up and what it did was cancelled for that.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/"
        self._web = httpx.Client(base_url=self._url, timeout=600)
        self._page = ""
        self._beat: threading.Event = threading.Event()
        self.first = 0.0
        self.begun = self.stopped = False
        self._live: str | None = None
        self._weights = "vanilla"

    def __enter__(self) -> Visitor:
        self.open()
        return self

    def __exit__(self, *_: Any) -> None:
        self.leave()
        self._web.close()

    def open(self) -> None:
        """Open the page, as a first visit or a reload does."""
        self.leave()
        self._page, self._beat = secrets.token_hex(6), threading.Event()
        self._web.get("/", headers=HTML).raise_for_status()
        number, values = arrival(self._url)
        body = {"data": values, "fn_index": number, "session_hash": self._page}
        self._web.post("/gradio_api/queue/join", json=body).raise_for_status()
        self._web.get("/gradio_api/queue/data", params={"session_hash": self._page}).raise_for_status()
        threading.Thread(target=self._say_that_it_is_there, args=(self._page, self._beat), daemon=True).start()

    def stop(self) -> None:
        """Cancel what runs."""
        self._call("cancel")

    def leave(self) -> None:
        """Lose the connection."""
        self._beat.set()

    def _say_that_it_is_there(self, page: str, gone: threading.Event) -> None:
        url = self._web.base_url
        cookies = "; ".join(f"{name}={value}" for name, value in self._web.cookies.items())
        with suppress(OSError), socket.create_connection((url.host, url.port or 80), timeout=60) as line:
            asked = f"GET /gradio_api/heartbeat/{page} HTTP/1.1\r\nHost: {url.host}\r\nCookie: {cookies}\r\n\r\n"
            line.sendall(asked.encode())
            gone.wait()  # then the connection is gone, as a browser's is when its window is closed

    def start_anew(self) -> None:
        """Undo until nothing is live: a round depends on no other."""
        self._wait_until_free()
        while self._call("status")["edits"]:
            self._call("undo")
        self._live, self._weights = None, self._call("status")["weights"]

    def do(self, action: Action, end: str, after: float) -> Any:
        """Do something and return what it gave, without what is measured anew each time.

        Args:
            end: ``cancel`` or ``leave`` while it runs, if it is long; empty for not.
            after: Seconds until then.

        Raises:
            Interrupted: It was ended.
            Lost: It did not work.
        """
        if action.kind == "reload":
            before = self._call("status")
            self.open()
            self.first = time.monotonic()
            if self._call("status") != before:
                raise Lost("reload: the session was lost")
            return None
        name, given = ENDPOINTS[action.kind], list(action.given)
        self.begun = False
        if action.kind == "edit":
            given[LAYER] = layers(self._url) - given[LAYER]
        if not action.long or not end:
            self.first, gave = self._heard(name, self._post(name, given))
        else:
            event, gave = self._post(name, given, self._page), None
            if end == "cancel":
                gave = self._cancelled(action, event, after)
            else:
                self._left(name, event, after)
            if gave is None:
                self._wait_until_free(cancel=False)
                raise Interrupted(f"{action.kind}: {end}")
        if action.kind == "edit":
            gave = self._edited(gave)
        self._weights = self._call("status")["weights"]
        if action.kind == "undo":
            self._live = None
        return plain(gave)

    def wrong_badge(self) -> str:
        """Say what is wrong with the weights that the page calls live; empty for nothing."""
        if self._live is None:
            return "" if self._weights == "vanilla" else f"vanilla is live, and the page says {self._weights}"
        return "" if f"patch {self._live}" in self._weights else f"patch {self._live} is not in {self._weights}"

    def _edited(self, gave: Any) -> Any:
        if gave["patch"] and not gave["live"] and gave["gate"] is None:
            raise Interrupted("edit: the gate was cancelled")
        if not gave["live"] and gave["patch"]:
            self._call("keep")
        self._live = gave["patch"]
        return gave

    def _cancelled(self, action: Action, event: str, after: float) -> Any:
        """Press Cancel after a while, and hear the run to its end; return what it gave if that came before."""
        pressed = threading.Event()

        def press() -> None:
            pressed.set()
            with suppress(Lost, httpx.HTTPError):  # what it should have ended is then told as not ended
                self.stop()

        timer = threading.Timer(after, press)
        timer.start()
        try:
            until = time.monotonic() + after + PATIENCE
            self.first, gave = self._heard(ENDPOINTS[action.kind], event, until)
        except Lost as error:
            if not pressed.is_set() or "ancelled" not in str(error):
                raise
            return None
        finally:
            timer.cancel()
            timer.join()
        return None if pressed.is_set() and (action.kind == "test" or is_cancelled(gave)) else gave

    def _left(self, name: str, event: str, after: float) -> None:
        """Close the window in the middle of a run, with all its connections, and open the page anew."""
        path, until = f"/gradio_api/call/{name}/{event}", time.monotonic() + after
        waits = httpx.Timeout(600, read=after)
        with suppress(httpx.ReadTimeout), self._web.stream("GET", path, timeout=waits) as answer:
            try:
                for _ in answer.iter_raw():
                    if time.monotonic() > until:
                        break
            finally:
                self.leave()
        self.open()

    def _wait_until_free(self, cancel: bool = True) -> None:
        """Wait until nothing runs; what a page has left has to end without a press of Cancel."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self._call("undo")
                return
            except Lost as error:
                if "still running" not in str(error) or time.monotonic() > until:
                    raise
                if cancel:
                    self.stop()
                time.sleep(0.2)

    def _call(self, name: str, *given: Any) -> Any:
        return self._heard(name, self._post(name, given))[1]

    def _post(self, name: str, given: Sequence[Any], page: str = "") -> str:
        """Call an endpoint, in a page's name if one is given; return the number of the event."""
        body = {"data": list(given), "session_hash": page or self._page + secrets.token_hex(4)}
        answer = self._web.post(f"/gradio_api/call/{name}", json=body)
        if answer.status_code != 200:
            raise Lost(f"{name}: status {answer.status_code}")
        return str(answer.json()["event_id"])

    def _heard(self, name: str, event: str, until: float = math.inf) -> tuple[float, Any]:
        """Hear an event to its end; return when its first word came, and its last."""
        kind, last, first = "", None, 0.0
        with self._web.stream("GET", f"/gradio_api/call/{name}/{event}") as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                    first = first or (time.monotonic() if kind != "heartbeat" else 0.0)
                    self.begun = self.begun or first > 0
                    if time.monotonic() > until:
                        raise Lost(f"{name}: it did not end after a press of Cancel")
                elif line.startswith("data: "):
                    data = json.loads(line[6:])
                    if kind == "error":
                        said = data.get("error") if isinstance(data, dict) else data
                        raise Lost(f"{name}: {said or 'an error without words'}")
                    if kind in ("complete", "generating") and data:
                        last = data[0]
        if kind != "complete":
            raise Lost(f"{name}: ended with '{kind}'")
        return first, last


@cache
def _config(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}config", timeout=60).json()


def layers(url: str) -> int:
    """Return how many layers the page's model has."""
    return (
        1
        + next(one for one in _config(url)["components"] if one["props"].get("elem_id") == "block")["props"]["maximum"]
    )


@cache
def arrival(url: str) -> tuple[int, list[Any]]:
    """Return the number of what a page does when it opens, and the values that a fresh one sends."""
    config = _config(url)
    values = {part["id"]: part["props"].get("value") for part in config["components"]}
    event = next(one for one in config["dependencies"] if one["api_name"] == "on_arrival")
    return event["id"], [values[part] for part in event["inputs"]]


def is_cancelled(gave: Any) -> bool:
    """Tell whether an edit was cancelled: in its steps, or in the gate, which then gives no word."""
    return gave["stop_reason"] == "cancelled" or (bool(gave["patch"]) and gave["gate"] is None)


def plain(gave: Any) -> Any:
    """Return what an endpoint gave without what is measured anew each time."""
    if isinstance(gave, dict):
        return {key: plain(value) for key, value in gave.items() if key not in VARYING}
    return [plain(value) for value in gave] if isinstance(gave, list) else gave
