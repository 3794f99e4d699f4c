"""Results of a run that people have reviewed: what they accepted, corrected and drew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from finetune.dataset.importers.found import FoundArea, FoundLabels, Imported
from finetune.errors import LabelFileError
from workflows.review.reviewed import reviewed_objects
from workflows.store.run_store import RunStore


def reads(path: Path) -> bool:
    """Whether the folder is a run."""
    return path.is_dir() and (path / "run.sqlite").is_file()


def read(path: Path) -> Imported:
    """Read the objects that reviewers vouch for.

    Tiles in which every object has a verdict are offered as exhaustively labelled areas; they count where the
    user says so (`--exhaustive reviewed`), because only a person knows whether missed objects were looked for. Tiles
    without any object are offered too, marked as bare (`--exhaustive searched`).

    Raises
    ------
    LabelFileError
        Nobody has reviewed the run.
    """
    with RunStore.open(path) as store:
        if not store.reviews():
            raise LabelFileError(
                f"{path} has no reviews; open it in the viewer, accept, correct and draw objects, and come back"
            )
        reviewed, slide, tiles = reviewed_objects(store), store.manifest.slide.path, store.tiles()
        complete = {answer.tile for answer in store.iter_answers() if answer.answer.status.complete}
    found = tuple(
        FoundLabels(
            slide,
            reviewed.labels[int(reviewed.label[row])],
            tuple(float(value) for value in reviewed.box[row]),  # type: ignore[arg-type]
            where=f"{path.name} object {int(reviewed.key[row])}",
            point=bool(reviewed.point[row]),
        )
        for row in np.flatnonzero(reviewed.trusted)
    )
    centre = (reviewed.box[:, :2] + reviewed.box[:, 2:]) / 2
    areas = []
    for tile in tiles:
        x0, y0, x1, y1 = (float(tile[name]) for name in ("core_x0", "core_y0", "core_x1", "core_y1"))
        inside = (centre[:, 0] >= x0) & (centre[:, 0] < x1) & (centre[:, 1] >= y0) & (centre[:, 1] < y1)
        decided = reviewed.state[inside] != 0
        if int(tile["tile"]) in complete and bool(decided.all()):
            ring = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
            areas.append(FoundArea(slide, ring, bare=not decided.size))
    bare = sum(area.bare for area in areas)
    note = (
        f"{path.name}: reviewers vouch for {len(found)} objects; {len(areas) - bare} tiles have a verdict on each, "
        f"{bare} have no object"
    )
    return Imported("run", found, tuple(areas), sizes={slide: (0, 0)}, notes=(note,))
