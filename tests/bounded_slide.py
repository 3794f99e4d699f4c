"""A Leica SCN slide whose scanned area is a part of its canvas: OpenSlide states bounds, QuPath crops to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

CANVAS = (1024, 768)
"""Width and height of level 0."""
OFFSET = (256, 128)
"""Level-0 px of the scanned area's corner, which is QuPath's px (0, 0)."""
SIZE = (512, 384)
"""Width and height of the scanned area."""
BOUNDS = (*OFFSET, *SIZE)
DOTS = ((40, 30), (200, 100), (460, 340), (100, 300))
"""Corners of dark squares, in px of the scanned area."""
DOT = 12
_NM = 500


def scanned(dots: tuple[tuple[int, int], ...] = DOTS) -> np.ndarray:
    """The scanned area: pink tissue with dark squares, uint8 (h, w, 3)."""
    picture = np.full((SIZE[1], SIZE[0], 3), (215, 130, 175), np.uint8)
    for x, y in dots:
        picture[y : y + DOT, x : x + DOT] = 20
    return picture


def write_scn(path: Path, picture: np.ndarray | None = None, *, offset: tuple[int, int] = OFFSET) -> Path:
    """Write a slide of 0.5 um/px with two levels and a macro."""
    picture = scanned() if picture is None else picture
    height, width = picture.shape[:2]
    canvas = f'sizeX="{CANVAS[0] * _NM}" sizeY="{CANVAS[1] * _NM}"'
    place = f'offsetX="{offset[0] * _NM}" offsetY="{offset[1] * _NM}"'
    levels = "".join(
        f'<dimension sizeX="{width // f}" sizeY="{height // f}" r="{n}" ifd="{n + 1}"/>' for n, f in enumerate((1, 2))
    )
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" '
        f'uuid="urn:uuid:00000000-0000-0000-0000-000000000001"><collection name="c" {canvas} barcode="x">'
        "<barcode>x</barcode>"
        + _image(
            "macro",
            2,
            'sizeX="128" sizeY="96"',
            '<dimension sizeX="128" sizeY="96" r="0" ifd="0"/>',
            f'{canvas} offsetX="0" offsetY="0"',
            0.6,
        )
        + _image(
            "main",
            3,
            f'sizeX="{width}" sizeY="{height}"',
            levels,
            f'sizeX="{width * _NM}" sizeY="{height * _NM}" {place}',
            20,
        )
        + "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        macro = np.full((96, 128, 3), 230, np.uint8)
        tif.write(macro, photometric="rgb", tile=(128, 128), description=xml, metadata=None)
        for factor in (1, 2):
            level = picture[::factor, ::factor]
            per_cm = 1e7 / (_NM * factor)
            tif.write(
                level,
                photometric="rgb",
                tile=(128, 128),
                metadata=None,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
            )
    return path


def write_sparse(
    path: Path, present: Callable[[int, int], bool], *, columns: int = 4, rows: int = 3, description: str = ""
) -> Path:
    """A plain tiled TIFF (128 px tiles, 0.5 um/px) that holds only the tiles (column, row) wanted."""
    tile = np.full((128, 128, 3), (215, 130, 175), np.uint8)
    code = imagecodecs.jpeg8_encode(tile, colorspace="RGB", outcolorspace="YCBCR", subsampling="444")
    codes = [code if present(x, y) else b"" for y in range(rows) for x in range(columns)]
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(
            iter(codes),
            shape=(rows * 128, columns * 128, 3),
            dtype=np.uint8,
            tile=(128, 128),
            photometric="ycbcr",
            subsampling=(1, 1),
            compression="jpeg",
            metadata=None,
            description=description or None,
            resolution=(2e4, 2e4),
            resolutionunit="CENTIMETER",
        )
    return path


def _image(name: str, number: int, pixels: str, dimensions: str, view: str, power: float) -> str:
    return (
        f'<image name="{name}" uuid="urn:uuid:00000000-0000-0000-0000-00000000000{number}">'
        '<creationDate>2020-01-01T00:00:00Z</creationDate><device model="Leica SCN400" version="1"/>'
        f'<pixels {pixels}>{dimensions}</pixels><view {view} spacingZ="0"/>'
        f"<scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings>"
        "<illuminationSettings><numericalAperture>0.4</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
    )
