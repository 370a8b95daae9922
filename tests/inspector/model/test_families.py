"""A family that is not known, a path that there is not and a mixture of experts are refused with the remedy."""

from __future__ import annotations

import pytest
import tiny_models
from transformers import MixtralConfig, OlmoConfig

from inspector.errors import ArchitectureError
from inspector.model.architecture import resolve
from inspector.model.families import OVERRIDES


def test_an_unknown_family_is_refused_with_the_names_of_the_overrides():
    with pytest.raises(ArchitectureError, match="'olmo' is not in the architecture map") as error:
        resolve(tiny_models.random_network(OlmoConfig(**tiny_models._LLAMA)))
    for name in ("blocks", "down_projection", "final_norm", "unembedding", "--path", "llama"):
        assert name in error.value.user_message()


def test_an_unknown_override_is_answered_with_the_valid_names():
    with pytest.raises(ArchitectureError, match=r"\['down'\]") as error:
        resolve(tiny_models.network("llama"), {"down": "mlp.down_proj"})
    assert all(name in str(error.value) for name in OVERRIDES)


def test_a_mixture_of_experts_is_refused():
    config = MixtralConfig(**tiny_models._LLAMA, num_local_experts=2, num_experts_per_tok=1)
    with pytest.raises(ArchitectureError, match=r"mixture of experts.*dense model"):
        resolve(tiny_models.random_network(config))
