"""Choosing the threshold of a cascade: what each would have found of known truth, and at what work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwenvl.request import Task, Where
from workflows.errors import WorkflowError
from workflows.inputs.reopening import frames_of
from workflows.review.compare import DETECTED, read_truth_boxes, truth_features
from workflows.run.plan.cascade import coarse_scores, highest_score, tile_scores
from workflows.store.folder import JOURNAL, WHERE
from workflows.store.run_store import RunStore
from workflows.tile_table import cores_of
from wsi.errors import AnnotationError
from wsi.regions.frames import PixelFrame, SlideFrames
from wsi.tissue import TissueMask

STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class ThresholdRow:
    """What one threshold means.

    Attributes
    ----------
    threshold : float
    recall : float
        Share of the truth that lies in tiles which are looked at.
    tiles : int
        Tiles that are looked at.
    work : float
        The same as a share of all tiles.
    """

    threshold: float
    recall: float
    tiles: int
    work: float


def thresholds(
    run: Path | str,
    truth: Path | str,
    *,
    label: str | None = None,
    wanted: Sequence[str] = (),
    objects: bool = False,
    steps: Sequence[float] = STEPS,
    frame: PixelFrame | str | None = None,
) -> list[ThresholdRow]:
    """Recall and work for thresholds on the scores of a run.

    Parameters
    ----------
    run : path
        A run with coarse tiles: its own tiles are the work. Or a run of score or classify by itself.
    truth : path
        GeoJSON. Its annotations count by area; where it has none of the class, or with `objects`, its
        detections count by number.
    label : str, optional
        Class of the truth; all classes where it is not given.
    wanted : sequence of str
        Classes to look at, for a run of classify by itself.
    objects : bool
        Take detections even where there are annotations.
    steps : sequence of float
        Thresholds.
    frame : 'qupath' or 'level0', optional
        Frame of the truth's coordinates, where the file does not record it.

    Returns
    -------
    list of ThresholdRow
        One per threshold, in their order.

    Raises
    ------
    WorkflowError
        The run has no scores, or classes but none is wanted.
    AnnotationError
        The truth cannot be read, or holds nothing of the class on what the tiles own.
    FrameNeededError, FrameError
        It is not known in which px the truth's coordinates are, or it was made for another slide.
    """
    run = Path(run)
    if (run / WHERE / JOURNAL).is_file():
        with RunStore.open(run) as store, RunStore.open(run / WHERE) as coarse:
            where = store.manifest.request.where
            assert where is not None
            places, scores = coarse_scores(coarse, where)
            slide = store.manifest.slide
            cores = cores_of(store.tiles())
            highest = tile_scores(store.tiles(), places, scores)
    else:
        with RunStore.open(run) as coarse:
            places, scores = coarse_scores(coarse, _as_where(coarse, wanted))
            slide = coarse.manifest.slide
            cores = places
            highest = highest_score(cores, places, scores)
    frames = frames_of(slide, frame, Path(run))
    weight = _truth(Path(truth), label, cores, (slide.width, slide.height), objects, frames, frame)
    if not weight.sum():
        named = f"of class {label!r} " if label else ""
        raise AnnotationError(
            f"{truth} holds nothing {named}on the tiles of {run}. Check --label, and that it is of this slide."
        )
    rows = []
    for step in steps:
        passed = highest >= step
        number = int(passed.sum())
        rows.append(ThresholdRow(step, float(weight[passed].sum() / weight.sum()), number, number / len(cores)))
    return rows


def _as_where(coarse: RunStore, wanted: Sequence[str]) -> Where:
    request = coarse.manifest.request
    if request.task is Task.SCORE:
        return Where(question=request.prompt)
    if request.task is not Task.CLASSIFY:
        raise WorkflowError(
            f"{coarse.folder} is a run of {request.task} without coarse tiles; give a run of score or classify, "
            "or one with --where."
        )
    if not set(wanted) or not set(wanted) <= set(request.labels):
        raise WorkflowError(
            f"{coarse.folder} tells {', '.join(request.labels)} apart: name those to look at with --wanted."
        )
    return Where(labels=request.labels, wanted=tuple(wanted))


def _truth(
    path: Path,
    label: str | None,
    cores: NDArray[np.int64],
    size: tuple[int, int],
    objects: bool,
    frames: SlideFrames,
    frame: PixelFrame | str | None,
) -> NDArray[np.float64]:
    """How much of the truth each tile owns: level-0 px2 of annotations, or a number of detections."""
    if not objects:
        annotated = [
            feature["geometry"]
            for feature in truth_features(path, frames, frame)
            if feature["properties"].get("objectType") not in DETECTED and label in (None, feature["label"])
        ]
        if annotated:
            from wsi.tissue.geojson import rasterise, union

            array = rasterise(union(annotated, path, size)[0], size, 4096)
            mask = TissueMask(array, (size[0] / array.shape[1], size[1] / array.shape[0]), "truth")
            return mask.coverage(cores) * np.prod(cores[:, 2:] - cores[:, :2], axis=1)
    boxes, names = read_truth_boxes(path, frames=frames, frame=frame)
    boxes = boxes[[label in (None, name) for name in names]]
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    number = np.zeros(len(cores))
    for k, (x0, y0, x1, y1) in enumerate(cores.tolist()):
        number[k] = ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).sum()
    return number
