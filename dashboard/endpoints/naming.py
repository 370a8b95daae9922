"""Named endpoints for programs: every parameter and every answer with its name, its type and its meaning.

Gradio takes parameters' names from a function, but calls them "1st" and "2nd" in what clients are told, and has no room
for a meaning. Both are read here from the hints: ``Annotated[str, Field(description=...)]`` for a parameter, a
``TypedDict`` whose docstring lists its ``Attributes`` for an answer.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import gradio as gr
from pydantic import TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from dashboard.kit.running.run import shown_to_user
from inspector.errors import CaseError

_ATTRIBUTE = re.compile(r"^(\w+): (.*)$")
_Read = TypeVar("_Read")


def named(function: Callable[..., Any], served: Callable[..., Any] | None = None) -> None:
    """Register an endpoint under its function's name; the docstring's text is its help.

    Args:
        function: Its hints and docstring are what clients are told.
        served: What runs, if it is not the function itself but wraps it.
    """
    checked = _checked(function, served or function)
    made = gr.api(checked, api_name=function.__name__, api_description=told(function.__doc__ or "")[0])
    blocks = gr.context.Context.root_block
    assert blocks is not None
    endpoint = blocks.fns[made["id"]]
    for part, (name, schema) in zip(endpoint.inputs, parameters(function).items(), strict=True):
        about = schema.pop("description", "")
        _tell(part, "input", name, {**schema, "additional_description": about})
    for part, schema in zip(endpoint.outputs, [answer(function)], strict=True):
        _tell(part, "output", schema.pop("title", "answer"), schema)


def _once(read: Callable[[Callable[..., Any]], _Read]) -> Callable[[Callable[..., Any]], _Read]:
    """Let something be read off the hints of each function once: every page makes its endpoints anew, by the same code.

    Each caller gets a copy.
    """
    known: dict[tuple[str, CodeType], _Read] = {}

    @functools.wraps(read)
    def of(function: Callable[..., Any]) -> _Read:
        key = function.__module__, function.__code__
        if key not in known:
            known[key] = read(function)
        return copy.deepcopy(known[key])

    return of


def _checked(function: Callable[..., Any], served: Callable[..., Any]) -> Callable[..., Any]:
    """Return an endpoint that looks at each value's type before anything is done: Gradio hands on whatever came."""
    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    looks = {
        name: TypeAdapter(hints[name])
        for name in signature.parameters
        if not _is_gradios(hints[name]) and not _is_of_files(hints[name])
    }

    def values_of(arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        given = signature.bind(*arguments, **named).arguments
        for name, look in looks.items():
            if name in given:
                given[name] = _looked_at(name, look, given[name])
        return given

    if inspect.isgeneratorfunction(served):

        @functools.wraps(served)
        def checked_stream(*arguments: Any, **named: Any) -> Iterator[Any]:
            with shown_to_user():
                given = values_of(arguments, named)
            yield from served(**given)

        return checked_stream

    @functools.wraps(served)
    def checked(*arguments: Any, **named: Any) -> Any:
        with shown_to_user():
            given = values_of(arguments, named)
        return served(**given)

    return checked


def _looked_at(name: str, look: TypeAdapter[Any], value: Any) -> Any:
    """Return a value as what its parameter is.

    Raises:
        CaseError: It is of another type; one of the right type that is none of those that there are is told elsewhere.
    """
    try:
        return look.validate_python(value)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False, include_input=False, include_context=False)
        if first["type"] == "literal_error" and isinstance(value, str):
            return value
        place = "".join(f", entry {at}" for at in first["loc"] if isinstance(at, int))
        said = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        raise CaseError(
            f"The value of '{name}'{place} is of the wrong type ({type(value).__name__}): {said}. See view_api()."
        ) from None


def _is_of_files(hint: Any) -> bool:
    """Tell whether files are given: whoever takes them in looks at what came."""
    return any(is_typeddict(one) for part in get_args(hint) for one in get_args(part))


def _tell(part: Any, side: str, name: str, schema: dict[str, Any]) -> None:
    part.label = name
    part._api_info = {}  # the page's configuration would hold it three times more
    setattr(part, f"api_info_as_{side}", lambda: schema)


@_once
def parameters(function: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each parameter that a client gives, by its name; ``description`` is its meaning."""
    hints = get_type_hints(function, include_extras=True)
    asked = [name for name in inspect.signature(function).parameters if not _is_gradios(hints[name])]
    return {name: _schema(hints[name]) for name in asked}


@_once
def answer(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the JSON schema of an endpoint's answer: of each part, for one that streams."""
    hint = get_type_hints(function, include_extras=True)["return"]
    if get_origin(hint) is not None and issubclass(get_origin(hint), Iterator):
        (part,) = get_args(hint)
        schema = _schema(part)
        return {**schema, "description": f"A stream of these. {schema.get('description', '')}".strip()}
    return _schema(hint)


def told(docstring: str) -> tuple[str, dict[str, str]]:
    """Return the text of a docstring and what its section ``Attributes`` says, by name."""
    text, _, section = inspect.cleandoc(docstring).partition("\nAttributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(section).splitlines():
        begun = _ATTRIBUTE.match(line)
        if begun:
            name = begun[1]
            found[name] = begun[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return " ".join(text.split()).replace("``", "'"), {key: value.replace("``", "'") for key, value in found.items()}


def _is_gradios(hint: Any) -> bool:
    return hint is gr.Request or gr.Request in get_args(hint)


def _schema(hint: Any) -> dict[str, Any]:
    """Return a hint as a JSON schema without references."""
    whole = TypeAdapter(hint).json_schema()
    return _plain(whole, whole.pop("$defs", {}))


def _plain(part: Any, known: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_plain(one, known) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        beside = {key: value for key, value in part.items() if key != "$ref"}
        return {**_plain(known[part["$ref"].rpartition("/")[2]], known), **beside}
    plain = {key: _plain(value, known) for key, value in part.items()}
    if isinstance(plain.get("properties"), dict):
        text, meanings = told(plain.get("description", ""))
        plain["description"] = text
        for name, entry in plain["properties"].items():
            entry.pop("title", None)
            if name in meanings:
                entry["description"] = meanings[name]
    return plain
