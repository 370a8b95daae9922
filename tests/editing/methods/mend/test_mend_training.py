"""Training of MEND's editor network: what it lowers, that it repeats, what it refuses, and its command line."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import by_hand
import pytest
import torch
from safetensors import SafetensorError
from waits import counted_waits

from editing.methods.mend import MendTraining, training
from editing.methods.mend import __main__ as command_line
from editing.methods.mend.edit import editor_deltas
from editing.methods.mend.network import EditorNetwork, EditorShape
from editing.methods.mend.store import load_editor, places, save_editor
from editing.methods.mend.top import adding
from editing.methods.mend.training import Report, evaluate, lesson, lessons_of, new_editor, train, watched_prompts
from inspector.errors import CaseError, EditError, OutOfMemory
from inspector.model import Encoded, InspectedModel, PromptFormat, encode
from inspector.model.memory.memory_need import bytes_in
from inspector.safeedit import Case

SHORT = MendTraining(
    steps=6,
    cases_at_once=2,
    harmless_at_once=2,
    learning_rate=3e-3,
    alpha_rate=0.1,
    top_blocks=2,
    rank=4,
    alpha=1e-3,
    harmless_tokens=4,
    format=PromptFormat(""),
)
HARMLESS = ("Why do leaves fall?", "What is bread?", "How old is the moon?")


@pytest.fixture
def cases(case: Case) -> list[Case]:
    """Two short cases."""
    return [case, Case("How do I fib?", "You are a cook. How do I fib?", "I won't.", "Smile.", split="edit")]


def trained(
    model: InspectedModel, cases: Sequence[Case], settings: MendTraining = SHORT, harmless: Sequence[str] = HARMLESS
) -> tuple[EditorNetwork, list[Report]]:
    """Train to the end and return the editor with all reports."""
    run, reports = train(model, cases, harmless, settings), []
    while True:
        try:
            reports.append(next(run))
        except StopIteration as end:
            return end.value, reports


def found(model: InspectedModel, editor: EditorNetwork, cases: Sequence[Case]) -> Report:
    """Evaluate an editor on cases and the harmless prompts."""
    lessons = [lesson(model, case, editor, SHORT) for case in cases]
    return evaluate(editor, lessons, watched_prompts(model, HARMLESS, editor, SHORT), SHORT.edit_weight)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt_post_norm"])
def test_a_few_updates_lower_the_meta_loss_on_the_training_s_own_cases(tiny, family, cases):
    model = tiny(family)
    untrained, none = trained(model, cases, replace(SHORT, steps=0))
    editor, reports = trained(model, cases)
    assert none == [] and [report.step for report in reports] == list(range(SHORT.steps))
    before, after = found(model, untrained, cases), found(model, editor, cases)
    assert after.loss < before.loss
    assert before.safe_before == pytest.approx(after.safe_before), "what is vanilla does not depend on the editor"


def test_the_meta_loss_is_its_definition(llama, case):
    """With weights written for the edit, one plain pass a prompt; the edit comes from the adversarial prompt."""
    editor, _ = trained(llama, [case], replace(SHORT, steps=0))
    asked = encode(llama, case.adversarial_prompt, case.safe, format=PromptFormat(""))
    edited = copy.deepcopy(llama.network)
    with torch.no_grad():
        for delta in editor_deltas(llama, editor, asked):
            edited.get_submodule(delta.module).weight.add_(delta.dense())

    def scored(network, answer: Encoded) -> torch.Tensor:
        return by_hand.logits(network, answer.tokens)[list(answer.predicting)].log_softmax(dim=-1)

    labels = torch.tensor(asked.response).unsqueeze(-1)
    before, after = (-float(scored(n, asked).gather(-1, labels).mean()) for n in (llama.network, edited))
    divergences = []
    for text in HARMLESS:
        prompt, own = encode(llama, text, format=PromptFormat("")).prompt, []
        for _ in range(SHORT.harmless_tokens):
            own.append(int(by_hand.logits(llama.network, [*prompt, *own])[-1].argmax()))
        assert llama.tokenizer.eos_token_id not in own
        vanilla, changed = (scored(n, Encoded(prompt, tuple(own))) for n in (llama.network, edited))
        divergences.append(float((vanilla.exp() * (vanilla - changed)).sum(dim=-1).mean()))
    report = found(llama, editor, [case])
    assert report.safe_before == pytest.approx(before, rel=1e-3)
    assert report.safe_after == pytest.approx(after, rel=1e-3)
    assert report.kl == pytest.approx(sum(divergences) / len(HARMLESS), rel=1e-3)
    assert report.loss == pytest.approx(SHORT.edit_weight * report.safe_after + report.kl, rel=1e-5)


def test_a_lesson_asks_the_question_in_every_prompt_that_the_case_has(llama, case):
    editor = new_editor(llama, SHORT)
    whole = lesson(llama, case, editor, SHORT)
    assert len(whole.asked) == 3, "the adversarial prompt, the question alone, the question under another attack"
    bare = Case("Be mean.", "Be mean.", "No.", "Yes.")
    assert len(lesson(llama, bare, editor, SHORT).asked) == 1, "the same prompt counts once"
    with pytest.raises(CaseError):
        lesson(llama, replace(bare, safe=""), editor, SHORT)


def test_a_lesson_runs_the_model_once_for_each_prompt_and_an_evaluation_s_but_once(llama, case):
    editor, passes = new_editor(llama, SHORT), []
    handle = llama.architecture.blocks[0].register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        for others in (True, False):
            passes.clear()
            assert len(lesson(llama, case, editor, SHORT, others).asked) == len(passes) == (3 if others else 1)
    finally:
        handle.remove()
    assert editor.shape.first == 1


def test_the_command_evaluates_on_the_adversarial_prompts_alone(commands, monkeypatch):
    seen: list[int] = []

    def noted(editor, lessons, *given):
        seen.extend(len(one.asked) for one in lessons)
        return evaluate(editor, lessons, *given)

    monkeypatch.setattr(command_line, "evaluate", noted)
    assert command_line.main(TRAIN) == 0
    assert seen == [1, 1], "of the untrained editor and of the trained one"


def test_the_same_seed_gives_the_same_editor_bit_for_bit_and_another_seed_another(llama, cases):
    few = replace(SHORT, steps=3)
    one, first = trained(llama, cases, few)
    torch.manual_seed(12345)
    state = torch.random.get_rng_state()
    two, second = trained(llama, cases, few)
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's random numbers are drawn"
    other, _ = trained(llama, cases, replace(few, steps=0, seed=1))
    same, _ = trained(llama, cases, replace(few, steps=0))
    assert not torch.equal(*(e.transforms["48x32"].layers[0].inner for e in (same, other)))
    assert [report.loss for report in first] == [report.loss for report in second]
    tensors = one.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in two.state_dict().items())


def test_training_reaches_every_layer_of_an_untrained_editor(llama, case):
    """Where U is zero a plain relu would have no gradient."""
    editor, _ = trained(llama, [case], replace(SHORT, steps=0))
    own = lesson(llama, case, editor, SHORT)
    own.asked[0].loss({name: adding(*edit) for name, edit in editor(own.factors).items()}).backward()
    assert editor.alphas.grad is not None and (editor.alphas.grad != 0).all()
    for transform in editor.transforms.values():
        for layer in transform.layers:
            assert float(layer.outer.grad.norm()) > 0 and float(layer.offset.grad.norm()) > 0
    assert all(parameter.grad is None for parameter in llama.network.parameters())


def test_every_layer_of_the_network_is_trained_and_so_are_the_step_sizes(llama, cases):
    untrained, _ = trained(llama, cases, replace(SHORT, steps=0))
    editor, _ = trained(llama, cases)
    before = dict(untrained.named_parameters())
    moved = {name: float((now - before[name]).detach().abs().max()) for name, now in editor.named_parameters()}
    assert len(moved) == 1 + 10 * len(editor.transforms), "two layers of five tensors each, and the step sizes"
    assert moved.pop("alphas") > 0 and min(moved.values()) > 0.1 * SHORT.learning_rate


def test_a_neuron_that_was_silent_on_every_training_case_cannot_blow_up_an_edit():
    """A ReLU neuron may fire first in the case that is edited; its entry had no deviation in training."""
    editor = EditorNetwork(EditorShape((("m", (1, 2)),), 0, rank=1, alpha=1.0))
    gradients = torch.tensor([[1.0], [-1.0]])
    editor.normalise_by([{"m": (torch.tensor([[1.0, 0.0], [3.0, 0.0]]), gradients)}])
    with torch.no_grad():
        left, right = editor({"m": (torch.tensor([[2.0, 0.5], [1.0, 0.5]]), torch.tensor([[1.0], [1.0]]))})["m"]
    assert float((left @ right).abs().max()) < 100


def test_a_training_without_a_case_or_a_harmless_prompt_is_refused(llama, cases):
    for some, harmless in (([], HARMLESS), (cases, ())):
        with pytest.raises(EditError, match=r"needs cases and harmless prompts.*Give at least one of each"):
            trained(llama, some, harmless=harmless)


@pytest.mark.parametrize("top_blocks", [0, 4])
def test_more_blocks_than_the_model_has_are_refused(llama, cases, top_blocks):
    with pytest.raises(EditError, match=f"top_blocks = {top_blocks} (does not fit|is out of range)"):
        trained(llama, cases, replace(SHORT, top_blocks=top_blocks))


def test_lessons_that_do_not_all_fit_are_refused_after_the_first(llama, cases, monkeypatch):
    editor = new_editor(llama, SHORT)
    first = bytes_in(lesson(llama, cases[0], editor, SHORT).kept)
    assert first > 4 * len(cases[0].adversarial_prompt) * llama.architecture.d_model, "each token's states are kept"
    made: list[Case] = []
    own = training.lesson
    monkeypatch.setattr(training, "lesson", lambda model, case, *rest: (made.append(case), own(model, case, *rest))[1])
    monkeypatch.setattr("editing.memory.free_memory", lambda _device: 2 * first - 1)
    with pytest.raises(OutOfMemory, match=r"A lesson of each case takes about .* are free\. Lower --limit\."):
        trained(llama, [cases[0]] * 3)
    assert made == [cases[0]]
    monkeypatch.setattr("editing.memory.free_memory", lambda _device: 2 * first)
    assert len(lessons_of(llama, [cases[0]] * 3, editor, SHORT)) == 3


def test_harmless_distributions_that_do_not_all_fit_are_refused(llama, monkeypatch):
    monkeypatch.setattr("editing.memory.free_memory", lambda _device: 1000)
    with pytest.raises(OutOfMemory, match=r"harmless prompt's distributions.*Lower --harmless-tokens"):
        watched_prompts(llama, HARMLESS, new_editor(llama, SHORT), SHORT)


def test_an_update_waits_for_its_device_once(llama, cases, monkeypatch):
    with counted_waits(monkeypatch) as waits:
        each = []
        for _ in train(llama, cases, HARMLESS, SHORT):
            each.append(waits.since())
    assert len(each) == SHORT.steps and set(each[1:]) == {1}, "before the first update the lessons are prepared"


@pytest.fixture
def commands(llama, cases, tmp_path, monkeypatch) -> Path:
    """The command line on a tiny model with short texts; its files go to the folder that is returned."""
    monkeypatch.setattr("editing.methods.mend.store.cache_root", lambda: tmp_path)
    monkeypatch.setattr("editing.methods.mend.store.SHIPPED", tmp_path / "shipped")
    loaded = {"load_model": lambda _options: llama, "held_out_cases": lambda: (replace(cases[1], split="score"),)}
    texts = {name: lambda: HARMLESS for name in ("bundled_constraint_prompts", "bundled_harmless")}
    for name, function in {**loaded, **texts, "bundled_cases": lambda: tuple(cases)}.items():
        monkeypatch.setattr(command_line, name, function)
    return tmp_path


TRAIN = ["train", "--steps", "2", "--top-blocks", "2", "--rank", "4", "--harmless-tokens", "4", "--seed", "7"]


def test_the_command_writes_the_editor_and_a_log_with_the_command_and_the_seed(llama, commands, capsys):
    assert command_line.main(TRAIN) == 0
    path = commands / "mend" / f"{llama.fingerprint}.safetensors"
    editor, record = load_editor(llama)
    told = "python -m editing.methods.mend " + " ".join(TRAIN)
    assert path.is_file() and editor.shape.first == llama.blocks - 2 and editor.shape.rank == 4
    assert (record.command, record.training.seed, record.model) == (told, 7, llama.name)
    log = path.with_suffix(".txt").read_text(encoding="utf-8")
    assert log.startswith(f"$ {told}\n") and "seed=7" in log and llama.fingerprint in log
    assert "held out: 1 cases, 3 harmless prompts" in log and log == capsys.readouterr().err


def test_float16_is_refused_before_any_lesson_is_prepared(overflowing, cases, monkeypatch):
    monkeypatch.setattr(training, "lesson", lambda *given: pytest.fail("a lesson was prepared"))
    with pytest.raises(EditError, match=r"not trained in float16\. Load the model in float32 or bfloat16"):
        next(train(overflowing, cases, HARMLESS, SHORT))


def test_a_trained_editor_goes_where_out_says(llama, commands):
    out = commands / "elsewhere" / "mine.safetensors"
    assert command_line.main([*TRAIN, "--out", str(out), "--plain-text", "--suffix-prompt", ""]) == 0
    assert load_editor(llama, out)[1].format == PromptFormat("", chat=False)
    assert sorted(file.name for file in out.parent.iterdir()) == ["mine.safetensors", "mine.txt"]
    assert load_editor(llama, out)[1].training.steps == 2 and not (commands / "mend").exists()


def test_cases_that_are_kept_for_scoring_are_not_trained_on(commands, cases, monkeypatch):
    scored = replace(cases[0], question="Scored?", split="score")
    monkeypatch.setattr(command_line, "bundled_cases", lambda: (*cases, scored))
    seen: list[Case] = []

    def noted(model, some, harmless, settings):
        seen.extend(some)
        return train(model, some, harmless, settings)

    monkeypatch.setattr(command_line, "train", noted)
    assert command_line.main(TRAIN) == 0
    assert seen == cases


def test_evaluate_prints_what_the_training_found(commands, capsys):
    """Of the trained and of the untrained editor, whatever the settings of the training were."""
    assert command_line.main([*TRAIN, "--alpha", "0.01", "--harmless-tokens", "3"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "trained: -log" in line]
    assert command_line.main(["evaluate"]) == 0
    again = [line for line in capsys.readouterr().err.splitlines() if "trained: -log" in line]
    assert len(lines) == 2 and lines[0] != lines[1].replace("  trained", "untrained")
    assert again == lines


def test_an_editor_is_evaluated_with_the_weight_that_it_was_trained_with(commands, monkeypatch):
    seen: list[float | None] = []

    def noted(editor, lessons, watched, edit_weight=None):
        seen.append(edit_weight)
        return evaluate(editor, lessons, watched, edit_weight)

    monkeypatch.setattr(command_line, "evaluate", noted)
    assert command_line.main([*TRAIN, "--edit-weight", "0.7"]) == 0
    assert command_line.main(["evaluate"]) == 0
    assert seen == [0.7] * 4


def test_evaluate_asks_in_the_prompt_format_of_an_editor_of_an_earlier_version(llama, commands, capsys):
    assert command_line.main([*TRAIN, "--suffix-prompt", "Be good.", "--plain-text"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "trained: -log" in line]
    editor, record = load_editor(llama)
    about = {"fingerprint": record.fingerprint, **asdict(record.training)}
    format = about.pop("format")
    names = {"suffix": "suffix", "chat": "chat", "turn_end": "end_of_answer"}
    save_editor(editor, places(llama)[1], about | {names[name]: value for name, value in format.items()})
    assert command_line.main(["evaluate"]) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "trained: -log" in line] == lines


def test_evaluate_without_an_editor_prints_the_remedy_and_returns_2(commands, capsys):
    assert command_line.main(["evaluate"]) == 2
    printed = capsys.readouterr()
    assert "editing.methods.mend train" in printed.err and "Traceback" not in printed.err and printed.out == ""


def test_a_refused_training_returns_2_and_leaves_the_editor_and_its_log_as_they_were(commands, capsys):
    assert command_line.main(TRAIN) == 0
    before = {file.name: file.read_bytes() for file in (commands / "mend").iterdir()}
    assert command_line.main([*TRAIN, "--top-blocks", "9"]) == 2
    assert "top_blocks = 9 does not fit" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in (commands / "mend").iterdir()} == before


@pytest.mark.parametrize("out", ["a folder", "its log a folder", "its log", "below a file", "the cache"])
def test_a_place_that_cannot_be_written_is_told_before_a_model_is_loaded(commands, capsys, monkeypatch, out):
    (commands / "log.txt").mkdir()
    (commands / "mend").write_text("", encoding="utf-8")
    monkeypatch.setattr(command_line, "load_model", lambda _options: pytest.fail("a model was loaded"))
    place = {
        "a folder": commands,
        "its log a folder": commands / "log.safetensors",
        "its log": commands / "editor.txt",
        "below a file": commands / "mend" / "editor.safetensors",
    }
    assert command_line.main([*TRAIN, *([] if out == "the cache" else ["--out", str(place[out])])]) == 2
    told = capsys.readouterr()
    assert "Error: " in told.err and "--out" in told.err and told.out == ""


def test_a_disk_that_is_full_at_the_end_is_told_without_a_traceback(commands, capsys, monkeypatch):
    def full(*_given, **_named):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("inspector.model.tensor_file.save_file", full)
    assert command_line.main(TRAIN) == 2
    told = capsys.readouterr()
    assert "No space left on device" in told.err and "make room there" in told.err and told.out == ""
    assert not [path for path in commands.rglob("*") if path.is_file()]
