"""Grounding written in tags instead of JSON.

`tags_v1` is Qwen-VL's `<ref>cell</ref><box>(x1,y1),(x2,y2)</box>` with `<quad>` for four corners; `tags_v2`
is Qwen2-VL's `<|object_ref_start|>..<|object_ref_end|><|box_start|>..<|box_end|>`; XML points
(`<points x1="10" y1="20" alt="cell">cell</points>`) come from Qwen2.5-VL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from qwenvl.parse.boxes.images import Image, image_in
from qwenvl.parse.boxes.names import has_content, named_behind
from qwenvl.parse.notes import CORRECTS
from qwenvl.parse.spans import Number, Span

_TAG = re.compile(r"<\|(object_ref|box|quad|point)_(start|end)\|>|<(/?)(ref|bbox|box|quad|point)>", re.IGNORECASE)
_NUMBERS = re.compile(r"[-+]?(?:[0-9]++(?:\.[0-9]++)?|\.[0-9]++)")
_XML = re.compile(r"<points?\b(?=[\s/])([^<>]{0,20000})(/?>)", re.IGNORECASE)
_XML_END = re.compile(r"([^<]{0,400})</points?\s*>", re.IGNORECASE)
_XML_NUMBER = re.compile(
    r"\b([xy])([0-9]{0,4})\s*+=\s*+(?:[\"'“”‘’]\s*+([-+]?[0-9]++(?:\.[0-9]++)?)\s*+[\"'“”‘’]"
    r"|([-+]?[0-9]++(?:\.[0-9]++)?)(?=[\s/]|\Z))",
    re.IGNORECASE,
)
_XML_NAME = re.compile(r"\b(?:alt|label|name)\s*+=\s*+[\"'“”‘’]([^\"“”<>]{0,200}?)[\"'“”’](?=[\s/]|\Z)", re.IGNORECASE)
_IN_NAME = re.compile(r"[<>\[\]{}|]|[0-9]\s*,\s*[0-9]")
_STRANGE = re.compile(r"[^\s,;:()\[\]]")
_ONE = r"\s*+-?[0-9]++(?:\.[0-9]++)?\s*+"
_CORNER = rf"\s*+\({_ONE},{_ONE}\)\s*+"
_PLAIN = (re.compile(rf"{_CORNER},{_CORNER}"), re.compile(rf"{_CORNER}|{_ONE},{_ONE}"))
_QUAD = re.compile(rf"{_CORNER}(?:,{_CORNER}){{3}}")
_ROW = re.compile(r"\[[^\[\]]{1,120}\]")
_PAIR = r"\(\s*+([0-9]{1,5})\s*+,\s*+([0-9]{1,5})\s*+\)"
_PAIRS = re.compile(rf"([^\W\d_][\w \-]{{0,60}}+)?+[:：]?\s*+{_PAIR}\s*+,\s*+{_PAIR}")
_TAG_CUT = re.compile(r"<(?:points?|box|bbox|quad|ref)\b[^<>]*+\Z|<\|[a-z_]*+\|?\Z|<[a-z_]{0,8}\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tagged:
    """One place that tags name: its numbers as written, and its label."""

    numbers: tuple[float, ...]
    label: str | None
    before: str = ""
    """The words since the place before this one, where no tag names it."""
    span: Span = (0, 0)
    """Where it stands in the text, its tags included."""
    image: Image | None = None
    """The image that words before it name."""


@dataclass(frozen=True, slots=True)
class TagsFound:
    """What the tags of one text say."""

    places: tuple[Tagged, ...] = ()
    grammar: str = ""
    """'tags_v1', 'tags_v2', 'xml' or 'pairs'; empty where nothing was found."""
    cut: bool = False
    codes: tuple[str, ...] = ()
    read: tuple[Span, ...] = ()
    """What tags cover."""


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
        if points.places or points.cut:
            found = replace(
                found, places=found.places + points.places, cut=found.cut or points.cut, read=found.read + points.read
            )
        return found
    if points.cut:
        return points
    if pairs and "<" not in text:
        return _pairs(text)
    return TagsFound()


def _pairs(text: str) -> TagsFound:
    places, last = [], 0
    name: str | None = None
    image: Image | None = None
    for match in _PAIRS.finditer(text):
        outside = text[last : match.start()]
        image = image_in(outside) or image
        last = match.end()
        before = f"{outside}{match[1] or ''}".rpartition("\n")[2].strip(" ,;、和")
        name = before or name
        numbers = tuple(Number.at(match[at], match.span(at)) for at in range(2, 6))
        places.append(Tagged(numbers, None, name or "", match.span(), image))
    return TagsFound(tuple(places), "pairs" if places else "", read=tuple(place.span for place in places))


def _boxes(text: str) -> TagsFound:
    places: list[Tagged] = []
    codes: list[str] = []
    read: list[Span] = []
    image: Image | None = None
    label: str | None = None
    waiting = False  # a reference that no box has followed yet
    opened: tuple[str, int, int] | None = None  # name of a tag, where it begins and ends
    grammar, reach = "", 0
    before = ""
    for tag in _TAG.finditer(text):
        modern = tag[1] is not None
        name = (tag[1] or tag[4]).casefold()
        closes = tag[2] == "end" if modern else tag[3] == "/"
        grammar = grammar or ("tags_v2" if modern else "tags_v1")
        if opened:
            # A tag that follows another without its end closes it as well.
            inner = text[opened[2] : tag.start()]
            read.append((opened[1], tag.end() if closes else tag.start()))
            if not closes or name != opened[0]:
                codes.append("tags")
            if opened[0] in ("ref", "object_ref"):
                codes += ["tags"] if waiting or len(inner) > 200 or _IN_NAME.search(inner) else []
                label, waiting = inner[:200], True
                before = ""
            else:
                place = Tagged((), label, before, read[-1], image)
                found = _in_tag(opened[0], inner, place, opened[2], codes)
                places += found
                waiting, before = waiting and not found, ""
            opened = None
            reach = tag.end() if closes else tag.start()
        elif closes:
            codes.append("tags")
        if not closes:
            words = text[reach : tag.start()]
            image = (image_in(words) if words else None) or image
            if places and _corrects(words):
                places.clear()
                codes.append("corrected")
            if waiting and name not in ("ref", "object_ref") and label and has_content(words):
                # Words between a reference and its box say something of it: 'is not here'.
                label, before, waiting = None, f"{label}{words}", False
                codes.append("prose")
            elif name not in ("ref", "object_ref") and not waiting and words and not words.isspace():
                words = _TAG.sub(" ", words)
                before = words.rpartition("\n")[2] or words.strip().rpartition("\n")[2]
                if has_content(before):
                    # These words, and no longer the reference before the last box, name what comes.
                    label = None
            opened = (name, tag.start(), tag.end())
            reach = tag.end()
    cut = opened is not None or _TAG_CUT.search(text, max(0, len(text) - 2000)) is not None
    if opened and opened[0] not in ("ref", "object_ref"):
        # At the end of the text a box counts only where all its brackets are closed.
        inner = text[opened[2] :]
        if inner.count("(") == inner.count(")") == (4 if opened[0] == "quad" else 2):
            place = Tagged((), label, before, (opened[1], len(text)), image)
            places += _in_tag(opened[0], inner, place, opened[2], codes)
            waiting = False
    if opened:
        read.append((opened[1], len(text)))
    if waiting and not cut:
        codes.append("tags")
        if places and places[0].label is None and not places[0].before:
            places = _named_behind(places, label)
    elif places and not any(place.label for place in places):
        places = _described_behind(text, places)
    return TagsFound(tuple(places), grammar, cut, tuple(codes), tuple(read))


def _corrects(words: str) -> bool:
    """True where a sentence between two places begins with words that take back those before it."""
    return any(CORRECTS.match(part.lstrip(" \t\"'*_(-")) for part in re.split(r"[.!?\n。！？]", words[-400:]))


def _named_behind(places: list[Tagged], last: str | None) -> list[Tagged]:
    """Places whose references stand behind them: each takes the next one."""
    named, following = [], last
    for place in reversed(places):
        named.append(replace(place, label=following))
        following = place.label or following
    return named[::-1]


def _described_behind(text: str, places: list[Tagged]) -> list[Tagged]:
    """Places with words behind each of them instead of before."""
    ends = [0, *(place.span[1] for place in places)]
    between = [text[end : place.span[0]] for end, place in zip(ends, places, strict=False)]
    words = named_behind(between, text[ends[-1] :])
    return [replace(place, before=word) for place, word in zip(places, words, strict=True)] if words else places


def _in_tag(name: str, inner: str, place: Tagged, start: int, codes: list[str]) -> list[Tagged]:
    """The places in one tag, usually one; what is not as the families write it is added to `codes`."""

    def at(*numbers: float) -> Tagged:
        return replace(place, numbers=numbers)

    if _PLAIN[name == "point"].fullmatch(inner):
        return [at(*_numbers(inner, start))]
    rows = [_numbers(row[0], start + row.start()) for row in _ROW.finditer(inner[:2000])]
    if len(rows) > 1 and all(len(row) == 4 for row in rows) and not _ROW.sub("", inner).strip(" \t\r\n,;[]"):
        codes.append("nested")
        return [at(*row) for row in rows]
    numbers = _numbers(inner[:2000], start)
    if name == "quad" and len(numbers) == 8:
        codes += [] if _QUAD.fullmatch(inner) else ["numbers"]
        xs, ys = numbers[::2], numbers[1::2]
        return [at(min(xs), min(ys), max(xs), max(ys))]
    codes += ["numbers"] if numbers and len(numbers) % 4 == 0 else []
    boxes = [numbers[k : k + 4] for k in range(0, len(numbers), 4)]
    if len(boxes) > 1 and all(len(box) == 4 and box[0] < box[2] and box[1] < box[3] for box in boxes):
        # Several boxes in one tag, each from its upper left to its lower right corner.
        return [at(*box) for box in boxes]
    if _STRANGE.search(_NUMBERS.sub("", inner)):
        # Characters among the numbers: one of them may be damaged.
        return [at()]
    return [at(*numbers)]


def _numbers(text: str, start: int) -> list[float]:
    return [Number.at(match[0], (start + match.start(), start + match.end())) for match in _NUMBERS.finditer(text)]


def _xml_points(text: str) -> TagsFound:
    places: list[Tagged] = []
    read: list[Span] = []
    cut = False
    for element in _XML.finditer(text):
        axes: dict[str, dict[str, float]] = {}
        for each in _XML_NUMBER.finditer(text, *element.span(1)):
            group = 3 if each[3] else 4
            axes.setdefault(each[2], {})[each[1].casefold()] = Number.at(each[group], each.span(group))
        named = _XML_NAME.search(element[1])
        end = _XML_END.match(text, element.end())
        if not end and element[2] != "/>":
            cut = cut or text.find("<", element.end()) < 0
            if not named:
                continue
        label = named[1] if named else end[1] if end else None
        image = image_in(text[read[-1][1] if read else 0 : element.start()])
        image = image or (places[-1].image if places else None)
        read.append((element.start(), (end or element).end()))
        for place in axes.values():
            numbers = tuple(place[axis] for axis in "xy" if axis in place)
            places.append(Tagged(numbers, label, span=read[-1], image=image))
    cut = cut or re.search(r"<points?\b[^<>]*\Z", text[-2000:], re.IGNORECASE) is not None
    return TagsFound(tuple(places), "xml" if places else "", cut, read=tuple(read))
