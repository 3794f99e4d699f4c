"""The older form of spatial transcriptomics: a table of counts (spots x genes) and a table of spots.

Rows of the counts are named by the spot's place in the array, as '10x21'. The table of spots has x and y (array), and
pixel_x and pixel_y (px of the full-resolution picture), as the ST pipeline's spot detector writes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workflows.errors import SpatialError
from workflows.science.spatial.sections.section import PLACES, Section, pitch_of

SPOT_SHARE = 0.5
"""Diameter of a spot by the distance of spots: 100 um and 200 um on ST arrays (Stahl et al. 2016)."""

_PLACES = ("pixel_x", "pixel_y")


def read_st(
    counts: Path, spots: Path | str | None, *, name: str | None = None, pitch_um: float | None = None
) -> Section:
    """Read a table of counts and a table of spots; spots that are not in both, or not selected, are left out.

    Parameters
    ----------
    counts : Path
        Tab- or comma-separated, plain or gzip; first column 'XxY'.
    spots : path
        Table with x, y, pixel_x, pixel_y, perhaps selected.
    pitch_um : float, optional
        Distance of neighbouring spots in um (200 on ST arrays); gives the slide's scale.

    Raises
    ------
    SpatialError
        The table of spots is not given or lacks columns, or the tables have no spot in common.
    """
    import pandas as pd
    import scipy.sparse
    from anndata import AnnData

    if spots is None:
        raise SpatialError(f"{counts}: a table of counts needs the table of its spots too (--spots FILE).")
    table = _read(counts, index=True)
    where = _read(Path(spots))
    missing = [column for column in ("x", "y", *_PLACES) if column not in where.columns]
    if missing:
        raise SpatialError(
            f"{spots} lacks the columns {', '.join(missing)}; it has {', '.join(map(str, where.columns))}."
        )
    where.index = pd.Index(_spot_names(where["x"]) + "x" + _spot_names(where["y"]))
    table.index = pd.Index(table.index.astype(str))
    if where.index.has_duplicates or table.index.has_duplicates:
        twice = [str(i[i.duplicated()][0]) for i in (where.index, table.index) if i.has_duplicates]
        raise SpatialError(f"{counts} and {spots}: the spot {twice[0]} is named twice.")
    shared = table.index.intersection(where.index)
    if len(shared) == 0:
        raise SpatialError(
            f"{counts} and {spots} have no spot in common (for example {table.index[0]} and {where.index[0]}). "
            "They are of different sections."
        )
    dropped = {"counts without a place": len(table) - len(shared), "places without counts": len(where) - len(shared)}
    where = where.loc[shared]
    if "selected" in where.columns:
        chosen = where["selected"].to_numpy().astype(bool)
        dropped["not selected"] = int((~chosen).sum())
        shared, where = shared[chosen], where[chosen]
    values = table.loc[shared]
    try:
        matrix = scipy.sparse.csr_matrix(values.to_numpy(np.float32))
    except ValueError as error:
        raise SpatialError(f"{counts}: some counts are not numbers: {error}") from error
    found = AnnData(matrix, obs=pd.DataFrame(index=shared), var=pd.DataFrame(index=values.columns.astype(str)))
    found.var_names_make_unique()
    found.obs["array_col"], found.obs["array_row"] = (where["x"].round().astype(int), where["y"].round().astype(int))
    places0 = where[list(_PLACES)].to_numpy(np.float64)
    found.obsm[PLACES] = places0
    pitch0 = pitch_of(places0, Path(spots), where[["x", "y"]].to_numpy(np.float64))
    return Section(
        name=name or counts.name.split(".")[0],
        counts=found,
        kind="st",
        source=counts,
        spot0=pitch0 * SPOT_SHARE,
        pitch0=pitch0,
        um_per_px=None if pitch_um is None else pitch_um / pitch0,
        um_source="" if pitch_um is None else f"spots lie {pitch_um:g} um apart",
        dropped={why: number for why, number in dropped.items() if number},
    )


def _read(path: Path, *, index: bool = False):  # type: ignore[no-untyped-def]
    import pandas as pd

    if not path.is_file():
        raise SpatialError(f"{path} does not exist.")
    separator = "," if ".csv" in path.name.lower() else "\t"
    try:
        return pd.read_csv(path, sep=separator, index_col=0 if index else None)
    except (OSError, ValueError) as error:
        raise SpatialError(f"{path} cannot be read as a table: {error}") from error


def _spot_names(column):  # type: ignore[no-untyped-def]
    return column.round().astype(int).astype(str)
