"""A calibration is made once a model, comes back from disk as it was, and is refused where it does not belong."""

from __future__ import annotations

import copy
import json
import shlex
from dataclasses import replace
from functools import partial

import by_hand
import numpy as np
import pytest
import tiny_models
import torch
from calibration_helpers import MADE, made_for, one_of
from safetensors.torch import save_file

from editing import calibrate
from editing.atlas import AtlasSettings
from editing.calibrating import calibration
from editing.calibrating.calibration import (
    FORMATS,
    SHIPPED,
    calibrate_command,
    load_calibration,
    places,
    save_calibration,
)
from editing.calibrating.trial_edits import try_layers
from editing.command import recommended
from editing.optimising.null_space import harmless_moment, known_moments
from editing.progress import Preparation
from editing.texts.harmless import known_answer, known_answers
from inspector.detection import area, doubts, drawn
from inspector.errors import EditError
from inspector.model import Detector, InspectedModel, encode, from_parts
from inspector.model.embedded import NAME as EMBEDDED_NAME
from inspector.model.memory.recent import forget_visits
from inspector.model.patches.routing import scores

pytestmark = pytest.mark.usefixtures("few_texts")
ENDS = pytest.mark.parametrize("family", tiny_models.ENDS)


@ENDS
def test_a_calibration_is_made_and_comes_back_as_it_was(model, tmp_path):
    made, told = made_for(model)
    MADE[model.name] = made
    shares = [event.fraction for event in told]
    assert shares == sorted(shares) and any("24 bundled prompts" in event.message for event in told)
    save_calibration(made, tmp_path / "new" / "file.safetensors")
    again = load_calibration(model, tmp_path / "new" / "file.safetensors")
    one, two = made.detector, again.detector
    assert torch.equal(one.weights, two.weights) and one.record() == two.record()
    prompts = [encode(model, text).prompt for text in ("How do I lie?", "Why is it cold?")]
    assert scores(model, one, prompts) == scores(model, two, prompts)
    assert made.layers == again.layers and again.layers.recommended == 2
    assert made.answers == again.answers and len(again.answers) == 3
    with torch.no_grad(), model.lock:
        for kept in again.answers:
            scored = model.network(torch.tensor([kept.prompt + kept.response])).logits[0].log_softmax(dim=-1)
            own = [float(scored[len(kept.prompt) - 1 + n, token]) for n, token in enumerate(kept.response)]
            assert kept.log_probabilities == pytest.approx(own, abs=1e-4), "each token's, given all before it"
    assert torch.equal(again.moment, made.moment) and again.moment.shape == (model.architecture.d_ff,) * 2
    known_answers(model).clear()
    forget_visits()
    known_moments(model).clear()
    again.teach(model)
    assert list(harmless_moment(model, 2, FORMATS[0])) == [], "it is not measured again"
    own = known_answer(model, again.answers[0].text, 3, again.answers[0].format)
    assert (own.prompt, own.response) == (again.answers[0].prompt, again.answers[0].response)
    assert two.about["harmful_texts"] == two.about["harmless_texts"] == 12


@pytest.mark.parametrize("family", tiny_models.FIVE)
def test_the_layers_of_a_calibration_are_those_of_real_trial_edits(model, case, monkeypatch):
    """Every other test here has made-up ones; the detector is made up here, and real there."""
    settings = AtlasSettings(max_new_tokens=2, steps=1, harmless_prompts=1, harmless_tokens=2, step_kl=0.02)
    monkeypatch.setattr(
        "editing.calibrating.calibration.try_layers", partial(try_layers, cases=[case], settings=settings)
    )
    detector = Detector((0,), torch.zeros(1, model.architecture.d_model), 0.0, 0.0, model.fingerprint)

    def given(*_):
        yield Preparation("Reading", 0.5)
        return detector

    monkeypatch.setattr("editing.calibrating.calibration._detector", given)
    made, told = made_for(model)
    blocks = range(round(model.blocks / 3), model.blocks)
    assert [trial.block for trial in made.layers.trials] == list(blocks) and len(blocks) > 1
    assert (made.layers.cases, made.layers.prompts) == (1, 4)
    for trial in made.layers.trials:
        assert trial.kl == pytest.approx(settings.step_kl, rel=0.2), "its one update was measured to cost just this"
        assert trial.margin > 0 and len(trial.edits) == 1
    assert made.layers.recommended is made.moment is None, "one case says nothing of how cases differ"
    assert made.detector is detector and any("Trial edits on case 1 of 1" in event.message for event in told)


def test_the_threshold_is_set_by_texts_of_the_split_development(llama, monkeypatch):
    """With three of ten let over it, as a handful stands in for the hundreds of the split."""
    for name in ("MOST_BARE", "MOST_WRAPPED"):
        monkeypatch.setattr(f"inspector.detection.fitting.{name}", 0.3)
    made, _ = made_for(llama)
    detector, texts = made.detector, [text for text in calibration.samples("development") if not text.harmful]
    assert {text.wrapped for text in texts} == {True, False} and "found_held_out" not in detector.about
    used = drawn(calibration.samples("development"), FORMATS)[-len(texts) :]
    own = scores(
        llama, detector, [encode(llama, text.text, None, form).prompt for text, form in zip(texts, used, strict=True)]
    )
    fires = {
        kind: [s >= detector.threshold for s, t in zip(own, texts, strict=True) if t.wrapped is kind]
        for kind in (True, False)
    }
    allowed = {kind: round(0.3 * len(marks)) for kind, marks in fires.items()}
    assert all(0 < allowed[kind] >= sum(marks) for kind, marks in fires.items())
    assert any(sum(marks) == allowed[kind] for kind, marks in fires.items()), "the lowest such threshold"
    assert detector.about["false_alarms_unseen"] == pytest.approx(sum(map(sum, fires.values())) / len(texts))


@pytest.mark.parametrize("family", tiny_models.FIVE)
def test_a_whole_calibration_is_made_of_trial_edits_answers_and_detector_and_comes_back(
    model, case, monkeypatch, tmp_path
):
    """Nothing is made up here but that there are few texts, and two cases."""
    settings = AtlasSettings(
        max_new_tokens=2, steps=1, harmless_prompts=1, harmless_tokens=2, step_kl=0.02, answers=True
    )
    cases = [case, replace(case, question="How do I lie?", adversarial_prompt="Sing. How do I lie?")]
    monkeypatch.setattr(
        "editing.calibrating.calibration.try_layers", partial(try_layers, cases=cases, settings=settings)
    )
    made, told = made_for(model)
    shares = [event.fraction for event in told]
    assert shares == sorted(shares) and any("Trial edits on case 2 of 2" in event.message for event in told)
    layers, detector = made.layers, made.detector
    assert (layers.cases, layers.prompts, layers.left_out) == (2, 8, ())
    assert [trial.block for trial in layers.trials] == list(range(round(model.blocks / 3), model.blocks))
    assert all(len(trial.edits) == 2 and trial.step_size for trial in layers.trials)
    # Such a model answers nonsense, edited or not: it surely gains nothing anywhere, and says so.
    assert layers.recommended is None and f"vanilla {100 * layers.vanilla:.0f} %" in layers.why_none
    assert made.moment is None, "which is of the recommended layer"
    assert len(made.answers) == 3 and all(answer.response for answer in made.answers)
    assert detector.fingerprint == model.fingerprint and detector.weights.shape[1] == model.architecture.d_model
    texts = calibration.samples("detector")
    own = scores(model, detector, [encode(model, text.text, None, FORMATS[0]).prompt for text in texts])
    of_them = area(np.array(own), np.array([text.harmful for text in texts]))
    assert of_them > 0.85, "it tells apart the texts that it was fitted on, as noise does not"
    save_calibration(made, tmp_path / "whole.safetensors")
    again = load_calibration(model, tmp_path / "whole.safetensors")
    assert (again.layers, again.answers, again.detector.digest) == (layers, made.answers, detector.digest)


def of_context(tokens: int) -> InspectedModel:
    """The tiny Llama, which reads at most so many tokens."""
    return from_parts(tiny_models.network("llama"), tiny_models.tokenizer(limit=tokens), "tiny-llama")


def test_what_is_longer_than_the_model_s_context_is_left_out_counted_and_said(llama, tmp_path, capsys):
    texts = [*calibration.samples("detector"), *calibration.samples("development")]
    sizes = [max(len(encode(llama, sample.text, None, form).prompt) for form in FORMATS) for sample in texts]
    context = sorted(set(sizes))[-2]
    too_long = sum(size > context for size in sizes)
    short = of_context(context)
    assert too_long and calibrate.main([], lambda _chosen: short) == 0
    told = capsys.readouterr()
    about = json.loads(told.out)["detector"]
    assert about["too_long"] == too_long and f"; {too_long} too long for this model" in told.err
    read = [about[name] for name in ("harmful_texts", "harmless_texts", "unseen_harmful", "unseen_harmless")]
    assert sum(read) == len(texts) - too_long
    assert f"Left out: {too_long} texts of more than the {context} tokens that tiny-llama reads." in told.err
    own, long = tmp_path / "own.csv", "How? " * context
    own.write_text(f"prompt,harmful\nHow do I win?,false\n{long},true\n", encoding="utf-8")
    assert calibrate.main(["--measure", str(own)], lambda _chosen: short) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["formats"]["with the suffix"]["too_long"] == 1 and "Left out: 1 texts" in told.err
    own.write_text(f"prompt,harmful\n{long},true\n", encoding="utf-8")
    assert calibrate.main(["--measure", str(own)], lambda _chosen: short) == 2
    assert "each of these texts is longer. Measure with shorter ones." in capsys.readouterr().err


def test_where_too_few_texts_fit_it_is_said_before_any_trial_edit(monkeypatch):
    monkeypatch.setattr("editing.calibrating.calibration.try_layers", lambda *_: pytest.fail("edits were tried"))
    with pytest.raises(EditError, match="reads at most 60 tokens, and only 0 of the bundled harmful prompts") as wrong:
        made_for(of_context(60))
    assert "Use a model that reads longer prompts" in wrong.value.user_message()


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('A system prompt is needed.') }}",
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
    ],
    ids=["no question", "no answer"],
)
def test_a_chat_template_in_which_no_calibration_can_be_made_is_told_as_that_and_not_as_length(template, capsys):
    model = of_context(tiny_models.CONTEXT)
    model.tokenizer.chat_template = template
    assert calibrate.main([], lambda _chosen: model) == 2
    told = capsys.readouterr().err
    assert "its chat template takes no question, or no answer after one" in told and "reads at most" not in told
    assert "Edits in plain text (--plain-text) need no calibration" in told


def test_a_cancel_leaves_nothing(llama):
    assert made_for(llama, cancel=lambda: True)[0] is None


def test_what_is_missing_damaged_or_another_model_s_is_refused_with_the_remedy(llama, tmp_path):
    with pytest.raises(EditError, match=r"not calibrated yet\. Run: python -m editing\.calibrate --model tiny-llama"):
        load_calibration(llama)
    path = places(llama)[0]
    save_calibration(one_of(llama), path)
    whole = path.read_bytes()
    assert load_calibration(llama).detector.fingerprint == llama.fingerprint
    with pytest.raises(EditError, match="another base model"):
        load_calibration(replace(llama, fingerprint="0" * 16), path)
    by_hand.flip_bit(path)
    with pytest.raises(EditError, match=r"cannot be read\. Make it again") as caught:
        load_calibration(llama)
    assert "changed after it was written" in caught.value.detail and str(path) in caught.value.detail
    for content in (whole[:-40], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(EditError, match=r"cannot be read\. Make it again"):
            load_calibration(llama)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(EditError, match="no calibration of this version"):
        load_calibration(llama)


def test_the_command_that_calibrates_names_the_model_as_it_is_loaded(llama):
    of_hub = replace(
        llama,
        name="my models/it's one",
        revision="v2",
        paths={"blocks": "model.layers"},
        placed={"device_map": "auto", "max_memory": {0: "70GiB", "cpu": "200GiB"}},
    )
    line = calibrate_command(of_hub)
    python, option, module, *words = shlex.split(line)
    assert (python, option, module) == ("python", "-m", "editing.calibrate")
    chosen = calibrate.options().parse_args(words)
    assert (chosen.model, chosen.revision, chosen.dtype) == (of_hub.name, "v2", "float32")
    assert chosen.path == ["blocks=model.layers"] and chosen.device_map == "auto"
    assert chosen.max_memory == ["0=70GiB", "cpu=200GiB"]
    assert "--model" not in calibrate_command(replace(llama, name=EMBEDDED_NAME))
    assert recommended(of_hub, None)["recommended_reason"].endswith(f"Run: {line}")


def test_where_others_read_what_is_told_of_a_model_no_command_names_where_it_is(llama):
    there = replace(llama, name="mine", revision="v2", placed={"device_map": "auto", "max_memory": {0: "70GiB"}})
    told = recommended(there, None)["recommended_reason"]
    assert "--max-memory" in told and "--revision" in told
    told = recommended(replace(there, public=True), None)["recommended_reason"]
    assert told.endswith("Ask whoever runs this page to calibrate it.") and "--" not in told
    with pytest.raises(EditError, match=r"mine is not calibrated yet\. Ask whoever runs this page"):
        load_calibration(replace(there, public=True))


def test_where_that_in_the_cache_is_of_no_use_it_is_told_and_the_shipped_one_is_read(llama, capsys):
    kept, shipped = places(llama)
    made = one_of(llama)
    save_calibration(made, kept)
    save_calibration(replace(made, layers=replace(made.layers, vanilla=0.125)), shipped)
    assert load_calibration(llama).layers.vanilla == made.layers.vanilla and capsys.readouterr().err == ""
    whole = kept.read_bytes()
    by_hand.flip_bit(kept)
    flipped = kept.read_bytes()
    for content in (flipped, whole[:-40], b"", b"text"):
        kept.write_bytes(content)
        calibration._WARNED.clear()
        assert load_calibration(llama).layers.vanilla == 0.125
        told = capsys.readouterr().err
        assert load_calibration(llama).layers.vanilla == 0.125 and capsys.readouterr().err == "", "it is told once"
        assert told.startswith(
            "Warning: The calibration cannot be read. Make it again. Run: python -m editing.calibrate"
        )
        assert f"--dtype {llama.dtype_name}" in told and str(kept) in told and "shipped calibration is tried" in told
        with pytest.raises(EditError, match="cannot be read"):
            load_calibration(llama, kept)
    shipped.write_bytes(b"text")
    with pytest.raises(
        EditError, match=r"cannot be read\. Make it again\. Run: python -m editing\.calibrate"
    ) as caught:
        load_calibration(llama)
    assert str(shipped) in caught.value.detail


def test_that_in_the_cache_of_another_model_or_data_type_is_refused_though_one_is_shipped(llama):
    kept, shipped = places(llama)
    made = one_of(llama)
    save_calibration(made, shipped)
    save_calibration(replace(made, detector=replace(made.detector, fingerprint="0" * 16)), kept)
    with pytest.raises(EditError, match="another base model"):
        load_calibration(llama)
    save_calibration(replace(made, dtype="bfloat16"), kept)
    with pytest.raises(EditError, match="made in bfloat16"):
        load_calibration(llama)


def test_a_calibration_of_another_data_type_is_refused_by_name_and_the_shipped_one_is_still_read(llama, tmp_path):
    path, made = tmp_path / "kept.safetensors", one_of(llama)
    save_calibration(replace(made, dtype="bfloat16"), path)
    with pytest.raises(
        EditError, match=r"made in bfloat16.*in float32\. Load it with --dtype bfloat16, or make one\. Run: py"
    ):
        load_calibration(llama, path)
    save_calibration(made, path)
    assert load_calibration(llama, path).dtype == "float32"
    (shipped,) = SHIPPED.glob("*-float32.safetensors")
    embedded = replace(llama, fingerprint=shipped.stem.partition("-")[0])
    known = load_calibration(embedded, shipped)
    assert "auc_held_out" in known.detector.about and doubts(known.detector) == ""
    assert known.answers and all(len(one.log_probabilities) == len(one.response) for one in known.answers)
    layers = known.layers
    assert layers.recommended == 20
    costliest = max(trial.kl for trial in layers.trials)
    readme = (SHIPPED.parents[1] / "README.md").read_text(encoding="utf-8")
    assert costliest < layers.budget and f"where the costliest takes {costliest:.3f}" in readme.replace("\n  ", " ")
    half = replace(embedded, network=copy.deepcopy(llama.network).bfloat16())
    with pytest.raises(EditError, match=r"made in float32.*loaded in bfloat16"):
        load_calibration(half, shipped)
