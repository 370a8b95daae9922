"""Edits that leave the program: as a patch with its record, an adapter, a merged model; checked, and made again."""

from editing.saved.files import load_edit, save_edit
from editing.saved.record import EditRecord, record_of

__all__ = ["EditRecord", "load_edit", "record_of", "save_edit"]
