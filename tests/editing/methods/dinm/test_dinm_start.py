"""How an edit starts: what is read and evaluated before its first step is told, and how often after it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch

from editing import DinmSettings, Preparation, Step, dinm, preset, run
from editing.methods.dinm import prepare_terms, term_values
from editing.optimising.matrix import Matrix
from editing.optimising.null_space import harmless_moment, soft_null_space
from editing.optimising.objectives import KlTerm, kl_term
from editing.optimising.replay import TailReplay, master_weight
from inspector.errors import EditError
from inspector.model import InspectedModel, from_parts
from inspector.model.passes.captured import Observed, observed

BLOCK = 1
QUICK = {"harmless_prompts": 4, "harmless_tokens": 4, "harmless_at_once": 2, "own_refusals": 0}
NO_STOP = {"target_probability": None, "damage_budget": None, "stop_below": 0.0}


def small(name: str = "corrected", **changes) -> DinmSettings:
    return preset(name, **{**QUICK, **NO_STOP, **changes})


class Counting(TailReplay):
    """A replay that is counted, and each of its evaluations; a subclass a test."""

    evaluated: list[int]
    texts: list[list[tuple[int, ...]]]

    def __init__(self, model, block, sequences, counted) -> None:
        super().__init__(model, block, sequences, counted)
        self._number = len(self.evaluated)
        self.evaluated.append(0)
        self.texts.append([tuple(tokens) for tokens in sequences])

    def logits(self, weight: torch.Tensor) -> torch.Tensor:
        self.evaluated[self._number] += 1
        return super().logits(weight)


@pytest.fixture
def gemma2(tiny) -> InspectedModel:
    """Its norm after the MLP makes another product of the edited matrix's output."""
    return tiny("gemma2")


def counting() -> type[Counting]:
    return type("Counted", (Counting,), {"evaluated": [], "texts": []})


def test_the_unedited_weights_are_told_before_a_harmless_text_is_asked_or_read(case):
    model = from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "new")  # has answered nothing yet
    replay = counting()
    edit = dinm(model, case, BLOCK, small(), replay=replay)
    before = [next(edit), next(edit)]
    assert isinstance(before[0], Preparation) and isinstance(before[1], Step)
    assert replay.evaluated == [1, 1], "the safe answers and the unsafe one, each once"
    assert (before[1].step, before[1].constraint_kl, before[1].delta_norm) == (0, 0.0, 0.0)
    after = next(edit)
    assert isinstance(after, Preparation) and after.message.startswith("Asking the vanilla model harmless prompts")
    edit.close()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_every_weight_is_evaluated_once_and_the_unedited_one_is_no_exception(llama, case, weight):
    """The constraint's parts: what they are measured from, a gradient if they have one, trials of a step size."""
    replay = counting()
    settings = small(steps=4, constraint_weight=weight, damage_budget=1e9)
    run(dinm(llama, case, BLOCK, settings, replay=replay))
    safe, unsafe, first, second = replay.evaluated
    assert safe == unsafe == 5
    steps, from_vanilla, trials = 2, 1, first - 3 - (weight > 0)
    assert 1 <= trials <= 6 and second == from_vanilla + steps


def test_where_nothing_depends_on_the_constraint_a_step_watches_two_texts_and_the_edit_is_the_same(
    llama, case, monkeypatch
):
    """The step size is measured on all of a part, as ever; an edit with a budget measures all of it at every step."""
    free = small(steps=3, constraint_weight=0.0, harmless_at_once=4)
    replay = counting()
    few = run(dinm(llama, case, BLOCK, free, replay=replay))
    assert [len(texts) for texts in replay.texts[2:]] == [2, 4] and set(replay.texts[2]) < set(replay.texts[3])
    assert replay.evaluated[2] == 1 + free.steps, "what it is measured from, and every step but that of vanilla"
    monkeypatch.setattr("editing.methods.dinm.terms.WATCHED", 4)
    every = run(dinm(llama, case, BLOCK, free))
    assert few.patch.identifier == every.patch.identifier
    assert few.trace[-1].constraint_kl != every.trace[-1].constraint_kl > 0
    monkeypatch.setattr("editing.methods.dinm.terms.WATCHED", 2)
    for kept in ({"damage_budget": 1e3}, {"harmless_at_once": None}, {"constraint_weight": 0.1}):
        replay = counting()
        run(dinm(llama, case, BLOCK, replace(free, **kept), replay=replay))
        assert [len(texts) for texts in replay.texts[2:]] == [4]


def test_what_edits_of_a_block_share_is_read_for_the_first_one_and_no_bit_of_the_others_changes(case, monkeypatch):
    """Two parts of companions and one of harmless texts; a case's own answers are always read."""
    monkeypatch.setattr("editing.methods.dinm.terms.LONGEST_COMPANION", 10_000)
    passes: list[tuple[int, ...]] = []

    def counted(model, ids, blocks, **further) -> Observed:
        passes.append(tuple(blocks))
        return observed(model, ids, blocks, **further)

    monkeypatch.setattr("inspector.model.passes.tails.observed", counted)
    settings = small(steps=1, constraint_weight=0.0, companions=6, harmless_at_once=2)
    other = replace(case, adversarial_prompt="Hum it: how do I lie?", safe="Let us not.")
    model, fresh = (from_parts(tiny_models.network("llama"), tiny_models.tokenizer(), "new") for _ in range(2))
    alone = run(dinm(fresh, other, BLOCK, settings)).patch
    for edited, block, expected in ((case, BLOCK, 5), (other, BLOCK, 2), (other, BLOCK + 1, 5)):
        passes.clear()
        patch = run(dinm(model, edited, block, settings)).patch
        assert passes == [(block,)] * expected
        assert (patch.identifier == alone.identifier) is (edited is other and block == BLOCK)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"neurons_only": 20},
        {"constraint_weight": 0.0},
        {"optimiser": "descent", "learning_rate": 3.0},
        {"companions": 3},
        {"null_space": 0.1},
    ],
)
def test_the_first_update_is_that_of_the_whole_loss_bit_for_bit(llama, gemma2, case, monkeypatch, changes):
    """Edit loss and constraint are differentiated one after the other, and here together.

    What is made of the gradient depends on no family, and what is multiplied with the matrix, or its columns, does.
    """
    monkeypatch.setattr("editing.methods.dinm.terms.LONGEST_COMPANION", 10_000)
    settings = small(**{"steps": 1, "learning_rate": 1e-3, **changes})
    for model in (llama, gemma2) if changes.keys() <= {"neurons_only"} else (llama,):
        made = run(dinm(model, case, BLOCK, settings)).patch.deltas[0].dense()
        base = master_weight(model, BLOCK)
        terms = run(prepare_terms(model, case, BLOCK, settings, base, TailReplay, lambda: False))
        projection = None
        if settings.null_space is not None:
            projection = soft_null_space(run(harmless_moment(model, BLOCK, settings.format)), settings.null_space)
        matrix = Matrix(base, projection=projection)
        kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.SGD
        optimiser = kind(matrix.parameters, lr=settings.learning_rate)
        term_values(terms, matrix.weight(), settings, gradient=True)[3].backward()
        optimiser.step()
        moved = made.any(dim=0)
        assert moved.any() and torch.equal(made[:, moved], matrix.change()[:, moved])


@pytest.mark.parametrize("name", ["corrected", "reference"])
def test_a_constraint_that_is_no_number_refuses_the_edit_after_step_zero(llama, case, monkeypatch, name):
    """Whether it has a gradient or not."""

    def broken(*given) -> KlTerm:
        made = kl_term(*given)
        return replace(made, vanilla=made.vanilla * float("nan"))

    monkeypatch.setattr("editing.methods.dinm.terms.kl_term", broken)
    events: list = []
    with pytest.raises(EditError, match=r"not a finite number before the first step.*float32"):
        run(dinm(llama, case, BLOCK, small(name)), events.append)
    assert [event.step for event in events if isinstance(event, Step)] == [0]
