"""Photographs: upright pixels of a file, and the part of them that a model is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workflows.instruments.errors import PhotographError

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
class Part:
    """What a model is shown of a photograph.

    Attributes
    ----------
    pixels : uint8 array (height, width, 3)
    left, top : int
        Of its first px in the photograph.
    scale_x, scale_y : float
        Px of the photograph per px of `pixels`.
    """

    pixels: Pixels
    left: int
    top: int
    scale_x: float
    scale_y: float

    @classmethod
    def of(cls, photograph: Pixels, region: Box | None, side: int | None) -> Part:
        """Cut and resize.

        Parameters
        ----------
        region : Box, optional
            In px of the photograph.
        side : int, optional
            Length of the longer side that the model is shown; None leaves the size to the model.

        Raises
        ------
        PhotographError
            The region lies outside the photograph.
        """
        import cv2

        height, width, _ = photograph.shape
        x0, y0, x1, y1 = (0, 0, width, height) if region is None else (round(v) for v in region)
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height or x1 - x0 < 8 or y1 - y0 < 8:
            raise PhotographError(
                f"region {x0}, {y0}, {x1}, {y1} does not fit a photograph of {width} x {height} px"
            )
        cut = photograph[y0:y1, x0:x1]
        if side is not None and max(cut.shape[:2]) != side:
            factor = side / max(cut.shape[:2])
            size = max(8, round(cut.shape[1] * factor)), max(8, round(cut.shape[0] * factor))
            way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
            cut = np.asarray(cv2.resize(cut, size, interpolation=way), np.uint8)
        return cls(np.ascontiguousarray(cut), x0, y0, (x1 - x0) / cut.shape[1], (y1 - y0) / cut.shape[0])

    def in_photograph(self, box: Box) -> Box:
        """A box in px of the photograph."""
        x0, y0, x1, y1 = box
        return (
            self.left + x0 * self.scale_x, self.top + y0 * self.scale_y, self.left + x1 * self.scale_x,
            self.top + y1 * self.scale_y,
        )  # fmt: skip
