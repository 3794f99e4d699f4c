"""Stand-ins shared by the tests of runs: a slide in memory, and an engine that counts and can fail."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Answer
from qwenvl.engines.base import Engine
from qwenvl.engines.fake import FakeEngine
from qwenvl.errors import ServerError
from qwenvl.request import Request, Task
from wsi.errors import ReadError
from wsi.slide import RGB, Level, Slide


class MemorySlide(Slide):
    """A slide of two levels whose pixels are computed: pink tissue on white, with grain."""

    def __init__(
        self,
        width: int = 1000,
        height: int = 760,
        mpp: float | None = 0.5,
        *,
        broken: tuple[int, int, int, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.arguments = (width, height, mpp, broken, seed)
        self.path = Path(f"memory-{width}x{height}-{seed}.svs")
        self.reader = "memory"
        self.levels = (Level(width, height, 1.0), Level(width // 4, height // 4, 4.0))
        self.mpp_xy = None if mpp is None else (mpp, mpp)
        self.mpp_source = "unknown" if mpp is None else "file"
        self.properties = {}
        self.broken = broken
        self.fingerprint = f"sha256:{zlib.crc32(repr(self.arguments).encode()):032x}"  # type: ignore[misc]

    def _reopen(self) -> tuple[Any, tuple[Any, ...]]:
        width, height, mpp, broken, seed = self.arguments
        return _open_memory, (width, height, mpp, broken, seed)

    def _read(self, x: int, y: int, width: int, height: int, level: int) -> RGB:
        of = self.levels[level]
        if self.broken is not None and level == 0:
            x0, y0, x1, y1 = self.broken
            if x < x1 and y < y1 and x + width > x0 and y + height > y0:
                raise ReadError(f"{self.path}: tile at ({x}, {y}) is corrupt")
        yy, xx = np.mgrid[y : y + height, x : x + width]
        tissue = (xx > 0.12 * of.width) & (xx < 0.9 * of.width) & (yy > 0.1 * of.height) & (yy < 0.88 * of.height)
        grain = ((xx * 73856093 ^ yy * 19349663 ^ self.arguments[4] * 83492791) * 2654435761 >> 16) % 61
        pink = np.stack([215 - grain, 130 - grain, 175 - grain], -1)
        return np.where(tissue[..., None], pink, 244).astype(np.uint8)


def _open_memory(width: int, height: int, mpp: float | None, broken: Any, seed: int) -> MemorySlide:
    return MemorySlide(width, height, mpp, broken=broken, seed=seed)


class CountingEngine(FakeEngine):
    """Remembers every picture it was asked about, and fails where told."""

    def __init__(self, *args: Any, fail: Callable[[int], Exception | None] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: list[int] = []
        self.calls = 0
        self._fail = fail

    def answer(self, pictures: Sequence[NDArray[np.uint8]], request: Request) -> list[Answer]:
        self.calls += 1
        error = None if self._fail is None else self._fail(self.calls)
        if error is not None:
            raise error
        self.asked += [hash(picture.tobytes()) for picture in pictures]
        return super().answer(pictures, request)


REQUESTS = {
    Task.DETECT: {"labels": ("tumour", "lymphocyte")},
    Task.POINT: {"labels": ("mitosis",)},
    Task.COUNT: {"labels": ("nucleus",)},
    Task.CLASSIFY: {"labels": ("tumour", "stroma", "necrosis")},
    Task.SCORE: {"prompt": "Is there tumour?"},
    Task.DESCRIBE: {},
    Task.ASK: {"prompt": "What is this?"},
    Task.EXTRACT: {"output_schema": {"type": "object"}},
}


def request_of(task: Task, **fields: Any) -> Request:
    """A valid request of any task, at 0.5 um/px in tiles of 224 px."""
    return Request(task=task, **{"tile_size": 224, "overlap": 32, "mpp": 0.5, **REQUESTS[task], **fields})


class _Losing(Engine):
    lose_at, _calls, _inside = 1, 0, False

    def answer_many(self, pictures: Sequence[Any], requests: Sequence[Request]) -> list[list[Answer]]:
        if self._inside:
            return super().answer_many(pictures, requests)
        self._inside = True
        try:
            rows = super().answer_many(pictures, requests)
        finally:
            self._inside = False
        self._calls += 1
        if self._calls != self.lose_at:
            return rows
        flat = iter(range(10**6))
        arrived = [[answer if next(flat) % 2 == 0 else None for answer in row] for row in rows]
        raise ServerError("The server cannot be reached: planted", code="away", answers=arrived)

    def answer(self, pictures: Sequence[Any], request: Request) -> list[Answer]:
        if self._inside:
            return super().answer(pictures, request)  # type: ignore[safe-super]
        return self.answer_many(pictures, [request])[0]


def losing_its_server(engine: Any, *, call: int) -> Any:
    """The engine itself, which loses its server in a later call, once: every other answer has arrived by then."""
    engine.__class__ = type("Losing", (_Losing, type(engine)), {"lose_at": call})
    return engine
