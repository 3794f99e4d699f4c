"""The image of a tile, and errors that name it."""

from __future__ import annotations

import numpy as np
import pytest
from array_slide import ArraySlide

from wsi import Tile, read_tile
from wsi.errors import ReadError, RegionError


def slide_of(**options: object) -> ArraySlide:
    y, x = np.mgrid[:128, :128]
    return ArraySlide(np.stack([x, y, x + y], -1).astype(np.uint8), name="a", **options)


def test_the_image_of_a_tile() -> None:
    image = read_tile(slide_of(), Tile(0, 32, 16, 8, 4, 8, 4))
    assert image.shape == (4, 8, 3)
    assert image[1, 2].tolist() == [34, 17, 51]


def test_a_read_error_stays_what_it_is() -> None:
    with pytest.raises(ReadError, match="a"):
        read_tile(slide_of(broken=(20, 20, 40, 40)), Tile(3, 16, 16, 16, 16, 16, 16))


def test_any_other_failure_becomes_a_read_error_that_names_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = slide_of()
    monkeypatch.setattr(slide, "_read", lambda *_: 1 / 0)
    with pytest.raises(ReadError, match=r"Tile 1 at \(16, 0\) of a.*ZeroDivisionError"):
        read_tile(slide, Tile(1, 16, 0, 16, 16, 16, 16))


def test_a_tile_outside_the_slide_is_an_error() -> None:
    with pytest.raises(RegionError):
        read_tile(slide_of(), Tile(0, 120, 0, 16, 16, 16, 16))
