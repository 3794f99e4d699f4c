"""Pixel measures: planted folds, pen and blur are found, and clean tissue is left alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from wsi import TissueMask, open_slide
from wsi.grid import TileGrid
from wsi.pixels.quality import QualityReference, quality_reference, tile_quality
from wsi.synthetic import SlideFactory

FACTORY = SlideFactory(width_px=2560, height_px=2560)
SEEDS = (15, 22)
TILE = 224


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float64]]:
    """Every tile of two slides: measures, and the share of its px under each planted artefact."""
    folder = tmp_path_factory.mktemp("quality")
    rows = []
    for seed in SEEDS:
        path = FACTORY.write(folder / f"{seed}.svs", seed, truth=False).path
        layout = FACTORY.scene(seed).world.layout
        with open_slide(path) as slide:
            reference = quality_reference(slide, TissueMask.from_slide(slide))
            for tile in TileGrid.from_slide(slide, tile_size=TILE, overlap=TILE // 2, mpp=0.25):
                found = tile_quality(slide.read(tile.x0, tile.y0, TILE, TILE), 0.25, reference)
                at = (np.arange(16) + 0.5) / 16 * TILE * 0.25
                x, y = (axis.ravel() for axis in np.meshgrid(tile.x0 * 0.25 + at, tile.y0 * 0.25 + at))
                planted = [(layout.artefact_at(name, x, y) > 0.5).mean() for name in ("fold", "pen mark", "blur")]
                rows.append((found.tissue, found.focus, found.pen, found.fold, found.saturation, *planted))
    names = ("tissue", "focus", "pen", "fold", "saturation", "is_fold", "is_pen", "is_blur")
    return dict(zip(names, np.array(rows, float).T, strict=True))


@pytest.mark.parametrize(
    ("measure", "truth", "limit", "sign", "covered", "recall", "precision"),
    [
        ("fold", "is_fold", 0.15, 1, 0.25, 0.5, 0.85),
        ("pen", "is_pen", 0.1, 1, 0.2, 0.75, 0.95),
        ("focus", "is_blur", 0.37, -1, 0.8, 0.8, 0.85),
    ],
)
def test_planted_artefacts_are_found(
    measured: dict[str, NDArray[np.float64]],
    measure: str,
    truth: str,
    limit: float,
    sign: int,
    covered: float,
    recall: float,
    precision: float,
) -> None:
    share, value = measured[truth], sign * measured[measure]
    known = np.isfinite(value) & ((measured["tissue"] > 0.5) | (measure == "pen"))
    if measure == "focus":
        known &= (measured["is_pen"] == 0) & (measured["is_fold"] == 0)
    flagged = known & (value > sign * limit)
    planted, clean = known & (share >= covered), known & (share == 0)
    assert planted.sum() >= 10
    assert clean.sum() >= 30
    assert flagged[planted].mean() >= recall
    assert (flagged & ~clean).sum() / max(1, flagged.sum()) >= precision
    assert flagged[clean].mean() <= 0.03


def test_clean_tissue_is_not_clipped(measured: dict[str, NDArray[np.float64]]) -> None:
    assert np.nanmax(measured["saturation"]) < 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_focus_falls_with_blur_and_does_not_know_the_stain(seed: int) -> None:
    scene = SlideFactory(1024, 1024, artefacts=()).scene(seed)
    picture = scene.render(80, 80, 256, 256, 0.25)
    usual = QualityReference(float("nan"), True)
    sharp = tile_quality(picture, 0.25, usual).focus
    values = [tile_quality(cv2.GaussianBlur(picture, (0, 0), um / 0.25), 0.25, usual).focus for um in (0.4, 0.8, 1.6)]
    assert sharp > 0.4
    assert [sharp, *values] == sorted([sharp, *values], reverse=True)
    assert values[-1] < 0.37
    pale = (255 - (255 - picture.astype(float)) * 0.5).round().astype(np.uint8)
    assert tile_quality(pale, 0.25, usual).focus == pytest.approx(sharp, rel=0.25)
    half = picture.copy()
    half[:, :200] = cv2.GaussianBlur(picture, (0, 0), 8)[:, :200]
    assert tile_quality(half, 0.25, usual).focus < 0.37, "out of focus for the most part"


def test_what_cannot_be_measured_is_nan() -> None:
    usual = QualityReference(float("nan"), True)
    noise = np.random.default_rng(0).integers(90, 200, (128, 128, 3), np.uint8)
    coarse = tile_quality(noise, 1.0, usual)
    assert np.isnan(coarse.focus)
    assert np.isnan(coarse.fold)
    unknown = tile_quality(noise, None, usual)
    assert [np.isnan(v) for v in (unknown.tissue, unknown.focus, unknown.pen, unknown.fold)] == [True] * 4
    glass = tile_quality(np.full((128, 128, 3), 243, np.uint8), 0.25, usual)
    assert (glass.tissue, glass.pen, glass.saturation) == (0.0, 0.0, 0.0)
    assert np.isnan(glass.focus)
    clipped = np.full((64, 64, 3), 120, np.uint8)
    clipped[:32] = 0
    assert tile_quality(clipped, 0.25, usual).saturation == pytest.approx(0.5, abs=0.01)


def test_fluorescence_has_neither_pen_nor_folds() -> None:
    spots = np.zeros((128, 128, 3), np.uint8)
    spots[30:60, 30:60, 2] = 200
    found = tile_quality(spots, 0.25, QualityReference(float("nan"), False))
    assert (found.pen, found.fold) == (0.0, 0.0)
    assert 0 < found.tissue < 0.5


@pytest.mark.real
def test_real_slides_are_mostly_fit(real_data: Path) -> None:
    """Looked at: what is flagged on the first is folded keratin; the second has neither folds nor pen."""
    for name, mpp, most in (("CMU-1-Small-Region.svs", None, 0.12), ("her2st_C2_pyramid_jpeg.tif", 0.68, 0.05)):
        with open_slide(real_data / "slides" / name, mpp=mpp) as slide:
            mask = TissueMask.from_slide(slide)
            reference = quality_reference(slide, mask)
            scale = slide.mpp
            assert scale is not None
            grid = TileGrid.from_slide(slide, tile_size=256, mpp=None, mask=mask)
            found = [tile_quality(slide.read(t.x0, t.y0, 256, 256), scale, reference) for t in list(grid)[::3]]
        focus = np.array([each.focus for each in found])
        assert (focus[np.isfinite(focus)] < 0.37).mean() <= 0.02, name
        assert np.mean([each.pen > 0.1 for each in found]) <= 0.02, name
        assert np.mean([each.fold > 0.15 for each in found]) <= most, name
