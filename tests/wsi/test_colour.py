"""ICC profiles: colours come out as the formula says, only where asked, and never by a profile that does not fit."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from icc_profiles import SRGB, WIDE, as_srgb, cmyk_profile, gray_profile, rgb_profile
from PIL import Image
from slide_files import marked_stack, tissue, write_svs

from wsi import ColourError, Rendering, TissueMask, open_slide
from wsi.pixels.colour import profile_name

PATCHES = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 60, 120), (30, 90, 210), (180, 140, 160)]
PROFILES = {"gamma 1.8": (1.8, SRGB), "wide gamut": (2.2, WIDE), "linear": (1.0, SRGB)}


def patches(side: int = 48) -> np.ndarray:
    """A row of patches of known colours, uint8 (side, side * n, 3)."""
    row = np.repeat(np.array(PATCHES, np.uint8), side, axis=0)
    return np.ascontiguousarray(np.broadcast_to(row, (side, *row.shape)))


def tiff(path: Path, pixels: np.ndarray, profile: bytes) -> Path:
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), compression="zstd", iccprofile=profile)
    return path


def png(path: Path, pixels: np.ndarray, profile: bytes) -> Path:
    Image.fromarray(pixels).save(path, icc_profile=profile)
    return path


def jpeg_tiff(path: Path, pixels: np.ndarray, profile: bytes) -> Path:
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        tile=(48, 48),
        compression="jpeg",
        iccprofile=profile,
        compressionargs={"level": 100},
    )
    return path


WRITERS = {"a.tif": tiff, "a.png": png, "jpeg.tif": jpeg_tiff}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", PROFILES)
def test_known_patches(tmp_path: Path, name: str, writer: str) -> None:
    gamma, colorants = PROFILES[name]
    path = WRITERS[writer](tmp_path / writer, patches(), rgb_profile(gamma, colorants))
    tolerance = 3.5 if writer == "jpeg.tif" else 1.01
    with open_slide(path) as stored, open_slide(path, colour="srgb") as converted:
        assert "colour" not in stored.options
        assert converted.options["colour"] == "srgb"
        assert "made by hand" in converted.description.notes[-1]
        assert "relative colorimetric" in converted.description.notes[-1]
        for number, patch in enumerate(PATCHES):
            x = 48 * number + 12
            np.testing.assert_allclose(stored.read(x, 12, 1, 1)[0, 0], patch, atol=tolerance - 1.01)
            want = as_srgb(patch, gamma, colorants)
            np.testing.assert_allclose(converted.read(x, 12, 1, 1)[0, 0], want, atol=tolerance, err_msg=str(patch))
            scaled = converted.read_scaled(x - 8, 4, 16, 16, (8, 8))
            np.testing.assert_allclose(scaled[4, 4], want, atol=tolerance)
        small = converted.thumbnail(len(PATCHES) * 12)
        np.testing.assert_allclose(small[6, 6::12], [as_srgb(p, gamma, colorants) for p in PATCHES], atol=tolerance)
        assert stored.fingerprint == converted.fingerprint
        again = pickle.loads(pickle.dumps(converted))
        np.testing.assert_array_equal(again.read(0, 0, 200, 48), converted.read(0, 0, 200, 48))
        assert again.options == converted.options
        again.close()
        back = converted.in_colour("stored")
        np.testing.assert_array_equal(back.read(0, 0, 200, 48), stored.read(0, 0, 200, 48))


def test_every_way_to_read_converts_alike(tmp_path: Path) -> None:
    picture = tissue(300, 200)
    path = write_svs(tmp_path / "a.svs", picture)
    with tifffile.TiffFile(path, mode="r+") as tif:
        assert tif.pages.first.tags.get(34675) is None
    with open_slide(path, colour="srgb") as slide, open_slide(path) as stored:
        assert "taken as sRGB" in slide.description.notes[-1]
        assert slide.options["colour"] == "srgb"
        np.testing.assert_array_equal(slide.read(0, 0, 300, 200), stored.read(0, 0, 300, 200))
    path = tiff(tmp_path / "b.tif", picture, rgb_profile(1.0))
    with open_slide(path, colour="srgb") as slide, open_slide(path) as stored:
        whole = slide.read(0, 0, 300, 200)
        assert whole.flags.writeable
        assert whole.mean() > stored.read(0, 0, 300, 200).mean() + 20
        mask = TissueMask.from_slide(slide, method="all")
        assert mask.fraction == 1
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(lambda y: slide.read(0, y, 300, 10), [*range(0, 200, 10)] * 8))
        for number, part in enumerate(parts):
            np.testing.assert_array_equal(part, whole[number % 20 * 10 :][:10])


def _broken(profile: bytes) -> bytes:
    return profile[:36] + b"none" + profile[40:]


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (gray_profile(), "'gray by hand' of GRAY colours"),
        (cmyk_profile(), "'ink by hand' of CMYK colours"),
        (_broken(rgb_profile(2.2)), "cannot be read"),
        (rgb_profile(2.2)[:200], "cannot be read"),
        (b"\0" * 40, "cannot be read"),
        (rgb_profile(2.2, kind="link"), "class 'link'"),
        (rgb_profile(2.2).replace(b"gTRC", b"xTRC"), "cannot be used"),
    ],
)
def test_profiles_that_do_not_fit_are_named(tmp_path: Path, profile: bytes, words: str) -> None:
    path = tiff(tmp_path / "a.tif", patches(), profile)
    with pytest.raises(ColourError, match=words) as raised:
        open_slide(path, colour="srgb")
    assert "a.tif" in str(raised.value)
    assert "--colour srgb" in str(raised.value)
    with open_slide(path) as slide:  # as stored it is as good as ever
        np.testing.assert_array_equal(slide.read(0, 0, 288, 48), patches())
        assert profile_name(slide.description.icc_profile or b"")


def test_only_rgb_as_stored_is_converted(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", marked_stack(1, 1, 2)[0, 0], imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(ColourError, match="rendering of its channels"):
        open_slide(tmp_path / "a.tif", rendering=Rendering.parse("0,1"), colour="srgb")
    Image.fromarray(patches()[..., 0]).save(tmp_path / "gray.png", icc_profile=gray_profile())
    with pytest.raises(ColourError, match=r"gray\.png"):
        open_slide(tmp_path / "gray.png", colour="srgb")
    with pytest.raises(ColourError, match="called 'lab'; known are stored, srgb"):
        open_slide(tmp_path / "gray.png", colour="lab")
