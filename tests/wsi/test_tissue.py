"""Tissue is found where it was planted: pale, dark, tinted, pen-marked, bordered and fluorescent pictures."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from array_slide import ArraySlide, blank
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi import TileGrid, TissueMask, open_slide
from wsi.errors import MaskError
from wsi.tile import Tile

SIDE = 700
Picture = np.ndarray


def _planted(
    stain: tuple[int, int, int] = (214, 150, 190), glass: tuple[int, int, int] = (241, 240, 242), noise: float = 2.0
) -> tuple[Picture, Picture]:
    """An ellipse of tissue with nuclei and grain on glass, and where it is."""
    rng = np.random.default_rng(5)
    truth = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(truth, (330, 360), (210, 150), 25, 0, 360, 1, -1)
    picture = blank(SIDE, SIDE, glass).astype(float)
    inside = truth.astype(bool)
    # stroma and nuclei differ in density, not in colour
    texture = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 3)
    strength = (1 + 2.5 * texture / np.abs(texture).max()).clip(0.4)[inside][:, None]
    absorbed = np.log((np.array(glass) + 1) / (np.array(stain) + 1))
    picture[inside] = (np.array(glass) + 1) * np.exp(-absorbed * strength) - 1
    picture += rng.normal(0, noise, picture.shape)
    return picture.clip(0, 255).astype(np.uint8), inside


def _line(colour: tuple[int, int, int]) -> Callable[[Picture], Picture]:
    def draw(picture: Picture) -> Picture:
        return cv2.polylines(picture, [np.array([[40, 60], [320, 30], [660, 90], [650, 640]])], False, colour, 12)

    return draw


def _frame(picture: Picture) -> Picture:
    picture[:, :50] = 8
    picture[:40] = (30, 28, 33)
    return picture


def _unscanned(picture: Picture) -> Picture:
    picture[:, 600:] = 255
    return picture


def _uneven(picture: Picture) -> Picture:
    """Light that falls off by 4 % towards the corner, and a stitching pattern of 1 %."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    light = 1 - 0.04 * np.hypot(x, y) / 1.41 - 0.01 * ((np.mgrid[:SIDE, :SIDE][1] // 60) % 2)
    return (picture * light[..., None]).astype(np.uint8)


def _same(picture: Picture) -> Picture:
    return picture


CASES = {
    "ordinary": ({}, _same),
    "pale": ({"stain": (233, 218, 231)}, _same),
    "dark stain": ({"stain": (90, 40, 110)}, _same),
    "dim glass": ({"glass": (168, 166, 167), "stain": (150, 100, 135)}, _same),
    "tinted glass": ({"glass": (236, 219, 235), "stain": (205, 140, 195)}, _same),
    "brown immunostain": ({"stain": (190, 150, 110)}, _same),
    "noisy": ({"noise": 5.0}, _same),
    "uneven light": ({}, _uneven),
    "green pen": ({}, _line((20, 140, 60))),
    "blue pen": ({}, _line((30, 80, 190))),
    "red pen": ({}, _line((220, 30, 40))),
    "black pen": ({}, _line((25, 25, 30))),
    "black border": ({}, _frame),
    "unscanned white": ({"glass": (236, 235, 237)}, _unscanned),
}


@pytest.mark.parametrize("mpp", [None, 8.0])
@pytest.mark.parametrize("case", CASES)
def test_planted_tissue_is_found(case: str, mpp: float | None) -> None:
    arguments, change = CASES[case]
    picture, truth = _planted(**arguments)
    mask = TissueMask.from_slide(ArraySlide(change(picture), mpp))
    found = cv2.resize(mask.array.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST).astype(bool)
    assert (found & truth).sum() / truth.sum() > 0.97, mask.details
    assert (found & truth).sum() / found.sum() > 0.93, mask.details


def test_fluorescence_is_bright_on_black() -> None:
    picture, truth = _planted()
    rng = np.random.default_rng(0)
    glow = np.zeros_like(picture)
    glow[..., 2] = (np.where(truth, 60 + 80 * rng.random(truth.shape), 6) + rng.normal(0, 2, truth.shape)).clip(0)
    mask = TissueMask.from_slide(ArraySlide(glow, None))
    assert mask.details["background"] == "fluorescence"
    assert mask.fraction == pytest.approx(truth.mean(), rel=0.05)


@pytest.mark.parametrize("colour", [(244, 243, 245), (255, 255, 255), (180, 180, 180), (0, 0, 0)])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_an_empty_slide_has_no_tissue_and_the_grid_says_what_to_do(colour: tuple[int, int, int], noise: float) -> None:
    picture = blank(900, 600, colour) + np.random.default_rng(1).normal(0, noise, (600, 900, 3))
    slide = ArraySlide(picture.clip(0, 255).astype(np.uint8))
    mask = TissueMask.from_slide(slide)
    assert mask.fraction == 0
    with pytest.raises(MaskError, match="--mask all"):
        TileGrid.from_slide(slide, tile_size=224, mask=mask)


def test_tissue_from_edge_to_edge_is_all_tissue() -> None:
    rng = np.random.default_rng(2)
    grain = cv2.GaussianBlur(rng.normal(size=(600, 600, 1)), (0, 0), 2)[..., None]
    picture = (np.array([196, 132, 178]) + 120 * grain).clip(0, 255).astype(np.uint8)
    assert TissueMask.from_slide(ArraySlide(picture)).fraction > 0.99


def test_a_stain_of_pen_colour_is_kept() -> None:
    picture, truth = _planted(stain=(60, 150, 130))
    mask = TissueMask.from_slide(ArraySlide(picture))
    assert mask.details["pen"] == {}
    assert mask.fraction == pytest.approx(truth.mean(), rel=0.12)


def test_holes_are_filled_and_specks_dropped_but_scattered_cells_stay() -> None:
    picture, _ = _planted()
    cv2.circle(picture, (330, 360), 4, (241, 240, 242), -1)
    cv2.circle(picture, (650, 40), 1, (150, 90, 150), -1)
    mask = TissueMask.from_slide(ArraySlide(picture, 8.0))
    assert mask.array[int(360 / SIDE * mask.array.shape[0]), int(330 / SIDE * mask.array.shape[1])]
    assert not mask.array[: mask.array.shape[0] // 8].any()
    cells = blank(SIDE, SIDE)
    for x in range(30, SIDE, 60):
        for y in range(30, SIDE, 60):
            cv2.circle(cells, (x, y), 4, (150, 90, 150), -1)
    assert TissueMask.from_slide(ArraySlide(cells, 8.0)).fraction == pytest.approx(0.02, rel=0.5)


def test_a_large_single_level_slide_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, _ = _planted()
    whole = TissueMask.from_slide(ArraySlide(picture))
    monkeypatch.setattr("wsi.tissue.mask._BLOCK_PX", 40_000)
    assert (TissueMask.from_slide(ArraySlide(picture)).array != whole.array).mean() < 0.002


def test_all_and_array_masks() -> None:
    slide = ArraySlide(blank(400, 200))
    for mask in (TissueMask.everything(slide), TissueMask.from_slide(slide, method="all")):
        assert (mask.fraction, mask.area_px0) == (1.0, 80_000)
    half = TissueMask.from_array(np.array([[1, 0], [1, 0]]), slide)
    assert half.area_mm2(0.5) == pytest.approx(40_000 * 0.25e-6)
    assert half.coverage(Tile(0, 150, 0, 100, 100, 100, 100)) == pytest.approx(0.5)
    with pytest.raises(MaskError, match="two axes"):
        TissueMask.from_array(np.ones((2, 2, 3)), slide)
    with pytest.raises(MaskError, match="auto, brightfield"):
        TissueMask.from_slide(slide, method="otsu")


def test_a_mask_is_frozen_and_pickles() -> None:
    mask = TissueMask.from_array(np.eye(3), ArraySlide(blank(30, 30)))
    again = pickle.loads(pickle.dumps(mask))
    assert (again.array == mask.array).all()
    assert again.describe() == mask.describe()
    with pytest.raises(ValueError, match="read-only"):
        mask.array[0, 0] = False


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_coverage_is_the_share_of_level0_px(data: st.DataObject) -> None:
    shape = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    step = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    array = np.array(data.draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])))
    mask = TissueMask(array.reshape(shape), (float(step[0]), float(step[1])))
    full = np.kron(mask.array, np.ones((step[1], step[0])))
    x = sorted(data.draw(st.lists(st.integers(0, full.shape[1]), min_size=2, max_size=2, unique=True)))
    y = sorted(data.draw(st.lists(st.integers(0, full.shape[0]), min_size=2, max_size=2, unique=True)))
    expected = full[y[0] : y[1], x[0] : x[1]].mean()
    assert mask.coverage([[x[0], y[0], x[1], y[1]]])[0] == pytest.approx(expected, abs=1e-12)
    assert mask.coverage_grid(x[:1], x[1:], y[:1], y[1:])[0, 0] == pytest.approx(expected, abs=1e-9)
    assert mask.touched_grid(x[:1], x[1:], y[:1], y[1:])[0, 0] == (expected > 0)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("CMU-1-Small-Region.svs", 0.33, 0.48),
        ("her2st_C2_pyramid_jpeg.tif", 0.15, 0.2),
        ("test3-DAPI-2-387.ndpi", 0.25, 0.75),
    ],
)
def test_real_slides(real_data: Path, name: str, least: float, most: float) -> None:
    with open_slide(real_data / "slides" / name) as slide:
        mask = TissueMask.from_slide(slide)
    assert least < mask.fraction < most, mask.describe()
