"""The digests of what the presets' edits change."""

from __future__ import annotations

import hashlib

from benchmarks import preset_deltas
from editing import dinm, preset, run


def test_each_preset_s_change_is_told_by_its_norm_and_its_digest(llama, case, monkeypatch, capsys):
    made, short = [], {"steps": 1, "harmless_prompts": 1, "harmless_tokens": 2}

    def noted(model, asked, layer, settings):
        result = yield from dinm(model, asked, layer, settings)
        made.append((settings, layer, result.patch.deltas[0].left))
        return result

    monkeypatch.setattr(preset_deltas, "bundled_cases", lambda: [case])
    monkeypatch.setattr(preset_deltas, "CASE", case.identifier)
    monkeypatch.setattr(preset_deltas, "dinm", noted)
    monkeypatch.setattr(preset_deltas, "preset", lambda name, **given: preset(name, **{**given, **short}))
    asked = ["--layers", "1", "2"]
    assert preset_deltas.main(asked, lambda _options: llama) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("torch ") and len(lines) == len(made) == 6
    for line, (settings, layer, change) in zip(lines, made, strict=True):
        name, _, number, _, norm, digest = line.split()
        assert (name, int(number), digest) == (
            settings.preset,
            layer,
            hashlib.sha256(change.numpy().tobytes()).hexdigest(),
        )
        assert abs(float(norm) - float(change.norm())) < 1e-4
    again = run(dinm(llama, case, 1, preset("paper", learning_rate=0.5, **short))).patch  # as it was
    assert hashlib.sha256(again.deltas[0].left.numpy().tobytes()).hexdigest() in lines[2], "made again it is the same"
