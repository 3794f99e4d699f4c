"""Placeholders of ms-swift: `<bbox>` and `<ref-object>` in the text, numbers and names in `objects` beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

_HOLDER = re.compile("<bbox>|<ref-object>")


class Placeholders:
    """The boxes and names of one row, put into its texts in turn.

    Parameters
    ----------
    row : mapping
    pictures : sequence of Path
        That the row names beside its turns.
    numbers : function
        From px of a picture of a size to a model's numbers.
    relative : bool
        The model's numbers are 0 to 1000 of the picture.

    Raises
    ------
    ValueError
        A box is none, or its picture is not known.
    """

    def __init__(
        self,
        row: Mapping[str, object],
        pictures: Sequence[Path],
        numbers: Callable[[list[float], tuple[int, int]], list[int]],
        relative: bool,
    ) -> None:
        objects = row.get("objects") or {}
        if not isinstance(objects, Mapping):
            raise ValueError(f"its objects are {objects!a:.60}")
        self._boxes = _placed(objects, pictures, numbers, relative)
        self._names = objects.get("ref") or []
        if not isinstance(self._names, list) or not all(isinstance(name, str) for name in self._names):
            raise ValueError("the names of its objects are no texts")
        self._used = {"<bbox>": 0, "<ref-object>": 0}

    def filled(self, text: str) -> str:
        """A text with its placeholders filled.

        Raises
        ------
        ValueError
            There are more than boxes or names.
        """

        def fill(found: re.Match[str]) -> str:
            at = self._used[found[0]]
            self._used[found[0]] += 1
            given: list[Any] = self._boxes if found[0] == "<bbox>" else self._names
            if at >= len(given):
                what = "boxes" if found[0] == "<bbox>" else "names"
                raise ValueError(f"more {found[0]} than {what}")
            return json.dumps(given[at]) if found[0] == "<bbox>" else str(given[at])

        return _HOLDER.sub(fill, text)

    def require_used(self) -> None:
        """Raise ValueError where a text has some of the boxes or names, and not all."""
        for holder, given in (("<bbox>", self._boxes), ("<ref-object>", self._names)):
            if 0 < self._used[holder] < len(given):
                raise ValueError(f"{self._used[holder]} {holder} for {len(given)} of its objects")


def sizes_of(pictures: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """Width and height of every picture.

    Raises
    ------
    ValueError
        One is no picture.
    """
    sizes = []
    for picture in pictures:
        try:
            with Image.open(picture) as opened:
                sizes.append(opened.size)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"image {picture} cannot be read ({error})") from error
    return tuple(sizes)


def _placed(
    objects: Mapping[str, object],
    pictures: Sequence[Path],
    numbers: Callable[[list[float], tuple[int, int]], list[int]],
    relative: bool,
) -> list[list[Any]]:
    places = objects.get("bbox") or []
    if not isinstance(places, list):
        raise ValueError(f"its boxes are {places!a:.60}")
    kind = objects.get("bbox_type", "real")
    if kind not in ("real", "norm1", "norm1000"):
        raise ValueError(f"bbox_type {kind!r} is none of real, norm1, norm1000")
    for place in places:
        if not isinstance(place, list) or len(place) not in (2, 4) or not all(_is_number(v) for v in place):
            raise ValueError(f"{place!a:.60} is neither a box of 4 numbers nor a point of 2")
        most = {"norm1": 1.0, "norm1000": 1000.0}.get(kind)
        if most is not None and not all(0 <= v <= most for v in place):
            raise ValueError(f"{place!a:.60} is no place of bbox_type {kind}")
    if not places or (kind == "norm1000" and relative):
        return places
    sizes = sizes_of(pictures)
    owners = objects.get("image_id") or [0] * len(places)
    if (
        not isinstance(owners, list)
        or len(owners) != len(places)
        or not all(isinstance(i, int) and 0 <= i < len(sizes) for i in owners)
    ):
        raise ValueError("image_id does not name a picture of the row for every box")
    found = []
    for place, owner in zip(places, owners, strict=True):
        size = sizes[owner]
        part = {"norm1": 1.0, "norm1000": 1000.0}.get(kind)
        scale = [1.0 if part is None else size[i % 2] / part for i in range(len(place))]
        found.append(numbers([float(v) * s for v, s in zip(place, scale, strict=True)], size))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
