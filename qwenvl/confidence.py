"""Confidence of written objects: how sure the model was of the numbers of each box or point."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import TileObject
from qwenvl.geometry import CoordinateSpace, PictureFrame
from qwenvl.number_tokens import Alternatives, NumberTokens, number_piece

# Numbers with nothing but brackets, commas and white space between them.
_RUN = re.compile(rb"(?<![\w.\-])-?\d+(?:\.\d+)?(?:[\s,()\[\]]+-?\d+(?:\.\d+)?)+")
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_THOUGHT = b"</think>"
_TOLERANCE = 0.02  # share of the frame by which the parser may have clipped a coordinate
_LEAST = 1e-9  # a probability is no less, so that one hopeless number leaves a score

SIDE = 0.15
"""Share of a box's side within which an edge counts as the same: with all four so, two boxes overlap by half."""
FRAME = 1 / 32
"""The same for a point, as a share of the frame."""


@dataclass(frozen=True, slots=True)
class Written:
    """The tokens of one answer.

    Attributes
    ----------
    pieces : sequence of bytes
        What each stands for.
    log_probabilities : sequence of float
        Of each.
    alternatives : sequence of (Alternatives or None)
        What else could have stood there, for tokens that are numbers; empty where nothing is known of it.
    """

    pieces: Sequence[bytes]
    log_probabilities: Sequence[float]
    alternatives: Sequence[Alternatives | None] = ()


def add_scores(
    objects: Sequence[TileObject], written: Written, *, space: CoordinateSpace, frame: PictureFrame
) -> tuple[TileObject, ...]:
    """Give each object without a score the probability that the model saw it where it says.

    That is, of each of its numbers, the probability of all numbers near it (`SIDE`, `FRAME`), and of those the
    geometric mean. A model that spreads its bets over 436..442 is sure of the edge, though of no number. Where other
    numbers are not known, the score is that of the very numbers, which is less.

    Parameters
    ----------
    objects : sequence of TileObject
        As parsed, in the order written.
    written : Written
    space, frame
        Where the objects' numbers come from.

    Returns
    -------
    tuple of TileObject
        An object whose numbers are not found in the text keeps no score.
    """
    if not objects or not written.pieces:
        return tuple(objects)
    ends = np.cumsum([len(piece) for piece in written.pieces])
    text = b"".join(written.pieces)
    # The parser reads what stands behind the reasoning; numbers weighed before are no object's.
    begin = max(0, text.rfind(_THOUGHT))
    spans = [
        [(number.group(), run.start() + number.start()) for number in _NUMBER.finditer(run.group())]
        for run in _RUN.finditer(text, begin)
    ]
    extent = frame.extent(space)
    free = {
        size: [run[at : at + size] for run in spans for at in range(0, len(run) - size + 1, size)]
        for size in (2, 4)
    }
    scored = []
    for item in objects:
        place = item.box or item.point
        if place is None:
            raise ValueError(f"object without a place: {item}")
        wanted = frame.to_model(place, space)
        groups = free[len(wanted)]
        found = next((index for index, group in enumerate(groups) if _same(group, wanted, extent)), None)
        if found is None or item.score is not None:
            scored.append(item)
            continue
        # Objects come in the order written, so what stands before this one belongs to none of the later ones.
        group = groups[found]
        del groups[: found + 1]
        chances = [
            _near(written, ends, digits, start, reach, round(most))
            for (digits, start), reach, most in zip(group, _reaches(group, extent), 2 * extent, strict=False)
        ]
        scored.append(replace(item, score=math.exp(np.log(np.maximum(chances, _LEAST)).mean())))
    return tuple(scored)


def _reaches(group: list[tuple[bytes, int]], extent: tuple[float, float]) -> list[float]:
    """How far from each number another is near it."""
    if len(group) == 2:
        return [FRAME * side for side in extent]
    values = [float(text) for text, _ in group]
    return 2 * [SIDE * abs(values[at + 2] - values[at]) for at in (0, 1)]


def _near(written: Written, ends: np.ndarray, text: bytes, start: int, reach: float, most: int) -> float:
    """Probability of a number that stands at byte `start` and of all within reach of it, as far as it is known."""
    reach = max(1, round(reach))
    first, last = np.searchsorted(ends, [start, start + len(text) - 1], side="right").tolist()
    prefix, path, total = "", 1.0, 0.0
    for at in range(first, last + 1):
        own = math.exp(written.log_probabilities[at])
        others = written.alternatives[at] if written.alternatives else None
        digits = text[len(prefix) : ends[at] - start].decode()
        if others is not None and text.isdigit():
            number = int(text)
            shares = others.tokens.shares(prefix, len(text), number - reach, number + reach, most)
            if at < last:  # the way taken leads on, and the next token says where
                shares[others.tokens.leading_on(digits)] = 0.0
            total += path * float(shares @ others.probabilities.astype(np.float64))
        elif at == last:
            total += path * own
        prefix += digits
        path *= own
    return min(total, 1.0)


class Vocabulary:
    """What the tokens of a byte-level tokenizer stand for.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        Byte-level, as in every Qwen family.
    size : int
        Tokens of the model, which may have fewer or more.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self._tokenizer, self._size = tokenizer, size

    @cached_property
    def numbers(self) -> tuple[list[int], NumberTokens]:
        """The tokens that are numbers, and what they are."""
        names = self._tokenizer.convert_ids_to_tokens(list(range(min(len(self._tokenizer), self._size))))
        found = {
            token: part
            for token, name in enumerate(names)
            if name and name[0] in string.digits and (part := number_piece(token_bytes(name))) is not None
        }
        return list(found), NumberTokens.of(found.values())

    def written(
        self,
        tokens: Sequence[int],
        log_probabilities: Sequence[float],
        numbers: Sequence[NDArray[np.floating] | None] = (),
    ) -> Written:
        """An answer's tokens, with the probabilities of all `numbers` at each place where one stands."""
        known = self.numbers[1]
        others = [None if each is None else Alternatives(known, each) for each in numbers]
        return Written(self.pieces(tokens), log_probabilities, others)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """What each token stands for: nothing where the model has more of them than the tokenizer."""
        return [token_bytes(name or "") for name in self._tokenizer.convert_ids_to_tokens(list(tokens))]


def token_bytes(piece: str) -> bytes:
    """The bytes of a token of a byte-level vocabulary; special tokens stand for their names."""
    table = _byte_of_symbol()
    if all(symbol in table for symbol in piece):
        return bytes(table[symbol] for symbol in piece)
    return piece.encode()


@cache
def _byte_of_symbol() -> dict[str, int]:
    # GPT-2's alphabet (openai/gpt-2 `encoder.py`): printable Latin-1 stands for itself, the rest follows from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _same(group: list[tuple[bytes, int]], wanted: np.ndarray, extent: tuple[float, float]) -> bool:
    corners = np.array([float(text) for text, _ in group]).reshape(-1, 2)
    # The parser puts reversed corners in order.
    values = np.sort(corners, axis=0).ravel()
    limits = np.tile(extent, len(values) // 2)
    return bool((np.abs(values - wanted) <= _TOLERANCE * limits + 1e-6).all())
