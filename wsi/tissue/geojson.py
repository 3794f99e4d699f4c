"""Regions of a GeoJSON file as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsi.errors import MaskError
from wsi.regions.frames import PixelFrame, SlideFrames
from wsi.regions.geojson import load_geojson

_SHIFT = 6
"""Fraction bits of the corners given to the rasteriser."""


def read_regions(
    path: Path, size: tuple[int, int], frames: SlideFrames, frame: PixelFrame | str | None = None
) -> tuple[BaseGeometry, dict[str, object]]:
    """The union of a file's polygons, clipped to the slide.

    Parameters
    ----------
    path : Path
        GeoJSON as QuPath writes it (RFC 7946 shapes, coordinates in px), plain or gzip.
    size : (width, height)
        Size of the slide in level-0 px.
    frames : SlideFrames
        Of the slide.
    frame : PixelFrame or str, optional
        Frame of the coordinates, for a file that does not record it.

    Returns
    -------
    regions : shapely geometry
        Polygon or MultiPolygon in level-0 px.
    details : dict
        JSON values: file name, polygons read, shapes without area left out, invalid outlines mended.

    Raises
    ------
    MaskError
        The file cannot be read, is not GeoJSON, or holds no region on the slide.
    FrameNeededError, FrameError
        See `SlideFrames.settle`.
    """
    return union(load_geojson(path, frames, frame, error=MaskError), path, size)


def union(document: object, path: Path, size: tuple[int, int]) -> tuple[BaseGeometry, dict[str, object]]:
    """What `read_regions` makes of a document in level-0 px; `path` is for messages."""
    polygons: list[BaseGeometry] = []
    left_out = 0
    for where, geometry in _geometries(document, "the file"):
        shape = _shape(geometry, path, where)
        parts = _areas(shape)
        left_out += not parts
        polygons += parts
    valid = shapely.is_valid(polygons)
    mended = [p if ok else shapely.make_valid(p) for p, ok in zip(polygons, valid, strict=True)]
    if shapely.area(mended).sum() == 0:
        raise MaskError(f"{path} holds no polygon. Draw the regions as areas and export them again.")
    regions = shapely.intersection(shapely.union_all(mended), shapely.box(0, 0, *size))
    areas = _areas(regions)
    if not areas:
        bounds = ", ".join(f"{v:.0f}" for v in shapely.total_bounds(mended))
        raise MaskError(
            f"No region of {path} lies on the slide ({size[0]}x{size[1]} px); the regions span {bounds}. "
            "Is the file of this slide, and are its coordinates px of its highest resolution?"
        )
    details = {
        "file": path.name,
        "polygons": len(polygons),
        "shapes_without_area": left_out,
        "outlines_mended": int((~valid).sum()),
    }
    return shapely.multipolygons(areas), details


def rasterise(regions: BaseGeometry, size: tuple[int, int], side: int) -> NDArray[np.bool_]:
    """Paint polygons (level-0 px) on a picture of the slide whose longer side is at most `side` px.

    Every px that a region touches is set, so that a region thinner than a px still counts.
    """
    factor = min(1.0, side / max(size))
    width, height = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    picture = np.zeros((height, width), np.uint8)
    # A corner at x lies in px floor(x); the rasteriser counts from px centres, hence the half.
    scale = np.array([width / size[0], height / size[1]])
    for polygon in shapely.get_parts(regions):
        rings = [
            np.round((np.asarray(ring.coords)[:, :2] * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)
            for ring in (polygon.exterior, *polygon.interiors)
        ]
        cv2.fillPoly(picture, rings, 1, lineType=cv2.LINE_8, shift=_SHIFT)
    return picture.astype(bool)


def _geometries(value: object, where: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Every geometry of a document, with words for its place."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _geometries(item, f"feature {i}")
    elif isinstance(value, dict) and "features" in value:
        yield from _geometries(value["features"], where)
    elif isinstance(value, dict) and "geometry" in value:
        if value["geometry"] is not None:
            yield from _geometries(value["geometry"], where)
    elif isinstance(value, dict) and ("coordinates" in value or "geometries" in value):
        yield where, value


def _shape(geometry: dict[str, Any], path: Path, where: str) -> BaseGeometry:
    """A shapely geometry of a GeoJSON one; QuPath's extra keys are ignored."""
    try:
        shape = shapely.from_geojson(json.dumps(_close_rings(geometry)))
    except (shapely.errors.ShapelyError, TypeError, ValueError) as error:
        raise MaskError(f"{path}: {where} has no usable outline: {error}.") from error
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise MaskError(f"{path}: {where} has a corner that is not a number.")
    return shape


def _close_rings(geometry: dict[str, Any]) -> dict[str, Any]:
    """The geometry with type and coordinates only, each ring ending in the corner it began with."""
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        return {"type": kind, "geometries": [_close_rings(g) for g in geometry["geometries"]]}
    coordinates = geometry.get("coordinates")
    if kind == "Polygon":
        coordinates = [_closed(ring) for ring in coordinates or []]
    elif kind == "MultiPolygon":
        coordinates = [[_closed(ring) for ring in polygon] for polygon in coordinates or []]
    return {"type": kind, "coordinates": coordinates}


def _closed(ring: list[Any]) -> list[Any]:
    corners = [corner[:2] for corner in ring]
    return corners if not corners or corners[0] == corners[-1] else [*corners, corners[0]]


def _areas(shape: BaseGeometry) -> list[BaseGeometry]:
    """The polygons of a geometry, nested collections opened."""
    parts = list(shapely.get_parts(shape))
    while any(p.geom_type.startswith(("Multi", "GeometryCollection")) for p in parts):
        parts = [inner for p in parts for inner in shapely.get_parts(p)]
    return [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]
