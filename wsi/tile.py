"""The tile: a rectangle of one slide at one scale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a slide and the picture made of it.

    Attributes
    ----------
    index : int
        Position in the grid's reading order; stable for one grid.
    x0, y0, width0, height0 : int
        The rectangle in level-0 px, always inside the slide.
    width, height : int
        Size of the picture in px.
    """

    index: int
    x0: int
    y0: int
    width0: int
    height0: int
    width: int
    height: int

    def to_level0(self, tile_x: float, tile_y: float) -> tuple[float, float]:
        """Level-0 px of a point given in px of this tile's picture."""
        return self.x0 + tile_x * self.width0 / self.width, self.y0 + tile_y * self.height0 / self.height

    def to_tile(self, x0: float, y0: float) -> tuple[float, float]:
        """Px of this tile's picture of a point given in level-0 px."""
        return (x0 - self.x0) * self.width / self.width0, (y0 - self.y0) * self.height / self.height0
