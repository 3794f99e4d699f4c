"""Films and an engine whose answers follow from the pixels, for tests of the workflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request, Task
from qwenvl.subject import Item, Subject

SIDE = 96
SPOTS = 3


def spots_film(frames: int = 10, *, bright: tuple[int, int] = (4, 7), spots: int = SPOTS) -> np.ndarray:
    """Dark spots that move to the right; between two frames the ground is bright."""
    film = np.full((frames, SIDE, SIDE, 3), 120, np.uint8)
    for t in range(frames):
        if bright[0] <= t <= bright[1]:
            film[t] = 220
        for k in range(spots):
            cv2.rectangle(film[t], (8 + 4 * t, 10 + 28 * k), (19 + 4 * t, 21 + 28 * k), (10, 10, 10), -1)
    return film


def write_stack(path: Path, film: np.ndarray, **metadata: Any) -> Path:
    tifffile.imwrite(path, film, photometric="rgb", ome=True, metadata={"axes": "TYXS", **metadata})
    return path


class SpotEngine(FakeEngine):
    """Finds dark spots, and says yes to bright ground; counts what it was asked, and can break off."""

    def __init__(self, *, stop_after: int | None = None, fail: frozenset[int] = frozenset()) -> None:
        super().__init__(batch=2)
        self.asked: list[Any] = []
        self._stop, self._fail = stop_after, fail

    def answer(self, pictures: Sequence[Item], request: Request) -> list[Answer]:
        if self._stop is not None and len(self.asked) >= self._stop:
            raise KeyboardInterrupt
        answers = []
        for item in pictures:
            self.asked.append(item)
            if isinstance(item, Subject):
                assert item.stamps is not None
                bright = [
                    item.stamps.number(value)
                    for value, picture in zip(item.stamps.values, item.pictures, strict=True)
                    if picture.pixels.max() > 180
                ]
                value = {"ranges": [{"start": bright[0], "end": bright[-1]}] if bright else []}
                answers.append(Answer(Status.OK, value=value, raw=str(value)))
            elif len(self.asked) - 1 in self._fail:
                answers.append(Answer.failure("planted"))
            elif request.task is Task.SCORE:
                answers.append(Answer(Status.OK, scores={"yes": float(item.mean() > 170)}))
            else:
                count, _, stats, _ = cv2.connectedComponentsWithStats((item.max(axis=2) < 60).astype(np.uint8))
                found = tuple(
                    TileObject(request.labels[0], box=(float(x), float(y), float(x + w), float(y + h)), score=0.9)
                    for x, y, w, h, _ in stats[1:count]
                )
                answers.append(Answer(Status.OK if found else Status.EMPTY, objects=found))
        return answers
