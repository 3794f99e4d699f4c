"""QuPath GeoJSON of every version, and GeoJSON of other tools that name a class the same way.

Features are read by `wsi.regions.qupath`, as corrections are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from finetune.dataset.importers.found import FoundLabels, Imported
from finetune.errors import LabelFileError
from wsi.regions.frames import FrameRecord
from wsi.regions.geojson import load_unframed
from wsi.regions.qupath import QuPathObject, QuPathPlace, read_objects


def is_geojson(document: object) -> bool:
    """Whether a JSON value is GeoJSON: a collection, a list of features, a feature or a geometry."""
    if isinstance(document, list):
        return any(isinstance(each, Mapping) and ("geometry" in each or "features" in each) for each in document)
    return isinstance(document, Mapping) and any(
        key in document for key in ("features", "geometry", "coordinates", "geometries")
    )


def read(path: Path) -> Imported:
    """Read one file, plain or gzip; see `imported`."""
    return imported(load_unframed(path, LabelFileError), path)


def imported(content: object, path: Path) -> Imported:
    """The labels of a GeoJSON document.

    Raises
    ------
    LabelFileError
        Not GeoJSON. A feature that cannot be read is refused by itself.
    FrameError
        It records the frame of its coordinates in a way that is not known.
    """
    record = FrameRecord.of(content, path)
    if not is_geojson(content) and content != []:
        raise LabelFileError(f"{path} is not GeoJSON: it holds no features; export it again")
    read = read_objects(content)
    refused = [f"{path.name} {each}" for each in read.refused]
    found: list[FoundLabels] = []
    for item in read.objects:
        where = f"{path.name} {item.where}"
        if item.z or item.t:
            # A dataset holds images of one plane: there these pixels are not.
            refused.append(f"{where}: drawn on plane z={item.z}, t={item.t}; export that plane as an image of its own")
        else:
            found += [_found(item, place, where) for place in item.places]
    notes = []
    if read.lines:
        notes.append(f"{path.name}: {read.lines} lines left out: rulers, arrows and other lines have no area")
    if read.containers:
        notes.append(f"{path.name}: {read.containers} tiles, cores or roots left out: they hold objects and are none")
    return Imported("geojson", tuple(found), framed=True, record=record, notes=tuple(notes), refused=tuple(refused))


def _found(item: QuPathObject, place: QuPathPlace, where: str) -> FoundLabels:
    one = len(place.rings) == 1
    return FoundLabels(
        None,
        item.label,
        place.box,
        place.rings[0] if one else (),
        where,
        place.point,
        () if one else place.rings,
        place.holes,
    )
