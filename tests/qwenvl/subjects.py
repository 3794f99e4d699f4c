"""Subjects that several tests ask about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Answer
from qwenvl.request import Request, Task
from qwenvl.subject import Item, NamedPicture, Subject

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "grade": {"enum": ["low", "high"]}},
    "required": ["n", "grade"],
    "additionalProperties": False,
}
DETECT = Request(task=Task.DETECT, labels=("nucleus",), generation={"max_new_tokens": 12})
ASK = Request(task=Task.ASK, prompt="What is this?", generation={"max_new_tokens": 12})
SCORE = Request(task=Task.SCORE, prompt="Is there a nucleus?")
CLASSIFY = Request(task=Task.CLASSIFY, labels=("tumour", "stroma", "tumour edge"))
EXTRACT = Request(task=Task.EXTRACT, output_schema=SCHEMA, generation={"max_new_tokens": 40})
EVERY = (DETECT, ASK, SCORE, CLASSIFY, EXTRACT)


def pair(
    pictures: Sequence[NDArray[np.uint8]], names: tuple[str, str] = ("context", "detail"), target: int = 1
) -> Subject:
    """Two named pictures."""
    named = tuple(NamedPicture(name, pixels) for name, pixels in zip(names, pictures, strict=True))
    return Subject(named, target=names[target])


def mixed(pictures: Sequence[NDArray[np.uint8]]) -> list[Item]:
    """Two pictures, one, two the other way round, one resized, one with a name, none."""
    first, second, resized, tall = pictures
    return [
        pair((first, tall)),
        first,
        pair((tall, second), ("earlier", "later"), target=0),
        resized,
        Subject((NamedPicture("detail", second),)),
        Subject(),
    ]


def plain(answer: Answer) -> tuple[Any, ...]:
    """What must not depend on the company a subject is asked in."""
    fields = ("status", "raw", "finish_reason", "new_tokens", "prompt_tokens", "value", "objects", "text")
    return tuple(getattr(answer, field) for field in fields)
