"""How well predictions agree with what was measured on a section that was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.scoring.agreement import auroc
from workflows.errors import SpatialError
from workflows.review.compare import TruthAgreement, match_boxes
from workflows.science.spatial.regions import ExpressionLevel
from workflows.science.spatial.samples import regions_of

BOX_IOU = 0.3
"""Least intersection over union of a matched region: outlines of regions are less certain than those of cells."""

SHUFFLES = 200

EXPECTATION = (
    "Published benchmarks of predicting expression from H&E reach mean correlations of about 0.2 to 0.4 on sections of "
    "other patients; serial sections of one tumor give more."
)


@dataclass(frozen=True)
class TargetScore:
    """Agreement of one gene or signature.

    Attributes
    ----------
    pearson, spearman : float
        With the measured values over the spots with a prediction; nan where either is constant.
    auroc : float
        Of spots that are high on this slide.
    box_precision, box_recall, box_f1 : float
        Of predicted against measured regions; nan where there are none on both sides.
    spots : int
        Spots with a prediction.
    """

    name: str
    pearson: float
    spearman: float
    auroc: float
    box_precision: float
    box_recall: float
    box_f1: float
    spots: int


@dataclass(frozen=True)
class SectionScore:
    """Agreement of one way of predicting, over all targets of one section."""

    method: str
    targets: tuple[TargetScore, ...]

    def mean(self, field: str) -> float:
        """Mean over the targets of which it is known; nan where of none."""
        values = np.array([getattr(target, field) for target in self.targets], np.float64)
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        fields = ("pearson", "spearman", "auroc", "box_f1")
        return {
            "method": self.method,
            "mean": {name: self.mean(name) for name in fields},
            "targets": [asdict(target) for target in self.targets],
        }


def score_section(
    method: str,
    names: Sequence[str],
    predicted: NDArray[np.float64],
    measured: NDArray[np.float64],
    places0: NDArray[np.float64],
    pitch0: float,
    *,
    level: ExpressionLevel | None = None,
    region_level: ExpressionLevel | None = None,
    least: int = 3,
    rounds: int = 1,
) -> SectionScore:
    """Compare predictions with measured values, both float64 (spots, targets).

    Regions of both sides are formed alike, each by its own threshold, so only the order of the predictions counts.

    Raises
    ------
    SpatialError
        Shapes differ, or fewer than three spots have a prediction.
    """
    if predicted.shape != measured.shape or predicted.shape != (len(places0), len(names)):
        raise SpatialError(
            f"Predictions of {predicted.shape} and measured values of {measured.shape} do not fit {len(places0)} spots "
            f"and {len(names)} genes."
        )
    level, region_level = level or ExpressionLevel("median"), region_level or ExpressionLevel("q0.75")
    scores = []
    for column, name in enumerate(names):
        guess, truth = predicted[:, column], measured[:, column]
        known = np.isfinite(guess)
        if int(known.sum()) < 3:
            raise SpatialError(f"{name}: only {int(known.sum())} spots have a prediction.")
        # Boxes are compared over what both sides know.
        told = regions_of(guess, places0, pitch0, region_level, least=least, rounds=rounds)[0]
        true = regions_of(np.where(known, truth, np.nan), places0, pitch0, region_level, least=least, rounds=rounds)[0]
        boxes = TruthAgreement(len(match_boxes(told, true, BOX_IOU)), len(told), len(true))
        scores.append(
            TargetScore(
                name=name,
                pearson=correlation(guess[known], truth[known]),
                spearman=rank_correlation(guess[known], truth[known]),
                auroc=auroc(guess[known], level.high(truth)[known]),
                box_precision=boxes.precision,
                box_recall=boxes.recall,
                box_f1=boxes.f1,
                spots=int(known.sum()),
            )
        )
    return SectionScore(method, tuple(scores))


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Pearson's; nan where one of the two is constant."""
    a, b = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm > 1e-12 * max(1.0, len(one)) else float("nan")


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's: Pearson's of the ranks, ties sharing theirs."""
    from scipy.stats import rankdata

    return correlation(rankdata(one), rankdata(other))


@dataclass(frozen=True)
class Shuffled:
    """The control: the same predictions, dealt out to the spots at random.

    Attributes
    ----------
    mean : float
        Mean correlation over targets, averaged over the shuffles.
    upper : float
        Its 95th percentile; a method that knows something lies above.
    """

    mean: float
    upper: float
    shuffles: int = SHUFFLES


def shuffled_control(
    predicted: NDArray[np.float64], measured: NDArray[np.float64], *, seed: int = 0, shuffles: int = SHUFFLES
) -> Shuffled:
    """Mean Pearson correlation of predictions (spots, targets) dealt out at random, all targets of a spot together."""
    rng = np.random.default_rng(seed)
    known = np.isfinite(predicted).all(axis=1)
    guess, truth = predicted[known], measured[known]
    means: list[float] = []
    for _ in range(shuffles):
        order = rng.permutation(len(guess))
        values = [correlation(guess[order, column], truth[:, column]) for column in range(guess.shape[1])]
        means.append(float(np.nanmean(values)) if np.isfinite(np.array(values)).any() else np.nan)
    return Shuffled(float(np.nanmean(means)), float(np.nanquantile(means, 0.95)), shuffles)
