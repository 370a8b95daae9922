"""Judges that are models: which label is safe, verdicts by hand, guards that answer in a word, refused folders."""

from __future__ import annotations

import types

import pytest
import tiny_models
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedModel
from waits import counted_waits

from inspector.errors import CaseError, ModelLoadError, NoRoom, NotFinite, NoVerdict
from inspector.safeedit.judges import EmbeddedJudge, MatcherJudge, load_judge, profanity
from inspector.safeedit.model_judges import ClassifierJudge, GuardJudge, find_safe_label
from inspector.safeedit.verdict import Verdict, verdicts


def classifier(names: dict[int, str] | None = None) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    config = LlamaConfig(**{**tiny_models._LLAMA, "num_labels": 2})
    if names is not None:
        config.id2label = names
    return LlamaForSequenceClassification(config).eval()


@pytest.mark.parametrize(
    ("names", "index"),
    [
        ({0: "LABEL_0", 1: "LABEL_1"}, 0),
        ({0: "unsafe", 1: "safe"}, 1),
        ({0: "toxic", 1: "other"}, 1),
        ({0: "neutral", 1: "toxic"}, 0),
        ({0: "hate", 1: "offensive", 2: "neutral"}, 2),
    ],
)
def test_the_safe_label_is_found_by_its_name(names, index):
    assert find_safe_label(types.SimpleNamespace(id2label=names))[0] == index


def test_a_classifier_s_verdict_is_its_likeliest_label_on_the_response_alone():
    network, tokenizer = classifier(), tiny_models.tokenizer(chat=False)
    judge = ClassifierJudge(network, tokenizer, "tiny")
    pairs = [("a prompt", text) for text in ("Yes, do it.", "No thank you, I will not.", "Maybe later on.")]
    for (_prompt, text), verdict in zip(pairs, judge.judge(pairs), strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        chances = network(ids).logits[0].softmax(-1)
        assert verdict.safe_probability == pytest.approx(float(chances[0]), abs=1e-5)
        assert verdict.label == ("safe" if chances.argmax() == 0 else "unsafe")
    assert judge.judge([("another prompt", pairs[0][1])]) == judge.judge(pairs[:1])


def test_a_classifier_reads_at_most_512_tokens():
    network, tokenizer = classifier(), tiny_models.tokenizer(chat=False, limit=4096)
    widths: list[int] = []
    network.get_input_embeddings().register_forward_pre_hook(lambda _m, args: widths.append(args[0].shape[1]))
    ClassifierJudge(network, tokenizer, "tiny").judge([("", "word " * 400)])
    assert widths == [512]


def test_a_classifier_that_reads_no_numbers_has_no_verdict():
    """The first label, most often the safe one, is what the largest of them would be."""
    network = tiny_models.out_of_range(classifier().half())
    with pytest.raises(NotFinite, match=r"The judge 'tiny' .*in float32, or the judge 'embedded'"):
        ClassifierJudge(network, tiny_models.tokenizer(chat=False), "tiny").judge([("", "Yes, do it.")])


class SpokenNetwork:
    """Stands in for a guard model: says a text byte by byte, whatever it reads."""

    device = torch.device("cpu")

    def __init__(self, said: str) -> None:
        self.said, self.place = tiny_models.tokenizer()(said, add_special_tokens=False)["input_ids"], 0

    def eval(self) -> SpokenNetwork:
        return self

    def requires_grad_(self, _on: bool) -> SpokenNetwork:
        return self

    def forward(self, **_inputs) -> types.SimpleNamespace:
        logits = torch.zeros(1, 1, tiny_models.VOCABULARY)
        logits[0, 0, self.said[self.place % len(self.said)]] = 4.0
        self.place += 1
        return types.SimpleNamespace(logits=logits, past_key_values=None)

    __call__ = forward


@pytest.mark.parametrize(
    ("said", "label", "likely"), [("\nsafe", "safe", True), ("unsafe\nS1", "unsafe", False), ("Yes", "unsafe", False)]
)
def test_a_guard_s_word_is_its_verdict_with_a_probability(said, label, likely):
    verdict = GuardJudge(SpokenNetwork(said), tiny_models.tokenizer(), "guard").judge([("p", "r")])[0]
    assert verdict.label == label and (verdict.safe_probability > 0.5) is likely


def test_a_guard_that_says_neither_word_counts_as_unsafe():
    verdict = GuardJudge(SpokenNetwork("???"), tiny_models.tokenizer(), "guard").judge([("p", "r")])[0]
    assert verdict.label == "unsafe" and "no verdict" in verdict.reason


def test_a_guard_reads_a_token_its_probability_and_whether_they_are_numbers_with_one_wait(monkeypatch):
    guard = GuardJudge(SpokenNetwork("???"), tiny_models.tokenizer(), "guard")
    with counted_waits(monkeypatch) as waits:
        guard.judge([("p", "r")])
    assert waits.since() == GuardJudge.LONGEST


def test_a_guard_that_reads_no_numbers_has_no_verdict(overflowing):
    """Neither word comes then, which would pass for one that says neither."""
    guard = GuardJudge(overflowing.network, overflowing.tokenizer, "guard")
    with pytest.raises(NoVerdict, match=r"The judge 'guard' .*in float32, or the judge 'embedded'"):
        guard.judge([("p", "r")])


def test_a_guard_s_word_stands_whatever_it_would_say_after_it():
    """The text of which the word has come goes on beside one of which it has not."""

    class Later(SpokenNetwork):
        def __call__(self, **inputs) -> types.SimpleNamespace:
            output = self.forward(**inputs)
            output.logits = output.logits.repeat(2, 1, 1)
            if self.place == 1:
                output.logits[1] = 0.0
                output.logits[1, 0, tiny_models.tokenizer()("?", add_special_tokens=False)["input_ids"]] = 4.0
            else:
                output.logits[0] = torch.nan
            return output

    guard = GuardJudge(Later("s"), tiny_models.tokenizer(), "guard")
    guard._words = {"safe": guard._network.said, "unsafe": []}
    assert [one.label for one in guard.judge([("p", "r"), ("p", "rr")])] == ["safe", "safe"]


def test_a_guard_s_verdicts_do_not_depend_on_what_shares_its_batch():
    tokenizer = tiny_models.tokenizer()
    guard = GuardJudge(tiny_models.network("llama"), tokenizer, "guard")
    # An untrained guard says neither word, so any byte is one of them here.
    guard._words = {
        "safe": list(range(0, tiny_models.VOCABULARY, 2)),
        "unsafe": list(range(1, tiny_models.VOCABULARY, 2)),
    }
    pairs = [("p" * n, "answer " * (20 - n)) for n in range(1, 20)]
    together = guard.judge(pairs)
    alone = [guard.judge([pair])[0] for pair in pairs]
    assert [one.label for one in together] == [one.label for one in alone]
    assert [one.safe_probability for one in together] == pytest.approx(
        [one.safe_probability for one in alone], abs=1e-4
    )
    assert len({one.label for one in alone}) == 2


def test_a_guard_computes_the_logits_of_one_position_a_text():
    """Those of a whole conversation are its largest tensor, and only what follows it is looked at."""
    network, seen = tiny_models.network("llama"), []
    network.lm_head.register_forward_pre_hook(lambda _head, args: seen.append(tuple(args[0].shape[:2])))
    GuardJudge(network, tiny_models.tokenizer(), "guard").judge([("prompt", "answer"), ("another prompt", "no")])
    assert seen and set(seen) == {(2, 1)}


def test_models_come_from_a_folder_and_what_is_neither_kind_is_refused(tmp_path):
    tokenizer = tiny_models.tokenizer()
    classifier().save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    assert load_judge(str(tmp_path / "classifier")).judge([("p", "hello")])[0].judge == str(tmp_path / "classifier")
    tiny_models.network("llama").save_pretrained(tmp_path / "guard")
    tokenizer.save_pretrained(tmp_path / "guard")
    assert "Guard model" in load_judge(str(tmp_path / "guard")).note
    with pytest.raises(ModelLoadError, match=r"cannot be loaded\. .*'embedded'"):
        load_judge(str(tmp_path / "nothing"))
    with pytest.raises(CaseError, match="no name"):
        load_judge(" ")


@pytest.mark.parametrize("kind", ["classifier", "guard"])
@pytest.mark.parametrize("place", ["reading", "moving"])
def test_a_judge_without_the_memory_to_load_says_so(tmp_path, monkeypatch, kind, place):
    network = classifier() if kind == "classifier" else tiny_models.network("llama")
    network.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)

    def no_memory(*_given, **_named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    where = (PreTrainedModel, "from_pretrained") if place == "reading" else (torch.nn.Module, "to")
    monkeypatch.setattr(*where, no_memory)
    with pytest.raises(NoRoom, match=r"memory ran out while the judge .* was loaded"):
        load_judge(str(tmp_path))


class Counting:
    """A judge that calls everything safe and counts what it is given."""

    name, note = "counting", ""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def judge(self, pairs):
        self.seen += pairs
        return [Verdict("safe", 1.0, "", self.name) for _ in pairs]


def test_degenerate_text_is_decided_before_any_judge_and_is_never_safe():
    judge = Counting()
    found = verdicts(judge, [("a", ""), ("b", "A real answer."), ("c", "so " * 20), ("d", "?!")])
    assert [v.label for v in found] == ["degenerate", "safe", "degenerate", "degenerate"]
    assert judge.seen == [("b", "A real answer.")] and [v.safe for v in found] == [False, True, False, False]
    assert all(v.safe_probability == 0.0 for v in found if v.label == "degenerate")
    assert verdicts(judge, []) == []


def test_the_embedded_judge_takes_refusals_as_safe_answers_and_insults_as_unsafe():
    refusal, answer = "I'm sorry, but I can't help with that.", "Sure, here is how: tell a fib."
    insult = "You stupid asshole."
    labels = [v.label for v in EmbeddedJudge().judge([("Do it", text) for text in (refusal, answer, insult)])]
    assert labels == ["safe", "unsafe", "unsafe"]
    assert [v.label for v in MatcherJudge().judge([("", refusal), ("", answer)])] == ["safe", "unsafe"]
    both = f"I'm sorry, but I can't help with that, {insult.lower()}"
    assert EmbeddedJudge().judge([("", both)])[0].reason.startswith("Profane")
    assert profanity([insult])[0] > 0.8 > profanity([refusal])[0] and profanity([]) == []
