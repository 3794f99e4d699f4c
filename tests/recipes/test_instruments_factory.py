"""Photographs with known values: the truth is where it says, the same seed is the same photograph."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.instruments import KINDS, STILL, Camera, Factory, make_set
from recipes.instruments.glyphs import SEGMENTS
from workflows.science.instruments.errors import TruthError
from workflows.science.instruments.truth import ReadingTruth


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_truth_within_the_photograph(kind):
    for seed in range(3):
        scene = Factory((kind,), empty_share=0.0).photograph(seed)
        assert scene.pixels.shape == (256, 256, 3)
        assert (len(scene.shown) == 0) == (kind == "none")
        for one in scene.shown:
            x0, y0, x1, y1 = one.box
            assert 0 <= x0 < x1 <= 256
            assert 0 <= y0 < y1 <= 256
            if one.characters:
                read = "".join(c.text for c in one.characters if c.text != one.unit)
                assert read == one.text
                assert one.value == float(one.text)


def test_the_same_seed_is_the_same_photograph():
    first, again, other = (Factory().photograph(seed) for seed in (5, 5, 6))
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_ink_lies_in_the_boxes_and_none_between_digits_and_edge(seed):
    scene = Factory(("seven-segment",), empty_share=0.0, camera=STILL).photograph(seed)
    for one in scene.shown:
        for character in one.characters:
            if character.text not in SEGMENTS:
                continue
            x0, y0, x1, y1 = (round(v) for v in character.box)
            inside = scene.pixels[y0:y1, x0:x1].astype(int)
            spread = inside.reshape(-1, 3).max(0) - inside.reshape(-1, 3).min(0)
            assert spread.max() > 60, (seed, one.text, character)


def test_a_camera_takes_the_boxes_along():
    factory = Factory(("seven-segment",), empty_share=0.0, most_lines=1, camera=STILL)
    still = factory.photograph(3)
    turned = Factory(
        ("seven-segment",),
        empty_share=0.0,
        most_lines=1,
        camera=Camera(turn=4, light=0, glare=0, blur=0, noise=0, jpeg=0),
    ).photograph(3)
    assert still.shown[0].text == turned.shown[0].text
    for before, after in zip(still.shown[0].characters, turned.shown[0].characters, strict=True):
        moved = np.abs(np.array(before.box) - np.array(after.box)).max()
        assert 0 < moved < 40


def test_a_set_on_disk(tmp_path):
    truth = make_set(tmp_path / "set", Factory(), 3, 7)
    assert ReadingTruth.read(tmp_path / "set") == truth
    assert [one.name for one in truth.photographs] == [f"photographs/000000{n}.jpg" for n in (7, 8, 9)]
    with pytest.raises(TruthError, match="not empty"):
        make_set(tmp_path / "set", Factory(), 3, 7)
    make_set(tmp_path / "set", Factory(), 3, 7, overwrite=True)
    (tmp_path / "set" / "truth.json").write_text(json.dumps({"photographs": 3}))
    with pytest.raises(TruthError, match=r"truth\.json"):
        ReadingTruth.read(tmp_path / "set")


@pytest.mark.parametrize("settings", [{"kinds": ("clock",)}, {"kinds": ()}, {"size": (8, 8)}, {"most_lines": 0}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(TruthError):
        Factory(**settings)
