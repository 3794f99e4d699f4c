"""Space Ranger folders: Visium, and Visium HD with its bins.

The layout is 10x Genomics' (Space Ranger, "Spatial outputs"): counts as `filtered_feature_bc_matrix.h5` or the folder
of the same name; `spatial/tissue_positions_list.csv` without a header (before 2.0), `tissue_positions.csv` with one, or
`.parquet` (HD); `spatial/scalefactors_json.json`. Columns of positions are barcode, in_tissue, array_row, array_col,
then the row (y) and the column (x) of the spot's centre in px of the full-resolution picture.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflows.errors import SpatialError
from workflows.science.spatial.sections.section import PLACES, Section, pitch_of

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

VISIUM_PITCH_UM = 100.0
"""Distance of neighbouring Visium spots by the design of the slide."""

_COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_MATRICES = (
    "filtered_feature_bc_matrix.h5",
    "filtered_feature_bc_matrix",
    "raw_feature_bc_matrix.h5",
    "raw_feature_bc_matrix",
)


def read_visium(folder: Path, *, name: str | None = None, bin_um: int = 16) -> Section:
    """Read a Space Ranger folder: `outs`, the folder above it, or one of HD's `square_0XXum`.

    Only spots under tissue are kept. Counts and positions are joined by barcode, never by order.

    Raises
    ------
    SpatialError
        Counts, positions or scale factors are missing or broken, or no barcode is in both.
    """
    root = _root(folder, bin_um)
    counts = _counts(root)
    positions = _positions(root / "spatial")
    scales = _scales(root / "spatial")
    shared = counts.obs_names.intersection(positions.index)
    if len(shared) == 0:
        raise SpatialError(
            f"{root}: none of the {counts.n_obs} barcodes of the counts is among the {len(positions)} positions "
            f"(for example {counts.obs_names[0]} and {positions.index[0]}). They are of different sections."
        )
    dropped = {"counts without a position": counts.n_obs - len(shared)}
    inside = positions.loc[shared, "in_tissue"].to_numpy().astype(bool)
    dropped["not under tissue"] = int((~inside).sum())
    kept = shared[inside]
    if len(kept) == 0:
        raise SpatialError(f"{root}: no spot with counts lies under tissue (in_tissue is 0 everywhere).")
    counts = counts[kept].copy()
    positions = positions.loc[kept]
    counts.obs[["array_row", "array_col"]] = positions[["array_row", "array_col"]].to_numpy(np.int64)
    counts.obsm[PLACES] = positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(np.float64)
    bins = "bin_size_um" in scales
    array = positions[["array_col", "array_row"]].to_numpy(np.float64)
    pitch0 = pitch_of(counts.obsm[PLACES], root, array, hexagonal=not bins)
    um, words = _scale(scales, pitch0)
    hires = _picture(root, folder)
    return Section(
        name=name or _name_of(folder),
        counts=counts,
        kind="visium-hd" if bins else "visium",
        source=root,
        spot0=float(scales["spot_diameter_fullres"]),
        pitch0=pitch0,
        um_per_px=um,
        um_source=words,
        size0=_full_size(hires, scales),
        hires=hires,
        dropped={why: number for why, number in dropped.items() if number},
    )


def _root(folder: Path, bin_um: int) -> Path:
    """The folder that holds counts and `spatial`."""
    for base in (folder, folder / "outs"):
        bins = base / "binned_outputs"
        if bins.is_dir():
            wanted = bins / f"square_{bin_um:03d}um"
            if not wanted.is_dir():
                found = sorted(part.name for part in bins.iterdir() if part.is_dir())
                raise SpatialError(f"{bins} has no bins of {bin_um} um ({wanted.name}); there are {', '.join(found)}.")
            return wanted
        if (base / "spatial").is_dir():
            return base
    raise SpatialError(
        f"{folder} is no Space Ranger folder: it has no 'spatial' (positions and scale factors) and no "
        "'binned_outputs'. Name the folder 'outs'."
    )


def _name_of(folder: Path) -> str:
    parts = [part for part in folder.absolute().parts if part not in ("outs", "binned_outputs")]
    named = [part for part in parts if not part.startswith("square_")]
    return named[-1]


def _counts(root: Path) -> AnnData:
    import scanpy
    import scipy.sparse

    path = next((root / each for each in _MATRICES if (root / each).exists()), None)
    if path is None:
        raise SpatialError(f"{root} holds no counts: none of {', '.join(_MATRICES)} is there.")
    with warnings.catch_warnings():
        # Names of genes come twice in every reference; they are made unique below.
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        try:
            counts = scanpy.read_10x_h5(path) if path.suffix == ".h5" else scanpy.read_10x_mtx(path, make_unique=False)
        except (OSError, KeyError, ValueError) as error:
            raise SpatialError(f"{path} cannot be read as a matrix of 10x Genomics: {error}") from error
    if "feature_types" in counts.var and (counts.var["feature_types"] == "Gene Expression").any():
        counts = counts[:, (counts.var["feature_types"] == "Gene Expression").to_numpy()].copy()
    counts.var_names_make_unique()
    counts.X = scipy.sparse.csr_matrix(counts.X, dtype=np.float32)
    return counts


def _positions(folder: Path) -> DataFrame:
    import pandas as pd

    path = next((folder / each for each in _POSITIONS if (folder / each).is_file()), None)
    if path is None:
        raise SpatialError(f"{folder} holds no positions: none of {', '.join(_POSITIONS)} is there.")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            with path.open(encoding="utf-8") as file:
                headed = file.readline().startswith("barcode")
            table = pd.read_csv(path, header=0 if headed else None, names=None if headed else list(_COLUMNS))
    except (OSError, ValueError) as error:
        raise SpatialError(f"{path} cannot be read as a table of positions: {error}") from error
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise SpatialError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(map(str, table.columns))}."
        )
    table = table.set_index("barcode")
    if table.index.has_duplicates:
        raise SpatialError(f"{path} names the barcode {table.index[table.index.duplicated()][0]} twice.")
    return table


def _scales(folder: Path) -> dict[str, Any]:
    path = folder / "scalefactors_json.json"
    if not path.is_file():
        raise SpatialError(
            f"{path} is missing. Without the scale factors nobody knows how large a spot is or which picture the "
            "positions count px of. Copy it from Space Ranger's 'spatial' folder."
        )
    try:
        scales = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpatialError(f"{path} is not JSON: {error}") from error
    diameter = scales.get("spot_diameter_fullres") if isinstance(scales, dict) else None
    if not isinstance(diameter, (int, float)) or not 0 < diameter < float("inf"):
        raise SpatialError(f"{path}: spot_diameter_fullres is {diameter!r}; it should be a number of px above 0.")
    return scales


def _scale(scales: dict[str, Any], pitch0: float) -> tuple[float, str]:
    """um per px of the full-resolution picture, and where it comes from."""
    stated = scales.get("microns_per_pixel")
    if isinstance(stated, (int, float)) and stated > 0:
        return float(stated), "microns_per_pixel of the scale factors"
    if "bin_size_um" in scales:
        return float(scales["bin_size_um"]) / pitch0, "size of the bins"
    return VISIUM_PITCH_UM / pitch0, f"spots of Visium lie {VISIUM_PITCH_UM:g} um apart"


def _picture(root: Path, folder: Path) -> Path | None:
    for base in (root, folder, folder / "outs"):
        path = base / "spatial" / "tissue_hires_image.png"
        if path.is_file():
            return path
    return None


def _full_size(hires: Path | None, scales: Mapping[str, object]) -> tuple[float, float] | None:
    """Size of the full-resolution picture that the small one was made of."""
    factor = scales.get("tissue_hires_scalef")
    if hires is None or not isinstance(factor, (int, float)) or factor <= 0:
        return None
    from PIL import Image

    with Image.open(hires) as picture:
        return picture.width / factor, picture.height / factor
