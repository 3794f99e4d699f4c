"""The slide's contract: geometry, scale, pickling, threads, fingerprints, errors at the door."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from slide_files import halved, jpeg_tiles, tissue, write_ngff, write_pyramid, write_svs, zipped

import wsi
from wsi import (
    Plane,
    ReadError,
    RegionError,
    SlideError,
    SlideNotFoundError,
    UnknownMppError,
    UnsupportedSlideError,
    open_slide,
)
from wsi.pixels.resample import snap
from wsi.readers.description import whole_levels

PICTURE = tissue(701, 503)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slide") / "a.tif", PICTURE, in_subifds=False, compression="zstd")


@pytest.mark.parametrize(
    ("sizes", "downsamples"),
    [
        ([(9274, 9911), (4637, 4955), (2318, 2477), (289, 309)], [1, 2, 4, 32]),
        ([(46000, 32914), (11500, 8228), (2875, 2057)], [1, 4, 16]),
        ([(1000, 1000), (500, 500)], [1, 2]),
        ([(1000, 800), (400, 320)], [1, 2.5]),
        ([(1000, 1000), (334, 334)], [1, 3]),
    ],
)
def test_downsample_is_the_writers_factor(sizes: list[tuple[int, int]], downsamples: list[float]) -> None:
    assert [of.downsample for of in whole_levels(sizes)[0]] == downsamples


def test_a_picture_of_its_own_size_is_not_touched(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        np.testing.assert_array_equal(slide.read_scaled(3, 5, 200, 100, (200, 100)), PICTURE[5:105, 3:203])
        for factor in (2, 4):
            small = halved(PICTURE, factor)
            got = slide.read_scaled(factor * 7, factor * 9, factor * 100, factor * 80, (100, 80))
            np.testing.assert_array_equal(got, small[9:89, 7:107])
        assert [slide.best_level(d) for d in (0.5, 1, 1.9, 1.995, 2, 3.9, 4, 100)] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_a_level_cut_short_repeats_its_last_px(pyramid: Path) -> None:
    """701 px halve to 350, and the last px of level 0 has no counterpart."""
    with open_slide(pyramid) as slide:
        got = slide.read_scaled(503, 304, 198, 198, (99, 99))
    small = halved(PICTURE, 2)
    np.testing.assert_array_equal(got[:, :-1], small[152:251, 252:350])
    np.testing.assert_array_equal(got[:, -1], small[152:251, 349])


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 17, 101])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5.3, 8])
def test_planted_lines_lie_within_half_a_px(tmp_path: Path, offset: int, scale: float) -> None:
    """White lines 6 px wide, every 160 px of level 0; their centres are found again in every scaled read."""
    side = 1603
    picture = np.zeros((side, side, 3), np.uint8)
    centres = np.arange(80, side - 10, 160)
    for centre in centres:
        picture[:, centre - 3 : centre + 3] = 255
    path = write_pyramid(tmp_path / "lines.tif", picture, in_subifds=False)
    size = int((side - offset) // scale)
    width0 = round(size * scale)
    with open_slide(path) as slide:
        row = slide.read_scaled(offset, offset, width0, width0, (size, size))[5, :, 0].astype(float)
    for centre in centres:
        want = (centre - offset) * size / width0
        near = slice(max(0, int(want - 60 / scale)), int(want + 60 / scale) + 1)
        if want < 60 / scale or want > size - 60 / scale:
            continue
        found = np.average(np.arange(size)[near] + 0.5, weights=row[near])
        assert abs(found - want) <= 0.5 + 1e-6


@given(begin=st.floats(0, 5000), length=st.floats(1, 3000), wanted=st.integers(1, 3000))
def test_snapped_ends_move_by_half_a_px(begin: float, length: float, wanted: int) -> None:
    size = 8001
    span = snap(begin, begin + length, wanted, size)
    assert span.length >= 1
    assert 0 <= span.start < size
    assert span.stored == min(span.length, size - span.start)
    assert abs(span.start - begin) <= 0.56
    assert abs(span.start + span.length - begin - length) <= 0.56
    if abs(length - wanted) < 0.1:
        assert span.length == wanted


def test_large_regions_are_resampled_in_bands(pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(pyramid) as slide:
        whole = slide.read_scaled(0, 0, 700, 500, (70, 50))
        monkeypatch.setattr("wsi.slide._PIXELS_IN_MEMORY", 5000)
        banded = slide.read_scaled(0, 0, 700, 500, (70, 50))
        assert np.abs(whole.astype(int) - banded).max() <= 1
        assert slide.thumbnail(100).shape == (72, 100, 3)
        assert slide.thumbnail(5000).shape == (503, 701, 3)


@pytest.mark.parametrize(
    ("region", "level"),
    [
        ((-1, 0, 5, 5), 0),
        ((0, 0, 0, 5), 0),
        ((700, 0, 2, 1), 0),
        ((0, 0, 702, 1), 0),
        ((0, 0, 5, 5), 3),
        ((0, 0, 5, 5), -1),
    ],
)
def test_regions_outside(pyramid: Path, region: tuple[int, int, int, int], level: int) -> None:
    with open_slide(pyramid) as slide:
        with pytest.raises(RegionError):
            slide.read(*region, level)
        if level == 0:
            with pytest.raises(RegionError):
                slide.read_scaled(*region, (5, 5))
        with pytest.raises(RegionError):
            slide.read_scaled(0, 0, 5, 5, (0, 5))


def test_scale_from_the_user(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", PICTURE, mpp=None)
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (None, "unknown")
        with pytest.raises(UnknownMppError, match=r"--slide-mpp"):
            slide.require_mpp()
    with open_slide(path, mpp=0.25) as slide:
        assert (slide.mpp_xy, slide.mpp_source) == ((0.25, 0.25), "user")
        assert slide.options["mpp"] == "0.25,0.25"
        with pickle.loads(pickle.dumps(slide)) as again:
            assert (again.mpp_xy, again.mpp_source) == ((0.25, 0.25), "user")
    with open_slide(path, mpp=(0.25, 0.5)) as slide:
        assert slide.mpp_xy == (0.25, 0.5)
        assert slide.mpp == pytest.approx(0.125**0.5)
    with open_slide(write_svs(tmp_path / "b.svs", PICTURE, mpp="0.4990"), mpp=0.3) as slide:
        assert slide.mpp_xy == (0.3, 0.3)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UnknownMppError):
            open_slide(path, mpp=wrong)


def test_many_threads_read_the_same_px(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", PICTURE)
    corners = [(x, y) for x in range(0, 500, 37) for y in range(0, 300, 41)]
    with open_slide(path) as slide, open_slide(path, reader="openslide") as peer:
        whole = slide.read(0, 0, 701, 503)
        for reader in (slide, peer):
            with ThreadPoolExecutor(4) as pool:
                tiles = list(pool.map(lambda at, r=reader: r.read(*at, 200, 200), corners * 2))
            for (x, y), tile in zip(corners * 2, tiles, strict=True):
                np.testing.assert_array_equal(tile, whole[y : y + 200, x : x + 200])


def test_openslide_reads_on_after_a_damaged_tile(tmp_path: Path) -> None:
    good = jpeg_tiles(PICTURE, 128)
    path = write_svs(tmp_path / "a.svs", PICTURE, factors=(1,), codes={0: [b"\xff\xd8" + bytes(400), *good[1:]]})
    failures, tiles = [], []
    with open_slide(path, reader="openslide") as slide:

        def work(number: int) -> None:
            for _ in range(5):
                if number % 2:
                    tiles.append(slide.read(256, 256, 100, 100))
                else:
                    try:
                        slide.read(0, 0, 100, 100)
                    except ReadError as error:
                        failures.append(str(error))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(failures) == 10
    assert str(path) in failures[0]
    assert len(tiles) == 10
    assert all((tile == tiles[0]).all() for tile in tiles)


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_closed_slides_refuse(tmp_path: Path, reader: str) -> None:
    slide = open_slide(write_svs(tmp_path / "a.svs", PICTURE), reader=reader)
    slide.close()
    slide.close()
    with pytest.raises(ReadError):
        slide.read(0, 0, 300, 300)


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", PICTURE)
    with open_slide(path) as slide:
        first = slide.fingerprint
    assert first.startswith("sha256:")
    moved = path.rename(tmp_path / "b.svs")
    with open_slide(moved, mpp=1) as slide:
        assert slide.fingerprint == first
    data = bytearray(moved.read_bytes())
    data[5000] ^= 1
    moved.write_bytes(data)
    with open_slide(moved) as slide:
        assert slide.fingerprint != first


def test_fingerprint_of_large_files_and_folders(tmp_path: Path) -> None:
    large = tmp_path / "large"
    content = np.random.default_rng(0).bytes(5_000_000)
    large.write_bytes(content)
    first = wsi.files.fingerprint.fingerprint_path(large)
    large.write_bytes(content + b"x")
    assert wsi.files.fingerprint.fingerprint_path(large) != first
    large.write_bytes(b"x" + content[1:])
    assert wsi.files.fingerprint.fingerprint_path(large) != first
    folder = write_ngff(tmp_path / "a.zarr", [PICTURE[..., 0]], "yx")
    first = wsi.files.fingerprint.fingerprint_path(folder)
    folder = folder.rename(tmp_path / "b.zarr")
    assert wsi.files.fingerprint.fingerprint_path(folder) == first
    chunk = folder / "0" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[10] ^= 1
    chunk.write_bytes(data)
    assert wsi.files.fingerprint.fingerprint_path(folder) != first


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_pictures(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.swapaxes(0, 1),
        6: PICTURE[::-1].swapaxes(0, 1),
        7: PICTURE[::-1, ::-1].swapaxes(0, 1),
        8: PICTURE[:, ::-1].swapaxes(0, 1),
    }[orientation]
    with open_slide(tmp_path / "a.png") as slide:
        assert (slide.reader, slide.mpp) == ("plain", None)
        np.testing.assert_array_equal(slide.read(11, 13, 300, 200), upright[13:213, 11:311])
    with open_slide(tmp_path / "a.jpg") as slide:
        assert np.abs(slide.read(0, 0, slide.width, slide.height).astype(int) - upright).mean() < 8


def test_picture_modes(tmp_path: Path) -> None:
    gray = PICTURE[..., 0]
    rgba = np.dstack([PICTURE, np.zeros_like(gray)])
    rgba[:100, :, 3] = 255
    cases = {"L": gray, "RGBA": rgba, "1": gray > 128, "P": None}
    for mode, array in cases.items():
        image = Image.fromarray(PICTURE).quantize(16) if array is None else Image.fromarray(array)
        image.save(tmp_path / f"{mode}.png")
        with open_slide(tmp_path / f"{mode}.png") as slide:
            pixels = slide.read(0, 0, 701, 503)
        if mode == "RGBA":
            np.testing.assert_array_equal(pixels[:100], PICTURE[:100])
            assert pixels[100:].min() == 255
        else:
            np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def make_bad_files(folder: Path) -> dict[str, tuple[Path, type[SlideError], str]]:
    text = folder / "text.svs"
    text.write_text("these are not the pixels you are looking for\n" * 50)
    (folder / "empty.tif").touch()
    (folder / "empty").mkdir()
    (folder / "group.zarr").mkdir()
    (folder / "group.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (folder / "broken.zarr").mkdir()
    (folder / "broken.zarr" / "zarr.json").write_text("{")
    (folder / "text.zip").write_text("hello")
    zipped(folder / "empty", folder / "nothing.zip")
    (folder / "empty" / "readme.txt").write_text("no slide")
    zipped(folder / "empty", folder / "other.zip")
    (folder / "head.tif").write_bytes(b"II*\0\x08\0\0\0")
    (folder / "loop.tif").write_bytes(b"II*\0\x08\0\0\0\0\0\x08\0\0\0")
    png = folder / "a.png"
    Image.fromarray(PICTURE).save(png)
    (folder / "head.png").write_bytes(png.read_bytes()[:20])
    return {
        "missing": (folder / "none.svs", SlideNotFoundError, "does not exist"),
        "folder": (folder / "empty", SlideNotFoundError, r"OME-Zarr.*DICOM"),
        "text": (text, UnsupportedSlideError, "not an image"),
        "empty": (folder / "empty.tif", UnsupportedSlideError, "is empty"),
        "group": (folder / "group.zarr", UnsupportedSlideError, "multiscales"),
        "broken": (folder / "broken.zarr", UnsupportedSlideError, "OME-Zarr"),
        "text.zip": (folder / "text.zip", UnsupportedSlideError, "not an image"),
        "nothing.zip": (folder / "nothing.zip", UnsupportedSlideError, "zip|tif"),
        "other.zip": (folder / "other.zip", SlideNotFoundError, "no OME-Zarr group"),
        "head.tif": (folder / "head.tif", UnsupportedSlideError, "cut"),
        "loop.tif": (folder / "loop.tif", UnsupportedSlideError, "zip|tif"),
        "head.png": (folder / "head.png", UnsupportedSlideError, "not an image"),
    }


def test_bad_files_get_named_errors(tmp_path: Path) -> None:
    for name, (path, kind, words) in make_bad_files(tmp_path).items():
        with pytest.raises(kind, match=words) as caught:
            open_slide(path)
        assert path.name in str(caught.value), name
    for reader in ("tiff", "openslide", "ngff", "plain"):
        with pytest.raises(SlideError):
            open_slide(tmp_path / "text.svs", reader=reader)
    with pytest.raises(UnsupportedSlideError, match="tiff, openslide"):
        open_slide(tmp_path / "text.svs", reader="magic")


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_cut_pictures(tmp_path: Path, kind: str) -> None:
    Image.fromarray(PICTURE).save(tmp_path / f"a.{kind}")
    data = (tmp_path / f"a.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) // 2])
    with pytest.raises((UnsupportedSlideError, ReadError), match=rf"cut\.{kind}.*truncated"):
        open_slide(tmp_path / f"cut.{kind}").read(0, 0, 10, 10)


def test_public_names() -> None:
    for name in wsi.__all__:
        assert getattr(wsi, name) is not None
    with pytest.raises(AttributeError):
        _ = wsi.nothing
    assert Plane() == wsi.Plane(0, 0)


def test_a_slide_may_be_dropped_without_closing(tmp_path: Path) -> None:
    """No handle is left behind (the suite turns ResourceWarning into an error)."""
    for path in (
        write_svs(tmp_path / "a.svs", PICTURE),
        zipped(write_ngff(tmp_path / "a.zarr", [PICTURE[..., 0]], "yx"), tmp_path / "a.zip"),
    ):
        open_slide(path).read(0, 0, 8, 8)
