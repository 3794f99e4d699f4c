"""The image of a tile, or an error that says which tile it was."""

from __future__ import annotations

from wsi.errors import ReadError, SlideError
from wsi.slide import RGB, Slide
from wsi.tile import Tile


def read_tile(slide: Slide, tile: Tile) -> RGB:
    """The image of a tile, uint8 (height, width, 3); whatever goes wrong is a SlideError that names tile and slide."""
    try:
        return slide.read_scaled(tile.x0, tile.y0, tile.width0, tile.height0, (tile.width, tile.height))
    except SlideError:
        raise
    except Exception as error:
        raise ReadError(
            f"Tile {tile.index} at ({tile.x0}, {tile.y0}) of {slide.path} could not be read: {error!r}."
        ) from error
