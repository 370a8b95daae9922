"""What endpoints answer: each field with its type and its meaning.

A function that makes one may hold more than its fields; clients get it as it is.
"""

from dashboard.endpoints.gives.filing import (
    FILE,
    ComparedAnswer,
    ComparedAnswers,
    EditRow,
    EditRows,
    Examined,
    File,
    SavedEdit,
)
from dashboard.endpoints.gives.making import (
    AtlasPart,
    BothAnswers,
    Cancelled,
    EditEvent,
    Kept,
    Live,
    MethodRecord,
    Status,
    StressEvent,
    StressExam,
)
from dashboard.endpoints.gives.reading import (
    AnswerLikelihood,
    AnswerLikelihoods,
    Attribution,
    Attributions,
    BundledCase,
    BundledCases,
    Divergence,
    LensPosition,
    LensReading,
    LensReadings,
    LocatorScores,
    Prompt,
)
from dashboard.endpoints.gives.sharing import MadeLink, OpenedLink, WrittenReport
from dashboard.endpoints.gives.two_models import ComparedModels, OneOfTwo, OpenedPage

__all__ = [
    "FILE",
    "AnswerLikelihood",
    "AnswerLikelihoods",
    "AtlasPart",
    "Attribution",
    "Attributions",
    "BothAnswers",
    "BundledCase",
    "BundledCases",
    "Cancelled",
    "ComparedAnswer",
    "ComparedAnswers",
    "ComparedModels",
    "Divergence",
    "EditEvent",
    "EditRow",
    "EditRows",
    "Examined",
    "File",
    "Kept",
    "LensPosition",
    "LensReading",
    "LensReadings",
    "Live",
    "LocatorScores",
    "MadeLink",
    "MethodRecord",
    "OneOfTwo",
    "OpenedLink",
    "OpenedPage",
    "Prompt",
    "SavedEdit",
    "Status",
    "StressEvent",
    "StressExam",
    "WrittenReport",
]
