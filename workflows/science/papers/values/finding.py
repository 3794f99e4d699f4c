"""Finding a value among the words that are printed on a page."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cached_property

from workflows.science.papers.pages.page import Box, Page, union
from workflows.science.papers.values.numbers import as_number, printed_numbers

_DASHES = "-‐‑‒–—−"
_QUOTES = "'’‘`´"
_ANY_DASH = f"[{_DASHES}]"
MOST_PLACES = 200
"""Places of one value that are distinguished on one page."""


class How(StrEnum):
    """How alike the value and the print are."""

    EXACT = "exact"
    """Sign by sign."""
    NUMBER = "number"
    """The same number, written in another way: 1,200 and 1200."""
    TEXT = "text"
    """The same words apart from case, dashes, spaces, ligatures and breaks at a line's end."""


@dataclass(frozen=True, slots=True)
class PagePlace:
    """Where a value is printed.

    Attributes
    ----------
    start, stop : int
        Its signs in `Printed.text`.
    boxes_pt : tuple of Box
        One per line.
    how : How
    """

    start: int
    stop: int
    boxes_pt: tuple[Box, ...]
    how: How

    @property
    def box_pt(self) -> Box:
        """Around all lines."""
        box = union(self.boxes_pt)
        assert box is not None
        return box


class Finder:
    """Looks values up on one page.

    Parameters
    ----------
    page : Page
    comma : bool
        The document writes decimals with a comma.
    """

    def __init__(self, page: Page, *, comma: bool) -> None:
        self.page, self._comma = page, comma
        self._known: dict[tuple[type, object], tuple[PagePlace, ...]] = {}

    def find(self, value: object) -> tuple[PagePlace, ...]:
        """Every place of a text or number, in the order of the file; the closest likeness only."""
        key = type(value), value
        if key not in self._known:
            self._known[key] = self._look(value)[:MOST_PLACES]
        return self._known[key]

    def _look(self, value: object) -> tuple[PagePlace, ...]:
        number = as_number(value)
        if number is not None:
            return self._numbers(number, repr(value))
        if not isinstance(value, str) or not value.strip():
            return ()
        exact = self._matching(_literal(value), How.EXACT)
        return exact or self._matching(_loose(value), How.TEXT)

    def _numbers(self, number: Decimal, written: str) -> tuple[PagePlace, ...]:
        places = []
        for start, stop in self._printed.get(number, ()):
            print_ = self.page.printed.text[start:stop]
            how = How.EXACT if print_ == written else How.NUMBER
            places += self._place(start, stop, how)
        return tuple(places)

    @cached_property
    def _printed(self) -> dict[Decimal, list[tuple[int, int]]]:
        found: dict[Decimal, list[tuple[int, int]]] = {}
        for start, stop, value in printed_numbers(self.page.printed.text, comma=self._comma):
            found.setdefault(value.normalize(), []).append((start, stop))
        # Decimal compares and hashes by value: 3.40 finds 3.4.
        return found

    def _matching(self, pattern: re.Pattern[str], how: How) -> tuple[PagePlace, ...]:
        return tuple(
            place
            for match in pattern.finditer(self.page.printed.text)
            for place in self._place(match.start(), match.end(), how)
        )

    def _place(self, start: int, stop: int, how: How) -> list[PagePlace]:
        boxes = self.page.printed.places(start, stop)
        return [PagePlace(start, stop, boxes, how)] if boxes else []


def _bounded(body: str, value: str, flags: int = 0) -> re.Pattern[str]:
    """A pattern that begins and ends where words do: '12' is not found in '112', nor 'TP5' in 'TP53'."""
    before = r"(?<![\w])(?<!\w[.])" if value[0].isalnum() else ""
    after = r"(?!\w)(?![.,]\d)" if value[-1].isalnum() else ""
    return re.compile(before + body + after, flags)


def _literal(value: str) -> re.Pattern[str]:
    normal = " ".join(unicodedata.normalize("NFKC", value).split())  # as the signs of a page are
    return _bounded(re.escape(normal).replace(r"\ ", r"[ \n]"), normal)


def _loose(value: str) -> re.Pattern[str]:
    normal = " ".join(unicodedata.normalize("NFKC", value).split())
    parts = []
    for at, sign in enumerate(normal):
        if sign == " ":
            parts.append(r"\s+")
        elif sign in _DASHES:
            parts.append(rf"\s*{_ANY_DASH}\s*")
        elif sign in _QUOTES:
            parts.append(f"[{_QUOTES}]")
        else:
            # A word may be broken over two lines after any of its letters; its hyphen is not the value's.
            broken = r"(?:-\n)?" if sign.isalpha() and at + 1 < len(normal) and normal[at + 1].isalpha() else ""
            parts.append(re.escape(sign) + broken)
        after = normal[at + 1 : at + 2]
        if after and " " not in (sign, after) and (sign in "±=<>×/(),;:%" or after in "±=<>×/%"):
            parts.append(r"\s*")
    return _bounded("".join(parts), normal, re.IGNORECASE)
