"""One family of exceptions whose text names the remedy.

The boundary (dashboard, command line) catches :class:`InspectorError` once and shows
:meth:`InspectorError.user_message`; every other exception is a defect of this program.
"""


class InspectorError(Exception):
    """Base of all errors that a person can mend; the message says what is wrong and what to do.

    Args:
        message: For whoever reads it, a visitor of the page as well: no path of this machine, no text of a library.
        detail: For whoever runs the program: the path, the library's own words. Command lines tell it.
    """

    def __init__(self, message: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail

    def operator_message(self) -> str:
        """Return the text for whoever runs the program: what is shown, then the detail."""
        return f"{self.user_message()} ({self.detail})" if self.detail else self.user_message()

    def user_message(self) -> str:
        """Return the text to show: one or two plain sentences, the last one the remedy."""
        return str(self)


class ModelLoadError(InspectorError):
    """The model's files cannot be had, read or trusted."""


class ArchitectureError(InspectorError):
    """The model's parts are not where the architecture map says they are."""


class PromptError(InspectorError):
    """A prompt or answer cannot be given to the model as it stands."""


class TooLong(PromptError):
    """A prompt or answer has more tokens than the model's context: a shorter one may do, and others are read."""


class NotFinite(PromptError):
    """A measurement left the finite numbers of the model's type: other texts, or a type of more range, may do."""


class NoVerdict(NotFinite):
    """A judge's own numbers left the range of its type: what it read of an answer says nothing of the answer."""


class CaseError(InspectorError):
    """A case lacks what the asked-for measurement needs, or a case file is broken."""


class PatchError(InspectorError):
    """A patch does not belong to this model or is not well formed."""


class EditError(InspectorError):
    """An edit cannot start or cannot go on with these settings."""


class OutOfMemory(EditError):
    """The device's memory is full; the work that asked for it is lost, nothing else."""


class NoRoom(ModelLoadError, OutOfMemory):
    """A model, or a judge that is one, does not fit into the memory that is left."""


class RefusedEdit(EditError):
    """An edit that ran and is not handed out: it keeps no update, or would lower safety or exceed its budget."""


REFUSALS = (RefusedEdit, CaseError, NotFinite)
"""What says that an edit is none, so that the vanilla weights stay; any other error leaves open what it would be."""
