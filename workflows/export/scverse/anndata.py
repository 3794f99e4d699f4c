"""AnnData: objects or tiles of a run as observations with places, for scanpy and squidpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Status
from workflows.export._columns import (
    KINDS,
    PENDING,
    REVIEWS,
    SKIPPED,
    Batch,
    channel_columns,
    object_batch,
    scale_of,
    tile_batches,
)
from workflows.export._file import new_path, require
from workflows.export.objects import ObjectChunk, RunObjects
from workflows.export.scverse.elements import GrowingAnnData
from workflows.report.images.heatmap import tile_channels
from workflows.store.run_store import RunStore

if TYPE_CHECKING:
    import h5py
    import zarr

_SUFFIXES = (".h5ad", ".zarr")
_PLACES = {"spatial": 2, "spatial_px": 2}
STATUSES = (*(status.value for status in Status), PENDING, SKIPPED)


def export_anndata(run: Path | str, out: Path | str, *, tiles: bool = False, overwrite: bool = False) -> int:
    """Write the objects of a run (or its tiles) as AnnData, `.h5ad` or `.zarr`, in bounded memory.

    Objects: `obs` has label and kind (categorical), score, area, tile and the box; `obs_names` are the UUIDs
    of the GeoJSON; there is no `X`. Tiles: `X` has one column per class, question or count, NaN where unknown;
    `obs` has status, tissue, words and everything else that is known of a tile. `obsm['spatial']` is the centre,
    x then y, in the unit that `uns['spatial_unit']` names: 'um', or 'px' of level 0 where the scale is not known.
    `obsm['spatial_px']` is always level-0 px.

    Returns
    -------
    int
        Number of observations.

    Raises
    ------
    RunNotFoundError, StoreError, ExportExistsError, ExportError
        ExportError also where h5py is not installed and a .h5ad is wanted.
    """
    out = Path(out)
    with RunStore.open(run) as store, _new_root(out, overwrite=overwrite) as root:
        return write_tiles(store, root) if tiles else write_objects(RunObjects(store), root)


@contextmanager
def _new_root(out: Path, *, overwrite: bool) -> Iterator[object]:
    with new_path(out, _SUFFIXES, overwrite=overwrite) as partial:
        if out.suffix.lower() == ".h5ad":
            require("h5py", "A .h5ad file", "h5py (a .zarr needs nothing more)")
            import h5py

            # Chunks are written whole and once: a cache of several MiB per column would only hold them back.
            with h5py.File(partial, "w", rdcc_nbytes=0) as file:
                yield file
        else:
            import zarr

            yield zarr.create_group(partial, zarr_format=3)


def write_objects(
    objects: RunObjects,
    group: h5py.Group | zarr.Group,
    region: str | None = None,
    uns: Mapping[str, object] | None = None,
) -> int:
    """Write all objects into an empty group; with `region`, the columns a SpatialData table needs too."""
    store = objects.store
    categories = {"label": objects.labels, "kind": KINDS, "review": REVIEWS}
    if region is not None:
        categories["region"] = (region,)
    table = GrowingAnnData(group, categories=categories, obsm=_PLACES)
    for chunk in objects:
        _append(table, objects, chunk, region)
    if not table.rows:
        _append(table, objects, ObjectChunk.empty(), region)
    table.finish({**_facts(store), "label_colors": _hexadecimal(objects), **(uns or {})})
    return table.rows


def _append(table: GrowingAnnData, objects: RunObjects, chunk: ObjectChunk, region: str | None) -> None:
    batch = object_batch(objects, chunk)
    box = chunk.columns.box
    obs = {name: column for name, column in batch.items() if name != "id" and not name.endswith("_um")}
    if region is not None:
        obs["region"] = np.zeros(len(chunk), np.int8)
    table.append(batch["id"], obs, _spatial(objects.store, (box[:, :2] + box[:, 2:]) / 2))


def write_tiles(
    store: RunStore, group: h5py.Group | zarr.Group, region: str | None = None, uns: Mapping[str, object] | None = None
) -> int:
    """Write all tiles into an empty group; with `region`, the columns a SpatialData table needs too."""
    channels = channel_columns(tile_channels(store.manifest.request))
    categories: dict[str, Any] = {"status": STATUSES}
    if region is not None:
        categories["region"] = (region,)
    table = GrowingAnnData(group, categories=categories, obsm=_PLACES, var=channels)
    codes = {status: code for code, status in enumerate(STATUSES)}
    for batch in tile_batches(store):
        number = len(batch["tile"])
        obs: Batch = {
            name: column for name, column in batch.items() if not name.endswith("_um") and name not in channels
        }
        obs["status"] = np.array([codes[status] for status in batch["status"]], np.int8)
        if region is not None:
            obs |= {"region": np.zeros(number, np.int8), "instance": batch["tile"]}
        low = np.stack([batch["x0_px"], batch["y0_px"]], axis=1).astype(np.float64)
        size = np.stack([batch["width0_px"], batch["height0_px"]], axis=1)
        values = np.stack([batch[name] for name in channels], axis=1) if channels else None
        names = [f"tile-{tile}" for tile in batch["tile"].tolist()]
        table.append(names, obs, _spatial(store, low + size / 2), values)
    table.finish({**_facts(store), **(uns or {})})
    return table.rows


def _spatial(store: RunStore, centres: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {"spatial": centres * (scale_of(store.manifest.slide) or (1.0, 1.0)), "spatial_px": centres}


def _facts(store: RunStore) -> dict[str, Any]:
    manifest = store.manifest
    scale = scale_of(manifest.slide)
    facts: dict[str, Any] = {
        "run": str(manifest.run_id),
        "slide": manifest.slide.name,
        "slide_fingerprint": manifest.slide.fingerprint,
        "model": manifest.model.model,
        "request": manifest.request.model_dump_json(),
    }
    if scale is not None:
        facts |= {"mpp_x": scale[0], "mpp_y": scale[1]}
    return {"qwenvl": facts, "spatial_unit": "px" if scale is None else "um"}


def _hexadecimal(objects: RunObjects) -> list[str]:
    """Colours of the labels, where scanpy looks for them."""
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in objects.colours.values()]
