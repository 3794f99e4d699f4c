"""The character form of readouts: a small model names every character with its box, and numbers are put together.

It is what small models can learn, and each digit carries its own place and confidence. Larger models are asked for the
values of a sheet at once (`workflows.science.instruments.asking`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from qwenvl.answer import Answer, TileObject
from qwenvl.images.geometry import CoordinateSpace
from qwenvl.request import Generation, Request, Task
from workflows.science.instruments.asking import PhotographView
from workflows.science.instruments.errors import SheetError
from workflows.science.instruments.values.units import same_unit
from workflows.science.instruments.values.values import Box, Reading, Spotted, ValueStatus, judge, nothing

NAMES: Mapping[str, str] = {
    "0": "zero",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
    ".": "point",
    "-": "minus",
}
"""Labels of characters. Words, because a vocabulary may hold whole numbers as tokens that stand for coordinates: there
digits are as close to each other as neighbouring places."""
GLYPHS = tuple(NAMES.values())
"""Labels of the characters of numbers."""
CHARACTERS_PROMPT = "Locate every number. Report bbox_2d and label in JSON format."
DISPLAY_UNITS = ("°C", "%", "g", "pH", "rpm")
"""Units that the synthetic displays show, and a model of their samples knows."""
_CHARACTERS = {label: character for character, label in NAMES.items()}
_GAP = 2.5
"""Distance in heights within which two numbers in one row may be one that misses a character."""
_OVERLAP = 0.6
"""Share of the smaller of two digits' widths from which they stand in one place."""


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
        "".join(_CHARACTERS[item.label] for item, _ in line),
        _around(line),
        units[0].label if units else None,
        min(scores) if scores else None,
        tuple(doubts),
    )


def _around(line: Sequence[tuple[TileObject, Box]]) -> Box:
    boxes = [box for _, box in line]
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


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


@dataclass(frozen=True)
class CharactersForm:
    """A `workflows.science.instruments.asking.Form`: one question for every character."""

    name: str = "characters"

    def request(
        self,
        view: PhotographView,
        *,
        space: CoordinateSpace,
        title: str | None = None,
        max_new_tokens: int | None = None,
    ) -> Request:
        """The question about one view.

        Raises
        ------
        SheetError
            Its fields are no numbers, or nothing tells them apart.
        """
        words = [name for name, field in view.fields.items() if field.type == "string"]
        if words:
            raise SheetError(
                f"form 'characters' reads numbers only; {', '.join(words)} is a string: read it with a larger model "
                "('qwenvl instruments read')"
            )
        units = [field.unit for field in view.fields.values()]
        for number, unit in enumerate(units):
            if len(units) > 1 and (unit is None or any(same_unit(unit, other or "") for other in units[:number])):
                raise SheetError(
                    f"{', '.join(view.fields)} are read from one view and not told apart by their units; give each a "
                    "region"
                )
        return characters_request(max_new_tokens)

    def readings(self, view: PhotographView, answer: Answer) -> dict[str, Reading]:
        """What a complete answer says of every field of a view."""
        return _readings(view, lines_of(answer.objects))


CHARACTERS = CharactersForm()


def characters_request(max_new_tokens: int | None = None) -> Request:
    """The question for every character."""
    return Request(
        task=Task.DETECT,
        labels=(*GLYPHS, *DISPLAY_UNITS),
        prompt=CHARACTERS_PROMPT,
        max_objects=40,
        generation=Generation(max_new_tokens=max_new_tokens or 480),
    )


def _readings(view: PhotographView, lines: Sequence[Spotted]) -> dict[str, Reading]:
    if len(view.fields) == 1:
        ((name, field),) = view.fields.items()
        own = [line for line in lines if field.unit and line.unit and same_unit(line.unit, field.unit)]
        chosen = own if len(lines) > 1 else lines
        if not lines:
            return {name: nothing(field, ValueStatus.EMPTY)}
        if len(chosen) == 1:
            return {name: judge(field, chosen[0])}
        return {name: nothing(field, ValueStatus.INVALID, _several(lines))}
    found = {}
    unnamed = [line for line in lines if line.unit is None]
    for name, field in view.fields.items():
        own = [line for line in lines if line.unit and field.unit and same_unit(line.unit, field.unit)]
        if len(own) == 1:
            found[name] = judge(field, own[0])
        elif own:
            found[name] = nothing(field, ValueStatus.INVALID, _several(own))
        elif unnamed:
            found[name] = nothing(
                field, ValueStatus.INVALID, f"{_several(unnamed)}, without a unit that says which is {name}"
            )
        else:
            found[name] = nothing(field, ValueStatus.EMPTY)
    return found


def _several(lines: Sequence[Spotted]) -> str:
    return f"{len(lines)} number{'s' * (len(lines) != 1)} stand there: {', '.join(line.text for line in lines)}"
