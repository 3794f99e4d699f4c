"""Reading a section, whatever made it: the form is told by what lies at the path."""

from __future__ import annotations

from pathlib import Path

from workflows.errors import SpatialError
from workflows.export._file import require
from workflows.science.spatial.sections.section import Section
from workflows.science.spatial.sections.st import read_st
from workflows.science.spatial.sections.tables import read_anndata, read_spatialdata
from workflows.science.spatial.sections.visium import read_visium


def read_section(
    path: Path | str,
    *,
    name: str | None = None,
    spots: Path | str | None = None,
    pitch_um: float | None = None,
    bin_um: int = 16,
) -> Section:
    """Read counts and places, whatever made them.

    Parameters
    ----------
    path : path
        A Space Ranger `outs` folder (Visium, or Visium HD with `binned_outputs`), a table of counts of the older ST
        form (`.tsv`, `.tsv.gz`), an AnnData file (`.h5ad`), or a SpatialData store (`.zarr`).
    name : str, optional
        Name of the section; by default that of the file or folder.
    spots : path, optional
        Table of places, for the ST form.
    pitch_um : float, optional
        Distance of neighbouring spots in um, where the files do not tell; with it the slide's scale is known.
    bin_um : int
        Side of the bins taken from Visium HD.

    Raises
    ------
    SpatialError
        Nothing that can be read is there, or parts of it are missing or contradict each other.
    ExportError
        A library that this form needs is not installed.
    """
    path = Path(path)
    require("anndata", "Spatial transcriptomics", "'napari-qwenvl[science]'")
    require("scanpy", "Spatial transcriptomics", "'napari-qwenvl[science]'")
    if not path.exists():
        raise SpatialError(f"{path} does not exist. Name a Space Ranger folder, a table of counts or an .h5ad.")
    if path.is_dir() and not _is_zarr(path):
        return read_visium(path, name=name, bin_um=bin_um)
    if _is_zarr(path):
        return read_spatialdata(path, name=name)
    if path.suffix.lower() == ".h5ad":
        return read_anndata(path, name=name, pitch_um=pitch_um)
    if path.name.lower().endswith((".tsv", ".tsv.gz", ".csv", ".csv.gz", ".txt", ".txt.gz")):
        return read_st(path, spots, name=name, pitch_um=pitch_um)
    raise SpatialError(
        f"{path} is no form of spatial counts that can be read: a Space Ranger folder, .tsv(.gz) with a table of "
        "spots, .h5ad, or a SpatialData .zarr."
    )


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))
