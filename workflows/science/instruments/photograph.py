"""Photographs: upright pixels of a file, and the part of them that a model is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workflows.science.instruments.errors import PhotographError

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
_MOST = 200_000_000


def load_photograph(path: Path) -> Pixels:
    """Read a photograph as people see it: turned by what the camera noted (EXIF), as RGB.

    Returns
    -------
    uint8 array (height, width, 3)

    Raises
    ------
    PhotographError
        Not a picture, damaged, cut off, or larger than 200 megapixels.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > _MOST:
                raise PhotographError(f"{path.name}: {opened.width} x {opened.height} px is no photograph")
            upright = ImageOps.exif_transpose(opened)
            if upright.mode in ("I", "I;16", "F"):
                raise PhotographError(
                    f"{path.name}: {upright.mode} pixels are measurements, not a photograph; convert it to 8 bits"
                )
            if upright.mode in ("RGBA", "LA", "PA"):
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            return np.asarray(upright.convert("RGB"), np.uint8)
    except PhotographError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PhotographError(f"{path.name} cannot be read as a picture: {error}") from error


def photograph_size(path: Path) -> tuple[int, int]:
    """Width and height in px of the upright photograph, from the head of its file.

    Raises
    ------
    PhotographError
        Not a picture, or damaged.
    """
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as opened:
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (opened.height, opened.width) if turned else opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PhotographError(f"{path.name} cannot be read as a picture: {error}") from error


def list_photographs(paths: list[Path]) -> list[Path]:
    """The files of some files and folders, sorted by name within a folder.

    Raises
    ------
    PhotographError
        A path does not exist, or a folder holds no picture.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise PhotographError(f"{path} holds no pictures ({', '.join(SUFFIXES)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise PhotographError(f"{path} does not exist")
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class PhotographPart:
    """What a model is shown of a photograph.

    Attributes
    ----------
    region : tuple of int
        x_min, y_min, x_max, y_max in px of the photograph.
    size : (int, int)
        Width and height in px of what is shown.
    """

    region: tuple[int, int, int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], region: Box | None, side: int | None) -> PhotographPart:
        """Choose what is shown.

        Parameters
        ----------
        size : (int, int)
            Width and height of the photograph in px.
        region : Box, optional
            In px of the photograph; None for all of it.
        side : int, optional
            Length of the longer side that the model is shown; None leaves the size to the model.

        Raises
        ------
        PhotographError
            The region lies outside the photograph.
        """
        width, height = size
        x0, y0, x1, y1 = (0, 0, width, height) if region is None else (round(v) for v in region)
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height or x1 - x0 < 8 or y1 - y0 < 8:
            raise PhotographError(f"region {x0}, {y0}, {x1}, {y1} does not fit a photograph of {width} x {height} px")
        cut = x1 - x0, y1 - y0
        if side is not None and max(cut) != side:
            factor = side / max(cut)
            return cls((x0, y0, x1, y1), (max(8, round(cut[0] * factor)), max(8, round(cut[1] * factor))))
        return cls((x0, y0, x1, y1), cut)

    def cut(self, photograph: Pixels) -> Pixels:
        """What is shown, uint8 (height, width, 3), of the pixels of the photograph."""
        import cv2

        x0, y0, x1, y1 = self.region
        pixels = photograph[y0:y1, x0:x1]
        if self.size != (x1 - x0, y1 - y0):
            way = cv2.INTER_AREA if self.size[0] < x1 - x0 else cv2.INTER_CUBIC
            pixels = np.asarray(cv2.resize(pixels, self.size, interpolation=way), np.uint8)
        return np.ascontiguousarray(pixels)

    def in_photograph(self, box: Box) -> Box:
        """A box in px of the photograph, given one in px of what is shown."""
        left, top, right, bottom = self.region
        scale_x, scale_y = (right - left) / self.size[0], (bottom - top) / self.size[1]
        x0, y0, x1, y1 = box
        return left + x0 * scale_x, top + y0 * scale_y, left + x1 * scale_x, top + y1 * scale_y
