"""DINM Inspector: open the dashboard. Options -> model -> launch; everything else lives in the packages."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import shlex
import signal
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from dashboard import public
from dashboard.kit.notes import LOGGER, write_to
from dashboard.options import options

if TYPE_CHECKING:
    import gradio

    from dashboard.opening import Opening
    from inspector.model import InspectedModel

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

NOT_OPENED = "The page could not be opened. Whoever has started the program is told why."
STOPPED = 128 + signal.SIGTERM
"""Exit code of a program that SIGTERM has ended."""


def main(arguments: list[str] | None = None) -> int:
    """Run the dashboard until it is interrupted."""
    parser = options()
    # A Space starts this file without options, and lets its owner set variables.
    before = shlex.split(os.environ.get("INSPECTOR_OPTIONS", ""))
    given = sys.argv[1:] if arguments is None else arguments
    chosen = parser.parse_args([*before, *given])
    # A list of models on the command line takes the place of the environment's.
    chosen.model = parser.parse_args(given).model or chosen.model
    if any("=" not in entry for entry in chosen.path):
        parser.error("--path needs NAME=DOTTED.PATH")
    paths = dict(entry.partition("=")[::2] for entry in chosen.path)
    try:
        auth = public.logins(chosen)
        public.require_decision(chosen, auth)
        chosen.asks_login = auth is not None
    except ValueError as error:
        parser.error(str(error))
    if chosen.mcp and auth is not None:
        parser.error("--mcp goes with no login: programs that use tools cannot log in here")
    if chosen.mcp and find_spec("mcp") is None:
        parser.error("--mcp needs the package mcp: python -m pip install -r requirements-mcp.txt")
    try:
        log = write_to(chosen.log)
    except OSError as error:
        parser.error(f"{chosen.log} cannot be written ({error.strerror}); choose another --log")
    try:
        with ended_by_sigterm(), private_copies():
            return serve(chosen, paths, auth)
    finally:
        LOGGER.removeHandler(log)
        log.close()


class Stopped(SystemExit):
    """The program was asked to end by SIGTERM."""


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the program by way of each ``finally``; a container's first process would not even hear it."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise Stopped(STOPPED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def private_copies() -> Iterator[None]:
    """Let Gradio keep its copies of what can be downloaded, answers among it, where only this user can read them.

    They are deleted when the program ends, however it is asked to. A folder named in the environment is used as it is.
    """
    if os.environ.get("GRADIO_TEMP_DIR"):
        yield
        return
    try:
        copies = tempfile.TemporaryDirectory(prefix="dinm-inspector-", ignore_cleanup_errors=True)
    except OSError:
        print(
            "Error: No folder for temporary files can be written. Name one in TMPDIR; to a container whose root is "
            "read-only, give one at /tmp.",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        with copies as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder
            yield
    finally:
        os.environ.pop("GRADIO_TEMP_DIR", None)


def serve(chosen: argparse.Namespace, paths: dict[str, str], auth: list[tuple[str, str]] | None) -> int:
    """Open the port, load the model and build the page behind it, and serve the page."""
    from dashboard.opening import Opening

    metrics: Callable[[], None] | None = None
    where = f"{chosen.host}, port {chosen.port or 'from 7860 on'}"
    taken = f"Error: The page cannot be served at {where}. Choose another --port or --host."
    try:
        opening = Opening(chosen.host, chosen.port)
    except (OSError, OverflowError):
        print(taken, file=sys.stderr)
        return 2
    try:
        with no_garbage_sought():
            page = load_page(chosen, paths, opening)
        if page is None:
            return 2
        app, options = page
        opening.close()
        try:
            _, address, public = app.launch(
                prevent_thread_lock=True,
                quiet=True,
                server_name=chosen.host,
                server_port=opening.port,
                share=chosen.share,
                auth=auth,
                _frontend=False,  # else the page is put together once for a look at whether it can be
                **options,
            )
        except OSError:
            print(taken, file=sys.stderr)
            return 2
        if chosen.metrics is not None:
            metrics = open_metrics(app, *chosen.metrics)
            if metrics is None:
                return 2
        print(f"DINM Inspector is running at {public or address} (stop it with Ctrl+C)", flush=True)
        if chosen.mcp:
            if app.mcp_error:
                print(f"Error: {app.mcp_error}. Run: python -m pip install -r requirements-mcp.txt", file=sys.stderr)
                return 2
            print(f"Its tools are at {(public or address).rstrip('/')}/gradio_api/mcp/", flush=True)
        with judge_imported_later():
            app.block_thread()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    finally:
        opening.close()
        if metrics is not None:
            metrics()
    return 0


@contextmanager
def no_garbage_sought() -> Iterator[None]:
    """Look for no garbage meanwhile: while a program is loaded hardly anything is, and each look goes through all else.

    What is there at the end counts as old, so that the next looks, which are for young objects, leave it out.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()
        gc.enable()


LATER = 15.0
"""Seconds after which the first page has long been drawn."""


@contextmanager
def judge_imported_later() -> Iterator[None]:
    """Import the judge's words while nobody waits for it: that takes half a second, which else the first answer has."""
    from inspector.safeedit.judges import profanity

    later = threading.Timer(LATER, profanity, (["."],))
    later.daemon = True
    later.start()
    try:
        yield
    finally:
        later.cancel()


def open_metrics(page: gradio.Blocks, host: str, port: int) -> Callable[[], None] | None:
    """Answer Prometheus; ``None`` where that address cannot be had, which was told."""
    from dashboard.metrics import serve_metrics

    try:
        return serve_metrics(page, host, port)
    except OSError:
        page.close(verbose=False)
        print(f"Error: There are no metrics at {host}, port {port}. Choose another --metrics.", file=sys.stderr)
        return None


@contextmanager
def no_interrupt_missed() -> Iterator[None]:
    """Raise an interrupt again that a package swallowed while it was imported, or made another error of."""
    missed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal missed
        missed = True
        signal.default_int_handler(number, frame)

    tell = sys.unraisablehook

    def tell_of_others(dropped: Any) -> None:
        # Imports end with callbacks of weak references. What is raised in one is printed and dropped by Python.
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            tell(dropped)

    before = signal.signal(signal.SIGINT, note)
    sys.unraisablehook = tell_of_others
    try:
        yield
    except Exception as error:
        if missed:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = tell
    if missed:
        raise KeyboardInterrupt


def load_page(
    chosen: argparse.Namespace, paths: dict[str, str], opening: Opening
) -> tuple[gradio.Blocks, dict[str, Any]] | None:
    """Load the model and build its page while the waiting page says how far that is.

    Gradio and torch are imported here, after their settings are in place and behind the open port. The model is read
    in a thread of its own while the page's modules are imported by this one, which is the one that hears an interrupt.

    Returns:
        The page and its options of launching; ``None`` after a failure, which was told.
    """
    listed: list[str | None] = chosen.model or [None]
    others = public.others_come_in(chosen, chosen.asks_login)
    name = "the model" if others else listed[0] or "the embedded model, SmolLM2-135M-Instruct"
    print(f"Loading {name}. The page is open at http://{chosen.host}:{opening.port}", flush=True)
    if chosen.open:
        webbrowser.open(f"http://{'localhost' if chosen.host == '0.0.0.0' else chosen.host}:{opening.port}")
    opening.say("Loading the program", 0.05)
    with no_interrupt_missed():
        from editing.memory import keep_few_pools
        from inspector.errors import InspectorError
        from inspector.model import load, read_max_memory
        from inspector.model.beside import Beside

    keep_few_pools()
    opening.say(f"Loading {name}", 0.3)
    loading: Beside[InspectedModel] | None = None
    try:
        how: dict[str, Any] = {
            "device": chosen.device,
            "dtype": chosen.dtype,
            "revision": chosen.revision,
            "device_map": chosen.device_map,
            "max_memory": read_max_memory(chosen.max_memory),
            "paths": paths or None,
        }

        def tell(text: str, share: float) -> None:
            if not others:
                opening.say(text, 0.3 + 0.3 * share)

        loading = Beside(lambda: load(listed[0], tell=tell, **how), "loading")
        with no_interrupt_missed():
            from dashboard.kit.shelf import Shelf, label_of
            from dashboard.page import build_app, launch_options

        model = loading.result()
        opening.say("Building the page", 0.6)
        if others:
            # A folder's path is the operator's: the name stands in records and reports.
            model.name, model.public = label_of(model.name), True
        limits = public.limits_of(chosen, chosen.asks_login)
        app = build_app(
            model,
            read_only=chosen.read_only,
            calibrate=chosen.calibrate,
            example=chosen.example,
            grace=60 * chosen.keep_for,
            most_bytes=1e9 * chosen.session_memory,
            links_for=3600 * chosen.links_for,
            ledger=chosen.ledger,
            limits=limits,
            shelf=Shelf(model, listed, how, named=others),
        )
        opening.say("Opening the page", 0.95)
        return app, launch_options(model, chosen.read_only, chosen.mcp, limits)
    except InspectorError as error:
        print(f"Error: {error.operator_message()}", file=sys.stderr)
        opening.fail(NOT_OPENED if others else error.user_message())  # which may name the operator's path
        return None
    except Exception:
        opening.fail(NOT_OPENED)
        if loading is not None:
            loading.wait()  # a thread that is in the middle of torch when Python ends would abort it
        raise


def run_and_end() -> NoReturn:
    """Run the program and, once it was stopped or has ended, end its process at once, whatever its threads are at.

    A run that comes back from torch while the interpreter takes itself down aborts it, and whoever stopped the program
    reads of a crash. What is registered first is called last, so all else that is to be done at the end has been done.
    """
    code = 1

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(end)
    try:
        code = main()
    except Stopped:
        code = STOPPED
        raise
    except BaseException:  # it has not begun, or this is a defect: nothing runs that would have to be left behind
        atexit.unregister(end)
        raise
    sys.exit(code)


if __name__ == "__main__":
    run_and_end()
