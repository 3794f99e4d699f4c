"""What a model saw of one field, before it is judged: characters and where they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from qwenvl.answer import TileObject

Box = tuple[float, float, float, float]

NAMES: Mapping[str, str] = {
    "0": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven", "8": "eight",
    "9": "nine", ".": "point", "-": "minus",
}  # fmt: skip
"""Labels of characters. Words, because a vocabulary may hold whole numbers as tokens that stand for coordinates: there
digits are as close to each other as neighbouring places."""
GLYPHS = tuple(NAMES.values())
"""Labels of the characters of numbers."""
_CHARACTERS = {label: character for character, label in NAMES.items()}
_GAP = 2.5
"""Distance in heights within which two numbers in one row may be one that misses a character."""
_OVERLAP = 0.6
"""Share of the smaller of two digits' widths from which they stand in one place."""


@dataclass(frozen=True, slots=True)
class Spotted:
    """A value as the model says it stands there.

    Attributes
    ----------
    text : str
        The characters, nothing added.
    box : Box or None
        Around them, in px of the picture that was asked about; None where the model gave no usable one.
    unit : str or None
        As it stands beside them.
    score : float or None
        0..1, the least of its characters'.
    doubts : tuple of str
        Why the text cannot be trusted, in words.
    """

    text: str
    box: Box | None
    unit: str | None = None
    score: float | None = None
    doubts: tuple[str, ...] = field(default=())


def lines_of(objects: Sequence[TileObject]) -> list[Spotted]:
    """Put characters found one by one together to numbers, from the top.

    Parameters
    ----------
    objects : sequence of TileObject
        Boxes labelled with `GLYPHS`, or with a unit, which belongs to the number it stands beside.

    Returns
    -------
    list of Spotted
        One per line of characters. Two digits in one place are a doubt, never a choice.
    """
    glyphs = [(item, item.box) for item in objects if item.box is not None and item.label in _CHARACTERS]
    units = [(item, item.box) for item in objects if item.box is not None and item.label not in _CHARACTERS]
    lines: list[list[tuple[TileObject, Box]]] = []
    for item, box in glyphs:
        # A character may join lines that were apart until now.
        near = [line for line in lines if any(_beside(box, other) for _, other in line)]
        lines = [line for line in lines if line not in near]
        lines.append([(item, box), *(member for line in near for member in line)])
    named: dict[int, list[TileObject]] = {}
    for item, box in units:
        owners = [number for number, line in enumerate(lines) if _beside(box, _around(line))]
        if len(owners) == 1:
            named.setdefault(owners[0], []).append(item)
    found = [_line(line, named.get(number, [])) for number, line in enumerate(lines)]
    found = [_with_neighbours(spotted, found) for spotted in found]
    return sorted(found, key=lambda spotted: spotted.box[1] if spotted.box else 0.0)


def _line(line: list[tuple[TileObject, Box]], units: list[TileObject]) -> Spotted:
    line = sorted(line, key=lambda pair: pair[1][0] + pair[1][2])
    doubts = []
    digits = [(item, box) for item, box in line if _CHARACTERS[item.label].isdigit()]
    for (first, a), (second, b) in pairwise(digits):
        if min(a[2], b[2]) - max(a[0], b[0]) > _OVERLAP * min(a[2] - a[0], b[2] - b[0]):
            doubts.append(f"{_CHARACTERS[first.label]} and {_CHARACTERS[second.label]} in one place")
    if len({item.label for item in units}) > 1:
        doubts.append(f"several units: {', '.join(sorted({item.label for item in units}))}")
    scores = [item.score for item, _ in line if item.score is not None]
    return Spotted(
        "".join(_CHARACTERS[item.label] for item, _ in line), _around(line), units[0].label if units else None,
        min(scores) if scores else None, tuple(doubts),
    )  # fmt: skip


def _around(line: Sequence[tuple[TileObject, Box]]) -> Box:
    boxes = [box for _, box in line]
    return (
        min(box[0] for box in boxes), min(box[1] for box in boxes), max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )  # fmt: skip


def _height(box: Box) -> float:
    return box[3] - box[1]


def _with_neighbours(spotted: Spotted, lines: Sequence[Spotted]) -> Spotted:
    """A doubt where another number stands in the same row close by: a character between them may have been missed."""
    box = spotted.box
    assert box is not None
    for other in lines:
        if other is spotted or other.box is None:
            continue
        apart = max(box[0] - other.box[2], other.box[0] - box[2])
        if _share_rows(box, other.box) and apart < _GAP * max(_height(box), _height(other.box)):
            return replace(spotted, doubts=(*spotted.doubts, f"{other.text} stands in the same row close by"))
    return spotted


def _beside(box: Box, other: Box) -> bool:
    """True where two boxes share rows and are no farther apart than the larger one is high."""
    apart = max(box[0] - other[2], other[0] - box[2])
    return _share_rows(box, other) and apart < max(_height(box), _height(other))


def _share_rows(box: Box, other: Box) -> bool:
    shared = min(box[3], other[3]) - max(box[1], other[1])
    return shared > 0.4 * min(_height(box), _height(other))
