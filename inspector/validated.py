"""Settings and records checked by pydantic when they are made; what is wrong is an error of this program's family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field, ValidationError

from inspector.errors import InspectorError

_Kind = TypeVar("_Kind", bound=type)
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
        return f"The {what} {name} = '{value}' is unknown. Valid values: {_listed(first['ctx']['expected'])}."
    reason = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    # A number that came as text is shown as the number that it is.
    shown = value if isinstance(value, str) and not kind.endswith(("_parsing", "_type")) else repr(value)
    return f"The {what} {name} = {shown} is out of range: it {reason}. Choose another value."


def _listed(expected: str) -> str:
    return expected.replace("'", "").replace(" or ", ", ")
