"""Prose: what is a clear negative, and what only sounds like one."""

from __future__ import annotations

import pytest

from qwenvl.parse.text.words import is_negative, is_refusal

CLEAR = [
    "No mitoses.",
    "There are no mitoses in this image.",
    "I don't see any mitoses.",
    "I cannot see any mitoses in this tile.",
    "No visible mitosis.",
    "**No mitoses** were found. The tile shows stroma.",
    "Mitoses are absent.",
    "Mitoses are not present.",
    "Mitosis: none",
    "mitosis: 0",
    "Without any mitoses.",
    "The image contains no mitoses.",
    "None",
    "None found.",
    "There are none of these in the image.",
    "Nothing detected.",
    "No objects detected.",
    "No such cells are visible.",
    "没有",
    "未发现目标。",
    "There are no objects that fit this description in the picture.",
    "There are no visible objects of the requested kind.",
    "I could not find any objects.",
    "I did not find any matching objects in this tile.",
    "The image does not contain any such objects.",
    "No, there are no objects.",
    "There are no objects. Nothing was found.",
    "There are no mitoses that match this description.",
    "Nothing to report.",
    "No bounding boxes to report.",
    "图中没有目标。",
    "图像中没有发现符合条件的目标。",
    "未检测到任何对象",
]
UNCLEAR = [
    "There are mitoses.",
    "No, mitoses are there.",
    "No doubt there are mitoses.",
    "There is no shortage of mitoses.",
    "There are no cells without mitosis.",
    "There are no cells here that are not in mitosis.",
    "not a mitosis-free tile",
    "No mitosis-free area.",
    "There is no mitosis count available.",
    "No mitosis detection model available.",
    "nothing but mitoses",
    "none of the nuclei but mitoses",
    "none of these can be determined",
    "No clear mitoses.",
    "No obvious mitoses.",
    "Mitoses cannot be excluded.",
    "I cannot find mitoses.",
    "No mitoses in the upper half; the lower half has one.",
    "No mitoses, although the picture is dark.",
    "No mitoses. Mitoses are at the left.",
    "Mitosis: 0.5",
    "No image provided.",
    "No objects could be detected because the image is dark.",
    "There are no nuclei.",
    "No cells.",
    "Nothing is visible.",
    "Not sure.",
    "There are objects.",
    "any objects",
    "I cannot see no objects",
    "There are not many objects",
    "There are no dogs that match.",
    "图中有目标",
    "没有异常",
    "null",
    "No mitoses. " * 60,
]


@pytest.mark.parametrize("text", CLEAR)
def test_clear_negative(text: str) -> None:
    assert is_negative(text, ("mitosis",))


@pytest.mark.parametrize("text", UNCLEAR, ids=[text[:50] for text in UNCLEAR])
def test_no_clear_negative(text: str) -> None:
    assert not is_negative(text, ("mitosis",))


def test_every_label_must_be_denied() -> None:
    labels = ("mitosis", "grade 2 gland", "nucleus")
    assert is_negative("No mitoses, grade 2 glands or nuclei are visible.", labels)
    assert is_negative("No mitoses; no grade 2 glands; nuclei are absent.", labels)
    assert not is_negative("No mitoses or nuclei are visible.", labels)
    assert not is_negative("No mitoses, grade 2 glands, nuclei are visible.", labels)
    assert not is_negative("No mitoses or nuclei, grade 2 glands are visible.", labels)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I am unable to analyse medical images.",
        "As an AI language model, I do not diagnose.",
        "I cannot identify cells.",
        "对不起，我不能提供诊断。",
    ],
)
def test_refusal(text: str) -> None:
    assert is_refusal(text)
    assert not is_negative(text, ("mitosis",))


@pytest.mark.parametrize("text", ["I cannot see any mitoses.", "There are two mitoses.", "[]", "The stroma is dense."])
def test_no_refusal(text: str) -> None:
    assert not is_refusal(text)
