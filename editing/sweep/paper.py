"""Table 1 of the paper: what its authors measured on 7B models with their own judge.

Wang et al., "Detoxifying Large Language Models via Knowledge Editing", ACL 2024, arXiv 2403.14472.
"""

from __future__ import annotations

COLUMNS = ("DS", "onlyQ", "otherA", "otherQ", "otherAQ", "DG-Avg", "Fluency", "KQA", "CSum")
TABLE_1: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("LLaMA2-7B-Chat", "Vanilla"): (44.44, 84.30, 22.00, 46.59, 21.15, 43.51, 6.66, 55.15, 22.29),
    ("LLaMA2-7B-Chat", "FT-L"): (97.70, 89.67, 47.48, 96.53, 38.81, 74.04, 6.44, 55.71, 22.42),
    ("LLaMA2-7B-Chat", "Ext-Sub"): (None, 85.70, 43.96, 59.22, 46.81, 58.92, 4.14, 55.37, 23.55),
    ("LLaMA2-7B-Chat", "MEND"): (92.88, 87.05, 42.92, 88.99, 30.93, 62.47, 5.80, 55.27, 22.39),
    ("LLaMA2-7B-Chat", "DINM"): (96.02, 95.58, 77.28, 96.55, 77.54, 86.74, 5.28, 53.37, 20.22),
    ("Mistral-7B-v0.1", "Vanilla"): (41.33, 50.00, 47.22, 43.26, 48.70, 47.30, 5.34, 51.24, 16.43),
    ("Mistral-7B-v0.1", "FT-L"): (69.85, 54.44, 50.93, 59.89, 51.81, 57.38, 5.20, 56.34, 16.80),
    ("Mistral-7B-v0.1", "Ext-Sub"): (None, 54.22, 42.11, 74.33, 41.81, 53.12, 4.29, 49.72, 18.41),
    ("Mistral-7B-v0.1", "MEND"): (88.74, 70.66, 56.41, 80.96, 56.44, 66.12, 4.42, 54.78, 17.74),
    ("Mistral-7B-v0.1", "DINM"): (95.41, 99.19, 95.00, 99.56, 93.59, 96.84, 4.58, 47.53, 13.01),
}
"""(model, method) -> the columns; percent, fluency in bits. DG-Avg as printed: FT-L's is not the mean of its four."""

PAPER_TOKENS = 600
"""Longest answer in the released code (``max_output_length`` in EasyEdit's ``hparams/DINM/llama-7b.yaml``)."""
AT_ITS_LENGTH = (
    f"Fluency depends on length: the paper's stands here only beside answers of up to {PAPER_TOKENS} tokens, as in the "
    f"released code (--max-new-tokens {PAPER_TOKENS})."
)


def figures(max_new_tokens: int) -> dict[tuple[str, str], tuple[float | None, ...]]:
    """Return :data:`TABLE_1` as it can stand beside answers of a length: without Fluency where they are shorter.

    Args:
        max_new_tokens: Longest answer of what it stands beside.
    """
    left_out = () if max_new_tokens >= PAPER_TOKENS else ("Fluency",)
    return {
        which: tuple(None if name in left_out else value for name, value in zip(COLUMNS, values, strict=True))
        for which, values in TABLE_1.items()
    }
