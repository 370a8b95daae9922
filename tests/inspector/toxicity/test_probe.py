"""The toxicity probe reads what plain passes give, is trained honestly, and is kept for the right model and texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from inspector.errors import CaseError, PatchError
from inspector.model import Delta, Patch, Row
from inspector.safeedit.cases import CATEGORIES
from inspector.safeedit.scores import Estimate
from inspector.toxicity import (
    Labelled,
    Probe,
    bundled_texts,
    kept_probe,
    labelled_texts,
    neuron_toxicity,
    pooled_states,
    region_toxicity,
    train_probe,
)

ASSET = Path(__file__).parents[3] / "assets" / "cases" / "toxicity.json"
TOPICS = ("bread", "the tram", "my garden", "a parcel", "rain", "chess", "the stairs", "tea")
TEXTS = ("How are you?", "Leaves fall.", "A much longer text, so that the batch has to be padded: " + "la " * 40, "No")


def finish(generator: Generator[float, None, Any]) -> tuple[list[float], Any]:
    """Return all shares that a measurement tells, and what it returns."""
    shares = []
    while True:
        try:
            shares.append(next(generator))
        except StopIteration as end:
            return shares, end.value


def planted(count: int = 24) -> Labelled:
    """Return twins of which the toxic one has a marker word."""
    base = [f"Today {number} people talked of {TOPICS[number % len(TOPICS)]}" for number in range(count)]
    texts = tuple(text for one in base for text in (f"{one} ZZZZZZ ZZZZZZ.", f"{one} and so on, all of it."))
    return Labelled("planted", texts, (True, False) * count, tuple(n // 2 for n in range(2 * count)))


def random_probe(model, seed: int = 3) -> Probe:
    """Return a probe with random numbers whose rows are not opposites."""
    generator = np.random.default_rng(seed)
    width = by_hand.down_weight(model.network, 0).shape[0]
    weight = generator.normal(size=(2, width)).astype(np.float32)
    return Probe(weight, np.array([0.3, -0.2], dtype=np.float32), model.fingerprint, "random", Estimate(90.0, 10))


def cosines(weight: torch.Tensor, probe: Probe) -> np.ndarray:
    """Return the cosine of each column with the toxic row, one column at a time in float64."""
    row = probe.weight[1].astype(np.float64)
    columns = weight.detach().numpy().astype(np.float64).T
    return np.array([row @ column / (np.linalg.norm(row) * np.linalg.norm(column)) for column in columns])


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def rows_of(toxic: int, clean: int) -> list[list[Any]]:
    return [[f"toxic {n}, with a comma", 1] for n in range(toxic)] + [[f"clean {n}", 0] for n in range(clean)]


def test_the_bundled_texts_are_balanced_pairs_of_all_nine_categories():
    pairs = json.loads(ASSET.read_text(encoding="utf-8"))["pairs"]
    labelled = bundled_texts()
    assert {pair["category"] for pair in pairs} == set(CATEGORIES) and len(CATEGORIES) == 9
    assert len({sum(p["category"] == c for p in pairs) for c in CATEGORIES}) == 1, "each category counts the same"
    assert len(labelled.texts) == len(labelled.toxic) == len(labelled.groups) == 2 * len(pairs)
    assert sum(labelled.toxic) == len(pairs) >= 5 * 9
    by_text = dict(zip(labelled.texts, zip(labelled.toxic, labelled.groups, strict=True), strict=True))
    for pair in pairs:
        (one, group), (two, other) = by_text[pair["toxic"]], by_text[pair["neutral"]]
        assert one and not two and group == other
    assert len(set(labelled.groups)) == len(pairs), "no two pairs share a group"


def test_the_bundled_texts_are_all_distinct_and_the_twins_of_like_length():
    texts = bundled_texts().texts
    assert len({" ".join(text.lower().split()) for text in texts}) == len(texts)
    assert all(text.strip() == text and len(text) > 10 for text in texts)
    sizes = [(len(one.split()), len(two.split())) for one, two in zip(texts[::2], texts[1::2], strict=True)]
    assert all(abs(one - two) <= 5 for one, two in sizes), "a probe must not be able to count words"


def test_the_digest_names_texts_and_labels():
    labelled = planted(4)
    flipped = Labelled("planted", labelled.texts, tuple(not t for t in labelled.toxic), labelled.groups)
    other = Labelled("planted", (*labelled.texts[:-1], "other"), labelled.toxic, labelled.groups)
    renamed = Labelled("renamed", labelled.texts, labelled.toxic, labelled.groups)
    assert len({labelled.digest, flipped.digest, other.digest}) == 3
    assert renamed.digest == labelled.digest and len(labelled.digest) == 12


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_pooled_states_are_means_of_plain_passes_over_all_tokens_but_the_first(tiny, family):
    """Batches of two pad one text for another. States are of order 1, sums over 128 tokens: 1e-5 is rounding."""
    model = tiny(family)
    shares, found = finish(pooled_states(model, TEXTS, batch=2))
    for number, text in enumerate(TEXTS):
        state = by_hand.states(model.network, model.tokenizer(text)["input_ids"][:128])[-1]
        assert np.allclose(found[number], state[1:].mean(dim=0).numpy(), rtol=1e-4, atol=1e-5)
        # The first token counts for at least 1/128 of another mean.
        assert not np.allclose(found[number], state.mean(dim=0).numpy(), rtol=1e-3, atol=1e-3)
    assert len(model.tokenizer(TEXTS[2])["input_ids"]) > 128, "one text must be cut for this test to mean anything"
    assert shares == [0.5, 1.0]


def test_the_only_token_of_a_text_is_its_state(tiny):
    model = tiny("llama", begin=False)
    _, found = finish(pooled_states(model, ["a", "abc"]))
    assert len(by_hand.bytes_of(model, "a")) == 1
    state = by_hand.states(model.network, by_hand.bytes_of(model, "a"))[-1]
    assert np.allclose(found[0], state[0].numpy(), rtol=1e-4, atol=1e-5)


def test_a_cancelled_training_returns_nothing(llama):
    asked: list[int] = []
    shares, probe = finish(train_probe(llama, planted(), cancel=lambda: bool(asked.append(1)) or len(asked) > 1))
    assert probe is None and len(shares) == 2 and shares[-1] < 1


def test_training_separates_planted_states_and_tells_texts_it_has_not_seen(llama):
    shares, probe = finish(train_probe(llama, planted()))
    assert shares[-1] == 1 and shares == sorted(shares)
    assert probe.fingerprint == llama.fingerprint and probe.source == "planted"
    assert probe.accuracy.n == 48 and probe.accuracy.value >= 90
    assert probe.accuracy.low < probe.accuracy.value <= probe.accuracy.high <= 100
    new = ("Some words about boats ZZZZZZ ZZZZZZ.", "Some words about boats and so on, all of it.")
    _, states = finish(pooled_states(llama, new))
    toxic, clean = probe.probability(states)
    assert toxic > 0.5 > clean


def test_the_accuracy_is_that_of_five_folds_whose_twins_stay_together(llama):
    """Labels by the length of a number in the text are hard for this model, so held-out differs from trained-on.

    The folds are gone through here one by one; scikit-learn's own estimators are the only thing in common.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    generator = np.random.default_rng(0)
    base = planted(30)
    labelled = Labelled("noise", base.texts, tuple(bool(x) for x in generator.integers(0, 2, 60)), base.groups)
    states = np.stack(
        [
            by_hand.states(llama.network, llama.tokenizer(text)["input_ids"])[-1][1:].mean(dim=0).numpy()
            for text in labelled.texts
        ]
    )
    labels = np.array(labelled.toxic)

    def fitted(chosen) -> tuple[LogisticRegression, np.ndarray, np.ndarray]:
        mean, deviation = states[chosen].mean(axis=0), states[chosen].std(axis=0)
        learner = LogisticRegression(C=0.01, max_iter=2000)  # the module's penalty
        return learner.fit((states[chosen] - mean) / deviation, labels[chosen]), mean, deviation

    right = 0
    for train, test in GroupKFold(5).split(states, labels, labelled.groups):
        assert not {labelled.groups[n] for n in train} & {labelled.groups[n] for n in test}
        learner, mean, deviation = fitted(train)
        right += int((learner.predict((states[test] - mean) / deviation) == labels[test]).sum())
    _, probe = finish(train_probe(llama, labelled))
    assert probe.accuracy.value == pytest.approx(100 * right / 60)
    learner, mean, deviation = fitted(np.arange(60))
    whole = learner.predict_proba((states - mean) / deviation)[:, 1]
    # Probabilities from a solver that stops at a gradient of 1e-4: 1e-3 is its own freedom.
    assert np.allclose(probe.probability(states), whole, atol=1e-3)
    trained_on = 100 * float(((whole > 0.5) == labels).mean())
    assert abs(trained_on - probe.accuracy.value) > 5, "the two must differ for this test to mean anything"


def test_the_probability_is_the_softmax_of_the_linear_map(llama):
    probe = random_probe(llama)
    states = np.random.default_rng(1).normal(size=(3, 4, 32)).astype(np.float32)
    for row in range(3):
        for column in range(4):
            logits = torch.from_numpy(probe.weight) @ torch.from_numpy(states[row, column])
            expected = (logits + torch.from_numpy(probe.bias)).softmax(dim=-1)[1]
            assert probe.probability(states)[row, column] == pytest.approx(float(expected), abs=1e-5)
    toxic = probe.weight[1]
    assert np.allclose(probe.direction, toxic / np.sqrt((toxic**2).sum()), atol=1e-6)


def test_a_kept_probe_is_written_and_read_back_equal(llama, tmp_path):
    shares, first = finish(kept_probe(llama, planted(), tmp_path / "new"))
    assert shares and len(list((tmp_path / "new").iterdir())) == 1
    again, second = finish(kept_probe(llama, planted(), tmp_path / "new"))
    assert again == [], "a kept probe is not trained again"
    assert np.array_equal(first.weight, second.weight) and np.array_equal(first.bias, second.bias)
    assert first.accuracy == second.accuracy
    assert (first.fingerprint, first.source) == (second.fingerprint, second.source)


def test_a_probe_is_kept_for_each_model_and_for_each_set_of_texts(llama, tiny, tmp_path):
    _, first = finish(kept_probe(llama, planted(), tmp_path))
    trained, other_texts = finish(kept_probe(llama, planted(20), tmp_path))
    assert trained and not np.array_equal(first.weight, other_texts.weight)
    trained, other_model = finish(kept_probe(tiny("qwen2"), planted(), tmp_path))
    assert trained and other_model.fingerprint == tiny("qwen2").fingerprint != first.fingerprint
    assert not np.array_equal(first.weight, other_model.weight)
    assert len(list(tmp_path.iterdir())) == 3


BROKEN = {
    "broken accuracy": {"accuracy": {"no": 1}},
    "accuracy of another type": {"accuracy": {"value": "high", "n": 1}},
    "no source": {"source": None},
}
"""What is wrong in a file's record."""


@pytest.mark.parametrize("broken", ["nonsense", "no metadata", "empty", "one bit", "another version", *BROKEN])
def test_a_broken_file_is_trained_over(llama, tmp_path, broken, capsys):
    _, good = finish(kept_probe(llama, planted(8), tmp_path))
    (path,) = tmp_path.iterdir()
    if broken == "nonsense":
        path.write_bytes(b"this is no safetensors file at all")
    elif broken == "empty":
        path.write_bytes(b"")
    elif broken == "one bit":
        by_hand.flip_bit(path)
    else:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata()
            about.pop("sha256")  # of an earlier version
        if broken in BROKEN:
            about["record"] = json.dumps({**json.loads(about["record"]), **BROKEN[broken]})
        elif broken == "another version":
            about["format"] = "dinm-inspector probe 0"
        save_file({"weight": good.weight, "bias": good.bias}, path, metadata=None if broken == "no metadata" else about)
    shares, mended = finish(kept_probe(llama, planted(8), tmp_path))
    assert shares and np.allclose(mended.weight, good.weight)
    assert "trained again" in capsys.readouterr().err
    shares, read = finish(kept_probe(llama, planted(8), tmp_path))
    assert shares == [] and np.array_equal(read.weight, mended.weight)


def test_a_cancelled_probe_is_not_kept_and_a_folder_that_cannot_be_made_does_no_harm(llama, tmp_path, capsys):
    _, probe = finish(kept_probe(llama, planted(), tmp_path, cancel=lambda: True))
    assert probe is None and not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    _, probe = finish(kept_probe(llama, planted(), tmp_path / "file"))
    assert probe is not None and "could not be kept" in capsys.readouterr().err


def test_a_csv_file_gives_as_many_texts_of_both_classes_up_to_the_limit(tmp_path):
    path = write_csv(tmp_path / "train.csv", ["id", "comment_text", "toxic"], [[7, *row] for row in rows_of(30, 14)])
    labelled = labelled_texts(path)
    assert labelled.name == path and sum(labelled.toxic) == 14 and len(labelled.texts) == 28
    pairs = zip(labelled.texts, labelled.toxic, strict=True)
    assert all(text.startswith("toxic") == toxic for text, toxic in pairs)
    assert labelled.texts[0] == "toxic 0, with a comma"
    assert len(set(labelled.groups)) == 28, "texts without twins are each a group of their own"
    assert len(labelled_texts(path, limit=22).texts) == 22


def test_empty_texts_do_not_count_and_half_is_toxic(tmp_path):
    rows = [[" ", 1], *rows_of(9, 12), ["just toxic", 0.5], ["just not", 0.49]]
    labelled = labelled_texts(write_csv(tmp_path / "a.csv", ["text", "label"], rows))
    assert "" not in labelled.texts and sum(labelled.toxic) == 10
    assert dict(zip(labelled.texts, labelled.toxic, strict=True))["just toxic"]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["words", "toxic"], rows_of(12, 12), r"none of the columns comment_text, .*Rename one"),
        (["comment_text", "bad"], rows_of(12, 12), r"none of the columns toxic, .*Rename one"),
        (["comment_text", "toxic"], rows_of(12, 0), r"only 0 texts of one class.*Take another source"),
        (["comment_text", "toxic"], rows_of(12, 9), r"only 9 texts of one class.*Take another source"),
        (["comment_text", "toxic"], [*rows_of(12, 1), ["x", "yes"]], r"Row 14 .*no number in 'toxic'. Mend the file"),
        (["comment_text", "toxic"], [["x"]], r"Row 1 .*no number in 'toxic'. Mend the file"),
        (["comment_text", "toxic"], [], r"only 0 texts of one class.*Take another source"),
    ],
)
def test_a_csv_file_that_does_not_do_is_refused_with_a_remedy(tmp_path, header, rows, message):
    with pytest.raises(CaseError, match=message):
        labelled_texts(write_csv(tmp_path / "a.csv", header, rows))


def test_a_missing_csv_file_and_one_that_is_not_utf_8_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(CaseError, match=r"cannot be read.*Give a CSV file in UTF-8"):
        labelled_texts(str(tmp_path / "none.csv"))
    with pytest.raises(CaseError) as told:
        labelled_texts(str(tmp_path / "none.csv"))
    assert str(tmp_path) not in told.value.user_message() and str(tmp_path) in told.value.operator_message()
    (tmp_path / "latin.csv").write_bytes("comment_text,toxic\nWie schön,1\n".encode("latin-1"))
    with pytest.raises(CaseError, match=r"cannot be read.*Give a CSV file in UTF-8"):
        labelled_texts(str(tmp_path / "latin.csv"))


def test_a_csv_file_that_a_spreadsheet_saved_with_a_byte_order_mark_is_read(tmp_path):
    """Excel's "CSV UTF-8" starts with one; it must not become part of the first column's name."""
    lines = ["comment_text,toxic", *(f"text {n},{n % 2}" for n in range(24))]
    (tmp_path / "excel.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    assert len(labelled_texts(str(tmp_path / "excel.csv")).texts) == 24


def test_a_dataset_of_the_hub_is_read_with_its_split(monkeypatch):
    asked = []

    def load_dataset(name, *, split):
        asked.append((name, split))
        return [{"text": f"text {n}", "label": n % 2} for n in range(40)]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    labelled = labelled_texts("somebody/comments", limit=30, split="test")
    assert asked == [("somebody/comments", "test")]
    assert labelled.name == "somebody/comments" and len(labelled.texts) == 30 and sum(labelled.toxic) == 15
    assert labelled.texts[0] == "text 1" and labelled.toxic[0]


def test_a_dataset_that_cannot_be_loaded_is_refused_with_a_remedy(monkeypatch):
    def load_dataset(name, *, split):
        raise ConnectionError("no way out")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(CaseError, match=r"Check its name.*or give a CSV file") as told:
        labelled_texts("somebody/comments")
    assert "no way out" not in told.value.user_message()
    assert "ConnectionError: no way out" in told.value.operator_message()


def test_a_dataset_without_known_columns_is_refused_as_such(monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda name, *, split: [{"a": 1}])
    with pytest.raises(CaseError, match="none of the columns comment_text"):
        labelled_texts("somebody/comments")


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt_projected"])
def test_neuron_toxicity_is_the_cosine_of_each_value_vector(tiny, family):
    model = tiny(family)
    probe, patch = random_probe(model), by_hand.patch(model, 0, 1, size=0.3)
    copied = by_hand.written(model.network, *((delta.block, delta.dense()) for delta in patch.deltas))
    for block in range(3):
        vanilla = neuron_toxicity(model, probe, block)
        edited = neuron_toxicity(model, probe, block, Row(patch))
        assert vanilla.shape == (48,)
        assert np.allclose(vanilla, cosines(by_hand.down_weight(model.network, block), probe), atol=1e-5)
        assert np.allclose(edited, cosines(by_hand.down_weight(copied, block), probe), atol=1e-5)
        assert np.allclose(vanilla, edited) == (block == 2), "the patch must do something in the blocks it edits"


def test_neuron_toxicity_of_another_model_s_patch_is_refused(llama, tiny):
    with pytest.raises(PatchError, match="another base model"):
        neuron_toxicity(llama, random_probe(llama), 1, Row(by_hand.patch(tiny("qwen2"))))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_patch_against_the_toxic_direction_makes_the_region_less_toxic(tiny, family):
    model = tiny(family)
    probe, weight = random_probe(model), by_hand.down_weight(model.network, 1)
    unit = torch.from_numpy(probe.weight[1] / np.linalg.norm(probe.weight[1]))
    against = (-0.5 * unit).unsqueeze(1).repeat(1, 48).contiguous()
    patch = Patch((Delta(by_hand.down_name(model.network, 1), 1, against),), model.fingerprint, "against")
    region = region_toxicity(model, probe, 1, Row(patch))
    before, after = cosines(weight, probe), cosines(weight + against, probe)
    assert (after < before).all()
    assert region.block == 1
    assert region.before == pytest.approx(before.mean(), abs=1e-5)
    assert region.after == pytest.approx(after.mean(), abs=1e-5)
    assert region.typical == pytest.approx(np.abs(before).mean(), abs=1e-5)
    # Divided by a mean near 0.01, rounding of 1e-7 shows as 1e-5 of the quotient.
    assert region.change == pytest.approx((after.mean() - before.mean()) / abs(before.mean()), rel=1e-3)
    assert region.change < 0
    untouched = region_toxicity(model, probe, 1)
    assert untouched.after == untouched.before and untouched.change == 0
