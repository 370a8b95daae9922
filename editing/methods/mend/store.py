"""Trained editors on disk: one safetensors file per base model, named by its fingerprint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from editing.methods.mend.network import EditorNetwork, EditorShape
from editing.methods.mend.training import MendTraining
from inspector.errors import EditError
from inspector.model import InspectedModel, PromptFormat
from inspector.model.embedded import cache_root
from inspector.model.prompt_format import has_chat_template
from inspector.model.tensor_file import check_unchanged, write_tensors
from inspector.validated import read_record

SHIPPED = Path(__file__).resolve().parents[3] / "assets" / "mend"
_FORMAT = "dinm-inspector mend 1"


@dataclass(frozen=True)
class EditorRecord:
    """What is known of an editor's making.

    Attributes:
        fingerprint: The base model's.
        shape: The editor's.
        model: The base model's name; empty where it is not written.
        command: What trained it; empty where it is not written.
        training: The settings that it was trained with; the default of each that is not written.
        format: The prompt format in which it was trained; ``None`` where none is written.
    """

    fingerprint: str
    shape: EditorShape
    model: str = ""
    command: str = ""
    training: MendTraining = MendTraining()
    format: PromptFormat | None = None


def places(model: InspectedModel) -> tuple[Path, Path]:
    """Return where an editor of a model is looked for: among the shipped ones, then in the cache."""
    name = f"{model.fingerprint}.safetensors"
    return SHIPPED / name, kept_in() / name


def kept_in() -> Path:
    """Return the folder of the cache in which trained editors are kept."""
    return cache_root() / "mend"


def save_editor(editor: EditorNetwork, path: Path, about: dict[str, Any]) -> None:
    """Write an editor with what is to be known of its making (JSON).

    Raises:
        OSError: It cannot be written.
    """
    write_tensors(path, editor.state_dict(), _FORMAT, {**about, "shape": asdict(editor.shape)})


def load_editor(model: InspectedModel, path: Path | None = None) -> tuple[EditorNetwork, EditorRecord]:
    """Return the editor that was trained for a model, and what is known of its making.

    Args:
        path: The file; by default the shipped one or that in the cache.

    Raises:
        EditError: There is none, it cannot be read, or it belongs to another model.
    """
    found = path or next((place for place in places(model) if place.is_file()), None)
    if found is None:
        raise EditError(
            f"MEND needs an editor network that was trained for this model, and there is none for {model.name}. Train "
            f"one with: python -m editing.methods.mend train --model {model.name} (its cases are the bundled ones, "
            "or give --cases)."
        )
    try:
        with safe_open(found, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise EditError("The file is no editor network of this program. Choose another file.", str(found))
            check_unchanged(file)
            record = _record(json.loads(metadata["record"]))
            editor = EditorNetwork(record.shape)
            names = list(file.keys())
            editor.load_state_dict({name: file.get_tensor(name) for name in names})
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise EditError("The editor network cannot be read. Train it again.", f"{found}: {error}") from error
    if record.fingerprint != model.fingerprint:
        raise EditError(
            f"The editor network was trained for another base model ({record.fingerprint}, this is "
            f"{model.fingerprint}). Load that model, or train one for this.",
            str(found),
        )
    return editor.requires_grad_(False).to(model.architecture.head_device).eval(), record


def _record(told: dict[str, Any]) -> EditorRecord:
    """Return what a file says of an editor; the settings of its training stand beside the rest there.

    Raises:
        TypeError, ValueError: It is broken.
    """
    told = dict(told)
    if "suffix" in told:  # of an earlier version
        names = {"suffix": "suffix", "chat": "chat", "turn_end": "end_of_answer"}
        told["format"] = {name: told.pop(before) for name, before in names.items() if before in told}
    training = {part.name: told.pop(part.name) for part in fields(MendTraining) if part.name in told}
    return read_record(EditorRecord, {**told, "training": training, "format": training.get("format")})


class OtherFormat(EditError):
    """An edit was asked for in another prompt format than that in which its editor network was trained."""


def require_trained(model: InspectedModel, record: EditorRecord, format: PromptFormat) -> None:
    """Check that an editor is used in the prompt format in which it was trained, as far as its record tells.

    Raises:
        OtherFormat: It was trained in another one.
    """
    trained, chat = record.format, has_chat_template(model.tokenizer)
    if trained is None or replace(trained, chat=trained.chat and chat) == replace(format, chat=format.chat and chat):
        return
    told = ", ".join(f"{name} = {value!r}" for name, value in asdict(trained).items() if value != getattr(format, name))
    raise OtherFormat(
        f"The editor network was trained in another prompt format ({told}). Set that, or train one in this edit's "
        f"format: python -m editing.methods.mend train --model {model.name}, with --suffix-prompt or --plain-text."
    )
