"""Which names mean a label that was asked for, and which words name something else."""

from __future__ import annotations

import pytest

from qwenvl.parse.boxes.labels import canonical
from qwenvl.parse.boxes.names import name_in

LABELS = ("mitosis", "nucleus", "细胞", "grade 3")
FOLDED = {
    "Mitosis": "mitosis",
    "MITOSES": "mitosis",
    "a mitosis": "mitosis",
    "the nuclei": "nucleus",
    "nucleus_2": "nucleus",
    "nucleus 12": "nucleus",
    "nucleus #3": "nucleus",
    "nucleus3": "nucleus",
    "2. nucleus": "nucleus",
    "mitosis 87%": "mitosis",
    "mitosis (87 %)": "mitosis",
    "mitosis: 0.93": "mitosis",
    "mitosis(es)": "mitosis",
    "**mitosis**": "mitosis",
    "细胞": "细胞",
    "细胞1": "细胞",
    "细胞（90％）": "细胞",
    "一个细胞": "细胞",
    "第3个细胞": "细胞",
    "细胞们": "细胞",
    "Grade-3": "grade 3",
    "non-mitosis": None,
    "not a mitosis": None,
    "atypical mitosis": None,
    "mitosis mimic": None,
    "mitosis-like": None,
    "非细胞": None,
    "细胞核": None,
    "grade 2": None,
    "grade 33": None,
    "": None,
}


@pytest.mark.parametrize(("name", "label"), FOLDED.items())
def test_folding(name: str, label: str | None) -> None:
    assert canonical(name, LABELS) == label


WORDS = {
    "Here are the mitoses I found:": "mitosis",
    "Detected nuclei in the image:": "nucleus",
    "检测到的细胞如下：": "细胞",
    "Here are the bounding boxes:": None,
    "Image 2:": None,
    "检测结果如下：": None,
    "mitoses and nuclei:": None,
    "Non-mitoses:": "Non-mitoses",
    "Mimics of mitosis": "Mimics of mitosis",
    "These are not mitoses:": "These are not mitoses",
    "凋亡小体：": "凋亡小体",
}


@pytest.mark.parametrize(("words", "name"), WORDS.items())
def test_words_beside_a_box(words: str, name: str | None) -> None:
    assert name_in(words, LABELS) == name
