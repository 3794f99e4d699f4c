"""Tokens that are numbers, or begin one: in some vocabularies each number is a token, in others each digit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(rb"(0|[1-9][0-9]{0,8})([\s,\]]*)")


def number_piece(piece: bytes) -> tuple[bytes, bool] | None:
    """The digits of a token and whether the number ends with it; None where it is no number."""
    found = _NUMBER.fullmatch(piece)
    return None if found is None else (found[1], bool(found[2]))


@dataclass(frozen=True, eq=False)
class NumberTokens:
    """Tokens that may stand where digits of a number stand.

    Attributes
    ----------
    values, digits : int64 (n,)
        The number that each is, and how many digits that takes.
    closed : bool (n,)
        Whether the number ends with it.
    """

    values: NDArray[np.int64]
    digits: NDArray[np.int64]
    closed: NDArray[np.bool_]

    @cached_property
    def _longest(self) -> int:
        return int(self.digits.max(initial=0))

    @classmethod
    def of(cls, pieces: Iterable[tuple[bytes, bool]]) -> NumberTokens:
        """From what `number_piece` says of each."""
        known = list(pieces)
        return cls(
            np.array([int(digits) for digits, _ in known], np.int64),
            np.array([len(digits) for digits, _ in known], np.int64),
            np.array([closed for _, closed in known], bool),
        )

    def shares(self, prefix: str, length: int, low: int, high: int, most: int) -> NDArray[np.float64]:
        """Share of the numbers behind each token that lie in a range.

        Parameters
        ----------
        prefix : str
            Digits that stand before the token.
        length : int
            Digits of the number that was written, and so of the others, unless they were more than `most` then.
        low, high : int
            Ends of the range, both in it.
        most : int
            The largest number that makes sense.

        Returns
        -------
        float64 (n,)
            In 0..1. Numbers behind an open token are taken to be equally likely.
        """
        begun = self.values if not prefix else int(prefix) * 10**self.digits + self.values
        if self._longest >= length:  # such numbers are tokens of their own
            return np.asarray((low <= begun) & (begun <= high), np.float64)
        missing = np.maximum(length - len(prefix) - self.digits, 0)
        missing[self.closed | (begun == 0)] = 0
        missing[(missing > 0) & (begun * 10**missing > most)] -= 1
        spread = 10**missing
        first = begun * spread
        inside = np.minimum(first + spread - 1, high) - np.maximum(first, low) + 1
        return np.maximum(inside, 0) / spread

    def leading_on(self, digits: str) -> NDArray[np.bool_]:
        """Which are these digits and leave the number open, bool (n,)."""
        found: NDArray[np.bool_] = (self.values == int(digits)) & (self.digits == len(digits)) & ~self.closed
        return found


@dataclass(frozen=True, eq=False, slots=True)
class Alternatives:
    """What else could have stood at the place of one token.

    Attributes
    ----------
    tokens : NumberTokens
        The one that was written among them.
    probabilities : float (n,)
    """

    tokens: NumberTokens
    probabilities: NDArray[np.floating]
