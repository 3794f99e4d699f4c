"""SpatialData: objects and tiles as shapes with tables, and a picture of the slide, in one Zarr store.

Written straight in the layout of spatialdata 0.7 (container 0.2, shapes 0.3 as GeoParquet with WKB, tables 0.2 as
AnnData, rasters 0.3 as OME-Zarr), so that a million objects need no memory and neither geopandas nor spatialdata
are needed for writing. Coordinates of shapes are level-0 px of the slide; every element has a transformation to
the coordinate systems 'px' (level 0) and, where the scale is known, 'um'. 'global' is 'um', or else 'px'.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workflows.export._columns import scale_of
from workflows.export._file import new_path, require
from workflows.export._picture import slide_picture
from workflows.export.objects import RunObjects
from workflows.export.scverse.anndata import write_objects, write_tiles
from workflows.inputs.reopening import tell
from workflows.store.provenance import SlideFacts
from workflows.store.run_store import RunStore
from wsi.slide import RGB

if TYPE_CHECKING:
    import h5py
    import zarr

_SUFFIXES = (".zarr",)
_OBJECT_TASKS = ("detect", "point")


def export_spatialdata(
    run: Path | str,
    out: Path | str,
    *,
    picture: bool = True,
    overwrite: bool = False,
    slide_path: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Write a run as a SpatialData store.

    Elements: `shapes/tiles` with `tables/tile_table`; for detect and point also `shapes/objects` with
    `tables/object_table`, one row per object in the same order (boxes as polygons, points as circles), unless none
    was found; `images/overview`, the slide at most 2048 px wide or high, where it is found.
    Tables and shapes are joined by `instance`.

    Parameters
    ----------
    picture : bool
        Put the overview of the slide in.
    slide_path : Path, optional
        Where the run's slide lies now; found by itself where it moved together with the run.
    say : callable, optional
        Gets why there is no picture of the slide, where there is none; by default it is logged.

    Returns
    -------
    int
        Number of shapes, tiles included.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError, SlideMismatchError
        ExportError also where pyarrow is not installed.
    """
    require("pyarrow", "SpatialData", "'napari-qwenvl[spatialdata]'")
    import zarr

    with RunStore.open(run) as store, new_path(Path(out), _SUFFIXES, overwrite=overwrite) as partial:
        slide = store.manifest.slide
        root = zarr.create_group(
            partial,
            zarr_format=3,
            attributes={"spatialdata_attrs": {"version": "0.2", "spatialdata_software_version": "0.7.3"}},
        )
        shapes, tables = root.create_group("shapes"), root.create_group("tables")
        tiles = _Shapes(partial / "shapes", shapes, "tiles", slide, with_radius=False)
        table = store.tiles()
        low = np.stack([table["x0"], table["y0"]], axis=1)
        size = np.stack([table["width0"], table["height0"]], axis=1)
        tiles.append(table["tile"], np.concatenate([low, low + size], axis=1).astype(np.float64), {})
        tiles.close()
        write_tiles(store, _table(tables, "tiles", "tile_table"), "tiles", _join("tiles"))
        number = len(table)
        if store.manifest.request.task in _OBJECT_TASKS:
            objects = RunObjects(store)
            if any(True for _ in objects):  # SpatialData refuses an element without shapes
                _write_objects(objects, partial / "shapes", shapes)
                group = _table(tables, "objects", "object_table")
                number += write_objects(objects, group, "objects", _join("objects"))
        if picture:
            found = slide_picture(store, slide=slide_path)
            if isinstance(found, str):
                tell(f"{found} The store is written without images/overview.", say)
            else:
                _write_picture(root.create_group("images").create_group("overview"), *found, slide)
    return number


def _write_objects(objects: RunObjects, folder: Path, group: h5py.Group | zarr.Group) -> None:
    """Boxes become polygons, points circles; one element holds one kind, and a task gives one kind."""
    store = objects.store
    with_radius = store.manifest.request.task == "point"
    shapes = _Shapes(folder, group, "objects", store.manifest.slide, with_radius=with_radius)
    labels = np.array(objects.labels, object)
    for chunk in objects:
        of = chunk.columns
        box = of.box.copy()
        if not with_radius:
            # A ring without area is not a valid polygon.
            box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 0.01)
        shapes.append(chunk.instances, box, {"label": labels[of.label], "score": of.score})
    shapes.close()


def _table(tables: Any, region: str, name: str) -> object:
    group = tables.create_group(name)
    group.attrs.update(
        {
            "spatialdata-encoding-type": "ngff:regions_table",
            "region": region,
            "region_key": "region",
            "instance_key": "instance",
            "version": "0.2",
        }
    )
    return group


def _join(name: str) -> dict[str, object]:
    return {"spatialdata_attrs": {"region": name, "region_key": "region", "instance_key": "instance"}}


class _Shapes:
    """Shapes appended to a GeoParquet file."""

    def __init__(
        self, folder: Path, group: h5py.Group | zarr.Group, name: str, slide: SlideFacts, *, with_radius: bool
    ) -> None:
        import pyarrow as pa

        self._group = group.create_group(name)
        self._group.attrs.update(
            {
                "encoding-type": "ngff:shapes",
                "axes": ["x", "y"],
                "coordinateTransformations": list(_transformations(slide, ("x", "y"), (1.0, 1.0))),
                "spatialdata_attrs": {"version": "0.3"},
            }
        )
        self._path = folder / name / "shapes.parquet"
        self._pa, self._points = pa, with_radius
        self._writer: Any = None
        self._sink: Any = None
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])

    def append(self, instances: NDArray[np.int64], box: NDArray[np.float64], columns: Mapping[str, Any]) -> None:
        """Add boxes (n, 4) in level-0 px; as points, their centres."""
        pa = self._pa
        arrays: dict[str, Any] = {}
        for name, column in columns.items():
            arrays[name] = (
                pa.array(column, pa.string()) if name == "label" else pa.array(column, pa.float64(), from_pandas=True)
            )
        if self._points:
            arrays["radius"] = pa.array(np.full(len(box), _POINT_RADIUS))
        arrays["geometry"] = pa.array(_wkb_points(box) if self._points else _wkb_boxes(box), pa.binary())
        arrays["instance"] = pa.array(instances, pa.int64())
        if len(box):
            self._bounds[:2] = np.minimum(self._bounds[:2], box[:, :2].min(axis=0))
            self._bounds[2:] = np.maximum(self._bounds[2:], box[:, 2:].max(axis=0))
        if self._writer is None:
            import pyarrow.parquet as pq

            schema = pa.schema([(name, array.type) for name, array in arrays.items()])
            # Arrow opens no name that is no UTF-8; Python does.
            self._sink = self._path.open("wb")
            self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd")
        self._writer.write_table(pa.table(arrays))

    def close(self) -> None:
        """End the file with what GeoParquet and pandas want to know of it."""
        geometry: dict[str, object] = {
            "encoding": "WKB",
            "crs": None,
            "geometry_types": ["Point" if self._points else "Polygon"],
        }
        if np.isfinite(self._bounds).all():
            geometry["bbox"] = self._bounds.tolist()
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
        pandas = {
            "index_columns": ["instance"],
            "column_indexes": [],
            "columns": [
                {
                    "name": "instance",
                    "field_name": "instance",
                    "pandas_type": "int64",
                    "numpy_type": "int64",
                    "metadata": None,
                }
            ],
        }
        self._writer.add_key_value_metadata({"geo": json.dumps(geo), "pandas": json.dumps(pandas)})
        self._writer.close()
        self._sink.close()


_POINT_RADIUS = 5.0
"""Of the circles that points become, in level-0 px: SpatialData knows no points with a table but circles."""


def _wkb_boxes(box: NDArray[np.float64]) -> list[bytes]:
    """Well-known binary (OGC 06-103r4) of rectangles: byte order, type 3, one ring of five points."""
    rows = np.zeros(
        len(box),
        np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("ring", "<f8", (5, 2))]),
    )
    rows["order"], rows["type"], rows["rings"], rows["points"] = 1, 3, 1, 5
    rows["ring"] = box[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 5, 2)
    return _cut(rows)


def _wkb_points(box: NDArray[np.float64]) -> list[bytes]:
    rows = np.zeros(len(box), np.dtype([("order", "u1"), ("type", "<u4"), ("place", "<f8", (2,))]))
    rows["order"], rows["type"] = 1, 1
    rows["place"] = (box[:, :2] + box[:, 2:]) / 2
    return _cut(rows)


def _cut(rows: NDArray[np.generic]) -> list[bytes]:
    whole, size = rows.tobytes(), rows.dtype.itemsize
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def _transformations(slide: SlideFacts, axes: tuple[str, ...], factor: tuple[float, float]) -> Iterator[dict[str, Any]]:
    """From an element's own coordinates, `factor` (x, y) level-0 px each, to 'px', 'um' and 'global'."""

    def system(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "axes": [
                {"name": axis, "type": "channel"} if axis == "c" else {"name": axis, "type": "space", "unit": "unit"}
                for axis in axes
            ],
        }

    scale = scale_of(slide)
    um = (factor[0] * scale[0], factor[1] * scale[1]) if scale is not None else None
    targets = {"px": factor, **({"um": um} if um is not None else {}), "global": um or factor}
    for name, by in targets.items():
        steps = {"c": 1.0, "x": by[0], "y": by[1]}
        yield {
            "type": "scale",
            "scale": [steps[axis] for axis in axes],
            "input": system("".join(axes)),
            "output": system(name),
        }


def _write_picture(
    group: h5py.Group | zarr.Group, picture: RGB, factor: tuple[float, float], slide: SlideFacts
) -> None:
    group.create_array(
        "s0",
        data=np.ascontiguousarray(picture.transpose(2, 0, 1)),
        chunks=(3, 512, 512),
        dimension_names=("c", "y", "x"),
    )
    axes = ("c", "y", "x")
    group.attrs.update(
        {
            "ome": {
                "version": "0.5-dev-spatialdata",
                "omero": {"channels": [{"label": name} for name in ("r", "g", "b")]},
                "multiscales": [
                    {
                        "name": "/images/overview",
                        "axes": [
                            {"name": "c", "type": "channel"},
                            {"name": "y", "type": "space"},
                            {"name": "x", "type": "space"},
                        ],
                        "datasets": [
                            {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]}
                        ],
                        "coordinateTransformations": list(_transformations(slide, axes, factor)),
                    }
                ],
            },
            "spatialdata_attrs": {"version": "0.3"},
        }
    )
