"""Names that stand beside, around or behind an object, and words that take it back."""

from __future__ import annotations

import pytest

from qwenvl.answer import Answer, Status
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse import parse_answer
from qwenvl.parse.text.words import is_negative
from qwenvl.request import Request

A, B = "[10, 20, 30, 40]", "[500, 600, 700, 800]"


def parsed(text: str, dialect: str = "json", image: tuple[int, int] = (0, 1)) -> Answer:
    return parse_answer(
        text,
        Request(task="detect", labels=("mitosis",)),
        dialect=dialect,
        space=CoordinateSpace.RELATIVE_1000,
        frame=PictureFrame.same(1000, 1000),
        image=image,
    )


NAMES = {
    f'{{"type": "lymphocyte", "instances": [{{"bbox_2d": {A}}}]}}': ["lymphocyte"],
    f'{{"class": "lymphocyte", "items": [{A}]}}': ["lymphocyte"],
    f'{{"results": [{{"category": "lymphocyte", "detections": [{{"box": {A}}}]}}]}}': ["lymphocyte"],
    f'[{{"region": {A}, "label": "lymphocyte"}}]': ["lymphocyte"],
    f'[{{"label": "mitosis", "geometry": {{"bbox_2d": {A}}}}}]': ["mitosis"],
    f'{{"label": "mitosis", "false_positives": [{{"bbox_2d": {A}}}]}}': ["false positives"],
    f'{{"summary": "2 mitoses in a field of lymphocytes", "objects": [{{"bbox_2d": {A}}}]}}': ["mitosis"],
    f'{{"type": "cells", "mitosis": [{A}], "lymphocyte": [{B}]}}': ["mitosis", "cells"],
    f'[{{"bbox_2d": {A}, "label": [{{"name": "lymphocyte"}}, {{"name": "mitosis"}}]}}]': ["lymphocyte / mitosis"],
    f"{A} - lymphocyte\n{B} - mitosis": ["lymphocyte", "mitosis"],
    f"1. {A} (lymphocyte)\n2. {B} (mitosis)": ["lymphocyte", "mitosis"],
    f"{A} is a lymphocyte. {B} is a mitosis.": ["lymphocyte", "mitosis"],
    f'{{"bbox_2d": {A}}} <- lymphocyte': ["lymphocyte"],
    f'[{{"bbox_2d": {A}}}] Hope this helps!': ["mitosis"],
    f'[{{"bbox_2d": {A}}}]\n\nThe tissue is a tumour.': ["mitosis"],
    f"A mitosis at {A} and a lymphocyte at {B}.": ["mitosis", "and a lymphocyte at"],
    "<box>(1,2),(30,40)</box> lymphocyte <box>(50,60),(70,80)</box> mitosis": ["lymphocyte", "mitosis"],
    "<box>(1,2),(30,40)</box><ref>lymphocyte</ref><box>(50,60),(70,80)</box><ref>mitosis</ref>": [
        "lymphocyte",
        "mitosis",
    ],
    f'[{A}, "lymphocyte", {B}, "mitosis"]': ["lymphocyte", "mitosis"],
    f'["lymphocyte", {A}, "mitosis", {B}]': ["lymphocyte", "mitosis"],
    f'[{{"bbox_2d": {A}}}, {{"label": "lymphocyte"}}, {{"bbox_2d": {B}}}, {{"label": "mitosis"}}]': [
        "lymphocyte",
        "mitosis",
    ],
}


@pytest.mark.parametrize(("text", "labels"), NAMES.items())
def test_a_name_around_an_object_is_its_name(text: str, labels: list[str]) -> None:
    answer = parsed(text)
    assert [item.label for item in answer.objects] == labels
    assert answer.status is Status.REPAIRED


DENIED = (
    '"is_mitosis": "no"',
    '"is_mitosis": 0',
    '"mitosis": false',
    '"mitosis": 0',
    '"present": "false"',
    '"valid": 0',
    '"exists": "否"',
    '"rejected": true',
    '"false_positive": "yes"',
    '"verdict": "not a mitosis"',
)


@pytest.mark.parametrize("said", DENIED)
def test_an_object_that_denies_itself_is_dropped(said: str) -> None:
    answer = parsed(f'[{{"bbox_2d": {A}, "label": "mitosis", {said}}}]')
    assert not answer.objects
    assert "dropped:1:denied" in answer.notes


@pytest.mark.parametrize("said", ['"note": "mitosis, not apoptosis"', '"valid": 1', '"rejected": false', '"count": 0'])
def test_other_words_beside_an_object_are_attributes(said: str) -> None:
    assert len(parsed(f'[{{"bbox_2d": {A}, "label": "mitosis", {said}}}]').objects) == 1


OTHER_NUMBERS = (
    f'[{{"bbox_2d": {A}, "format": "xywh", "label": "mitosis"}}]',
    f'[{{"bbox": {A}, "bbox_mode": "XYWH_ABS", "label": "mitosis"}}]',
    f'[{{"bbox_xywh": {A}, "label": "mitosis"}}]',
    f'[{{"yxyx": {A}, "label": "mitosis"}}]',
    '[{"x1": 1, "y1": 2, "x2": 30, "y2": 40, "x1": 5, "label": "mitosis"}]',
    "| x1 | y1 | x2 | y2 | x1 |\n|---|---|---|---|---|\n| 1 | 2 | 30 | 40 | 5 |\n",
)


@pytest.mark.parametrize("text", OTHER_NUMBERS)
def test_numbers_that_say_to_be_no_corners_are_not_read_as_such(text: str) -> None:
    answer = parsed(text)
    assert answer.status is Status.FAILED
    assert "dropped:1:numbers" in answer.notes


def test_a_doubted_name_is_noted() -> None:
    answer = parsed(f'[{{"bbox_2d": {A}, "label": "mitosis?"}}]')
    assert answer.status is Status.REPAIRED
    assert "label:marks" in answer.notes


def test_a_table_with_a_column_twice_contradicts_itself() -> None:
    answer = parsed(f"| bbox | label | label |\n|---|---|---|\n| {A} | mitosis | lymphocyte |\n")
    assert [item.label for item in answer.objects] == ["mitosis / lymphocyte"]


CLEAR = ("No evidence of any mitosis was found.", "There isn't a mitosis in the image.", "There are 0 mitoses here.")
UNCLEAR = (
    "It is not true that there are no mitoses.",
    "Not no mitoses.",
    "Probably no mitosis.",
    "There are hardly any mitoses.",
    "There are no mitoses in the left half.",
    "No mitoses in the upper part of the image",
)
CLEAR_CHINESE = (
    "没有找到核分裂",
    "没有任何核分裂",
    "不存在核分裂",
    "看不到核分裂",
    "未检出核分裂",
    "未观察到任何核分裂",
)
UNCLEAR_CHINESE = ("不是没有核分裂", "左侧没有核分裂", "几乎没有核分裂", "没有更多的核分裂", "未能排除核分裂")


@pytest.mark.parametrize("text", CLEAR + CLEAR_CHINESE)
def test_a_plain_denial_is_one(text: str) -> None:
    assert is_negative(text, ("mitosis",) if text.isascii() else ("核分裂",))


@pytest.mark.parametrize("text", UNCLEAR + UNCLEAR_CHINESE)
def test_a_denial_in_part_or_doubt_is_none(text: str) -> None:
    assert not is_negative(text, ("mitosis",) if text.isascii() else ("核分裂",))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_an_extracted_number_that_is_none_is_noted(number: str) -> None:
    request = Request(task="extract", prompt="Size?", output_schema={"type": "object"})
    answer = parse_answer(
        f'{{"a": {number}}}', request, dialect="json", space=CoordinateSpace.RELATIVE_1000, frame=None
    )
    assert answer.value == {"a": None}
    assert answer.notes == ("cleaned",)


ONE, TWO = f'[{{"bbox_2d": {A}, "label": "mitosis"}}]', f'[{{"bbox_2d": {B}, "label": "mitosis"}}]'
OF_TWO_IMAGES = (
    f'{{"images": [{{"image": 1, "objects": {ONE}}}, {{"image": 2, "objects": {TWO}}}]}}',
    f'[{{"image": "first", "detections": {ONE}}}, {{"image": "second", "detections": {TWO}}}]',
    f"First image:\n{ONE}\nSecond image:\n{TWO}",
    f"Image A: {ONE}\nImage B: {TWO}",
    f"第一张图：{ONE}\n第二张图：{TWO}",
)


@pytest.mark.parametrize("text", OF_TWO_IMAGES)
def test_objects_of_another_image_do_not_count(text: str) -> None:
    for at, x in ((0, 10), (1, 500)):
        answer = parsed(text, image=(at, 2))
        assert [item.box[0] for item in answer.objects if item.box] == [x]
        assert "dropped:1:other_image" in answer.notes


@pytest.mark.parametrize("words", ["Wait,", " That box is off. Correction:", "更正："])
def test_tags_that_correct_themselves(words: str) -> None:
    box = "<ref>mitosis</ref><box>({}),(90,90)</box>"
    answer = parsed(f"{box.format('1,1')}{words} {box.format('50,50')}", "tags_v1")
    assert [item.box[0] for item in answer.objects if item.box] == [50]
    assert "corrected" in answer.notes


def test_words_between_a_reference_and_its_box_count() -> None:
    answer = parsed("<ref>mitosis</ref> is not here <box>(1,1),(90,90)</box>", "tags_v1")
    assert [item.label for item in answer.objects] == ["mitosis is not here"]
    assert answer.status is Status.REPAIRED
    assert parsed("<ref>mitosis</ref> at <box>(1,1),(90,90)</box>", "tags_v1").objects[0].label == "mitosis"
