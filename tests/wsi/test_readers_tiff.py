"""TIFF tiles decoded directly: the same bits as OpenSlide and as the writer's own array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from slide_files import halved, jpeg_tiles, tissue, write_pyramid, write_svs

from wsi import ReadError, UnsupportedSlideError, open_slide

PICTURE = tissue(700, 500)
REGIONS = [
    (0, 0, 700, 500),
    (128, 128, 128, 128),
    (1, 2, 3, 4),
    (128, 0, 512, 384),
    (127, 255, 130, 2),
    (699, 499, 1, 1),
    (570, 370, 130, 130),
]


def openslide_rgb(path: Path, level: int = 0) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., :3]


@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
@pytest.mark.parametrize("region", REGIONS)
def test_svs_tiles_equal_openslide(tmp_path: Path, photometric: str, region: tuple[int, int, int, int]) -> None:
    path = write_svs(tmp_path / "a.svs", PICTURE, photometric=photometric)
    x, y, w, h = region
    with open_slide(path) as slide:
        assert slide.reader == "tiff"
        for _ in range(2):  # the second time from what was kept
            np.testing.assert_array_equal(slide.read(x, y, w, h), openslide_rgb(path)[y : y + h, x : x + w])


def test_svs_levels_and_images_are_those_of_openslide(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", PICTURE, factors=(1, 2, 4))
    with open_slide(path) as slide, openslide.OpenSlide(path) as peer:
        assert [(of.width, of.height) for of in slide.levels] == list(peer.level_dimensions)
        assert [of.downsample for of in slide.levels] == [1, 2, 4]
        for level, of in enumerate(slide.levels):
            np.testing.assert_array_equal(slide.read(0, 0, of.width, of.height, level), openslide_rgb(path, level))
        assert set(slide.associated) == {"label", "macro", "thumbnail"} == set(peer.associated_images)
        for name in slide.associated:
            np.testing.assert_array_equal(
                slide.read_associated(name), np.asarray(peer.associated_images[name])[..., :3]
            )
        assert slide.properties["aperio.AppMag"] == "20"
        with pytest.raises(KeyError):
            slide.read_associated("nothing")


def test_jpeg_tables_and_adobe_markers(tmp_path: Path) -> None:
    """Tables in their own tag; a marker that contradicts the tag: the tag decides, as in OpenSlide."""
    shared = write_pyramid(
        tmp_path / "tables.tif", PICTURE, in_subifds=False, compression="jpeg", compressionargs={"level": 80}
    )
    with open_slide(shared) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 700, 500), openslide_rgb(shared))
    tile = jpeg_tiles(PICTURE[:128, :128], 128, "RGB", "444")[0]
    for marker in (b"", b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"):
        body = tile.replace(b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00", b"", 1)
        code = body[:2] + marker + body[2:]
        path = write_svs(tmp_path / "m.svs", PICTURE[:128, :128], photometric="rgb", factors=(1,), codes={0: [code]})
        with open_slide(path) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 128, 128), openslide_rgb(path))


@pytest.mark.parametrize(("in_subifds", "ome"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("compression", [None, "zstd", "lzw", "deflate", "jpeg2000"])
def test_lossless_pyramids(tmp_path: Path, in_subifds: bool, ome: bool, compression: str | None) -> None:
    options = {"compressionargs": {"reversible": True}} if compression == "jpeg2000" else {}
    name = "a.ome.tif" if ome else "a.tif"
    path = write_pyramid(tmp_path / name, PICTURE, in_subifds=in_subifds, ome=ome, compression=compression, **options)
    with open_slide(path) as slide:
        assert [of.downsample for of in slide.levels] == [1, 2, 4]
        assert slide.mpp_xy == ((0.5, 0.25) if ome else None)
        for level, factor in enumerate((1, 2, 4)):
            want = PICTURE if factor == 1 else halved(PICTURE, factor)
            np.testing.assert_array_equal(slide.read(0, 0, want.shape[1], want.shape[0], level), want)


@pytest.mark.parametrize(
    "options",
    [
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, "compression": "lzw", "predictor": 2},
        {"rowsperstrip": 500, "compression": "deflate"},
        {"byteorder": ">", "rowsperstrip": 13},
        {"bigtiff": True, "rowsperstrip": 64},
        {"planarconfig": "separate", "compression": "deflate", "rowsperstrip": 50},
        {"planarconfig": "separate", "tile": (64, 64)},
    ],
)
def test_strips_and_separate_samples(tmp_path: Path, options: dict) -> None:
    file_options = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
    picture = np.moveaxis(PICTURE, -1, 0) if "planarconfig" in options else PICTURE
    with tifffile.TiffWriter(tmp_path / "a.tif", **file_options) as tif:
        tif.write(picture, photometric="rgb", metadata=None, **options)
    options.update(file_options)
    with open_slide(tmp_path / "a.tif") as slide:
        for x, y, w, h in REGIONS:
            np.testing.assert_array_equal(slide.read(x, y, w, h), PICTURE[y : y + h, x : x + w])


def test_gray_palette_inverted_and_bilevel(tmp_path: Path) -> None:
    gray = PICTURE[..., 1]
    colors = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    bits = gray > 128
    cases = {
        "gray": (gray, {}, np.repeat(gray[..., None], 3, 2)),
        "tiles": (gray, {"tile": (64, 64), "compression": "zstd"}, np.repeat(gray[..., None], 3, 2)),
        "inverted": (gray, {"photometric": "miniswhite"}, np.repeat(255 - gray[..., None], 3, 2)),
        "palette": (gray, {"photometric": "palette", "colormap": colors}, (colors >> 8).astype(np.uint8).T[gray]),
        "bits": (bits, {"photometric": "minisblack"}, np.repeat(bits[..., None] * np.uint8(255), 3, 2)),
    }
    for name, (stored, options, want) in cases.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", stored, metadata=None, **options)
        with open_slide(tmp_path / f"{name}.tif") as slide:
            np.testing.assert_array_equal(slide.read(3, 5, 200, 100), want[5:105, 3:203], err_msg=name)


def test_alpha_is_shown_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:16, :, 3] = 255
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        pixels = slide.read(0, 0, 32, 32)
    assert pixels[:16].max() == 0
    assert pixels[16:].min() == 255


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        ((20000, 20000), "CENTIMETER", (0.5, 0.5)),
        ((40000, 20000), "CENTIMETER", (0.25, 0.5)),
        ((28.34, 28.34), "CENTIMETER", None),  # 72 dpi
        ((118.11, 118.11), "CENTIMETER", None),  # 300 dpi
        ((50800, 50800), "INCH", None),
        ((72, 72), "INCH", None),
        ((1, 1), "NONE", None),
    ],
)
def test_resolution_tags_count_only_when_a_microscope_could_have_set_them(
    tmp_path: Path, resolution: tuple[float, float], unit: str, mpp: tuple[float, float] | None
) -> None:
    path = write_pyramid(tmp_path / "a.tif", PICTURE, in_subifds=False, resolution=resolution, resolutionunit=unit)
    with open_slide(path) as slide:
        assert slide.mpp_xy == (pytest.approx(mpp) if mpp else None)
        assert slide.mpp_source == ("file" if mpp else "unknown")
    with open_slide(path, reader="openslide") as slide:
        assert slide.mpp_xy == (pytest.approx(mpp) if mpp else None)


@pytest.mark.parametrize(("unit", "factor"), [("µm", 1), ("nm", 1e-3), ("mm", 1e3), ("pixel", None)])
def test_ome_units(tmp_path: Path, unit: str, factor: float | None) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": unit}
    metadata |= {"PhysicalSizeY": 0.75, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", PICTURE, photometric="rgb", metadata=metadata, tile=(64, 64))
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp_xy == (pytest.approx((0.5 * factor, 0.75 * factor)) if factor else None)


def turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """The stored picture upright, in the words of TIFF 6.0: where row 0 and column 0 are seen."""
    steps = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    return steps[orientation](picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    path = write_pyramid(
        tmp_path / "a.tif",
        PICTURE,
        in_subifds=False,
        extratags=[(274, "H", 1, orientation, True)],
        resolution=(20000, 40000),
        resolutionunit="CENTIMETER",
    )
    want = turned(PICTURE, orientation)
    with open_slide(path) as slide:
        assert (slide.height, slide.width) == want.shape[:2]
        assert slide.mpp_xy == pytest.approx((0.25, 0.5) if orientation > 4 else (0.5, 0.25))
        for x, y, w, h in [(0, 0, slide.width, slide.height), (13, 200, 150, 77), (slide.width - 5, 0, 5, 9)]:
            np.testing.assert_array_equal(slide.read(x, y, w, h), want[y : y + h, x : x + w])
        small = turned(halved(PICTURE, 2), orientation)
        np.testing.assert_array_equal(slide.read(20, 40, 60, 50, level=1), small[20:70, 10:70])


def test_damaged_tiles_raise_and_spare_the_others(tmp_path: Path) -> None:
    good = jpeg_tiles(PICTURE, 128)
    damages = {
        "zeros": bytes(len(good[0])),
        "cut": good[0][: len(good[0]) // 2],
        "garbled": good[0][:900] + b"\xff\x00" * 200 + good[0][1300:],
        "wrong size": jpeg_tiles(PICTURE[:64, :64], 64)[0],
    }
    for name, bad in damages.items():
        path = write_svs(tmp_path / "bad.svs", PICTURE, factors=(1,), codes={0: [bad, *good[1:]]})
        with open_slide(path) as slide:
            with pytest.raises(ReadError, match=r"bad\.svs.*100x90 at \(20, 10\)"):
                slide.read(20, 10, 100, 90)
            assert slide.read(128, 0, 128, 128).shape == (128, 128, 3), name
            with pytest.raises(ReadError):
                slide.read_scaled(0, 0, 256, 256, (128, 128))


def test_cut_files_are_refused(tmp_path: Path) -> None:
    whole = write_svs(tmp_path / "whole.svs", PICTURE).read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9, 0.999):
        path = tmp_path / "cut.svs"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UnsupportedSlideError, match="cut"):
            open_slide(path)


def test_a_file_cut_while_open_raises(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", PICTURE, factors=(1,), associated=False)
    with open_slide(path) as slide:
        with path.open("r+b") as stream:
            stream.truncate(3000)
        with pytest.raises(ReadError):
            slide.read(0, 0, 700, 500)


def test_empty_tiles_go_to_openslide(tmp_path: Path) -> None:
    """A tile of length zero: OpenSlide knows what the vendor means by it."""
    tiles = jpeg_tiles(PICTURE, 128)
    path = write_svs(tmp_path / "a.svs", PICTURE, factors=(1,), codes={0: [*tiles[:7], b"", *tiles[8:]]})
    with open_slide(path) as slide:
        assert slide.reader == "openslide"
        assert slide.properties["reader.reason"].startswith("tiles without data")
        np.testing.assert_array_equal(slide.read(0, 0, 100, 100), openslide_rgb(path)[:100, :100])
        assert slide.read(140, 140, 20, 20).min() == 255


def test_whole_px_blocks_are_averaged_as_one_resampling(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", tissue(1024, 768), factors=(1,))
    with open_slide(path) as slide:
        for factor in (2, 4):
            for x, y, w, h in [(0, 0, 128, 64), (128, 256, 64, 32), (4, 8, 100, 60), (3, 5, 31, 17)]:
                full = slide.read(x, y, w * factor, h * factor)
                got = slide.read_scaled(x, y, w * factor, h * factor, (w, h))
                np.testing.assert_array_equal(got, halved(full, factor))
