"""The objects in a model's text: found in any grammar, checked one by one, placed in tile px."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

from qwenvl.answer import TileObject
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse.boxes.candidates import Candidate, WrittenObject, written_objects
from qwenvl.parse.boxes.coordinates import number_of, placed
from qwenvl.parse.boxes.images import elsewhere, image_of
from qwenvl.parse.boxes.keys import CONFIDENCE_KEYS, SCORE_KEYS
from qwenvl.parse.boxes.labels import is_taken_back, label_of
from qwenvl.parse.boxes.names import name_in
from qwenvl.parse.json.salvage import salvaged
from qwenvl.parse.ledger import accounted, left_over, tags_note
from qwenvl.parse.notes import mended
from qwenvl.parse.reading import TextReading
from qwenvl.parse.spans import Number, Span, moved, span_of
from qwenvl.parse.text.text import clean
from qwenvl.request import Request, Task

DIALECTS = ("json", "tags_v1", "tags_v2")
_MAX_ATTRIBUTES = 32
_MAX_ATTRIBUTE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class ParsedObjects:
    """The objects of one text, and what can be said about the text itself."""

    objects: tuple[TileObject, ...] = ()
    codes: tuple[str, ...] = ()
    """Unfolded codes, one per sighting."""
    written: int = 0
    """Objects the model wrote, valid or not."""
    empty: bool = False
    """The model wrote an empty list, and no object."""
    cut: bool = False
    """The text ended inside an object or list, or left objects out with an ellipsis."""
    capped: bool = False
    """More valid objects were written than the request keeps."""


def parse_objects(
    text: str | TextReading,
    request: Request,
    *,
    dialect: str,
    space: CoordinateSpace,
    frame: PictureFrame,
    bare: bool = True,
    image: tuple[int, int] = (0, 1),
) -> ParsedObjects:
    """Read boxes and points out of a model's text, whatever grammar it chose.

    Parameters
    ----------
    text : str or TextReading
        The answer part of the model's text.
    request : Request
        Gives the labels, the kind of object asked for and the most objects kept.
    dialect : str
        'json', 'tags_v1' or 'tags_v2': the family's own grammar, tried first.
    space : CoordinateSpace
        What the family's numbers mean; never guessed from the values.
    frame : PictureFrame
        The tile's picture.
    bare : bool
        Whether lists of numbers without any key count as objects.
    image : (int, int)
        Place of the picture among those of the question, from 0, and their number; objects that state another one are
        dropped.

    Returns
    -------
    ParsedObjects
        Objects in tile px, inside the tile, each with its place in the text. Never raises for what the text holds.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"dialect: {dialect!r} is unknown; use one of {', '.join(DIALECTS)}")
    size = 2 if request.task is Task.POINT else 4
    reading = TextReading(text) if isinstance(text, str) else text
    tags = dialect != "json"
    if not tags:
        written, cut = _from_json(reading, request.labels, size, bare)
        if not written.candidates:
            tagged, tags_cut = _from_tags(reading, dialect, request.labels, inside_cut=cut)
            if tagged.candidates or tags_cut:
                written, cut, tags = tagged, cut or tags_cut, True
    else:
        written, cut = _from_tags(reading, dialect, request.labels)
        unnamed = any(candidate.label is None for candidate in written.candidates)
        if not written.candidates or (unnamed and "{" in reading.text):
            other, other_cut = _from_json(reading, request.labels, size, bare)
            says_empty = other.empty and not written.candidates
            if len(other.candidates) >= max(len(written.candidates), 1) or says_empty:
                written = WrittenObject(other.candidates, (*other.codes, "dialect:json"), other.empty)
                cut, tags = other_cut, False
            elif other_cut:
                written, cut = _from_tags(reading, dialect, request.labels, inside_cut=True)[0], True
    if reading.calls:
        written = replace(written, codes=(*written.codes, "tool_call"))
    cut = cut or "ellipsis" in written.codes or "depth" in written.codes
    parsed = _checked(written, cut, request, space, frame, reading, image)
    if parsed.objects and not (tags or cut or mended(parsed.codes)):
        spans = [moved(candidate.span, candidate.origin) for candidate in written.candidates]
        if not accounted(reading.text, spans):
            return replace(parsed, codes=(*parsed.codes, "leftover"))
    return parsed


def _from_json(reading: TextReading, labels: tuple[str, ...], size: int, bare: bool) -> tuple[WrittenObject, bool]:
    found = reading.values
    written = written_objects(found.values, labels, size=size, bare=bare)
    codes = (*found.codes, *written.codes)
    unkeyed = not written.candidates or ("bare" in codes and "prose" in codes)
    if unkeyed and not written.empty and not found.cut and "tool_call" not in codes:
        rescued = salvaged(reading.text, labels)
        if rescued:
            return WrittenObject(rescued, tuple(code for code in codes if code != "bare")), False
    return WrittenObject(written.candidates, codes, written.empty), found.cut


def _from_tags(
    reading: TextReading, dialect: str, labels: tuple[str, ...], *, inside_cut: bool = False
) -> tuple[WrittenObject, bool]:
    """Candidates of the tag grammars; where they stand inside JSON that was cut off, only those with a label."""
    found = reading.tags
    codes = [*found.codes]
    note = tags_note(left_over(reading.text, found.read), labels) if found.grammar not in ("", "xml") else None
    if note == "leftover":
        codes.append(note)
    if found.grammar not in ("", dialect):
        codes.append(f"dialect:{found.grammar}")
    if note == "prose":
        codes.append(note)
    candidates = []
    for place in found.places:
        if place.label is None and inside_cut:
            continue
        hint = name_in(place.before, labels) if place.before and not place.label else None
        candidates.append(Candidate(place.numbers, place.label, hint, span=place.span, image=place.image))
    return WrittenObject(tuple(candidates), tuple(codes)), found.cut


def _checked(
    written: WrittenObject,
    cut: bool,
    request: Request,
    space: CoordinateSpace,
    frame: PictureFrame,
    reading: TextReading,
    image: tuple[int, int],
) -> ParsedObjects:
    """Check every candidate on its own; place, deduplicate and cap those that pass."""
    extent = frame.extent(space)
    codes = list(written.codes)
    kept: list[tuple[tuple[float, ...], str, Candidate, Sequence[Span | None]]] = []
    seen: set[tuple[str, tuple[float, ...]]] = set()
    previous: tuple[str, tuple[float, ...]] | None = None
    over = 0
    unasked = {Task.DETECT: 2, Task.POINT: 4}.get(request.task)
    others: Iterable[bool] = repeat(False)
    if any(item.extra or item.image for item in written.candidates):
        others = elsewhere([image_of(item.extra) or item.image for item in written.candidates], image)
    for candidate, other in zip(written.candidates, others, strict=False):
        if other:
            codes.append("dropped:other_image")
            continue
        numbers = _fitting(candidate, request.task)
        if numbers is None:
            codes += candidate.codes if candidate.numbers is None else ()
            codes += () if candidate.numbers is None else ("kind",)
            continue
        where, where_codes = placed(list(numbers), extent)
        label, label_code = label_of(candidate.label, candidate.hint, request.labels)
        if candidate.extra and is_taken_back(candidate.extra, label):
            codes.append("dropped:denied")
            continue
        if where is not None and (same := (label, where)) in seen:
            codes.append("loop" if same == previous else "duplicates")
            continue
        codes += where_codes
        if where is None:
            continue
        previous = (label, where)
        seen.add(previous)
        if len(kept) >= request.max_objects:
            over += 1
            continue
        codes += candidate.codes
        if label_code:
            codes.append(label_code)
        if len(where) == unasked:
            codes.append("kind")
        kept.append((where, label, candidate, _places(candidate, where, extent)))
    objects, tile_codes = _in_tile(kept, space, frame, reading)
    codes += tile_codes
    codes += ["capped"] * over
    count = len(written.candidates)
    return ParsedObjects(objects, tuple(codes), count, written.empty and not count, cut, over > 0)


def _places(candidate: Candidate, where: tuple[float, ...], extent: tuple[float, float]) -> Sequence[Span | None]:
    """Where the numbers of a box or point stand, in the order in which it was placed."""
    if candidate.places is None:
        return [span_of(number) for number in where]
    if where == candidate.numbers:
        return candidate.places
    numbers = list(map(Number.at, candidate.numbers or (), candidate.places))
    return [span_of(number) for number in placed(numbers, extent)[0] or ()]


def _fitting(candidate: Candidate, task: Task) -> tuple[float, ...] | None:
    """The candidate's numbers; None without, or for the unwanted half of an object with box and point."""
    numbers = candidate.numbers
    if numbers is not None and "both" in candidate.codes and len(numbers) == (4 if task is Task.POINT else 2):
        return None
    return numbers


def _in_tile(
    kept: list[tuple[tuple[float, ...], str, Candidate, Sequence[Span | None]]],
    space: CoordinateSpace,
    frame: PictureFrame,
    reading: TextReading,
) -> tuple[tuple[TileObject, ...], list[str]]:
    # Plain floats: numpy takes its time over those that know their place.
    boxes = [list(map(float, where)) for where, *_ in kept if len(where) == 4]
    points = [list(map(float, where)) for where, *_ in kept if len(where) == 2]
    tile_boxes = iter(frame.to_tile(boxes, space).tolist() if boxes else ())
    tile_points = iter(frame.to_tile(points, space).tolist() if points else ())
    objects: list[TileObject] = []
    codes: list[str] = []
    for where, label, candidate, places in kept:
        score, attributes = _score_and_attributes(candidate.extra, codes) if candidate.extra else (None, {})
        box = point = None
        if len(where) == 4:
            x_min, y_min, x_max, y_max = next(tile_boxes)
            box = (x_min, y_min, min(x_max, float(frame.width)), min(y_max, float(frame.height)))
            if not (box[0] < box[2] and box[1] < box[3]):
                codes.append("dropped:zero_area")
                continue
        else:
            x, y = next(tile_points)
            point = (min(x, float(frame.width)), min(y, float(frame.height)))
        spans = reading.places(candidate.span, places, candidate.origin)
        objects.append(TileObject(label, box, point, score, attributes, *spans))
    return tuple(objects), codes


def _score_and_attributes(extra: Mapping[str, object], codes: list[str]) -> tuple[float | None, dict[str, object]]:
    score: float | None = None
    attributes: dict[str, object] = {}
    for key, value in extra.items():
        name = key.casefold().strip()
        if score is None and name in SCORE_KEYS:
            score = _share(value, name in CONFIDENCE_KEYS)
            if score is not None:
                continue
        if isinstance(value, (list, dict)) or value is None:
            continue
        if len(attributes) >= _MAX_ATTRIBUTES or (isinstance(value, float) and not math.isfinite(value)):
            codes.append("attributes")
            continue
        if isinstance(value, str):
            if len(value) > _MAX_ATTRIBUTE_CHARACTERS:
                codes.append("attributes")
            value = clean(value[:_MAX_ATTRIBUTE_CHARACTERS])
        attributes[clean(key[:80])] = value
    return score, attributes


def _share(value: object, percent: bool) -> float | None:
    """A confidence in 0..1 out of 0.87, '0.87', '87%' or, under a key that means percent, 87."""
    if isinstance(value, str) and value.strip().endswith(("%", "％")):
        number = number_of(value.strip()[:-1])
        number = None if number is None else number / 100
    else:
        number = number_of(value)
        if number is not None and percent and 1 < number <= 100:
            number /= 100
    return number if number is not None and 0 <= number <= 1 else None
