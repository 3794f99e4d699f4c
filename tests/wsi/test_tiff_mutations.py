"""Files with one tag changed: a named error, or what the reference reader sees; never much memory.

QWENVL_MUTATIONS sets how many are tried (2,000 for a full run).
"""

from __future__ import annotations

import os
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slide_files import tissue, write_pyramid, write_svs
from tiff_mutation import mutated

from wsi import Plane, Rendering, open_slide
from wsi.errors import PlaneError, SlideError

MUTATIONS = int(os.environ.get("QWENVL_MUTATIONS", "150"))
SMALL = tissue(160, 120)
MEMORY = 512 << 20


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Small files of every way to store: strips, tiles, pyramids, planar, stacks, JPEG, 12 bits."""
    folder = tmp_path_factory.mktemp("tiff")
    planar = np.moveaxis(SMALL, -1, 0).copy()
    tifffile.imwrite(folder / "a.tif", SMALL, photometric="rgb", rowsperstrip=16, metadata=None)
    tifffile.imwrite(folder / "b.tif", SMALL, photometric="rgb", rowsperstrip=16, metadata=None, compression="lzw")
    tifffile.imwrite(folder / "c.tif", planar, photometric="rgb", planarconfig="separate", tile=(32, 32), metadata=None)
    tifffile.imwrite(
        folder / "d.tif", SMALL[..., 0], photometric="minisblack", tile=(32, 32), compression="zlib", predictor=2
    )
    tifffile.imwrite(
        folder / "e.tif",
        np.stack([SMALL[..., 0].astype(np.uint16)] * 3),
        photometric="minisblack",
        metadata={"axes": "ZYX"},
    )
    write_pyramid(folder / "f.tif", SMALL, in_subifds=True, tile=(32, 32), compression="zstd")
    write_pyramid(folder / "g.ome.tif", SMALL, in_subifds=True, ome=True, tile=(32, 32), compression="deflate")
    write_svs(folder / "h.svs", SMALL, tile=32, factors=(1, 2))
    return [file.read_bytes() for file in sorted(folder.iterdir())]


def read_all(path: Path) -> np.ndarray | None:
    """Level 0 as our reader sees it (at most 4 megapixels of it), or None after a named error."""
    options: dict = {}
    for _ in range(3):
        try:
            with open_slide(path, **options) as slide:
                for level, of in enumerate(slide.levels):
                    region = slide.read(0, 0, min(of.width, 2048), min(of.height, 2048), level)
                    if level == 0:
                        first = region
                return first
        except PlaneError as error:
            if "is a stack" in str(error) and "plane" not in options:
                options["plane"] = Plane()
            elif "series" not in options and "several images" in str(error):
                options["series"] = 0
            elif "rendering" not in options:
                options["rendering"] = Rendering.gray(0, 0, 255)
            else:
                return None
        except SlideError as error:
            if str(path) not in str(error):
                raise AssertionError("an error that does not name its file") from error
            return None
    return None


def reference(path: Path) -> np.ndarray | None:
    """Level 0 as tifffile sees it, where that is plain RGB or gray of 8 bits in one page."""
    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            plain = page.dtype == np.uint8 and page.bitspersample == 8 and not page.extrasamples
            colors = {2: 3, 1: 1}.get(int(page.photometric))
            if not plain or page.samplesperpixel != colors or page.nbytes > 1 << 24 or page.compression == 7:
                return None
            if page.tags.valueof(274, 1) != 1:
                return None
            pixels = np.moveaxis(page.asarray(), 0, -1) if page.planarconfig == 2 and colors == 3 else page.asarray()
            return np.repeat(pixels[..., None], 3, 2) if colors == 1 else pixels
    except Exception:
        return None


@settings(
    max_examples=MUTATIONS, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(st.integers(0, 7), st.integers(0, 500), st.integers(0, 6), st.integers(0, 400), st.integers(0, 1 << 20))
def test_a_changed_tag_gives_a_named_error_or_the_same_pixels(
    originals: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
    which: int,
    entry: int,
    how: int,
    number: int,
    place: int,
) -> None:
    suffix = ".svs" if which == 7 else ".tif"
    path = tmp_path_factory.getbasetemp() / f"mutated{suffix}"
    path.write_bytes(mutated(originals[which], entry, how, number, place))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = read_all(path)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < MEMORY
        want = reference(path) if got is not None else None
    if got is not None and want is not None and want.shape == got.shape:
        np.testing.assert_array_equal(got, want)
