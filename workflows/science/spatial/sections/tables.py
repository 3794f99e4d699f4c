"""Sections that were read before: AnnData as scanpy and squidpy keep them, and SpatialData stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflows.errors import SpatialError
from workflows.export._file import require
from workflows.science.spatial.sections.section import PLACES, Section, pitch_of
from workflows.science.spatial.sections.st import SPOT_SHARE

if TYPE_CHECKING:
    from anndata import AnnData


def read_anndata(path: Path, *, name: str | None = None, pitch_um: float | None = None) -> Section:
    """Read an .h5ad with counts in `X` (or `layers['counts']`) and places in `obsm['spatial']`, in level-0 px.

    `uns['spatial'][library]['scalefactors']`, where it is there, gives the size of a spot.

    Raises
    ------
    SpatialError
        No places, places in another unit than px, several libraries, or values that are no counts.
    """
    import anndata

    try:
        found = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise SpatialError(f"{path} cannot be read as AnnData: {error}") from error
    key = "spatial_px" if found.uns.get("spatial_unit", "px") != "px" else PLACES
    if key not in found.obsm or np.asarray(found.obsm[key]).ndim != 2 or found.obsm[key].shape[1] < 2:
        raise SpatialError(f"{path} has no obsm['{key}'] with x and y of every spot in px of the slide.")
    libraries = found.uns.get("spatial", {})
    if len(libraries) > 1:
        raise SpatialError(
            f"{path} holds several sections ({', '.join(map(str, libraries))}). Save each in a file of its own."
        )
    library = next(iter(libraries), None)
    scales = {} if library is None else dict(libraries[library].get("scalefactors", {}))
    return _section(found, path, name or (str(library) if library else path.stem), "anndata", scales, key, pitch_um)


def read_spatialdata(path: Path, *, name: str | None = None) -> Section:
    """Read the one table of a SpatialData store; spots are circles or polygons in px of the picture.

    Raises
    ------
    SpatialError
        Not one table, or its regions have no shapes.
    ExportError
        spatialdata is not installed.
    """
    require("spatialdata", "A SpatialData store", "'napari-qwenvl[spatialdata]' (in an environment of its own)")
    import pandas as pd
    import spatialdata

    try:
        store = spatialdata.read_zarr(path)
    except (OSError, KeyError, ValueError) as error:
        raise SpatialError(f"{path} cannot be read as SpatialData: {error}") from error
    if len(store.tables) != 1:
        raise SpatialError(f"{path} holds {len(store.tables)} tables of counts; exactly one can be read.")
    table = next(iter(store.tables.values()))
    facts = table.uns.get("spatialdata_attrs", {})
    regions = facts.get("region")
    region = regions[0] if isinstance(regions, (list, np.ndarray)) and len(regions) == 1 else regions
    if not isinstance(region, str) or region not in store.shapes:
        raise SpatialError(f"{path}: the table is about {regions!r}; one element of shapes is needed.")
    shapes = store.shapes[region]
    keys = pd.Index(table.obs[facts["instance_key"]])
    if not keys.isin(shapes.index).all():
        raise SpatialError(f"{path}: some rows of the table have no shape in {region}.")
    shapes = shapes.loc[keys]
    found = table.copy()
    centres = shapes.geometry.centroid
    found.obsm[PLACES] = np.stack([centres.x.to_numpy(), centres.y.to_numpy()], axis=1)
    diameter = 2 * np.median(shapes["radius"]) if "radius" in shapes else np.median(np.sqrt(shapes.geometry.area))
    return _section(found, path, name or path.stem, "spatialdata", {"spot_diameter_fullres": diameter}, PLACES, None)


def _section(
    found: AnnData, path: Path, name: str, kind: str, scales: dict[str, Any], key: str, pitch_um: float | None
) -> Section:
    import scipy.sparse

    values = found.layers.get("counts", found.X)
    if values is None:
        raise SpatialError(f"{path} has no counts: X is empty.")
    matrix = scipy.sparse.csr_matrix(values, dtype=np.float32)
    if matrix.nnz and (matrix.data.min() < 0 or not np.allclose(matrix.data[:10000] % 1, 0)):
        raise SpatialError(
            f"{path}: X holds values that are no counts (negative, or not whole). Put the raw counts into "
            "layers['counts']; they are normalised here."
        )
    found.X = matrix
    found.var_names_make_unique()
    places0 = np.asarray(found.obsm[key], np.float64)[:, :2]
    found.obsm[PLACES] = places0
    pitch0 = pitch_of(places0, path)
    diameter = float(scales.get("spot_diameter_fullres", pitch0 * SPOT_SHARE))
    return Section(
        name=name,
        counts=found,
        kind=kind,
        source=path,
        spot0=diameter,
        pitch0=pitch0,
        um_per_px=None if pitch_um is None else pitch_um / pitch0,
        um_source="" if pitch_um is None else f"spots lie {pitch_um:g} um apart",
    )
