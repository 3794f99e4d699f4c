"""JPEG 2000 tiles decoded directly: the same px as OpenSlide shows, to one gray level."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from jp2k_streams import ycbcr, ycbcr_tile
from jpeg_streams import write_tiff
from slide_files import halved, tissue

from wsi import ReadError, Rendering, open_slide
from wsi.readers.tiff.jp2k import Jp2kDecoder, read_head

SIDE = 128
IMAGE = tissue(2 * SIDE, 2 * SIDE)
PARTS = [IMAGE[y : y + SIDE, x : x + SIDE] for y in (0, SIDE) for x in (0, SIDE)]
APERIO = "Aperio Image Library v12 \r\n256x256 (128x128) J2K/KDU Q=70|AppMag = 20|MPP = 0.5"


def rgb_tile(pixels: np.ndarray, **options: object) -> bytes:
    return imagecodecs.jpeg2k_encode(np.ascontiguousarray(pixels), codecformat="j2k", **options)


def by_openslide(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def slide_of(path: Path, tiles: list[bytes], compression: int, **options: object) -> Path:
    return write_tiff(path, tiles, columns=2, side=SIDE, compression=compression, description=APERIO, **options)


@pytest.mark.parametrize("compression", [33003, 33005])
@pytest.mark.parametrize("steps", [(1, 1), (2, 1)])
def test_aperio_tiles_are_those_of_openslide(tmp_path: Path, compression: int, steps: tuple[int, int]) -> None:
    if compression == 33003:
        tiles = [ycbcr_tile(part, *steps) for part in PARTS]
    else:
        tiles = [rgb_tile(part, level=40 * steps[0]) for part in PARTS]
    path = slide_of(tmp_path / "a.svs", tiles, compression)
    with open_slide(path) as slide:
        assert (slide.reader, slide.mpp) == ("tiff", 0.5)
        got = slide.read(0, 0, 256, 256)
        assert np.abs(got.astype(int) - by_openslide(path)).max() <= (1 if compression == 33003 else 0)
        if steps == (1, 1):
            assert np.abs(got.astype(int) - IMAGE).mean() < 5
        for x, y, w, h in ((100, 60, 90, 100), (1, 2, 3, 4), (128, 0, 128, 256)):
            np.testing.assert_array_equal(slide.read(x, y, w, h), got[y : y + h, x : x + w])
        np.testing.assert_array_equal(slide.read_scaled(0, 0, 256, 256, (128, 128)), halved(got, 2))


def test_ycbcr_of_all_values_is_converted_as_jpeg_does() -> None:
    """Against ITU-T T.871 in floating point: within rounding, out of range is clipped."""
    values = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    values[0, :2] = (255, 255, 255), (0, 0, 0)
    stream = imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=True, mct=False)
    got = Jp2kDecoder(True, 64, 64, 3, np.dtype(np.uint8))(stream)
    y, blue, red = (values[..., i].astype(float) for i in range(3))
    blue, red = blue - 128, red - 128
    want = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], -1)
    assert np.abs(got - np.clip(want, 0, 255)).max() <= 0.7


@pytest.mark.parametrize("steps", [(2, 1), (2, 2)])
def test_smaller_chroma(steps: tuple[int, int]) -> None:
    flat = np.full((64, 64, 3), (230, 150, 190), np.uint8)
    flat[32:] = 240
    got = Jp2kDecoder(True, 64, 64, 3, np.dtype(np.uint8))(ycbcr_tile(flat, *steps))
    assert np.abs(got.astype(int) - flat).max() <= 2
    with pytest.raises(ValueError, match="only YCbCr may"):
        Jp2kDecoder(False, 64, 64, 3, np.dtype(np.uint8))(ycbcr_tile(flat, *steps))


@pytest.mark.parametrize("compression", [33004, 33005, 34712])
def test_gray_and_other_codes(tmp_path: Path, compression: int) -> None:
    gray = [rgb_tile(part[..., 1], reversible=True) for part in PARTS]
    path = slide_of(tmp_path / "g.tif", gray, compression, samples=1, photometric=1)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 256, 256), np.repeat(IMAGE[..., 1:2], 3, 2))
    color = [imagecodecs.jpeg2k_encode(np.ascontiguousarray(part), reversible=True) for part in PARTS]
    with open_slide(slide_of(tmp_path / "c.tif", color, compression)) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 256, 256), IMAGE)


def test_16_bits_as_tifffile_writes_them(tmp_path: Path) -> None:
    deep = (IMAGE[..., 0].astype(np.uint16) << 7) + 5
    tifffile.imwrite(
        tmp_path / "a.tif",
        deep,
        tile=(64, 64),
        compression="jpeg2000",
        compressionargs={"reversible": True},
        photometric="minisblack",
        metadata=None,
    )
    with open_slide(tmp_path / "a.tif", rendering=Rendering.parse("0:gray:0-65535")) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 256, 256)[..., 0], np.round(deep / 65535 * 255).astype(np.uint8))


def test_damage_is_named(tmp_path: Path) -> None:
    good = rgb_tile(PARTS[0])
    size = good.index(b"\xff\x51")
    cases = {
        "does not begin like JPEG 2000": b"\0" * 100,
        "": good[: len(good) // 2],
        "opj_": good[:-1],
        "measures 64x64 px, not 128x128": rgb_tile(PARTS[0][:64, :64]),
        "holds 1 components, the file states 3": rgb_tile(PARTS[0][..., 0]),
        "head of a tile's JPEG 2000 data is damaged": good[: size + 38] + b"\xff\xff" + good[size + 40 :],
        f"measures {0x7F000080}x128 px": good[: size + 6] + b"\x7f" + good[size + 7 :],
    }
    for words, tile in cases.items():
        path = slide_of(tmp_path / "bad.svs", [good, tile, good, good], 33005)
        with open_slide(path) as slide:
            with pytest.raises(ReadError, match=r"bad\.svs.*damaged") as error:
                slide.read(100, 0, 100, 100)
            assert words in str(error.value)
            assert slide.read(0, 0, 128, 128).shape == (128, 128, 3)


STREAM = rgb_tile(PARTS[0][:64, :64])
DECODE = Jp2kDecoder(False, 64, 64, 3, np.dtype(np.uint8))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(STREAM) - 1), st.integers(0, 255), st.booleans())
def test_damage_is_an_error_or_what_openjpeg_reads(at: int, value: int, cut: bool) -> None:
    """No checksum is in the data: a changed bit inside a code block is seen by no reader, a missing byte is."""
    damaged = STREAM[:at] if cut else STREAM[:at] + bytes([value]) + STREAM[at + 1 :]
    try:
        got = DECODE(damaged)
    except (ValueError, imagecodecs.Jpeg2kError):
        return
    assert not cut
    assert got.shape == (64, 64, 3)
    np.testing.assert_array_equal(got, imagecodecs.jpeg2k_decode(damaged))


def test_no_memory_is_taken_for_what_the_data_cannot_hold() -> None:
    at = STREAM.index(b"\xff\x51")
    huge = b"\0\0\xea\x60"
    stream = STREAM[: at + 6] + huge + huge + STREAM[at + 14 :]
    assert read_head(stream)[:2] == (60000, 60000)
    with pytest.raises(ValueError, match="cannot hold the 60000x60000 px"):
        Jp2kDecoder(False, 60000, 60000, 3, np.dtype(np.uint8))(stream)


def test_the_streams_of_these_tests_are_right() -> None:
    pixels = PARTS[0]
    np.testing.assert_array_equal(imagecodecs.jpeg2k_decode(ycbcr_tile(pixels)), ycbcr(pixels))
