"""Pigmented cells: where the boxes are, there is brown; elsewhere nothing has changed."""

from __future__ import annotations

import numpy as np
import pytest

from wsi.synthetic.tissue.pigment import plant_pigment


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_boxes_hold_what_was_planted(mpp):
    plain = np.full((200, 260, 3), 220, np.uint8)
    total = 0
    for seed in range(12):
        found = plant_pigment(plain, seed, mpp=mpp)
        assert np.array_equal(found.image, plant_pigment(plain, seed, mpp=mpp).image)
        changed = (found.image != plain).any(axis=2)
        inside = np.zeros_like(changed)
        for x0, y0, x1, y1 in found.boxes:
            assert 0 <= x0 < x1 <= 260
            assert 0 <= y0 < y1 <= 200
            assert 2 * 3.0 < max(x1 - x0, y1 - y0) * mpp < 2 * 8.0
            blur = int(np.ceil(3 / mpp * 0.25)) + 1
            inside[max(0, int(y0) - blur) : int(y1) + blur + 1, max(0, int(x0) - blur) : int(x1) + blur + 1] = True
            # All four sides are reached, to a px or two of antialiasing.
            part = (plain - found.image).max(axis=2)[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] > 8
            rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
            assert rows[0] <= 2
            assert columns[0] <= 2
            assert rows[-1] >= y1 - int(y0) - 3
            assert columns[-1] >= x1 - int(x0) - 3
        assert not (changed & ~inside).any()
        if len(found.boxes):
            brown = found.image[changed].astype(float).mean(0)
            assert brown[0] > brown[1] > brown[2]
        total += len(found.boxes)
    assert total > 12
    assert (plain == 220).all()  # the picture that was given is not touched


def test_some_pictures_have_none():
    plain = np.full((128, 128, 3), 220, np.uint8)
    counts = [len(plant_pigment(plain, seed).boxes) for seed in range(60)]
    assert 0 < counts.count(0) < 20
    assert max(counts) <= 6
