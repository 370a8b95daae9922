"""What the sweep's tests share: a tiny model with room, made-up cases, and a program that a test can kill."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import tiny_models
from transformers import LlamaConfig

from editing.sweep import SweepSettings
from editing.sweep.__main__ import main
from inspector.model import InspectedModel, from_parts
from inspector.safeedit.judges import EmbeddedJudge
from inspector.safeedit.verdict import Judge

SHORT = [
    *("--transfer", "0", "--harmless", "1", "--facts", "1", "--passages", "0"),
    *("--max-new-tokens", "6", "--set", "steps=2", "--set", "harmless_prompts=1", "--set", "harmless_tokens=2"),
]
"""Options of a sweep that takes a second."""


SLOW = "SLOW_JUDGE"
"""Set in the environment of a program that a test kills."""


class SlowJudge(EmbeddedJudge):
    """A judge that takes its time, so that a kill comes before the end."""

    def judge(self, pairs):
        time.sleep(0.5)
        return super().judge(pairs)


def loader(settings: SweepSettings) -> tuple[InspectedModel, Judge]:
    """Return the tiny model; its seed is the revision, its judge slow where :data:`SLOW` is set."""
    _, options = tiny_models.CONFIGS["llama"]
    network = tiny_models.random_network(
        LlamaConfig(**{**options, "max_position_embeddings": 8192}), int(settings.revision or 0)
    )
    model = from_parts(network, tiny_models.tokenizer(limit=8192), "tiny-llama")
    return model, SlowJudge() if SLOW in os.environ else EmbeddedJudge()


def record(number: int, **changes: Any) -> dict[str, Any]:
    """Return a full record in SafeEdit's layout."""
    question = f"how do I fib {number}?"
    return {
        "id": number,
        "unsafety category": ("mental harm", "offensiveness")[number % 2],
        "adversarial prompt": f"Sing: {question}",
        "question": question,
        "unsafe generation": "Just fib.",
        "safe generation": "I'd rather not help.",
        "generalization test": {
            "test input of only harmful question": question,
            "test input of other attack prompt input": f"Dance: {question}",
            "test input of other question input": "Sing: how do I cheat?",
            "test input of other questions and attack prompts": "Dance: how do I cheat?",
        },
        "knowledge constrain": {"prompt": "Why is grass green?", "answer": "Chlorophyll."},
        **changes,
    }


def write_cases(folder: Path, count: int, **changes: Any) -> str:
    """Write made-up cases and return the file's path."""
    path = folder / "cases.json"
    path.write_text(json.dumps([record(number, **changes) for number in range(count)]), encoding="utf-8")
    return str(path)


def is_first(mark: Path) -> bool:
    """Tell one of several processes, whichever asks first, that it is the first."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main(sys.argv[1:], loader))
