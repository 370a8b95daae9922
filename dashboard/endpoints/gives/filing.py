"""What endpoints answer that write edits to files, take them in and compare them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

FILE: Literal["gradio.FileData"] = "gradio.FileData"


class Mark(TypedDict):
    _type: Literal["gradio.FileData"]


"""Tells clients that what it stands beside is a file: to send before a call, or to fetch after one."""


class File(TypedDict):
    """A file.

    Attributes:
        path: Where this machine has it; gradio_client gives the path of its own copy.
        url: Where it is fetched from this machine, to be opened below its address.
        orig_name: Its name.
        meta: Marks it as a file.
    """

    path: str
    url: NotRequired[str | None]
    orig_name: NotRequired[str | None]
    meta: Mark


class Examined(TypedDict, total=False):
    """One event of the gate; the last one, with done, has its word.

    Attributes:
        done: Whether this is the last event.
        kind: preparation (message, fraction) or gate (answered, total); not in the last event.
        message: What is being prepared.
        fraction: How far, 0 to 1.
        answered: Answers of its exam so far.
        total: How many it has.
        weights: What is live now.
        live: Whether the edit that was examined is live.
        gate: What the gate measured and decided; null where it was cancelled before its end.
    """

    done: bool
    kind: str
    message: str
    fraction: float
    answered: int
    total: int
    weights: str
    live: bool
    gate: dict[str, Any] | None


class SavedEdit(TypedDict):
    """The live edit as a file that can be taken away.

    Attributes:
        file: The .zip; gradio_client fetches it and gives its path.
        bytes: Its size.
        weights: The weights that it holds, by their label.
        largest_logit_difference: Between what was written, read back, and the live edit, in logits.
        lost_share_of_norm: What a smaller rank of an adapter loses of the edit's Frobenius norm, 0 to 1.
    """

    file: File
    bytes: int
    weights: str
    largest_logit_difference: float
    lost_share_of_norm: float


class EditRow(TypedDict):
    """One edit of this client.

    Attributes:
        row: Its number, for /compare, /rename and /delete.
        patch: The patch's identifier.
        model: The base model's name on this program's list.
        fingerprint: The base model's.
        name: What its visitor calls it; empty for nothing.
        seen: When it was first seen, UTC.
        origin: made here, run in Methods, finished example or uploaded.
        method: The method.
        where: The layers that it changes.
        case: The case, named without its text.
        settings: The method's settings.
        updates: Updates that it keeps.
        stopped: Why it ended.
        seconds: How long it took.
        strength: At which it was live last, or is to be.
        routed: Whether it acts only where harm is detected.
        gate: passed, kept by hand, refused, not examined, or not as it acts now (its word is of other weights).
        reason: The gate's, in a sentence.
        scores: Of the last stress test or its exam in /methods: vanilla, edited and the number of answers, by score.
        scores_of: The weights that were tested where those are other ones than the row's as it acts now; else empty.
        asked: How the exam of the scores asked both weights, in words; empty without scores.
        verdicts: On vanilla's and the edited answer to the case's adversarial prompt: safe, unsafe or degenerate; empty
            where these weights were not asked it.
        live: Whether it is live now.
        was_live: Whether it is, or was once.
        in_memory: Whether its patch is still there to be compared.
    """

    row: int
    patch: str
    model: str
    fingerprint: str
    name: str
    seen: str
    origin: str
    method: str
    where: str
    case: str
    settings: dict[str, Any]
    updates: int
    stopped: str
    seconds: float
    strength: float
    routed: bool
    gate: str
    reason: str
    scores: dict[str, Any]
    scores_of: str
    asked: str
    verdicts: dict[str, str]
    live: bool
    was_live: bool
    in_memory: bool


EditRows = Annotated[list[EditRow], Field(title="rows", description="This client's edits, the first one first.")]


class ComparedAnswer(TypedDict):
    """What one of three weights answers.

    Attributes:
        weights: vanilla, or the row by its label.
        answer: The answer.
        note: How it ended, and what an edit's detector read of the text: score, threshold, and whether it held the
            edit back; empty for nothing to tell.
        safe: What the embedded judge says; null for a text of one's own, which nobody judges.
    """

    weights: str
    answer: str
    note: str
    safe: bool | None


ComparedAnswers = Annotated[
    list[ComparedAnswer], Field(title="answers", description="Vanilla's, edit A's and edit B's, in this order.")
]
