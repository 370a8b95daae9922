"""The embedded model is what it is called, and has one name whatever type it is loaded in."""

from __future__ import annotations

import pytest

from inspector.model import load

pytestmark = pytest.mark.embedded


def test_the_embedded_model_is_smollm2_135m_instruct(embedded):
    assert embedded.name == "SmolLM2-135M-Instruct"
    assert (embedded.blocks, embedded.architecture.d_model, embedded.architecture.d_ff) == (30, 576, 1536)
    assert embedded.architecture.family == "llama"
    assert embedded.context_length == 8192
    assert embedded.tokenizer.chat_template
    assert embedded.tokenizer.eos_token_id in embedded.end_tokens()


def test_its_fingerprint_is_the_same_in_bfloat16(embedded):
    assert load("embedded", device="cpu", dtype="bfloat16").fingerprint == embedded.fingerprint
