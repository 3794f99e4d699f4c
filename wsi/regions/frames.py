"""Level-0 px of a slide and the px that QuPath shows of it: converted here and nowhere else.

Where OpenSlide states bounds (properties `openslide.bounds-x`, `-y`, `-width`, `-height`: Leica SCN, MIRAX, and tiled
TIFFs without their outer tiles), QuPath crops the slide to them unless it was opened with `--no-crop`: its px (0, 0)
is level-0 (bounds-x, bounds-y), in what it draws and in the GeoJSON that it writes (`OpenslideImageServer`). The
offset is whole px, so both ways are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from wsi.errors import FrameError, FrameNeededError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from wsi.slide import Slide

Bounds = tuple[int, int, int, int]
"""x0, y0, width, height in level-0 px."""

HEAD = "qwenvl"
"""Member of a FeatureCollection that holds what we record; QuPath reads `features` alone and drops it."""

_DECIMALS = 6
"""Coordinates are rounded to a millionth of a px where they are moved: what a file states comes back as it was."""

_GEOMETRIES = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon")


class PixelFrame(StrEnum):
    """Where px (0, 0) of coordinates lies."""

    LEVEL0 = "level0"
    """The top left corner of level 0 as the file holds it; every number of ours is in it."""
    QUPATH = "qupath"
    """The top left corner of what QuPath shows."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What the head of a GeoJSON file says about its coordinates.

    Attributes
    ----------
    frame : PixelFrame
    bounds : (x0, y0, width, height) or None
        Of the slide it was written for; None where QuPath shows all of that slide.
    bounds_stated : bool
        False where the file does not say which bounds.
    """

    frame: PixelFrame
    bounds: Bounds | None = None
    bounds_stated: bool = True

    @classmethod
    def of(cls, document: object, path: Path) -> Self | None:
        """The record in a GeoJSON document, or None where it has none: QuPath drops it when it writes the file again.

        Raises
        ------
        FrameError
            There is a record that cannot be understood.
        """
        head = document.get(HEAD) if isinstance(document, Mapping) else None
        if not isinstance(head, Mapping) or head.get("frame") is None:
            return None
        try:
            bounds = head.get("bounds")
            return cls(PixelFrame(head["frame"]), None if bounds is None else _bounds(bounds), "bounds" in head)
        except (TypeError, ValueError, OverflowError) as error:
            raise FrameError(
                f"{path} records its frame in a way that is not known ({error}). Export it again, or take "
                f"'frame' and 'bounds' out of its member {HEAD!r} and say --frame qupath or --frame level0."
            ) from error


@dataclass(frozen=True, slots=True)
class SlideFrames:
    """The frames of one slide.

    Attributes
    ----------
    bounds : (x0, y0, width, height) or None
        What QuPath shows, in level-0 px; None for the whole slide.
    """

    bounds: Bounds | None = None

    @classmethod
    def of(cls, slide: Slide) -> Self:
        """Frames of an opened slide."""
        return cls.cropped(slide.qupath_bounds, (slide.width, slide.height))

    @classmethod
    def cropped(cls, bounds: Bounds | None, size: tuple[int, int]) -> Self:
        """Frames of a slide of (width, height) level-0 px; bounds that hold all of it are none."""
        return cls(None if bounds is None or tuple(bounds) == (0, 0, *size) else _bounds(bounds))

    @property
    def offset(self) -> tuple[int, int]:
        """Level-0 px of QuPath's px (0, 0)."""
        return (0, 0) if self.bounds is None else self.bounds[:2]

    @property
    def differ(self) -> bool:
        """Whether the same numbers mean two places."""
        return self.offset != (0, 0)

    # ------------------------------------------------------------------ coordinates

    def to_level0(self, places: ArrayLike, frame: PixelFrame | str) -> NDArray[np.generic]:
        """Places of a frame in level-0 px.

        Parameters
        ----------
        places : numbers (..., 2 k)
            x and y in turn along the last axis: points (n, 2), boxes (n, 4).

        Returns
        -------
        array of the same shape: integers stay integers, other numbers are float64 and rounded to a millionth of a px
        where they are moved.
        """
        return _moved_array(places, self._offset_of(frame))

    def from_level0(self, places: ArrayLike, frame: PixelFrame | str) -> NDArray[np.generic]:
        """Level-0 px as places of a frame; the reverse of `to_level0`."""
        dx, dy = self._offset_of(frame)
        return _moved_array(places, (-dx, -dy))

    def document_to_level0(self, document: object, frame: PixelFrame | str) -> object:
        """A GeoJSON value (collection, list, feature or geometry) of a frame with every geometry in level-0 px."""
        offset = self._offset_of(frame)
        return document if offset == (0, 0) else _moved(document, *offset)

    def document_from_level0(self, document: object, frame: PixelFrame | str) -> Any:
        """A GeoJSON value in level-0 px as one of a frame; the reverse of `document_to_level0`."""
        dx, dy = self._offset_of(frame)
        return document if (dx, dy) == (0, 0) else _moved(document, -dx, -dy)

    def _offset_of(self, frame: PixelFrame | str) -> tuple[int, int]:
        return self.offset if PixelFrame(frame) is PixelFrame.QUPATH else (0, 0)

    # ------------------------------------------------------------------ records

    def record(self, frame: PixelFrame | str) -> dict[str, object]:
        """What goes into the head of a file in `frame`, for `FrameRecord.of`."""
        return {"frame": PixelFrame(frame).value, "bounds": None if self.bounds is None else list(self.bounds)}

    def settle(self, record: FrameRecord | None, given: PixelFrame | str | None, path: Path) -> PixelFrame:
        """The frame of a file's coordinates on this slide: as recorded, else as given; it is never assumed.

        Parameters
        ----------
        record : FrameRecord or None
            The file's own.
        given : PixelFrame or str, optional
            What the user says.
        path : Path
            For messages.

        Raises
        ------
        FrameNeededError
            Neither is there, and the slide has two frames.
        FrameError
            The record contradicts what is given, or was made for a slide with other bounds.
        """
        said = None if given is None else PixelFrame(given)
        if record is None:
            if said is None and self.differ:
                raise FrameNeededError(
                    f"{path} does not say in which px its coordinates are, and QuPath crops this slide: its px (0, 0) "
                    f"is level-0 px {self.offset}. Say --frame qupath if the file comes from QuPath (unless the slide "
                    "was opened there with --no-crop), or --frame level0 if its px count from the corner of the "
                    "whole slide (column 'frame' of a cohort's table, frame='qupath' in Python)."
                )
            return said or PixelFrame.LEVEL0
        if record.bounds_stated and record.bounds != self.bounds:
            raise FrameError(
                f"{path} was written for a slide of which QuPath shows {_in_words(record.bounds)}; of this slide it "
                f"shows {_in_words(self.bounds)}. It belongs to another slide or scan: choose the file of this one."
            )
        if said is not None and said is not record.frame:
            raise FrameError(
                f"{path} records that its coordinates are in the frame {record.frame.value!r}, and --frame says "
                f"{said.value!r}. Leave --frame out; if the coordinates were changed since, take 'frame' out of its "
                f"member {HEAD!r}."
            )
        return record.frame


def _bounds(values: Any) -> Bounds:
    if isinstance(values, (str, bytes)) or len(values) != 4 or any(int(v) != v for v in values):
        raise ValueError(f"bounds {values!r} are not four whole numbers")
    x0, y0, width, height = (int(v) for v in values)
    return x0, y0, width, height


def _in_words(bounds: Bounds | None) -> str:
    if bounds is None:
        return "all"
    return f"{bounds[2]}x{bounds[3]} px at level-0 px {bounds[:2]}"


def _moved_array(places: ArrayLike, offset: tuple[int, int]) -> NDArray[np.generic]:
    import numpy as np  # here: the command line's flags need `PixelFrame` alone

    array = np.asarray(places)
    if array.dtype.kind not in "iu":
        array = array.astype(np.float64, copy=False)
    if offset == (0, 0):
        return array
    if array.dtype.kind in "iu":
        return array.astype(np.int64) + np.resize(np.array(offset, np.int64), array.shape[-1])
    return np.round(array + np.resize(np.array(offset, np.float64), array.shape[-1]), _DECIMALS)


def _moved(value: object, dx: int, dy: int) -> object:
    """A JSON value with the coordinates of every geometry in it moved; what is no coordinate stays as it is."""
    if isinstance(value, list):
        return [_moved(item, dx, dy) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") in _GEOMETRIES and "coordinates" in value:
        kept = {key: part for key, part in value.items() if key != "bbox"}
        return kept | {"coordinates": _moved_coordinates(value["coordinates"], dx, dy)}
    return {key: _moved(part, dx, dy) for key, part in value.items() if key != "bbox"}


def _moved_coordinates(value: object, dx: int, dy: int) -> object:
    if not isinstance(value, list):
        return value
    if len(value) >= 2 and all(isinstance(number, int | float) for number in value[:2]):
        return [round(value[0] + dx, _DECIMALS), round(value[1] + dy, _DECIMALS), *value[2:]]
    return [_moved_coordinates(item, dx, dy) for item in value]


__all__ = ["HEAD", "Bounds", "FrameRecord", "PixelFrame", "SlideFrames"]
