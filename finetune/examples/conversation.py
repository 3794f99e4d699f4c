"""From a labelled tile to the words that a family is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenvl.answer import TileObject
from qwenvl.images.geometry import PictureFrame
from qwenvl.prompts import build_prompt
from qwenvl.request import Request, Task
from qwenvl.writing import Writer


@dataclass(frozen=True)
class Exchange:
    """One question about one picture (or none), and its answer."""

    prompt: str
    answer: str
    system: str | None = None
    places: bool = False
    """Whether numbers of the answer are coordinates, so that a near miss is half right."""


def object_turn(writer: Writer, request: Request, objects: Sequence[TileObject], frame: PictureFrame) -> Exchange:
    """The turn of a tile: the request in the family's own words, and the answer it should give."""
    wanted = [item for item in objects if item.label in request.labels]
    answer = writer.answer(request.task, wanted, frame)
    return Exchange(build_prompt(request), answer, request.system_prompt, places=request.task is not Task.COUNT)


__all__ = ["Exchange", "Writer", "object_turn"]
