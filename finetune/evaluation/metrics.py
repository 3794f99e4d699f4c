"""How far answers agree with labels: boxes, points, counts, and what went wrong in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from qwenvl.answer import Answer, Status, TileObject

Boxes = NDArray[np.floating]

IOUS = (0.5, 0.3)
_DUPLICATE = 0.85
_BOOTSTRAPS = 500


def iou_matrix(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Intersection over union of boxes (n, 4) and (m, 4), (n, m)."""
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod((high - low).clip(0), -1)
    areas = [np.prod((x[:, 2:] - x[:, :2]).clip(0), 1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float64)


@dataclass(frozen=True)
class Judged:
    """One tile's answer beside its labels.

    Attributes
    ----------
    slide : str
        Whom the bootstrap keeps together.
    truth : tuple of TileObject
    answer : Answer
    um_per_px : float or None
        Scale of the tile's picture.
    """

    slide: str
    truth: tuple[TileObject, ...]
    answer: Answer
    um_per_px: float | None = None


@dataclass(frozen=True)
class Score:
    """Metrics of a set of tiles.

    Attributes
    ----------
    values : mapping of name to number
        'f1', 'precision', 'recall' at IoU 0.5 over all classes; 'f1@0.3'; 'ap'; 'point_f1' where the scale is known;
        'count_error' (mean absolute), 'count_bias'; 'false_on_empty'; 'parse_rate', 'duplicate_rate', 'cut_rate'.
    interval : (low, high)
        95 % bootstrap interval of 'f1' over slides; of written answers of 'exact', over pictures.
    classes : mapping of class to {'f1', 'precision', 'recall', 'ap', 'labels'}
    confusion : mapping of class to {class found there: number}
        Of boxes at the same place, whatever their class; '' is a missed or an invented object.
    """

    values: dict[str, float]
    interval: tuple[float, float]
    classes: dict[str, dict[str, float]]
    confusion: dict[str, dict[str, int]]
    tiles: int
    metric: str = "f1"
    """What `interval` is of."""

    def as_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "tiles": self.tiles,
            **{key: _rounded(value) for key, value in self.values.items()},
            f"{self.metric}_interval": [_rounded(value) for value in self.interval],
            "classes": {name: {k: _rounded(v) for k, v in row.items()} for name, row in self.classes.items()},
            "confusion": self.confusion,
        }


@dataclass
class _Counts:
    hits: int = 0
    predicted: int = 0
    true: int = 0

    def scores(self) -> dict[str, float]:
        precision = self.hits / self.predicted if self.predicted else float("nan")
        recall = self.hits / self.true if self.true else float("nan")
        total = self.predicted + self.true
        return {"f1": 2 * self.hits / total if total else float("nan"), "precision": precision, "recall": recall}


@dataclass
class _PerClass:
    at: dict[float, _Counts] = field(default_factory=lambda: {iou: _Counts() for iou in IOUS})
    ranked: list[tuple[float, bool]] = field(default_factory=list)


def score_answers(judged: Sequence[Judged], names: Sequence[str], *, radius_um: float = 6.0, seed: int = 0) -> Score:
    """Score answers, class by class.

    A box counts where its class is right and it overlaps a label of that class, each label once, best overlap first.
    AP ranks boxes by their scores, which come from the probabilities of their numbers (`qwenvl.scoring.confidence`).
    Points
    are matched within `radius_um` by the cheapest assignment.
    """
    per_class = {name: _PerClass() for name in names}
    points, per_slide, errors, confusion = _Counts(), {}, [], {}  # type: ignore[var-annotated]
    with_scale = False
    duplicates = predicted_all = false_on_empty = empty = parsed = cut = 0
    for item in judged:
        answer = item.answer
        parsed += answer.status in (Status.OK, Status.EMPTY)
        cut += answer.finish_reason in ("length", "loop")
        predicted = answer.objects
        predicted_all += len(predicted)
        duplicates += _duplicates(predicted)
        errors.append(len(predicted) - len(item.truth))
        if not item.truth:
            empty += 1
            false_on_empty += bool(predicted)
        slide = per_slide.setdefault(item.slide, _Counts())
        for name in names:
            found = [o for o in predicted if o.label == name]
            true = [o for o in item.truth if o.label == name]
            overlap = iou_matrix(_boxes(found), _boxes(true))
            for iou in IOUS:
                pairs = greedy(overlap, iou)
                _add(per_class[name].at[iou], len(pairs), len(found), len(true))
                if iou == IOUS[0]:
                    _add(slide, len(pairs), len(found), len(true))
                    hit = {i for i, _ in pairs}
                    per_class[name].ranked += [(o.score or 0.0, i in hit) for i, o in enumerate(found)]
            if item.um_per_px is not None:
                with_scale = True
                pairs = near(_centres(found), _centres(true), radius_um / item.um_per_px)
                _add(points, len(pairs), len(found), len(true))
        _confuse(confusion, predicted, item.truth)
    total = _Counts()
    for slide in per_slide.values():
        _add(total, slide.hits, slide.predicted, slide.true)
    loose = _Counts()
    for each in per_class.values():
        counts = each.at[IOUS[1]]
        _add(loose, counts.hits, counts.predicted, counts.true)
    classes = {
        name: each.at[IOUS[0]].scores()
        | {"ap": average_precision(each.ranked, each.at[IOUS[0]].true), "labels": each.at[IOUS[0]].true}
        for name, each in per_class.items()
    }
    n = max(1, len(judged))
    values = total.scores() | {
        "f1@0.3": loose.scores()["f1"],
        "ap": _mean([row["ap"] for row in classes.values()]),
        "count_error": float(np.mean(np.abs(errors))) if errors else float("nan"),
        "count_bias": float(np.mean(errors)) if errors else float("nan"),
        "false_on_empty": false_on_empty / empty if empty else float("nan"),
        "parse_rate": parsed / n,
        "cut_rate": cut / n,
        "duplicate_rate": duplicates / max(1, predicted_all),
    }
    if with_scale:
        values["point_f1"] = points.scores()["f1"]
    return Score(values, _interval(list(per_slide.values()), seed), classes, confusion, len(judged))


def greedy(overlap: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """Pairs of rows and columns, best overlap first, each once."""
    left = overlap.copy()
    pairs = []
    while left.size and left.max() >= threshold:
        i, j = np.unravel_index(int(left.argmax()), left.shape)
        pairs.append((int(i), int(j)))
        left[i], left[:, j] = -1, -1
    return pairs


def near(found: NDArray[np.float64], true: NDArray[np.float64], radius: float) -> list[tuple[int, int]]:
    """Pairs of points (n, 2), (m, 2) within `radius`, by the assignment of least total distance."""
    if not len(found) or not len(true):
        return []
    distance = np.linalg.norm(found[:, None] - true[None], axis=-1)
    # Too far apart costs more than any number of matches may gain.
    cost = np.where(distance <= radius, distance, 1e6)
    rows, columns = linear_sum_assignment(cost)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if distance[i, j] <= radius]


def average_precision(ranked: Sequence[tuple[float, bool]], true: int) -> float:
    """Area under the precision-recall curve, precision made monotone (VOC 2010); nan without labels."""
    if not true:
        return float("nan")
    if not ranked:
        return 0.0
    order = sorted(ranked, key=lambda pair: -pair[0])
    hits = np.cumsum([hit for _, hit in order])
    precision = hits / np.arange(1, len(order) + 1)
    recall = hits / true
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(np.concatenate([[0.0], recall])) * envelope))


def _interval(slides: Sequence[_Counts], seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of F1, slides drawn with replacement; nan with fewer than two."""
    if len(slides) < 2:
        return float("nan"), float("nan")
    table = np.array([(s.hits, s.predicted + s.true) for s in slides], np.float64)
    rows = np.random.default_rng(seed).integers(len(table), size=(_BOOTSTRAPS, len(table)))
    sums = table[rows].sum(1)
    f1 = 2 * sums[:, 0] / np.maximum(sums[:, 1], 1)
    low, high = np.quantile(f1, [0.025, 0.975])
    return float(low), float(high)


def _duplicates(objects: Sequence[TileObject]) -> int:
    boxes = _boxes(objects)
    if len(boxes) < 2:
        return 0
    overlap = np.triu(iou_matrix(boxes, boxes), 1)
    same = np.array([[a.label == b.label for b in objects] for a in objects])
    return int(((overlap > _DUPLICATE) & same).any(0).sum())


def _confuse(table: dict[str, dict[str, int]], found: Sequence[TileObject], true: Sequence[TileObject]) -> None:
    pairs = greedy(iou_matrix(_boxes(found), _boxes(true)), IOUS[0])
    rows, columns = {i for i, _ in pairs}, {j for _, j in pairs}
    cells = [(true[j].label, found[i].label) for i, j in pairs]
    cells += [(o.label, "") for j, o in enumerate(true) if j not in columns]
    cells += [("", o.label) for i, o in enumerate(found) if i not in rows]
    for truth, prediction in cells:
        row = table.setdefault(truth, {})
        row[prediction] = row.get(prediction, 0) + 1


def _boxes(objects: Sequence[TileObject]) -> NDArray[np.float64]:
    rows = [o.box if o.box is not None else (*o.point, *o.point) for o in objects]  # type: ignore[misc]
    return np.array(rows, np.float64).reshape(-1, 4)


def _centres(objects: Sequence[TileObject]) -> NDArray[np.float64]:
    boxes = _boxes(objects)
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _add(counts: _Counts, hits: int, predicted: int, true: int) -> None:
    counts.hits += hits
    counts.predicted += predicted
    counts.true += true


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _rounded(value: float) -> float | None:
    return None if value != value else round(float(value), 5)


def best_of(scores: Sequence[Mapping[str, float]], metric: str) -> int:
    """Position of the best score by a metric; of errors and rates of faults the smallest."""
    sign = -1 if metric.endswith("_error") or metric in ("duplicate_rate", "cut_rate", "loss") else 1
    values = [sign * score.get(metric, float("nan")) for score in scores]
    return int(np.nanargmax(values)) if not all(np.isnan(values)) else len(values) - 1
