"""What endpoints answer that hand a visit on."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from dashboard.endpoints.gives.filing import File


class WrittenReport(TypedDict):
    """A visit, written down.

    Attributes:
        file: The report, one HTML file; gradio_client fetches it and gives its path.
        script: The run as a Python script that comes to the same numbers.
        notebook: The same as a notebook.
        bytes: Size of the HTML file.
        parts: The titles of its parts.
        weights: The weights that were live, by their label.
        redacted: Whether prompts, and answers that are not known to be safe, were left out.
    """

    file: File
    script: File
    notebook: File
    bytes: int
    parts: list[str]
    weights: str
    redacted: bool


class MadeLink(TypedDict):
    """A link that was made, for pages and programs.

    Attributes:
        address: What stands behind the page's own address; it holds no text.
        name: The random name that it is kept under; null where a bundled case is named instead.
        expires_in: Seconds for which it is kept, unless the program is started anew or this client makes 20 others;
            null for one that does not expire.
    """

    address: str
    name: str | None
    expires_in: float | None


class OpenedLink(TypedDict):
    """What a link stands for.

    Attributes:
        question: The question itself.
        template: The attack around it, with {question} in its place; empty for none.
        suffix: Suffix prompt S.
        safe: The answer that declines.
        unsafe: The answer that complies.
        chat: Whether the model's chat template is used.
        layer: The layer; null where it names none.
        preset_name: The preset that the edit's settings started from, as /edit takes it.
        settings: The edit's settings, steps among them, by their names in editing.DinmSettings.
        decoding: How both weights answer: max_new_tokens, temperature and seed among it.
        routed: Where the edit acts, as /edit takes it: true only where harm is detected, false on every prompt, null
            where the gate chooses.
    """

    question: str
    template: str
    suffix: str
    safe: str
    unsafe: str
    chat: bool
    layer: int | None
    preset_name: str
    settings: dict[str, Any]
    decoding: dict[str, Any]
    routed: bool | None
