"""Boxes within the JSON value of `extract`: where the model read what it wrote."""

from __future__ import annotations

from collections.abc import Iterator

from qwenvl.answer import TileObject
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse.boxes.coordinates import numbers_of, placed
from qwenvl.parse.json.values import Value
from qwenvl.parse.reading import TextReading
from qwenvl.parse.spans import FieldSpans, span_of
from qwenvl.parse.text.text import clean, cleaned

BOX_KEY = "bbox_2d"
"""Key of four numbers in the family's coordinate space, as in the families' own grounding answers."""


def grounded(
    written: Value, reading: TextReading, *, space: CoordinateSpace, frame: PictureFrame, **_: object
) -> tuple[tuple[TileObject, ...], tuple[str, ...]]:
    """The boxes of a value, in the order written.

    Parameters
    ----------
    written : Value
        As read, valid by the request's schema. Each object in it with a `bbox_2d` of four numbers is placed.
    reading : TextReading
        The answer it was read from.
    space, frame
        What the numbers mean, and the picture.

    Returns
    -------
    tuple
        One object per box, labelled with the keys that lead to it ('temperature', 'rows/2/mass'), its other plain
        entries as attributes; and codes of what was mended or dropped. A box outside the picture has no object.
    """
    objects: list[TileObject] = []
    codes: list[str] = []
    for path, item in _with_boxes(written.value, ()):
        where, found = placed(numbers_of(item[BOX_KEY]) or [], frame.extent(space))
        codes += found
        if where is None:
            continue
        x0, y0, x1, y1 = (float(v) for v in frame.to_tile([list(map(float, where))], space)[0])
        box = (x0, y0, min(x1, float(frame.width)), min(y1, float(frame.height)))
        if not (box[0] < box[2] and box[1] < box[3]):
            codes.append("dropped:zero_area")
            continue
        plain = {
            key: part for key, part in item.items() if key != BOX_KEY and isinstance(part, str | int | float | bool)
        }
        name = clean("/".join(path)) or "value"
        spans = reading.places(item.span, [span_of(number) for number in where], written.origin)
        objects.append(TileObject(name, box, None, None, cleaned(plain), *spans))
    return tuple(objects), tuple(codes)


def _with_boxes(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], FieldSpans]]:
    if isinstance(value, FieldSpans):
        box = value.get(BOX_KEY)
        if isinstance(box, list) and len(box) == 4 and all(_is_number(number) for number in box):
            yield path, value
        for key, part in value.items():
            yield from _with_boxes(part, (*path, str(key)))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _with_boxes(part, (*path, str(number)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
