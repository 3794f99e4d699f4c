"""Whatever a model writes: no exception, no invented object, no failed tile that reads as negative tissue."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenvl.answer import Answer, Status
from qwenvl.families import FAMILIES
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse import parse_answer
from qwenvl.request import Request, Task
from tests.qwenvl.parse_cases import CASES, LABELS

FRAME = PictureFrame(500, 2000, 504, 2016)
DETECT = Request(task="detect", labels=LABELS)
REQUESTS = (
    *(Request(task=task, labels=LABELS) for task in ("point", "count", "classify", "describe")),
    Request(task="ask", prompt="What is here?"),
    Request(task="score", prompt="Is there a mitosis?"),
    Request(task="extract", output_schema={"type": "array"}),
)
GRAMMARS = sorted({(family.dialect, family.space) for family in FAMILIES.values()})


def parse(
    text: str,
    request: Request = DETECT,
    dialect: str = "json",
    space: CoordinateSpace = CoordinateSpace.RELATIVE_1000,
    finish_reason: str = "stop",
) -> Answer:
    return parse_answer(text, request, dialect=dialect, space=space, frame=FRAME, finish_reason=finish_reason)


def check(answer: Answer, request: Request) -> None:
    """What holds for every answer, whatever the text was."""
    for found in answer.objects:
        assert found.label
        assert found.label.casefold() != "none"
        if found.box:
            x_min, y_min, x_max, y_max = found.box
            assert 0 <= x_min < x_max <= FRAME.width
            assert 0 <= y_min < y_max <= FRAME.height
        else:
            assert found.point
            assert 0 <= found.point[0] <= FRAME.width
            assert 0 <= found.point[1] <= FRAME.height
        assert found.score is None or 0 <= found.score <= 1
    assert len(answer.objects) <= request.max_objects
    if answer.status in (Status.EMPTY, Status.REFUSED, Status.FAILED):
        assert not answer.objects
    if answer.status is Status.FAILED:
        assert answer.error
        assert answer.value is None
    if answer.finish_reason == "length" and request.task in (Task.DETECT, Task.POINT):
        assert not answer.status.complete
    if answer.status is Status.OK and request.task in (Task.DETECT, Task.POINT):
        assert answer.objects
    json.dumps([answer.raw, answer.text, *answer.notes, *(found.label for found in answer.objects)]).encode()
    answer.raw.encode()


def written(boxes: list[tuple[str, list[int]]], dialect: str) -> str:
    """Boxes in a family's own words."""
    if dialect == "json":
        return json.dumps([{"bbox_2d": box, "label": label} for label, box in boxes])
    ref, box_tag = (
        ("<ref>{}</ref>", "<box>({},{}),({},{})</box>")
        if dialect == "tags_v1"
        else ("<|object_ref_start|>{}<|object_ref_end|>", "<|box_start|>({},{}),({},{})<|box_end|>")
    )
    return "".join(ref.format(label) + box_tag.format(*box) for label, box in boxes)


@st.composite
def boxes_in(draw: st.DrawFn, width: int, height: int) -> list[tuple[str, list[int]]]:
    """Distinct labelled boxes with whole model numbers."""
    xs = st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True).map(sorted)
    ys = st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True).map(sorted)
    box = st.tuples(xs, ys).map(lambda pair: [pair[0][0], pair[1][0], pair[0][1], pair[1][1]])
    labelled = st.tuples(st.sampled_from(LABELS), box)
    return draw(st.lists(labelled, min_size=1, max_size=12, unique_by=lambda item: (item[0], tuple(item[1]))))


@pytest.mark.parametrize(("dialect", "space"), GRAMMARS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_valid_answers_come_back_exactly(dialect: str, space: CoordinateSpace, data: st.DataObject) -> None:
    width, height = FRAME.extent(space)
    boxes = data.draw(boxes_in(int(width), int(height)))
    answer = parse(written(boxes, dialect), dialect=dialect, space=space)
    assert answer.status is Status.OK
    assert answer.notes == ()
    assert [found.label for found in answer.objects] == [label for label, _ in boxes]
    for found, (_, box) in zip(answer.objects, boxes, strict=True):
        x_first, y_first, x_last, y_last = box
        assert found.box == (
            x_first * FRAME.width / width,
            y_first * FRAME.height / height,
            x_last * FRAME.width / width,
            y_last * FRAME.height / height,
        )


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
@pytest.mark.parametrize(
    "shape", ["json", "fenced", "indented", "single quotes", "full width", "lines", "tags_v1", "tags_v2", "points"]
)
def test_a_cut_answer_claims_only_what_was_finished(shape: str, finish_reason: str) -> None:
    boxes = [("mitosis", [105, 210, 320, 430]), ("nucleus", [5, 610, 72, 805]), ("mitosis", [1, 20, 300, 999])]
    text = written(boxes, shape if shape.startswith("tags") else "json")
    request, dialect = DETECT, shape if shape.startswith("tags") else "json"
    if shape == "fenced":
        text = f"```json\n{text}\n```"
    elif shape == "indented":
        text = json.dumps(json.loads(text), indent=2)
    elif shape == "single quotes":
        text = text.replace('"', "'")
    elif shape == "full width":
        text = text.replace(": ", "：").replace(", ", "，").replace('"', "“")
    elif shape == "lines":
        text = text[1:-1].replace("}, {", "}\n{")
    elif shape == "points":
        text = '<points x1="105" y1="210" x2="320" y2="430" alt="mitosis">mitosis</points>'
        request = Request(task="point", labels=LABELS)
    whole = [(found.label, found.box, found.point) for found in parse(text, request, dialect).objects]
    assert len(whole) == (2 if shape == "points" else 3)
    for stop in range(len(text)):
        answer = parse(text[:stop], request, dialect, finish_reason=finish_reason)
        check(answer, request)
        found = [(item.label, item.box, item.point) for item in answer.objects]
        assert found == whole[: len(found)], text[:stop]
        assert answer.status is not Status.EMPTY
        bracketed = shape in ("json", "fenced", "indented", "single quotes", "full width", "points")
        if finish_reason == "length" or (bracketed and len(found) < len(whole)):
            assert not answer.status.complete, text[:stop]


@given(st.text(max_size=400), st.sampled_from((DETECT, *REQUESTS)), st.sampled_from(GRAMMARS))
@settings(max_examples=300, deadline=None)
def test_any_text(text: str, request_: Request, grammar: tuple[str, CoordinateSpace]) -> None:
    check(parse(text, request_, *grammar), request_)


KEYS = ("bbox_2d", "point_2d", "label", "bbox", "x", "y", "objects", "score", "位置")
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)


@given(JSON_LIKE, st.sampled_from((DETECT, *REQUESTS)))
@settings(max_examples=300, deadline=None)
def test_any_json(value: object, request_: Request) -> None:
    check(parse(json.dumps(value), request_), request_)
    check(parse(repr(value), request_), request_)


SCRAPS = (
    "[",
    "{",
    "}",
    "]",
    '"',
    "'",
    "\\",
    "```",
    "```json",
    "<box>",
    "</box>",
    "<ref>",
    "<|box_start|>",
    "<think>",
    "</think>",
    "<|im_end|>",
    "null",
    "NaN",
    "...",
    "bbox_2d",
    '"label":',
    "point_2d",
    "\ud800",
    "\x00",
    "no ",
    "//",
    "/*",
    "I'm sorry",
    "9" * 400,
    "[[" * 30,
    "{" * 30,
    "，",
    "：",
    "“",
    ",",
    ":",
    "-",
    "0",
    "1e400",
    "\n",
    "<points ",
    "(",
    ")",
    "(1,2),(3,4)",
    "none",
    "%",
    "|",
    "=",
)


def mutated(text: str, pick: random.Random) -> str:
    """`text` with up to four cuts, insertions, repetitions and grafts."""
    for _ in range(pick.randint(1, 4)):
        at, kind = pick.randint(0, len(text)), pick.randrange(6)
        if kind == 0:
            text = text[:at] + text[at + pick.randint(1, 3) :]
        elif kind < 3:
            text = text[:at] + pick.choice(SCRAPS) + text[at:]
        elif kind == 3:
            text = text[:at]
        elif kind == 4:
            text = text[: at + 40] + text[at:]
        else:
            text = text[:at] + pick.choice(SEEDS)[: pick.randint(1, 60)] + text[at:]
    return text


SEEDS = [case.text for case in CASES if 0 < len(case.text) < 1000]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_25_000_mutated_answers(seed: int) -> None:
    """Four seeds make 100,000 texts."""
    pick = random.Random(seed)
    requests = (DETECT,) * len(REQUESTS) + REQUESTS
    for _ in range(25_000):
        text = mutated(pick.choice(SEEDS), pick)
        request = pick.choice(requests)
        dialect, space = pick.choice(GRAMMARS)
        try:
            answer = parse(text, request, dialect, space, pick.choice(("stop", "stop", "length")))
            check(answer, request)
        except Exception as error:
            raise AssertionError(f"{text!r} as {request.task}, {dialect}, {space}") from error


MEGABYTE = 1_000_000
OVERLONG = {
    "brackets": "[",
    "braces": "{",
    "nested objects": '{"a":',
    "quotes": '"',
    "unclosed strings": '["a" ',
    "empty pairs": "[{]}",
    "closers": '[{"a":1}}',
    "fences": "```",
    "boxes": "<box>",
    "points": "<points ",
    "coordinates": 'x1="1" ',
    "parentheses": "(1,2),",
    "comments": "[/*",
    "backslashes": "[\\",
    "digits": "1",
    "words": "[{a ",
    "thinking": "<think>",
    "thoughts": "</think>",
    "keys": "bbox_2d: ",
    "labels": "mitosis ",
    "negatives": "no ",
    "spaces": "[ ",
    "table rows": "| label | bbox |\n|---|---|\n| mitosis | 1, 2, 30, 40 |\n",
    "tables without rows": "x1|y1|x2|y2\n-|-\n",
    "cells": "|-",
    "different keys": "keys in one object",
    "headings": "image 1 [1, 2, 3, 4]\n",
    "objects": '{"bbox_2d": [100, 200, 300, 400], "label": "mitosis"}\n',
    "damaged objects": '{"bbox_2d": [100, 200, 300, 400], "label": mitosis}\n',
}


# It takes about a second; work that grows with the square of the length would take hours.
@pytest.mark.timeout(60)
@pytest.mark.parametrize("scrap", OVERLONG.values(), ids=OVERLONG.keys())
def test_a_megabyte_of_anything_is_read_in_linear_time(scrap: str) -> None:
    text = scrap * (MEGABYTE // len(scrap))
    if scrap == "keys in one object":
        text = "{" + ",".join(f'"k{number}": 1' for number in range(MEGABYTE // 12))
    for request in (DETECT, REQUESTS[1], REQUESTS[-1]):
        answer = parse(text, request)
        check(answer, request)
        assert answer.status is not Status.EMPTY
