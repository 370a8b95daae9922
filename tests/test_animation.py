"""The animation of the operation: which pictures are kept, how long each stands, how large the file is."""

from __future__ import annotations

import pytest
from PIL import Image

from inspector.errors import CaseError
from scripts.animation import EVERY, LAST, LONGEST, merged, written


def plain(colour: int) -> Image.Image:
    return Image.new("RGB", (128, 80), (colour, colour, colour))


def test_what_shows_nothing_new_is_one_longer_frame_and_waiting_is_shortened():
    shots = [plain(0)] * 3 + [plain(90)] * 20 + [plain(200)]
    step = round(1000 * EVERY)
    frames = merged(shots)
    assert [milliseconds for _, milliseconds in frames] == [3 * step, LONGEST, LAST]
    assert [picture.getpixel((0, 0))[0] for picture, _ in frames] == [0, 90, 200]


@pytest.mark.parametrize("ending", [".webp", ".gif"])
def test_the_file_is_an_animation_that_repeats(tmp_path, ending):
    path = tmp_path / "shown" / f"operation{ending}"
    size, width = written(merged([plain(0), plain(90), plain(200)]), path)
    with Image.open(path) as shown:
        assert shown.n_frames == 3 and shown.width == width and shown.info["loop"] == 0
    assert path.stat().st_size == size


def test_a_file_that_stays_too_large_is_refused_and_not_written(tmp_path):
    with pytest.raises(CaseError, match="more than 10"):
        written(merged([plain(0), plain(200)]), tmp_path / "operation.webp", 10)
    assert not list(tmp_path.iterdir())
