"""Slides as napari layers: lazy, at the right scale, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from napari_qwenvl.readers import get_slide_reader, read_slide
from wsi import open_slide
from wsi.synthetic import Scene, write_slide


@pytest.fixture(scope="module")
def svs(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "small.svs"
    write_slide(path, Scene(200, 160, seed=5), mpp=0.25, downsamples=(1, 4))
    return path


def test_a_slide_becomes_one_lazy_layer_in_um(svs):
    reader = get_slide_reader(str(svs))
    assert reader is not None
    [(levels, options, kind)] = reader(str(svs))
    assert kind == "image"
    assert [level.shape for level in levels] == [(640, 800, 3), (160, 200, 3)]
    assert options["scale"] == (0.25, 0.25)
    assert options["units"] == ("um", "um")
    with open_slide(svs) as slide:
        whole = slide.read(0, 0, 800, 640)
        coarse = slide.read(0, 0, 200, 160, 1)
    assert np.array_equal(levels[0][100:300, 50:80], whole[100:300, 50:80])
    assert np.array_equal(levels[0][600:9999, -10:, 1], whole[600:, -10:, 1])
    assert np.array_equal(levels[0][5, 7], whole[5, 7])
    assert np.array_equal(levels[0][::7, ::5], whole[::7, ::5])
    assert levels[0][10:10, :].shape == (0, 800, 3)
    assert np.array_equal(np.asarray(levels[1]), coarse)


def test_plain_pictures_and_other_files_are_left_to_napari(tmp_path):
    picture = tmp_path / "small.tif"
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(picture)
    text = tmp_path / "text.svs"
    text.write_text("no slide")
    assert get_slide_reader(str(picture)) is None
    assert get_slide_reader(str(text)) is None
    assert get_slide_reader(str(tmp_path / "missing.svs")) is None
    assert get_slide_reader([str(picture)]) is None


def test_errors_reach_the_user(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.svs"):
        read_slide(str(tmp_path / "missing.svs"))
