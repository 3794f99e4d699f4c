"""Tiles cut out of labelled areas: around labels and between them, and none where labels may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from finetune.dataset.samples import Area, Dataset, Label, SlideEntry
from finetune.errors import RecipeError
from qwenvl.answer import TileObject
from wsi.tile import Tile

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_INSIDE = 0.999  # share of a tile that must lie in an exhaustively labelled area


class TileSpec(BaseModel):
    """Size and scale of the tiles that are cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(448, ge=32, le=8192, description="Side of a tile's picture in px.")
    mpp: float | None = Field(None, gt=0, description="Scale in um/px; needs slides that state theirs.")
    downsample: float | None = Field(None, gt=0, description="Level-0 px per px of the picture, in place of mpp.")
    overlap: float = Field(0.25, ge=0, lt=0.9, description="Overlap of neighbouring tiles as a share of their side.")
    visible: float = Field(
        0.35, ge=0, le=1, description="Objects of which a tile shows less than this share are not named in it."
    )
    least_side: float = Field(3.0, ge=0, description="Objects smaller than this many px in the picture are left out.")

    @model_validator(mode="after")
    def _one_scale(self) -> TileSpec:
        if self.mpp is not None and self.downsample is not None:
            raise ValueError("mpp and downsample are two ways to give one scale; leave one out")
        return self

    def side0(self, entry: SlideEntry) -> int:
        """Side of a tile in level-0 px of a slide.

        Raises
        ------
        RecipeError
            `mpp` is asked of a slide whose scale is unknown.
        """
        if self.mpp is None:
            return max(1, round(self.size * (self.downsample or 1.0)))
        if entry.mpp is None:
            raise RecipeError(
                f"tiles at {self.mpp} um/px: slide {entry.id} does not state its pixel size; build the dataset with "
                "--mpp, or give tile.downsample (level-0 px per px) instead"
            )
        return max(1, round(self.size * self.mpp / entry.mpp))


@dataclass(frozen=True)
class LabelledCut:
    """A tile of a slide and the labels that belong into its answer, in px of its picture."""

    slide: str
    tile: Tile
    objects: tuple[TileObject, ...]

    @property
    def key(self) -> str:
        """The same for the same pixels."""
        t = self.tile
        return f"{self.slide}:{t.x0}:{t.y0}:{t.width0}:{t.height0}:{t.width}:{t.height}"


def place_tile(entry: SlideEntry, x0: float, y0: float, spec: TileSpec, index: int = 0) -> Tile:
    """A tile with its corner at (x0, y0), moved inside the slide; of a slide smaller than that, all of it."""
    side = spec.side0(entry)
    width0, height0 = min(side, entry.width), min(side, entry.height)
    left = int(np.clip(round(x0), 0, entry.width - width0))
    top = int(np.clip(round(y0), 0, entry.height - height0))
    width, height = (max(1, round(spec.size * length / side)) for length in (width0, height0))
    return Tile(index, left, top, width0, height0, width, height)


def objects_in(tile: Tile, labels: Sequence[Label], spec: TileSpec) -> tuple[TileObject, ...]:
    """Labels that a tile shows, in px of its picture, cut at its border.

    An object of which less than `spec.visible` shows is left out, as is one below `spec.least_side` px.
    """
    found = []
    for label in labels:
        x0, y0, x1, y1 = label.box
        if label.is_point:
            if tile.x0 <= x0 < tile.x0 + tile.width0 and tile.y0 <= y0 < tile.y0 + tile.height0:
                found.append(TileObject(label.name, point=tile.to_tile(x0, y0)))
            continue
        cx0, cy0 = max(x0, tile.x0), max(y0, tile.y0)
        cx1, cy1 = min(x1, tile.x0 + tile.width0), min(y1, tile.y0 + tile.height0)
        if cx1 <= cx0 or cy1 <= cy0 or (cx1 - cx0) * (cy1 - cy0) < spec.visible * (x1 - x0) * (y1 - y0):
            continue
        box = (*tile.to_tile(cx0, cy0), *tile.to_tile(cx1, cy1))
        if min(box[2] - box[0], box[3] - box[1]) >= spec.least_side:
            found.append(TileObject(label.name, box=box))
    return tuple(found)


class Cutter:
    """Cuts the tiles of a dataset.

    Parameters
    ----------
    dataset : Dataset
    spec : TileSpec
    names : sequence of str
        Classes that will be asked for; an area counts where all of them are labelled exhaustively.
    """

    def __init__(self, dataset: Dataset, spec: TileSpec, names: Sequence[str]) -> None:
        self.dataset, self.spec, self.names = dataset, spec, tuple(names)
        self._labels = {
            slide: [label for label in labels if label.name in self.names]
            for slide, labels in dataset.by_slide().items()
        }
        wanted = set(self.names)
        self._areas: dict[str, list[Area]] = {}
        for area in dataset.areas:
            if not area.names or wanted <= set(area.names):
                self._areas.setdefault(area.slide, []).append(area)
        self._shape = lru_cache(maxsize=4096)(self._make_shape)

    def _make_shape(self, slide: str) -> BaseGeometry:
        import shapely

        shapes = [shapely.make_valid(shapely.Polygon(area.ring)) for area in self._areas.get(slide, [])]
        shape = shapely.union_all(shapes) if shapes else shapely.Polygon()
        shapely.prepare(shape)
        return shape

    def allowed(self, entry: SlideEntry, tile: Tile) -> bool:
        """Whether all of the tile lies where everything is labelled."""
        import shapely

        box = shapely.box(tile.x0, tile.y0, tile.x0 + tile.width0, tile.y0 + tile.height0)
        shape = self._shape(entry.id)
        return bool(shape.covers(box)) or shape.intersection(box).area >= _INSIDE * box.area

    def cut(self, entry: SlideEntry, tile: Tile) -> LabelledCut:
        """The tile with its labels."""
        return LabelledCut(entry.id, tile, objects_in(tile, self._labels[entry.id], self.spec))

    def grid(self, entry: SlideEntry, *, overlap: float | None = None) -> list[LabelledCut]:
        """Tiles side by side over every area of a slide; the last of a row is moved inwards."""
        tiles: dict[tuple[int, int], Tile] = {}
        side = self.spec.side0(entry)
        step = max(1, round(side * (1 - (self.spec.overlap if overlap is None else overlap))))
        for area in self._areas.get(entry.id, []):
            xs, ys = (sorted(values) for values in zip(*area.ring, strict=True))
            for y in _starts(ys[0], ys[-1], side, step):
                for x in _starts(xs[0], xs[-1], side, step):
                    tile = place_tile(entry, x, y, self.spec)
                    if (tile.x0, tile.y0) not in tiles and self.allowed(entry, tile):
                        tiles[tile.x0, tile.y0] = tile
        return [self.cut(entry, tile) for _, tile in sorted(tiles.items(), key=lambda item: item[0][::-1])]

    def around(self, entry: SlideEntry, label: Label, rng: np.random.Generator) -> LabelledCut | None:
        """A tile that shows a label at a random place; None where no such tile lies in an area."""
        side = self.spec.side0(entry)
        centre = np.array([label.box[0] + label.box[2], label.box[1] + label.box[3]]) / 2
        for _ in range(8):
            corner = centre - rng.uniform(0.15, 0.85, 2) * side
            tile = place_tile(entry, corner[0], corner[1], self.spec)
            if self.allowed(entry, tile):
                return self.cut(entry, tile)
        return None

    def anywhere(self, entry: SlideEntry, rng: np.random.Generator) -> LabelledCut | None:
        """A tile at a random place of a random area; None where none is found in eight attempts."""
        areas = self._areas.get(entry.id, [])
        if not areas:
            return None
        side = self.spec.side0(entry)
        area = areas[int(rng.integers(len(areas)))]
        xs, ys = (np.array(values) for values in zip(*area.ring, strict=True))
        for _ in range(8):
            x = rng.uniform(xs.min(), max(xs.min(), xs.max() - side))
            y = rng.uniform(ys.min(), max(ys.min(), ys.max() - side))
            tile = place_tile(entry, x, y, self.spec)
            if self.allowed(entry, tile):
                return self.cut(entry, tile)
        return None

    def labels_of(self, entry: SlideEntry) -> list[Label]:
        """Labels of a slide, of the classes asked for."""
        return self._labels[entry.id]

    def usable(self, split: str) -> tuple[SlideEntry, ...]:
        """Slides of a split with at least one tile.

        Raises
        ------
        RecipeError
            No slide of the split has an exhaustively labelled area as large as a tile.
        """
        entries = self.dataset.of_split(split)
        if not entries:
            raise RecipeError(
                f"dataset {self.dataset.name} has no slide in split '{split}'; run qwenvl dataset split first"
            )
        usable = tuple(entry for entry in entries if self.grid(entry))
        if not usable:
            raise RecipeError(
                f"no tile of {self.spec.size} px fits an exhaustively labelled area of split '{split}' for "
                f"{', '.join(self.names)}. Teaching tiles with missing labels would teach that the unlabelled objects "
                "are not there: say where all is labelled (qwenvl dataset build --area-class ROI, or --exhaustive "
                "whole), or use smaller tiles"
            )
        return usable


def _starts(low: float, high: float, side: int, step: int) -> NDArray[np.float64]:
    """Left edges of tiles of `side` that cover low..high; the last one is moved inwards."""
    if high - low <= side:
        return np.array([low])
    count = int(np.ceil((high - low - side) / step))
    return np.minimum(low + np.arange(count + 1) * step, high - side)
