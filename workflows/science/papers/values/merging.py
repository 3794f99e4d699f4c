"""Records of overlapping windows to those of the document: merged, de-duplicated, contradictions kept and marked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workflows.science.papers.values.finding import How
from workflows.science.papers.values.numbers import as_number
from workflows.science.papers.values.placing import Anchor, FoundText

_DASHES = re.compile("[‐‑‒–—−]")
_TRUST = {Anchor.ANCHORED: 3, Anchor.MODEL: 1, Anchor.ELSEWHERE: 1, Anchor.MISSING: 0, Anchor.ABSENT: -1}


@dataclass(frozen=True)
class WindowReading:
    """A record as one window read it, or as several agree on it.

    Attributes
    ----------
    values : mapping
        By property of the user's schema.
    page : int or None
    fields : mapping
        Place of each single value, by its path.
    seen : tuple of (int, int or None)
        Window and page of every reading of it.
    notes : tuple of str
    """

    values: Mapping[str, Any]
    page: int | None
    fields: Mapping[str, FoundText]
    seen: tuple[tuple[int, int | None], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Another record that cannot be true as well, or stands at the same place.

    Attributes
    ----------
    other : int
        Number of that record.
    fields : tuple of str
        Properties that differ.
    same_place : bool
        Both were read off the same print: one of them is misread. Else the document itself says both.
    """

    other: int
    fields: tuple[str, ...]
    same_place: bool


@dataclass(frozen=True)
class Merged:
    """The records of a document in reading order, and for each those that it contradicts."""

    records: tuple[WindowReading, ...] = ()
    contradictions: tuple[tuple[Contradiction, ...], ...] = field(default=())


def merge_records(readings: Sequence[WindowReading], key: Sequence[str]) -> Merged:
    """Merge readings of the same record.

    Two readings are of the same record where all their key values agree and no other value differs; a value that one
    of them lacks is taken from the other. Numbers agree by value, texts apart from case, spaces and dashes. Readings
    of one key with different values, or of one place with different keys, stay apart and are marked.

    Parameters
    ----------
    readings : sequence of WindowReading
    key : sequence of str
        Properties that tell records apart.
    """
    clusters: list[WindowReading] = []
    order = sorted(range(len(readings)), key=lambda i: (-_filled(readings[i]), i))
    for index in order:
        reading = readings[index]
        fitting = [n for n, other in enumerate(clusters) if _same(reading, other, key)]
        if len(fitting) > 1:
            adds = any(_adds(reading, clusters[n]) for n in fitting)
            near = [n for n in fitting if _same_place(reading, clusters[n])]
            # Which of several it completes is not guessed; where it completes none, the place decides.
            fitting = near[:1] or ([] if adds else fitting[:1])
        if fitting:
            clusters[fitting[0]] = _joined(clusters[fitting[0]], reading)
        else:
            clusters.append(reading)
    clusters.sort(key=_reading_order)
    return Merged(tuple(clusters), tuple(_contradictions(n, clusters, key) for n in range(len(clusters))))


def alike(one: object, other: object) -> bool:
    """Whether two values say the same."""
    first, second = as_number(one), as_number(other)
    if first is not None and second is not None:
        return first == second
    if isinstance(one, str) and isinstance(other, str):
        return _plain(one) == _plain(other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return type(one) is type(other) and bool(one == other)


def _plain(text: str) -> str:
    normal = _DASHES.sub("-", unicodedata.normalize("NFKC", text)).casefold()
    return re.sub(r"\s*([-±/=<>%,;:()])\s*", r"\1", " ".join(normal.split()))


def _empty(value: object) -> bool:
    return value is None or value == "" or value == [] or value == {}


def _filled(reading: WindowReading) -> int:
    return sum(not _empty(value) for value in reading.values.values())


def _same(one: WindowReading, other: WindowReading, key: Sequence[str]) -> bool:
    shared = False
    for name in {*one.values, *other.values}:
        a, b = one.values.get(name), other.values.get(name)
        if _empty(a) or _empty(b):
            continue
        if not alike(a, b):
            return False
        shared = shared or name in key
    return shared or not any(not _empty(one.values.get(name)) for name in key)


def _adds(reading: WindowReading, other: WindowReading) -> bool:
    return any(not _empty(v) and _empty(other.values.get(name)) for name, v in reading.values.items())


def _joined(one: WindowReading, other: WindowReading) -> WindowReading:
    """Values of both; of what both have, the reading whose place is known better."""
    values, fields = dict(one.values), dict(one.fields)
    for name in other.values:
        if _empty(other.values[name]):
            continue
        mine, theirs = _paths(one, name), _paths(other, name)
        better = _trust(other.fields, theirs) > _trust(one.fields, mine)
        if _empty(values.get(name)) or better:
            values[name] = other.values[name]
            for path in mine:
                fields.pop(path, None)
            fields |= {path: other.fields[path] for path in theirs}
    trusted = _trust(other.fields, other.fields) > _trust(one.fields, one.fields)
    notes = tuple(dict.fromkeys((*one.notes, *other.notes)))
    seen = tuple(sorted({*one.seen, *other.seen}, key=lambda each: (each[0], each[1] or 0)))
    page = other.page if trusted or one.page is None else one.page
    return replace(one, values=values, fields=fields, page=page, seen=seen, notes=notes)


def _paths(reading: WindowReading, name: str) -> list[str]:
    return [path for path in reading.fields if re.split(r"[.\[]", path, maxsplit=1)[0] == name]


def _trust(fields: Mapping[str, FoundText], paths: Any) -> float:
    worth = [_TRUST[fields[p].anchor] + (fields[p].how is How.EXACT) + fields[p].beside for p in paths]
    return sum(worth) / len(worth) if worth else -1.0


def _same_place(one: WindowReading, other: WindowReading) -> bool:
    """Whether all numbers of both that are anchored at all stand at the same print (else all words)."""
    for numbers in (True, False):
        places = [_anchored(reading, numbers) for reading in (one, other)]
        if places[0] and places[1]:
            shared = places[0].keys() & places[1].keys()
            return bool(shared) and all(places[0][path] == places[1][path] for path in shared)
    return False


def _anchored(reading: WindowReading, numbers: bool) -> dict[str, Any]:
    found = {}
    for path, place in reading.fields.items():
        top = re.split(r"[.\[]", path, maxsplit=1)[0]
        if place.anchor is Anchor.ANCHORED and (as_number(reading.values.get(top)) is not None) == numbers:
            found[path] = (place.page, place.boxes_pt)
    return found


def _contradictions(number: int, records: Sequence[WindowReading], key: Sequence[str]) -> tuple[Contradiction, ...]:
    found = []
    one = records[number]
    for n, other in enumerate(records):
        if n == number:
            continue
        filled = [name for name in key if not _empty(one.values.get(name))]
        same_key = bool(filled) and all(alike(one.values.get(k), other.values.get(k)) for k in key)
        same_place = _same_place(one, other)
        if not (same_key or same_place):
            continue
        differing = tuple(
            name
            for name in one.values
            if not _empty(one.values[name])
            and not _empty(other.values.get(name))
            and not alike(one.values[name], other.values[name])
        )
        if differing:
            found.append(Contradiction(n, differing, same_place or _one_row(one, other)))
    return tuple(found)


def _one_row(one: WindowReading, other: WindowReading) -> bool:
    """Whether the texts of both are anchored at the same print: then a number that differs is misread."""
    texts = [_anchored(reading, False) for reading in (one, other)]
    shared = texts[0].keys() & texts[1].keys()
    return bool(shared) and all(texts[0][path] == texts[1][path] for path in shared)


def _reading_order(reading: WindowReading) -> tuple[float, ...]:
    tops = [f.boxes_pt[0] for f in reading.fields.values() if f.boxes_pt and f.page == reading.page]
    first = reading.page if reading.page is not None else float("inf")
    return (first, min((box[1] for box in tops), default=float("inf")), min((b[0] for b in tops), default=0.0))
