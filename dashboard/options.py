"""The options of the command line that opens the dashboard."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from dashboard import public


def options() -> argparse.ArgumentParser:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="See where a model's safe and unsafe answers part, edit it there with DINM, and compare.",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        action="append",
        default=None,
        metavar="NAME",
        help="hub id, folder or .gguf file (default: embedded SmolLM2-135M); repeat it to list more, which are loaded "
        "as the first one is when somebody chooses them in the head of the page, or under Two models",
    )
    model.add_argument("--revision", default=None, help="branch, tag or commit of a hub model")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    model.add_argument(
        "--dtype", default="auto", help="auto, float32, bfloat16, float16, nf4, fp4, int8 or fp8 (default: auto)"
    )
    model.add_argument(
        "--device-map", default=None, choices=["auto"], help="spread a large model over cards, CPU memory and disk"
    )
    model.add_argument(
        "--max-memory",
        action="append",
        default=[],
        metavar="DEVICE=SIZE",
        help="with --device-map: what a card or cpu may hold of it, 0=70GiB or cpu=200GiB; repeatable",
    )
    model.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="NAME=DOTTED.PATH",
        help="where a part of an unknown model family is, for example blocks=model.layers; repeatable",
    )
    model.add_argument(
        "--no-calibration",
        dest="calibrate",
        action="store_false",
        help="do not calibrate the model in the background (see python -m editing.calibrate)",
    )
    model.add_argument(
        "--no-example",
        dest="example",
        action="store_false",
        help="start with an empty page: do not show, or make in the background, a finished example",
    )
    server = parser.add_argument_group("server")
    # A Hugging Face Space names the address in this variable.
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    server.add_argument("--host", default=host, help="address to listen on (default: 127.0.0.1)")
    server.add_argument("--port", type=int, default=None, help="port (default: first free one from 7860)")
    server.add_argument("--share", action="store_true", help="make a public link through Gradio's servers")
    server.add_argument(
        "--auth", default=None, metavar="USER:PASSWORD", help="ask visitors to log in; better --auth-file, see below"
    )
    server.add_argument("--read-only", action="store_true", help="demo mode: bundled examples only, no free text")
    server.add_argument(
        "--keep-for",
        type=_number_of("minutes", 1e6),
        default=120,
        metavar="MINUTES",
        help="keep what a visitor has done so long after they were last there; a reload finds it (default: 120)",
    )
    server.add_argument(
        "--session-memory",
        type=_number_of("gigabytes", 1e6),
        default=4,
        metavar="GB",
        help="what all visitors' edits and results may hold together; the longest unseen go first (default: 4)",
    )
    server.add_argument(
        "--mcp", action="store_true", help="also offer what only reads as tools at /gradio_api/mcp/ (PROGRAMS.md)"
    )
    server.add_argument(
        "--links-for",
        type=_number_of("hours", 1e5),
        default=168,
        metavar="HOURS",
        help="keep what a copied link stands for so long, in memory (default: 168, a week)",
    )
    server.add_argument(
        "--ledger",
        type=Path,
        default=None,
        metavar="FILE",
        help="write all visits' edits into this SQLite file, with the texts of their cases unless --read-only "
        "(default: in memory, without)",
    )
    server.add_argument("--open", action="store_true", help="open a browser")
    public.add_options(parser)
    return parser


def _number_of(what: str, below: float) -> Callable[[str], float]:
    """Return what reads a number of something that is above 0 and below a bound."""

    def read(text: str) -> float:
        number = float(text)
        if not 0 < number < below:
            raise argparse.ArgumentTypeError(f"give a number of {what} above 0 and below {below:,.0f}")
        return number

    read.__name__ = what  # argparse names what is no number by it
    return read
