"""Special stains keep their tissue; pen, borders and glass of any tint go; a doubtful mask says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from array_slide import ArraySlide

from wsi import TissueMask
from wsi.synthetic.overview import SyntheticOverview, SyntheticStroke, stained_overview
from wsi.tissue.detection import detect

HE = (((222, 160, 195), 0.65), ((130, 75, 155), 0.35))
TRICHROME = (((190, 71, 87), 0.6), ((70, 105, 190), 0.4))
PALE = ((222, 227, 235), 1.0)
STAINS: dict[str, Any] = {
    "trichrome blue 20 %": (((190, 71, 87), 0.8), ((70, 105, 190), 0.2)),
    "trichrome blue 40 %": TRICHROME,
    "trichrome green 60 %": (((195, 70, 80), 0.4), ((90, 175, 140), 0.6)),
    "Alcian blue 30 %": (((225, 181, 202), 0.7), ((107, 180, 216), 0.3)),
    "Alcian blue 100 %": (((107, 180, 216), 1.0),),
    "Sirius red": (((205, 41, 57), 0.6), ((243, 228, 150), 0.4)),
    "PAS": (((225, 150, 190), 0.6), ((190, 30, 120), 0.4)),
    "Giemsa": (((120, 130, 205), 0.6), ((70, 60, 150), 0.2), ((230, 160, 170), 0.2)),
    "DAB 40 %": (((222, 227, 235), 0.6), ((140, 90, 50), 0.4)),
    "silver": (((215, 200, 180), 0.7), ((45, 40, 38), 0.3)),
}
LINE = ((0.04, 0.12), (0.45, 0.05), (0.93, 0.14))
ACROSS = ((0.03, 0.25), (0.4, 0.55), (0.75, 0.45), (0.97, 0.9))
RING = ((0.3, 0.45), (0.4, 0.4), (0.46, 0.52), (0.38, 0.62), (0.29, 0.57))
SIZE = {"size": (560, 420)}


def _check(truth: SyntheticOverview, *, tissue: float = 0.95, pen: float = 0.8, false: float = 0.1) -> dict[str, Any]:
    mask, details = detect(truth.image, um_per_px=None)
    if truth.tissue.any():
        assert mask[truth.tissue].mean() >= tissue, details
    for artefact in (truth.pen, truth.border):
        if artefact.any():
            assert 1 - mask[artefact].mean() >= pen, details
    assert not truth.glass.any() or mask[truth.glass].mean() <= false, details
    return details


@pytest.mark.parametrize("name", STAINS)
@pytest.mark.parametrize("texture", [0.0, 0.3])
def test_a_stain_of_any_colour_is_tissue(name: str, texture: float) -> None:
    _check(stained_overview(21, STAINS[name], texture=texture, softness=4 * texture, **SIZE))


@pytest.mark.parametrize(
    ("ink", "points", "closed"),
    [
        ((30, 80, 190), LINE, False),
        ((20, 140, 60), ACROSS, False),
        ((215, 25, 45), LINE, False),
        ((24, 22, 28), RING, True),
        ((24, 22, 28), ACROSS, False),
    ],
)
def test_pen_goes_on_glass_and_over_tissue(ink: Any, points: Any, closed: bool) -> None:
    pen = [SyntheticStroke(ink, points, closed=closed)]
    _check(stained_overview(22, HE, pen=pen, texture=0.3, softness=1.5, **SIZE))


def test_pen_goes_beside_a_stain_of_another_colour() -> None:
    _check(stained_overview(23, TRICHROME, pen=[SyntheticStroke((20, 140, 60), ACROSS)], **SIZE))


def test_a_dark_patch_in_tissue_is_tissue_and_a_frame_is_not() -> None:
    _check(stained_overview(24, HE, dark_patch=(35, 28, 25), border=("frame",), **SIZE))


@pytest.mark.parametrize("border", ["frame", "edge", "corner", "unscanned", "coverslip", "dirt"])
@pytest.mark.parametrize("coverage", [0.0, 0.3])
def test_borders_go(border: str, coverage: float) -> None:
    _check(stained_overview(32, HE, border=(border,), coverage=coverage, texture=0.3, **SIZE))


@pytest.mark.parametrize("glass", [(228, 220, 190), (214, 196, 148), (182, 181, 180), (215, 222, 232), (140, 139, 138)])
def test_glass_of_any_tint_is_glass(glass: tuple[int, int, int]) -> None:
    stains = [(tuple(int(c * g / 240) for c, g in zip(rgb, glass, strict=True)), share) for rgb, share in HE]
    for coverage in (0.0, 0.3):
        _check(stained_overview(26, stains, glass=glass, coverage=coverage, texture=0.3, **SIZE))


@pytest.mark.parametrize("name", ["trichrome blue 40 %", "Alcian blue 100 %", "PAS"])
def test_tissue_from_edge_to_edge(name: str) -> None:
    mask, _ = detect(stained_overview(27, STAINS[name], coverage=1, texture=0.3, **SIZE).image, um_per_px=None)
    assert mask.mean() > 0.95


def test_dense_stain_does_not_move_the_mask_of_pale_tissue() -> None:
    found = []
    for stains in ((PALE,), ((PALE[0], 0.9), ((140, 90, 50), 0.1))):
        overview = stained_overview(28, stains, **SIZE)
        _check(overview)
        found.append(detect(overview.image, um_per_px=None)[0])
    assert (found[0] != found[1]).mean() < 0.01


def test_doubt_is_the_share_that_hangs_on_the_threshold() -> None:
    sure = TissueMask.from_slide(ArraySlide(stained_overview(29, HE, **SIZE).image))
    faint = stained_overview(29, (((233, 234, 238), 1.0),), texture=0.3, **SIZE)
    doubtful = TissueMask.from_slide(ArraySlide(faint.image))
    assert sure.details["on_threshold"] < 0.1
    assert doubtful.details["on_threshold"] > 0.3
    assert np.isfinite(doubtful.details["threshold"])
