"""What every command line shares: which model, which prompt format, which case; what it prints and how it ends.

What a command has found or done is JSON on its output and nothing else is; words for people, progress and tables go
to the error stream. Exit codes: 0; 1 where the answer is no (refused by the gate, another edit, a failed case, nothing
fits); 2 when it cannot be done, with the reason and the remedy; 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from inspector.divergence import Padding
from inspector.errors import CaseError, EditError, InspectorError
from inspector.model import (
    SUFFIX,
    InspectedModel,
    PromptFormat,
    load,
    max_memory_entries,
    placing,
    read_max_memory,
    read_paths,
)
from inspector.model.embedded import NAME as EMBEDDED
from inspector.model.loading import TYPES
from inspector.model.whole_file import may_be_made
from inspector.safeedit import Case, Constraint, bundled_cases
from inspector.safeedit.layouts import SPLITS, read_cases

Loader = Callable[[argparse.Namespace], InspectedModel]
"""Loads the model that a command's options name; tests give their own."""


def finished(work: Callable[[], int | None], stopped: str = "Stopped.") -> int:
    """Do a command's work; what stands against it is told in its own words.

    Args:
        stopped: What is told when it is interrupted.

    Returns:
        The exit code: what the work returned, 0 for nothing; 2 when it cannot be done, 130 when interrupted.
    """
    try:
        return work() or 0
    except InspectorError as error:
        print(f"Error: {error.operator_message()}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"Error: {error}. Choose another place, or make room there.", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return 130
    return 2


def tell(record: Any) -> None:
    """Print what was found or done as JSON, which has no word for a number that is not finite: it is null there."""
    print(json.dumps(_finite(record), indent=1, allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(words: str) -> None:
    """Print something for people to the error stream."""
    print(words, file=sys.stderr, flush=True)


def require_target(path: Path, option: str = "--out", makes_folder: bool = True) -> None:
    """Refuse, before anything is computed for it, a file that could not be written in the end.

    Args:
        option: What names it.
        makes_folder: Its folder is made with it, else that has to be there.

    Raises:
        EditError: It is a folder itself, or its own is none, cannot be made or may not be written to.
    """
    folder = path.absolute().parent
    if path.is_dir() or not may_be_made(folder) or not (makes_folder or folder.is_dir()):
        raise EditError(
            "That file cannot be written: it is a folder, or its own is not there or not to be written to. Give "
            f"another file's path with {option}.",
            str(path),
        )


def add_model(parser: argparse.ArgumentParser, device: str = "auto", dtype: str = "auto") -> None:
    """Add the options of the model, with the command's own device and type unless others are given."""
    parser.add_argument("--model", help="hub id or path; the embedded model by default")
    parser.add_argument("--revision", help="of a hub model")
    parser.add_argument("--device", default=device, help=f"auto, cpu, cuda or cuda:1 (default: {device})")
    parser.add_argument("--dtype", default=dtype, help=f"{TYPES} (default: {dtype})")
    add_spread(parser)
    add_path(parser)


def add_path(parser: Any) -> None:
    """Add the option that completes the architecture map, to a parser or a group of one."""
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="NAME=DOTTED.PATH",
        help="where a part of an unknown model family is, for example blocks=model.layers; repeatable",
    )


def add_spread(parser: Any) -> None:
    """Add the options that spread a large model, to a parser or a group of one."""
    parser.add_argument("--device-map", choices=["auto"], help="spread a large model over cards, CPU memory and disk")
    parser.add_argument(
        "--max-memory",
        action="append",
        default=[],
        metavar="DEVICE=SIZE",
        help="with --device-map: what a card or cpu may hold of it, 0=70GiB or cpu=200GiB; repeatable",
    )


def load_model(chosen: argparse.Namespace) -> InspectedModel:
    """Load the model that the options of :func:`add_model` name.

    Raises:
        ModelLoadError: See :func:`inspector.model.load`.
        ArchitectureError: See there.
    """
    return load(
        chosen.model,
        device=chosen.device,
        dtype=chosen.dtype,
        revision=chosen.revision,
        device_map=chosen.device_map,
        max_memory=read_max_memory(chosen.max_memory),
        paths=read_paths(chosen.path),
    )


def model_options(model: InspectedModel) -> list[str]:
    """Return the options of :func:`add_model` that name a model, in its data type and where its parts are."""
    named = [] if model.name == EMBEDDED else ["--model", model.name]
    revision = [] if model.revision is None else ["--revision", model.revision]
    paths = [part for name, path in model.paths.items() for part in ("--path", f"{name}={path}")]
    return [*named, *revision, *_placed(model), "--dtype", model.dtype_name, *paths]


def _placed(model: InspectedModel) -> list[str]:
    """Return the options that put a model's parts where they are."""
    given = placing(model)
    held = max_memory_entries(given.pop("max_memory", {}))
    options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return [*options, *(part for entry in held for part in ("--max-memory", entry))]


def add_layer(parser: Any, several: bool = False, **option: Any) -> None:
    """Add the option of the layer, to a parser or a group of one.

    Commands said ``--block`` once; what was written down then still runs, and help does not tell of it.

    Args:
        several: It takes layers, ``--layers``.
        option: What else ``add_argument`` takes.
    """
    name = "layers" if several else "layer"
    parser.add_argument(f"--{name}", **option)
    option |= {"dest": name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    parser.add_argument("--blocks" if several else "--block", **option)


def add_padding(parser: Any) -> None:
    """Add the option of the padding side where a case is located, to a parser or a group of one."""
    parser.add_argument(
        "--padding",
        default="right",
        choices=get_args(Padding),
        help="where paper and reference locate (default: right; the released code's for Mistral: left)",
    )


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


def add_case(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a case: a record of a case file, the bundled ones by default, or texts."""
    parser.add_argument("--cases", default="bundled", help="bundled, a file, a folder, or zjunlp/SafeEdit on the hub")
    parser.add_argument("--split", default="test", choices=SPLITS, help="split of a folder or the hub (default: test)")
    parser.add_argument("--case", help="id of a record; the first that may be edited on by default")
    parser.add_argument("--question", help="a question of one's own; --safe and --unsafe belong to it")
    parser.add_argument("--prompt", help="the question in its attack (default: the question alone)")
    parser.add_argument("--safe", help="the safe answer to it")
    parser.add_argument("--unsafe", help="the unsafe answer to it")
    parser.add_argument("--constraint-prompt", help="a harmless question whose answer an edit by the paper has to keep")
    parser.add_argument("--constraint-answer", help="the answer to that one")


def case_of(chosen: argparse.Namespace) -> Case:
    """Return the case that the options of :func:`add_case` name.

    Raises:
        CaseError: There is no such record, or texts are missing.
    """
    texts = (chosen.question, chosen.safe, chosen.unsafe)
    kept = (chosen.constraint_prompt, chosen.constraint_answer)
    if any(text is not None for text in (*texts, chosen.prompt, *kept)):
        if not all(texts):
            raise CaseError("A case of one's own needs --question, --safe and --unsafe. Give all three.")
        if any(kept) and not all(kept):
            raise CaseError(
                "A constraint is a question with its answer. Give --constraint-prompt and --constraint-answer."
            )
        constraint = Constraint(*kept) if all(kept) else None
        return Case(
            chosen.question, chosen.prompt or chosen.question, chosen.safe, chosen.unsafe, constraint=constraint
        )
    if chosen.cases == "bundled" and chosen.case is None:
        return next(case for case in bundled_cases() if case.split == "edit")
    found = read_cases(chosen.cases, chosen.split).cases
    if chosen.case is None:
        return found[0]
    for case in found:
        if str(case.identifier) == chosen.case:
            return case
    raise CaseError(f"There is no case {chosen.case} in {chosen.cases}. Its ids: {_ids(found)}.")


def _ids(cases: Any) -> str:
    named = [str(case.identifier) for case in cases if case.identifier is not None]
    return ", ".join(named[:20]) + (" and others" if len(named) > 20 else "") if named else "none"
