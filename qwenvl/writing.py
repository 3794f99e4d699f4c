"""Writing answers: objects of a tile to the words in which a model family would name them, and back.

Coordinates are computed from the size that the vision tower really sees, so labels kept in level-0 px serve every
family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwenvl.answer import Answer, TileObject
from qwenvl.checkpoints.checkpoint_metadata import CheckpointDescription
from qwenvl.errors import RequestError
from qwenvl.families import ModelFamily
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse import parse_answer
from qwenvl.request import Request, Task

_ABSOLUTE = CoordinateSpace.ABSOLUTE_RESIZED


@dataclass(frozen=True)
class Writer:
    """Writes and reads the answers of one family.

    Attributes
    ----------
    family : ModelFamily
    cell : int
        Side of a visual token in px of the processed picture: objects are named row by row of tokens.
    whole_pixels : bool
        Round to whole px of the processed picture before the family's numbers are made. The embedded model
        knows no others.
    """

    family: ModelFamily
    cell: int
    whole_pixels: bool = False

    @classmethod
    def of(cls, description: CheckpointDescription) -> Writer:
        """The writer of a checkpoint."""
        own = description.folder / "qwenvl.json"
        facts: Mapping[str, Any] = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
        recipe = (facts.get("training") or {}).get("recipe")
        return cls(
            description.family,
            description.processor.factor,
            bool(facts.get("whole_pixels", recipe == "finetune/pretrain")),
        )

    # ------------------------------------------------------------------ writing

    def answer(self, task: Task, objects: Sequence[TileObject], frame: PictureFrame, *, as_given: bool = False) -> str:
        """The answer that names `objects` of a tile, in reading order.

        Parameters
        ----------
        task : Task
            detect, point or count. A box asked as a point is its centre.
        objects : sequence of TileObject
            In tile px.
        frame : PictureFrame
            Of the tile's picture.
        as_given : bool
            Keep the order of `objects`, where it means something (the characters of a line).

        Raises
        ------
        RequestError
            Boxes are asked of labels that are points, or the task is about other things than objects.
        """
        if task is Task.COUNT:
            return str(len(objects))
        if task not in (Task.DETECT, Task.POINT):
            raise RequestError(f"task {task} cannot be taught from labelled objects; use detect, point or count")
        places = np.array([self._place(task, item) for item in objects], np.float64).reshape(
            len(objects), 4 if task is Task.DETECT else 2
        )
        numbers = self.to_model(places, frame)
        order = range(len(places)) if as_given else self._reading_order(places, frame)
        return self._written(task, [(objects[i].label, numbers[i].tolist()) for i in order])

    def to_model(self, places: np.ndarray, frame: PictureFrame) -> np.ndarray:
        """Tile px (n, 2 or 4) to the family's whole numbers, inside its range."""
        if self.whole_pixels:
            seen = np.rint(frame.to_model(places, _ABSOLUTE))
            places = frame.to_tile(seen, _ABSOLUTE)
        numbers = np.rint(frame.to_model(places, self.family.space))
        limits = np.tile(frame.extent(self.family.space), places.shape[-1] // 2)
        return np.asarray(np.clip(numbers, 0, limits).astype(np.int64))

    def _place(self, task: Task, item: TileObject) -> tuple[float, ...]:
        if task is Task.DETECT:
            if item.box is None:
                raise RequestError(
                    f"a label of class {item.label!r} is a point, and boxes are asked; train task point or count"
                )
            return item.box
        if item.point is not None:
            return item.point
        assert item.box is not None
        return (item.box[0] + item.box[2]) / 2, (item.box[1] + item.box[3]) / 2

    def _reading_order(self, places: np.ndarray, frame: PictureFrame) -> np.ndarray:
        """Rows of visual tokens, tokens of a row, quarters of a token, then left to right."""
        if not len(places):
            return np.zeros(0, np.int64)
        centre = (places[:, :2] + places[:, -2:]) / 2
        seen = frame.to_model(centre, _ABSOLUTE)
        cell, quarter = np.floor(seen / self.cell), np.floor(seen / (self.cell / 2))
        return np.lexsort((seen[:, 0], quarter[:, 0], quarter[:, 1], cell[:, 0], cell[:, 1]))

    def _written(self, task: Task, items: list[tuple[str, list[int]]]) -> str:
        if self.family.dialect == "json" or not items:
            key = "bbox_2d" if task is Task.DETECT else "point_2d"
            return json.dumps([{key: numbers, "label": label} for label, numbers in items], ensure_ascii=False)
        if self.family.dialect == "tags_v1":
            ref, box = ("<ref>", "</ref>"), ("<box>", "</box>")
        else:
            ref, box = ("<|object_ref_start|>", "<|object_ref_end|>"), ("<|box_start|>", "<|box_end|>")
        parts = []
        for label, numbers in items:
            pairs = ",".join(f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True))
            parts.append(f"{ref[0]}{label}{ref[1]}{box[0]}{pairs}{box[1]}")
        return "".join(parts)

    # ------------------------------------------------------------------ reading

    def read(self, text: str, request: Request, frame: PictureFrame) -> Answer:
        """What the project's own parser makes of a training target: objects in tile px."""
        return parse_answer(text, request, dialect=self.family.dialect, space=self.family.space, frame=frame)
