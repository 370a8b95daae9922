"""The labelled prompts that a detector is fitted on and measured with."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inspector.errors import CaseError
from inspector.model import PromptFormat
from inspector.safeedit.cases import Split, Template, bundled_constraint_prompts, bundled_templates
from inspector.safeedit.harmful_sets import SETS, harmful_prompts
from inspector.safeedit.questions import ASK_SUMMARY
from inspector.safeedit.sets import (
    PACKAGE,
    contrasts,
    facts,
    false_alarm_prompts,
    harmful_questions,
    harmless_prompts,
    held_out_cases,
    passages,
    spread,
)

_ALL = 10_000
"""More than any of the sets has."""
FOLDS = 5
"""Groups of texts, with templates of their own, that are held out in turn."""


@dataclass(frozen=True)
class Sample:
    """One labelled prompt.

    Attributes:
        text: The user's text.
        harmful: Whether the question in it is.
        bare: The question without a template: texts that share it are held out together.
        category: Unsafety category of a harmful question, empty for one of the contrasts; the type of a file's prompt.
        look_alike: A harmless prompt that sounds like a harmful one.
        language: Of the template; empty for a bare question.
        template: The template's name; empty for a bare question.
        fold: Texts of one fold share neither question nor template with those of another.
    """

    text: str
    harmful: bool
    bare: str
    category: str = ""
    look_alike: bool = False
    language: str = ""
    template: str = ""
    fold: int = 0

    @property
    def wrapped(self) -> bool:
        """Whether it stands in an attack template."""
        return self.text != self.bare


def samples(split: Split) -> tuple[Sample, ...]:
    """Return the labelled prompts of a split.

    To fit, each text stands in one form, every third bare and the others in a template of its fold, which come round
    in turn: another question teaches more than another template around the same one. To measure, each stands bare and
    in two templates.

    Args:
        split: ``detector`` to fit, ``development`` to choose settings, ``score`` to measure.
    """
    one = split == "detector"
    templates = bundled_templates(split)
    if split == "detector":
        templates = (*bundled_templates("edit"), *templates)
    bare = [Sample(h.prompt, False, h.prompt, look_alike=h.look_alike) for h in false_alarm_prompts(split)]
    harmful = [Sample(q.question, True, q.question, q.category) for q in harmful_questions(split)]
    if split == "detector":
        bare = [*(Sample(text, False, text) for text in bundled_constraint_prompts()), *bare]
        words = contrasts()
        bare += [Sample(one.prompt, False, one.prompt, look_alike=True) for one in words if not one.harmful]
        harmful += [Sample(one.prompt, True, one.prompt) for one in words if one.harmful]
    return tuple(sample for part in (harmful, bare) for sample in _in_form(part, templates, one))


def packaged_samples(each: int = 120) -> tuple[Sample, ...]:
    """Return prompts of others' collections, which no detector was fitted on; for benchmarks alone.

    Harmful ones are of HarmBench, Do-Not-Answer and AdvBench, their set is their category; harmless ones are questions
    of NQ-open and documents of XSum to be summarised. Each stands bare and in a template of the split ``development``.

    Args:
        each: Prompts of each set, at even distances.

    Raises:
        CaseError: The packages that ship them are not installed (``requirements-bench.txt``).
    """
    harmful = [
        Sample(prompt.text, True, prompt.text, SETS[name].title)
        for name in SETS
        for prompt in spread(harmful_prompts(name), each)
    ]
    asked = [fact.question for fact in spread(facts(PACKAGE, _ALL), each)]
    asked += [f"{text.text}\n\n{ASK_SUMMARY}" for text in spread(passages(PACKAGE, _ALL), each // 4)]
    harmless = [Sample(text, False, text) for text in dict.fromkeys(asked)]
    return _bare_and_wrapped(harmful, harmless)


def stress_samples() -> tuple[Sample, ...]:
    """Return what a stress test asks of every edit, which no detector was fitted on.

    Questions of the held-out cases and the harmless prompts; each stands bare and in a template of the split
    ``development``.
    """
    harmful = [Sample(case.question, True, case.question, case.category) for case in held_out_cases()]
    harmless = [Sample(h.prompt, False, h.prompt, look_alike=h.look_alike) for h in harmless_prompts()]
    return _bare_and_wrapped(harmful, harmless)


def _bare_and_wrapped(*parts: Sequence[Sample]) -> tuple[Sample, ...]:
    templates = bundled_templates("development")
    return tuple(
        sample
        for part in parts
        for number, bare in enumerate(part)
        for sample in (bare, _wrapped(bare, templates[number % len(templates)]))
    )


def labelled_samples(path: Path) -> tuple[Sample, ...]:
    """Return the prompts of a CSV file, each bare; for benchmarks and for those who have texts of their own.

    It has a column ``prompt`` and one that says which are harmful: ``harmful`` (true, false, 1, 0) or ``label`` (safe,
    unsafe), or ``type``, of which those that begin with "contrast" are harmful, as in XSTest (Röttger et al. 2024). The
    type is the category. A harmless prompt counts as a look-alike.

    Raises:
        CaseError: The file cannot be read, or lacks these columns, or has a label that is none of these.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaseError("The prompts cannot be read. Give a CSV file in UTF-8.", f"{path}: {error}") from error
    found = []
    for number, row in rows:
        text, kind = (row.get("prompt") or "").strip(), (row.get("type") or "").strip()
        harmful = _is_harmful(row)
        if not text or harmful is None:
            raise CaseError(
                f"The row that ends in line {number} has no prompt, or does not say whether it is harmful. Give a "
                "column 'prompt' and one of 'harmful' (true, false), 'label' (safe, unsafe), 'type' (contrast... is "
                "harmful).",
                str(path),
            )
        found.append(Sample(text, harmful, text, kind, look_alike=not harmful))
    if not found:
        raise CaseError("The file has no prompts. Give a CSV file with a column 'prompt'.", str(path))
    return tuple(dict.fromkeys(found))


def _is_harmful(row: Mapping[str, str | None]) -> bool | None:
    said = next((value.strip().lower() for name in ("harmful", "label") if (value := row.get(name))), None)
    if said is not None:
        return {"true": True, "1": True, "unsafe": True, "false": False, "0": False, "safe": False}.get(said)
    kind = row.get("type")
    return kind.startswith("contrast") if kind else None


def _wrapped(bare: Sample, template: Template) -> Sample:
    return replace(bare, text=template.fill(bare.bare), language=template.language, template=template.name)


def _in_form(bare: Sequence[Sample], templates: Sequence[Template], one: bool) -> list[Sample]:
    found = []
    waiting = [itertools.cycle(templates[fold::FOLDS]) for fold in range(FOLDS)]
    for number, sample in enumerate(bare):
        turn, fold = divmod(number, FOLDS)
        if not one or turn % 3 == 0:
            found.append(replace(sample, fold=fold))
        for template in itertools.islice(waiting[fold], 2 if not one else turn % 3 > 0):
            found.append(replace(_wrapped(sample, template), fold=fold))
    return found


def drawn(texts: Sequence[Sample], formats: Sequence[PromptFormat]) -> list[PromptFormat]:
    """Return each text's format, drawn with a fixed seed: taken in turn it would tell bare texts from wrapped ones."""
    return [formats[number] for number in np.random.default_rng(0).integers(len(formats), size=len(texts))]
