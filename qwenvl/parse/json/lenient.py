"""A reader of JSON as language models write it: one pass, an explicit stack, no recursion.

It reads single, curly and full-width quotes and punctuation, missing and doubled commas, missing and
mismatched brackets, bare words, leading zeros, comments, unescaped inner quotes and Python literals. What the
text ends inside of is marked (`CutList`, `CutDict`), never completed.
"""

from __future__ import annotations

import re
from typing import Any

from qwenvl.parse.json.lenient_strings import read_key, read_quoted, straightened
from qwenvl.parse.json.strict import BOX, MAX_DEPTH, box_of, number_as_written, object_of, parts_of
from qwenvl.parse.spans import CutDict, CutList, Items, Span, written_as

_GAP = re.compile(r"(?:[\s,;、\\]++|//[^\n]*+|/\*[^*]{0,500}+\*/)*+")
_SPACE = re.compile(r"[\s\\]*+")
_NUMBER = re.compile(
    r"([-+]?)(0*+)((?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)?(?:[eE][-+]?[0-9]{1,4})?)(?=[\s,;、:\[\](){}\"'<]|\Z)"
)
_WORD = re.compile(r"[^\s,;、:\[\](){}\"'<]++(?:[ \t]++[^\s,;、:\[\](){}\"'<]++)*+")
_TAGGED_BOX = re.compile(
    r"<\|?(?:box|quad|point)(?:_start)?\|?>\s*+(?:\([^()<]{0,80}+\)\s*+,?\s*+){1,4}(?:</?[^<>]{0,24}+>)?"
)
_KEY_FOLLOWS = re.compile(r"\s*+,\s*+[\"'][^\W\d][\w \-]{0,48}[\"']\s*+:")
_LITERALS = {
    "true": True,
    "false": False,
    "null": None,
    "none": None,
    "nan": None,
    "undefined": None,
    "inf": None,
    "infinity": None,
    "-inf": None,
    "-infinity": None,
    "-nan": None,
}
_CLOSERS = {"]": "[", ")": "[", "}": "{"}


class _Frame:
    """One open container from `start` on: `key` is the dict key whose value is awaited."""

    __slots__ = ("items", "key", "pairs", "spans", "start")

    def __init__(self, is_dict: bool, start: int) -> None:
        self.items: list[Any] | None = None if is_dict else []
        self.pairs: list[tuple[str, object]] = []
        self.key: str | None = None
        self.start = start
        self.spans: list[Span] = []

    def put(self, value: object, span: Span) -> None:
        self.spans.append(span)
        if self.items is None:
            self.pairs.append((self.key or "", value))
            self.key = None
        else:
            self.items.append(value)

    def closed(self, end: int) -> object:
        if self.items is not None:
            return written_as(Items, self.items, (self.start, end), self.spans)
        if self.key is not None:
            self.put(None, (end, end))
        return object_of(self.pairs, (self.start, end), self.spans)

    def cut(self, end: int) -> Any:
        span = (self.start, end)
        if self.items is not None:
            return written_as(CutList, self.items, span, self.spans)
        *finished, last = parts_of(self.pairs, span, self.spans)
        open_one = written_as(CutDict, last.items(), span, last.spans)
        if not finished:
            return open_one
        return written_as(CutList, [*finished, open_one], span, [span] * (len(finished) + 1))

    def __len__(self) -> int:
        return len(self.pairs) if self.items is None else len(self.items)


class LenientReader:
    """Reads values out of one text.

    Parameters
    ----------
    text : str
        The model's text.
    """

    def __init__(self, text: str) -> None:
        self.original = text
        self.text = straightened(text)
        self.codes: list[str] = []
        self._stack: list[_Frame] = []
        self._position = 0

    def read(self, start: int) -> tuple[Any, int]:
        """The list or dict that opens at `start`, and where it ends. What was mended is added to `codes`."""
        self._stack = [_Frame(self.text[start] == "{", start)]
        self._position = start + 1
        text, size = self.text, len(self.text)
        while True:
            before = self._position
            position = _end(_GAP, text, before)
            comma = position > before and text.find(",", before, position) >= 0
            if comma and self.original.find(",", before, position) < 0:
                self.codes.append("punctuation")
            self._position = position
            if position >= size:
                return self._unfinished()
            character = text[position]
            if character in _CLOSERS:
                if comma:
                    self.codes.append("commas")
                done = self._close(_CLOSERS[character])
                if done is not None:
                    return done[0], self._position
                continue
            frame = self._stack[-1]
            if comma != (len(frame) > 0):
                self.codes.append("commas")
            if frame.items is None and frame.key is None:
                if not self._key(character):
                    # An object opens where a key was expected: the one before was never closed.
                    self.codes.append("brackets")
                    done = self._pop()
                    if done is not None:
                        return done[0], self._position
                    continue
                if self._stack[-1].key is None:
                    continue
                self._position = _end(_SPACE, text, self._position)
                if self._position >= size:
                    return self._unfinished()
                character = text[self._position]
                if character in ",;、}])":
                    self._stack[-1].put(None, (self._position, self._position))
                    continue
            if not self._value(character):
                return self._unfinished()

    def _pop(self) -> tuple[object] | None:
        """Close the innermost container; a 1-tuple of it where it was the outermost."""
        frame = self._stack.pop()
        value = frame.closed(self._position)
        if not self._stack:
            return (value,)
        self._stack[-1].put(value, (frame.start, self._position))
        return None

    def _close(self, opener: str) -> tuple[object] | None:
        """Handle a closing bracket: close up to its opener; skip it where nothing of its kind is open."""
        self._position += 1
        wants_dict = opener == "{"
        in_dict = self._stack[-1].items is None
        if in_dict and not wants_dict and _KEY_FOLLOWS.match(self.text, self._position):
            self.codes.append("brackets")
            return None
        if not any((frame.items is None) == wants_dict for frame in self._stack):
            self.codes.append("brackets")
            # A lone object is ended by the wrong bracket too; a lone array goes on, for more may follow.
            return self._pop() if len(self._stack) == 1 and in_dict else None
        while (self._stack[-1].items is None) != wants_dict:
            self.codes.append("brackets")
            done = self._pop()
            if done is not None:
                return done
        return self._pop()

    def _unfinished(self) -> tuple[object, int]:
        end = len(self.text)
        inner = self._stack.pop()
        value: Any = inner.cut(end)
        while self._stack:
            frame = self._stack.pop()
            frame.put(value, (inner.start, end))
            inner, value = frame, frame.cut(end)
        return value, end

    def _key(self, character: str) -> bool:
        """Read a key and its colon into the innermost dict; False where an object opens in its place."""
        frame, position = self._stack[-1], self._position
        if character == "{":
            if frame.pairs:
                return False
            self.codes.append("brackets")
            self._position += 1
        elif character == "[" or character == "(":
            frame.key = ""
            self.codes.append("syntax")
        else:
            frame.key, self._position, codes = read_key(self.text, self.original, position)
            self.codes.extend(codes)
        return True

    def _value(self, character: str) -> bool:
        """Read one value at the position; False where the text ends inside it."""
        text, position, frame = self.text, self._position, self._stack[-1]
        if character == "[" and (box := BOX.match(text, position)):
            self._position = box.end()
            frame.put(box_of(box), box.span())
            if self.original is not self.text and self.original[position : box.end()] != box[0]:
                self.codes.append("punctuation")
        elif character in "[{(":
            if len(self._stack) >= MAX_DEPTH:
                self.codes.append("depth")
                return False
            self._stack.append(_Frame(character == "{", position))
            self._position += 1
            if self.original[position] != character:
                self.codes.append("punctuation")
        elif character in "\"'":
            in_list = frame.items is not None
            value, end, codes = read_quoted(self.text, self.original, position, in_list=in_list)
            self.codes.extend(codes)
            if value is None:
                return False
            self._position = end
            self._put_or_key(value, position)
        elif (number := _NUMBER.match(self.text, position)) and (number[2] or number[3][:1] not in "eE"):
            self._position = number.end()
            sign, zeros, digits = number.groups()
            if len(zeros) > 1 or (zeros and digits[:1].isdigit()) or sign == "+":
                self.codes.append("numbers")
            leading = "0" if not digits or digits[0] in ".eE" else ""
            frame.put(number_as_written(("-" if sign == "-" else "") + leading + digits), number.span())
        elif box := _TAGGED_BOX.match(self.text, position):
            self.codes.append("syntax")
            self._position = box.end()
            frame.put(box[0], box.span())
        elif word := _WORD.match(self.text, position):
            self._position = word.end()
            spoken = self.original[position : word.end()].strip()
            if spoken.startswith(("...", "…")):
                self.codes.append("ellipsis")
                return True
            if spoken not in ("true", "false", "null"):
                self.codes.append("words")
            self._put_or_key(_LITERALS.get(spoken.casefold(), spoken), position)
        else:
            self.codes.append("syntax")
            self._position += 1
        return True

    def _put_or_key(self, value: object, start: int) -> None:
        """Put a value; in an array, text before a colon is a key whose bracket or brace is missing."""
        frame = self._stack[-1]
        end = _end(_SPACE, self.text, self._position)
        if frame.items is None or self.text[end : end + 1] != ":" or not isinstance(value, str):
            frame.put(value, (start, self._position))
            return
        self.codes.append("brackets")
        self._position = end + 1
        if len(self._stack) > 1 and self._stack[-2].items is None:
            self._pop()
        else:
            self._stack.append(_Frame(True, start))
        self._stack[-1].key = value


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position
