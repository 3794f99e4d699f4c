"""Make the picture of docs/science/cells.md: `python docs/science_pictures_cells.py` (under a minute)."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from qwenvl.checkpoints.loading import load_checkpoint
from workflows.science.cells import CellSearch, CropSize, LabelImage, cells_of_labels, embed, iter_crops
from workflows.science.cells.sheet import sheet
from wsi import open_slide
from wsi.synthetic import CLASSES, Scene, write_slide

TARGET = Path(__file__).resolve().parent / "images" / "science-cells.jpg"
SIDE, MPP = 1536, 0.25
SHOWN = 6


def main() -> None:
    """A row per search: the cell that was asked for, and those found by its crop, its sentence, its numbers."""
    from skimage.draw import polygon

    scene = Scene(SIDE * MPP, SIDE * MPP, seed=3, artefacts=())
    nuclei = scene.nuclei(0, 0, SIDE * MPP, SIDE * MPP)
    labels = np.zeros((SIDE, SIDE), np.int32)
    for number, points in enumerate(nuclei.polygon_um / MPP, 1):
        labels[polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, labels.shape)] = number
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        write_slide(path, scene, mpp=MPP, downsamples=(1,), truth=False)
        with open_slide(path) as slide:
            table = cells_of_labels(slide, LabelImage(path, labels, 1.0))
            kind = nuclei.kind[[int(key.rpartition("/")[2]) - 1 for key in table.keys]]
            middle = (np.abs(table.centre0 - SIDE / 2) < SIDE / 2 - 60).all(axis=1)
            size = CropSize.of(slide)
            table = replace(table, tower=embed(load_checkpoint("embedded"), iter_crops(slide, table.centre0, size)))
            search = CellSearch(table)
            crops, words, headings = [], [], []
            for space, name in (("tower", "tumor"), ("morphology", "stromal"), ("sentence", "lymphocyte")):
                row = int(np.flatnonzero(middle & (kind == CLASSES.index(name)))[12])
                rows = [row, *search.by_cell(row, SHOWN - 1, space).rows.tolist()]
                crops += list(iter_crops(slide, table.centre0[rows], size))
                words += [table.sentences[each] for each in rows]
                headings.append(f"a {name} nucleus, and those most like it by {space}")
    picture = sheet(crops, words, columns=SHOWN, headings=headings)
    Image.fromarray(picture).save(TARGET, quality=88)
    print(TARGET, picture.shape)


if __name__ == "__main__":
    main()
