"""Which frames a model is shown: as many as a token budget pays for, dense where things change."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from workflows.errors import StackError
from workflows.science.timelapse.stack import Stack

STAMP_TOKENS = 12
"""Tokens of a stamp and the markers of its frame, at most: `<1234.5 seconds>` and two markers."""

_SMALL = 128
_BLOCK = 8
_SHARE = 0.05  # of the blocks that count: a cell that divides is a small part of its frame
_EVEN = 0.3  # of the frames go evenly over the film, so that what the differences do not see is seen
_NOISE = 1.5  # times the typical difference of two frames in which nothing happens


def frame_changes(stack: Stack) -> NDArray[np.float64]:
    """How much each frame differs from the one before.

    Frames are made small and gray; of the mean absolute difference of each block of 8 x 8 px the highest twentieth
    counts, so that a single cell that divides is as visible as a drift of the whole field.

    Returns
    -------
    float64 (n - 1,)
        In gray values of 0 to 255.
    """
    factor = min(1.0, _SMALL / max(stack.slide.width, stack.slide.height))
    size = (max(1, round(stack.slide.width * factor)), max(1, round(stack.slide.height * factor)))
    grays = (cv2.cvtColor(stack.picture(i, size), cv2.COLOR_RGB2GRAY) for i in range(len(stack)))
    return np.array([_difference(before, after) for before, after in pairwise(grays)])


def _difference(before: NDArray[Any], after: NDArray[Any]) -> float:
    far = cv2.absdiff(before, after)
    columns, rows = (max(1, math.ceil(side / _BLOCK)) for side in far.shape[::-1])
    blocks = cv2.resize(far.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA).ravel()
    most = max(1, round(_SHARE * len(blocks)))
    return float(np.sort(blocks)[-most:].mean())


def sample_frames(changes: ArrayLike, count: int) -> tuple[int, ...]:
    """Choose frames so that between neighbours about the same amount happens.

    The first and the last frame are always among them. Differences that are no larger than those of the film's quiet
    frames count as noise; part of the frames goes evenly over the film all the same.

    Parameters
    ----------
    changes : array (n - 1,)
        From `frame_changes`.
    count : int
        Frames wanted; all are taken where there are no more.

    Returns
    -------
    tuple of int
        Rising frame numbers, `count` of them at most.

    Examples
    --------
    >>> sample_frames([1, 1, 1, 1, 20, 20, 1, 1, 1, 1], 5)
    (0, 4, 5, 6, 10)
    """
    found = np.asarray(changes, np.float64)
    total = len(found) + 1
    if count >= total:
        return tuple(range(total))
    excess = np.clip(found - _NOISE * np.median(found), 0, None)
    even = np.full(len(found), 1 / len(found))
    weights = even
    if excess.sum() > 0.02 * found.sum():
        weights = _EVEN * even + (1 - _EVEN) * excess / excess.sum()
    way = np.concatenate([[0], np.cumsum(weights)])
    wanted = np.linspace(0, way[-1], count)
    chosen: list[int] = []
    for place, aim in enumerate(wanted):
        nearest = int(np.abs(way - aim).argmin())
        least = chosen[-1] + 1 if chosen else 0
        # Frames are left for those that are still to come.
        chosen.append(min(max(nearest, least), total - (count - place)))
    chosen[0], chosen[-1] = 0, total - 1
    return tuple(chosen)


def frame_size(width: int, height: int, side: int, factor: int) -> tuple[int, int]:
    """Size of a frame's picture, its longer side about `side` px and both multiples of `factor`: nothing is resized."""
    scale = side / max(width, height)
    return (max(factor, round(width * scale / factor) * factor), max(factor, round(height * scale / factor) * factor))


def frames_in_budget(size: tuple[int, int], factor: int, budget: int) -> int:
    """How many frames of a size a token budget pays for.

    Raises
    ------
    StackError
        Not even two.
    """
    each = (size[0] // factor) * (size[1] // factor) + STAMP_TOKENS
    if budget < 2 * each:
        raise StackError(
            f"A budget of {budget:,} tokens is too small for two frames of {size[0]}x{size[1]} px, which take "
            f"{2 * each:,}: give more (--token-budget) or smaller frames (--side)."
        )
    return budget // each
