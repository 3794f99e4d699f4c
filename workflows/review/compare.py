"""How far a run agrees with known truth: planted objects of a synthetic slide, or a person's annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from workflows.merge.merged import iter_merged
from workflows.merge.pairs import iou as iou_by_row
from workflows.store.run_store import RunStore
from wsi.errors import AnnotationError
from wsi.regions.frames import PixelFrame, SlideFrames
from wsi.regions.geojson import load_geojson
from wsi.regions.qupath import class_of, read_objects

Boxes = NDArray[np.float64]
"""Boxes as (n, 4): x_min, y_min, x_max, y_max in level-0 px."""
DETECTED = ("detection", "cell")
"""Kinds of QuPath objects that a program found; all others were drawn."""
_ONE_FRAME = SlideFrames()


@dataclass(frozen=True, slots=True)
class TruthAgreement:
    """Matches of predicted with true boxes."""

    matched: int
    predicted: int
    true: int

    @property
    def precision(self) -> float:
        """Share of predicted boxes that are true; nan where nothing was predicted."""
        return self.matched / self.predicted if self.predicted else float("nan")

    @property
    def recall(self) -> float:
        """Share of true boxes that were found; nan where there is nothing to find."""
        return self.matched / self.true if self.true else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; nan where both sides are empty."""
        total = self.predicted + self.true
        return 2 * self.matched / total if total else float("nan")


def match_boxes(predicted: Boxes, true: Boxes, iou: float = 0.5) -> NDArray[np.int64]:
    """Match one to one, greedily by falling IoU.

    Parameters
    ----------
    predicted, true : float arrays (n, 4) and (m, 4)
    iou : float
        Least intersection over union of a match.

    Returns
    -------
    int64 array (k, 2)
        Row of `predicted` and row of `true` of every match.
    """
    if len(predicted) == 0 or len(true) == 0:
        return np.empty((0, 2), np.int64)
    centres = (predicted[:, :2] + predicted[:, 2:]) / 2
    true_centres = (true[:, :2] + true[:, 2:]) / 2
    # A pair at IoU >= t has centres no further apart than half a diagonal of the larger box.
    reach = float(np.hypot(*(true[:, 2:] - true[:, :2]).max(axis=0)))
    near = cKDTree(centres).sparse_distance_matrix(cKDTree(true_centres), reach, output_type="coo_matrix")
    rows, columns = near.row.astype(np.int64), near.col.astype(np.int64)
    overlap = iou_by_row(predicted[rows], true[columns])
    keep = overlap >= iou
    rows, columns, overlap = rows[keep], columns[keep], overlap[keep]
    pairs, used_rows, used_columns = [], set(), set()
    for i in np.lexsort((columns, rows, -overlap)):
        row, column = int(rows[i]), int(columns[i])
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            pairs.append((row, column))
    return np.asarray(pairs, np.int64).reshape(-1, 2)


def compare_boxes(
    predicted: Boxes, predicted_labels: Sequence[str], true: Boxes, true_labels: Sequence[str], iou: float = 0.5
) -> dict[str, TruthAgreement]:
    """Agreement per true label, and under 'all' without regard to labels.

    Labels are compared only where the prediction uses a label of the truth; a run that asked for 'nucleus'
    has no class to be right or wrong about.
    """
    result = {"all": TruthAgreement(len(match_boxes(predicted, true, iou)), len(predicted), len(true))}
    of_predicted, of_true = np.asarray(predicted_labels, dtype=object), np.asarray(true_labels, dtype=object)
    for label in sorted(set(true_labels) & set(predicted_labels)):
        p, t = predicted[of_predicted == label], true[of_true == label]
        result[label] = TruthAgreement(len(match_boxes(p, t, iou)), len(p), len(t))
    return result


def run_boxes(folder: Path) -> tuple[Boxes, list[str]]:
    """Merged boxes of a run in level-0 px, and their labels. Points are left out."""
    with RunStore.open(folder) as store:
        parts = [(part.box[~part.point], part.label[~part.point]) for part in iter_merged(store)]
        names = store.labels
    boxes = np.concatenate([box for box, _ in parts]) if parts else np.empty((0, 4))
    return boxes.astype(float), [names[i] for _, label in parts for i in label]


def read_truth_boxes(
    path: Path,
    within: tuple[float, float, float, float] | None = None,
    *,
    frames: SlideFrames = _ONE_FRAME,
    frame: PixelFrame | str | None = None,
) -> tuple[Boxes, list[str]]:
    """Bounding boxes and class names of the detections and cells in a GeoJSON, of the annotations where there are none.

    Parameters
    ----------
    path : Path
        `.geojson` or `.geojson.gz`.
    within : x_min, y_min, x_max, y_max, optional
        Keep only boxes whose centre lies inside; level-0 px.
    frames : SlideFrames
        Of the slide; by default one that QuPath shows whole.
    frame : 'qupath' or 'level0', optional
        Frame of the file's coordinates, where it does not record it.

    Raises
    ------
    AnnotationError
        The file cannot be read, or a feature in it is no object.
    FrameNeededError, FrameError
        It is not known in which px the coordinates are, or the file was made for another slide.
    """
    found = read_objects(load_geojson(path, frames, frame))
    if found.refused:
        raise AnnotationError(f"{path}: {found.refused[0]}. Export the annotations again.")
    detections = [each for each in found.objects if each.kind in DETECTED]
    boxes, labels = [], []
    for each in detections or found.objects:
        for place in each.places:
            x, y = (place.box[0] + place.box[2]) / 2, (place.box[1] + place.box[3]) / 2
            if within is None or (within[0] <= x < within[2] and within[1] <= y < within[3]):
                boxes.append(place.box)
                labels.append(each.label)
    return np.asarray(boxes, float).reshape(-1, 4), labels


def truth_features(path: Path, frames: SlideFrames, frame: PixelFrame | str | None = None) -> list[dict[str, Any]]:
    """The features of a GeoJSON file in level-0 px: those of a collection, a bare list, or a single one.

    Each has its class as QuPath shows it under `label`, '' where it has none.

    Raises
    ------
    AnnotationError
        The file cannot be read, or holds something else.
    FrameNeededError, FrameError
        See `SlideFrames.settle`.
    """
    document = load_geojson(path, frames, frame)
    if isinstance(document, dict):
        document = document.get("features", [document])
    if not isinstance(document, list):
        raise AnnotationError(f"{path} holds no list of features. Export the annotations again.")
    found = []
    for number, feature in enumerate(document):
        if not isinstance(feature, dict) or not isinstance(feature.get("geometry"), dict):
            raise AnnotationError(f"{path}: feature {number} has no geometry. Export the annotations again.")
        properties = feature.get("properties") or {}
        try:
            found.append({**feature, "properties": properties, "label": class_of(properties)})
        except (ValueError, AttributeError) as error:
            raise AnnotationError(f"{path}: feature {number}: {error}. Export the annotations again.") from error
    return found
