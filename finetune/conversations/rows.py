"""Rows of a file of conversations: JSON, JSON lines, or objects one after the other in any layout."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import LabelFileError

_SPACE = " \t\r\n"
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_rows(path: Path) -> Iterator[tuple[str, object]]:
    """Every row with words for its place, a ValueError in place of one that is no JSON.

    A list is one JSON value: where it is broken, nothing of it is used. Of objects one after the other a broken one
    ends where the next line begins with an object.

    Raises
    ------
    LabelFileError
        The file cannot be read, or is a list that is no JSON.
    """
    try:
        data = path.read_bytes()
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        # Bytes that are no text make their own row fail, not the file.
        text = data.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "strict")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelFileError(f"{path} cannot be read: {error}") from error
    start = _skipped(text, 0)
    if text[start : start + 1] == "[":
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LabelFileError(f"{path} is neither JSON nor JSONL: {error}") from error
        yield from ((f"{path.name} row {number}", row) for number, row in enumerate(rows))
        return
    decoder, number = json.JSONDecoder(), 0
    while start < len(text):
        line = text.count("\n", 0, start) + 1 if number < 1000 else None
        where = f"{path.name} row {number}" + (f" (line {line})" if line else "")
        try:
            row, end = decoder.raw_decode(text, start)
            rest = text[end : _line_end(text, end)].strip(_SPACE + ",")
            if rest and not rest.startswith("{"):
                raise ValueError(f"{rest[:40]!a} behind its end")
            yield where, row
        except (ValueError, RecursionError) as error:
            yield where, ValueError(f"is no JSON: {error}")
            end = _next_object(text, start)
        number += 1
        start = _skipped(text, end)


def _skipped(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE + ",":
        at += 1
    return at


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found


def _next_object(text: str, at: int) -> int:
    """Start of the next line that begins with an object."""
    while (at := text.find("\n", at)) >= 0:
        at += 1
        if text.startswith("{", at):
            return at
    return len(text)
