"""Where a spread model would go is counted from made-up devices: over cards alike, then CPU memory, then disk."""

from __future__ import annotations

import pytest
import quantised_models
from transformers import LlamaConfig

from inspector.errors import NoRoom
from inspector.model import load
from inspector.model.memory import spread_need
from inspector.model.memory.memory_need import GB, MemoryNeed
from inspector.model.memory.spread_need import holding_less, placed, require_spread_room


def need(dtype: str = "bfloat16", weights: int = 100) -> MemoryNeed:
    """Return what a model needs that reads in 2 GB and is edited in 10, its largest matrix of 1."""
    return MemoryNeed(dtype, weights * GB, loading=GB, reading=2 * GB, editing=10 * GB)


def gb(**sizes: int) -> dict[int | str, int]:
    """Return bytes by device; cards are ``card0``, ``card1``."""
    return {int(name[4:]) if name.startswith("card") else name: size * GB for name, size in sizes.items()}


@pytest.mark.parametrize(
    ("may_hold", "expected"),
    [
        (gb(card0=80, card1=80, cpu=500), gb(card0=50, card1=50, cpu=0, disk=0)),
        (gb(card0=80, card1=20, cpu=500), gb(card0=50, card1=20, cpu=30, disk=0)),
        (gb(card0=20, card1=90, cpu=500), gb(card0=20, card1=80, cpu=0, disk=0)),
        (gb(card0=30, card1=10, cpu=40), gb(card0=30, card1=10, cpu=40, disk=20)),
        (gb(cpu=70), gb(cpu=70, disk=30)),
        (gb(card0=60), gb(card0=60, disk=40)),
    ],
)
def test_weights_go_over_cards_alike_then_to_cpu_memory_then_to_disk(may_hold, expected):
    found = placed(need(), may_hold, may_hold)
    assert found.weights == expected and sum(found.weights.values()) == 100 * GB


def test_what_is_left_is_that_of_the_card_with_least_or_of_the_cpu_where_it_computes():
    assert placed(need(), gb(card0=80, card1=70, cpu=500), gb(card0=80, card1=70, cpu=600)).left == 20 * GB
    assert placed(need(), gb(cpu=90), gb(cpu=104)).left == 14 * GB


@pytest.mark.parametrize(
    ("free", "dtype", "room"),
    [
        (gb(card0=60, card1=60), "bfloat16", "edit"),
        (gb(card0=59, card1=60), "bfloat16", "read"),
        (gb(card0=51, card1=60), "bfloat16", "nothing"),
        (gb(card0=60, card1=60), "nf4", "edit"),
        (gb(card0=53, card1=53), "nf4", "nothing"),
    ],
)
def test_an_edit_has_to_fit_on_the_card_with_least_left(free, dtype, room):
    """A tenth of what bitsandbytes may use stays free while it quantises, so that the last one's rest is fetched."""
    one = need(dtype)
    assert placed(one, free, free).room_for(one) == room


@pytest.mark.parametrize(("left", "room"), [(11, "edit"), (10, "read"), (2, "nothing")])
def test_fetched_weights_take_their_largest_matrix_beside_what_is_computed_and_quantised_ones_are_not_fetched(
    left, room
):
    may_hold, free = gb(card0=40, cpu=200), gb(card0=40 + left, cpu=200)
    one = need()
    found = placed(one, may_hold, free)
    assert found.fetched == 60 * GB and found.room_for(one) == room
    for dtype in ("int8", "fp8"):
        assert placed(need(dtype), may_hold, free).room_for(need(dtype)) == "nothing"
    assert placed(need("nf4", 30), may_hold, gb(card0=45, cpu=200)).room_for(need("nf4", 30)) == "edit"


def test_what_cannot_be_read_where_it_would_go_is_refused_with_what_devices_may_hold():
    free = gb(card0=51, card1=60, cpu=200)
    with pytest.raises(
        NoRoom, match=r"leaves 1 GB on card 0, and reading takes 2: load it with --max-memory 0=38146MiB --max"
    ):
        require_spread_room(need(), free, free)
    less = holding_less(need(), free, free)
    assert less is not None and placed(need(), less, free).room_for(need()) == "edit"
    enough = gb(card0=53, card1=60)
    require_spread_room(need(), enough, enough)


def test_where_no_limit_would_do_that_is_said():
    free = gb(card0=2, cpu=2)
    with pytest.raises(NoRoom, match=r"reading takes 3: use more or larger cards, or a smaller type\."):
        require_spread_room(need(), free, free)
    with pytest.raises(NoRoom, match=r"60 GB of them would not: use more or larger cards\."):
        require_spread_room(need("fp8"), gb(card0=40, cpu=200), gb(card0=80, cpu=200))


def test_a_spread_model_without_room_is_refused_before_a_weight_is_read(tmp_path, monkeypatch):
    quantised_models.saved("llama", tmp_path)
    shape = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    LlamaConfig(vocab_size=32000, num_key_value_heads=8, tie_word_embeddings=False, **shape).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr(spread_need, "free_memory", lambda _device: 24 * GB)
    spread = {"device": "cpu", "dtype": "bfloat16", "device_map": "auto", "max_memory": {"cpu": "24GB"}}
    with pytest.raises(NoRoom, match=r"in bfloat16, spread, leaves 0 GB on cpu, .* load it with --max-memory cpu="):
        load(tmp_path, **spread)
