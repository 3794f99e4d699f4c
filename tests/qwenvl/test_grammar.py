"""Constrained decoding: noise from random models still makes valid answers."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qwenvl.answer import Answer, Status
from qwenvl.checkpoints.testing import TINY_FAMILIES
from qwenvl.constraints.grammar import ThinkFirst, answer_schema
from qwenvl.engines.local import LocalEngine
from qwenvl.families import get_family
from qwenvl.images.geometry import CoordinateSpace
from qwenvl.request import Request, Task

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]
JSON_FAMILIES = [name for name in TINY_FAMILIES if get_family(name).dialect == "json"]
LABELS = ("nucleus", "größe x")
REPEATED = {"duplicates", "loop"}
"""What may stay: a box written twice where the model has nothing else to say."""


def request_for(task: Task, **fields: Any) -> Request:
    return Request(task=task, **({"labels": LABELS, "generation": {"max_new_tokens": 90}} | fields))


def check(answer: Answer, request: Request, limits: tuple[int, int]) -> None:
    text = answer.raw.rsplit("</think>", 1)[-1].strip()
    if answer.finish_reason != "stop":
        assert answer.status is Status.TRUNCATED
        text = text[: text.rfind('"}') + 2] + "]" if '"}' in text else "[]"
    items = json.loads(text)
    assert text == json.dumps(items, ensure_ascii=False)
    key = "bbox_2d" if request.task is Task.DETECT else "point_2d"
    for item in items:
        assert list(item) == [key, "label"]
        assert item["label"] in (request.labels or [item["label"]])
        assert len(item[key]) == (4 if request.task is Task.DETECT else 2)
        assert all(0 <= x <= limits[0] for x in item[key][::2])
        assert all(0 <= y <= limits[1] for y in item[key][1::2])
        assert key == "point_2d" or (item[key][0] < item[key][2] and item[key][1] < item[key][3])
    assert len(items) <= request.max_objects


@pytest.mark.parametrize("family", JSON_FAMILIES)
def test_noise_within_the_grammar(tiny: Tiny, pictures: Pictures, family: str) -> None:
    engine = LocalEngine.load(tiny(family), device="cpu")
    alone = LocalEngine(engine.checkpoint, token_budget=1)
    for request in (
        request_for(Task.DETECT),
        request_for(Task.POINT, max_objects=2, labels=(), prompt="Mark what is odd."),
    ):
        answers = engine.answer(pictures, request)
        assert [a.raw for a in answers] == [a.raw for a in alone.answer(pictures, request)]
        for answer, picture in zip(answers, pictures, strict=True):
            frame = engine.checkpoint.processor.frame(picture.shape[1], picture.shape[0])
            width, height = frame.extent(engine.checkpoint.family.space)
            check(answer, request, (int(width), int(height)))
            if answer.status in (Status.REPAIRED, Status.FAILED):
                assert {code.split(":")[0] for code in answer.notes} <= REPEATED | {"retaken"}
    for answer in engine.answer(pictures, request_for(Task.COUNT)):
        assert answer.status is Status.OK
        assert str(answer.value) == answer.raw.rsplit("</think>", 1)[-1].strip()


def test_sampled_answers_keep_to_the_grammar(tiny: Tiny, pictures: Pictures) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"), device="cpu")
    for settings in ({"temperature": 1.0}, {"repetition_penalty": 1.3}):
        request = request_for(Task.DETECT, generation={"max_new_tokens": 90, **settings})
        for answer in engine.answer(pictures[:2], request):
            check(answer, request, (1000, 1000))


def test_without_constraints(tiny: Tiny, pictures: Pictures) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"), device="cpu")
    free = LocalEngine(engine.checkpoint, constrained=False)
    assert free.info.processor["constrained"] is False
    request = request_for(Task.DETECT)
    assert [a.raw for a in free.answer(pictures, request)] != [a.raw for a in engine.answer(pictures, request)]


def test_tags_and_words_are_free() -> None:
    for task, dialect in ((Task.DETECT, "tags_v2"), (Task.POINT, "tags_v1"), (Task.DESCRIBE, "json")):
        assert answer_schema(request_for(task), dialect=dialect, extent=(1000, 1000)) is None


def test_absolute_pixels_bound_each_axis() -> None:
    frame = get_family("Qwen2.5-VL").frame(300, 100)
    schema = answer_schema(
        request_for(Task.POINT), dialect="json", extent=frame.extent(CoordinateSpace.ABSOLUTE_RESIZED)
    )
    assert schema is not None
    x, y = schema["items"]["properties"]["point_2d"]["prefixItems"]
    assert (x["maximum"], y["maximum"]) == (frame.processed_width, frame.processed_height)


@pytest.mark.parametrize("family", ["Qwen3-VL-Thinking", "Qwen3-VL-MoE-Thinking"])
def test_thoughts_end_within_their_budget(tiny: Tiny, pictures: Pictures, family: str) -> None:
    """A model that never closes its thought, or goes in circles in it."""
    engine = LocalEngine.load(tiny(family), device="cpu")
    closing = engine.checkpoint.tokenizer.convert_tokens_to_ids("</think>")
    with torch.no_grad():
        engine.checkpoint.model.lm_head.weight[closing] = 0  # random weights could close it by chance
    for answer in engine.answer(pictures, request_for(Task.COUNT)):
        assert answer.status is (Status.OK if answer.value else Status.TRUNCATED)
        assert "thought-closed" in answer.notes
        assert answer.reasoning is not None
        assert re.search(r"</think>\n\n[0-9]+$", answer.raw)
        assert answer.new_tokens <= 45 + 3 + 7  # half of the tokens, the closing, the largest number


def test_a_thought_is_closed_by_hand() -> None:
    class Answers:
        def apply(self, logits: torch.Tensor, rows: Sequence[int]) -> None:
            logits[:, 0] = -torch.inf

        def accept(self, row: int, token: int) -> bool:
            return token == 9

        def interrupt(self, row: int) -> bool:
            return False

        def back(self, row: int, most: int) -> int:
            return most

    thinking = ThinkFirst(Answers(), 2, budget=2, close=(7, 8), eos=(1,))

    def open_tokens() -> list[list[int]]:
        logits = torch.zeros(2, 10)
        thinking.apply(logits, [0, 1])
        return [(row == 0).nonzero().flatten().tolist() for row in logits]

    assert open_tokens() == [[0, 2, 3, 4, 5, 6, 7, 8, 9]] * 2
    assert not thinking.accept(0, 1)
    assert thinking.accept(0, 3)
    assert thinking.accept(0, 3)
    assert not thinking.accept(0, 3)
    assert thinking.accept(1, 7)
    assert open_tokens() == [[7], [8]]
    assert [thinking.accept(0, 7), thinking.accept(0, 8), thinking.accept(1, 3), thinking.accept(1, 8)] == [
        True,
        True,
        False,
        True,
    ]
    assert open_tokens() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]] * 2
    assert thinking.accept(0, 9)
    assert not thinking.interrupt(0)
    assert thinking.back(0, 3) == 3
    fresh = ThinkFirst(Answers(), 1, budget=50, close=(7, 8), eos=(1,))
    assert fresh.interrupt(0)
    assert not fresh.accept(0, 3)
