"""FT-L trains one matrix on the safe answer and nothing else; Self-Reminder changes prompts and no weight."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace

import by_hand
import pytest
import tiny_models
import torch
import training_helpers as plain
from torch import Tensor
from training_helpers import ATOL, IDS, small

from editing import Preparation, Step, run
from editing.methods.ft_l import FtLSettings, ft_l
from editing.methods.self_reminder import AFTER, BEFORE, SelfReminderSettings, self_reminder
from inspector.errors import CaseError, EditError, PatchError, RefusedEdit
from inspector.likelihood import likelihoods
from inspector.model import VANILLA, PromptFormat, Row, from_parts
from inspector.model.patches.patch import Reminder

BLOCK = 1
REMINDER = Reminder("Some method", "Be kind.", "Stay kind.")


def adam(model, case, settings: FtLSettings, block: int = BLOCK) -> Tensor:
    """Return the change of one matrix of a float32 copy after Adam on the safe answer's mean NLL."""
    network = copy.deepcopy(model.network).float()
    weight = network.get_submodule(by_hand.down_name(network, block)).weight.requires_grad_(True)
    start = weight.detach().clone()
    optimiser = torch.optim.Adam([weight], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    ids = plain.encoded(model, case.adversarial_prompt, case.safe, settings.format.turn_end)
    for _ in range(settings.steps):
        optimiser.zero_grad()
        (-plain.token_log_probabilities(network, *ids).mean()).backward()
        optimiser.step()
        if settings.clamp is not None:
            with torch.no_grad():
                weight.copy_(start + (weight - start).clamp(-settings.clamp, settings.clamp))
    change = (weight - start).detach()
    return change.T if type(network.get_submodule(by_hand.down_name(network, block))).__name__ == "Conv1D" else change


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 1.0, "damage_budget": 1e-9}, r"FT-L kept no update.*or lower its learning_rate\.$"),
        ({"target_probability": 1e-9}, "so FT-L has nothing to learn"),
    ],
)
def test_an_edit_of_ft_l_that_is_none_is_told_by_its_own_name_and_settings(llama, case, changes, said):
    with pytest.raises(RefusedEdit, match=said):
        run(ft_l(llama, case, BLOCK, small(FtLSettings, **changes)))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in tiny_models.FIVE),
        ("llama", {"clamp": 0.02}),
        ("gpt2", {"weight_decay": 0.1, "format": PromptFormat(turn_end=False)}),
    ],
)
def test_ft_l_is_adam_on_the_safe_answer_s_mean_nll_by_hand(model, case, changes):
    settings = small(FtLSettings, steps=4, **changes)
    result = run(ft_l(model, case, BLOCK, settings))
    (delta,) = result.patch.deltas
    assert (delta.module, delta.block, delta.right) == (by_hand.down_name(model.network, BLOCK), BLOCK, None)
    expected = adam(model, case, settings)
    # Adam divides each gradient by its own size, which magnifies rounding where a gradient is tiny.
    assert (delta.left - expected).norm() < 2e-3 * expected.norm()
    largest = float(delta.left.abs().max())
    assert largest == pytest.approx(0.02, abs=1e-6) if settings.clamp else largest > 0.03


def test_ft_l_s_trace_is_the_likelihood_alone_and_ends_with_what_its_patch_does(model, case):
    result = run(ft_l(model, case, BLOCK, small(FtLSettings, steps=3)))
    assert all(step.total_loss == pytest.approx(step.edit_loss, rel=1e-6) for step in result.trace)
    assert result.trace[-1].edit_loss < result.trace[0].edit_loss
    last, own = result.trace[-1], plain.measured(model, case, result)
    assert own.safe_probability == pytest.approx(last.safe_probability, rel=1e-3)
    assert own.unsafe_probability == pytest.approx(last.unsafe_probability, rel=1e-3)
    assert own.constraint_kl == pytest.approx(last.constraint_kl, rel=5e-3) and last.constraint_kl > 1e-4
    copied = plain.written(model.network, result.patch)
    assert {n for n, d in plain.all_deltas(model.network, copied).items() if d.any()} == {result.patch.deltas[0].module}
    own = by_hand.running_logits(model, IDS, [Row(result.patch)])[0]
    assert torch.allclose(own, by_hand.logits(copied, IDS), atol=ATOL)


def test_ft_l_on_a_bfloat16_base_trains_a_float32_copy(case):
    """The by-hand loop runs the whole network in float32, the edit runs all but the matrix in bfloat16."""
    model = from_parts(tiny_models.network("llama").to(torch.bfloat16), tiny_models.tokenizer(), "half")
    checksum = by_hand.checksum(model.network)
    settings = small(FtLSettings, steps=1, learning_rate=1e-5)
    change = run(ft_l(model, case, BLOCK, settings)).patch.deltas[0].left
    expected = adam(model, case, settings)
    assert change.dtype == torch.float32 and (change != 0).float().mean() > 0.9
    assert (change.sign() == expected.sign()).float().mean() > 0.9
    assert by_hand.checksum(model.network) == checksum


def test_ft_l_records_its_own_settings_and_uses_no_companion(llama, case):
    settings = small(FtLSettings, steps=2)
    result = run(ft_l(llama, case, 2, settings))
    assert result.settings == settings and (result.block, result.kept, result.stop_reason) == (2, 2, "step limit")
    assert result.patch.method == "FT-L"
    assert dict(result.patch.settings) == {**asdict(settings), "block": 2, "updates": 2}
    again = run(ft_l(llama, case, 2, settings, companions=[replace(case, safe="No.")]))
    assert again.patch.identifier == result.patch.identifier


def test_ft_l_ends_by_its_target_its_budget_and_a_cancel(llama, case):
    free = run(ft_l(llama, case, BLOCK, small(FtLSettings, steps=4)))
    middle = (free.trace[1].safe_probability + free.trace[2].safe_probability) / 2
    reached = run(ft_l(llama, case, BLOCK, small(FtLSettings, steps=4, target_probability=middle)))
    assert (reached.stop_reason, reached.kept) == ("target reached", 2)
    budget = (free.trace[2].constraint_kl + free.trace[3].constraint_kl) / 2
    stopped = run(ft_l(llama, case, BLOCK, small(FtLSettings, steps=4, damage_budget=budget)))
    assert (stopped.stop_reason, stopped.kept) == ("damage budget", 2)
    short = run(ft_l(llama, case, BLOCK, small(FtLSettings, steps=2))).patch.identifier
    assert reached.patch.identifier == stopped.patch.identifier == short
    cancelled = run(ft_l(llama, case, BLOCK, small(FtLSettings), cancel=lambda: True))
    assert (cancelled.stop_reason, cancelled.patch, cancelled.kept) == ("cancelled", None, 0)
    assert isinstance(cancelled.settings, FtLSettings)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0}, {"clamp": 0}, {"damage_budget": 0}])
def test_ft_l_refuses_settings_out_of_range_by_name(wrong):
    with pytest.raises(EditError, match=f"{next(iter(wrong))} = 0 is out of range"):
        FtLSettings(**wrong)


def reminded(**changes) -> SelfReminderSettings:
    return SelfReminderSettings(**{**plain.SMALL, **changes})


def test_a_reminder_stands_around_the_text_with_blank_lines_between():
    row = Row(reminder=REMINDER)
    assert row.prompted("How are you?") == "Be kind.\n\nHow are you?\n\nStay kind."
    assert Reminder("m", "", "Stay kind.").wrap("Hi") == "Hi\n\nStay kind."
    assert Reminder("m", "Be kind.", "").wrap("Hi") == "Be kind.\n\nHi"
    assert VANILLA.prompted("Hi") == "Hi"
    assert row.weights() == VANILLA and row.weights().prompted("Hi") == "Hi"


def test_a_row_is_named_by_its_reminder_and_says_that_its_weights_are_vanilla(llama):
    label = Row(reminder=REMINDER).label()
    assert label.startswith("Some method") and "vanilla weights" in label and "reminder" in label
    with pytest.raises(PatchError, match="not both"):
        Row(by_hand.patch(llama), 0.5, REMINDER)


def test_a_forward_pass_refuses_a_row_that_still_has_its_reminder(model):
    """Alone or beside vanilla; it would else measure vanilla weights on a prompt without the reminder."""
    hooks = by_hand.hooks(model.network)
    for rows in ([Row(reminder=REMINDER)], [VANILLA, Row(reminder=REMINDER)], [Row(None, 0.0, REMINDER)]):
        with pytest.raises(PatchError, match=r"Some method changes prompts, not weights.*method that makes a patch"):
            by_hand.running_logits(model, IDS, rows)
        by_hand.assert_at_rest(model, hooks)
    with pytest.raises(PatchError, match="Some method"):
        likelihoods(model, "Hi there", ["Hello."], [VANILLA, Row(reminder=REMINDER)])
    own = by_hand.running_logits(model, IDS, [Row(reminder=REMINDER).weights()])[0]
    assert torch.equal(own, by_hand.vanilla_logits(model, IDS))


def test_self_reminder_makes_no_patch_but_a_row_that_wraps_the_prompt(llama, case):
    before, hooks = by_hand.vanilla_logits(llama, IDS), by_hand.hooks(llama.network)
    events: list = []
    result = run(self_reminder(llama, case, BLOCK, reminded()), events.append)
    assert (result.patch, result.kept, result.stop_reason) == (None, 1, "prompt only")
    assert result.row().prompted(case.question) == f"{BEFORE}\n\n{case.question}\n\n{AFTER}"
    assert result.row().label().startswith("Self-Reminder")
    assert [event for event in events if isinstance(event, Step)] == list(result.trace)
    assert torch.equal(by_hand.vanilla_logits(llama, IDS), before)
    by_hand.assert_at_rest(llama, hooks)


@pytest.mark.parametrize("family", tiny_models.ENDS)
def test_self_reminder_measures_both_answers_and_the_damage_with_the_wrapped_prompt(model, case):
    settings = reminded(before="Be kind.", after="Stay kind.")
    wrap = Reminder("m", "Be kind.", "Stay kind.").wrap
    trace = run(self_reminder(model, case, BLOCK, settings)).trace
    assert [(step.step, step.steps, step.delta_norm) for step in trace] == [(0, 1, 0.0), (1, 1, 0.0)]
    wrapped = replace(case, adversarial_prompt=wrap(case.adversarial_prompt))
    for step, asked in zip(trace, (case, wrapped), strict=True):
        with torch.no_grad():
            safe, unsafe = (plain.of_answer(model, model.network, asked, text) for text in (case.safe, case.unsafe))
        assert step.edit_loss == pytest.approx(-float(safe.mean()), abs=ATOL)
        assert step.safe_probability == pytest.approx(float(safe.mean().exp()), rel=1e-4)
        assert step.unsafe_probability == pytest.approx(float(unsafe.mean().exp()), rel=1e-4)
    assert trace[0].constraint_kl == pytest.approx(0, abs=1e-6)
    expected = plain.harmless_kl(model, model.network, case, wrap)
    assert trace[1].constraint_kl == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert expected > 1e-4


def test_an_empty_reminder_changes_nothing(llama, case):
    first, last = run(self_reminder(llama, case, BLOCK, reminded(before="", after=""))).trace
    assert last.safe_probability == first.safe_probability and last.constraint_kl == pytest.approx(0, abs=1e-6)


def test_a_cancelled_self_reminder_has_no_reminder(llama, case):
    for asked in range(1, 5):
        events: list = []
        cancel = lambda e=events, n=asked: len(e) >= n  # noqa: E731
        result = run(self_reminder(llama, case, BLOCK, reminded(), cancel=cancel), events.append)
        if len(events) < asked:
            break
        assert (result.patch, result.reminder, result.kept, result.stop_reason) == (None, None, 0, "cancelled")
        assert result.row().label() == "vanilla"
    assert isinstance(events[0], Preparation) and asked > 2


def test_a_case_without_an_answer_is_refused_by_both(llama, case):
    for edit in (ft_l(llama, replace(case, safe=""), BLOCK), self_reminder(llama, replace(case, unsafe=""), BLOCK)):
        with pytest.raises(CaseError):
            run(edit)
