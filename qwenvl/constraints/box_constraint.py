"""Boxes while they are written: what a grammar of words cannot ask of them.

The corners of a box keep in order, so that no box is empty or made of two. And where a box stands for what an earlier
one of its label stands for already, it is rolled back, and the model writes again, with one corner elsewhere: a model
that wavers between two neighbours writes the likelier one twice, though it has seen the other. If it has not, the list
may end before the box. What is too unlikely to the model is never forced on it; the repeated box then stays, and the
parser drops a copy and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from qwenvl.constraints.numeric_vocabulary import number_piece

SAME = 0.75
"""Intersection over union from which two boxes of one label are one object."""
APART = 0.5
"""Share of the repeated box's side that the corner must lie away from the old one."""
LONGER = 3
"""Times the side of the repeated box from which one in its place is made of two."""
LIKELY = 0.1
"""Probability that the model itself must give to a corner elsewhere, or to the end of the list."""

Box = tuple[int, ...]
_QUOTE, _ESCAPE, _COMMA, _OPEN, _CLOSE, _END = b'"\\,[]}'
_DIGITS = range(48, 58)
_OBJECTS, _NUMBERS = 1, 2  # brackets that are open around objects, and around coordinates
_ENDING = 4  # after the four numbers of a box: not to begin it


class _BoxReading(NamedTuple):
    """Where a reader of the answer stands."""

    inside: bool = False  # a string
    escaped: bool = False
    string: bytes = b""  # the last one, as it is written
    depth: int = 0  # brackets that are open
    number: str = ""  # the digits so far
    numbers: Box = ()
    joined: int = 0  # tokens before the one that said that another object comes
    began: int = 0  # tokens before the one that began its box
    done: tuple[tuple[bytes, Box], ...] = ()  # label and box of every object


@dataclass(slots=True)
class _Retry:
    """A repeated box that is written again."""

    place: int
    """Objects before it."""
    box: Box
    first: int = 0
    """The first of its numbers that may be another; `_ENDING` where the list may end instead."""
    moved: int | None = None
    """Which one is."""
    spared: set[tuple[int, int]] = field(default_factory=set)
    """Numbers, and how many digits of them stood there, where the model had nothing else to say."""

    @property
    def ends(self) -> bool:
        """Whether no further object may come."""
        return self.first == _ENDING and (_ENDING, 0) not in self.spared

    def barred(self, at: int, digits: int) -> tuple[int, int] | None:
        """Lowest and highest value that number `at` may not have once `digits` of it stand there; None: any."""
        if at < self.first or at >= _ENDING or (at, digits) in self.spared or self.moved is not None:
            return None
        return self.box[at] - self.reach(at), self.box[at] + self.reach(at)

    def near(self, at: int, digits: int, text: str, closed: bool) -> bool:
        """Whether a number that is written so, or begins so, is the old one or near it.

        A beginning is near where more than half of the numbers of the old one's length that begin so are: 3 of 345.
        """
        if (barred := self.barred(at, digits)) is None:
            return False
        spread = 1 if closed or text == "0" else 10 ** max(0, len(str(self.box[at])) - len(text))
        low = int(text) * spread
        high = low + spread - 1
        return 2 * (min(high, barred[1]) - max(low, barred[0]) + 1) > spread

    def spans(self, box: Box) -> bool:
        """Whether a box is made of two: with one number elsewhere and the others where they were, it holds both."""
        long = any(box[at + 2] - box[at] > LONGER * (self.box[at + 2] - self.box[at]) for at in (0, 1))
        return long or _shared(box, self.box) >= SAME * _area(self.box)

    def reach(self, at: int) -> int:
        """How far from the old number is elsewhere."""
        return max(1, round(APART * (self.box[at % 2 + 2] - self.box[at % 2])))


class TokenPieces:
    """What each token of a vocabulary stands for.

    Parameters
    ----------
    texts : sequence of bytes

    Attributes
    ----------
    numbers : int64 Tensor (vocabulary,)
        The number that a token begins; -1 for a token that is no number.
    digits : int64 Tensor (vocabulary,)
        How many digits it has there.
    closed : bool Tensor (vocabulary,)
        Whether the number ends with the token.
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.texts = list(texts)
        found = [number_piece(text) or (b"", False) for text in self.texts]
        self.numbers = torch.tensor([int(digits or -1) for digits, _ in found])
        self.digits = torch.tensor([len(digits) for digits, _ in found])
        self.closed = torch.tensor([closed for _, closed in found])


class WrittenBoxes:
    """The boxes of each row of one batch, in JSON of the form `[{"bbox_2d": [x, y, x, y], "label": ".."}]`.

    Parameters
    ----------
    pieces : TokenPieces
    extents : sequence of tuple of int
        Largest x and y of each row.
    """

    def __init__(self, pieces: TokenPieces, extents: Sequence[tuple[int, int]]) -> None:
        self._pieces, self._extents = pieces, extents
        self._readings = [_BoxReading() for _ in extents]
        self._earlier: list[list[_BoxReading]] = [[] for _ in extents]  # before each token
        self._retries: list[_Retry | None] = [None] * len(extents)
        self._due = [0] * len(extents)

    def take(self, row: int, token: int) -> bool:
        """Take note of a token that the grammar lets come next; False, and nothing noted, where it may not come."""
        old, retry = self._readings[row], self._retries[row]
        new = self._after(row, token, retry)
        if new is None:
            return False
        self._earlier[row].append(old)
        self._readings[row] = new
        at = len(old.numbers)
        if (
            retry is not None
            and retry.moved is None
            and len(new.numbers) > at
            and abs(new.numbers[at] - retry.box[at]) > retry.reach(at)
        ):
            retry.moved = at
        # One token may both end the object before and begin the repeated one anew.
        if len(new.done) > len(old.done) and (retry is None or len(new.done) > retry.place):
            self._finished(row, new.done, old)
        return True

    def narrow(self, row: int, logits: Tensor) -> None:
        """Rule out in `logits` (vocabulary,), where the grammar has ruled out its part, what may not come next."""
        retry = self._retries[row]
        if self._readings[row].inside and (retry is None or not retry.ends):
            return
        tokens = (logits > -torch.inf).nonzero()[:, 0]
        ordered = self._fitting(row, tokens, None)
        logits[tokens[~ordered]] = -torch.inf
        if retry is None:
            return
        tokens = tokens[ordered]
        near = tokens[~self._fitting(row, tokens, retry)]
        if not len(near):
            return
        if 1 - float(logits.softmax(-1)[near].sum()) >= LIKELY:
            logits[near] = -torch.inf
        else:
            reading = self._readings[row]
            retry.spared.add((_ENDING, 0) if retry.ends else (len(reading.numbers), len(reading.number)))

    def back(self, row: int, most: int) -> int:
        """Take back the box that was just written and stands there already; how many tokens, or 0.

        A box of more than `most` tokens stays.
        """
        count, self._due[row] = self._due[row], 0
        if count > most:
            self._retries[row], count = None, 0
        if count:
            self._readings[row] = self._earlier[row][-count]
            del self._earlier[row][-count:]
        return count

    def _finished(self, row: int, done: tuple[tuple[bytes, Box], ...], before: _BoxReading) -> None:
        """See whether the last object stands there already; `before` is the reading before the token that ended it."""
        retry, (label, box) = self._retries[row], done[-1]
        repeated = any(name == label and _overlap(box, other) >= SAME for name, other in done[:-1])
        repeated = repeated or (retry is not None and retry.spans(box))
        following: _Retry | None = None
        if repeated and retry is None:
            following = _Retry(len(done) - 1, box)
        elif repeated and retry is not None and retry.first < _ENDING:
            later = _ENDING if retry.moved is None else retry.moved + 1
            following = _Retry(retry.place, retry.box, later)
        self._retries[row] = following
        if following is not None:
            self._due[row] = len(self._earlier[row]) - (before.joined if following.ends else before.began)

    def _after(self, row: int, token: int, retry: _Retry | None) -> _BoxReading | None:
        """The reading after a token; None where the token may not come."""
        inside, escaped, string, depth, number, numbers, joined, began, done = self._readings[row]
        changed, stood = False, len(number)
        for byte in self._pieces.texts[token]:
            if inside:
                if escaped or byte not in (_QUOTE, _ESCAPE):
                    string, escaped = string + bytes((byte,)), False
                elif byte == _ESCAPE:
                    string, escaped = string + b"\\", True
                else:
                    inside = False
                continue
            if depth == _NUMBERS and byte in _DIGITS:
                if not number and not numbers:
                    began = len(self._earlier[row])
                number, changed = number + chr(byte), True
                continue
            if number:
                if not self._may_come(number, row, numbers, closed=True):
                    return None
                if retry is not None and retry.near(len(numbers), stood, number, True):
                    return None
                number, numbers, stood = "", (*numbers, int(number)), 0
            if byte == _QUOTE:
                inside, string = True, b""
            elif byte == _OPEN:
                depth += 1
            elif byte == _CLOSE:
                depth -= 1
            elif byte == _END and numbers:
                done, numbers = (*done, (string, numbers)), ()
            elif byte == _COMMA and depth == _OBJECTS and not numbers:
                if retry is not None and retry.ends:
                    return None
                joined = len(self._earlier[row])
        if changed and number:
            if not self._may_come(number, row, numbers, closed=False):
                return None
            if retry is not None and retry.near(len(numbers), stood, number, False):
                return None
        return _BoxReading(inside, escaped, string, depth, number, numbers, joined, began, done)

    def _fitting(self, row: int, tokens: Tensor, retry: _Retry | None) -> Tensor:
        """Which of the tokens, int64 (n,), may come: bool (n,). Numbers are looked at together, there are many."""
        reading, asked = self._readings[row], tokens.cpu()
        values, closed = self._pieces.numbers[asked], self._pieces.closed[asked]
        if reading.inside or reading.depth != _NUMBERS or reading.number or len(reading.numbers) > 3:
            values = torch.full_like(values, -1)
        at = len(reading.numbers)
        least, most = self._limits(row, reading.numbers)
        low, high = values, values
        fits = (low <= most) & (high >= least)
        for _ in range(len(str(most))):
            low, high = low * 10, high * 10 + 9
            fits |= (low <= most) & (high >= least) & ~closed & (values > 0)
        if retry is not None and (barred := retry.barred(at, 0)) is not None:
            missing = (len(str(retry.box[at])) - self._pieces.digits[asked]).clamp(min=0)
            spread = torch.where(closed | (values <= 0), 1, 10**missing)
            low, high = values * spread, (values + 1) * spread - 1
            fits &= 2 * (high.clamp(max=barred[1]) - low.clamp(min=barred[0]) + 1) <= spread
        for index in (values < 0).nonzero()[:, 0].tolist():
            fits[index] = self._after(row, int(asked[index]), retry) is not None
        return fits.to(tokens.device)

    def _may_come(self, digits: str, row: int, numbers: Box, *, closed: bool) -> bool:
        """Whether a number that is written so, or begins so where it is not closed, leaves the corners in order."""
        if len(numbers) > 3:
            return False
        least, most = self._limits(row, numbers)
        low = high = int(digits)
        while low <= most:
            if high >= least:
                return True
            if closed or digits == "0":
                return False
            low, high = low * 10, high * 10 + 9
        return False

    def _limits(self, row: int, numbers: Box) -> tuple[int, int]:
        """Least and largest value of the next number."""
        at = len(numbers)
        return numbers[at - 2] + 1 if at > 1 else 0, self._extents[row][at % 2] - (at < 2)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    shared = _shared(a, b)
    return shared / (_area(a) + _area(b) - shared)


def _shared(a: Box, b: Box) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _area(a: Box) -> int:
    return (a[2] - a[0]) * (a[3] - a[1])
