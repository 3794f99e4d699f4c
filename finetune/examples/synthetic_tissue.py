"""Replay of synthetic tissue: fields with planted truth, and questions about them in the words of the tasks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from finetune.evaluation.metrics import Judged, score_answers
from finetune.examples.conversation import Exchange, Writer
from finetune.examples.examples import Augmentation, ExamplePlan, MarkChange, Picture
from qwenvl.answer import TileObject
from qwenvl.engines.base import Engine
from qwenvl.engines.questions import answer_each
from qwenvl.images.geometry import PictureFrame
from qwenvl.prompts import build_prompt
from qwenvl.request import Generation, Request, Task
from wsi.synthetic import ARTEFACTS, CLASSES, REGIONS, Field, sample_field

if TYPE_CHECKING:
    from finetune.examples.replay import ReplayContext

NUCLEUS = "nucleus"
_SHARES = {Task.DETECT: 0.55, Task.POINT: 0.08, Task.COUNT: 0.12, Task.CLASSIFY: 0.1, Task.SCORE: 0.15}
"""How often each task is asked about."""
_ALL_SHARE = 0.35
"""Of the questions about objects: those about every nucleus, whatever its class."""
_FINDINGS = (*REGIONS, *ARTEFACTS, "gland", "mitosis")
_FIRST, _FIRST_HELD_OUT = 900_000, 890_000
"""Seeds of the fields; benchmarks and the pre-training of the bundled model draw none of them."""
_MAX_NUCLEI = 20
_BATCH = 16


class FieldSource:
    """Draws fields of synthetic tissue and asks about them.

    Parameters
    ----------
    name : str
    kit : ReplayContext
    size : int
        Side of a field in px.
    fields : int
        Number of different ones.
    """

    def __init__(self, name: str, kit: ReplayContext, size: int, fields: int = 512) -> None:
        self.name, self._kit, self._size, self._fields = name, kit, size, fields
        self._augment = Augmentation(colour=1.0)
        self._field = lru_cache(maxsize=1024)(lambda number: field_of(_FIRST + number, size))

    def plan(self, rng: np.random.Generator) -> ExamplePlan:
        """Draw a field, a change and a question."""
        field = self._field(int(rng.integers(self._fields)))
        change = MarkChange.draw(self._augment, rng, square=True)
        frame = self._kit.checkpoint.processor.frame(self._size, self._size)
        turn = turn_of(field, change.objects(objects_of(field), self._size, self._size), self._kit.writer, frame, rng)
        size = (self._size, self._size)
        return self._kit.plan(self.name, turn, lambda: change.picture(field.image), size, None)


def field_of(seed: int, size: int) -> Field:
    """The field of a seed, of at most 20 nuclei."""
    return sample_field(seed, size=size, max_nuclei=_MAX_NUCLEI)


def objects_of(field: Field) -> tuple[TileObject, ...]:
    """Nuclei of a field with their classes."""
    boxes = np.asarray(field.boxes, np.float64).tolist()
    return tuple(TileObject(name, box=tuple(box)) for name, box in zip(field.labels, boxes, strict=True))


def turn_of(
    field: Field, objects: tuple[TileObject, ...], writer: Writer, frame: PictureFrame, rng: np.random.Generator
) -> Exchange:
    """A question of a random task about a field, and its answer by the planted truth."""
    task = list(_SHARES)[int(rng.choice(len(_SHARES), p=list(_SHARES.values())))]
    if task is Task.CLASSIFY:
        others = [name for name in rng.permutation(REGIONS).tolist() if name != field.tissue]
        names = [field.tissue, *others[: int(rng.integers(1, len(REGIONS)))]]
        labels = tuple(name for name in REGIONS if name in names)
        return Exchange(build_prompt(Request(task=task, labels=labels)), field.tissue)
    if task is Task.SCORE:
        wanted = rng.random() < 0.5
        fitting = [name for name in _FINDINGS if (name in field.findings) == wanted] or list(_FINDINGS)
        finding = str(rng.choice(fitting))
        request = Request(task=task, prompt=f"Is there {finding} in this image?")
        return Exchange(build_prompt(request), "yes" if finding in field.findings else "no")
    if rng.random() < _ALL_SHARE:
        labels = (NUCLEUS,)
        objects = tuple(TileObject(NUCLEUS, box=item.box) for item in objects)
    else:
        count = int(rng.integers(1, len(CLASSES) + 1))
        chosen = set(rng.permutation(CLASSES)[:count].tolist())
        labels = tuple(name for name in CLASSES if name in chosen)
        objects = tuple(item for item in objects if item.label in chosen)
    answer = writer.answer(task, objects, frame)
    return Exchange(build_prompt(Request(task=task, labels=labels)), answer, places=task is not Task.COUNT)


@dataclass(frozen=True)
class FieldSkill:
    """Detection on synthetic fields with planted truth."""

    name: str
    pictures: tuple[Picture, ...]
    truth: tuple[tuple[TileObject, ...], ...]
    request: Request

    @classmethod
    def of(cls, name: str, size: int, count: int, longest: int) -> FieldSkill:
        """Nuclei of `count` held-out fields of `size` px, answered in at most `longest` tokens."""
        fields = [field_of(_FIRST_HELD_OUT + number, size) for number in range(count)]
        truth = tuple(tuple(TileObject(NUCLEUS, box=item.box) for item in objects_of(field)) for field in fields)
        request = Request(
            task=Task.DETECT,
            labels=(NUCLEUS,),
            tile_size=size,
            overlap=0,
            generation=Generation(max_new_tokens=longest),
        )
        return cls(name, tuple(field.image for field in fields), truth, request)

    def points(self, engine: Engine) -> float:
        """100 times F1 at IoU 0.5."""
        answers = answer_each(engine, self.pictures, self.request, batch_size=_BATCH)
        judged = [Judged(str(i), t, a) for i, (t, a) in enumerate(zip(self.truth, answers, strict=True))]
        return 100 * score_answers(judged, self.request.labels).values["f1"]
