"""Short texts sampled from the model itself, put before a prompt so that an edit does not hang on how it begins.

ROME (Meng et al. 2022, arXiv 2202.05262) optimises over such contexts: a fact then holds wherever it is asked.
"""

from __future__ import annotations

from collections import deque
from weakref import WeakKeyDictionary

from inspector.model import VANILLA, Decoding, InspectedModel
from inspector.model.answers.batching import generate

TOKENS = 8
"""Length of a context; ROME's have 5 or 10 tokens."""
_SAMPLED: WeakKeyDictionary[InspectedModel, dict[int, str]] = WeakKeyDictionary()


def random_contexts(model: InspectedModel, count: int) -> list[str]:
    """Return texts sampled from the vanilla model after nothing but its begin marker; kept per model.

    They are the same every time. Texts without a letter are left out, so there may be fewer.

    Args:
        count: How many to sample.
    """
    known = _SAMPLED.setdefault(model, {})
    start = next(
        (token for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id) if token is not None), 0
    )
    for seed in range(count):
        if seed not in known:
            decoding = Decoding(max_new_tokens=TOKENS, temperature=1.0, top_p=0.9, seed=seed)
            (line,) = deque(generate(model, [[start]], (VANILLA,), decoding), maxlen=1)[0]
            known[seed] = " ".join(model.decode(line.tokens).split())
    return [known[seed] for seed in range(count) if any(letter.isalpha() for letter in known[seed])]


def after_context(context: str, text: str) -> str:
    """Return a prompt after a context."""
    return f"{context.rstrip('.')}. {text}"
