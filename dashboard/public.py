"""Opening the page to others: who may come in, what each may ask, and what is written of it; read from the options."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from dashboard.kit.limits import DEMO, OTHERS, Limits

THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
PASSWORDS, PUBLIC = "DINM_INSPECTOR_AUTH", "DINM_INSPECTOR_PUBLIC"
"""Variables of the environment: USER:PASSWORD, several divided by white space; 1 for ``--public``."""
BOUNDS = {
    "max_tokens": ("tokens", 1, "tokens of one answer"),
    "max_steps": ("steps", 1, "updates of one edit"),
    "max_prompts": ("prompts", 1, "prompts of one stress test"),
    "runs_an_hour": ("runs_an_hour", 1, "runs of one visitor an hour"),
    "runs_in_line": ("in_line", 1, "long runs of one address that stand in line at once"),
    "events_a_minute": ("events", 1, "events of one visitor a minute: what is typed, picked and opened among them"),
    "visitor_memory": ("stored", 2**20, "MiB that a visitor's edits and results may take"),
    "max_upload": ("upload", 2**20, "MiB of one file, where the page takes files"),
    "files_an_hour": ("files", 2**20, "MiB of saved edits that are written for a visitor an hour"),
    "free_disk": ("free", 2**20, "MiB of the disk that stay free when saved edits are written"),
}
"""Options that bound a visitor: the field of :class:`Limits`, its unit, what it is."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of opening the page to others."""
    others = parser.add_argument_group("opening it to others")
    others.add_argument(
        "--public",
        action="store_true",
        default=os.environ.get(PUBLIC) == "1",
        help=f"let others in without a login; else --share and other hosts need one (or set {PUBLIC}=1)",
    )
    others.add_argument(
        "--auth-file",
        type=Path,
        default=None,
        metavar="FILE",
        help=f"logins, USER:PASSWORD a line, in a file that only you can read (or set {PASSWORDS})",
    )
    others.add_argument(
        "--allow-source",
        action="append",
        default=None,
        metavar="NAME",
        help="a judge or dataset (hub id, folder, file) that visitors may name; repeatable. Any on a page of your own, "
        "none where others come in",
    )
    for option, (field, unit, words) in BOUNDS.items():
        own, theirs = (getattr(limits, field) for limits in (Limits(), OTHERS))
        shown = [f"{value // unit:,}" if value is not None else "any number" for value in (own, theirs)]
        others.add_argument(
            f"--{option.replace('_', '-')}",
            type=_whole,
            default=None,
            metavar="N",
            help=f"{words} (default: {shown[0]}, {shown[1]} where others come in)",
        )
    others.add_argument(
        "--log",
        default=None,
        metavar="FILE",
        help="write events as JSON lines, without any text of a visitor; - for stderr",
    )
    others.add_argument(
        "--metrics",
        type=_address,
        default=None,
        metavar="[HOST:]PORT",
        help="answer Prometheus at /metrics of this port of its own (default host: 127.0.0.1)",
    )


def _whole(text: str) -> int:
    number = int(text)
    if not 0 < number < 2**40:
        raise argparse.ArgumentTypeError("give a whole number above 0")
    return number


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    number = int(port)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError("give a port from 1 to 65535")
    return host.strip("[]") or "127.0.0.1", number


def reached_by_others(chosen: argparse.Namespace) -> bool:
    """Tell whether someone else than this machine's users can reach the page without anything before it."""
    return chosen.share or chosen.host not in THIS_MACHINE


def others_come_in(chosen: argparse.Namespace, asks_login: bool = False) -> bool:
    """Tell whether the page is for others: they reach it, or it was opened to them, whatever the host.

    A proxy may stand before this machine's own address, and then all that is said of others holds as well.

    Args:
        asks_login: Visitors log in.
    """
    return reached_by_others(chosen) or chosen.public or asks_login


def logins(chosen: argparse.Namespace) -> list[tuple[str, str]] | None:
    """Return users with their passwords: of the command line, the file, the environment; ``None`` for no login.

    Raises:
        ValueError: One is not USER:PASSWORD, or the file cannot be read or can be read by others.
    """
    found: list[tuple[str, str]] = []
    if chosen.auth:
        print("Warning: a password given with --auth is seen in the process list; see --auth-file.", file=sys.stderr)
        found.append(_login(chosen.auth, "--auth needs USER:PASSWORD"))
    if chosen.auth_file is not None:
        try:
            if os.name != "nt" and stat.S_IMODE(chosen.auth_file.stat().st_mode) & 0o077:
                raise ValueError(f"others can read {chosen.auth_file}. Run: chmod 600 {chosen.auth_file}")
            lines = chosen.auth_file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ValueError(f"{chosen.auth_file} cannot be read ({error.strerror}). Check --auth-file.") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{chosen.auth_file} is no text in UTF-8. Check --auth-file.") from error
        known = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not known:
            raise ValueError(f"{chosen.auth_file} names no login. Write USER:PASSWORD into it, one a line.")
        found += [_login(line, f"every line of {chosen.auth_file} needs USER:PASSWORD") for line in known]
    found += [_login(text, f"{PASSWORDS} needs USER:PASSWORD") for text in os.environ.get(PASSWORDS, "").split()]
    return found or None


def _login(text: str, wrong: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    if not user or not password:
        raise ValueError(wrong)
    return user, password


def require_decision(chosen: argparse.Namespace, known: list[tuple[str, str]] | None) -> None:
    """Refuse to let others in without a login, unless that is said.

    Raises:
        ValueError: Neither a login nor ``--public`` was given.
    """
    if reached_by_others(chosen) and known is None and not chosen.public:
        raise ValueError(
            "others can reach this page with --share or this --host: ask them to log in (--auth-file), or let anyone "
            "in (--public)"
        )


def limits_of(chosen: argparse.Namespace, asks_login: bool = False) -> Limits:
    """Return what one visitor may ask, as the options have it.

    Args:
        asks_login: Visitors log in.
    """
    base = DEMO if chosen.read_only else OTHERS if others_come_in(chosen, asks_login) else Limits()
    given: dict[str, Any] = {
        field: getattr(chosen, option) * unit
        for option, (field, unit, _) in BOUNDS.items()
        if getattr(chosen, option) is not None
    }
    if chosen.allow_source is not None:
        given["sources"] = frozenset(chosen.allow_source)
    return replace(base, **given)
