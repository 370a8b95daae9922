"""What is measured beside the machine's limit: which rows a run has, and what it keeps of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import limits
from benchmarks.edit_speed import pass_gflop
from editing import preset
from editing.calibrating import calibration, trial_edits
from editing.methods.dinm import DinmSettings
from editing.texts.harmless import known_answers, own_refusals
from inspector.detection import samples
from inspector.errors import EditError
from inspector.model import PromptFormat, encode
from inspector.safeedit import bundled_cases
from inspector.safeedit.questions import FULL, Size, make_exam


def test_a_run_keeps_a_row_a_measurement_with_its_ratio_and_its_share_of_the_limit(
    llama, case, monkeypatch, tmp_path, capsys
):
    short = preset("corrected", harmless_prompts=2, harmless_tokens=3, own_refusals=0, companions=0)
    monkeypatch.setattr(limits, "load_model", lambda _options: llama)
    monkeypatch.setattr(limits, "attempts", lambda _settings, _detector: (short,))
    monkeypatch.setattr(limits, "machine", lambda _model, _positions: limits.Machine(rate=1e-3, bandwidth=1e-3))
    monkeypatch.setattr(limits, "sized_case", lambda *_: case)
    limits.main(["--parts", "locate", "first", "--out", str(tmp_path / "limits")])
    printed = capsys.readouterr().out
    kept = json.loads((tmp_path / "limits.json").read_text())["measured"]
    assert [row["part"] for row in kept] == ["locate", "first", "first", "first"]
    locate, shown, updated, whole = kept
    assert locate["plain"] > 0 and locate["limit"] > 0 and locate["peak"] is not None and locate["predicted"] > 0
    share = f"{locate['limit'] / locate['seconds']:.0%}"
    assert share in printed and share in (tmp_path / "limits.txt").read_text()
    assert 0 < shown["limit"] < updated["limit"] < whole["limit"], "the products until then"
    assert 0 < shown["plain"] < updated["plain"] < whole["plain"]
    assert 0 < shown["seconds"] < updated["seconds"] and shown["setting"].startswith("step, layer ")
    assert (tmp_path / "limits.svg").read_text().lstrip().startswith("<?xml")


def test_a_model_on_a_card_is_sent_to_the_other_benchmark(llama, monkeypatch):
    class OnCard:
        device = type("Device", (), {"type": "cuda"})()

    monkeypatch.setattr(limits, "load_model", lambda _options: OnCard())
    with pytest.raises(EditError, match=r"benchmarks\.gpu"):
        limits.main(["--parts", "locate"])


def test_locating_is_the_median_of_its_rounds_as_the_plain_way_is(llama, case, monkeypatch):
    """The run whose peak is measured may be the fastest, and does not count."""
    monkeypatch.setattr(limits, "with_peak", lambda _model, _work: (0.0, 1.0))
    (found,) = limits.locating(llama, case, limits.Machine(1.0, 1.0))
    assert found.seconds > 0


def test_an_edit_is_compared_with_itself_compiled_and_no_block_stays_so(llama, case, monkeypatch):
    def compiled(forward, **_options):
        def run(*args, **kwargs):
            ran.append(forward)
            return forward(*args, **kwargs)

        return run

    ran: list[object] = []
    monkeypatch.setattr(limits.torch, "compile", compiled)
    edit, compilation = limits.compiling(llama, case, limits.Machine(1.0, 1.0), 0)
    assert edit.setting == f"layer 0, {llama.blocks - 2} blocks" and edit.plain > 0 and edit.limit > 0
    assert compilation.setting == "the compilation" and len(ran) > 0
    assert not any("forward" in vars(block) for block in llama.architecture.blocks)


def test_blocks_that_accelerate_fetches_are_not_compiled_and_stay_as_they_are(llama, monkeypatch):
    block, fetching = llama.architecture.blocks[2], llama.architecture.blocks[2].forward
    monkeypatch.setattr(block, "forward", fetching)
    monkeypatch.setattr(limits, "load_model", lambda _options: llama)
    monkeypatch.setattr(limits, "machine", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(EditError, match="fetch their weights for each pass"):
        limits.main(["--parts", "locate", "compile"])
    assert vars(block)["forward"] is fetching


def test_where_nothing_can_be_compiled_it_is_said_what_to_do(llama, case, monkeypatch):
    def failing(*_args, **_options):
        raise RuntimeError("No working C++ compiler found\nin a long trace")

    monkeypatch.setattr(limits.torch, "compile", failing)
    with pytest.raises(EditError, match=r"failed here \(No working C\+\+ compiler found\)\. Install a C\+\+ compiler"):
        list(limits.compiling(llama, case, limits.Machine(1.0, 1.0), 0))


def test_a_stress_test_is_answered_in_batches_and_one_by_one(llama, monkeypatch):
    sized = []

    def few(case, size):
        sized.append(size)
        return [q for q in make_exam(case, size) if len(q.prompt) < 60][:5]

    monkeypatch.setattr(limits, "make_exam", few)
    (found,) = limits.stress(llama, limits.Machine(rate=1.0, bandwidth=1e9))
    assert found.setting == "5 prompts, 2 rows" and found.plain > 0 and found.peak is not None
    assert sized == [Size(2, FULL.harmless, 0, 0)]
    prompts = [encode(llama, q.prompt).prompt for q in few(bundled_cases()[0], sized[0])]
    shared = next(n for n, tokens in enumerate(zip(*prompts, strict=False)) if len(set(tokens)) > 1)
    positions = shared + sum(len(prompt) - shared for prompt in prompts)
    read, step = pass_gflop(llama, 2 * positions, 10), pass_gflop(llama, 10, 10)
    assert found.limit == pytest.approx(read + 23 * step), "both rows; every token of 24 but the first by itself"


def test_a_calibration_is_measured_of_a_model_that_has_learnt_nothing(llama, case, monkeypatch):
    """As the command makes it: what other parts have been taught of this model is not known."""

    def few(split):
        texts = [sample for sample in samples(split) if len(sample.text) < 200]
        return [s for harmful in (True, False) for s in [s for s in texts if s.harmful == harmful][:12]]

    own, known = limits.make_calibration, []

    def noting(model):
        known.append({**known_answers(model)})
        return own(model)

    monkeypatch.setattr(calibration, "samples", few)
    monkeypatch.setattr(calibration, "bundled_cases", lambda: [replace(case, split="edit")])
    monkeypatch.setattr(trial_edits, "trial_cases", lambda: (case,))
    short = {"harmless_prompts": 2, "harmless_tokens": 3, "own_refusals": 1}
    monkeypatch.setattr(calibration, "DinmSettings", lambda: DinmSettings(**short))
    monkeypatch.setattr(limits, "make_calibration", noting)
    list(own_refusals(llama, 1, 3, PromptFormat()))
    assert known_answers(llama)
    (found,) = limits.calibrating(llama)
    assert known == [{}] and found.seconds > 0 and found.peak is not None
