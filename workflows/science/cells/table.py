"""The table of cells: one row per cell, as AnnData on disk, ready for scanpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workflows.errors import CellsError
from workflows.export._file import new_path, require
from workflows.export.scverse.elements import GrowingAnnData
from workflows.science.cells.words.vocabulary import Vocabulary

SUFFIXES = (".h5ad", ".zarr")
TOWER = "tower"
"""Name in `obsm` of what the vision tower makes of a cell's crop."""
_PART = 65_536


@dataclass(frozen=True, eq=False)
class CellTable:
    """Measured cells.

    Attributes
    ----------
    keys : sequence of n str
        Unique: the UUID of a run's object, or slide name and label of a label image.
    names : tuple of str
        Columns of `values`.
    values : float32 array (n, len(names))
    centre0 : float64 array (n, 2)
        Centroid in level-0 px.
    box0 : float64 array (n, 4)
        In level-0 px.
    label : int array (n,)
        Index into `labels`.
    labels : tuple of str
        Classes, as the run or the user named them.
    score : float64 array (n,)
        The model's confidence, NaN where it gave none.
    sentences : sequence of n str
    vocabulary : Vocabulary
    facts : mapping
        Where the cells come from: slide, scale, stain, outlines, what was left out.
    tower : float32 array (n, d), or None
    """

    keys: Sequence[str]
    names: tuple[str, ...]
    values: NDArray[np.float32]
    centre0: NDArray[np.float64]
    box0: NDArray[np.float64]
    label: NDArray[np.int64]
    labels: tuple[str, ...]
    score: NDArray[np.float64]
    sentences: Sequence[str]
    vocabulary: Vocabulary
    facts: Mapping[str, Any] = field(default_factory=dict)
    tower: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def row_of(self, key: str) -> int:
        """Row of a key, or of the only key that begins so.

        Raises
        ------
        CellsError
            No cell or several are called so.
        """
        exact = [row for row, each in enumerate(self.keys) if each == key]
        found = exact or [row for row, each in enumerate(self.keys) if each.startswith(key)]
        if len(found) != 1:
            number = f"{len(found)} cells are" if found else "no cell is"
            shown = ", ".join(str(self.keys[row]) for row in (found or range(min(3, len(self))))[:3])
            raise CellsError(f"{key!r}: {number} called so; keys look like {shown}.")
        return found[0]

    def write(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write `.h5ad` or `.zarr`.

        `X` holds the features, `obs` label, score, slide and sentence and the box (level-0 px), `obs_names` the keys,
        `obsm['spatial']` the centre in level-0 px, `obsm['tower']` the embeddings where there are any, `uns['cells']`
        where all of it comes from.

        Raises
        ------
        ExportExistsError, ExportError
        """
        path = Path(path)
        with new_path(path, SUFFIXES, overwrite=overwrite) as partial:
            if path.suffix == ".h5ad":
                require("h5py", "A .h5ad file", "h5py (a .zarr needs nothing more)")
                import h5py

                with h5py.File(partial, "w", rdcc_nbytes=0) as file:
                    self._fill(file)
            else:
                import zarr

                self._fill(zarr.create_group(partial, zarr_format=3))

    def _fill(self, group: object) -> None:
        slide = str(self.facts.get("slide", ""))
        places = {"spatial": 2} | ({} if self.tower is None else {TOWER: self.tower.shape[1]})
        table = GrowingAnnData(group, categories={"label": self.labels, "slide": (slide,)}, obsm=places, var=self.names)
        for start in range(0, len(self), _PART):
            rows = slice(start, start + _PART)
            number = len(self.keys[rows])
            obs: dict[str, Any] = {
                "label": self.label[rows].astype(np.int32 if len(self.labels) > 127 else np.int8),
                "score": self.score[rows],
                "slide": np.zeros(number, np.int8),
                "sentence": list(self.sentences[rows]),
            }
            obs |= {
                name: self.box0[rows, side]
                for side, name in enumerate(("x_min_px", "y_min_px", "x_max_px", "y_max_px"))
            }
            obsm = {"spatial": self.centre0[rows]} | ({} if self.tower is None else {TOWER: self.tower[rows]})
            table.append(list(self.keys[rows]), obs, obsm, self.values[rows])
        facts = {**self.facts, "vocabulary": self.vocabulary.to_json(), "version": version("napari-qwenvl")}
        table.finish({"cells": facts, "spatial_unit": "px"})


def read_table(path: Path | str) -> CellTable:
    """Read a table that `CellTable.write` wrote, also after scanpy added to it.

    Raises
    ------
    CellsError
        There is no such file, or it is another table.
    ExportError
        anndata is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise CellsError(f"{path} does not exist. Make it with: qwenvl cells measure SLIDE -o {path.name}")
    require("anndata", "Reading a table of cells", "'napari-qwenvl[science]'")
    import anndata

    read = anndata.read_zarr if path.is_dir() else anndata.read_h5ad
    try:
        data = read(path)
        facts = dict(data.uns["cells"])
        vocabulary = Vocabulary.from_json(str(facts.pop("vocabulary")))
        sentences = data.obs["sentence"].astype(str).tolist()
        box0 = data.obs[["x_min_px", "y_min_px", "x_max_px", "y_max_px"]].to_numpy(np.float64)
        label = data.obs["label"].astype("category")
    except (KeyError, OSError, ValueError) as error:
        raise CellsError(f"{path} is no table of cells from `qwenvl cells measure`: {error!r}.") from error
    return CellTable(
        keys=data.obs_names.tolist(),
        names=tuple(data.var_names),
        values=np.asarray(data.X, np.float32),
        centre0=np.asarray(data.obsm["spatial"], np.float64),
        box0=box0,
        label=label.cat.codes.to_numpy(np.int64),
        labels=tuple(map(str, label.cat.categories)),
        score=data.obs["score"].to_numpy(np.float64),
        sentences=sentences,
        vocabulary=vocabulary,
        facts=facts,
        tower=np.asarray(data.obsm[TOWER], np.float32) if TOWER in data.obsm else None,
    )
