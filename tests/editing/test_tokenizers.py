"""Edits with tokenizers like the real ones: what is trained is the answer as the tokenizer itself reads the whole
conversation, its end is the template's own, and no space is counted that the prompt has already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import by_hand
import pytest
import real_tokenizers
import tiny_models
import torch
from training_helpers import small, written

from editing import dinm, preset, run
from editing.atlas import AtlasSettings, make_atlas
from editing.methods.dpo import DpoSettings, dpo
from editing.methods.mend import MendTraining
from editing.methods.mend.training import lesson, new_editor
from editing.methods.sft import SftSettings, sft
from editing.progress import EditResult
from inspector.model import SUFFIX, InspectedModel, from_parts
from inspector.safeedit import Case

BLOCK = 1
QUICK = {"harmless_prompts": 2, "harmless_tokens": 4}
KINDS = {"sentencepiece": real_tokenizers.sentencepiece, "byte level": real_tokenizers.byte_level}
ENDS = {
    None: "</s>",
    "GEMMA": "<end_of_turn>",
    "LLAMA_2": "</s>",
    "QWEN_3": "<end_of_turn>",
    "PHI_3": "<end_of_turn>",
}
"""What ends an answer, by template; in plain text the end of sequence."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A tiny model with a tokenizer, and a conversation as that tokenizer reads it.

    Attributes:
        model: The model.
        prompt: Ids of the prompt.
        safe: Ids of the safe answer with its end.
        unsafe: Ids of the unsafe one.
        end: Id of the end.
    """

    model: InspectedModel
    prompt: list[int]
    safe: list[int]
    unsafe: list[int]
    end: int


@cache
def built(kind: str, template: str | None, text: str, safe: str, unsafe: str) -> Setting:
    tokenizer = KINDS[kind](getattr(real_tokenizers, template) if template else None)
    model = from_parts(tiny_models.network("llama"), tokenizer, f"{kind} {template}")
    end = tokenizer.convert_tokens_to_ids(ENDS[template])
    asked = f"{text} {SUFFIX}"

    def whole(answer: str) -> list[int]:
        if template is None:
            return [*tokenizer(f"{asked} {answer}")["input_ids"], end]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        told = tokenizer.apply_chat_template(turns, tokenize=False, enable_thinking=False)
        upto = told[: told.rindex(ENDS[template]) + len(ENDS[template])]
        return tokenizer(upto, add_special_tokens=False)["input_ids"]

    if template is None:
        prompt = tokenizer(asked)["input_ids"]
    else:
        shown = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        prompt = tokenizer(shown, add_special_tokens=False)["input_ids"]

    def following(answer: str) -> list[int]:
        ids = whole(answer)
        if ids[: len(prompt)] == prompt:
            return ids[len(prompt) :]
        # A token spans where they meet, and generation reads the prompt alone.
        return tokenizer(answer + ENDS[template], add_special_tokens=False)["input_ids"]

    return Setting(model, prompt, following(safe), following(unsafe), end)


PLACES = [
    ("sentencepiece", None),
    ("sentencepiece", "GEMMA"),
    ("sentencepiece", "LLAMA_2"),
    ("sentencepiece", "PHI_3"),
    ("byte level", None),
    ("byte level", "GEMMA"),
    ("byte level", "QWEN_3"),
]


@pytest.fixture
def case(case) -> Case:
    return replace(case, safe="I'm not the right help.", unsafe="So will I.")


@pytest.fixture(params=PLACES, ids=[f"{kind}, {template}" for kind, template in PLACES])
def setting(request, case) -> Setting:
    return built(*request.param, case.adversarial_prompt, case.safe, case.unsafe)


def mean(network, prompt: list[int], answer: list[int]) -> float:
    """Return the mean log-probability of an answer's tokens, nats."""
    scored = by_hand.logits(network, [*prompt, *answer])[len(prompt) - 1 : -1].log_softmax(dim=-1)
    return float(scored.gather(-1, torch.tensor(answer).unsqueeze(-1)).mean())


def test_the_answer_starts_with_no_bare_space_and_ends_with_the_template_s_own_token(setting):
    pieces = setting.model.tokenizer.convert_ids_to_tokens(setting.safe)
    assert setting.safe[-1] == setting.end and pieces[0].strip(real_tokenizers.SPACE + "\u0120").startswith("I")
    assert setting.model.tokenizer.eos_token_id == tiny_models.END


def edited(name: str, model: InspectedModel, case: Case) -> EditResult:
    edits: dict[str, Callable[[], EditResult]] = {
        "dinm": lambda: run(
            dinm(
                model,
                case,
                BLOCK,
                preset(
                    "corrected",
                    steps=3,
                    learning_rate=1e-2,
                    safe_answers=1,
                    target_probability=None,
                    damage_budget=None,
                    null_space=None,
                    own_refusals=0,
                    **QUICK,
                ),
            )
        ),
        "sft": lambda: run(sft(model, case, BLOCK, small(SftSettings))),
        "dpo": lambda: run(dpo(model, case, BLOCK, small(DpoSettings, warm_up=2))),
    }
    return edits[name]()


@pytest.mark.parametrize(
    ("setting", "name"),
    [*((place, "dinm") for place in PLACES), *product(PLACES[:2] + PLACES[-1:], ("sft", "dpo"))],
    indirect=["setting"],
)
def test_an_edit_trains_the_answer_as_the_tokenizer_reads_it_with_the_template_s_end(setting, case, name):
    model = setting.model
    result = edited(name, model, case)
    expected = mean(model.network, setting.prompt, setting.safe)
    assert result.trace[0].safe_probability == pytest.approx(float(torch.tensor(expected).exp()), rel=1e-4)
    after = written(model.network, result.patch)
    assert mean(after, setting.prompt, setting.safe) > expected
    ends = [
        float(by_hand.logits(n, [*setting.prompt, *setting.safe])[-2].softmax(dim=-1)[setting.end])
        for n in (model.network, after)
    ]
    assert ends[1] > 1.05 * ends[0], "the end itself must have been learnt"


def test_the_atlas_counts_the_answers_as_the_tokenizer_reads_them_with_the_template_s_end(setting, case):
    settings = AtlasSettings(learning_rate=1e-2, blocks=(BLOCK,), **QUICK)
    atlas = run(make_atlas(setting.model, case, settings))
    assert atlas.safe == pytest.approx(mean(setting.model.network, setting.prompt, setting.safe), abs=1e-4)
    assert atlas.unsafe == pytest.approx(mean(setting.model.network, setting.prompt, setting.unsafe), abs=1e-4)
    assert atlas.curve("safe gain")[BLOCK] > 0


def test_mend_reads_the_answer_as_the_tokenizer_does_with_the_template_s_end(setting, case):
    settings = MendTraining(top_blocks=1, rank=2)
    read = lesson(setting.model, case, new_editor(setting.model, settings), settings)
    assert [top.labels for top in read.asked] == [setting.safe] * 3
    assert read.asked[0].labels[-1] == setting.end
