"""Sections made for the tests: a slide whose left half is dark, and counts that follow the darkness."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request, Task

WIDTH, HEIGHT = 1500, 1100
PITCH0 = 60.0
GENES = ("DARK1", "DARK2", "LIGHT1", "CD8A", *(f"OTHER{i}" for i in range(196)))
POSITIONS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")


def write_section_slide(path: Path, *, mirrored: bool = False, seed: int = 0) -> Path:
    """A picture with a triangle of tissue, wide at the top; dark left of x = 620."""
    rng = np.random.default_rng(seed)
    picture = np.full((HEIGHT, WIDTH, 3), 244, np.uint8)
    outline = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(outline, [np.array([[90, 80], [1420, 120], [420, 1040]])], 1)
    grain = rng.integers(0, 50, (HEIGHT, WIDTH, 1))
    colour = np.where(np.arange(WIDTH)[None, :, None] < 620, [120, 70, 140], [230, 160, 200])
    picture = np.where(outline[..., None] > 0, np.clip(colour - grain, 0, 255), picture).astype(np.uint8)
    if mirrored:
        picture = np.ascontiguousarray(picture[::-1, ::-1])
    cv2.imwrite(str(path), picture[..., ::-1])
    return path


def lattice() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Hexagonal lattice inside the tissue: array columns and rows (n, 2), and places in level-0 px (n, 2)."""
    array, places = [], []
    for row in range(40):
        for column in range(row % 2, 80, 2):
            x, y = 30 + column * PITCH0 / 2, 30 + row * PITCH0 * np.sqrt(3) / 2
            if cv2.pointPolygonTest(np.array([[90, 80], [1420, 120], [420, 1040]], np.int32), (x, y), True) > 25:
                array.append((column, row))
                places.append((x, y))
    return np.array(array, np.int64), np.array(places)


def dark(places0: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Spots of the dark half."""
    return np.asarray(places0[:, 0] < 620)


def planted_counts(places0: NDArray[np.float64], seed: int = 1) -> NDArray[np.int64]:
    """Counts (spots, genes): DARK genes follow the dark half, LIGHT1 the other, the rest nothing."""
    rng = np.random.default_rng(seed)
    rate = np.full((len(places0), len(GENES)), 20.0)
    is_dark = dark(places0)
    rate[:, :2] = np.where(is_dark, 40, 4)[:, None]
    rate[:, 2] = np.where(is_dark, 4, 40)
    return rng.poisson(rate)


@dataclass
class VisiumFolder:
    """What a Space Ranger folder is written from; change a field to plant a fault."""

    counts: NDArray[np.int64]
    array: NDArray[np.int64]
    places0: NDArray[np.float64]
    barcodes: list[str]
    scales: dict[str, Any] = field(default_factory=lambda: {"spot_diameter_fullres": PITCH0 * 0.55})
    genes: Sequence[str] = GENES

    @classmethod
    def planted(cls) -> VisiumFolder:
        array, places0 = lattice()
        barcodes = [f"{'ACGT' * 4}{i:04d}-1" for i in range(len(places0))]
        return cls(planted_counts(places0), array, places0, barcodes)

    def positions(self) -> pd.DataFrame:
        """One row per spot, in another order than the counts, and one that is not under tissue."""
        table = pd.DataFrame(
            {
                "barcode": self.barcodes,
                "in_tissue": 1,
                "array_row": self.array[:, 1],
                "array_col": self.array[:, 0],
                "pxl_row_in_fullres": self.places0[:, 1],
                "pxl_col_in_fullres": self.places0[:, 0],
            }
        ).sample(frac=1, random_state=3)
        table.loc[table["barcode"] == self.barcodes[0], "in_tissue"] = 0
        return table

    def write(self, folder: Path, *, matrix: str = "h5", positions: str = "csv", hires: Path | None = None) -> Path:
        """Write the folder; `positions` is 'csv', 'list' (no header) or 'parquet'."""
        spatial = folder / "spatial"
        spatial.mkdir(parents=True)
        (spatial / "scalefactors_json.json").write_text(json.dumps(self.scales))
        table = self.positions()
        match positions:
            case "csv":
                table.to_csv(spatial / "tissue_positions.csv", index=False)
            case "list":
                table.to_csv(spatial / "tissue_positions_list.csv", index=False, header=False)
            case _:
                table.to_parquet(spatial / "tissue_positions.parquet")
        (self._write_h5 if matrix == "h5" else self._write_mtx)(folder)
        if hires is not None:
            small = cv2.resize(cv2.imread(str(hires)), None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(spatial / "tissue_hires_image.png"), small)
        return folder

    def _write_h5(self, folder: Path) -> None:
        import h5py
        import scipy.sparse

        matrix = scipy.sparse.csr_matrix(self.counts.astype(np.int32))  # its transpose, genes x spots, is CSC
        with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
            group = file.create_group("matrix")
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(matrix, name)
            group["shape"] = np.array(matrix.shape[::-1], np.int32)
            group["barcodes"] = np.array(self.barcodes, "S")
            features = group.create_group("features")
            features["name"] = np.array(self.genes, "S")
            features["id"] = np.array([f"ENSG{i:05d}" for i in range(len(self.genes))], "S")
            features["feature_type"] = np.array(["Gene Expression"] * len(self.genes), "S")
            features["genome"] = np.array(["GRCh38"] * len(self.genes), "S")

    def _write_mtx(self, folder: Path) -> None:
        import scipy.io
        import scipy.sparse

        target = folder / "filtered_feature_bc_matrix"
        target.mkdir()
        with gzip.open(target / "matrix.mtx.gz", "wb") as file:
            scipy.io.mmwrite(file, scipy.sparse.coo_matrix(self.counts.T))
        rows = "".join(f"ENSG{i:05d}\t{gene}\tGene Expression\n" for i, gene in enumerate(self.genes))
        for name, text in (("features", rows), ("barcodes", "\n".join(self.barcodes) + "\n")):
            with gzip.open(target / f"{name}.tsv.gz", "wt") as file:
                file.write(text)


def write_st(folder: Path) -> tuple[Path, Path]:
    """Counts and spots in the older ST form, on a square lattice of 80 px; one place has no counts."""
    columns, rows = np.meshgrid(np.arange(2, 18), np.arange(2, 13))
    array = np.column_stack([columns.ravel(), rows.ravel()])
    outline = np.array([[90, 80], [1420, 120], [420, 1040]], np.int32)
    inside = [cv2.pointPolygonTest(outline, (float(x * 80), float(y * 80)), True) > 25 for x, y in array]
    array = array[np.array(inside)]
    names = [f"{x}x{y}" for x, y in array]
    counts = pd.DataFrame(planted_counts(array * 80.0), index=names, columns=list(GENES)).iloc[::-1]
    spots = pd.DataFrame(
        {
            "x": array[:, 0],
            "y": array[:, 1],
            "pixel_x": array[:, 0] * 80.0,
            "pixel_y": array[:, 1] * 80.0,
            "selected": 1,
        }
    )
    spots.loc[len(spots)] = [1, 1, 80.0, 80.0, 1]
    counts.to_csv(folder / "counts.tsv.gz", sep="\t")
    spots.to_csv(folder / "spots.tsv", sep="\t", index=False)
    return folder / "counts.tsv.gz", folder / "spots.tsv"


class DarknessEngine(FakeEngine):
    """Sees how dark a tile is, and takes 'DARK' and 'LIGHT' in the question for what they say.

    With `fail_after`, the engine dies after so many calls, as a killed process does.
    """

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__(batch=8)
        self.calls, self.pictures, self._fail_after = 0, 0, fail_after

    def answer(self, pictures: Sequence[Any], request: Request) -> list[Answer]:
        self.calls += 1
        if self._fail_after is not None and self.calls > self._fail_after:
            raise KeyboardInterrupt
        self.pictures += len(pictures)
        question = request.prompt or ""
        if request.task is Task.DETECT:
            return [self._located(np.asarray(picture), request) for picture in pictures]
        answers = []
        for picture in pictures:
            share = float(np.clip((230 - np.asarray(picture, np.float64).mean()) / 130, 0, 1))
            yes = share if "DARK" in question else 1 - share if "LIGHT" in question else 0.5
            answers.append(Answer(Status.OK, scores={"yes": yes, "no": 1 - yes}, raw="yes"))
        return answers

    @staticmethod
    def _located(picture: NDArray[np.uint8], request: Request) -> Answer:
        """A box around what is dark in a tile (for LIGHT genes: around what is pink), where there is enough of it."""
        mean = cv2.blur(picture, (5, 5)).astype(float).mean(axis=2)
        wanted = mean < 125 if "DARK" in request.labels[0] else (mean > 125) & (mean < 215)
        if wanted.mean() < 0.05:
            return Answer(Status.EMPTY, raw="[]")
        rows, columns = np.flatnonzero(wanted.mean(axis=1) > 0.1), np.flatnonzero(wanted.mean(axis=0) > 0.1)
        box = (float(columns[0]), float(rows[0]), columns[-1] + 1.0, rows[-1] + 1.0)
        return Answer(Status.OK, (TileObject(request.labels[0], box=box),), raw="[...]")
