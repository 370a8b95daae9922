"""The model under inspection: loading, architecture map, encoding, hooks, patches, generation."""

from inspector.model.answers.generation import Answers, Decoding, answer, pieces, stream
from inspector.model.encoding import Encoded, encode
from inspector.model.inspected import InspectedModel
from inspector.model.loading import from_parts, load, read_paths
from inspector.model.patches.detector import Detector, Hidden
from inspector.model.patches.patch import VANILLA, Delta, Patch, Row, Taught
from inspector.model.placement import max_memory_entries, placing, read_max_memory
from inspector.model.prompt_format import SUFFIX, PromptFormat

__all__ = [
    "SUFFIX",
    "VANILLA",
    "Answers",
    "Decoding",
    "Delta",
    "Detector",
    "Encoded",
    "Hidden",
    "InspectedModel",
    "Patch",
    "PromptFormat",
    "Row",
    "Taught",
    "answer",
    "encode",
    "from_parts",
    "load",
    "max_memory_entries",
    "pieces",
    "placing",
    "read_max_memory",
    "read_paths",
    "stream",
]
