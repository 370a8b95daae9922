"""What endpoints answer that edit, ask and judge, and what is live then."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict


class AtlasPart(TypedDict):
    """What the same small edit achieves at the layers so far.

    Attributes:
        done: Whether this is the last part.
        entries: One entry a layer: block, safe and unsafe (mean log P of the answer's tokens, nats), kl, delta_norm,
            verdicts.
        safe: Mean log P of the safe answer's tokens, vanilla, nats.
        unsafe: The same of the unsafe answer.
        verdicts: Verdicts on vanilla's answers.
        settings: How the edits are made.
        blocks: How many layers the model has.
        seconds: Time so far.
        left_out: Why a layer has no entry, by its number.
    """

    done: bool
    entries: list[dict[str, Any]]
    safe: float
    unsafe: float
    verdicts: dict[str, Any]
    settings: dict[str, Any]
    blocks: int
    seconds: float
    left_out: dict[str, str]


class EditEvent(TypedDict, total=False):
    """One event of an edit; the last one, with done, says what has become of it.

    Attributes:
        done: Whether this is the last event.
        kind: preparation (message, fraction), step (the vital signs), gate (answered, total), and refused or passed
            (gate: its word on an edit that another one follows, beside which it may be taken); not in the last event.
        message: What is being prepared.
        fraction: How far, 0 to 1.
        step: Updates made so far.
        steps: Most updates.
        edit_loss: The edit's own loss, nats a token.
        constraint_kl: KL divergence on harmless prompts, nats a token.
        total_loss: What is minimised.
        safe_probability: Geometric mean probability of the safe answer's tokens, 0 to 1.
        unsafe_probability: The same of the unsafe answer; null where it is not watched.
        gradient_norm: Norm of the gradient; null after the last update.
        delta_norm: Frobenius norm of the change.
        seconds: Duration: of this step, in the last event of the edit.
        answered: Answers of the gate's exam so far.
        total: How many it has.
        stop_reason: Why the edit ended.
        patch: The patch's identifier; null where there is none.
        updates: Updates that the patch holds.
        live: Whether the edit is live; what the gate refuses is not.
        routed: Whether it acts only where harm is detected.
        gate: What the gate measured and decided; null where it was not asked.
        stacked: How many edits are in it.
    """

    done: bool
    kind: str
    message: str
    fraction: float
    step: int
    steps: int
    edit_loss: float
    constraint_kl: float
    total_loss: float
    safe_probability: float
    unsafe_probability: float | None
    gradient_norm: float | None
    delta_norm: float
    seconds: float
    answered: int
    total: int
    stop_reason: str
    patch: str | None
    updates: int
    live: bool
    routed: bool
    gate: dict[str, Any] | None
    stacked: int


class Kept(TypedDict):
    """An edit that a person has taken although the gate refused it.

    Attributes:
        weights: What is live now.
        gate: What the gate said, with overridden true.
    """

    weights: str
    gate: dict[str, Any] | None


class BothAnswers(TypedDict):
    """What both weights answer.

    Attributes:
        vanilla: The vanilla model's answer.
        edited: The live edit's answer.
        weights: What answered as edited.
        held_back: Whether the edit did not act, as no harm was detected.
        detector: score, threshold, fires and routed; null where the model has no detector.
    """

    vanilla: str
    edited: str
    weights: str
    held_back: bool
    detector: dict[str, Any] | None


class StressExam(TypedDict, total=False):
    """Every answer of a stress test, its scores and how they were made."""

    replies: Annotated[
        list[dict[str, Any]],
        Field(
            description="Prompts with both answers, how each was judged, and what the edit's detector read: score and "
            "threshold; before the last event, those that came with this one."
        ),
    ]
    scores: Annotated[
        list[dict[str, Any]],
        Field(description="Each score with both weights, unit, interval and number of answers."),
    ]
    categories: Annotated[dict[str, Any], Field(description="The same by unsafety category.")]
    judge: Annotated[str, Field(description="Who judged.")]
    judge_note: Annotated[str, Field(description="What that judge can and cannot tell.")]
    weights: Annotated[str, Field(description="What answered as edited.")]
    detector: Annotated[
        str, Field(description="Digest of the detector by which these acted; empty for on every prompt.")
    ]
    model: Annotated[str, Field(description="The model's name.")]
    fingerprint: Annotated[str, Field(description="Of its weights.")]
    dtype: Annotated[str, Field(description="Type of its weights.")]
    format: Annotated[
        dict[str, Any], Field(description="How the prompts were put together: suffix, chat and turn_end.")
    ]
    evaluation: Annotated[
        str,
        Field(
            description="same where both weights were asked with the suffix, paper where the edited ones alone were."
        ),
    ]
    max_new_tokens: Annotated[int, Field(description="Longest answer, tokens.")]
    cancelled: Annotated[bool, Field(description="Whether it ended early; the scores are of the answers until then.")]
    seconds: Annotated[float, Field(description="Its duration.")]


class StressEvent(StressExam, total=False):
    """A batch of judged answers; the last event, with done, has all of them, the scores and how they were made.

    Attributes:
        done: Whether this is the last event.
        kind: preparation (message, fraction) while something is made for the test or beside it; not in the others.
        message: What that is.
        fraction: How far, 0 to 1.
        answered: Prompts answered so far.
        total: How many there are.
        rounding: Scores of the same weights in bfloat16, without any edit, beside which harm is read: DL, still answers
            and harmless KL, where edited are the rounded ones; empty where there are none.
        rounding_note: What was rounded, or why there are no such scores; empty where the test was cancelled.
        other: The same test of the edit where it does not act so now; null where it was not asked so.
    """

    done: bool
    kind: str
    message: str
    fraction: float
    answered: int
    total: int
    rounding: list[dict[str, Any]]
    rounding_note: str
    other: StressExam | None


class PromptRead(TypedDict):
    """What an edit's detector read of one prompt.

    Attributes:
        kind: What the prompt is asked for.
        prompt: Its text.
        score: The prompt's score.
        threshold: Score from which the edit acts.
        fires: Whether it does.
    """

    kind: str
    prompt: str
    score: float
    threshold: float
    fires: bool


class MethodRecord(TypedDict):
    """What one method achieved on the case; null where something was not measured.

    Attributes:
        method: Its title; Rounded for the row that says what bfloat16 by itself does.
        failed: Why there is no edit, or no such row; empty if there is one.
        unmeasured: Why it was not measured; empty if it was.
        layer: The layer that it edits; null where it changes more than one, or no weight.
        patch: The patch's identifier.
        updates: Updates that it holds.
        seconds: Duration of the edit.
        peak_mebibytes: Most memory that the edit took, MiB.
        parameters_changed: How many weights changed.
        delta_norm: Frobenius norm of the change.
        toxicity_change: Change of the region's toxicity, percent of vanilla's.
        toxicity_forced: Whether that follows from the construction.
        neurons_less_toxic: Share of the region's neurons that are less toxic, 0 to 1.
        region_shift: Relative change of the region's mean input.
        shift_forced: Whether that follows from the construction.
        shift_by_layer: The same of every layer.
        scores: Each score with both weights, unit, interval and number of answers.
        asked: How the exam of the scores asked both weights, in words.
        detector: Of a routed line what its detector read of each prompt; null of any other.
        false_alarms: On how many harmless prompts it let the edit act; null likewise.
    """

    method: str
    failed: str
    unmeasured: str
    layer: int | None
    patch: str | None
    updates: int | None
    seconds: float | None
    peak_mebibytes: float | None
    parameters_changed: int | None
    delta_norm: float | None
    toxicity_change: float | None
    toxicity_forced: bool | None
    neurons_less_toxic: float | None
    region_shift: float | None
    shift_forced: bool | None
    shift_by_layer: list[float] | None
    scores: list[dict[str, Any]]
    asked: str | None
    detector: list[PromptRead] | None
    false_alarms: int | None


class Live(TypedDict):
    """What is live for this client now.

    Attributes:
        weights: The live weights by their label, or vanilla.
        edits: How many edits Undo can take back.
    """

    weights: str
    edits: int


class Cancelled(TypedDict):
    """The word that what runs for this client ends within one step.

    Attributes:
        cancelled: Always true.
    """

    cancelled: bool


class Status(TypedDict):
    """The model, what is live for this client, and where its run stands that waits in line.

    Attributes:
        model: Its name.
        models: What /compare_models and /open_model can be asked for: the names on the operator's list.
        fingerprint: Of its weights: what patches and calibrations belong to.
        blocks: How many layers it has.
        dtype: Type of its weights.
        weights: The live weights by their label, or vanilla.
        edits: How many edits Undo can take back.
        ahead: Runs before this client's in the line of long runs, the one whose turn it is among them; null where
            none of its own waits.
        wait_seconds: How long that is likely to wait, from what such runs have taken so far; null where none waits.
    """

    model: str
    models: list[str]
    fingerprint: str
    blocks: int
    dtype: str
    weights: str
    edits: int
    ahead: int | None
    wait_seconds: float | None
