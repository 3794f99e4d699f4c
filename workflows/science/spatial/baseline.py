"""What a model has to beat: a ridge regression on colour and texture, and spots dealt out at random.

The features are means and spreads of colour in three spaces, a histogram of brightness and energies of bands of detail:
what a technician sees without a microscope. They know nothing of nuclei.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.science.spatial.questions import ExpressionScale, spot_question, spot_tiles
from workflows.science.spatial.sections.listing import OpenedSection

_BINS = 8
_BANDS = (1.0, 2.0, 4.0, 8.0)


def picture_features(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Colour and texture of an RGB picture (height, width, 3), float64 (34,)."""
    import cv2

    spaces = (
        cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).astype(np.float64),
        cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV).astype(np.float64),
        -np.log((pixels.astype(np.float64) + 1) / 256),  # optical density, linear in the amount of stain
    )
    parts = [statistic for space in spaces for statistic in (space.mean(axis=(0, 1)), space.std(axis=(0, 1)))]
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float64)
    for sigma in _BANDS:
        band = cv2.GaussianBlur(gray, (0, 0), sigma) - cv2.GaussianBlur(gray, (0, 0), 2 * sigma)
        parts.append(np.array([band.std(), np.abs(band).mean()]))
    parts.append(np.histogram(gray, _BINS, (0, 256))[0] / gray.size)
    return np.concatenate(parts)


def section_features(found: OpenedSection, scale: ExpressionScale) -> NDArray[np.float64]:
    """Features of the tile around every spot, at the scale at which a model is asked: float64 (spots, features)."""
    table = spot_tiles(found.section, found.slide, spot_question("any", scale))
    rows = []
    for row in table:
        corner = int(row["x0"]), int(row["y0"]), int(row["width0"]), int(row["height0"])
        pixels = found.slide.read_scaled(*corner, (int(row["width"]), int(row["height"])))
        rows.append(picture_features(pixels))
    return np.stack(rows)


@dataclass(frozen=True, eq=False)
class Ridge:
    """A ridge regression of several targets on standardised features.

    Attributes
    ----------
    mean, spread : float64 (features,)
        Of the training spots.
    weights : float64 (features, targets)
    offset : float64 (targets,)
    penalty : float64 (targets,)
        The one that predicts best when a spot is left out, of each target.
    """

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    weights: NDArray[np.float64]
    offset: NDArray[np.float64]
    penalty: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        features: NDArray[np.float64],
        values: NDArray[np.float64],
        penalties: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0),
    ) -> Ridge:
        """Fit (n, features) to (n, targets); leave-one-out errors follow from one decomposition."""
        mean, spread = features.mean(axis=0), features.std(axis=0)
        spread = np.where(spread > 1e-12, spread, 1.0)
        left, singular, right = np.linalg.svd((features - mean) / spread, full_matrices=False)
        offset = values.mean(axis=0)
        centred = values - offset
        best = np.full(values.shape[1], np.inf)
        weights = np.zeros((features.shape[1], values.shape[1]))
        chosen = np.zeros(values.shape[1])
        for penalty in penalties:
            shrunk = singular**2 / (singular**2 + penalty)
            fitted = left @ (shrunk[:, None] * (left.T @ centred))
            leverage = (left**2) @ shrunk + 1 / len(values)
            error = (((centred - fitted) / (1 - leverage)[:, None]) ** 2).mean(axis=0)
            better = error < best
            candidate = right.T @ ((singular / (singular**2 + penalty))[:, None] * (left.T @ centred))
            weights[:, better], best[better], chosen[better] = candidate[:, better], error[better], penalty
        return cls(mean, spread, weights, offset, chosen)

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of (n, features), float64 (n, targets)."""
        return (features - self.mean) / self.spread @ self.weights + self.offset


def shuffled_within(values: NDArray[np.float64], groups: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Rows of (n, targets) dealt out anew within each group (n,): every section keeps its values, no spot its own."""
    rng = np.random.default_rng(seed)
    result = values.copy()
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        result[rows] = values[rng.permutation(rows)]
    return result
