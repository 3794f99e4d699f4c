"""Which plane of a stack is shown, and how its channels become red, green and blue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.errors import PlaneError
from wsi.slide import RGB

_COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "yellow": (255, 255, 0),
    "gray": (255, 255, 255),
}
_RANGE = re.compile(r"(-?\d+(?:\.\d*)?(?:e[+-]?\d+)?)-(-?\d+(?:\.\d*)?(?:e[+-]?\d+)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane of a stack: time point `t` and depth `z`, both from 0."""

    t: int = 0
    z: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 'z=3', 't=0' or 'z=3,t=0'. Raises PlaneError."""
        values: dict[str, int] = {}
        for part in text.replace(" ", "").lower().split(","):
            key, _, number = part.partition("=")
            if key not in ("t", "z") or not number.isdecimal() or key in values:
                raise PlaneError(f"Plane {text!r} is not understood. Write it like z=3 or z=3,t=0.")
            values[key] = int(number)
        return cls(**values)

    def __str__(self) -> str:
        return f"z={self.z},t={self.t}"


@dataclass(frozen=True, slots=True)
class ChannelColor:
    """One channel's share of the picture.

    Attributes
    ----------
    index : int
        Channel, from 0.
    color : (int, int, int)
        Red, green and blue (0 to 255) that the channel reaches at `high`.
    low, high : float or None
        Stored values shown as black and as the full colour. None means 0 and 255, for uint8 only.
    auto : bool
        Take `low` and `high` from the coarsest level when the slide is opened (0.5 % and 99.8 % percentile).
    """

    index: int
    color: tuple[int, int, int] = (255, 255, 255)
    low: float | None = None
    high: float | None = None
    auto: bool = False

    def __str__(self) -> str:
        name = next((n for n, rgb in _COLORS.items() if rgb == self.color), "{:02x}{:02x}{:02x}".format(*self.color))
        if self.low is not None and self.high is not None:
            return f"{self.index}:{name}:{self.low:.17g}-{self.high:.17g}"
        return f"{self.index}:{name}" + (":auto" if self.auto else "")


@dataclass(frozen=True, slots=True)
class Rendering:
    """Channels, each with colour and range, added up to one RGB picture."""

    channels: tuple[ChannelColor, ...]

    @classmethod
    def gray(cls, channel: int = 0, low: float | None = None, high: float | None = None) -> Self:
        """One channel from black to white."""
        return cls((ChannelColor(channel, low=low, high=high),))

    @classmethod
    def rgb(cls, low: float | None = None, high: float | None = None) -> Self:
        """Channels 0, 1 and 2 as red, green and blue, with one range for all."""
        primaries = (_COLORS["red"], _COLORS["green"], _COLORS["blue"])
        return cls(tuple(ChannelColor(i, color, low, high) for i, color in enumerate(primaries)))

    @classmethod
    def automatic(cls, *channels: int) -> Self:
        """The given channels, one as gray, more as red, green, ...; ranges from the coarsest level."""
        colors = [_COLORS["gray"]] if len(channels) == 1 else list(_COLORS.values())
        if not 1 <= len(channels) <= len(_COLORS) - 1:
            raise PlaneError(f"An automatic rendering takes 1 to {len(_COLORS) - 1} channels, not {len(channels)}.")
        return cls(tuple(ChannelColor(c, color, auto=True) for c, color in zip(channels, colors, strict=False)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 'rgb', 'gray', or channels like '0:red:0-4095,1:green,2:ff8000:auto'.

        Each channel is index, colour (a name or six hex digits; gray when left out) and range (low-high in
        stored values, or 'auto'; left out only for uint8). Raises PlaneError.
        """
        if text.strip().lower() == "rgb":
            return cls.rgb()
        if text.strip().lower() == "gray":
            return cls.gray()
        return cls(tuple(_parse_channel(part.strip(), text) for part in text.split(",")))

    def __str__(self) -> str:
        return ",".join(str(channel) for channel in self.channels)

    def with_ranges(self, ranges: dict[int, tuple[float, float]]) -> Self:
        """The same rendering with `auto` channels given the ranges found, by channel index."""
        return replace(
            self,
            channels=tuple(
                replace(c, low=ranges[c.index][0], high=ranges[c.index][1], auto=False) if c.auto else c
                for c in self.channels
            ),
        )

    def apply(self, planes: Sequence[NDArray[Any]]) -> RGB:
        """Make the picture.

        Parameters
        ----------
        planes : sequence of arrays (h, w)
            Stored values, one array per entry of `channels`; every range is known by now.

        Returns
        -------
        uint8 array (h, w, 3); sums above 255 stay at 255.
        """
        parts = []
        for component in range(3):
            part: NDArray[Any] | None = None
            for channel, values in zip(self.channels, planes, strict=True):
                if channel.color[component]:
                    shaded = _shaded(values, channel, component)
                    part = shaded if part is None else cv2.add(part, shaded)
            parts.append(np.zeros(planes[0].shape, np.uint8) if part is None else part)
            if all(len(set(channel.color)) == 1 for channel in self.channels):
                parts *= 3
                break
        return np.asarray(cv2.merge(parts), np.uint8)


def _parse_channel(part: str, text: str) -> ChannelColor:
    index, _, rest = part.partition(":")
    name, _, span = rest.partition(":")
    name = name.strip().lower().lstrip("#") or "gray"
    color = _COLORS.get("gray" if name in ("white", "grey") else name)
    if color is None and re.fullmatch(r"[0-9a-f]{6}", name):
        color = (int(name[:2], 16), int(name[2:4], 16), int(name[4:], 16))
    match = _RANGE.fullmatch(span.strip())
    if not index.strip().isdecimal() or color is None or (span and not match and span.strip().lower() != "auto"):
        raise PlaneError(
            f"Channel {part!r} of rendering {text!r} is not understood. Write index:colour:low-high, like "
            f"0:red:0-4095,1:green:auto. Colours: {', '.join(_COLORS)}, or six hex digits."
        )
    if match is None:
        return ChannelColor(int(index), color, auto=bool(span))
    low, high = float(match[1]), float(match[2])
    if low >= high:
        raise PlaneError(f"Channel {part!r} of rendering {text!r}: the range has to rise, like 0-4095.")
    return ChannelColor(int(index), color, low, high)


def _shaded(values: NDArray[np.generic], channel: ChannelColor, component: int) -> NDArray[np.uint8]:
    """A channel's share of one component of the image, uint8 (h, w)."""
    low, high = channel.low or 0.0, 255.0 if channel.high is None else channel.high
    full = channel.color[component]
    kind = np.dtype(np.uint8) if values.dtype == np.bool_ else values.dtype
    if kind.kind not in "iu" or kind.itemsize > 2:
        return _shade(values, low, high, full)
    # Few possible values: one look-up per sample, none where the values stay as they are.
    if kind == np.uint8 and (low, high, full) == (0.0, 255.0, 255):
        return np.ascontiguousarray(values).view(np.uint8)
    table = _table(kind.str, low, high, full)
    positive = np.ascontiguousarray(values).view(f"u{kind.itemsize}")
    return np.asarray(cv2.LUT(positive, table) if kind.itemsize == 1 else np.take(table, positive), np.uint8)


@lru_cache(maxsize=64)
def _table(kind: str, low: float, high: float, full: int) -> NDArray[np.uint8]:
    """The shade of every value of an integer type, by its bits read as an unsigned number."""
    dtype = np.dtype(kind)
    bits = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    return _shade(bits.view(dtype), low, high, full)


def _shade(values: NDArray[np.generic], low: float, high: float, full: int) -> NDArray[np.uint8]:
    share = np.clip((np.nan_to_num(values.astype(np.float64), nan=low) - low) / (high - low), 0, 1)
    return np.round(share * full).astype(np.uint8)
