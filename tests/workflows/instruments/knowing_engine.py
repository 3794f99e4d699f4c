"""An engine that knows what its photographs show and writes it as a Qwen3-VL would; and one that may be told to err."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from qwenvl.answer import Answer
from qwenvl.engines.base import Engine, ModelInfo
from qwenvl.families import get_family
from qwenvl.images.geometry import PictureFrame
from qwenvl.parse import parse_answer
from qwenvl.request import Request, Task
from qwenvl.subject import Item, as_subject
from qwenvl.writing import Writer
from recipes.instruments.samples import characters_answer
from workflows.science.instruments.photograph import load_photograph
from workflows.science.instruments.samples import values_answer
from workflows.science.instruments.truth import PhotographTruth, ReadingTruth

FAMILY = get_family("Qwen3-VL")
WRITER = Writer(FAMILY, 32)


class KnowingEngine(Engine):
    """Answers by the truth of a folder; `spoil` may change the words of an answer."""

    def __init__(self, folder: Path, spoil: Callable[[str], str] = lambda text: text, batch: int = 4) -> None:
        self.info = ModelInfo("knowing", FAMILY.name, "knowing:1")
        self.spoil, self.batch, self.asked = spoil, batch, 0
        self.known = {_mark(load_photograph(folder / one.name)): one for one in ReadingTruth.read(folder).photographs}

    def batch_size(self, request: Request) -> int:
        return self.batch

    def answer(self, pictures: Sequence[Item], request: Request) -> list[Answer]:
        return [self._answer(item, request) for item in pictures]

    def _answer(self, item: Item, request: Request) -> Answer:
        self.asked += 1
        pixels = as_subject(item, 0).pictures[0].pixels
        frame = PictureFrame.same(pixels.shape[1], pixels.shape[0])
        truth: PhotographTruth = self.known[_mark(pixels)]
        if request.task is Task.DETECT:
            text = characters_answer(truth, WRITER, frame)
        else:
            assert request.output_schema is not None
            text = values_answer(truth, list(request.output_schema["properties"]), WRITER, frame)
        return parse_answer(self.spoil(text), request, dialect=FAMILY.dialect, space=FAMILY.space, frame=frame)


def _mark(pixels: np.ndarray) -> tuple[int, tuple[int, ...]]:
    return zlib.crc32(np.ascontiguousarray(pixels).data), pixels.shape
