"""Colours of JPEG tiles: tag, markers, ids and sampling in every combination, beside tifffile and OpenSlide."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_streams import IDS, JFIF, MARKERS, PHOTOMETRIC, encoded, rewritten, write_tiff
from slide_files import tissue

from wsi import ReadError, UnsupportedSlideError, open_slide
from wsi.readers.tiff.jpeg import RGB, YCBCR, JpegDecoder, settle

SIDE = 64
GLASS = 243


def scene(side: int = SIDE) -> np.ndarray:
    """Tissue below glass."""
    pixels = tissue(side, side)
    pixels[: side // 2] = GLASS
    return pixels


def dull(side: int = SIDE) -> np.ndarray:
    """Colours that exist whether they are taken for RGB or for YCbCr, none of them neutral either way."""
    noise = np.random.default_rng(1).normal(0, 3, (side, side, 1))
    return np.clip(np.array([150, 95, 140]) + noise, 0, 255).astype(np.uint8)


def shown(path: Path) -> np.ndarray:
    with open_slide(path, reader="tiff") as slide:
        return slide.read(0, 0, slide.width, slide.height)


def by_openslide(path: Path) -> np.ndarray | None:
    """What OpenSlide shows; None where it does not open or read the file."""
    try:
        with openslide.OpenSlide(path) as slide:
            return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    except (openslide.OpenSlideError, OSError):
        return None


def read_as(stream: bytes, space: str) -> np.ndarray:
    """The samples of a stream of our own making, taken for RGB or for YCbCr."""
    return imagecodecs.jpeg8_decode(stream, colorspace=space.upper(), outcolorspace="RGB")


def stated(tag: str, marker: str, subsampling: str, ids: str) -> set[str]:
    """All that a file says about its colour space."""
    says = {tag}
    if marker in ("JFIF", "Adobe 1", "Adobe 2") or subsampling != "444":
        says.add("YCbCr")
    if marker == "Adobe 0" or (marker == "none" and ids == "RGB"):
        says.add("RGB")
    return says


@pytest.mark.parametrize("tag", PHOTOMETRIC)
@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_contradictions_are_settled_by_the_colours(tmp_path: Path, tag: str, marker: str, subsampling: str) -> None:
    """Where something stated is true, glass is neutral; where tifffile or OpenSlide show it so, all is the same."""
    for truth, ids, abbreviated in product(("RGB", "YCbCr"), IDS, (False, True)):
        name = f"{truth}, tag {tag}, {marker}, {subsampling}, ids {ids}, abbreviated {abbreviated}"
        stream = encoded(scene(), truth, subsampling)
        tile, tables = rewritten(stream, marker, ids, abbreviated)
        path = write_tiff(tmp_path / "a.tif", [tile], columns=1, side=SIDE, photometric=PHOTOMETRIC[tag], tables=tables)
        got, says = shown(path), stated(tag, marker, subsampling, ids)
        if truth not in says:  # every statement is false: no reader can know
            np.testing.assert_array_equal(got, read_as(stream, says.pop()), err_msg=name)
            continue
        np.testing.assert_array_equal(got, read_as(stream, truth), err_msg=name)
        assert np.abs(got[: SIDE // 2 - 8].astype(int) - GLASS).max() <= 4, name
        for peer in (tifffile.imread(path), by_openslide(path)):
            if peer is not None and np.ptp(peer[: SIDE // 2 - 8].astype(int), axis=-1).max() <= 8:
                np.testing.assert_array_equal(got, peer, err_msg=name)


@pytest.mark.parametrize("tag", PHOTOMETRIC)
@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_where_colours_do_not_tell_tifffile_is_followed(
    tmp_path: Path, tag: str, marker: str, subsampling: str
) -> None:
    """But smaller chroma is YCbCr unless two say RGB. OpenSlide follows the tag, and refuses some files."""
    for ids, abbreviated in product(IDS, (False, True)):
        name = f"tag {tag}, {marker}, {subsampling}, ids {ids}, abbreviated {abbreviated}"
        stream = encoded(dull(), "RGB", subsampling)
        tile, tables = rewritten(stream, marker, ids, abbreviated)
        path = write_tiff(tmp_path / "a.tif", [tile], columns=1, side=SIDE, photometric=PHOTOMETRIC[tag], tables=tables)
        both_rgb = tag == "RGB" and (marker == "Adobe 0" or (marker == "none" and ids == "RGB"))
        smaller = subsampling != "444" and not both_rgb
        want = read_as(stream, "YCbCr") if smaller else tifffile.imread(path)
        np.testing.assert_array_equal(shown(path), want, err_msg=name)
        peer = by_openslide(path)
        if peer is not None:
            np.testing.assert_array_equal(peer, read_as(stream, tag), err_msg=name)


def test_qupath_writes_the_tag_rgb_about_jfif_tiles(tmp_path: Path) -> None:
    tiles = [rewritten(encoded(part, "YCbCr", "420"), "JFIF", "123")[0] for part in (scene(), dull())]
    path = write_tiff(tmp_path / "a.tif", tiles, columns=2, side=SIDE)
    np.testing.assert_array_equal(shown(path), tifffile.imread(path))


def test_every_tile_counts(tmp_path: Path) -> None:
    """Tiles that differ, a first tile without data, a first tile that is damaged."""
    true = {
        "Adobe 0": (rewritten(encoded(scene(), "RGB", "444"), "Adobe 0", "RGB")[0], "RGB"),
        "JFIF": (rewritten(encoded(scene(), "YCbCr", "420"), "JFIF", "123")[0], "YCbCr"),
        "Adobe 1": (rewritten(encoded(scene(), "YCbCr", "422"), "Adobe 1", "123")[0], "YCbCr"),
    }
    for tag in PHOTOMETRIC:
        for order in (("Adobe 0", "JFIF", "Adobe 1"), ("JFIF", "Adobe 1", "Adobe 0")):
            streams = [b"", true[order[0]][0][:40], *(true[name][0] for name in order)]
            path = write_tiff(tmp_path / "a.tif", streams, columns=5, side=SIDE, photometric=PHOTOMETRIC[tag])
            with open_slide(path, reader="tiff") as slide:
                for number, name in enumerate(order):
                    got = slide.read((2 + number) * SIDE, 0, SIDE, SIDE)
                    np.testing.assert_array_equal(got, read_as(*true[name]), err_msg=f"{tag} {name}")
                with pytest.raises(ReadError):
                    slide.read(SIDE, 0, SIDE, SIDE)


@pytest.mark.parametrize("rows", [16, 64, 200])
@pytest.mark.parametrize("whole", [False, True])
def test_strips_have_the_same_colours(tmp_path: Path, rows: int, whole: bool) -> None:
    """The last strip may be stored whole or with the rows that are left."""
    pixels = scene(200)[:, :SIDE]
    strips = []
    for y in range(0, 200, rows):
        part = pixels[y : y + rows]
        if whole:
            part = np.pad(part, ((0, rows - len(part)), (0, 0), (0, 0)), mode="edge")
        strips.append(rewritten(encoded(part, "YCbCr", "420"), "JFIF", "123")[0])
    options = {"compressionargs": {"outcolorspace": "rgb"}, "metadata": None, "rowsperstrip": rows}
    tifffile.imwrite(
        tmp_path / "a.tif",
        iter(strips),
        shape=pixels.shape,
        dtype=np.uint8,
        photometric="rgb",
        compression="jpeg",
        **options,
    )
    got = shown(tmp_path / "a.tif")
    want = np.concatenate([read_as(strip, "YCbCr") for strip in strips])[:200]
    np.testing.assert_array_equal(got, want)


def test_samples_stored_apart_are_images_of_their_own(tmp_path: Path) -> None:
    planes = np.moveaxis(scene(), -1, 0)
    tifffile.imwrite(
        tmp_path / "a.tif",
        planes,
        planarconfig="separate",
        photometric="rgb",
        tile=(64, 64),
        compression="jpeg",
        compressionargs={"level": 95, "outcolorspace": "rgb"},
        metadata=None,
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert int(tif.pages.first.photometric) == 2
        want = np.moveaxis(tif.asarray(), 0, -1)
    np.testing.assert_array_equal(shown(tmp_path / "a.tif"), want)

    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tif:
        tif.pages.first.tags[262].overwrite(6)
    with pytest.raises(UnsupportedSlideError, match="YCbCr samples apart"):
        open_slide(tmp_path / "a.tif", reader="tiff")


def test_gray(tmp_path: Path) -> None:
    gray = np.ascontiguousarray(scene()[..., 1])
    tile = imagecodecs.jpeg8_encode(gray, level=90)
    path = write_tiff(tmp_path / "a.tif", [tile], columns=1, side=SIDE, photometric=1, samples=1)
    want = imagecodecs.jpeg8_decode(tile)
    np.testing.assert_array_equal(shown(path), np.repeat(want[..., None], 3, 2))


def with_frame(stream: bytes, at: int, value: bytes) -> bytes:
    """The stream with some bytes of its frame header replaced: 4 precision, 5 height, 7 width, 9 components."""
    frame = stream.index(b"\xff\xc0")
    return stream[: frame + at] + value + stream[frame + at + len(value) :]


def test_what_is_no_rgb_tile_is_named(tmp_path: Path) -> None:
    stream = encoded(scene(), "YCbCr", "444")
    gray = imagecodecs.jpeg8_encode(np.ascontiguousarray(scene()[..., 0]))
    four = imagecodecs.jpeg8_encode(np.dstack([scene(), scene()[..., :1]]), colorspace="CMYK", outcolorspace="CMYK")
    cases = {
        "4 components (CMYK or YCCK), the file states 3": four,
        "1 components (gray), the file states 3": gray,
        "2 components": with_frame(stream, 9, b"\x02"),
        "12 bits per sample": with_frame(stream, 4, b"\x0c"),
        "measures 65535x64 px, not 64x64": with_frame(stream, 7, b"\xff\xff"),
        "measures 64x32 px, not 64x64": encoded(scene()[:32], "YCbCr", "444"),
        "head of a tile's JPEG data is damaged": stream[:300],
        "does not begin like JPEG": b"\0" * 200,
        "ends before its first scan": stream[: stream.index(b"\xff\xda")],
        "does not state its size": JFIF.join([b"\xff\xd8", stream[stream.index(b"\xff\xda") :]]),
    }
    for words, tile in cases.items():
        path = write_tiff(tmp_path / "bad.tif", [tile], columns=1, side=SIDE)
        with pytest.raises(ReadError) as error:
            shown(path)
        assert words in str(error.value)
        assert "bad.tif" in str(error.value)
    path = write_tiff(tmp_path / "bad.tif", [stream], columns=1, side=SIDE, photometric=1, samples=1)
    with pytest.raises(ReadError, match=r"3 components \(colour\), the file states 1"):
        shown(path)


def test_no_memory_is_taken_for_what_the_data_cannot_hold() -> None:
    """A few hundred bytes that promise 65,000 x 65,000 px, 12.7 GB: refused before anything is allocated."""
    stream = with_frame(encoded(scene(), "YCbCr", "444"), 5, b"\xfd\xe8\xfd\xe8")
    with pytest.raises(ValueError, match="cannot hold the 65000x65000 px"):
        JpegDecoder(None, RGB, 65000, 65000)(stream, 0, len(stream), 0, False)


STREAM = encoded(scene(), "YCbCr", "420")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(STREAM) - 1), st.integers(0, 255), st.booleans())
def test_damage_is_an_error_or_what_libjpeg_reads(at: int, value: int, cut: bool) -> None:
    damaged = STREAM[:at] if cut else STREAM[:at] + bytes([value]) + STREAM[at + 1 :]
    try:
        got = JpegDecoder(None, YCBCR, SIDE, SIDE)(damaged, 0, len(damaged), 0, True)
    except ValueError:
        return
    assert not cut or damaged.endswith(b"\xff\xd9") or STREAM[at:] in (b"\xff\xd9", b"\xd9")
    want = imagecodecs.jpeg8_decode(damaged, colorspace="YCBCR", outcolorspace="RGB")
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("color", "found"),
    [((GLASS, GLASS, GLASS), True), ((4, 4, 4), True), ((128, 128, 128), False), ((150, 95, 140), False)],
)
def test_neutral_background_settles(color: tuple[int, int, int], found: bool) -> None:
    for truth in ("RGB", "YCbCr"):
        pixels = dull()
        pixels[:20] = color
        stream = encoded(pixels, truth, "444")
        said = settle(read_as(stream, "RGB"), read_as(stream, "YCbCr"))
        assert said == (truth.upper() if found else None)
