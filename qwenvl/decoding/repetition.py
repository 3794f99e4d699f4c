"""Answers that go in circles: noticed while they are written, so that no token is spent on a circle.

Two signs count. One piece over and over, whatever it is (`loops`), is a circle at once. An answer that has said nothing
new for a while (`Repetition`) is one too: the same few boxes in changing order, or a circle too wide for the first.
"""

from __future__ import annotations

from collections.abc import Sequence

_PERIOD = 64  # longest repeated piece in tokens: an object with a long label
_LENGTH = 48  # repeated tokens from which a short piece counts as a loop
_COUNT = 3
_EVERY = 8  # tokens between two looks for a piece over and over
_GRAM = 12  # tokens in a row that count as one thing said: longer than what all objects of an answer have in common
_STALE = 120  # tokens without anything new


class Repetition:
    """Watches one answer."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._said: set[tuple[int, ...]] = set()
        self._new: list[bool] = []  # whether each token said something new
        self._stale = 0

    def add(self, token: int) -> bool:
        """Take note of a token; True where the answer goes in circles."""
        self._tokens.append(token)
        gram = tuple(self._tokens[-_GRAM:])
        self._new.append(gram not in self._said)
        self._stale = 0 if self._new[-1] else self._stale + 1
        self._said.add(gram)
        return self._stale >= _STALE or (len(self._tokens) % _EVERY == 1 and loops(self._tokens))

    def back(self, count: int) -> None:
        """Forget the last tokens: they have been taken back."""
        for _ in range(count):
            if self._new.pop():
                self._said.discard(tuple(self._tokens[-_GRAM:]))
            self._tokens.pop()
        self._stale = next((at for at, new in enumerate(reversed(self._new)) if new), len(self._new))

    def forget(self) -> None:
        """Begin anew: what follows is another text."""
        self._tokens, self._new, self._stale = [], [], 0
        self._said.clear()


def loops(tokens: Sequence[int]) -> bool:
    """True where the last tokens are one piece over and over.

    A piece of up to 64 tokens counts when it stands there at least three times and fills at least 48 tokens, so
    that equal digits or two equal boxes do not.
    """
    for period in range(1, min(_PERIOD, len(tokens) // _COUNT) + 1):
        if tokens[-1] != tokens[-1 - period]:
            continue
        repeats = max(_COUNT, -(-_LENGTH // period))
        span = (repeats - 1) * period
        if len(tokens) >= span + period and tokens[-span:] == tokens[-span - period : -period]:
            return True
    return False
