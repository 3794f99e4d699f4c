"""The slide that `open_slide` returns: a source, turned upright, with plane, rendering and scale settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from wsi.errors import ColourError, PlaneError, UnknownMppError
from wsi.files.identity import FileWatch
from wsi.pixels.colour import COLOURS, INTENT, SrgbConverter
from wsi.readers.choices import settle
from wsi.readers.description import Description, Layout
from wsi.readers.source import PixelSource
from wsi.readers.stack import Plane, Rendering
from wsi.readers.tiff.orientation import stored_region, turn
from wsi.slide import RGB, Slide

_LOW_PERCENTILE, _HIGH_PERCENTILE = 0.5, 99.8
_AUTO_BLOCK = 1024
_AUTO_BLOCKS = 16


@dataclass(frozen=True)
class OpenOptions:
    """What the user chose when opening; pickled with the slide."""

    mpp: tuple[float, float] | None = None
    plane: Plane | None = None
    rendering: Rendering | None = None
    series: int | None = None
    reader: str | None = None
    colour: str = "stored"


Reopen = Callable[[str, OpenOptions], "OpenedSlide"]
"""Opens a path again as it was opened before. Pickle calls it, so that it must have a name to be imported by."""


class OpenedSlide(Slide):
    """A slide over any `PixelSource`.

    Attributes
    ----------
    description : Description
        What the file states of this image, turned upright.
    options : mapping of str to str
        How it was opened, for provenance: reader, and where given mpp, plane, rendering, series
        and colour. The strings are those that the command line and `Plane.parse` and `Rendering.parse` read.
    """

    description: Description
    options: Mapping[str, str]

    def __init__(self, source: PixelSource, options: OpenOptions, again: Reopen) -> None:
        self._source, self._again = source, again
        self.path = source.path
        self.reader = source.name
        self._turn = source.description.orientation
        self.description = source.description.upright()
        self.levels = self.description.levels
        self.mpp_xy, self.mpp_source = _scale(source, self.description.mpp_xy, options.mpp)
        self.qupath_bounds = self.description.qupath_bounds
        choices = settle(source.path, source.layout, options.plane, options.rendering)
        self._plane, rendering = choices.plane, choices.rendering
        found: dict[str, str] = {}
        if rendering is not None and any(channel.auto for channel in rendering.channels):
            ranges = {c.index: _auto_range(source, self._plane, c.index) for c in rendering.channels if c.auto}
            found = {f"rendering.auto.{index}": f"{low:g}-{high:g}" for index, (low, high) in ranges.items()}
            rendering = rendering.with_ranges(ranges)
        self._rendering = rendering
        self._to_srgb = self._converter(options.colour)
        stack = source.layout.times > 1 or source.layout.depths > 1
        self._options = OpenOptions(
            options.mpp,
            self._plane if stack else options.plane,
            rendering,
            options.series,
            options.reader,
            options.colour,
        )
        self.properties = MappingProxyType({**self.description.properties, **found})
        chosen = {
            "reader": source.name,
            "mpp": options.mpp and "{:.17g},{:.17g}".format(*options.mpp),
            "plane": self._options.plane,
            "rendering": rendering,
            "series": options.series,
            "colour": None if options.colour == "stored" else options.colour,
        }
        self.options = MappingProxyType({k: str(v) for k, v in chosen.items() if v is not None})

    def _converter(self, colour: str) -> SrgbConverter | None:
        """What turns stored colours into those asked for; None where they stay. Raises ColourError."""
        if colour not in COLOURS:
            raise ColourError(f"No colours are called {colour!r}; known are {', '.join(COLOURS)}.")
        if colour == "stored":
            return None
        if self._rendering is not None:
            raise ColourError(
                f"{self.path} is shown by a rendering of its channels ({self.layout}), which has no ICC profile: "
                "leave out --colour srgb, which is for RGB as stored."
            )
        profile, convert = self.description.icc_profile, None
        note = "The file holds no ICC profile; its colours are taken as sRGB."
        if profile is not None:
            convert = SrgbConverter(profile, self.path)
            note = f"Colours are converted to sRGB by the file's ICC profile {convert.name!r} ({INTENT})."
        self.description = replace(self.description, notes=(*self.description.notes, note))
        return convert

    def read(self, x0: int, y0: int, width: int, height: int, level: int = 0) -> RGB:
        """A region of one level; see `Slide`. Colours are converted after reading, where that was asked for."""
        pixels = super().read(x0, y0, width, height, level)
        return pixels if self._to_srgb is None else self._to_srgb(pixels)

    def read_scaled(self, x0: int, y0: int, width0: int, height0: int, size: tuple[int, int]) -> RGB:
        """A rectangle at another scale; see `Slide`. Colours are converted after resampling."""
        pixels = super().read_scaled(x0, y0, width0, height0, size)
        return pixels if self._to_srgb is None else self._to_srgb(pixels)

    def _read(self, x: int, y: int, width: int, height: int, level: int) -> RGB:
        if self._turn != 1:
            of = self._source.levels[level]
            x, y, width, height = stored_region(x, y, width, height, (of.width, of.height), self._turn)
        plane = self._plane
        if self._rendering is None:
            pixels = self._source.read_rgb(x, y, width, height, level, plane.t, plane.z)
        else:
            channels = [channel.index for channel in self._rendering.channels]
            pixels = self._rendering.apply(
                self._source.read_channels(x, y, width, height, level, plane.t, plane.z, channels)
            )
        return turn(pixels, self._turn)

    def _read_shrunk(self, x: int, y: int, width: int, height: int, level: int, factor: int) -> RGB:
        if self._turn != 1 or self._rendering is not None:
            return super()._read_shrunk(x, y, width, height, level, factor)
        plane = self._plane
        return self._source.read_shrunk(x, y, width, height, level, plane.t, plane.z, factor)

    def _reopen(self) -> tuple[object, tuple[object, ...]]:
        return self._again, (str(self.path.absolute()), self._options)

    @property
    def layout(self) -> Layout:
        """Planes and channels of the file; one plane of it is this slide."""
        return self.description.layout

    @property
    def seconds(self) -> tuple[float, ...] | None:
        """When each time point was taken, in s; None where the file does not say. Never guessed."""
        return self.description.seconds

    @property
    def depth_um(self) -> float | None:
        """Distance of neighbouring z planes in um; None where the file does not say."""
        return self.description.depth_um

    @property
    def unnamed(self) -> str:
        """'z' where the depths of `layout` are an axis that the file gives no name; '' otherwise."""
        return self.description.unnamed

    def on_plane(self, plane: Plane) -> OpenedSlide:
        """Another plane of the same file, through the same handles, with the channel ranges of this one."""
        return OpenedSlide(self._source, replace(self._options, plane=plane), self._again)

    def in_colour(self, colour: str) -> OpenedSlide:
        """The same slide with 'stored' or 'srgb' colours, through the same handles. Raises ColourError."""
        return OpenedSlide(self._source, replace(self._options, colour=colour), self._again)

    @property
    def watch(self) -> FileWatch:  # type: ignore[override]
        """Every file that the slide consists of, shared by all planes and colours; see `wsi.files.identity`."""
        return self._source.watch

    @property
    def associated(self) -> Sequence[str]:
        """Names of associated images (label, macro, thumbnail)."""
        return self.description.associated

    def read_associated(self, name: str) -> RGB:
        """An associated image as uint8 (h, w, 3). Raises KeyError for an unknown name, ReadError."""
        return self._source.read_associated(name)

    def close(self) -> None:
        """Release file handles; reading afterwards raises ReadError."""
        self._source.close()

    def __repr__(self) -> str:
        mpp = "unknown scale" if self.mpp is None else f"{self.mpp:.4g} um/px"
        return f"<{self.reader} slide {self.path.name}: {self.width}x{self.height} px, {mpp}>"


def _scale(
    source: PixelSource, stated: tuple[float, float] | None, mpp: tuple[float, float] | None
) -> tuple[tuple[float, float] | None, str]:
    if mpp is not None:
        if not all(np.isfinite(side) and side > 0 for side in mpp):
            raise UnknownMppError(f"mpp={mpp} given for {source.path} is not a positive number of um per px.")
        return mpp, "user"
    return stated, "unknown" if stated is None else "file"


def _auto_range(source: PixelSource, plane: Plane, channel: int) -> tuple[float, float]:
    """Percentiles of one channel on the coarsest level; of evenly spread blocks where that level is large."""
    level = len(source.levels) - 1
    of = source.levels[level]
    blocks = []
    for y in _starts(of.height):
        for x in _starts(of.width):
            width, height = min(_AUTO_BLOCK, of.width - x), min(_AUTO_BLOCK, of.height - y)
            blocks.append(source.read_channel(x, y, width, height, level, plane.t, plane.z, channel).ravel())
    values = np.concatenate(blocks)
    values = values[np.isfinite(values)].astype(np.float64)
    if not values.size:
        raise PlaneError(f"Channel {channel} of {source.path} holds no finite value; give its range.")
    low, high = np.percentile(values, [_LOW_PERCENTILE, _HIGH_PERCENTILE])
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1)


def _starts(size: int) -> list[int]:
    per_side = int(_AUTO_BLOCKS**0.5)
    if size <= per_side * _AUTO_BLOCK:
        return list(range(0, size, _AUTO_BLOCK))
    return [round(i * (size - _AUTO_BLOCK) / (per_side - 1)) for i in range(per_side)]
