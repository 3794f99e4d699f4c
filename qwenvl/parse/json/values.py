"""Every JSON value in a model's text, in order: fenced, in prose, line by line, or damaged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qwenvl.parse.boxes.images import Image, image_in
from qwenvl.parse.boxes.names import named_behind
from qwenvl.parse.boxes.tables import find_tables
from qwenvl.parse.json.lenient import LenientReader
from qwenvl.parse.json.strict import read_strict
from qwenvl.parse.ledger import FENCE, blanked, has_words, json_note, left_over
from qwenvl.parse.notes import CORRECTS
from qwenvl.parse.spans import CutDict, CutList, Origin, Span, behind

_LANGUAGE = re.compile(r"[ \t]*+[A-Za-z0-9_+-]{0,12}[ \t]*+(?:\r?\n|(?=[\[{])|\Z)")
_START = re.compile(
    r"[\[［](?=\s*+(?:[\[{(\]\"'“”‘’\-+<0-9．.［｛（］＂＇０-９-]|[^\W\d]\w{0,30}[\"'”’]?\s*+[:：]|\Z))"
    r"|[{｛](?=\s*+(?:[\"'“”‘’{}<\[(］［｛｝＂＇]|\\[\"']|[^\W\d][\w \-]{0,40}\s*+[:：=]|\Z))"
)
_HEADLESS = re.compile(r"\s*+[\"'“][^\W\d][\w \-]{0,40}[\"'”]\s*+[:：]")
_ESCAPED = re.compile(r"[\[{,]\s*+\\+[\"']")
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL)
_LANGUAGES = frozenset(
    (
        "",
        "json",
        "jsonl",
        "json5",
        "jsonc",
        "ndjson",
        "javascript",
        "js",
        "python",
        "py",
        "text",
        "txt",
        "plaintext",
        "xml",
        "html",
        "yaml",
        "yml",
        "markdown",
        "md",
        "plain",
    )
)


_MAX_VALUES = 4096
"""Values that are read of one text; whatever follows counts as cut off."""
_STRICT_FAILURES = 16
"""Failures after which the rest is read leniently: the standard library counts lines anew for each of them."""


@dataclass(frozen=True, slots=True)
class Value:
    """One JSON value and the words right before it."""

    value: Any
    before: str = ""
    """The last line of words between the value before this one and this one: its heading."""
    corrects: bool = False
    """The words before it take back what stands before them."""
    image: Image | None = None
    """The image that the words before it name."""
    origin: Origin = 0
    """Where the stretch of text comes from that the value's spans count in."""


@dataclass(frozen=True, slots=True)
class FoundValue:
    """The values of one text."""

    values: tuple[Value, ...] = ()
    codes: tuple[str, ...] = ()
    cut: bool = False
    """The text ended inside the last value."""
    whole: Any = None
    """The one JSON value, plain ones included, that the text is and nothing else."""


def find_values(text: str, origin: Origin = 0) -> FoundValue:
    """All lists and dicts that `text` writes, at top level, in order.

    Tried in turn: the text as one strict JSON value; the contents of all its code fences; a scan over the
    text that reads a value at every opening bracket, strictly where that works and leniently where not. JSON
    Lines, several lists, Markdown tables and values amid prose all come out of the scan. Each character is read a
    bounded number of times.

    Parameters
    ----------
    text : str
    origin : int or sequence of int
        Where it comes from; the values carry it on.
    """
    stripped = text.strip()
    origin = behind(origin, len(text) - len(text.lstrip()))
    whole = read_strict(stripped)
    if whole and whole[1] == len(stripped):
        value = whole[0]
        if isinstance(value, str) and ("[" in value or "{" in value):
            inner = FoundValue()
            if not value.lstrip().startswith('"'):
                inner = find_values(value, _inside(stripped, value, origin))
            return FoundValue(inner.values, ("escaped", *inner.codes), inner.cut, value)
        return FoundValue((Value(value, origin=origin),), whole=value)
    if FENCE in stripped:
        found = _fenced(stripped, origin)
        if found.values:
            return found
    return _scan(stripped, "", origin)


def _inside(text: str, value: str, origin: Origin) -> Origin:
    """Where each character of a string's value stands; the whole string for each where that is not plain."""
    starts = [match.start() for match in _ESCAPE.finditer(text, 1, len(text) - 1)]
    if len(starts) != len(value):
        starts = [0] * len(value)
    return [at + origin if isinstance(origin, int) else origin[at] for at in starts]


def _fenced(text: str, origin: Origin) -> FoundValue:
    blocks: list[tuple[int, int, str]] = []
    covered: list[Span] = []
    position = 0
    while (opening := text.find(FENCE, position)) >= 0:
        lead = text[position:opening]
        start = opening + len(FENCE)
        language = _LANGUAGE.match(text, start)
        known = not language or language[0].strip().casefold() in _LANGUAGES
        covered.append((opening, language.end() if language and known else start))
        if language:
            start = language.end()
            lead += "" if known else f"\n{language[0].strip()}"
        closing = text.find(FENCE, start)
        stop = len(text) if closing < 0 else closing
        blocks.append((start, stop, lead))
        position = len(text) if closing < 0 else closing + len(FENCE)
        covered.append((stop, position))
    scanned = [_scan(text[start:stop], lead, behind(origin, start)) for start, stop, lead in blocks]
    found = [part for part in scanned if part.values]
    covered += [(start, stop) for (start, stop, _), part in zip(blocks, scanned, strict=True) if part.values]
    codes = [code for part in found for code in part.codes] + ["fence"]
    if len(found) > 1:
        codes.append("merged")
    left = left_over(text, covered)
    if note := json_note(left):
        codes.append("prose" if note == "prose" else "leftover")
    return FoundValue(
        tuple(value for part in found for value in part.values), tuple(codes), any(part.cut for part in found)
    )


def _scan(text: str, lead: str, origin: Origin) -> FoundValue:
    """The values of one stretch of text, `lead` being the words that stand before it."""
    codes: list[str] = []
    if _HEADLESS.match(text):
        text, codes = "{" + text, ["brackets"]
        places = range(origin, origin + len(text) - 1) if isinstance(origin, int) else origin
        origin = [places[0], *places]
    if _ESCAPED.search(text) and not read_strict(text):
        kept = [at for at, mark in enumerate(text) if mark != "\\" or text[at + 1 : at + 2] not in ("'", '"')]
        origin = [at + origin for at in kept] if isinstance(origin, int) else [origin[at] for at in kept]
        text = "".join(text[at] for at in kept)
        codes.append("escaped")
    values, cut, read_codes = _read_all(text)
    outside: list[Value] = []
    ends = [0, *(end for _, end, _ in values)]
    between = [text[last:start] for last, (start, _, _) in zip(ends, values, strict=False)]
    tail = text[ends[-1] :]
    behind_each = named_behind([lead + between[0], *between[1:]], tail) if values and not tail.isspace() else None
    for index, (_, _, value) in enumerate(values):
        before = between[index] if index else lead + between[index]
        corrects = bool(before) and CORRECTS.search(before) is not None
        heading = behind_each[index] if behind_each else _heading(before)
        outside.append(Value(value, heading, corrects, image_in(before), origin))
    codes += read_codes
    left = left_over(text, [(start, end) for start, end, _ in values])
    note = json_note(left)
    if note and (values or note != "leftover"):
        codes.append(note)
    if len(values) > 1:
        codes.append("lines" if all(isinstance(value, dict) for _, _, value in values) else "merged")
    elif FENCE in left:
        codes.append("fence_open")
    return FoundValue(tuple(outside), tuple(codes), cut)


def _read_all(text: str) -> tuple[list[tuple[int, int, Any]], bool, list[str]]:
    """Start, end and value of all that is read in a stretch; whether it ended inside the last; codes."""
    values = find_tables(text) if "|" in text else []
    codes = ["table"] * bool(values)
    cut = any(isinstance(row, CutDict) for _, _, table in values for row in table)
    if values:
        text = blanked(text, [(start, end) for start, end, _ in values])
    reader: LenientReader | None = None
    position, failures = 0, 0
    for start in _starts(text):
        if start < position:
            continue
        if len(values) >= _MAX_VALUES:
            cut = True
            break
        strict = read_strict(text, start) if failures < _STRICT_FAILURES else None
        if strict:
            value, position = strict
        else:
            failures += 1
            reader = reader or LenientReader(text)
            known = len(reader.codes)
            value, position = reader.read(start)
            unclosed = isinstance(value, (CutList, CutDict))
            cut = cut or unclosed
            if not unclosed and len(reader.codes) == known and failures <= _STRICT_FAILURES:
                reader.codes.append("syntax")
        values.append((start, position, value))
    values.sort(key=lambda entry: entry[0])
    return values, cut, codes + (reader.codes if reader else [])


def _heading(before: str) -> str:
    """The last line that holds words."""
    if not before or before.isspace():
        return ""
    lines = [line for line in before[-400:].splitlines() if has_words(line)]
    return lines[-1].rstrip(" \t\r\n,;[{(`") if lines else ""


def _starts(text: str) -> Iterator[int]:
    return (match.start() for match in _START.finditer(text))
