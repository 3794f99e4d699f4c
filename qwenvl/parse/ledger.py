"""The one account of an answer: what of its text no reader's spans cover, and what that means."""

from __future__ import annotations

import re
from collections.abc import Iterable

from qwenvl.parse.boxes.labels import mentioned
from qwenvl.parse.spans import Span

FENCE = "```"
_WORDS = re.compile(r"[^\W_]")
_FENCES = re.compile(r"```(?:json\w?|\w{0,12}(?=\s|\Z))")
_JSON_MARKS = re.compile(r"[\s\[\],]*+")
_PLACES = re.compile(r"[0-9]|[\[{]\s*[\"'{\[]|<\|?(?:box|ref|object_ref|quad|point)")
_TAG_MARKS = re.compile(r"[\d<>\[\](){}|\"“”]|\b(?:b?box|ref|quad|object_ref)\b", re.IGNORECASE)


def left_over(text: str, spans: Iterable[Span]) -> str:
    """The characters of `text` that no span covers. Spans may overlap."""
    parts, reach = [], 0
    for start, end in sorted(spans):
        if start > reach:
            parts.append(text[reach:start])
        if end > reach:
            reach = end
    parts.append(text[reach:])
    return "".join(parts)


def blanked(text: str, spans: Iterable[Span]) -> str:
    """`text` with blanks in place of these spans, which are in order and do not overlap."""
    parts, reach = [], 0
    for start, end in spans:
        parts += [text[reach:start], " " * (end - start)]
        reach = end
    return "".join((*parts, text[reach:]))


def has_words(left: str) -> bool:
    """True where letters or digits are left."""
    return _WORDS.search(left) is not None


def json_note(left: str) -> str | None:
    """What stands outside of all JSON values: 'prose', 'brackets', 'leftover'; None for separators and fences."""
    if not left or left.isspace():
        return None
    if has_words(left):
        return "prose"
    if any(bracket in left for bracket in "[]{}"):
        return "brackets"
    return "leftover" if left.replace(FENCE, "").strip(" \t\r\n,") else None


def tags_note(left: str, labels: tuple[str, ...]) -> str | None:
    """'leftover' for numbers, brackets, quotes and pieces of tags outside of all tags, 'prose' for asked labels."""
    if _TAG_MARKS.search(left):
        return "leftover"
    return "prose" if left and mentioned(left[:4000], labels) else None


def holds_places(left: str) -> bool:
    """True where what stands behind the end of an answer could be objects."""
    return _PLACES.search(left) is not None


def accounted(text: str, objects: Iterable[Span]) -> bool:
    """True where the objects at these spans are all that an answer in JSON holds: nothing but marks is around them."""
    left = left_over(text, objects)
    return _JSON_MARKS.fullmatch(_FENCES.sub("", left) if FENCE in left else left) is not None
