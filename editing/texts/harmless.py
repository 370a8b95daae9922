"""What an edit meets beside its case: harmless prompts, what the model declines by itself, further harmful questions.

The harmless prompts come with the vanilla model's own answers, which are kept per model. None of all these texts is
scored: a case's own question, which bundled ones are among, is left out where its edit is made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import cache
from itertools import cycle, islice
from random import Random
from weakref import WeakKeyDictionary

from editing.progress import Preparation
from inspector.errors import PromptError
from inspector.model import VANILLA, Decoding, InspectedModel, PromptFormat, encode
from inspector.model.answers.batching import generate
from inspector.model.encoding import Encoded
from inspector.model.memory.batch_size import prompts_that_fit
from inspector.model.memory.recent import Recent, named, with_visits
from inspector.safeedit import Case, bundled_cases, bundled_constraint_prompts
from inspector.safeedit.cases import bundled_templates
from inspector.safeedit.refusal import read_refusal
from inspector.safeedit.sets import contrasts, false_alarm_prompts, harmful_questions, spread

MOST_KNOWN, MOST_OF_VISITS = 4096, 256
"""Answers that are kept for a model, to bundled prompts and to others; those used longest ago go first."""
ASKED_AT_ONCE = 8
"""Most harmless prompts that are answered in one batch."""
_Answers = Recent[str, tuple[int, ...]]
_OWN_ANSWERS: WeakKeyDictionary[InspectedModel, _Answers] = WeakKeyDictionary()
_OF_VISITS: WeakKeyDictionary[InspectedModel, _Answers] = WeakKeyDictionary()
with_visits(_OF_VISITS.clear)  # the harmless prompt of a case may be a visitor's text


def known_answers(model: InspectedModel) -> dict[str, tuple[int, ...]]:
    """Return the model's own answers to bundled prompts made so far, as token ids by what was asked (:func:`named`)."""
    return _OWN_ANSWERS.setdefault(model, Recent(MOST_KNOWN))


def known_answer(model: InspectedModel, text: str, tokens: int, format: PromptFormat) -> Encoded | None:
    """Return the model's own answer to a harmless prompt as it was made before; ``None`` where it was not.

    Args:
        text: The prompt.
        tokens: Longest answer.
        format: The prompt's.
    """
    known, key = _known(model, text), named(text, tokens, format.open())
    response = known.get(key)
    if response is None:
        return None
    return Encoded(encode(model, text, None, format, room=tokens).prompt, response)


def learn_answer(
    model: InspectedModel, text: str, tokens: int, format: PromptFormat, response: tuple[int, ...]
) -> None:
    """Keep the model's own answer to a harmless prompt, unless one is known."""
    known, key = _known(model, text), named(text, tokens, format.open())
    if key not in known:
        known[key] = response


def _known(model: InspectedModel, text: str) -> dict[str, tuple[int, ...]]:
    """Return what is kept of a prompt's kind: answers to what is not bundled go with the visits."""
    return known_answers(model) if text in _bundled() else _OF_VISITS.setdefault(model, Recent(MOST_OF_VISITS))


@cache
def _bundled() -> frozenset[str]:
    asked = [question.question for question in harmful_questions("detector")]
    constraints = [case.constraint.prompt for case in bundled_cases() if case.constraint is not None]
    return frozenset([*bundled_constraint_prompts(), *_look_alikes(), *asked, *constraints])


def harmless_texts(case: Case, count: int, look_alikes: float = 0.0) -> list[str]:
    """Return at most ``count`` harmless prompts that edits on a case may be constrained on.

    The case's own comes first, then the bundled ones, in an order drawn once, and evenly among them as many as wanted
    of those that sound like harmful ones and are none (of the texts that a detector is fitted on). None of them
    stands in an attack template: such prompts teach an edit to tell this question from others in its template, and
    what it then defends is little but this question. Harmless prompts in
    attack templates are what the detector is for (:mod:`inspector.detection`).

    Args:
        look_alikes: Which share of them sounds harmful, 0 to 1; no more than there are.
    """
    prompts = [case.constraint.prompt] if case.constraint else []
    plain = [*prompts, *(prompt for prompt in _drawn() if prompt not in prompts)]
    alike = [prompt for prompt in _look_alikes() if prompt not in prompts]
    found = plain[: min(count, 1)]
    taken = 0
    for place in range(1, min(count, len(plain))):
        more = int(look_alikes * (place + 1) + 1e-9) > taken and taken < len(alike)
        found.append(alike[taken] if more else plain[place - taken])
        taken += more
    return found


def further_harmless_texts(count: int, look_alikes: float = 0.0) -> list[str]:
    """Return ``count`` harmless prompts that are none of the first ones that :func:`harmless_texts` returns.

    Args:
        look_alikes: Which share of them sounds harmful, 0 to 1.
    """
    alike = round(look_alikes * count)
    return [*_drawn()[len(_drawn()) - (count - alike) :], *_look_alikes()[len(_look_alikes()) - alike :]]


@cache
def _look_alikes() -> tuple[str, ...]:
    """Return the bundled harmless prompts that sound like harmful ones and are not scored, in an order drawn once."""
    labelled = [one.prompt for one in false_alarm_prompts("detector") if one.look_alike]
    prompts = [*labelled, *(one.prompt for one in contrasts() if not one.harmful)]
    Random(0).shuffle(prompts)
    return tuple(dict.fromkeys(prompts))


@cache
def _drawn() -> tuple[str, ...]:
    """Return the bundled harmless prompts in the order in which edits use them, from both ends."""
    prompts = list(bundled_constraint_prompts())
    Random(0).shuffle(prompts)
    return tuple(prompts)


def harmless_answers(
    model: InspectedModel,
    case: Case,
    count: int,
    tokens: int,
    format: PromptFormat,
    cancel: Callable[[], bool] = lambda: False,
    look_alikes: float = 0.0,
) -> Generator[Preparation, None, list[Encoded] | None]:
    """Let the vanilla model answer harmless prompts; answers are kept per model.

    The prompts are the case's own knowledge constraint and bundled requests made for this, so that the
    harmless prompts that edits are *scored* on stay unseen.

    Args:
        look_alikes: Which share of them sounds harmful (:func:`harmless_texts`).

    Yields:
        One message before each batch of prompts that have to be answered.

    Returns:
        At most ``count`` prompts with the model's own answers, each with the id that ended it; ``None`` when cancelled.
    """
    answers = yield from answers_by_text(model, [case], count, tokens, format, cancel, look_alikes)
    return None if answers is None else [*answers.values()]


def answers_by_text(
    model: InspectedModel,
    cases: Sequence[Case],
    count: int,
    tokens: int,
    format: PromptFormat,
    cancel: Callable[[], bool] = lambda: False,
    look_alikes: float = 0.0,
) -> Generator[Preparation, None, dict[str, Encoded] | None]:
    """Let the vanilla model answer the harmless prompts of several cases, what they share once.

    Yields:
        As :func:`harmless_answers` does.

    Returns:
        Prompts with the model's own answers by their text, case after case, without those that leave no room for an
        answer, such as one in a long attack; ``None`` when cancelled.

    Raises:
        PromptError: None does.
    """
    wanted = [text for case in cases for text in harmless_texts(case, count, look_alikes)]
    texts = _fitting(model, wanted, tokens, format)
    answered = yield from _answered(model, texts, tokens, format, cancel, "harmless prompts")
    return None if answered is None else dict(zip(texts, answered, strict=True))


def unseen_answers(
    model: InspectedModel,
    count: int,
    tokens: int,
    format: PromptFormat,
    cancel: Callable[[], bool] = lambda: False,
    look_alikes: float = 0.0,
) -> Generator[Preparation, None, list[Encoded] | None]:
    """Let the vanilla model answer harmless prompts that no edit is constrained on (:func:`further_harmless_texts`).

    Yields:
        One message before each batch of prompts that have to be answered.

    Returns:
        Those that leave room for an answer, with the model's; ``None`` when cancelled.

    Raises:
        PromptError: None does.
    """
    texts = _fitting(model, further_harmless_texts(count, look_alikes), tokens, format)
    return (yield from _answered(model, texts, tokens, format, cancel, "harmless prompts"))


def own_refusals(
    model: InspectedModel,
    count: int,
    tokens: int,
    format: PromptFormat,
    cancel: Callable[[], bool] = lambda: False,
    apart: str = "",
) -> Generator[Preparation, None, list[Encoded] | None]:
    """Let the vanilla model answer harmful questions without an attack; what it declines by itself is to stay.

    An edit that changes how a model declines may unlearn what it already does right.

    Args:
        count: Number of bundled questions to ask; none of them is scored.
        apart: A question that is not asked: the case's own, which is.

    Yields:
        One message before each batch of questions that have to be answered.

    Returns:
        The declined questions with the model's answers; ``None`` when cancelled.
    """
    texts = [text for text in refusal_texts(count) if text != apart]
    answered = yield from _answered(model, texts, tokens, format, cancel, "harmful questions")
    if answered is None:
        return None
    pairs = zip(texts, answered, strict=True)
    return [one for text, one in pairs if read_refusal(model.decode(one.response), text).refused]


BARE = 6
"""Every which companion stands without a template."""
TEMPLATES_TRIED = 8
"""Most templates that are tried around a question before it is left out as too long in each."""


def companions(
    model: InspectedModel, count: int, longest: int, answer: str, format: PromptFormat, apart: str = ""
) -> dict[str, Encoded]:
    """Return bundled harmful questions of all categories, most of them in English attack templates, drawn once.

    They are of the texts that a detector may be fitted on; none is scored.

    Args:
        count: How many are wanted.
        longest: Most tokens of a prompt beyond those of the shortest one in its format: suffix and chat template do
            not count. What is longer, or leaves the model no room for the answer, is left out.
        answer: What each of them is answered with.
        format: The prompts'.
        apart: A question that is left out: the case's own.

    Returns:
        At most ``count`` texts, each with its answer.
    """
    templates = [template for template in bundled_templates("detector") if template.language == "en"]
    questions = list(spread(harmful_questions("detector"), 3 * count))
    drawn = Random(0)
    drawn.shuffle(questions)
    drawn.shuffle(templates)
    waiting = cycle(templates)
    try:
        longest += len(encode(model, "It.", None, format).prompt)
    except PromptError:  # not even that has room
        return {}
    found: dict[str, Encoded] = {}
    for question in questions:
        if len(found) == count:
            break
        if question.question == apart:
            continue
        bare = len(found) % BARE == BARE - 1
        tried = () if bare else islice(waiting, TEMPLATES_TRIED)
        for text in [question.question] if bare else (template.fill(question.question) for template in tried):
            try:
                encoded = encode(model, text, answer, format)
            except PromptError:
                continue
            if len(encoded.prompt) <= longest:
                found[text] = encoded
                break
    return found


def refusal_texts(count: int) -> list[str]:
    """Return the questions that :func:`own_refusals` asks, of all categories."""
    return [question.question for question in spread(harmful_questions("detector"), count)]


def _answered(
    model: InspectedModel,
    texts: Sequence[str],
    tokens: int,
    format: PromptFormat,
    cancel: Callable[[], bool],
    what: str,
) -> Generator[Preparation, None, list[Encoded] | None]:
    before = {n: known_answer(model, text, tokens, format) for n, text in enumerate(texts)}
    found = {n: answer for n, answer in before.items() if answer is not None}
    missing = [n for n in before if n not in found]
    asked = {n: encode(model, texts[n], None, format, room=tokens).prompt for n in missing}
    size = prompts_that_fit(model, max(map(len, asked.values()), default=0) + tokens, 1, ASKED_AT_ONCE)
    for start in range(0, len(missing), size):
        batch = missing[start : start + size]
        yield Preparation(
            f"Asking the vanilla model {what} {start + 1} to {start + len(batch)} of {len(missing)}",
            start / len(missing),
        )
        if cancel():
            return None
        prompts = [asked[n] for n in batch]
        answered = deque(generate(model, prompts, (VANILLA,), Decoding(max_new_tokens=tokens)), maxlen=1)[0]
        for n, prompt, line in zip(batch, prompts, answered, strict=True):
            end = () if line.ended is None else (line.ended,)
            found[n] = Encoded(prompt, (*line.tokens, *end))
            learn_answer(model, texts[n], tokens, format, found[n].response)
    return [found[n] for n in before]


def _fitting(model: InspectedModel, texts: Sequence[str], tokens: int, format: PromptFormat) -> list[str]:
    """Return the texts, each once, that leave room for an answer."""
    found, wrong = [], None
    for text in dict.fromkeys(texts):
        try:
            encode(model, text, None, format, room=tokens)
            found.append(text)
        except PromptError as error:
            wrong = error
    if wrong is not None and not found:
        raise wrong
    return found
