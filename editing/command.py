"""What the command lines share: which model, which prompt format, how an error ends them, how far a run is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from editing.memory import memory_told
from editing.progress import Preparation
from inspector.errors import InspectorError
from inspector.model import SUFFIX, InspectedModel, PromptFormat, load

Loader = Callable[[argparse.Namespace], InspectedModel]
"""Loads the model that a command's options name; tests give their own."""


def add_model(parser: argparse.ArgumentParser, device: str = "auto", dtype: str = "auto") -> None:
    """Add the options of the model, with the command's own device and type unless others are given."""
    parser.add_argument("--model", help="hub id or path; the embedded model by default")
    parser.add_argument("--revision", help="of a hub model")
    parser.add_argument("--device", default=device, help=f"auto, cpu, cuda or cuda:1 (default: {device})")
    parser.add_argument("--dtype", default=dtype, help=f"auto, float32, bfloat16 or float16 (default: {dtype})")


def load_model(chosen: argparse.Namespace) -> InspectedModel:
    """Load the model that the options of :func:`add_model` name."""
    return load(chosen.model, device=chosen.device, dtype=chosen.dtype, revision=chosen.revision)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add the options of the prompt format in which edits are made and everything is asked."""
    parser.add_argument(
        "--suffix-prompt", default=SUFFIX, metavar="TEXT", help="S; empty for none (default: the paper's)"
    )
    parser.add_argument("--plain-text", action="store_true", help="prompts without the model's chat template")


def format_of(chosen: argparse.Namespace) -> PromptFormat:
    """Return the prompt format that the options of :func:`add_format` name."""
    return PromptFormat(chosen.suffix_prompt, chat=not chosen.plain_text)


def told_format(chosen: argparse.Namespace) -> str:
    """Say what is unusual about the prompt format, for a line of output; empty for the default."""
    label = format_of(chosen).label()
    return f" ({label})" if label else ""


def finished(work: Callable[[], None]) -> int:
    """Do a command's work; an error of this program, or too little memory, is told in its own words.

    Returns:
        The exit code: 0, or 2 when it cannot be done.
    """
    try:
        with memory_told():
            work()
    except InspectorError as error:
        print(f"Error: {error.user_message()}", file=sys.stderr)
        return 2
    return 0


def teller() -> Callable[[Preparation], None]:
    """Return what prints a run's progress to the error stream, a line a tenth."""
    said = -1

    def tell(event: Preparation) -> None:
        nonlocal said
        tenth = int(10 * event.fraction)
        if tenth > said:
            said = tenth
            print(f"  {event.message}, {100 * event.fraction:.0f} %", file=sys.stderr, flush=True)

    return tell
