"""What files of other programs state of themselves, on real ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from wsi import Slide, UnknownMppError, open_slide

pytestmark = pytest.mark.real
CELLS = ("OS-1-detail", "OS-2-ndpi", "OS-2-vsi")


def whole(slide: Slide, mpp: tuple[float, float], target: float = 1.0) -> np.ndarray:
    """The whole slide at `target` um/px, if its scale were `mpp`."""
    size = (round(slide.width * mpp[0] / target), round(slide.height * mpp[1] / target))
    return slide.read_scaled(0, 0, slide.width, slide.height, size)


def density(image: np.ndarray) -> np.ndarray:
    return -np.log((image.astype(np.float32) + 1) / 256).mean(axis=2)


def same_field(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two fields after the shift that fits best."""
    height, width = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])
    a, b = a[:height, :width], b[:height, :width]
    (dx, dy), _ = cv2.phaseCorrelate(np.float32(a - a.mean()), np.float32(b - b.mean()))
    x, y = round(dx), round(dy)
    left = a[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    right = b[max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
    return float(np.corrcoef(left.ravel(), right.ravel())[0, 1])


def brown(image: np.ndarray) -> float:
    """Share of px that DAB colours."""
    values = image.astype(int)
    return float(((values[..., 0] - values[..., 2] > 30) & (values.mean(axis=2) < 180)).mean())


def test_one_field_of_two_scanners_is_one_field(real_data: Path) -> None:
    """0.227 and 0.346 um/px: the same cells at the same places, and as much DAB; not so with the other's scale."""
    folder = real_data / "slides" / "qupath_cells"
    with open_slide(folder / "OS-2-ndpi.ome.tif") as fine, open_slide(folder / "OS-2-vsi.ome.tif") as coarse:
        assert fine.mpp_xy == pytest.approx((0.2271, 0.2271), abs=1e-4)
        assert coarse.mpp_xy == pytest.approx((0.34605, 0.34605), abs=1e-4)
        assert fine.mpp_xy is not None
        assert coarse.mpp_xy is not None
        one, other = whole(fine, fine.mpp_xy), whole(coarse, coarse.mpp_xy)
        assert same_field(density(one), density(other)) > 0.9
        assert brown(one) == pytest.approx(brown(other), rel=0.05)
        planted = whole(coarse, fine.mpp_xy)
        assert same_field(density(one), density(planted)) < 0.5


@pytest.mark.parametrize("name", CELLS)
def test_glass_of_jpeg_ome_tiffs_is_neutral(real_data: Path, name: str) -> None:
    """The tag says RGB and the tiles are YCbCr: read as tifffile reads them, not salmon."""
    path = real_data / "slides" / "qupath_cells" / f"{name}.ome.tif"
    with open_slide(path) as slide:
        image = slide.read(0, 0, slide.width, slide.height)
    if name != "OS-1-detail":  # that one is tissue from edge to edge
        brightest = image[image.min(axis=2) >= np.percentile(image.min(axis=2), 99)]
        assert np.ptp(np.median(brightest, axis=0)) < 20
    with tifffile.TiffFile(path) as tif:
        peer = tif.pages.first.asarray()
    assert np.abs(image.astype(int) - peer).mean() < 1


def test_jpeg_2000_without_a_scale_asks_for_it(real_data: Path) -> None:
    with open_slide(real_data / "slides" / "tcga-cr-7395_aperio_jp2k33005.svs") as slide:
        assert [(of.width, of.height, of.downsample) for of in slide.levels] == [(4443, 3567, 1), (2221, 1783, 2)]
        assert (slide.mpp, slide.mpp_source) == (None, "unknown")
        with pytest.raises(UnknownMppError, match="--slide-mpp"):
            slide.require_mpp()
        assert slide.description.icc_profile is not None


def test_four_channels_are_named_and_reachable(real_data: Path) -> None:
    from wsi import Rendering

    path = real_data / "slides" / "ndev_neuron-4Ch.tiff"
    means = []
    for channel in range(4):
        with open_slide(path, rendering=Rendering.gray(channel, 0, 65535)) as slide:
            assert slide.layout.names == ("AF647", "AF568", "AF488", "DAPI")
            means.append(slide.read(0, 0, 64, 64).mean())
    with tifffile.TiffFile(path) as tif:
        stored = tif.series[0].asarray()[..., :64, :64]
    np.testing.assert_allclose(means, stored.reshape(4, -1).mean(axis=1) * 255 / 65535, atol=0.5)
