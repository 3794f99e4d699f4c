"""One text of a model with the answer it must give, and the parts that many texts are made of.

Numbers are model numbers of a 0..1000 space; the picture is 500 x 2000 px, so that a
mixed-up axis shows.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH, HEIGHT = 500, 2000
"""Size of the picture in px: tile x is half the model's x, tile y twice its y."""

LABELS = ("mitosis", "nucleus")


@dataclass(frozen=True)
class Case:
    """One text, and the answer it must give."""

    shape: int
    """Number in the list of shapes; 0 for a well-formed text."""
    name: str
    text: str
    status: str
    objects: tuple[tuple, ...] = ()
    """(label, number, ...) with four model numbers for a box and two for a point."""
    notes: tuple[str, ...] = ()
    task: str = "detect"
    labels: tuple[str, ...] = LABELS
    dialect: str = "json"
    finish_reason: str = "stop"
    reasoning: str | None = None
    image: tuple[int, int] = (0, 1)
    """Place of the picture asked about, and how many there are."""
    scores: tuple[float | None, ...] | None = None
    """Scores of the objects, where the case is about them."""


A = '{"bbox_2d": [100, 200, 300, 400], "label": "mitosis"}'
B = '{"bbox_2d": [500, 600, 700, 800], "label": "nucleus"}'
BOTH = f"[{A}, {B}]"
BOX_A = ("mitosis", 100, 200, 300, 400)
BOX_B = ("nucleus", 500, 600, 700, 800)
ONE, TWO = (BOX_A,), (BOX_A, BOX_B)
V1 = "<ref>mitosis</ref><box>(100,200),(300,400)</box><ref>nucleus</ref><box>(500,600),(700,800)</box>"
V2 = (
    "<|object_ref_start|>mitosis<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>"
    "<|object_ref_start|>nucleus<|object_ref_end|><|box_start|>(500,600),(700,800)<|box_end|>"
)
POINTS = (("mitosis", 100, 200), ("nucleus", 500, 600))


def with_box(bbox: str, label: str = '"mitosis"') -> str:
    """A list whose first object has this `bbox_2d` and label, and whose second is sound."""
    return f'[{{"bbox_2d": {bbox}, "label": {label}}}, {B}]'
