"""Pixels: slides and stacks become tiles. Names are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsi.errors import (
    ColourError,
    FrameError,
    FrameNeededError,
    GridError,
    MaskError,
    PlaneError,
    ReadError,
    RegionError,
    SlideError,
    SlideNotFoundError,
    UnknownMppError,
    UnsupportedSlideError,
)
from wsi.tile import Tile

if TYPE_CHECKING:
    from wsi.frames import PixelFrame, SlideFrames
    from wsi.grid import TileGrid
    from wsi.loader import read_tile
    from wsi.readers.describe import describe
    from wsi.readers.description import Description
    from wsi.readers.opened import OpenedSlide
    from wsi.readers.registry import open_slide
    from wsi.readers.stack import ChannelColor, Plane, Rendering
    from wsi.slide import Level, Slide
    from wsi.tissue import TissueMask

_HOMES = {
    "ChannelColor": "wsi.readers.stack",
    "Description": "wsi.readers.description",
    "Level": "wsi.slide",
    "OpenedSlide": "wsi.readers.opened",
    "PixelFrame": "wsi.frames",
    "Plane": "wsi.readers.stack",
    "Rendering": "wsi.readers.stack",
    "Slide": "wsi.slide",
    "SlideFrames": "wsi.frames",
    "TileGrid": "wsi.grid",
    "TissueMask": "wsi.tissue",
    "describe": "wsi.readers.describe",
    "open_slide": "wsi.readers.registry",
    "read_tile": "wsi.loader",
}

__all__ = [
    "ChannelColor",
    "ColourError",
    "Description",
    "FrameError",
    "FrameNeededError",
    "GridError",
    "Level",
    "MaskError",
    "OpenedSlide",
    "PixelFrame",
    "Plane",
    "PlaneError",
    "ReadError",
    "RegionError",
    "Rendering",
    "Slide",
    "SlideError",
    "SlideFrames",
    "SlideNotFoundError",
    "Tile",
    "TileGrid",
    "TissueMask",
    "UnknownMppError",
    "UnsupportedSlideError",
    "describe",
    "open_slide",
    "read_tile",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
