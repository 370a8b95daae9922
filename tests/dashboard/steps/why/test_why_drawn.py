"""Why this layer: what its figures and texts make of measurements, without a page and without a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from dashboard_helpers import seen

from dashboard.steps.why import figures as why_figures
from dashboard.steps.why import texts as why_texts
from editing.atlas import Atlas, AtlasSettings, Entry
from inspector.locators import Located, agreement
from inspector.token_attribution import TokenAttribution


def made_atlas(*values: float) -> Atlas:
    entries = tuple(Entry(n, value, -3.0, 0.01 * (n + 1), 1.0) for n, value in enumerate(values))
    return Atlas(entries, -3.0, -3.0, {}, AtlasSettings(), len(values) + 1, 1.0)


def test_the_atlas_figure_marks_the_best_layer_and_leaves_unmade_ones_empty():
    figure = why_figures.atlas(made_atlas(-2.0, -1.0, -2.5), 0)
    gains = figure.data[0]
    assert list(gains.y) == [1.0, 2.0, 0.5, None] and gains.marker.color[1] == why_figures.UNSAFE
    harm = figure.data[1]
    assert list(harm.y) == [0.01, 0.02, 0.03, None] and len(figure.data) == 3
    assert all(axis.type is None for axis in figure.select_yaxes()), "bars stand on zero"
    assert "layer 1 lifts" in seen(why_texts.atlas_reading(made_atlas(-2.0, -1.0, -2.5), 0))
    assert "budget" not in seen(why_texts.atlas_reading(made_atlas(-2.0, -1.0, -2.5), 0))


def test_readings_say_which_bar_is_the_picked_layer_s():
    atlas, scores = made_atlas(-2.0, -1.0, -2.5), np.array([1.0, 3.0, 2.0])
    located = [Located("one", "", "", scores, 0.0), Located("two", "", "", scores, 0.0)]
    for picked, said in ((1, "one, two would edit it"), (2, "no locator names it")):
        drawn = why_figures.locators(located, picked).data + why_figures.atlas(atlas, picked).data
        assert all([n for n, shape in enumerate(bar.marker.pattern.shape) if shape == "x"] == [picked] for bar in drawn)
        crossed = f"Layer {picked} is picked (crossed)"
        assert f"{crossed}: {said}." in seen(why_texts.locators_reading(located, picked))
        assert f"{crossed}." in seen(why_texts.atlas_reading(atlas, picked))
    assert "Layer 3 is picked and not measured." in seen(why_texts.atlas_reading(atlas, 3))


def test_a_best_layer_that_does_too_much_harm_is_named_beside_the_best_one_within_the_budget():
    atlas = made_atlas(-2.0, -1.0, -2.5)
    dear = replace(atlas, entries=(*atlas.entries[:1], replace(atlas.entries[1], kl=0.5), *atlas.entries[2:]))
    assert "within it layer 0 is best, with 1.00 nats" in seen(why_texts.atlas_reading(dear, 0))


def test_layers_that_the_atlas_leaves_out_are_named_each_reason_once():
    atlas, full = made_atlas(-2.0, -1.0, -2.5), "The device ran out of memory. Shorten <b> and answers."
    assert "Left out" not in why_texts.atlas_reading(atlas, 0)
    said = why_texts.atlas_reading(replace(atlas, left_out={5: full, 4: "No update is kept.", 3: full}), 0)
    assert f"Left out: layers 3, 5. {full} Left out: layer 4. No update is kept." in seen(said) and "<b>" not in said


def test_the_table_judges_locators_in_order_of_regret():
    atlas = made_atlas(-2.0, -1.0, -2.5)
    achieved = atlas.curve("margin gain")
    found = [
        agreement(Located(name, "", "", np.array(scores, dtype=float), 0.0), achieved)
        for name, scores in (("bad <b>", [0, 0, 9, 0]), ("good", [1, 9, 0, 0]))
    ]
    text = why_texts.agreements(found, atlas)
    assert text.index("good") < text.index("bad &lt;b&gt;") and "<b>" not in text
    assert "1.50" in text and "0.00" in text and "The atlas has 3 of 4 layers" in seen(text)
    whole = replace(atlas, blocks=3)
    assert "The atlas has" not in seen(why_texts.agreements(found, whole))


def test_tokens_are_escaped_scaled_and_named():
    item = TokenAttribution("ablation", ("<s>", "\n", "kill"), np.array([0.0, -0.5, 1.0]), range(1, 3), 0.4, 5)
    text = why_texts.token_spans({"vanilla": item})
    assert "&lt;s&gt;" in text and "<s>" not in text and "⏎<br>" in text
    assert "--unsafe) 85%" in text and "--safe) 42%" in text and text.count('class="strong"') == 2
    assert "sum to +0.500" in text and "to be explained +0.400, interaction of tokens +0.100" in text
    assert "token 2 (&#x27;kill&#x27;)" in why_texts.tokens_reading({"vanilla": item})
