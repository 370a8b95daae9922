"""What went wrong with a model of the hub, told apart by status, by the system's number and by the library's words."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from inspector.model import embedded


def why_not_had(where: str, options: Mapping[str, Any], error: Exception) -> str:
    """Say why a model of the hub could not be fetched or read, and what to do.

    Args:
        where: Its hub id.
        options: How it was fetched: its ``revision``, and ``local_files_only`` where the hub was out of reach.
        error: What transformers raised.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    which = f"'{where}' at revision '{options['revision']}'" if "revision" in options else f"'{where}'"
    chain = _chain(error)
    said = str(error).replace(where, "").lower()
    if any(_no_space(each) for each in chain):
        return f"The disk was full while {which} was fetched. Free some, or let HF_HOME name a folder with more room."
    refused = [each for each in chain if isinstance(each, HfHubHTTPError) and each.response.status_code in (401, 403)]
    if any(isinstance(each, GatedRepoError) or not isinstance(each, RepositoryNotFoundError) for each in refused):
        return f"'{where}' is gated. Ask for access on its page, then run 'hf auth login' and start again."
    if "trust_remote_code" in said:
        return f"'{where}' needs code of its own, which is never run here. Choose a family that transformers knows."
    if isinstance(error, ImportError):
        return f"'{where}' needs a Python package that is not installed here. Install it, or choose another model."
    if "does not recognize this architecture" in said:
        return (
            f"'{where}' is of a family that the installed transformers does not know. Install a newer one, or choose "
            "another model."
        )
    if "safetensors" in said:
        return f"'{where}' has no safetensors weights, and pickled ones are refused. Use a revision that has them."
    if options.get("local_files_only") or any(isinstance(each, RepositoryNotFoundError) for each in chain):
        return (
            f"{which} is neither a local path nor a model that could be fetched from the hub. Check the "
            "spelling and the connection (private models need 'hf auth login'), or start without --model for "
            f"the embedded {embedded.NAME}."
        )
    if any(words in said for words in ("have a file named", "unrecognized model in", "can't load tokenizer")):
        return (
            f"{which} lacks the configuration or the tokenizer of a model, as GGUF files and adapters do. Give a .gguf "
            "file by its path, or the model that an adapter was made for."
        )
    return f"{which} is on the hub and could not be fetched or read. Start again, or choose another revision or model."


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and those that it came of."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _no_space(error: BaseException) -> bool:
    """Tell whether an error says that a disk is full, or a quota used up: what fetches files may say it in words."""
    number = error.errno if isinstance(error, OSError) else None
    said = str(error).lower()
    return number in (errno.ENOSPC, errno.EDQUOT) or "no space left on device" in said or "quota exceeded" in said
