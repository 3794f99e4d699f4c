"""Every JSON value in a model's text, in order: fenced, in prose, line by line, or damaged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qwenvl.parse._lenient import CutDict, CutList, LenientReader
from qwenvl.parse._strict import read_strict

_FENCE = "```"
_LANGUAGE = re.compile(r"[ \t]*+[A-Za-z0-9_+-]{0,12}[ \t]*+(?:\r?\n|(?=[\[{])|\Z)")
_START = re.compile(
    r"[\[［](?=\s*+(?:[\[{(\]\"'“”‘’\-+<0-9．.［｛（］＂＇０-９-]|[^\W\d]\w{0,30}[\"'”’]?\s*+[:：]|\Z))"
    r"|[{｛](?=\s*+(?:[\"'“”‘’{}<\[(］［｛｝＂＇]|\\[\"']|[^\W\d][\w \-]{0,40}\s*+[:：=]|\Z))"
)
_HEADLESS = re.compile(r"\s*+[\"'“][^\W\d][\w \-]{0,40}[\"'”]\s*+[:：]")
_ESCAPED = re.compile(r"[\[{,]\s*+\\+[\"']")
_WORDS = re.compile(r"[^\W_]")
_CORRECTS = re.compile(
    r"\b(?:wait|actually|correction|corrected|mistake|error|apologi[sz]e|on second thought|scratch that|strike that"
    r"|let me (?:correct|redo|fix|revise|re-?check|re-?do|re-?examine)|revised|final answer|should be)\b"
    r"|更正|修正|纠正|改正|更新后|不对|应该是|应为|最终答案",
    re.IGNORECASE,
)
_LANGUAGES = frozenset(("", "json", "jsonl", "json5", "jsonc", "ndjson", "javascript", "js", "python", "py", "text",
                        "txt", "plaintext", "xml", "html", "yaml", "yml", "markdown", "md", "plain"))  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class Found:
    """The values of one text."""

    values: tuple[Value, ...] = ()
    codes: tuple[str, ...] = ()
    cut: bool = False
    """The text ended inside the last value."""
    alone: bool = False
    """Nothing but values stood there."""


def find_values(text: str) -> Found:
    """All lists and dicts that `text` writes, at top level, in order.

    Tried in turn: the text as one strict JSON value; the contents of all its code fences; a scan over the
    text that reads a value at every opening bracket, strictly where that works and leniently where not. JSON
    Lines, several lists and values amid prose all come out of the scan. Each character is read a bounded
    number of times.
    """
    stripped = text.strip()
    whole = read_strict(stripped)
    if whole and whole[1] == len(stripped):
        value = whole[0]
        if isinstance(value, str) and ("[" in value or "{" in value):
            inner = find_values(value) if not value.lstrip().startswith('"') else Found()
            return Found(inner.values, ("escaped", *inner.codes), inner.cut, inner.alone)
        return Found((Value(value),), alone=True)
    if _FENCE in stripped:
        found = _fenced(stripped)
        if found.values:
            return found
    return _scan(stripped)


def _fenced(text: str) -> Found:
    blocks: list[tuple[str, str]] = []
    outside, position = [], 0
    while (opening := text.find(_FENCE, position)) >= 0:
        outside.append(text[position:opening])
        start = opening + len(_FENCE)
        language = _LANGUAGE.match(text, start)
        if language:
            start = language.end()
            if language[0].strip().casefold() not in _LANGUAGES:
                outside[-1] += f"\n{language[0].strip()}"
        closing = text.find(_FENCE, start)
        stop = len(text) if closing < 0 else closing
        blocks.append((text[start:stop], outside[-1]))
        position = len(text) if closing < 0 else closing + len(_FENCE)
    outside.append(text[position:])
    scanned = [_scan(block, lead) for block, lead in blocks]
    found = [part for part in scanned if part.values]
    codes = [code for part in found for code in part.codes] + ["fence"]
    lost = [block for (block, _), part in zip(blocks, scanned, strict=True) if not part.values]
    if len(found) > 1:
        codes.append("merged")
    between = "".join((*outside, *lost))
    prose = _WORDS.search(between) is not None
    if prose:
        codes.append("prose")
    elif found and between.strip(" \t\r\n"):
        codes.append("leftover")
    return Found(
        tuple(value for part in found for value in part.values),
        tuple(codes),
        any(part.cut for part in found),
        alone=not prose and all(part.alone for part in found),
    )


def _scan(text: str, lead: str = "") -> Found:
    """The values of one stretch of text, `lead` being the words that stand before it."""
    codes: list[str] = []
    if _HEADLESS.match(text):
        text, codes = "{" + text, ["brackets"]
    if _ESCAPED.search(text) and not read_strict(text):
        text = text.replace('\\"', '"').replace("\\'", "'")
        codes.append("escaped")
    values: list[Value] = []
    outside: list[str] = []
    reader: LenientReader | None = None
    position, cut, failures = 0, False, 0
    for start in _starts(text):
        if start < position:
            continue
        if len(values) >= _MAX_VALUES:
            cut = True
            break
        strict = read_strict(text, start) if failures < _STRICT_FAILURES else None
        if strict:
            value, end = strict
        else:
            failures += 1
            reader = reader or LenientReader(text)
            known = len(reader.codes)
            value, end = reader.read(start)
            unclosed = isinstance(value, (CutList, CutDict))
            cut = cut or unclosed
            if not unclosed and len(reader.codes) == known and failures <= _STRICT_FAILURES:
                reader.codes.append("syntax")
        outside.append(text[position:start])
        before = outside[-1] if values else lead + outside[-1]
        values.append(Value(value, _heading(before), bool(before) and _CORRECTS.search(before) is not None))
        position = end
    outside.append(text[position:])
    codes += reader.codes if reader else []
    between = "".join(outside)
    prose = _WORDS.search(between) is not None
    if prose:
        codes.append("prose")
    elif any(bracket in between for bracket in "[]{}"):
        codes.append("brackets")
    elif values and between.replace("```", "").strip(" \t\r\n,"):
        codes.append("leftover")
    if len(values) > 1:
        codes.append("lines" if all(isinstance(item.value, dict) for item in values) else "merged")
    elif "```" in between:
        codes.append("fence_open")
    return Found(tuple(values), tuple(codes), cut, alone=not prose)


def _heading(before: str) -> str:
    """The last line that holds words."""
    if not before or before.isspace():
        return ""
    lines = [line for line in before[-400:].splitlines() if _WORDS.search(line)]
    return lines[-1].rstrip(" \t\r\n,;[{(`") if lines else ""


def _starts(text: str) -> Iterator[int]:
    return (match.start() for match in _START.finditer(text))
