"""Grounding written in tags instead of JSON.

`tags_v1` is Qwen-VL's `<ref>cell</ref><box>(x1,y1),(x2,y2)</box>` with `<quad>` for four corners; `tags_v2`
is Qwen2-VL's `<|object_ref_start|>..<|object_ref_end|><|box_start|>..<|box_end|>`; XML points
(`<points x1="10" y1="20" alt="cell">cell</points>`) come from Qwen2.5-VL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAG = re.compile(
    r"<\|(object_ref|box|quad|point)_(start|end)\|>|<(/?)(ref|bbox|box|quad|point)>", re.IGNORECASE
)
_NUMBERS = re.compile(r"[-+]?(?:[0-9]++(?:\.[0-9]++)?|\.[0-9]++)")
_XML = re.compile(r"<points?\b(?=[\s/])([^<>]{0,20000})(/?>)", re.IGNORECASE)
_XML_END = re.compile(r"([^<]{0,400})</points?\s*>", re.IGNORECASE)
_XML_NUMBER = re.compile(
    r"\b([xy])([0-9]{0,4})\s*+=\s*+(?:[\"'“”‘’]\s*+([-+]?[0-9]++(?:\.[0-9]++)?)\s*+[\"'“”‘’]"
    r"|([-+]?[0-9]++(?:\.[0-9]++)?)(?=[\s/]|\Z))",
    re.IGNORECASE,
)
_XML_NAME = re.compile(
    r"\b(?:alt|label|name)\s*+=\s*+[\"'“”‘’]([^\"“”<>]{0,200}?)[\"'“”’](?=[\s/]|\Z)", re.IGNORECASE
)
_PAIR = r"\(\s*+([0-9]{1,5})\s*+,\s*+([0-9]{1,5})\s*+\)"
_PAIRS = re.compile(rf"([^\W\d_][\w \-]{{0,60}}+)?+[:：]?\s*+{_PAIR}\s*+,\s*+{_PAIR}")
_TAG_CUT = re.compile(
    r"<(?:points?|box|bbox|quad|ref)\b[^<>]*+\Z|<\|[a-z_]*+\|?\Z|<[a-z_]{0,8}\Z", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Tagged:
    """One place that tags name: its numbers as written, and its label."""

    numbers: tuple[float, ...]
    label: str | None


@dataclass(frozen=True, slots=True)
class TagsFound:
    """What the tags of one text say."""

    places: tuple[Tagged, ...] = ()
    grammar: str = ""
    """'tags_v1', 'tags_v2', 'xml' or 'pairs'; empty where nothing was found."""
    cut: bool = False


def find_tags(text: str, *, pairs: bool) -> TagsFound:
    """Boxes, quads and points written in tags, in order.

    Parameters
    ----------
    text : str
    pairs : bool
        Also read bare `cell(x1,y1),(x2,y2)`, which is what remains of the tag dialects when a tokenizer
        leaves their special tokens out.
    """
    found = _boxes(text)
    points = _xml_points(text)
    if points.places and not found.places:
        return points
    if found.places or found.cut:
        return TagsFound(found.places + points.places, found.grammar, found.cut or points.cut)
    if points.cut:
        return points
    if pairs and "<" not in text:
        places = tuple(
            Tagged(tuple(float(number) for number in match.groups()[1:]), match[1])
            for match in _PAIRS.finditer(text)
        )
        return TagsFound(places, "pairs" if places else "")
    return TagsFound()


def _boxes(text: str) -> TagsFound:
    places: list[Tagged] = []
    label: str | None = None
    opened: tuple[str, int] | None = None
    grammar = ""
    for tag in _TAG.finditer(text):
        modern = tag[1] is not None
        name = (tag[1] or tag[4]).casefold()
        closes = tag[2] == "end" if modern else tag[3] == "/"
        grammar = grammar or ("tags_v2" if modern else "tags_v1")
        if opened:
            # A tag that follows another without its end closes it as well.
            inner = text[opened[1] : tag.start()]
            if opened[0] in ("ref", "object_ref"):
                label = inner[:200]
            else:
                places.append(Tagged(_corners(opened[0], inner), label))
            opened = None
        if not closes:
            opened = (name, tag.end())
    cut = opened is not None or _TAG_CUT.search(text, max(0, len(text) - 2000)) is not None
    if opened and opened[0] not in ("ref", "object_ref"):
        # At the end of the text a box counts only where all its brackets are closed.
        inner = text[opened[1] :]
        if inner.count("(") == inner.count(")") == (4 if opened[0] == "quad" else 2):
            places.append(Tagged(_corners(opened[0], inner), label))
    return TagsFound(tuple(places), grammar, cut)


def _corners(name: str, inner: str) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in _NUMBERS.findall(inner[:200]))
    if name == "quad" and len(numbers) == 8:
        return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    return numbers


def _xml_points(text: str) -> TagsFound:
    places: list[Tagged] = []
    cut = False
    for element in _XML.finditer(text):
        axes: dict[str, dict[str, float]] = {}
        for axis, index, quoted, bare in _XML_NUMBER.findall(element[1]):
            axes.setdefault(index, {})[axis.casefold()] = float(quoted or bare)
        named = _XML_NAME.search(element[1])
        end = _XML_END.match(text, element.end())
        if not end and element[2] != "/>":
            cut = cut or text.find("<", element.end()) < 0
            if not named:
                continue
        label = named[1] if named else end[1] if end else None
        for place in axes.values():
            places.append(Tagged(tuple(place[axis] for axis in "xy" if axis in place), label))
    cut = cut or re.search(r"<points?\b[^<>]*\Z", text[-2000:], re.IGNORECASE) is not None
    return TagsFound(tuple(places), "xml" if places else "", cut)
