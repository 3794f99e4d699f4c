"""An engine without a model: for measuring and testing the plumbing, never for results.

Its answers have the shape of a model's and say nothing about the picture. They depend on the picture's
pixels alone, so that a repeated run is the same run.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.base import Engine, ModelInfo
from qwenvl.request import Request, Task
from qwenvl.subject import Item, Subject, as_subject


class FakeEngine(Engine):
    """Answers at once, with as many random boxes per picture as told.

    Parameters
    ----------
    boxes : int
        Objects per picture (detect, point), and the highest count (count).
    side : float
        Mean side of a box in px of the picture.
    seconds : float
        Time that each picture takes.
    batch : int
        Pictures per call.
    """

    def __init__(self, boxes: int = 40, *, side: float = 24.0, seconds: float = 0.0, batch: int = 16) -> None:
        self._boxes, self._side, self._seconds, self._batch = boxes, side, seconds, batch
        self.info = ModelInfo(
            model="stand-in",
            family="stand-in",
            fingerprint=f"stand-in:{boxes}:{side}",
            dtype="none",
            warning="Made without a model, to measure the program: the results mean nothing.",
        )

    def batch_size(self, request: Request) -> int:
        """The batch size given, whatever the request."""
        return self._batch

    def prompt_tokens(self, request: Request) -> int:
        """64, whatever the request."""
        return 64

    def answer(self, pictures: Sequence[Item], request: Request) -> list[Answer]:
        """One answer per item; see `Engine.answer`. Of several pictures, the target alone decides."""
        self.check(request)
        subjects = [as_subject(item, index, request.marks) for index, item in enumerate(pictures)]
        answers = [subject.noted(self._answer(subject, request)) for subject in subjects]
        calibration = request.calibration
        return answers if calibration is None else [calibration.calibrated(answer) for answer in answers]

    def _answer(self, subject: Subject, request: Request) -> Answer:
        if (reason := subject.unfit(request)) is not None:
            return Answer.failure(reason)
        at = subject.target_index
        picture = np.zeros((1, 1, 3), np.uint8) if at is None else subject.pictures[at].pixels
        if self._seconds:
            time.sleep(self._seconds)
        rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(picture).data))
        common: dict[str, Any] = {"prompt_tokens": 64, "new_tokens": 16, "seconds": self._seconds}
        match request.task:
            case Task.DETECT | Task.POINT:
                objects = self._objects(rng, picture.shape, request)
                raw = json.dumps([_as_written(each) for each in objects])
                return Answer(Status.OK if objects else Status.EMPTY, objects, raw=raw, **common)
            case Task.COUNT:
                number = int(rng.integers(0, self._boxes + 1))
                return Answer(Status.OK, value=number, raw=str(number), **common)
            case Task.CLASSIFY:
                shares = rng.dirichlet(np.ones(len(request.labels)))
                scores = {label: float(share) for label, share in zip(request.labels, shares, strict=True)}
                chosen = max(scores, key=lambda label: scores[label])
                return Answer(Status.OK, text=chosen, scores=scores, raw=chosen, **common)
            case Task.SCORE:
                return Answer(Status.OK, scores={"yes": float(rng.random())}, raw="yes", **common)
            case Task.EXTRACT:
                value = {"mean": round(float(picture.mean()), 3)}
                return Answer(Status.OK, value=value, raw=json.dumps(value), **common)
            case Task.DESCRIBE | Task.ASK:
                text = f"A picture of mean value {picture.mean():.1f}."
                return Answer(Status.OK, text=text, raw=text, **common)

    def _objects(self, rng: np.random.Generator, shape: tuple[int, ...], request: Request) -> tuple[TileObject, ...]:
        height, width = shape[:2]
        number = min(self._boxes, request.max_objects)
        centres = rng.random((number, 2)) * (width, height)
        halves = self._side * rng.uniform(0.3, 0.7, (number, 2))
        low = np.clip(centres - halves, 0, (width, height)).round(1).tolist()
        high = np.clip(centres + halves, 0, (width, height)).round(1).tolist()
        labels = request.labels or ("object",)
        chosen = rng.integers(0, len(labels), number).tolist()
        scores = rng.uniform(0.3, 1.0, number).round(3).tolist()
        if request.task is Task.POINT:
            places: list[dict[str, Any]] = [{"point": tuple(place)} for place in centres.round(1).tolist()]
        else:
            places = [{"box": (*a, *b)} for a, b in zip(low, high, strict=True)]
        return tuple(
            TileObject(labels[code], score=score, **place)
            for code, score, place in zip(chosen, scores, places, strict=True)
        )


def _as_written(each: TileObject) -> dict[str, Any]:
    place = {"point_2d": each.point} if each.box is None else {"bbox_2d": each.box}
    return {**place, "label": each.label}
