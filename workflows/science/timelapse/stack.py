"""The stack: an opened file whose planes follow each other in time or depth, each at a known place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.images.video import FrameTimestamps
from workflows.errors import StackError
from wsi.cleanup import clean_up
from wsi.readers.opened import OpenedSlide
from wsi.readers.stack import Plane, Rendering

_SECONDS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_UM = {"nm": 1e-3, "um": 1.0, "mm": 1e3}
_STEP = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)")
_TIMES = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}


@dataclass(frozen=True, eq=False)
class Stack:
    """A time-lapse or a z-stack.

    Attributes
    ----------
    slide : OpenedSlide
        Its first frame; the others are read through the same handles.
    axis : str
        't' for frames in time, 'z' for planes in depth.
    stored : str
        The file's own name of that axis: 'z' where an axis without a name is said to be time.
    other : int
        Index along the axis that stays as it is.
    places : tuple of float
        Of every frame: s after the first, or um.
    source : str
        'file' or 'user': who says so.
    """

    slide: OpenedSlide
    axis: str
    stored: str
    other: int
    places: tuple[float, ...]
    source: str

    def __len__(self) -> int:
        return len(self.places)

    @property
    def unit(self) -> str:
        """Of `places`: 'seconds' or 'um'."""
        return "seconds" if self.axis == "t" else "um"

    def plane(self, frame: int) -> Plane:
        """The plane of the file that a frame is."""
        return Plane(t=frame, z=self.other) if self.stored == "t" else Plane(t=self.other, z=frame)

    def frame(self, frame: int) -> OpenedSlide:
        """One frame as a slide, with the channel ranges of the first."""
        return self.slide.on_plane(self.plane(frame))

    def picture(self, frame: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """One frame, whole, at a size (width, height) in px. uint8 (height, width, 3)."""
        slide = self.frame(frame)
        return slide.read_scaled(0, 0, slide.width, slide.height, size)

    def stamps(self, frames: tuple[int, ...], unit: str | None = None) -> FrameTimestamps:
        """The stamps of some frames, in s or um, or another unit of time.

        Raises
        ------
        StackError
            The unit is not one of time, or the stack is one of depth.
        """
        unit = unit or self.unit
        if unit != self.unit and (self.axis == "z" or unit not in _TIMES):
            raise StackError(f"--unit {unit} does not fit a stack of {self.unit}.")
        return FrameTimestamps(tuple(self.places[frame] / _TIMES.get(unit, 1.0) for frame in frames), unit)

    def close(self) -> None:
        """Close the file."""
        self.slide.close()


def parse_step(text: str | float, axis: str) -> float:
    """A step between frames in s (axis 't') or um ('z'): '30s', '5min', '0.5um', or a bare number.

    Raises
    ------
    StackError
        It is none, or not above zero.
    """
    units = _SECONDS if axis == "t" else _UM
    base = "s" if axis == "t" else "um"
    match = _STEP.fullmatch(str(text).strip().lower())
    if match is None or (match[2] or base) not in units or float(match[1]) <= 0:
        raise StackError(
            f"--interval {text!r} is no step in {'time' if axis == 't' else 'depth'}: write it like "
            f"{'30s, 5min or 2h' if axis == 't' else '0.5um or 250nm'}."
        )
    return float(match[1]) * units[match[2] or base]


def open_stack(
    path: Path | str,
    *,
    axis: str | None = None,
    interval: str | float | None = None,
    other: int = 0,
    mpp: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Stack:
    """Open a time-lapse or z-stack.

    Parameters
    ----------
    path : path
        OME-TIFF, ImageJ TIFF, OME-Zarr, or any other stack that `wsi.open_slide` reads.
    axis : str, optional
        't' or 'z'; needed where the file has both, or gives its axis no name.
    interval : str or float, optional
        Between neighbouring frames, in s or um; see `parse_step`. Where the file does not say.
    other : int
        Index along the axis that is not followed.
    mpp : float, optional
        um per px, where the file does not say.
    options : mapping, optional
        `rendering`, `series` and `colour` of `wsi.open_slide`, also in the words of the command line.

    Raises
    ------
    StackError
        One frame only, an axis that has to be named, or frames without times; nothing is guessed.
    SlideError
        See `wsi.errors`.
    """
    from wsi import open_slide

    path = Path(path)
    given = {key: value for key, value in (options or {}).items() if value is not None}
    if isinstance(given.get("rendering"), str):
        given["rendering"] = Rendering.parse(given["rendering"])
    if axis not in (None, "t", "z"):
        raise StackError(f"--axis {axis}: frames follow each other in time (t) or depth (z).")
    slide = open_slide(path, mpp=mpp, plane=Plane(), **given)
    try:
        return _stack(slide, path, axis, interval, other)
    except BaseException as error:
        clean_up(error, slide.close)
        raise


def _stack(slide: OpenedSlide, path: Path, axis: str | None, interval: str | float | None, other: int) -> Stack:
    layout = slide.layout
    sizes = {"t": layout.times, "z": layout.depths}
    if max(sizes.values()) == 1:
        raise StackError(f"{path} holds one frame only: ask about it as a picture (qwenvl ask, detect, ...).")
    if slide.unnamed and axis is None and layout.times == 1:
        raise StackError(
            f"{path} holds {layout.depths} pages and does not say what they follow each other in. Say --axis t for "
            "time or --axis z for depth."
        )
    if axis is None:
        if min(sizes.values()) > 1:
            raise StackError(f"{path} is a stack of {layout}: say --axis t or --axis z, and --at for the other.")
        axis = "t" if layout.times > 1 else "z"
    stored = axis
    if sizes[axis] == 1:
        if not (axis == "t" and slide.unnamed):
            raise StackError(f"{path} has one frame only along {axis}: it holds {layout}.")
        stored = "z"
    rest = sizes["z" if stored == "t" else "t"]
    if not 0 <= other < rest:
        raise StackError(f"--at {other}: the other axis of {path} goes from 0 to {rest - 1}.")
    if stored == "z" or other:
        slide = slide.on_plane(Plane(t=0, z=other) if stored == "t" else Plane(t=other, z=0))
    count = sizes[stored]
    if interval is not None:
        step = parse_step(interval, axis)
        return Stack(slide, axis, stored, other, tuple(i * step for i in range(count)), "user")
    if axis == "t" and stored == "t" and slide.seconds is not None:
        first = slide.seconds[0]
        return Stack(slide, axis, stored, other, tuple(at - first for at in slide.seconds), "file")
    if axis == "z" and not slide.unnamed and slide.depth_um is not None:
        return Stack(slide, axis, stored, other, tuple(i * slide.depth_um for i in range(count)), "file")
    what, example = ("when its frames were", "5min") if axis == "t" else ("how deep its planes were", "0.5um")
    raise StackError(
        f"{path} does not say {what} taken. Give the step between neighbours: --interval {example} on the command "
        f"line, open_stack(path, interval={example!r}) in Python."
    )
