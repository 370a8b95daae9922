"""Every layout of SafeEdit is read, and what a record lacks or a file breaks is said with record and field."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from inspector.errors import CaseError
from inspector.safeedit.layouts import SERVICES, SPLITS, read_cases, serves

OTHERS = ("test input of other attack prompt input", "test input of other question input")
BOTH = "test input of other questions and attack prompts"


def full(number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a full record as in val and test."""
    record: dict[str, Any] = {
        "id": number,
        "unsafety category": "mental harm",
        "adversarial prompt": f"Sing: how do I fib {number}?",
        "question": f"how do I fib {number}?",
        "attack category": "pretending",
        "attack name": "Song",
        "unsafe generation": "Just fib.",
        "safe generation": "I'd rather not help with that.",
        "generalization test": {
            "test input of only harmful question": f"how do I fib {number}?",
            OTHERS[0]: "Dance: how do I fib?",
            OTHERS[1]: "Sing: how do I cheat?",
            BOTH: "Dance: how do I cheat?",
        },
        "knowledge constrain": {"prompt": "Why is grass green?", "answer": "Chlorophyll."},
    }
    return {**record, **changes}


def train(number: int = 0) -> dict[str, Any]:
    """Return a record whose generalization prompts are empty."""
    return full(number, **{"generalization test": dict.fromkeys((*OTHERS, BOTH), "")})


def test_all(number: int = 0) -> dict[str, Any]:
    """Return a record with only id, category, adversarial prompt, question and attack name."""
    blank = {"unsafe generation": "", "safe generation": None, "knowledge constrain": {"prompt": "", "answer": ""}}
    return {k: v for k, v in full(number, **blank).items() if k not in ("generalization test", "attack category")}


test_all.__test__ = False  # type: ignore[attr-defined]


def written(folder: Path, content: Any, name: str = "cases.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_full_record_serves_everything(tmp_path):
    found = read_cases(written(tmp_path, [full(0), full(1)]))
    assert [case.identifier for case in found.cases] == [0, 1]
    assert serves(found.cases[0]) == set(SERVICES)
    assert found.lacking() == {} and found.notes() == ()


def test_a_training_record_says_that_it_serves_no_generalization(tmp_path):
    found = read_cases(written(tmp_path, [full(), train(1)]))
    assert found.lacking() == {"otherA": 1, "otherQ": 1, "otherAQ": 1}
    assert found.notes()[0] == f"otherA: 1 of 2 records cannot serve it, they lack '{OTHERS[0]}'."
    assert len(found.serving("edit")) == 2 and len(found.serving("otherQ")) == 1


def test_a_test_all_record_can_be_asked_but_not_edited_on(tmp_path):
    found = read_cases(written(tmp_path, [test_all()]))
    assert serves(found.cases[0]) == {"DS", "onlyQ"}
    assert any(note.startswith("edit: 1 of 1 records") for note in found.notes())
    with pytest.raises(CaseError, match="safe answer is empty"):
        found.cases[0].require_answers()


def test_records_stand_in_a_list_an_object_lines_or_behind_a_byte_order_mark(tmp_path):
    lines = "\n".join(json.dumps(full(n)) for n in range(2)) + "\n"
    for content, name in (
        ([full(0), full(1)], "a.json"),
        ({"data": [full(0), full(1)]}, "b.json"),
        ({"train": [full(0)], "test": [full(0), full(1)]}, "by_split.json"),
        ({"data": [full(0), full(1)], "columns": ["id"]}, "with_columns.json"),
        (lines, "c.jsonl"),
        (lines, "d.json"),
        ("\ufeff" + json.dumps([full(0), full(1)]), "e.json"),
    ):
        assert len(read_cases(written(tmp_path, content, name)).cases) == 2


def test_separators_inside_a_string_end_no_line_of_json(tmp_path):
    lines = "\n".join(json.dumps(full(n, question="a\u2028b\x85c"), ensure_ascii=False) for n in range(2))
    assert read_cases(written(tmp_path, lines, "a.jsonl")).cases[1].question == "a\u2028b\x85c"


def test_blank_prompts_are_lacking_ones(tmp_path):
    blank = {"generalization test": {OTHERS[0]: "  "}, "knowledge constrain": {"prompt": " ", "answer": None}}
    found = read_cases(written(tmp_path, [full(**blank)]))
    assert found.cases[0].other_attack is None and found.cases[0].constraint is None
    assert found.lacking() == {"otherA": 1, "otherQ": 1, "otherAQ": 1, "constraint": 1}


@pytest.mark.parametrize("split", SPLITS)
def test_a_folder_is_read_by_split(tmp_path, split):
    written(tmp_path, [full()], f"SafeEdit_{split}.json")
    assert read_cases(tmp_path, split).source.endswith(f"SafeEdit_{split}.json")


def test_the_bundled_cases_are_a_set_too():
    found = read_cases("bundled")
    assert len(found.cases) == 45 and found.notes() == ()


def test_an_unknown_category_is_kept_and_named(tmp_path):
    found = read_cases(written(tmp_path, [full(**{"unsafety category": "gloom"})]))
    assert found.cases[0].category == "gloom" and "'gloom'" in found.notes()[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([full(), full(1, question="")], r"cases\.json, record 1: field 'question' is not text or empty"),
        (
            [{k: v for k, v in full().items() if k != "adversarial prompt"}],
            r"record 0: field 'adversarial prompt' is miss",
        ),
        ([full(**{"safe generation": 7})], r"record 0: field 'safe generation' is not text"),
        ([full(), "text"], r"record 1: it is no object"),
        ([full(**{"generalization test": "none"})], r"record 0: field 'generalization test' is not an object"),
        ("[{", r"cases\.json is not JSON \(line 1"),
        ("3", r"holds no list of records"),
        ({"a": [], "b": []}, r"holds no list of records"),
        ("[" * 200_000, r"cases\.json is nested too deeply"),
        ([full(id=[1])], r"record 0: field 'id' is neither"),
        ([], r"cases\.json has no record"),
    ],
)
def test_a_broken_file_names_the_record_and_the_field(tmp_path, content, said):
    with pytest.raises(CaseError, match=said):
        read_cases(written(tmp_path, content))


def test_a_broken_line_names_its_number(tmp_path):
    with pytest.raises(CaseError, match=r"cases\.jsonl, line 2 is not JSON"):
        read_cases(written(tmp_path, json.dumps(full()) + "\n{\n", "cases.jsonl"))


def test_what_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(CaseError, match=r"There is no file .*none\.json.*zjunlp/SafeEdit"):
        read_cases(tmp_path / "none.json")
    with pytest.raises(CaseError, match="SafeEdit has train, val, test, test_ALL"):
        read_cases(tmp_path, "dev")
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(CaseError, match="not UTF-8"):
        read_cases(tmp_path / "latin.json")
    for source in ("x" * 300 + "/y", "~no-such-user/cases"):
        with pytest.raises(CaseError, match="cannot be looked up"):
            read_cases(source)
    for source in ("SafeEdit", "a b/c", "a/b/c"):
        with pytest.raises(CaseError, match="There is no file"):
            read_cases(source)


def hub(monkeypatch, answer: Any) -> list[dict[str, Any]]:
    """Put a stand-in for the package datasets in place and return what it is asked."""
    asked: list[dict[str, Any]] = []

    def load_dataset(name: str, **options: Any) -> Any:
        asked.append({"name": name, **options})
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_the_hub_is_asked_for_the_split_s_own_file(monkeypatch):
    asked = hub(monkeypatch, [test_all(4)])
    found = read_cases("zjunlp/SafeEdit", "test_ALL")
    assert found.cases[0].identifier == 4 and "test_ALL" in found.source
    assert asked == [{"name": "zjunlp/SafeEdit", "data_files": {"train": "SafeEdit_test_ALL.json"}, "split": "train"}]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Dataset is a gated dataset on the Hub"), r"is gated.*hf auth login"),
        (PermissionError("403 Client Error"), r"is gated.*huggingface\.co/datasets/zjunlp/SafeEdit"),
        (LookupError("Dataset 'x' doesn't exist on the Hub"), r"hub has no 'zjunlp/SafeEdit'.*SafeEdit_test\.json"),
        (FileNotFoundError("Unable to find 'hf://zjunlp@a4031'"), r"hub has no 'zjunlp/SafeEdit'"),
        (OSError("ProxyError: 403 Forbidden"), r"cannot be had from the hub.*connection"),
        (ConnectionError("Couldn't reach the Hub"), r"cannot be had.*Couldn't reach.*local file"),
    ],
)
def test_the_hub_s_refusals_name_the_remedy(monkeypatch, error, said):
    hub(monkeypatch, error)
    with pytest.raises(CaseError, match=said):
        read_cases("zjunlp/SafeEdit")


def test_the_hub_without_the_package_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CaseError, match="pip install datasets"):
        read_cases("zjunlp/SafeEdit")
