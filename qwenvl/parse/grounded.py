"""Boxes within the JSON value of `extract`: where the model read what it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qwenvl.answer import TileObject
from qwenvl.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse._coordinates import placed

BOX_KEY = "bbox_2d"
"""Key of four numbers in the family's coordinate space, as in the families' own grounding answers."""


def grounded(
    value: Any, *, space: CoordinateSpace, frame: PictureFrame, **_: Any
) -> tuple[tuple[TileObject, ...], tuple[str, ...]]:
    """The boxes of a value, in the order written.

    Parameters
    ----------
    value : JSON value
        Valid by the request's schema. Each object in it with a `bbox_2d` of four numbers is placed.
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
    for path, item in _with_boxes(value, ()):
        numbers = item[BOX_KEY]
        where, found = placed([float(number) for number in numbers], frame.extent(space))
        codes += found
        if where is None:
            continue
        x0, y0, x1, y1 = (float(v) for v in frame.to_tile([where], space)[0])
        box = (x0, y0, min(x1, float(frame.width)), min(y1, float(frame.height)))
        if not (box[0] < box[2] and box[1] < box[3]):
            codes.append("dropped:zero_area")
            continue
        plain = {
            str(key): part
            for key, part in item.items()
            if key != BOX_KEY and isinstance(part, str | int | float | bool)
        }
        objects.append(TileObject("/".join(path) or "value", box=box, attributes=plain))
    return tuple(objects), tuple(codes)


def _with_boxes(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if isinstance(value, dict):
        box = value.get(BOX_KEY)
        if isinstance(box, list) and len(box) == 4 and all(_is_number(number) for number in box):
            yield path, value
        for key, part in value.items():
            yield from _with_boxes(part, (*path, str(key)))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _with_boxes(part, (*path, str(number)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
