"""Slides and stacks that others made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import zarr

from wsi import Plane, PlaneError, ReadError, Rendering, open_slide

pytestmark = pytest.mark.real


def openslide_rgb(path: Path, x: int, y: int, width: int, height: int, level: int = 0) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((x, y), level, (width, height)))[..., :3]


@pytest.mark.parametrize(
    ("name", "reader", "size", "mpp", "levels", "associated"),
    [
        ("CMU-1-Small-Region.svs", "tiff", (2220, 2967), 0.499, 1, {"label", "macro", "thumbnail"}),
        ("her2st_C2_pyramid_jpeg.tif", "tiff", (9274, 9911), 0.69611, 6, set()),
        ("her2st_C2_pyramid.ome.tif", "tiff", (9274, 9911), 0.69611, 6, set()),
        ("test3-DAPI-2-387.ndpi", "openslide", (3968, 4864), 0.22818, 7, {"macro"}),
        ("li_yb10kx5k.zstd.tiff", "tiff", (10000, 5000), None, 5, set()),
        ("li_grey10kx5k.tif", "tiff", (10000, 5000), None, 1, set()),
        ("li_test_orient6.tif", "tiff", (180, 120), None, 3, set()),
        ("sm_image.dcm", "openslide", (50, 50), 0.499, 1, set()),
        ("openslide_boxes_0.dcm", "openslide", (16, 16), 0.499, 1, {"thumbnail"}),
        ("tiny_unreadable_tile.svs", "tiff", (16, 16), 0.499, 1, {"thumbnail"}),
        ("tiles/stardist_histo.jpg", "plain", (500, 300), None, 1, set()),
        ("tiles/skimage_ihc_FHL2.png", "plain", (512, 512), None, 1, set()),
        ("tiles/instanseg_HE_example.tif", "tiff", (1380, 1484), 0.50008, 1, set()),
    ],
)
def test_what_a_slide_says(
    real_data: Path, name: str, reader: str, size: tuple[int, int], mpp: float | None, levels: int, associated: set[str]
) -> None:
    with open_slide(real_data / "slides" / name) as slide:
        assert slide.reader == reader
        assert (slide.width, slide.height) == size
        assert slide.mpp == (pytest.approx(mpp, abs=1e-4) if mpp else None)
        assert len(slide.levels) == levels
        assert set(slide.associated) == associated


@pytest.mark.parametrize(
    ("name", "level", "region"),
    [
        ("CMU-1-Small-Region.svs", 0, (0, 0, 2220, 2967)),
        ("CMU-1-Small-Region.svs", 0, (333, 1111, 1024, 1024)),
        ("her2st_C2_pyramid_jpeg.tif", 0, (4000, 3000, 1500, 1000)),
        ("her2st_C2_pyramid_jpeg.tif", 0, (8000, 9000, 1274, 911)),
        ("her2st_C2_pyramid_jpeg.tif", 2, (0, 0, 2318, 2477)),
        ("her2st_C2_pyramid_jpeg.tif", 5, (0, 0, 289, 309)),
        ("test3-DAPI-2-387.ndpi", 0, (1000, 2000, 700, 600)),
        ("test3-DAPI-2-387.ndpi", 3, (0, 0, 496, 608)),
        ("li_yb10kx5k.zstd.tiff", 0, (900, 900, 1500, 1500)),
        ("sm_image.dcm", 0, (0, 0, 50, 50)),
    ],
)
def test_pixels_equal_openslide(real_data: Path, name: str, level: int, region: tuple[int, int, int, int]) -> None:
    path = real_data / "slides" / name
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(*region, level), openslide_rgb(path, *region, level))
        if (slide.levels[0].downsample, level) == (1, 0):
            x, y, w, h = region
            np.testing.assert_array_equal(slide.read_scaled(x, y, w, h, (w, h)), slide.read(x, y, w, h))


def test_aperio_associated_images_equal_openslide(real_data: Path) -> None:
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide, openslide.OpenSlide(path) as peer:
        for name in slide.associated:
            np.testing.assert_array_equal(
                slide.read_associated(name), np.asarray(peer.associated_images[name])[..., :3]
            )


def test_ome_tiff_and_tiff_pyramids_hold_the_same_pixels(real_data: Path) -> None:
    """The pyramid in SubIFDs, which OpenSlide does not see, and the one in pages."""
    with (
        open_slide(real_data / "slides" / "her2st_C2_pyramid.ome.tif") as one,
        open_slide(real_data / "slides" / "her2st_C2_pyramid_jpeg.tif") as other,
    ):
        assert one.levels == other.levels
        assert one.mpp_xy == pytest.approx(other.mpp_xy)
        for level, of in enumerate(one.levels[1:], 1):
            at = (0, 0, of.width, of.height, level)
            np.testing.assert_array_equal(one.read(*at), other.read(*at))
        np.testing.assert_array_equal(
            one.read_scaled(3000, 3000, 3000, 3000, (448, 448)), other.read_scaled(3000, 3000, 3000, 3000, (448, 448))
        )


def test_strips_that_openslide_refuses(real_data: Path) -> None:
    path = real_data / "slides" / "li_grey10kx5k.tif"
    with open_slide(path) as slide:
        assert slide.options["rendering"] == "0:gray:0-255"
        want = tifffile.imread(path)[2000:2500, 4000:4700]
        np.testing.assert_array_equal(slide.read(4000, 2000, 700, 500), np.repeat(want[..., None], 3, 2))


def test_orientation_six_is_turned_clockwise(real_data: Path) -> None:
    path = real_data / "slides" / "li_test_orient6.tif"
    with tifffile.TiffFile(path) as tif:
        stored = [page.asarray() for page in tif.pages]
    with open_slide(path) as slide:
        for level, (of, plain) in enumerate(zip(slide.levels, stored, strict=True)):
            want = np.rot90(plain, -1)
            assert (of.height, of.width) == want.shape
            np.testing.assert_array_equal(slide.read(0, 0, of.width, of.height, level)[..., 0], want)
        np.testing.assert_array_equal(slide.read(100, 30, 50, 40)[..., 1], np.rot90(stored[0], -1)[30:70, 100:150])


@pytest.mark.parametrize("reader", [None, "tiff", "openslide"])
def test_an_unreadable_tile_raises_every_time(real_data: Path, reader: str | None) -> None:
    with open_slide(real_data / "slides" / "tiny_unreadable_tile.svs", reader=reader) as slide:
        for _ in range(3):
            with pytest.raises(ReadError, match=r"tiny_unreadable_tile\.svs.*16x16"):
                slide.read(0, 0, 16, 16)


def test_a_folder_of_dicom_files_is_a_slide(real_data: Path, tmp_path: Path) -> None:
    for name in ("openslide_boxes_0.dcm", "openslide_boxes_1.dcm"):
        (tmp_path / name).write_bytes((real_data / "slides" / name).read_bytes())
    (tmp_path / "a.dcm").write_text("not DICOM")
    with open_slide(tmp_path) as slide, open_slide(tmp_path / "openslide_boxes_0.dcm") as same:
        assert slide.fingerprint == same.fingerprint
        np.testing.assert_array_equal(slide.read(0, 0, 16, 16), same.read(0, 0, 16, 16))


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("4D-series.ome.tiff", "tzyx"),
        ("multi-channel-z-series.ome.tif", "czyx"),
        ("mito_tyx.tiff", "tyx"),
        ("stardist_img3d.tif", "zyx"),
        ("multi_tzcyx.tiff", "tzcyx"),
        ("zcyx.tiff", "zcyx"),
    ],
)
def test_every_plane_of_tiff_stacks(real_data: Path, name: str, axes: str) -> None:
    path = real_data / "microscopy" / name
    values = tifffile.imread(path)
    low, high = float(values.min()), float(values.max())
    with pytest.raises(PlaneError, match="--plane"):
        open_slide(path)
    length = dict(zip(axes, values.shape, strict=True))
    at = {"y": slice(None), "x": slice(None)}
    for at["t"] in range(length.get("t", 1)):
        for at["z"] in range(length.get("z", 1)):
            for at["c"] in range(length.get("c", 1)):
                rendering = Rendering.gray(at["c"], low, high)
                with open_slide(path, plane=Plane(at["t"], at["z"]), rendering=rendering) as slide:
                    want = values[tuple(at[axis] for axis in axes)].astype(float)
                    got = slide.read(0, 0, slide.width, slide.height)[..., 0]
                np.testing.assert_allclose(got, (want - low) / (high - low) * 255, atol=0.51)


def test_plane_numbers_written_in_an_ome_series(real_data: Path) -> None:
    """Each plane of this series shows its own number; neighbours must differ."""
    path = real_data / "microscopy" / "4D-series.ome.tiff"
    seen = []
    for t in range(7):
        for z in range(5):
            with open_slide(path, plane=Plane(t, z), rendering=Rendering.gray(0, -1, 96)) as slide:
                seen.append(slide.read(0, 0, slide.width, slide.height).tobytes())
    assert len(set(seen)) == 35


@pytest.mark.parametrize(("name", "mpp"), [("multi_tzcyx.tiff", 1 / 8.04878), ("zcyx.tiff", 1 / 2.295473)])
def test_imagej_scale(real_data: Path, name: str, mpp: float) -> None:
    with open_slide(
        real_data / "microscopy" / name, plane=Plane(), rendering=Rendering.parse("0:magenta:auto,1:green:auto")
    ) as slide:
        assert slide.mpp == pytest.approx(mpp)


def test_ngff_depth_stack(real_data: Path) -> None:
    path = real_data / "microscopy" / "xyz_8bit__mitotic_plate_calibrated.ome.zarr"
    stored = zarr.open_array(str(path / "0" / "0"), mode="r")
    with pytest.raises(PlaneError, match="6 z planes"):
        open_slide(path)
    for z in range(6):
        with open_slide(path, plane=Plane(z=z)) as slide:
            assert slide.mpp == pytest.approx(0.08519643)
            assert slide.levels[1].downsample == 2
            np.testing.assert_array_equal(slide.read(0, 0, slide.width, slide.height)[..., 2], stored[0, 0, z])


def test_ngff_of_version_five(real_data: Path) -> None:
    path = real_data / "microscopy" / "random_cyx_v05.zarr"
    stored = np.asarray(zarr.open_array(str(path / "0"), mode="r"))
    with open_slide(path, rendering=Rendering.rgb()) as slide:
        assert slide.mpp is None
        np.testing.assert_array_equal(slide.read(0, 0, 20, 16), np.moveaxis(stored, 0, -1))
