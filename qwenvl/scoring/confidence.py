"""Confidence of written objects: how sure the model was of the numbers of each box or point."""

from __future__ import annotations

import math
import re
import string
from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Answer, TileObject
from qwenvl.constraints.numeric_vocabulary import Alternatives, NumberTokens, number_piece
from qwenvl.images.geometry import CoordinateSpace, PictureFrame

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_END = re.compile(r"(?:\s|<\|[a-z_]+\|>)*+")
_SPECIAL = re.compile(rb"<\|[a-z_]+\|>")
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


def add_scores(answer: Answer, written: Written, *, space: CoordinateSpace, frame: PictureFrame) -> Answer:
    """Give each object without a score the probability that the model saw it where it says.

    That is, of each of its numbers, the probability of all numbers near it (`SIDE`, `FRAME`), and of those the
    geometric mean. A model that spreads its bets over 436..442 is sure of the edge, though of no number. Where other
    numbers are not known, the score is that of the very numbers, which is less.

    Parameters
    ----------
    answer : Answer
        As parsed: the objects' `number_spans` say which numbers of `raw` are theirs.
    written : Written
        The tokens that `raw` is made of; others may stand before it.
    space, frame
        What the numbers mean.

    Returns
    -------
    Answer
        An object whose numbers are not written as such, or not in these tokens, has no score.
    """
    unscored = [item for item in answer.objects if item.score is None and item.number_spans]
    ends = _token_ends(answer.raw, written.pieces) if unscored else None
    if ends is None:
        return answer
    extent = frame.extent(space)
    return replace(answer, objects=tuple(_scored(item, answer.raw, ends, written, extent) for item in answer.objects))


def _scored(
    item: TileObject, raw: str, ends: NDArray[np.int64], written: Written, extent: tuple[float, float]
) -> TileObject:
    numbers = [raw[start:end] for start, end in item.number_spans]
    if item.score is not None or not numbers or not all(map(_NUMBER.fullmatch, numbers)):
        return item
    chances = [
        _near(written, ends, digits, start, reach, round(most))
        for digits, (start, _), reach, most in zip(
            numbers, item.number_spans, _reaches(numbers, extent), 2 * extent, strict=False
        )
    ]
    return replace(item, score=math.exp(np.log(np.maximum(chances, _LEAST)).mean()))


def _token_ends(raw: str, pieces: Sequence[bytes]) -> NDArray[np.int64] | None:
    """The character of `raw` that each token ends before, int64 (n,); None where they do not make up `raw`.

    Servers may leave the reasoning before the answer, and special tokens within it, out of the text.
    """
    for special in (True, False):
        kept = pieces if special else [b"" if _SPECIAL.fullmatch(piece) else piece for piece in pieces]
        decoder = getincrementaldecoder("utf-8")("replace")
        parts = [decoder.decode(piece).replace("\x00", "") for piece in kept]
        text = "".join(parts) + decoder.decode(b"", final=True)
        at = text.rfind(raw)
        # Nothing but the end of the turn follows the answer, or this is the same said in the reasoning.
        if at >= 0 and _END.fullmatch(text, at + len(raw)):
            return np.cumsum([len(part) for part in parts], dtype=np.int64) - at
    return None


def _reaches(numbers: Sequence[str], extent: tuple[float, float]) -> list[float]:
    """How far from each number another is near it."""
    if len(numbers) == 2:
        return [FRAME * side for side in extent]
    values = [float(number) for number in numbers]
    return 2 * [SIDE * abs(values[at + 2] - values[at]) for at in (0, 1)]


def _near(written: Written, ends: NDArray[np.int64], text: str, start: int, reach: float, most: int) -> float:
    """Probability of a number that stands at character `start` and of all within reach of it, as far as it is known."""
    reach = max(1, round(reach))
    first, last = np.searchsorted(ends, [start, start + len(text) - 1], side="right").tolist()
    prefix, path, total = "", 1.0, 0.0
    for at in range(first, last + 1):
        own = math.exp(written.log_probabilities[at])
        others = written.alternatives[at] if written.alternatives else None
        digits = text[len(prefix) : ends[at] - start]
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


class NumberVocabulary:
    """What the tokens of a byte-level tokenizer stand for.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        Byte-level, as in every Qwen family.
    size : int
        Tokens of the model, which may have fewer or more.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
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
