"""An edit merged, as a smaller adapter, and made again: each is held against the live edit."""

from __future__ import annotations

from dataclasses import replace

import by_hand
import pytest
import torch
from training_helpers import small
from transformers import AutoModelForCausalLM, AutoTokenizer

from editing import DinmSettings, dinm, run
from editing.saved import merged as merging
from editing.saved import record_of
from editing.saved.adapter import of_rank, read_adapter, save_adapter
from editing.saved.checking import largest_difference, logits_of, probes
from editing.saved.merged import save_merged
from editing.saved.record import digest_of
from editing.saved.reproduce import reproduce
from inspector.errors import EditError, PatchError
from inspector.model import VANILLA, Detector, Row, encode

SETTINGS = small(DinmSettings, damage_budget=None)


def test_a_merged_model_loads_without_this_program_and_answers_as_the_live_edit(model, tmp_path):
    row = Row(by_hand.patch(model, 1, size=0.3), 0.5)
    difference = save_merged(model, row, tmp_path / "new")
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "new", trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    prompt = encode(model, "How do I bake bread?").prompt
    with torch.no_grad():
        written = network(input_ids=torch.tensor([prompt])).logits[0]
    live, vanilla = (logits_of(model, one, [prompt])[0] for one in (row, VANILLA))
    assert torch.allclose(written, live, atol=1e-4) and not torch.allclose(written, vanilla, atol=1e-2)
    assert 0 <= difference < 1e-4 and tokenizer.vocab_size == model.tokenizer.vocab_size
    with pytest.raises(PatchError, match="there already"):
        save_merged(model, row, tmp_path / "new")


def test_what_cannot_be_merged_or_answers_otherwise_leaves_no_folder(llama, tmp_path, monkeypatch):
    patch = by_hand.patch(llama, 1)
    detector = Detector((0,), torch.ones(1, 32), 0.0, 0.0, llama.fingerprint)
    with pytest.raises(PatchError, match="no change of weights alone"):
        save_merged(llama, Row(patch, detector=detector), tmp_path / "routed")
    with pytest.raises(PatchError, match="no patch to merge"):
        save_merged(llama, VANILLA, tmp_path / "vanilla")
    monkeypatch.setattr(merging, "largest_difference", lambda *_: (1.0, 1.0))
    with pytest.raises(PatchError, match="answers otherwise"):
        save_merged(llama, Row(patch), tmp_path / "wrong")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_a_rank_says_what_it_loses_and_an_exact_one_loses_nothing(model, tmp_path):
    row = Row(by_hand.patch(model, 1, size=0.3), 1.5)
    save_adapter(model, row.patch, tmp_path / "exact", row.strength)
    difference, spread = largest_difference(model, row, Row(read_adapter(model, tmp_path / "exact")), probes(model))
    assert difference < 1e-4 * spread + 1e-5
    sizes = torch.linalg.svdvals(row.patch.deltas[0].dense().double())
    for rank in (1, 4):
        patch, lost = of_rank(row.patch, rank)
        assert patch.deltas[0].right.shape[0] == rank
        assert lost == pytest.approx(float(sizes[rank:].norm() / sizes.norm()), rel=1e-4)
        gap = patch.deltas[0].dense() - row.patch.deltas[0].dense()
        assert float(gap.norm() / row.patch.norm) == pytest.approx(lost, rel=1e-3)
    assert of_rank(patch, 4)[1] == 0.0 and of_rank(patch, 4)[0].deltas[0] is patch.deltas[0]
    with pytest.raises(PatchError, match="rank 0"):
        of_rank(row.patch, 0)
    with pytest.raises(PatchError, match="cannot be read"):
        read_adapter(model, tmp_path / "nothing")


def test_an_edit_made_again_is_the_same_to_the_bit_and_another_is_told(llama, case):
    first = run(dinm(llama, case, 1, SETTINGS))
    record = record_of(llama, case, first, first.row())
    again = run(reproduce(llama, first.patch, record))
    assert again.same_bits and again.same and again.relative == 0 and again.largest == 0
    assert "to the bit" in again.reading(record)
    other = replace(record, settings={**record.settings, "edit_weight": 0.5}, versions={"torch": "1.0"})
    changed = run(reproduce(llama, first.patch, other))
    assert not changed.same and changed.relative > 0.01 and "Another edit" in changed.reading(other)
    assert "torch 1.0 then" in changed.reading(other)
    delta = first.patch.deltas[0]
    near = replace(first.patch, deltas=(replace(delta, left=delta.left * (1 + 1e-5)),))
    record = replace(record, digest=digest_of(near), identifier=near.identifier)
    close = run(reproduce(llama, near, record))
    assert not close.same_bits and close.same and "within" in close.reading(record)
    assert run(reproduce(llama, first.patch, record, cancel=lambda: True)) is None
    short = replace(record, digest="0" * 64, identifier=first.patch.identifier)
    assert not run(reproduce(llama, first.patch, short)).same_bits, "the short name alone proves nothing"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"fingerprint": "0" * 16}, "Load that model"),
        ({"dtype": "bfloat16"}, "--dtype bfloat16"),
        ({"stacked": True}, "on top of another"),
        ({"method": "magic"}, "Unknown method"),
        ({"settings": {"strange": 1}}, "not those of this version"),
    ],
)
def test_what_cannot_be_made_again_says_why(llama, case, change, match):
    first = run(dinm(llama, case, 1, SETTINGS))
    record = replace(record_of(llama, case, first, first.row()), **change)
    with pytest.raises((EditError, PatchError), match=match):
        run(reproduce(llama, first.patch, record))
