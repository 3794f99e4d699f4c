"""The number that a text states."""

from __future__ import annotations

import re

from qwenvl.parse.boxes.labels import mentioned
from qwenvl.parse.text.words import READ, is_negative, straight

MAX_COUNT = 1_000_000
"""Largest count of one tile that is believed."""

_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
)
_VALUES = {word: number for number, word in enumerate(_WORDS)} | {"none": 0, "no": 0, "single": 1}
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]{1,12})"
_SPELLED = "|".join(_WORDS)
_NUMBER = rf"(?:{_DIGITS}|\b(?:{_SPELLED})\b)"
_NUMBER_OR_NONE = rf"(?:{_DIGITS}|\b(?:{_SPELLED}|none|no|single)\b)"
_NO_MORE = r"(?![0-9]|[.,][0-9]|%)"
_WHOLE = re.compile(rf"({_NUMBER_OR_NONE})(?:\.0+)?", re.IGNORECASE)
_FIRST = re.compile(rf"(?<![0-9.,\-])(?<!no )({_NUMBER}){_NO_MORE}(?! of the\b)", re.IGNORECASE)
_ANNOUNCED = re.compile(
    r"(?:\b(?:there (?:are|is|were)|total(?: of| is)?|count(?:ed| is)?|answer(?: is)?)|=)\s*:?\s*"
    rf"(?:about |around |approximately |roughly |exactly |a total of )?[\"'*:]*\s*({_NUMBER}){_NO_MORE}",
    re.IGNORECASE,
)
_RANGE = re.compile(
    rf"{_DIGITS}\s*(?:-|–|to|~)\s*{_DIGITS}|\b(?:between|more than|at least|less than|fewer than)\b", re.IGNORECASE
)
_BEFORE = re.compile(rf"({_NUMBER_OR_NONE})\s*(?:[a-z]{{1,20}}\s+)?[\"'*]*$", re.IGNORECASE)
_AFTER = re.compile(rf"[\"'*]*\s*[:=]\s*[\"'*]*({_NUMBER_OR_NONE}){_NO_MORE}", re.IGNORECASE)


def number_in(text: str, labels: tuple[str, ...]) -> tuple[int | None, tuple[str, ...]]:
    """The count that a text states, and codes.

    A text that is one number (digits, an English word up to twenty, 'none') is taken as it is. Amid prose, a
    clear negative is 0; the numbers beside each of several labels are added up; otherwise the number after
    'there are', 'total' or the like is taken, or else the first one. Digits inside a label do not count.
    """
    plain = " ".join(straight(text[:READ]).split()).strip("*_`\"' .!。")
    whole = _WHOLE.fullmatch(plain)
    if whole:
        return _value(whole[1]), ()
    if is_negative(text, labels):
        return 0, ("prose",)
    spans = mentioned(plain, labels)
    masked = plain
    for start, end, _ in spans:
        masked = masked[:start] + "#" * (end - start) + masked[end:]
    codes = ("prose", "range") if _RANGE.search(masked) else ("prose",)
    if len({label for _, _, label in spans}) > 1:
        numbers = [_beside(masked, start, end) for start, end, _ in spans]
        if None not in numbers and len(spans) == len({label for _, _, label in spans}):
            total = sum(number for number in numbers if number is not None)
            return (total if total <= MAX_COUNT else None), (*codes, "summed")
    match = _ANNOUNCED.search(masked) or _FIRST.search(masked)
    return (_value(match[1]) if match else None), codes


def _beside(text: str, start: int, end: int) -> int | None:
    match = _AFTER.match(text, end) or _BEFORE.search(text[max(0, start - 40) : start])
    return _value(match[1]) if match else None


def _value(written: str) -> int | None:
    number = _VALUES.get(written.casefold())
    number = int(written.replace(",", "")) if number is None else number
    return number if number <= MAX_COUNT else None
