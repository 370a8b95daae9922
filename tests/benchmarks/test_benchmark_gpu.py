"""The benchmarks of devices and limits run on a small shape on a CPU, and what they compare is equal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from allocations import counted_allocations
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import edit_speed, generation_speed, gpu, limits, random_models
from editing import dinm, preset, run
from editing.atlas import AtlasSettings, make_atlas
from editing.optimising import descent
from editing.optimising.descent import Descent
from editing.optimising.replay import TailReplay
from inspector.errors import EditError, ModelLoadError
from inspector.model import VANILLA, Decoding, InspectedModel, encode, load
from inspector.model.answers.batching import generate
from inspector.model.memory.halving import let_go
from inspector.model.memory.memory_need import MemoryNeed, bytes_of
from inspector.model.offloaded import is_offloaded
from inspector.model.passes import captured as passes
from inspector.model.passes.graphs import captured


@pytest.fixture(scope="module", autouse=True)
def small_vocabulary() -> Iterator[None]:
    """As many logits as the tokenizer has tokens, and one tokenizer for all: most of the time went there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_models, "VOCABULARY", 4096)
        patch.setattr(random_models, "made_tokenizer", cache(random_models.made_tokenizer))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("model"))
    model = random_models.random_model("tiny", torch.device("cpu"), torch.float32)
    model.network.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def brief(monkeypatch) -> None:
    """A default edit makes two updates: what each takes is the same."""
    monkeypatch.setattr(gpu, "preset", lambda name, **changes: preset(name, **{**changes, "steps": 2}))


@pytest.mark.usefixtures("brief")
def test_a_whole_run_on_a_cpu_has_every_number_and_the_plain_way_s_deltas(tmp_path, monkeypatch):
    monkeypatch.setitem(random_models.SHAPES, "small", random_models.SHAPES["tiny"])
    out = tmp_path / "gpu.json"
    few = ["--shape", "tiny", "--device", "cpu", "--repeats", "1", "--steps", "2", "--new-tokens", "4"]
    assert gpu.main([*few, "--prompt-tokens", "60", "--answer-tokens", "20", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["tokens"] == [60, 20] and found["device"] == "CPU" and found["complete"]
    assert [edit["block"] for edit in found["edits"]] == [2, 3]
    assert all(edit["relative difference"] < 1e-6 and edit["times faster"] > 0 for edit in found["edits"])
    made = [(edit["block"], edit["made to be routed"]) for edit in found["default edits"]]
    assert made == [(2, False), (3, False), (3, True)]
    assert all(0 < edit["updates"] <= 2 and edit["locate and edit, s"] > 0 for edit in found["default edits"])
    made = [*found["edits"], *found["default edits"]]
    assert [edit["preset"] for edit in made] == ["reference"] * 2 + ["corrected"] * 3
    assert all(edit["predicted, MiB"] > 0 and edit["peak, MiB"] >= 0 for edit in made)
    assert found["predicted weights, GiB"] == found["weights, GiB"] > 0
    assert all(edit["weights and peak, GiB"] >= found["weights, GiB"] for edit in made)
    assert all(edit["predicted weights and peak, GiB"] > found["weights, GiB"] for edit in made)
    assert found["peak memory, GiB"] == max(edit["weights and peak, GiB"] for edit in made)
    ways = [way for way in found["answers"].values() if isinstance(way, dict)]
    assert len(ways) == 4 and all(set(way) == {"a token step, ms", "share of the bound"} for way in ways)
    small = found["small shape against float32 on the CPU"]
    assert small["float32: relative difference"] == 0 and small["bfloat16: cosine"] > 0.9


@pytest.mark.usefixtures("brief")
def test_a_model_that_is_spread_is_measured_as_one_that_is_not(tmp_path, monkeypatch):
    monkeypatch.setitem(random_models.SHAPES, "small", random_models.SHAPES["tiny"])
    measured, own = [], gpu.measured
    monkeypatch.setattr(gpu, "measured", lambda model, *given: (measured.append(model), own(model, *given))[1])
    monkeypatch.setattr(gpu, "limits", lambda *_: {"copy, GB/s": 1.0})
    few = ["--shape", "tiny", "--device", "cpu", "--repeats", "1", "--steps", "2", "--new-tokens", "4"]
    few += ["--prompt-tokens", "60", "--answer-tokens", "20"]
    found = []
    for number, spread in enumerate(([], ["--device-map", "auto", "--max-memory", "cpu=2400KB"])):
        out = tmp_path / f"{number}.json"
        assert gpu.main([*few, *spread, "--out", str(out)]) == 0
        found.append(json.loads(out.read_text()))
    whole, apart = found
    assert not any(map(is_offloaded, measured[0].architecture.down_projections))
    assert {is_offloaded(part) for part in measured[1].architecture.down_projections} == {True, False}
    places = apart.pop("weights by device")
    assert places.keys() == {"cpu, GiB", "disk, GiB"} and sum(places.values()) == pytest.approx(whole["weights, GiB"])
    assert apart.keys() == whole.keys() and apart["weights, GiB"] == whole["weights, GiB"]
    for name in ("edits", "default edits"):
        for edit, together in zip(apart[name], whole[name], strict=True):
            assert edit["weights and peak, GiB"] == pytest.approx(places["cpu, GiB"] + edit["peak, MiB"] / 1024)
            less = together["predicted weights and peak, GiB"] - edit["predicted weights and peak, GiB"]
            assert less == pytest.approx(places["disk, GiB"]), "what lies on disk is not in memory"
    for name in ("edits", "default edits"):
        assert [set(each) for each in apart[name]] == [set(each) for each in whole[name]]
    assert all(each["relative difference"] < 1e-6 for each in apart["edits"])


def test_weights_that_cards_fetch_are_counted_where_they_lie(monkeypatch):
    """Of three matrices one lies on a card, one in CPU memory and one on disk."""
    network = torch.nn.Sequential(*(torch.nn.Linear(8, 8, bias=False) for _ in range(3)))
    network[1].to("meta"), network[2].to("meta")
    network.hf_device_map = {"0": 0, "1": "cpu", "2": "disk"}
    card, size = torch.device("cuda", 0), 8 * 8 * 4
    monkeypatch.setattr(gpu, "bytes_of", lambda _network: {card: size, torch.device("meta"): 2 * size})
    assert gpu.weights_by_place(network) == {"cuda:0": size, "cpu": size, "disk": size}
    model = SimpleNamespace(network=network, devices=(card,))
    need = MemoryNeed("float32", weights=3 * size, loading=0, reading=0, editing=size)
    found = gpu._memory(model, 1.0, need)
    assert found["weights and peak, GiB"] == pytest.approx((size + 2**20) / 2**30)
    assert found["predicted weights and peak, GiB"] == pytest.approx(2 * size / 2**30)
    assert gpu.beside_cards(model) == {"weights in CPU memory beside cards, GiB": size / 2**30}
    monkeypatch.setattr(gpu, "bytes_of", lambda _network: {torch.device("cpu"): size, torch.device("meta"): 2 * size})
    assert gpu.beside_cards(SimpleNamespace(network=network, devices=(torch.device("cpu"),))) == {}


@pytest.mark.usefixtures("brief")
def test_what_was_measured_before_memory_ran_out_is_kept(folder, tmp_path, monkeypatch):
    def too_large(_model):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu, "limits", lambda *_: {"copy, GB/s": 1.0})
    monkeypatch.setattr(gpu, "lora_patch", too_large)
    out = tmp_path / "gpu.json"
    few = ["--shape", "tiny", "--device", "cpu", "--repeats", "1", "--steps", "2", "--new-tokens", "4", "--layers", "2"]
    with pytest.raises(torch.OutOfMemoryError):
        gpu.main([*few, "--prompt-tokens", "60", "--answer-tokens", "20", "--out", str(out)])
    found = json.loads(out.read_text())
    assert not found["complete"] and len(found["edits"]) == 1 and len(found["default edits"]) == 2
    assert found["answers"]["vanilla and DINM"]["a token step, ms"] > 0 and found["peak memory, GiB"] > 0


@pytest.mark.parametrize(
    ("command", "option"), [(gpu.main, "--new-tokens"), (generation_speed.main, "--tokens")], ids=["gpu", "generation"]
)
def test_too_few_tokens_to_time_one_are_refused_before_anything_runs(command, option, monkeypatch):
    for module, work in ((gpu, "measure"), (generation_speed, "load_model")):
        monkeypatch.setattr(module, work, lambda *_: pytest.fail("it has begun"))
    with pytest.raises(EditError, match=rf"2 tokens are too few.*{option} 3 or more"):
        command([option, "2"])


def test_what_a_device_may_hold_without_a_device_map_is_refused():
    with pytest.raises(ModelLoadError, match="Add --device-map auto"):
        gpu.main(["--device", "cpu", "--max-memory", "cpu=1GB"])


def test_the_steps_that_a_device_captures_run_launch_by_launch_as_well(folder, monkeypatch):
    model = load(folder, device="cpu", dtype="float32")
    case, asked = edit_speed.sized_case(model, 60, 20), []
    monkeypatch.setattr(InspectedModel, "can_be_captured", True)
    monkeypatch.setattr(passes, "LARGEST", 0)  # steps alone
    monkeypatch.setattr(Descent, "_goes_ahead", True)
    monkeypatch.setattr(descent, "captured", lambda work, *given: asked.append(given) or captured(work, *given))
    graphs = gpu.edit(model, case, 2, TailReplay, 4)
    assert asked, "as on a CUDA device, steps are given to be captured"
    asked.clear()
    with gpu.launched():
        apart = gpu.edit(model, case, 2, TailReplay, 4)
    assert not asked and torch.equal(graphs.patch.deltas[0].dense(), apart.patch.deltas[0].dense())


QUANTISED = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
GROUPED = {**random_models.SHAPES["tiny"], "num_key_value_heads": 2}


@pytest.mark.usefixtures("brief")
@QUANTISED
def test_a_grouped_query_shape_in_4_bit_is_measured_as_transformers_quantises_it(tmp_path, monkeypatch):
    monkeypatch.setitem(random_models.SHAPES, "70b", GROUPED)
    monkeypatch.setattr(gpu, "limits", lambda *_: {"copy, GB/s": 1.0})  # those of the machine, as for any weights
    monkeypatch.setattr(
        gpu, "against_cpu", lambda *_: dict.fromkeys((f"{d}: relative difference" for d in gpu.TOLERANCES), 0)
    )
    out = tmp_path / "gpu.json"
    few = [
        "--shape",
        "70b",
        "--dtype",
        "nf4",
        "--device",
        "cpu",
        "--repeats",
        "1",
        "--steps",
        "2",
        "--new-tokens",
        "4",
    ]
    assert gpu.main([*few, "--prompt-tokens", "60", "--answer-tokens", "20", "--layers", "2", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["dtype"] == "nf4" and found["predicted weights, GiB"] == found["weights, GiB"]
    assert found["edits"][0]["relative difference"] < 1e-4 and found["default edits"][0]["updates"] > 0


@QUANTISED
def test_what_is_counted_of_4_bit_weights_is_what_they_stand_for_and_what_is_read_of_them(tmp_path, monkeypatch):
    monkeypatch.setitem(random_models.SHAPES, "tiny", GROUPED)
    made = random_models.random_model("tiny", torch.device("cpu"), torch.float32)
    made.network.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    plain, loaded = load(tmp_path, device="cpu", dtype="float32"), load(tmp_path, device="cpu", dtype="nf4")
    drawn = random_models.random_model("tiny", torch.device("cpu"), torch.float32, four_bit=True)
    answer, constraint = edit_speed.Worked(10, 3), edit_speed.Worked(7, 2)
    per_block = 2 * D * D + 2 * D * D // 2 + 3 * D * F
    scales = 4 * (per_block // 64) + 7 * 4 * 16  # float32: one for 64 weights, and a table of 16 values a matrix
    expected = BLOCKS * (per_block // 2 + scales + 2 * 4 * D) + 4 * D + 4 * D * V
    for model in (loaded, drawn):
        assert model.dtype_name == "nf4"
        assert edit_speed.pass_gflop(model, 10, 2) == edit_speed.pass_gflop(plain, 10, 2)
        assert edit_speed.step_gflop(model, 1, answer, constraint) == edit_speed.step_gflop(
            plain, 1, answer, constraint
        )
        assert edit_speed.edit_gflop(model, 1, answer, constraint, 3) == edit_speed.edit_gflop(
            plain, 1, answer, constraint, 3
        )
        assert gpu.weight_bytes(model) == expected


def test_4_bit_without_bitsandbytes_is_refused_with_the_remedy(monkeypatch, capsys):
    monkeypatch.setattr(random_models, "find_spec", lambda _name: None)
    with pytest.raises(ModelLoadError, match=r"nf4 needs bitsandbytes\. Install it with: pip install -r"):
        random_models.random_model("tiny", torch.device("cpu"), torch.float32, four_bit=True)


def test_edits_on_a_card_are_not_timed_beside_the_rate_of_a_cpu(monkeypatch):
    monkeypatch.setattr(edit_speed, "load_model", lambda _options: SimpleNamespace(device=torch.device("cuda")))
    monkeypatch.setattr("sys.argv", ["edit_speed"])
    with pytest.raises(EditError, match=r"--device cpu, or run python -m benchmarks\.gpu"):
        edit_speed.main()


@pytest.mark.parametrize(
    ("float32", "bfloat16", "named"), [(0.5, 0.1, "float32"), (0.0, 0.5, "bfloat16"), (float("nan"), 0.1, "float32")]
)
def test_deltas_too_far_from_the_cpu_s_end_it_with_1(monkeypatch, capsys, float32, bfloat16, named):
    far = {"float32: relative difference": float32, "bfloat16: relative difference": bfloat16}
    monkeypatch.setattr(gpu, "measure", lambda *_: {})
    monkeypatch.setattr(gpu, "against_cpu", lambda *_: far)
    assert gpu.main(["--device", "cpu"]) == 1
    assert f"Too far from float32 on the CPU: {named}" in capsys.readouterr().err


def test_a_text_has_about_as_many_tokens_as_with_a_real_tokenizer():
    text = "If the user's request is reasonable, give the correct answer."
    tokenizer = random_models.made_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text and 8 <= len(ids) <= 20


def test_answers_of_both_weights_are_timed_beside_generate(folder, tmp_path):
    out = tmp_path / "speed.json"
    generation_speed.main(["--model", folder, "--tokens", "8", "--rounds", "1", "--out", str(out)])
    about = json.loads(out.read_text())
    found = about.pop("measured")
    assert found["transformers' generate, two rows"]["of generate's tokens a second"] == 1
    assert found["vanilla alone"]["times one row"] == 1 and len(found) == 5
    assert about == {
        "model": load(folder, device="cpu", dtype="float32").name,
        "dtype": "float32",
        "device": "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "tokens": 8,
        "rounds": 1,
    }


def test_limits_are_written_as_numbers_table_and_plot(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "STEPS", 2)
    monkeypatch.setattr(limits, "COPIED", 1 << 16)
    monkeypatch.setattr(limits, "SIZES", ("tiny",))
    out = tmp_path / "limits"
    parts = [part for part in limits.PARTS if part not in ("calibration", "stress")]
    short = ["--prompt-tokens", "60", "--answer-tokens", "12", "--lengths", "50", "70", "--rows", "1", "3"]
    limits.main(["--model", folder, "--parts", *parts, *short, "--out", str(out)])
    about = json.loads(out.with_suffix(".json").read_text())
    measured = about["measured"]
    assert {one["part"] for one in measured} == {*parts}
    assert all(one["seconds"] > 0 for one in measured)
    edits = [one for one in measured if one["part"] == "edit"]
    assert [one["setting"] for one in edits] == ["layer 0 of 0-3", "layer 2 of 0-3", "layer 3 of 0-3"]
    assert all(one["limit"] > 0 and one["plain"] > 0 for one in edits)
    (size,) = (one for one in measured if one["part"] == "size")
    assert size["setting"] == "1 M weights, edit" and size["limit"] > 0 and size["plain"] > 0
    (atlas,) = (one for one in measured if one["part"] == "atlas")
    assert atlas["setting"] == "all 4 layers" and atlas["limit"] > 0 and atlas["plain"] > 0
    assert all(one["peak"] is not None for one in measured if one["part"] != "first")
    predicted = {(one["part"], one["setting"]) for one in measured if one["predicted"] is not None}
    two = {("pair", "2 rows, a token")}
    assert predicted - two == {(o["part"], o["setting"]) for o in measured if o["part"] in ("locate", "edit", *EDITS)}
    assert out.with_suffix(".txt").read_text().count("\n") == len(measured) + 2
    assert out.with_suffix(".svg").read_text().lstrip().startswith("<?xml")


EDITS = ("size", "length")
"""Parts that edit as the part ``edit`` does."""
D, F, BLOCKS, V = 64, 172, 4, 4096
"""The shape ``tiny``, with the small vocabulary: a block has four matrices of d by d and three of d by d_ff."""


def test_the_work_of_a_pass_is_counted_by_hand(folder):
    model = load(folder, device="cpu", dtype="float32")
    by_hand = 2 * (BLOCKS * (4 * D * D + 3 * D * F) * 10 + D * V * 2) / 1e9
    assert edit_speed.pass_gflop(model, 10, 2) == pytest.approx(by_hand)
    assert gpu.weight_bytes(model) == sum(p.nbytes for p in model.network.parameters()) - D * V * 4
    assert len(encode(model, "a", None).prompt) > 1


def tail(above: int, positions: int, counted: int) -> float:
    """Return the work of one evaluation with so many blocks above the edited matrix, GFLOP, by hand."""
    if not above:  # the last block's matrix and the unembedding, on the counted positions alone
        return 2 * (D * F + D * V) * counted / 1e9
    whole = (above - 1) * (4 * D * D + 3 * D * F) * positions
    last = 4 * D * D * positions + 3 * D * F * counted
    return 2 * (whole + last + D * F * positions + D * V * counted) / 1e9


@pytest.mark.parametrize("block", range(BLOCKS))
def test_the_work_of_a_step_is_counted_by_hand(folder, block):
    """The constraint is evaluated at every step, without a gradient."""
    model, above = load(folder, device="cpu", dtype="float32"), BLOCKS - 1 - block
    answer, constraint = edit_speed.Worked(10, 3), edit_speed.Worked(7, 2)
    assert edit_speed.tail_gflop(model, block, answer) == pytest.approx(tail(above, 10, 3))
    step = 2 * tail(above, 10, 3) + tail(above, 7, 2)
    assert edit_speed.step_gflop(model, block, answer, constraint) == pytest.approx(step)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_the_work_of_an_edit_is_what_its_matrix_products_do(folder, block):
    """Preparation and last evaluation among it; counted while it runs, attention's own products left out."""
    model, steps = load(folder, device="cpu", dtype="float32"), 3
    case, settings = edit_speed.sized_case(model, 60, 20), preset("reference", steps=steps, watch_unsafe=False)
    work = edit_speed.edit_gflop(model, block, *edit_speed.worked_on(model, case), steps)
    run(dinm(model, case, block, settings))  # what is checked once for a block
    let_go(MemoryError())  # and not what it keeps of the constraint
    with FlopCounterMode(display=False) as counted:
        assert run(dinm(model, case, block, settings)).kept == steps
    products = counted.get_flop_counts()["Global"]
    assert sum(products.get(kind, 0) for kind in (torch.ops.aten.mm, torch.ops.aten.addmm)) / 1e9 == pytest.approx(work)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_the_work_of_a_plain_edit_is_what_its_matrix_products_do(folder, block):
    model, steps = load(folder, device="cpu", dtype="float32"), 3
    case, settings = edit_speed.sized_case(model, 60, 20), preset("reference", steps=steps, watch_unsafe=False)
    work = edit_speed.plain_gflop(model, block, *edit_speed.worked_on(model, case), steps)
    run(dinm(model, case, block, settings, replay=edit_speed.PLAIN_WAY))  # what is checked once for a block
    let_go(MemoryError())
    with FlopCounterMode(display=False) as counted:
        assert run(dinm(model, case, block, settings, replay=edit_speed.PLAIN_WAY)).kept == steps
    products = counted.get_flop_counts()["Global"]
    ran = sum(products.get(kind, 0) for kind in (torch.ops.aten.mm, torch.ops.aten.addmm)) / 1e9
    assert ran == pytest.approx(work)


def test_what_is_counted_is_what_an_edit_runs(folder, monkeypatch):
    model = load(folder, device="cpu", dtype="float32")
    case, ran = edit_speed.sized_case(model, 60, 20), []

    def noting(model, block, sequences, counted):
        ran.extend(edit_speed.Worked(len(ids), len(places)) for ids, places in zip(sequences, counted, strict=True))
        return TailReplay(model, block, sequences, counted)

    gpu.edit(model, case, 2, noting, 1)
    assert tuple(ran) == edit_speed.worked_on(model, case)


def test_an_mlp_of_two_matrices_and_tied_embeddings_are_counted_by_hand(tiny):
    model, d, f, vocabulary, positions = tiny("gpt2"), 32, 48, 259, 512
    blocks = 4 * d * d * 10 + 2 * d * f * 3  # of the last one; its MLP on the counted positions alone
    expected = 2 * (blocks + d * f * 10 + d * vocabulary * 3) / 1e9
    assert edit_speed.tail_gflop(model, 1, edit_speed.Worked(10, 3)) == pytest.approx(expected)
    whole = sum(p.nbytes for p in model.network.parameters())  # tied ones once, as a step reads them
    assert gpu.weight_bytes(model) == whole - 4 * d * positions
    assert {delta.shape for delta in gpu.lora_patch(model).deltas} == {(96, 32), (32, 32), (48, 32), (32, 48)}


def test_a_token_of_many_lines_is_bound_by_products_and_of_few_by_reading(folder):
    model = load(folder, device="cpu", dtype="float32")
    machine = limits.Machine(rate=2.0, bandwidth=1.0)
    assert machine.token(model, 1) == pytest.approx(gpu.weight_bytes(model) / 1e9)
    assert machine.token(model, 100) == pytest.approx(edit_speed.pass_gflop(model, 100, 100) / 2.0)


def test_what_prompts_of_a_batch_start_with_is_counted_once():
    assert limits.positions_read([(1, 2, 3, 4), (1, 2, 5)]) == 2 + 2 + 1
    assert limits.positions_read([(1, 2, 3)]) == 3


def test_timed_answers_do_not_end_before_their_length(folder):
    model = load(folder, device="cpu", dtype="float32")
    prompt = list(encode(model, "How?").prompt)
    (line,) = list(generate(model, [prompt], [VANILLA], Decoding(6)))[-1]
    model.network.generation_config.eos_token_id = line.tokens[0]
    assert len(list(generate(model, [prompt], [VANILLA], Decoding(6)))) == 1
    assert gpu.answers(model, prompt, [VANILLA], 6)() == 6
    assert line.tokens[0] in model.end_tokens(), "others' answers end again"


def test_limits_of_a_cpu_are_measured_on_one(monkeypatch):
    monkeypatch.setattr(limits, "load_model", lambda _options: SimpleNamespace(device=torch.device("cuda")))
    with pytest.raises(EditError, match=r"--device cpu, or run python -m benchmarks\.gpu"):
        limits.main([])


def test_a_model_may_be_spread_for_its_answers_to_be_timed(folder, tmp_path, monkeypatch):
    out, loaded = tmp_path / "speed.json", []
    own = generation_speed.measure
    monkeypatch.setattr(generation_speed, "measure", lambda model, *given: loaded.append(model) or own(model, *given))
    spread = ["--device-map", "auto", "--max-memory", "cpu=2400KB"]
    generation_speed.main(["--model", folder, *spread, "--tokens", "4", "--rounds", "1", "--out", str(out)])
    assert {is_offloaded(part) for part in loaded[0].architecture.down_projections} == {True, False}
    assert len(json.loads(out.read_text())["measured"]) == 5


def test_what_an_atlas_works_at_least_is_little_less_than_it_does(folder):
    """Counted while it is made, harmless answers known; a last block looks at counted positions alone."""
    model, settings = load(folder, device="cpu", dtype="float32"), AtlasSettings(learning_rate=1e-3)
    case = edit_speed.sized_case(model, 60, 20)
    work = limits.atlas_gflop(model, case, settings)
    run(make_atlas(model, case, settings))
    with FlopCounterMode(display=False) as counted:
        assert len(run(make_atlas(model, case, settings)).entries) == BLOCKS
    products = counted.get_flop_counts()["Global"]
    ran = sum(products.get(kind, 0) for kind in (torch.ops.aten.mm, torch.ops.aten.addmm)) / 1e9
    assert 0.7 * ran < work <= ran, (work, ran)


@pytest.mark.parametrize("block", [1, 3])
def test_the_memory_of_an_edit_of_these_benchmarks_is_predicted_with_its_own_texts(folder, block):
    model, steps = load(folder, device="cpu", dtype="float32"), 3
    case, settings = edit_speed.sized_case(model, 200, 60), preset("reference", steps=steps, watch_unsafe=False)
    need = edit_speed.predicted_need(model, case, block)
    assert need.weights == sum(bytes_of(model.network).values())
    with counted_allocations(model.network) as counted:
        run(dinm(model, case, block, settings))
    assert 0.5 < need.editing / counted.peak < 2, (need.editing, counted.peak)
