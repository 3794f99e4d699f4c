"""Requests that the tests of the remote engine share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Answer
from qwenvl.engines.remote import RemoteEngine
from qwenvl.request import Request, Task

Pictures = Sequence[NDArray[np.uint8]]
Connect = Callable[..., RemoteEngine]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "grade": {"enum": ["low", "high"]}},
    "required": ["n", "grade"],
    "additionalProperties": False,
}
DETECT = Request(task=Task.DETECT, labels=("nucleus",), generation={"max_new_tokens": 12})
ASK = Request(task=Task.ASK, prompt="What is this?", system_prompt="Be brief.", generation={"max_new_tokens": 12})
SCORE = Request(task=Task.SCORE, prompt="Is there a nucleus?")
CLASSIFY = Request(task=Task.CLASSIFY, labels=("tumour", "stroma", "tumour edge"))
EXTRACT = Request(task=Task.EXTRACT, output_schema=SCHEMA, generation={"max_new_tokens": 40})


def boxes(answers: Sequence[Answer]) -> list[Any]:
    """The first box of each answer, or None."""
    return [answer.objects[0].box if answer.objects else None for answer in answers]
