"""A real slide file and runs over it by a stand-in engine, for tests of panels that need no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_qwenvl.process.session import Session
from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request
from workflows.run.slide import run_slide
from wsi.synthetic import Scene, write_slide

SIDE = 448
DETECT = Request(task="detect", labels=("tumor", "lymphocyte"), tile_size=224, overlap=32, mpp=0.25)


def make_slide(folder: Path, name: str = "tissue.svs", seed: int = 4) -> Path:
    """A slide of 640 x 512 px with tissue all over."""
    path = folder / name
    write_slide(path, Scene(160, 128, seed=seed), mpp=0.25, downsamples=(1, 4))
    return path


class Planted(FakeEngine):
    """Answers every tile with three objects at known places, whose labels and scores follow from the tile."""

    def __init__(self, fail: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.asked, self.fail = 0, fail

    def batch_size(self, request: Request) -> int:
        return 2

    def answer(self, pictures: Any, request: Request) -> list[Answer]:
        answers = []
        for picture in pictures:
            number, self.asked = self.asked, self.asked + 1
            if number in self.fail:
                answers.append(Answer.failure("planted fault"))
                continue
            if request.task == "ask":
                answers.append(Answer(Status.OK, text=f"Tile {number}: mostly tumor, some lymphocyte."))
                continue
            light = float(np.asarray(picture).mean()) % 7
            answers.append(
                Answer(
                    Status.OK,
                    objects=tuple(
                        TileObject(
                            DETECT.labels[i % 2],
                            box=(70 + 40 * i, 90, 96 + 40 * i, 110 + light),
                            score=round(0.2 + 0.3 * i, 2),
                        )
                        for i in range(3)
                    ),
                )
            )
        return answers


def make_run(
    slide: Path, folder: Path, request: Request = DETECT, *, fail: tuple[int, ...] = (), **options: Any
) -> Path:
    """A run folder of `slide`."""
    run_slide(slide, request, Planted(fail), folder, mask="all", overview=False, **options)
    return folder


def open_whole(session: Session, folder: Path, qtbot: Any) -> None:
    """Show a run and wait until all of it stands."""
    with qtbot.waitSignal(session.shown, timeout=120_000):
        session.open_run(folder)
