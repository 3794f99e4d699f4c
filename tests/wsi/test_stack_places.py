"""When and how deep the planes of a stack were taken, as files state it and as none is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from slide_files import write_ngff

from wsi import Plane, Rendering, open_slide

STACK = np.zeros((3, 2, 32, 32), np.uint8)
PLANES = {"DeltaT": [0.0, 0.5, 61.0, 61.5, 120.0, 121.0], "DeltaTUnit": ["s"] * 6}
MINUTES = {"DeltaT": [0.0, 0.1, 2.0, 2.1, 4.0, 4.1], "DeltaTUnit": ["min"] * 6}
FALLING = {"DeltaT": [0.0, 0.5, 61.0, 61.5, 20.0, 21.0], "DeltaTUnit": ["s"] * 6}
EVEN = {"TimeIncrement": 2.5, "TimeIncrementUnit": "min"}


@pytest.mark.parametrize(
    ("metadata", "seconds", "depth"),
    [
        ({}, None, None),
        ({"PhysicalSizeZ": 500, "PhysicalSizeZUnit": "nm"}, None, 0.5),
        (EVEN, (0.0, 150.0, 300.0), None),
        ({"Plane": PLANES}, (0.0, 61.0, 120.0), None),
        ({**EVEN, "Plane": PLANES}, (0.0, 61.0, 120.0), None),
        ({**EVEN, "Plane": FALLING}, (0.0, 150.0, 300.0), None),
        ({"Plane": MINUTES}, (0.0, 120.0, 240.0), None),
        ({"Plane": FALLING}, None, None),
        ({"TimeIncrement": 0.0}, None, None),
    ],
)
def test_ome_tiff(
    tmp_path: Path, metadata: dict[str, Any], seconds: tuple[float, ...] | None, depth: float | None
) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", ome=True, metadata={"axes": "TZYX", **metadata})
    with open_slide(path, plane=Plane()) as slide:
        assert (slide.seconds, slide.depth_um, slide.unnamed) == (seconds, depth, "")


@pytest.mark.parametrize(
    ("metadata", "seconds", "depth"),
    [
        ({"unit": "um", "spacing": 0.5}, None, 0.5),
        ({"finterval": 30}, (0.0, 30.0, 60.0), None),
        ({"finterval": 2, "tunit": "min"}, (0.0, 120.0, 240.0), None),
        ({"finterval": 2, "tunit": "furlong"}, None, None),
        ({"fps": 7, "finterval": 0}, None, None),
    ],
)
def test_imagej(
    tmp_path: Path, metadata: dict[str, Any], seconds: tuple[float, ...] | None, depth: float | None
) -> None:
    path = tmp_path / "ij.tif"
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZYX", **metadata})
    with open_slide(path, plane=Plane()) as slide:
        assert (slide.seconds, slide.depth_um) == (seconds, depth)


def test_ngff(tmp_path: Path) -> None:
    import json

    path = write_ngff(tmp_path / "a.zarr", [STACK[:, :, None]], "tzcyx", version="0.4", scale=0.2)
    with open_slide(path, plane=Plane(), rendering=Rendering.gray()) as slide:
        assert slide.seconds is None  # a scale without a unit of time
    attributes = json.loads((path / ".zattrs").read_text())
    image = attributes["multiscales"][0]
    for axis in image["axes"]:
        axis |= {"t": {"unit": "minute"}, "z": {"unit": "nanometer"}}.get(axis["name"], {})
    image["datasets"][0]["coordinateTransformations"][0]["scale"][:2] = [2.0, 750.0]
    (path / ".zattrs").write_text(json.dumps(attributes))
    with open_slide(path, plane=Plane(), rendering=Rendering.gray()) as slide:
        assert (slide.seconds, slide.depth_um) == ((0.0, 120.0, 240.0), 0.75)


def test_an_axis_without_a_name_is_said_to_have_none(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in STACK[:, 0]:
            writer.write(page, contiguous=False, metadata=None)
    with open_slide(path, plane=Plane()) as slide:
        assert slide.unnamed == "z"
        assert slide.seconds is None
