"""The waiting page: the port listens before anything is loaded, and says what is being loaded.

Nothing but the standard library is imported here, so that the port is open a moment after the program starts. The page
asks how far it is, and meanwhile lets the browser fetch and compile the dashboard's scripts. Once the dashboard has
taken the port over, the page puts the dashboard's HTML in its own place: the document stays, and with it those scripts.
If anything about that goes another way than expected it loads itself anew.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import socket
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dashboard.front_end import BELOW, KEEP, KINDS, content_of, folder_of_scripts, needed_first

FIRST_PORT, PORTS = 7860, 100
"""The first port that is tried where none is named, and how many after it, as Gradio does."""
STATUS = "/opening.json"
STATE = "X-DINM-Inspector"
"""Header by which the page knows that it is still the waiting page that answers."""
PASSING = {"Cache-Control": "no-store", "Retry-After": "1"}
"""Headers of an answer that is right only now."""
LOADING = json.dumps({"detail": "The dashboard is still loading."}).encode()
STAYS = 3.0
"""Seconds for which a failure is told to pages that are open."""


@dataclass(frozen=True)
class Stage:
    """What is being done.

    Attributes:
        text: In plain words.
        share: How far the whole is, 0 to 1.
        failed: It has ended here, and ``text`` says why.
    """

    text: str = "Starting"
    share: float = 0.0
    failed: bool = False


class Opening:
    """A small server that holds the port until the page is there.

    Args:
        host: Address to listen on.
        port: The port; the first free one from :data:`FIRST_PORT` on by default.

    Raises:
        OSError, OverflowError: No such port can be had.
    """

    def __init__(self, host: str, port: int | None = None) -> None:
        self._stage, self._began = Stage(), time.monotonic()
        self._told, self._asked = threading.Event(), False
        self._server = _listening(host, port)
        self._server.opening = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="opening", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is held."""
        return self._server.server_address[1]

    def say(self, text: str, share: float) -> None:
        """Tell what is being done now."""
        self._stage = Stage(text, share)

    def fail(self, text: str) -> None:
        """Tell pages that are open what went wrong, then close."""
        self._stage = replace(self._stage, text=text, failed=True)
        if self._asked:
            self._told.wait(STAYS)
        self.close()

    def close(self) -> None:
        """Give the port up; a second time does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def status(self) -> dict[str, Any]:
        """Return what the page asks for."""
        self._asked, stage = True, self._stage
        if stage.failed:
            self._told.set()
        seconds = round(time.monotonic() - self._began, 1)
        return {"text": stage.text, "share": stage.share, "failed": stage.failed, "seconds": seconds}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it would share the port of another program
    opening: Opening

    def __init__(self, *given: Any) -> None:
        self.packed: dict[Path, bytes] = {}  # of scripts, so that nobody's asking keeps the processor from loading
        super().__init__(*given)


class _Answer(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == STATUS:
            self._send(200, "application/json", json.dumps(self.server.opening.status()).encode())
        elif script := _scripts().get(path):
            self._send_script(script)
        elif self.headers.get("Accept", "*/*").startswith(("text/html", "*/*")):
            # 503, so that a program that asks for the page does not take this one for it.
            self._send(503, "text/html; charset=utf-8", page().encode())
        else:
            self._send(503, "application/json", LOADING)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self._send(503, "application/json", LOADING)

    def _send_script(self, script: Path) -> None:
        """Send a script or a style, to be kept as what the dashboard's server sends."""
        headers = {"Cache-Control": KEEP, "Vary": "Accept-Encoding"}
        if "gzip" in self.headers.get("Accept-Encoding", "").replace(" ", "").split(","):
            packed = self.server.packed
            if script not in packed:
                packed[script] = _gzip(content_of(script))
            self._send(200, KINDS[script.suffix], packed[script], {**headers, "Content-Encoding": "gzip"})
        else:
            self._send(200, KINDS[script.suffix], content_of(script), headers)

    def _send(self, code: int, kind: str, content: bytes, headers: Mapping[str, str] = PASSING) -> None:
        try:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")
            self.send_header(STATE, "opening")
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except OSError:  # who asked has gone; nobody is left to tell
            self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Write no line for each request."""


@functools.cache
def _scripts() -> dict[str, Path]:
    """Return Gradio's scripts and styles by their addresses."""
    return {f"{BELOW}{path.name}": path for path in folder_of_scripts().glob("*") if path.suffix in KINDS}


def _gzip(content: bytes) -> bytes:
    """Compress quickly: the program has better to do, and a browser on this machine needs none of it."""
    packing = zlib.compressobj(1, wbits=31)
    return packing.compress(content) + packing.flush()


def _listening(host: str, port: int | None) -> _Server:
    named = os.environ.get("GRADIO_SERVER_PORT")
    if port is None and named and named.isdecimal():
        port = int(named)
    tried = [port] if port is not None else list(range(FIRST_PORT, FIRST_PORT + PORTS))
    family = _Server if ":" not in host else type("_Server6", (_Server,), {"address_family": socket.AF_INET6})
    for number in tried:
        try:
            return family((host, number), _Answer)
        except OSError as error:
            if number == tried[-1] or error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no free port")


@functools.cache
def page() -> str:
    """Return the waiting page."""
    return PAGE.replace("NEEDED", json.dumps(needed_first()))


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>DINM Inspector is loading</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root { color-scheme: light dark; --line: #8a8f98; --fill: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --fill: #56b4e9; } }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; margin: 18vh auto 0;
  max-width: 36rem; padding: 0 1.5rem; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.4rem; margin: 0 0 1rem; }
#bar { height: .5rem; border: 1px solid var(--line); border-radius: .25rem; overflow: hidden; }
#fill { height: 100%; width: 0; background: var(--fill); transition: width .3s; }
.failed #bar { display: none; }
@media (prefers-reduced-motion: reduce) { #fill { transition: none; } }
</style></head><body><main><h1>DINM Inspector</h1>
<p id="said" role="status" aria-live="polite">Starting</p>
<div id="bar" role="progressbar" aria-label="Loading" aria-valuemin="0" aria-valuemax="100"><div id="fill"></div></div>
<p id="time"></p></main>
<noscript>The page is being loaded. Reload it in a few seconds.</noscript><script type="module">
const said = document.querySelector("#said"), bar = document.querySelector("#bar");
const show = (text) => { if (said.textContent !== text) said.textContent = text; };
let failed = false, near = false, silent = 0, whole = true;

// What the dashboard needs first is fetched, and its scripts are compiled. None runs before the page is there.
const get = (name) => new Promise((resolve, reject) => {
  const link = document.createElement("link"), style = name.endsWith(".css");
  Object.assign(link, style ? { rel: "preload", as: "style", crossOrigin: "" } : { rel: "modulepreload" });
  if (!link.relList.supports(link.rel)) return reject(); // an older browser, which would never tell of its end
  Object.assign(link, { onload: resolve, onerror: reject, href: `./assets/${name}` });
  document.head.append(link);
});
const ready = Promise.all(NEEDED.map((name) => get(name).catch(() => { whole = false; })));

async function takeOver() {
  await ready;
  if (!whole) return location.reload();
  const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!answer.ok || !page.querySelector("gradio-app")) return location.reload();
  for (const { name, value } of page.documentElement.attributes) document.documentElement.setAttribute(name, value);
  document.head.replaceWith(page.head);
  document.body.replaceWith(page.body);
  for (const script of document.querySelectorAll("script")) { // none runs that came in this way
    const again = document.createElement("script");
    for (const { name, value } of script.attributes) again.setAttribute(name, value);
    again.textContent = script.textContent;
    script.replaceWith(again);
  }
}

async function look() {
  try {
    const answer = await fetch("opening.json", { cache: "no-store" });
    if (answer.headers.get("X-DINM-Inspector") !== "opening") return takeOver().catch(() => location.reload());
    const now = await answer.json();
    silent = 0;
    failed = now.failed;
    near = now.share >= 0.6; // the page is being built, and the port changes hands next
    document.body.classList.toggle("failed", failed);
    show(failed ? `It could not be loaded. ${now.text}` : now.text);
    document.querySelector("#fill").style.width = `${100 * now.share}%`;
    bar.setAttribute("aria-valuenow", String(Math.round(100 * now.share)));
    document.querySelector("#time").textContent = failed ? "The program has ended." : `${Math.round(now.seconds)} s`;
  } catch {
    silent += 1; // the port changes hands just now, or the program has ended
    if (silent > (near ? 160 : 40)) show("The program does not answer any more. See where it was started.");
  }
  if (!failed) setTimeout(look, near ? 60 : 250);
}
look();
</script></body></html>"""
"""The waiting page; it needs nothing but itself, and Gradio's files to be quick."""
