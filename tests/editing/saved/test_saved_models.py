"""An edit merged, as a smaller adapter, and made again: each is held against the live edit."""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import pytest
import tiny_models
import torch
from training_helpers import small
from transformers import AutoModelForCausalLM, AutoTokenizer

from editing import DinmSettings, dinm, run
from editing.gate.budgets import Budgets
from editing.gate.gate import GateSettings, accept
from editing.saved import checking, record_of
from editing.saved import merged as merging
from editing.saved.adapter import BESIDE, of_rank, read_adapter, save_adapter
from editing.saved.checking import case_probe, largest_difference, logits_of, probes, share_of_the_edit
from editing.saved.handed_out import Refused, written_adapter, written_patch
from editing.saved.merged import save_merged
from editing.saved.record import digest_of
from editing.saved.reproduce import reproduce
from inspector.detection import for_case
from inspector.errors import EditError, PatchError
from inspector.model import VANILLA, Delta, Detector, InspectedModel, PromptFormat, Row, encode, from_parts

SETTINGS = small(DinmSettings, damage_budget=None)


def test_a_merged_model_loads_without_this_program_and_answers_as_the_live_edit(model, tmp_path):
    row = Row(by_hand.patch(model, 1, size=0.3), 0.5)
    difference = run(save_merged(model, row, tmp_path / "new"))
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "new", trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    prompt = encode(model, "How do I bake bread?").prompt
    with torch.no_grad():
        written = network(input_ids=torch.tensor([prompt])).logits[0]
    live, vanilla = (logits_of(model, one, prompt) for one in (row, VANILLA))
    assert torch.allclose(written, live, atol=1e-4) and not torch.allclose(written, vanilla, atol=1e-2)
    assert 0 <= difference < 1e-4 and tokenizer.vocab_size == model.tokenizer.vocab_size
    with pytest.raises(PatchError, match="there already"):
        run(save_merged(model, row, tmp_path / "new"))


def test_written_and_live_edit_are_compared_a_few_positions_at_a_time(llama, monkeypatch):
    """All logits of a long prompt are larger than a model."""
    row, other, seen = Row(by_hand.patch(llama, 1)), Row(by_hand.patch(llama, 2)), list[int]()
    prompts = probes(llama, row)
    live, back, vanilla = (
        torch.cat([by_hand.running_logits(llama, prompt, [one])[0] for prompt in prompts])
        for one in (row, other, VANILLA)
    )
    monkeypatch.setattr(checking, "AT_ONCE", 5)
    handle = llama.architecture.unembedding.register_forward_hook(lambda _m, _a, logits: seen.append(len(logits)))
    difference, spread = largest_difference(llama, row, other, prompts)
    share = share_of_the_edit(llama, row, llama.network, prompts)
    handle.remove()
    assert max(seen) == 5 and sum(seen) == 5 * sum(map(len, prompts))
    assert difference == pytest.approx(float((live - back).abs().max()), rel=1e-4)
    assert spread == pytest.approx(float(live.std()), rel=1e-4) and share == pytest.approx(1.0, rel=1e-4)
    assert not torch.allclose(live, vanilla, atol=0.1)


@pytest.mark.parametrize("bad", [0, -1])
def test_a_logit_that_is_no_number_is_not_within_any_tolerance(llama, bad):
    """Wherever it stands: of a number and none the larger one is none."""
    row = Row(by_hand.patch(llama, 1))
    prompts = probes(llama, row)

    class Broken(torch.nn.Module):
        def get_output_embeddings(self) -> torch.nn.Module:
            return llama.network.get_output_embeddings()

        def forward(self, input_ids: torch.Tensor, use_cache: bool):
            result = llama.network(input_ids=input_ids, use_cache=use_cache)
            if input_ids[0].tolist() == list(prompts[bad]):
                result.logits = result.logits * float("nan")
            return result

    assert math.isnan(largest_difference(llama, row, Broken(), prompts)[0])


def test_what_cannot_be_merged_or_answers_otherwise_leaves_no_folder(llama, tmp_path, monkeypatch):
    patch = by_hand.patch(llama, 1)
    detector = Detector((0,), torch.ones(1, 32), 0.0, 0.0, llama.fingerprint)
    with pytest.raises(PatchError, match="no change of weights alone"):
        run(save_merged(llama, Row(patch, detector=detector), tmp_path / "routed"))
    with pytest.raises(PatchError, match="no patch to merge"):
        run(save_merged(llama, VANILLA, tmp_path / "vanilla"))
    monkeypatch.setattr(merging, "largest_difference", lambda *_: (1.0, 1.0))
    with pytest.raises(PatchError, match="answers otherwise"):
        run(save_merged(llama, Row(patch), tmp_path / "wrong"))
    assert list(tmp_path.iterdir()) == []


def half_model() -> InspectedModel:
    return from_parts(tiny_models.network("llama").to(torch.bfloat16), tiny_models.tokenizer(), "half")


def test_an_edit_is_merged_in_bfloat16_and_one_that_the_rounding_takes_is_refused(case, tmp_path):
    model = half_model()
    patch = by_hand.patch(model, 1, size=0.3)
    assert run(save_merged(model, Row(patch), tmp_path / "new", case)) > 0, "the sum is rounded"
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "new").eval()
    assert share_of_the_edit(model, Row(patch), written, [case_probe(model, case, Row(patch))]) < 0.25
    with pytest.raises(PatchError, match="load the model in float32"):
        run(save_merged(model, Row(by_hand.patch(model, 1, size=1e-5)), tmp_path / "lost", case))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("make", ["float32", "bfloat16"])
def test_a_base_that_was_written_without_the_edit_is_refused(llama, case, tmp_path, monkeypatch, make):
    """A small edit moves the logits by less than half of their spread, so that spread alone would tell nothing."""
    model = llama if make == "float32" else half_model()
    row = Row(by_hand.patch(model, 1, size=0.01))
    monkeypatch.setattr(merging, "TOLERANCE", {})
    with monkeypatch.context() as patched:
        patched.setattr(Delta, "dense", lambda delta: torch.zeros(delta.shape))
        with pytest.raises(PatchError, match=r"loses (9|10)\d% of what the edit does"):
            run(save_merged(model, row, tmp_path / "base", case))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_s_own_beside_it_is_left_alone(llama, case, tmp_path):
    own = tmp_path / "new.partial" / "thesis.txt"
    own.parent.mkdir()
    own.write_text("three years")
    first = run(dinm(llama, case, 1, SETTINGS))
    run(save_merged(llama, first.row(), tmp_path / "new"))
    (tmp_path / "adapter.partial").mkdir()
    run(written_adapter(llama, first.row(), tmp_path / "adapter"))
    assert own.read_text() == "three years"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"new", "new.partial", "adapter", "adapter.partial"}


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_what_cannot_be_pushed_to_the_disk_gets_no_name(llama, tmp_path, monkeypatch, kind):
    row, folder = Row(by_hand.patch(llama, 1, size=0.3)), tmp_path / kind

    def full(path: Path) -> None:
        if path.parent == tmp_path:  # the folder itself; its files went well
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("inspector.model.whole_file.to_disk", full)
    with pytest.raises(PatchError, match="Make room"):
        run(save_merged(llama, row, folder) if kind == "merged" else written_adapter(llama, row, folder))
    assert list(tmp_path.iterdir()) == []


def test_the_gate_examines_an_adapter_of_a_smaller_rank_as_what_it_is(case, tmp_path):
    model = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(suffix=False), "tiny")
    first = run(dinm(model, case, 1, SETTINGS))
    row = first.row()
    short = GateSettings(Budgets(*(100.0,) * 5), harmless=2, questions=1, max_new_tokens=2, least_gain=0)
    strict = replace(short, budgets=Budgets(harmless_kl=0.0))
    word = run(accept(model, row, case, short)).record() | {"passed": True, "overridden": False}
    record = replace(record_of(model, case, first, row), gate=word)
    made = run(written_adapter(model, row, tmp_path / "small", 1, record, settings=short))
    smaller = beside(made.path)["smaller"]
    left, lost = of_rank(first.patch, 1)
    assert (smaller["rank"], smaller["lost"], smaller["digest"]) == (1, lost, digest_of(left)) and lost == made.lost
    assert smaller["identifier"] == left.identifier != first.patch.identifier
    assert smaller["gate"]["weights"] == Row(left).label()
    assert smaller["gate"]["reason"].startswith("Passed")
    told = [f"harmless KL {run(accept(model, one, case, short)).checks[0].value:.3g} " for one in (Row(left), row)]
    assert told[0] != told[1]
    with pytest.raises(Refused, match=rf"at rank 1\. Take a larger rank.*{told[0]}"):
        run(written_adapter(model, row, tmp_path / "no", 1, record, settings=strict))
    assert not (tmp_path / "no").exists()
    run(written_adapter(model, row, tmp_path / "by hand", 1, record, True, strict))
    assert beside(tmp_path / "by hand")["smaller"]["gate"]["overridden"]
    kept = replace(record, gate={**word, "passed": False, "overridden": True})
    run(written_adapter(model, row, tmp_path / "kept", 1, kept, settings=strict))
    whole = run(written_adapter(model, row, tmp_path / "whole", 99, record, settings=strict))
    assert whole.lost == 0 and beside(whole.path)["smaller"] is None, "the edit itself, on which the gate has its word"


def beside(folder: Path) -> dict[str, Any]:
    return json.loads((folder / BESIDE).read_text())


def test_an_edit_in_plain_text_is_saved_where_the_chat_template_takes_no_question(case, tmp_path):
    model = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "strict")
    model.tokenizer.chat_template = "{{ raise_exception('A system prompt is needed.') }}"
    result = run(dinm(model, case, 1, replace(SETTINGS, format=PromptFormat(chat=False))))
    row = result.row(1.0)
    record = record_of(model, case, result, row, method="dinm")
    assert written_patch(model, row, record, tmp_path / "patch").difference == 0
    assert run(written_adapter(model, row, tmp_path / "adapter", record=record)).difference < 1e-4
    assert run(save_merged(model, row, tmp_path / "merged", case)) < 1e-3


def test_an_adapter_of_a_rank_says_what_it_loses_and_an_exact_one_loses_nothing(model, tmp_path):
    row = Row(by_hand.patch(model, 1, size=0.3), 1.5)
    save_adapter(model, row.patch, tmp_path / "exact", row.strength)
    difference, spread = largest_difference(
        model, row, Row(read_adapter(model, tmp_path / "exact")), probes(model, row)
    )
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


def test_a_routed_edit_made_again_is_the_same_only_where_it_acts_by_the_same_detector(llama, case):
    first = run(dinm(llama, case, 1, SETTINGS))
    general, another = (Detector((0,), size * torch.ones(1, 32), 0.0, 0.5, llama.fingerprint) for size in (1.0, 2.0))
    row = replace(first.row(), detector=run(for_case(llama, general, case, first.patch.format)))
    record = replace(record_of(llama, case, first, row), gate={"detector": row.detector.digest})
    again = run(reproduce(llama, first.patch, record, detector=general))
    assert again.same and again.same_bits and again.same_detector
    assert "acts where the same detector fires" in again.reading(record)
    elsewhere = run(reproduce(llama, first.patch, record, detector=another))
    assert elsewhere.same_bits and elsewhere.same_detector is False and not elsewhere.same
    assert "by another detector, so it is not the same edit" in elsewhere.reading(record)
    with pytest.raises(EditError, match=r"no detector yet.*editing\.calibrate --model tiny-llama"):
        run(reproduce(llama, first.patch, record))
    untold = replace(record, gate=None)
    assert "does not tell which detector" in run(reproduce(llama, first.patch, untold)).reading(untold)


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
