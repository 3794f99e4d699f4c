"""Components of a mask, chosen by size and place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def extremes(channels: NDArray[np.generic]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Largest and smallest of three channels (h, w, 3); pairwise, which is many times faster than along the axis."""
    red, green, blue = channels[..., 0], channels[..., 1], channels[..., 2]
    return np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)


def components(mask: Mask, keep: Callable[[NDArray[np.int32], Mask], Mask]) -> Mask:
    """The components of a mask that `keep` chooses, by area in px and by whether they meet the border."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    reach = (left == 0) | (top == 0) | (right == mask.shape[1]) | (bottom == mask.shape[0])
    chosen = keep(stats[:, cv2.CC_STAT_AREA].astype(np.int32), reach)
    chosen[0] = False
    return np.asarray(chosen[labels])


def contact(labels: NDArray[np.int32], count: int, others: Mask) -> NDArray[np.float64]:
    """Share of the px 3 to 7 px around each component that are in `others`."""
    if count < 2:
        return np.zeros(count)
    distance, nearest = cv2.distanceTransformWithLabels((labels == 0).astype(np.uint8), cv2.DIST_L2, 3)
    of_zone = np.zeros(int(nearest.max()) + 1, np.int64)
    of_zone[nearest[labels > 0]] = labels[labels > 0]
    beside = (distance > 3) & (distance < 7)
    owner = of_zone[nearest[beside]]
    number = np.bincount(owner, minlength=count)
    return np.asarray(np.bincount(owner, others[beside], count) / np.maximum(number, 1))


def grown(mask: Mask, radius: int) -> Mask:
    """The mask and all px within a distance of it."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc) > 0)
