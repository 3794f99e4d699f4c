"""Slides with squares at known places, and an engine that sees them: for tests of where a run looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from run_helpers import MemorySlide

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.base import Engine, ModelInfo
from qwenvl.request import Request, Task
from workflows.merge.merged import iter_merged
from workflows.store.run_store import RunStore
from wsi.slide import RGB, Level

SIDE = 12
"""Side of a planted square in level-0 px."""


class DotSlide(MemorySlide):
    """Pink tissue with dark squares whose places are known."""

    def __init__(self, places: NDArray[np.int64], width: int = 1000, height: int = 760) -> None:
        super().__init__(width, height)
        self.places = places
        picture = np.full((height, width, 3), (215, 130, 175), np.uint8)
        for x, y in places.tolist():
            picture[y : y + SIDE, x : x + SIDE] = 20
        self.picture = picture
        self.levels = (Level(width, height, 1.0),)

    def _read(self, x: int, y: int, width: int, height: int, level: int) -> RGB:
        return self.picture[y : y + height, x : x + width].copy()

    def _reopen(self) -> tuple[Any, tuple[Any, ...]]:
        return DotSlide, (self.places, self.width, self.height)


class DotEngine(Engine):
    """Sees every dark square, lists at most `most` of them, says yes where there are any, and fails where told.

    `trouble` gets a picture and the objects seen in it, and may return another answer or raise.
    """

    def __init__(
        self, most: int = 12, trouble: Callable[[NDArray[np.uint8], int], Answer | None] | None = None, batch: int = 4
    ) -> None:
        self.info = ModelInfo("dots", "none", f"dots:{most}")
        self.most, self.trouble, self.batch = most, trouble, batch
        self.asked: list[tuple[int, int]] = []

    def batch_size(self, request: Request) -> int:
        return self.batch

    def prompt_tokens(self, request: Request) -> int:
        return 50

    def answer(self, pictures: Sequence[NDArray[np.uint8]], request: Request) -> list[Answer]:
        return [self._answer(picture, request) for picture in pictures]

    def _answer(self, picture: NDArray[np.uint8], request: Request) -> Answer:
        dark = (picture.mean(axis=2) < 110).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=4)
        boxes = [(x, y, x + w, y + h) for x, y, w, h, area in stats[1:].tolist() if area > 4]
        self.asked.append((picture.shape[1], len(boxes)))
        if self.trouble is not None and (answer := self.trouble(picture, len(boxes))) is not None:
            return answer
        objects = tuple(TileObject("dot", box=box) for box in boxes[: self.most])
        if request.task is Task.SCORE:
            return Answer(Status.OK, scores={"yes": min(1.0, 0.1 + 0.3 * len(boxes))}, prompt_tokens=20, seconds=0.1)
        if request.task is Task.CLASSIFY:
            full = min(1.0, len(boxes) / 4)
            scores = {"full": full, "empty": 1 - full}
            return Answer(Status.OK, text=max(scores, key=scores.__getitem__), scores=scores, prompt_tokens=20)
        if request.task is Task.COUNT:
            return Answer(Status.OK, value=len(boxes), prompt_tokens=50)
        return Answer(
            Status.OK if objects else Status.EMPTY, objects, prompt_tokens=50, new_tokens=len(objects), seconds=1.0
        )


def planted(number: int, seed: int = 0, width: int = 1000, height: int = 760) -> NDArray[np.int64]:
    """Places of squares that keep apart from each other, crowded into the left half."""
    rng = np.random.default_rng(seed)
    spots = np.stack(np.meshgrid(np.arange(5, width - 20, 24), np.arange(5, height - 20, 24)), -1).reshape(-1, 2)
    likely = np.exp(-spots[:, 0] / 180)
    chosen = rng.choice(len(spots), number, replace=False, p=likely / likely.sum())
    return spots[chosen] + rng.integers(0, 6, (number, 2))


def boxes_of(out: Path) -> NDArray[np.float64]:
    with RunStore.open(out) as store:
        return np.concatenate([chunk.box for chunk in iter_merged(store)] or [np.zeros((0, 4))])


def found_once(boxes: NDArray[np.float64], places: NDArray[np.int64]) -> tuple[int, int]:
    """Planted squares that have a box within 2 px, and boxes that stand for none or for one already found."""
    corners = boxes[:, :2]
    taken: set[int] = set()
    for place in places:
        near = np.flatnonzero(np.abs(corners - place).max(axis=1) <= 2) if len(corners) else []
        fresh = [int(k) for k in near if int(k) not in taken]
        if fresh:
            taken.add(fresh[0])
    return len(taken), len(boxes) - len(taken)
