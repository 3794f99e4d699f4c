"""From JSON values to candidates: what the model may have meant as one object each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from qwenvl.parse.boxes.coordinates import by_name, coordinate_sets, number_of, numbers_at, numbers_of
from qwenvl.parse.boxes.images import Image, image_in, image_of
from qwenvl.parse.boxes.keys import (
    BOX_KEYS,
    COORDINATE_KEYS,
    EITHER_KEYS,
    LABEL_KEYS,
    POINT_KEYS,
    POLYGON_KEYS,
    SCORE_KEYS,
    WRAPPER_KEYS,
    numbers_by_name,
)
from qwenvl.parse.boxes.labels import canonical
from qwenvl.parse.boxes.names import name_in, name_of, sounds_like_name
from qwenvl.parse.json.values import Value
from qwenvl.parse.spans import CutDict, CutList, FieldSpans, Items, Origin, RepeatedDict, Span, SplitList, written_as

_KNOWN = frozenset(BOX_KEYS + POINT_KEYS + POLYGON_KEYS + LABEL_KEYS + SCORE_KEYS)
_BOX_KEYS = frozenset(BOX_KEYS)
_FOUR_INTS = [int] * 4
_LABEL_KEYS = frozenset(LABEL_KEYS)
_BY_PRIORITY = (*BOX_KEYS[:1], *POINT_KEYS[:1], *BOX_KEYS[1:], *POINT_KEYS[1:], *POLYGON_KEYS)
_DROPPED = {"junk": "dropped:not_object", "misread": "dropped:numbers"}
_OTHER_NUMBERS = re.compile(r"(?<![a-z])(?:xywh|cxcywh|yxyx|yxhw|tlwh|ltwh|xyxyxyxy)(?![a-z])", re.IGNORECASE)
"""Words that say that four numbers are no two corners, x first."""
_CANONICAL_KEYS = frozenset({"bbox_2d", "point_2d", "label"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """One object as written, not yet checked."""

    numbers: tuple[float, ...] | None
    """Model numbers; None where the object has no readable coordinates."""
    label: object = None
    hint: str | None = None
    """A name from around the object."""
    extra: dict[str, object] = field(default_factory=dict)
    """The object's other keys, as written."""
    codes: tuple[str, ...] = ()
    span: Span = (0, 0)
    """Where the object stands; this and the places of the numbers count in the text that `origin` leads to."""
    origin: Origin = 0
    image: Image | None = None
    """The image that words before it, or the key of its group, name."""
    places: Sequence[Span] | None = None
    """Where the numbers stand; None where each knows its own place."""


@dataclass(frozen=True, slots=True)
class WrittenObject:
    """What a text's JSON values hold."""

    candidates: tuple[Candidate, ...] = ()
    codes: tuple[str, ...] = ()
    empty: bool = False
    """An empty list stood where objects belong."""


def written_objects(values: Iterable[Value], labels: tuple[str, ...], *, size: int, bare: bool) -> WrittenObject:
    """Candidates of all `values`, in order.

    Parameters
    ----------
    values : iterable of Value
    labels : tuple of str
        The request's labels; a list under a label's name holds objects of that label.
    size : int
        Numbers that a bare list must have to count as an object: 4 for boxes, 2 for points.
    bare : bool
        Whether lists of numbers without keys count at all.
    """
    candidates: list[Candidate] = []
    bare_ones: list[Candidate] = []
    codes: list[str] = []
    empty = False
    hint: str | None = None
    image: Image | None = None
    for item in values:
        if isinstance(item.value, dict) and not isinstance(item.value, CutDict) and _is_object(item.value):
            codes.append("single")
        if item.corrects and (candidates or bare_ones):
            candidates, bare_ones = [], []
            codes.append("corrected")
        if item.before:
            # A heading is that of all values up to the next words.
            hint = name_in(item.before, labels)
            image = item.image or image
        for kind, value, around in _walk(item.value, labels, _Around(hint, image, item.origin)):
            if kind == "object":
                candidates.extend(_of_dict(value, around, size))
            elif kind in _DROPPED:
                candidates.append(Candidate(None, codes=(_DROPPED[kind],)))
            elif kind == "list":
                rows = _of_list(value, around, size)
                bare_ones.extend(rows or [Candidate(None, codes=("dropped:not_object",))])
            elif kind == "code":
                codes.append(value)
            else:
                empty = True
    if bare and not any(item.numbers for item in candidates) and any(item.numbers for item in bare_ones):
        return WrittenObject((*bare_ones, *candidates), (*codes, "bare"), empty)
    if candidates:
        codes += ["dropped:bare"] * len(bare_ones)
    candidates = _named_by_neighbours(candidates)
    if len(candidates) != 1:
        codes = [code for code in codes if code != "single"]
    return WrittenObject(tuple(candidates), tuple(codes), empty)


class _Around(NamedTuple):
    """What is known of an object from around it: its name, its image, where its text comes from."""

    name: str | None
    image: Image | None
    origin: Origin

    def under(self, name: str | None, image: Image | None = None) -> _Around:
        """What is known within a group."""
        return _Around(name, image or self.image, self.origin)


def _walk(root: Any, labels: tuple[str, ...], around: _Around) -> Iterator[tuple[str, Any, _Around]]:
    """('object' | 'list' | 'junk' | 'misread' | 'empty' | 'code', value, what is around), in order of the text."""
    stack: list[tuple[Any, _Around, bool]] = [(root, around, False)]
    while stack:
        value, around, inside = stack.pop()
        if isinstance(value, dict):
            if isinstance(value, RepeatedDict):
                yield "code", "keys", around
            if _is_tool_call(value):
                yield "code", "tool_call", around
                continue
            if _is_object(value):
                if not isinstance(value, CutDict):
                    yield "object", value, around
                for key, child in value.items():
                    if isinstance(child, (list, dict)) and child and not _is_read(str(key)):
                        if _holds_objects(child):
                            yield "code", "wrapped", around
                            stack.append((child, around.under(_group(key, labels)), True))
                        elif not isinstance(value, CutDict):
                            yield "code", "attributes", around
                continue
            children = []
            own, image = _own_name(value, labels), image_of(value)
            for key, child in value.pairs if isinstance(value, RepeatedDict) else value.items():
                if isinstance(child, list) and not child:
                    if str(key).casefold().strip() in WRAPPER_KEYS or canonical(str(key)[:120], labels):
                        yield "empty", None, around
                elif isinstance(child, (list, dict)):
                    if _OTHER_NUMBERS.search(str(key)[:80]):
                        yield "misread", child, around
                        continue
                    name = _group_or_own(_group(key, labels), own, labels) or around.name
                    children.append((child, around.under(name, image_in(str(key)[:40]) or image), False))
            if children:
                yield "code", "wrapped", around
                stack.extend(reversed(children))
            elif inside and not isinstance(value, CutDict):
                yield "object", value, around
        elif isinstance(value, list):
            if isinstance(value, SplitList):
                yield "code", "keys", around
                parts = [(child, around.under(own or around.name), True) for child, own in _shared_names(value)]
                stack.extend(reversed(parts))
            elif not value:
                if not isinstance(value, CutList):
                    yield ("junk" if inside else "empty"), None, around
            elif _is_flat(value):
                if not isinstance(value, CutList):
                    yield "list", value, around
            else:
                stack.extend(reversed(list(_after_words(value, around, labels))))
        elif inside:
            yield "junk", value, around


def _after_words(value: list[Any], around: _Around, labels: tuple[str, ...]) -> Iterator[tuple[Any, _Around, bool]]:
    """The parts of a list; words among them name what follows, or what they follow where the list begins with that."""
    if len(value) > 1 and isinstance(value[-1], str) and not isinstance(value[0], str):
        for part, word in zip(value, (*value[1:], None), strict=True):
            name = name_in(word, labels) if isinstance(word, str) else None
            yield part, around.under(name or around.name), True
        return
    for part in value:
        if isinstance(part, str):
            around = around.under(name_in(part, labels) or around.name, image_in(part[:80]))
        yield part, around, True


def _named_by_neighbours(candidates: list[Candidate]) -> list[Candidate]:
    """Objects without a name take that of a neighbour which has a name and no place."""
    if all(item.numbers for item in candidates):
        return candidates
    named = list(candidates)
    for index, item in enumerate(candidates):
        if item.numbers is None or item.label or item.hint:
            continue
        before, behind = candidates[index - 1] if index else item, candidates[min(index + 1, len(candidates) - 1)]
        for other in (behind, before) if candidates[0].numbers else (before, behind):
            if other.numbers is None and other.label:
                named[index] = replace(item, hint=str(other.label))
                break
    return named


def _group(key: object, labels: tuple[str, ...]) -> str | None:
    """The name that a group's key gives to what stands in it."""
    text = str(key)[:120]
    return canonical(text, labels) or name_in(text.replace("_", " "), labels)


def _own_name(item: dict[str, Any], labels: tuple[str, ...]) -> str | None:
    """The name that stands in a dict beside what it holds: {'type': 'lymphocyte', 'instances': [..]}."""
    texts = {key: value for key, value in _folded(item).items() if isinstance(value, str) and sounds_like_name(key)}
    name = name_of(texts)[1] if texts else None
    return name_in(name, labels) if name else None


def _group_or_own(group: str | None, own: str | None, labels: tuple[str, ...]) -> str | None:
    """What names the objects of a group: its key where that was asked for, else the name that was not asked for."""
    if own is None or group in labels:
        return group
    asked = canonical(own, labels)
    return (group or asked) if asked else own


def _shared_names(parts: SplitList) -> Iterator[tuple[Any, str | None]]:
    """The objects of one pair of braces; one without a name takes that of the object before it, or after it."""
    names = [name_of(_folded(part))[1] for part in parts]
    named = [str(name) for name in names if name]
    last = named[0] if named else None
    for part, name in zip(parts, names, strict=True):
        last = str(name) if name else last
        yield part, last


def _is_tool_call(item: Mapping[str, object]) -> bool:
    """True for a call of a tool, whose boxes are where the model wants to look and not what it found."""
    return "name" in item and isinstance(item.get("arguments"), (dict, str))


def _is_read(key: str) -> bool:
    if key in COORDINATE_KEYS:
        return True
    folded = key.casefold().strip()
    return folded in COORDINATE_KEYS or folded in _LABEL_KEYS


def _holds_objects(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value, *value.values()]
    return any(isinstance(part, dict) and _is_object(part) for part in parts)


def _is_object(item: Mapping[str, object]) -> bool:
    """True for a dict with coordinates or, failing that, with a label and no list of further objects."""
    if not item:
        return False
    if "bbox_2d" in item or "point_2d" in item:
        return True
    folded = _folded(item)
    inner = [value for value in item.values() if isinstance(value, (list, dict)) and value]
    placed = [value for key, value in folded.items() if key in COORDINATE_KEYS]
    if any(_holds_names(part) for value in placed if isinstance(value, list) for part in value):
        return False
    if not placed and any(isinstance(part, dict) for value in inner if isinstance(value, list) for part in value):
        return False
    if not COORDINATE_KEYS.isdisjoint(folded):
        return not all(isinstance(value, list) and not value for value in item.values())
    if numbers_by_name(folded) is not None:
        return True
    return not inner and not _LABEL_KEYS.isdisjoint(folded)


def _holds_names(part: object) -> bool:
    """True for a part of a coordinate's value that is an object or a row with a name by itself."""
    if isinstance(part, dict):
        return not numbers_by_name(_folded(part))
    return isinstance(part, list) and any(isinstance(x, str) and not numbers_at(x, None) for x in part)


def _folded(item: Mapping[str, object]) -> dict[str, object]:
    return {str(key).casefold().strip(): value for key, value in item.items()}


def _is_flat(value: list[object]) -> bool:
    return bool(value) and not any(isinstance(part, (list, dict)) for part in value)


def _of_dict(item: FieldSpans, around: _Around, size: int) -> list[Candidate]:
    hint, image, origin = around
    if len(item) == 2 and type(item) is FieldSpans and isinstance(label := item.get("label"), str) and label:
        plain_box = item.get("bbox_2d")
        if type(plain_box) is Items and list(map(type, plain_box)) == _FOUR_INTS:
            # What the models write nearly always, without the search through the aliases.
            numbers = tuple(map(float, plain_box))
            return [Candidate(numbers, label, hint, {}, (), item.span, origin, image, plain_box.spans)]
    folded = _folded(item)
    codes: list[str] = []
    sets: list[list[float]] = []
    present = not COORDINATE_KEYS.isdisjoint(folded)
    for key in _BY_PRIORITY if present else ():
        if key not in folded or folded[key] is None:
            continue
        found, found_codes = coordinate_sets(folded[key], key, _place_of(item, key))
        if not found or not _fits(key, found, size):
            codes += ["attributes"] if sets else []
            continue
        if sets:
            if len(found[0]) != len(sets[0]):
                codes.append("both")
                sets.extend(found)
            elif found != sets:
                codes.append("attributes")
            continue
        sets = found
        codes.extend(found_codes)
        if key not in item or key not in _CANONICAL_KEYS:
            codes.append("keys")
        if key == "box_2d":
            codes.append("order")
    if not sets and (named := by_name(item)) is not None:
        present = True
        if None not in named:
            sets = [[part for part in named if part is not None]]
            codes.append("keys")
    label_key, label = name_of(folded)
    if isinstance(item, RepeatedDict):
        said = [str(value) for key, value in item.pairs if key.casefold().strip() == label_key]
        if len(set(said)) > 1:
            # Two names contradict each other: neither is taken.
            label = " / ".join(said)
    if label_key and (label_key != "label" or label_key not in item):
        codes.append("keys")
    elif label_key and label != folded[label_key] and not isinstance(item, RepeatedDict):
        codes.append("nested_name")
    extra = {key: value for key, value in item.items() if _is_extra(str(key), label_key)}
    if any(isinstance(value, str) and _OTHER_NUMBERS.search(value[:40]) for value in extra.values()):
        sets, present = [], True
    if not sets:
        reason = "dropped:numbers" if present else "dropped:no_coordinates"
        return [Candidate(None, label, hint, extra, (reason,), item.span, origin, image)]
    names = [label] * len(sets)
    if isinstance(label, list) and len(sets) == len(label) and all(isinstance(name, str) for name in label):
        names = label
    elif isinstance(label, list) and len(sets) > 1 and len(set(map(str, label))) > 1:
        names = [" / ".join(map(str, label))] * len(sets)  # nothing says which name is whose
    return [
        Candidate(tuple(numbers), name, hint, extra, tuple(codes), item.span, origin, image)
        for numbers, name in zip(sets, names, strict=True)
    ]


def _place_of(item: FieldSpans, key: str) -> Span | None:
    """Where the value of a case-folded key stands."""
    pairs = item.pairs if isinstance(item, RepeatedDict) else item.items()
    found = [span for (name, _), span in zip(pairs, item.spans, strict=True) if name.casefold().strip() == key]
    return found[-1] if found else None


def _fits(key: str, found: list[list[float]], size: int) -> bool:
    """Two numbers under a box's key, and four under a point's, count only where that many were asked for."""
    own = 4 if key in _BOX_KEYS else 2
    other = 6 - own
    return key in EITHER_KEYS or size == other or all(len(numbers) != other for numbers in found)


def _is_extra(key: str, label_key: str | None) -> bool:
    key = key.casefold().strip()
    return key != label_key and (key not in _KNOWN or key in SCORE_KEYS or key in LABEL_KEYS)


def _of_list(value: Items, around: _Around, size: int) -> list[Candidate]:
    """A bare list of numbers, with its label as last element or not; several boxes in one row are parted."""
    label, start, stop = None, 0, len(value)
    codes: tuple[str, ...] = ()
    if isinstance(value[-1], str) and number_of(value[-1]) is None:
        label, stop = value[-1], stop - 1
    if isinstance(value[0], str) and number_of(value[0]) is None:
        codes = ("attributes",) if label else ()
        label, start = value[0], 1
    numbers = numbers_of(written_as(Items, value[start:stop], value.span, value.spans[start:stop]))
    if not numbers or len(numbers) != size:
        return []
    return [Candidate(tuple(numbers), label, around.name, {}, codes, value.span, around.origin, around.image)]
