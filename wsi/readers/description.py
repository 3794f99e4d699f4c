"""What one image of a file is, as the file itself states it: made once by a reader, asked by everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from wsi.readers.tiff.orientation import swaps_sides
from wsi.slide import Level


@dataclass(frozen=True)
class Layout:
    """What planes and channels an image holds.

    Attributes
    ----------
    dtype : numpy dtype
        Type of the stored samples.
    channels : int
        Number of channels that can be read one by one. Alpha is not one of them: it is applied.
    times, depths : int
        Number of time points and of z planes.
    is_rgb : bool
        The first three channels are red, green and blue in 8 bits and need no rendering.
    names : tuple of str
        Channel names where the file has them; empty otherwise.
    bits : int
        Bits that carry the value of a sample; 0 means all bits of `dtype`.
    """

    dtype: np.dtype[Any]
    channels: int
    times: int = 1
    depths: int = 1
    is_rgb: bool = False
    names: tuple[str, ...] = ()
    bits: int = 0

    @property
    def full(self) -> float | None:
        """The largest value a sample can have; None for signed and floating types, which state none."""
        if self.dtype == np.bool_:
            return 1.0
        if self.dtype.kind != "u":
            return None
        return float(2 ** (self.bits or 8 * self.dtype.itemsize) - 1)

    def __str__(self) -> str:
        parts = [f"{n} {name}" for n, name in ((self.times, "time points"), (self.depths, "z planes")) if n > 1]
        kind = f"{self.channels} channel{'s' * (self.channels != 1)} of {self.dtype.name}"
        if self.bits and self.bits != 8 * self.dtype.itemsize:
            kind += f" with {self.bits} bits"
        if any(self.names):
            kind += " (" + ", ".join(f"{i} {name}" for i, name in enumerate(self.names)) + ")"
        if self.is_rgb:
            more = self.channels - 3
            kind = "RGB" + (f" and {more} further channel{'s' * (more != 1)}" if more else "")
        return ", ".join([*parts, kind])


@dataclass(frozen=True)
class Description:
    """One image as its file states it.

    Attributes
    ----------
    levels : tuple of Level
        Highest resolution first; factors as stated per axis, from sizes only where nothing is stated.
    layout : Layout
        Planes and channels.
    image : str
        Name of this image in the file; empty where it has none.
    images : tuple of str
        Names and sizes of all images of the file, in the order that `series` counts.
    mpp_xy : (float, float) or None
        Micrometres per level-0 px along x and y of this image, never of another one in the file.
    mpp_from : str
        Where the file states the scale, in words; empty where it does not.
    orientation : int
        TIFF/EXIF orientation, 1 to 8: how stored pixels are to be turned.
    associated : tuple of str
        Names of label, macro and thumbnail images.
    properties : mapping of str to str
        Metadata as the file states it.
    files : tuple of Path
        Every file that the image consists of; their content makes the fingerprint.
    identity : str
        What else identifies an image whose content is not in `files` alone.
    hole : int or None
        Value of px that the file does not hold; None where there are no such px.
    icc_profile : bytes or None
        The ICC profile of the image's colours.
    qupath_bounds : (int, int, int, int) or None
        x0, y0, width and height, in level-0 px, of what QuPath shows; None where it shows all.
    seconds : tuple of float or None
        When each time point was taken, in s; None where the file does not say for all of them.
    depth_um : float or None
        Distance of neighbouring z planes in um.
    unnamed : str
        Which of 't' and 'z' is an axis that the file gives no name; '' where all have one.
    notes : tuple of str
        What was derived instead of stated, or left out, in one sentence each.
    """

    levels: tuple[Level, ...]
    layout: Layout
    image: str = ""
    images: tuple[str, ...] = ()
    mpp_xy: tuple[float, float] | None = None
    mpp_from: str = ""
    orientation: int = 1
    associated: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: tuple[Path, ...] = ()
    identity: str = ""
    hole: int | None = None
    icc_profile: bytes | None = None
    qupath_bounds: tuple[int, int, int, int] | None = None
    seconds: tuple[float, ...] | None = None
    depth_um: float | None = None
    unnamed: str = ""
    notes: tuple[str, ...] = ()

    def upright(self) -> Description:
        """The same image after turning: sides, factors and scale change places where `orientation` says so."""
        if self.orientation == 1:
            return self
        note = (
            f"Turned upright by its orientation tag ({self.orientation}); QuPath shows it as it is stored, so "
            "coordinates made here do not fit there."
        )
        if not swaps_sides(self.orientation):
            return replace(self, orientation=1, notes=(*self.notes, note))
        levels = tuple(Level(of.height, of.width, of.downsample_y, of.downsample_x) for of in self.levels)
        return replace(
            self,
            levels=levels,
            mpp_xy=None if self.mpp_xy is None else self.mpp_xy[::-1],
            orientation=1,
            notes=(*self.notes, note),
        )


def whole_levels(
    sizes: list[tuple[int, int]],
    stated: list[tuple[float, float] | None] | None = None,
    tiles: list[tuple[int, int] | None] | None = None,
) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """Levels of a pyramid from their sizes and the factors that the file states.

    Parameters
    ----------
    sizes : list of (width, height)
        Highest resolution first.
    stated : list of (float, float) or None, optional
        Level-0 px per px of each level along x and y, where the file says so. A stated factor that the sizes
        contradict by more than one tile (one px where there are no tiles) is left out, with a note.
    tiles : list of (width, height) or None, optional
        Tile size of each level: a level may be padded or cut to whole tiles.

    Returns
    -------
    levels : tuple of Level
    notes : tuple of str
        One sentence for every factor that is neither stated nor a whole number of px per px.

    Notes
    -----
    Pyramid writers shrink by a whole factor, level by level, and drop or round the remainder: 9274 px become
    2318 at a downsample of exactly 4, and 1000 px become 3 at 256. The whole step from the level before is
    taken where both sides agree with it to within one px of the smaller level.
    """
    levels = [Level(*sizes[0], 1.0, 1.0)]
    notes: list[str] = []
    for number, size in enumerate(sizes[1:], start=1):
        tile = tiles[number] if tiles else None
        said = stated[number] if stated else None
        if said is not None and not _fits(sizes[0], size, said, tile):
            notes.append(
                f"Level {number} states a factor of {said[0]:g} x {said[1]:g}, which its size of "
                f"{size[0]}x{size[1]} px contradicts; its size is used."
            )
            said = None
        if said is None:
            said, note = _from_sizes(levels[-1], sizes[0], size, tile, number)
            notes += [note] if note else []
        levels.append(Level(*size, *said))
    return tuple(levels), tuple(notes)


def _fits(
    size0: tuple[int, int], size: tuple[int, int], factors: tuple[float, float], tile: tuple[int, int] | None
) -> bool:
    slack = tile or (1, 1)
    return all(
        np.isfinite(f) and f >= 1 and abs(n0 / f - n) < max(1, s)
        for n0, n, f, s in zip(size0, size, factors, slack, strict=True)
    )


def _from_sizes(
    above: Level, size0: tuple[int, int], size: tuple[int, int], tile: tuple[int, int] | None, number: int
) -> tuple[tuple[float, float], str]:
    """Factors along x and y of a level that states none, and a note where they are not certain."""
    for before, factors in (
        ((above.width, above.height), (above.downsample_x, above.downsample_y)),
        (size0, (1.0, 1.0)),
    ):
        whole = _whole_step(before, size)
        if whole:
            return (factors[0] * whole, factors[1] * whole), ""
    apart = [_whole_step(size0[i : i + 1], size[i : i + 1]) for i in range(2)]
    if all(apart):
        return (float(apart[0]), float(apart[1])), ""
    if tile is not None and not any(n % t for n, t in zip(size, tile, strict=True)):
        # The smallest power of two whose level, padded to whole tiles, has this size.
        for step in (2**k for k in range(1, 24)):
            padded = [math.ceil(math.ceil(n0 / step) / t) * t for n0, t in zip(size0, tile, strict=True)]
            if padded == list(size):
                return (float(step), float(step)), (
                    f"Level {number} is padded to whole tiles; its factor is taken as {step:g} from its size."
                )
    exact = (size0[0] / size[0], size0[1] / size[1])
    mean = (exact[0] + exact[1]) / 2
    both = exact if abs(exact[0] - exact[1]) > 0.02 * mean else (mean, mean)
    return both, f"The factor of level {number} is not stated; {both[0]:.6g} x {both[1]:.6g} is its size's."


def _whole_step(before: tuple[int, ...], size: tuple[int, ...]) -> int:
    """The whole number by which sides shrank, each to within one px; a power of two before others, 0 if none."""
    low = max(n0 / (n + 1) for n0, n in zip(before, size, strict=True))
    high = min(n0 / max(n - 1, 0.5) for n0, n in zip(before, size, strict=True))
    wanted = sum(n0 / n for n0, n in zip(before, size, strict=True)) / len(size)
    fits = [s for s in range(max(1, math.floor(low)), math.ceil(min(high, low + 4096)) + 1) if low < s < high]
    if not fits:
        return 0
    return min(fits, key=lambda s: (s & (s - 1) != 0, abs(s - wanted)))
