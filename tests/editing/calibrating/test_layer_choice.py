"""Where no layer is named, every command takes the same one for the same edit, and says why."""

from __future__ import annotations

import pytest

from editing.calibrating.layer_choice import NOWHERE, TOXIC, automatic_layer, recommended_layer
from editing.calibrating.trial_edits import Layers, Trial
from editing.methods.registry import METHODS
from inspector.errors import EditError


def knowing(defended: float) -> Layers:
    """What is known where one layer was tried."""
    return Layers((Trial(2, defended, 0.05, 1.0),), 0.25, 5, 20)


def test_ft_l_and_the_paper_s_presets_take_the_toxic_layer_and_all_others_the_recommended_one(llama):
    chosen = {key: automatic_layer(llama, knowing(0.75), key) for key in METHODS}
    assert {key for key, one in chosen.items() if one.layer == TOXIC} == {"ft-l"}
    assert {one.layer for key, one in chosen.items() if key != "ft-l"} == {"2"}
    assert "FT-L edits there" in chosen["ft-l"].reason
    assert chosen["gated"].reason == f"Recommended layer. {knowing(0.75).reason}"
    for preset in ("paper", "reference"):
        assert automatic_layer(llama, knowing(0.75), "dinm", preset).layer == TOXIC
        assert automatic_layer(llama, knowing(0.75), "delman", preset).layer == "2", "the preset is DINM's alone"


@pytest.mark.parametrize("key", METHODS)
def test_without_a_calibration_it_is_the_toxic_layer_with_the_remedy_unless_it_always_is(llama, key):
    chosen = automatic_layer(llama, None, key)
    assert chosen.layer == TOXIC
    said = "tiny-llama is not calibrated, so it is not known where edits work. Run: python -m editing.calibrate"
    assert (said in chosen.reason) == (key != "ft-l")


def test_where_no_layer_helps_only_what_edits_no_single_one_goes_on(llama):
    for key, method in METHODS.items():
        chosen = automatic_layer(llama, knowing(0.25), key)
        assert chosen.layer == (NOWHERE if method.one_layer and not method.toxic else TOXIC)
        assert ("No layer helps, so nothing was edited" in chosen.reason) == (chosen.layer == NOWHERE)
    assert {key for key, method in METHODS.items() if method.one_layer} == {"dinm", "ft-l", "gated", "delman"}


def test_the_recommended_layer_is_any_method_s_that_asks_for_it_and_where_none_is_it_is_as_where_nobody_names_one(
    llama,
):
    for key in METHODS:
        chosen = recommended_layer(llama, knowing(0.75), key)
        assert chosen.layer == "2" and chosen.reason == f"Recommended layer. {knowing(0.75).reason}"
    for key, method in METHODS.items():
        chosen = recommended_layer(llama, knowing(0.25), key)
        assert chosen.layer == (NOWHERE if method.one_layer else TOXIC)
        assert method.toxic or chosen == automatic_layer(llama, knowing(0.25), key)
    with pytest.raises(EditError, match=r"tiny-llama is not calibrated.*Run: python -m editing\.calibrate"):
        recommended_layer(llama, None, "dinm")
