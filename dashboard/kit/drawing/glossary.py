"""The words that the page uses, each with a plain meaning; terms and column heads link to it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dashboard.kit.drawing.plain import escape
from editing.methods.registry import METHODS
from inspector.locators import LOCATORS

GLOSSARY: dict[str, dict[str, str]] = {
    "A case and its answers": {
        "Case": "One question with an attack around it, a safe and an unsafe answer, and what else is asked about it.",
        "Category": "One of SafeEdit's nine kinds of harm.",
        "Prompt": "The text that the model is asked; the suffix is put after it.",
        "Adversarial prompt": "The attack with the question in it: what talks a model into a harmful answer.",
        "Suffix": "A sentence that is put after every prompt to remind the model to answer well.",
        "Safe": "An answer that declines or does no harm. Of a neuron: its mean activation on the safe answer.",
        "Unsafe": "An answer that goes along with the harm. Of a neuron: its mean activation on that answer.",
        "Token": "A piece of text that the model reads or writes at once: a word or a part of one.",
        "Verdict": "Safe, unsafe or degenerate, with the judge that said so.",
        "Marked by": "Who or what gave the mark: a judge, a comparison of texts, or the model's own probabilities.",
        "Parroting": "A prompt about something else than the edit's case gets the content of the training answer, or a "
        "harmless one any answer that was trained. Fewer is better.",
        "Quoted": "An answer that was trained, given to prompts about something else: percent of the harmful ones, "
        "which may be declined so, and of the harmless ones, which may not; or whether.",
        "Degenerate": "An answer that is empty, repeats itself or is garbled. It never counts as safe.",
    },
    "The history": {
        "Name": "What you call an edit; it stands in its row and nowhere else.",
        "UTC": "When it was made, in universal time.",
        "Stress test": "What its last exam, there or in Methods, gave: the average defence of unseen prompts, if run.",
        "State": "Whether it is live, not live yet, kept for Undo, waiting at the gate, or gone from memory.",
    },
    "Inside the model": {
        "Layer": "One of the blocks that a text passes, one after the other, numbered from 0.",
        "Block output": "The state of every token right after a layer: what the next layer reads.",
        "Down-projection": "The matrix that writes a layer's neurons back into the text's state: what DINM edits.",
        "Columns": "How many columns of the down-projection were changed; each belongs to one neuron.",
        "Neuron": "One unit of a layer's middle; its column says what it writes when it is active.",
        "Pushes": "How far a neuron moves the model to the unsafe answer, nats a token, first order.",
        "Promotes": "Tokens that a neuron's column makes likelier.",
        "Suppresses": "Tokens that a neuron's column makes less likely.",
        "Toxic": "How much a neuron's column points along the toxic direction: the cosine with the probe.",
        "Moved": "How far the live edit moved a neuron's column, percent of its length.",
        "Toxicity": "How much a region writes along the toxic direction; after an edit: its relative change, percent.",
        "Probe": "A linear reading of the model's last states that tells toxic texts from others.",
        "Lens": "What a layer would say next if the model ended there.",
        "Peak layer": "The layer that makes a token likeliest.",
        "P there": "The probability that a token has at its peak layer.",
        "Final rank": "A token's place among all next tokens at the end, vanilla and edited; 1 is the likeliest.",
        "Probability": "How likely the model finds a token as the next one, 0 to 1.",
        "Norm of a state": "How long a state is after a layer: the first position's, and the median of all others'.",
    },
    "Where to edit": {
        "Divergence": "How far apart the model's states on the safe and on the unsafe answer are after a layer.",
        "Toxic layer": "The layer where the two answers part most: DINM's choice.",
        "Recommended layer": "The layer where trial edits surely defend most unseen prompts; damage hardly decides.",
        "Trial edit": "A small edit of a few updates that tries a layer out.",
        "Calibration": "What is learnt once about a model: recommended layer, step size, harmless answers, detector.",
        "Locator": "A way to choose the layer to edit.",
        "Chooses layer": "The layer that a locator picks.",
        "Atlas": "The same small edit at every layer: what it achieves there judges every locator.",
        "Rank correlation": "Whether a locator orders the layers as the atlas does: 1 the same, 0 unrelated.",
        "Regret": "What the chosen layer achieves less than the best one.",
        "Regret, share": "Regret over that of a layer drawn at random: 0 is the best layer, 1 no better than chance.",
        "Margin gain": "How much a trial edit moves the model from the unsafe to the safe answer, nats a token.",
        "Padding": "What fills up the shorter of two answers that are read together, on its left or on its right; the "
        "released locator counts it, unless only positions of both answers are compared.",
    },
    "The edit": {
        "Edit": "A change of a few weights, made from one case.",
        "Method": "A way to make an edit; each stands below by its name.",
        "Patch": "An edit as a thing of its own: the weight changes and the model that they belong to.",
        "Vanilla": "The model without any patch. Its weights are never written.",
        "Edited": "The same model with the live patch.",
        "Live": "What answers for your visit now: the vanilla weights or an edit.",
        "Preset": "Settings that belong together: ours, the paper's equations, or the authors' released code.",
        "Edit loss": "How surprised the model is by the safe answer, nats a token: what an edit brings down.",
        "Total loss": "Edit loss and KL, each times its weight, added up: what each step lowers.",
        "Step": "One update of the weights while an edit is made; step 0 is before the first.",
        "KL": "How far the edited model's next tokens are from the vanilla model's on harmless prompts, nats a token.",
        "Constraint KL": "The KL that an edit is held to while it is made, on harmless prompts of its own, nats a "
        "token: vanilla to edited, but edited to vanilla with the preset paper. An exam's is of other prompts.",
        "Nats": "The unit of surprise and of KL; 0.69 nats halve a probability.",
        "P(safe) per token": "Geometric mean probability of the safe answer's tokens.",
        "P(unsafe) per token": "Geometric mean probability of the unsafe answer's tokens.",
        "Norm": "The size of the whole weight change, Frobenius.",
        "Weights": "How many weights are changed.",
        "Strength": "A factor on the live edit: 0 is vanilla, 1 the edit as made.",
        "Time": "Seconds that the edit took.",
        "Tail replay": "At each step only the layers from the edited one on are run again; the plain way runs all.",
        "Memory": "Memory at its peak above that at the start, MiB.",
        "Activation shift": "How far states move in the edited model, relative to their length.",
        "Shift": "How far the mean input of the edited region moves, percent. 0 * where nothing before it changes.",
        "Less toxic": "Neurons of the edited region whose columns point less along the toxic direction than before, "
        "percent; half of them is chance.",
        "Mean difference": "The direction from the mean of the vanilla states to that of the edited ones.",
        "Principal component": "The direction along which the vanilla states differ most from one another.",
    },
    "Judging an edit": {
        "Score": "One number of the exam, with its number of answers and its 95 % interval.",
        "Change": "Edited minus vanilla.",
        "95 % interval": "Where the true value lies in 95 of 100 such measurements.",
        "Defended": "Harmful prompts that are answered safely, percent.",
        "n": "Number of answers that a score is made of.",
        "No.": "The answer's number, in the order in which it was asked.",
        "DS": "Defense success: answers to the case's own adversarial prompt that are safe, percent.",
        "DG-Avg": "Defense generalization: the mean of onlyQ, otherA, otherQ and otherAQ.",
        "onlyQ": "Defended when the question is asked alone, percent.",
        "otherA": "Defended with another attack around the same question, percent.",
        "otherQ": "Defended with another question in the same attack, percent.",
        "otherAQ": "Defended with another question in another attack, percent.",
        "Transfer": "Defended prompts of other cases, that the edit has never seen, percent.",
        "DL": "Defense locality: likeness of the harmless answers to the vanilla model's, percent.",
        "Over-refusal": "Harmless prompts that are refused, percent. Fewer is better.",
        "Look-alikes": "Harmless prompts that sound harmful; how many of them are refused, percent.",
        "Still answers": "Harmless answers that are text, no refusal, on the subject of the prompt or of vanilla's "
        "answer, as vanilla's always are; percent, or whether.",
        "More attacks": "Defended when the question is wrapped in attacks of other packages, percent.",
        "More questions": "Defended questions of other packages, asked alone, percent.",
        "Fluency": "How varied the words of the answers are, bits; repeating lowers it.",
        "KQA": "Facts: short questions answered right, percent.",
        "CSum": "Summaries: ROUGE-1 with a given summary, percent.",
        "Rounded": "What bfloat16 by itself does to the same harmless answers, without any edit: a yardstick.",
        "What acts": "The suffix alone, the edited weights alone, both, or neither.",
    },
    "Two models": {
        "Model": "One of those that whoever runs this page has listed; an edit belongs to the one that it was made on.",
        "Parameters": "How many numbers a model has learnt; B are thousand millions.",
        "Data type": "How its numbers are stored.",
        "Largest distance": "L2 distance of the two answers at the toxic layer, in the model's own units.",
        "Relative distance": "That distance over the length of the states there, 0 to 2: it compares between models.",
        "Seconds": "Time of a model's own measurement and answer.",
    },
    "Safeguards": {
        "Companions": "Bundled harmful questions that an edit learns to decline beside its own case; none is scored.",
        "Gate": "A small exam after an edit: harmless prompts, half of them look-alikes and every third one in an "
        "attack, harmful questions, every second one in an attack, and the case's own five prompts. What breaks a "
        "budget or defends no more than vanilla becomes live only if a person keeps it.",
        "Damage budget": "How much harm to harmless behaviour is allowed.",
        "Routed": "The patch acts only on prompts where the detector finds harm; others get the vanilla weights.",
        "Detector": "A small reading of the vanilla model's states that tells harmful prompts from harmless ones.",
    },
    "Methods": {method.title: method.card for method in METHODS.values()},
    "Locators": {locator.name: locator.reason for locator in LOCATORS.values() if locator.name != "divergence"},
}
"""Every term by its group: the field's standard words, what column heads say, the methods, and the locators but the one
that is called as what it measures.
"""

ALSO = {
    # Of tables
    "acts on every prompt": "Edited",
    "acts only where harm is detected": "Routed",
    "Final rank, vanilla and edited": "Final rank",
    "Constraint KL, nats": "Constraint KL",
    "constraint KL": "Constraint KL",
    "Harmless KL, nats": "KL",
    "KL, nats": "KL",
    "harmless KL": "KL",
    "Moved, %": "Moved",
    "Parameters changed": "Weights",
    "Region's toxicity": "Toxicity",
    "Layers": "Layer",
    "Refused": "Over-refusal",
    "Broken": "Degenerate",
    "Parroted": "Parroting",
    "quoted, harmful": "Quoted",
    "quoted, harmless": "Quoted",
    # Of the tables behind the figures: titles of axes and names of curves
    "L2": "Divergence",
    "L2 distance": "Divergence",
    "relative L2 distance": "Divergence",
    "cosine distance": "Divergence",
    "growth of the L2 distance": "Divergence",
    "layer that was edited": "Layer",
    "share of the layers passed": "Layer",
    **{
        f"{side} padding {counted}": "Padding"
        for side in ("left", "right")
        for counted in ("pads counted", "shared positions")
    },
    "first position": "Norm of a state",
    "median of the others": "Norm of a state",
    "category asked about": "Category",
    "token of prompt and safe answer": "Token",
    "token of the safe answer": "Token",
    "token read": "Token",
    "safe answer": "P(safe) per token",
    "unsafe answer": "P(unsafe) per token",
    "update": "Step",
    "sum": "Total loss",
    "seconds an update": "Step",
    "seconds to locate and edit": "Time",
    "the plain way": "Tail replay",
    "norm of the change": "Norm",
    "relative": "Activation shift",
    "change of the mean output": "Activation shift",
    "activation shift of the region's input": "Shift",
    "input shift": "Shift",
    "relative change of its column": "Moved",
    "mean cosine": "Toxicity",
    "toxicity reduction of the region": "Toxicity",
    "written less along the toxic direction": "Toxicity",
    "vanilla: cosine with the toxic direction": "Toxic",
    "neurons less toxic": "Less toxic",
    "change by the edit": "Change",
    "along the mean difference": "Mean difference",
    "first principal component": "Principal component",
    "percent, 95 % interval": "95 % interval",
    "prompts defended": "Defended",
    "with a reminder": METHODS["self-reminder"].title,
    "bare": "Prompt",
    "in an attack": "Adversarial prompt",
    "harmful prompts found": "Detector",
    "harmless prompts taken for harmful": "Detector",
    "harmless refused": "Over-refusal",
    "lost defence": "Defended",
    "percent of the budget": "Gate",
}
"""What columns call a term, where they call it something else; those of the tables behind the figures too."""

_MEANINGS = {word: meaning for words in GLOSSARY.values() for word, meaning in words.items()}
_BY_SMALL = {word.lower(): word for word in _MEANINGS} | {also.lower(): word for also, word in ALSO.items()}

IN_COLUMNS = frozenset(
    (
        *("Change", "Columns", "Defended", "Less toxic", "Marked by", "Memory", "Model", "Moved", "n", "Name", "No."),
        *("Padding", "Parameters", "Probability", "Promotes", "Pushes", "Quoted", "Rounded", "Seconds", "Shift"),
        *("State", "Step", "Stress test", "Suppresses", "Time", "Toxic", "UTC", "Weights", "What acts"),
        *GLOSSARY["Locators"],
    )
)
"""Words that are terms at the head of a column and plain English, or the name of a view, in a sentence."""


EVERYDAY = frozenset(
    (
        *("Adversarial prompt", "Atlas", "Case", "Category", "Edit", "Edited", "Layer", "Live", "Locator", "Method"),
        *("Neuron", "Norm", "Patch", "Preset", "Prompt", "Safe", "Score", "Still answers", "Strength", "Token"),
        *("Toxicity", "Unsafe", "Vanilla", "Verdict", *GLOSSARY["Methods"]),
    )
)
"""What the reading under a figure leaves alone: words that nearly every sentence has and headings link, and methods."""


def _forms(word: str) -> tuple[str, ...]:
    """Return how a term stands in a sentence: small where it is no abbreviation, and in a plural that ends in -ies."""
    small = (word, word[0].lower() + word[1:]) if word[1:2].islower() else (word,)
    return (*small, *(f"{one[:-1]}ies" for one in small if one.endswith("y")))


_BY_FORM = {escape(form): word for word in _MEANINGS if word not in IN_COLUMNS for form in _forms(word)}
_IN_TEXT = re.compile(
    # The longest first, as a word of its own, also with an s behind it; what stands in P(safe) is no word.
    rf"(?<![\w-])(?<!P\()(?:{'|'.join(map(re.escape, sorted(_BY_FORM, key=len, reverse=True)))})(?=s?(?![\w-]))"
)
_PIECE = re.compile(r"(<[^>]*>)")
_CLOSED = re.compile(r"</?(?:a|button|code|pre|summary)\b")
"""Begins or ends what holds no term: it can be pressed itself, or is no prose."""


def known(word: str) -> str | None:
    """Return the term that a word stands for, ``None`` if it is none."""
    return _BY_SMALL.get(word.lower())


def term(word: str) -> str:
    """Return a term that tells its meaning and opens the glossary at it.

    Args:
        word: As it is shown; the term itself, or what columns call it.

    Raises:
        KeyError: The glossary does not have it.
    """
    found = known(word)
    if found is None:
        raise KeyError(f"'{word}' is not in the glossary; give it a meaning in dashboard/kit/drawing/glossary.py.")
    return _button(escape(word), found)


def _button(shown: str, word: str) -> str:
    return (
        f'<button type="button" class="term" data-term="{anchor(word)}" title="{escape(_MEANINGS[word])}">'
        f"{shown}</button>"
    )


def marked(html: str, leaving: frozenset[str] = frozenset()) -> str:
    """Return HTML in which each term is one where it stands first, as :func:`term` makes it.

    Words of :data:`IN_COLUMNS` stay as they are, and so does what is code, a link or a button.

    Args:
        html: An escaped text, or HTML of the program's own.
        leaving: Other terms that stay as they are.
    """
    seen, closed = set(re.findall(r'data-term="([^"]*)"', html)), 0
    made: list[str] = []

    def first(found: re.Match[str]) -> str:
        word = _BY_FORM[found[0]]
        if word in leaving or anchor(word) in seen:
            return found[0]
        seen.add(anchor(word))
        return _button(found[0], word)

    for piece in _PIECE.split(html):
        if not piece.startswith("<"):
            made.append(piece if closed else _IN_TEXT.sub(first, piece))
            continue
        if _CLOSED.match(piece):
            closed += -1 if piece.startswith("</") else 1
        made.append(piece)
    return "".join(made)


def alone(html: str) -> str:
    """Return HTML for where there is no glossary: its terms tell their meaning, and there is nothing to press."""
    return re.sub(
        r'<button type="button" class="term" data-term="[^"]*" (title="[^"]*")>(.*?)</button>',
        r'<span class="term" \1>\2</span>',
        html,
    )


def linked(text: str) -> str:
    """Return a text as a term if it is one, else as it is, escaped."""
    return term(text) if known(text) else escape(text)


def heads(*words: str) -> str:
    """Return the head cells of a table, each a term.

    Raises:
        KeyError: The glossary does not have one.
    """
    return "".join(f"<th>{term(word)}</th>" for word in words)


def columns(headers: Iterable[str]) -> str:
    """Return the meanings of a table's columns, folded: for tables whose heads sort and cannot link."""
    lines = "".join(f"<dt>{term(head)}</dt><dd>{escape(_MEANINGS[_BY_SMALL[head.lower()]])}</dd>" for head in headers)
    return f'<details class="columns"><summary>What the columns mean</summary><dl>{lines}</dl></details>'


def anchor(word: str) -> str:
    """Return the name of a term's place in the glossary."""
    return f"glossary-{re.sub(r'[^a-z0-9]+', '-', word.lower()).strip('-')}"


def page() -> str:
    """Return the whole glossary, a list of terms by group.

    Each says by which heads of columns it goes: the tables behind the figures, made in the browser, link by them.
    """
    by_head: dict[str, list[str]] = {}
    for head, word in _BY_SMALL.items():
        by_head.setdefault(word, []).append(escape(head))
    groups = "".join(
        f"<h3>{escape(group)}</h3><dl>"
        + "".join(
            f'<div id="{anchor(word)}" tabindex="-1" data-heads="{"|".join(by_head[word])}">'
            f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd></div>"
            for word, meaning in words.items()
        )
        + "</dl>"
        for group, words in GLOSSARY.items()
    )
    return f'<details class="glossary" id="glossary"><summary>Glossary</summary>{groups}</details>'
