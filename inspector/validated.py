"""Settings and records checked by pydantic when they are made; what is wrong is an error of this program's family."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import field, fields
from functools import cache
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

import numpy as np
import pydantic
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from inspector.errors import InspectorError

_Kind = TypeVar("_Kind", bound=type)
_Value = TypeVar("_Value")
Array = Annotated[np.ndarray, BeforeValidator(np.asarray)]
"""An array, which a file holds as a list."""

_CHECKED = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def settings(error: type[InspectorError], what: str = "setting") -> Callable[[_Kind], _Kind]:
    """Make a class a frozen dataclass whose values are checked when it is made.

    Numbers that come as text are read, so that a command line needs no parser of its own.

    Args:
        error: What a wrong value raises; its text names the value, what is allowed, and the remedy.
        what: What the values are called there.
    """

    def made(kind: _Kind) -> _Kind:
        checked = pydantic.dataclasses.dataclass(frozen=True, config=_CHECKED)(kind)
        begin = checked.__init__

        def __init__(self: Any, *values: Any, **named: Any) -> None:  # noqa: N807
            # By name, so that a message can say which one is wrong.
            given = dict(zip((entry.name for entry in fields(self)), values, strict=False))
            try:
                begin(self, **given, **named)
            except ValidationError as found:
                raise error(sentence(found, what)) from None

        checked.__init__ = __init__  # type: ignore[method-assign]
        return checked  # type: ignore[return-value]

    return made


def read_record(kind: type[_Value], told: Any) -> _Value:
    """Return a dataclass of what a file held, its fields and those of its parts checked.

    Args:
        kind: The dataclass.
        told: What :func:`dataclasses.asdict` and JSON made of one.

    Raises:
        ValueError: An entry is missing, unknown or of another type; the message names it.
    """
    try:
        return record_reader(cast(Hashable, kind)).validate_python([told])[0]
    except ValidationError as found:
        raise ValueError(f"the record of a {kind.__name__} is broken at {broken_at(found)}") from None


@cache
def record_reader(kind: Hashable, strict: bool = False) -> TypeAdapter[Any]:
    """Return what reads lists of a dataclass; ``strict`` takes no text for a number."""
    # A list, as pydantic takes no configuration for a dataclass itself; the dataclasses inside inherit the list's.
    whole: Any = list[kind]  # type: ignore[valid-type]
    return TypeAdapter(whole, config=ConfigDict(strict=strict, extra="forbid", arbitrary_types_allowed=True))


def broken_at(found: ValidationError) -> str:
    """Say where a list of one record is broken, and how."""
    first = found.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'][1:])) or 'all of it'}: {first['msg']}"


def sentence(found: ValidationError, what: str = "setting") -> str:
    """Say the first thing that is wrong in two sentences, the last one the remedy."""
    first = found.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function"))
    kind, value = first["type"], first.get("input")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"There is no {what} '{name}'. Leave it out."
    if kind in ("missing", "missing_argument"):
        return f"The {what} '{name}' is missing. Add it."
    if kind == "literal_error":
        return (
            f"The {what} {name} = '{_cut(str(value))}' is unknown. Valid values: {_listed(first['ctx']['expected'])}."
        )
    reason = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    # A number that came as text is shown as the number that it is.
    shown = value if isinstance(value, str) and not kind.endswith(("_parsing", "_type")) else repr(value)
    return f"The {what} {name} = {_cut(shown)} is out of range: it {reason}. Choose another value."


def _cut(shown: str) -> str:
    """Return a value for a sentence: of one that is long its beginning."""
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def _listed(expected: str) -> str:
    return expected.replace("'", "").replace(" or ", ", ")
