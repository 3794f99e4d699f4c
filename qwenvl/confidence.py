"""Confidence of written objects: how sure the model was of the numbers of each box or point."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from qwenvl.answer import TileObject
from qwenvl.geometry import CoordinateSpace, PictureFrame

# Numbers with nothing but brackets, commas and white space between them.
_RUN = re.compile(rb"(?<![\w.\-])-?\d+(?:\.\d+)?(?:[\s,()\[\]]+-?\d+(?:\.\d+)?)+")
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_TOLERANCE = 0.02  # share of the frame by which the parser may have clipped a coordinate


def add_scores(
    objects: Sequence[TileObject],
    tokens: Sequence[int],
    log_probabilities: Sequence[float],
    *,
    tokenizer: Any,
    space: CoordinateSpace,
    frame: PictureFrame,
) -> tuple[TileObject, ...]:
    """Give each object without a score the geometric mean probability of its coordinates' tokens.

    Parameters
    ----------
    objects : sequence of TileObject
        As parsed, in the order written.
    tokens : sequence of int
        The answer.
    log_probabilities : sequence of float
        Of each token.
    tokenizer : transformers tokenizer
        Byte-level, as in every Qwen family.
    space, frame
        Where the objects' numbers come from.

    Returns
    -------
    tuple of TileObject
        An object whose numbers are not found in the text keeps no score.
    """
    if not objects:
        return ()
    # A model may have more tokens than its tokenizer; those stand for nothing.
    pieces = [token_bytes(piece or "") for piece in tokenizer.convert_ids_to_tokens(list(tokens))]
    return score_objects(objects, pieces, log_probabilities, space=space, frame=frame)


def score_objects(
    objects: Sequence[TileObject],
    pieces: Sequence[bytes],
    log_probabilities: Sequence[float],
    *,
    space: CoordinateSpace,
    frame: PictureFrame,
) -> tuple[TileObject, ...]:
    """`add_scores` for tokens whose bytes are known, as servers tell them; `pieces` are those bytes."""
    if not objects or not pieces:
        return tuple(objects)
    ends = np.cumsum([len(piece) for piece in pieces])
    spans = [
        [(float(number.group()), run.start() + number.start(), run.start() + number.end())
         for number in _NUMBER.finditer(run.group())]
        for run in _RUN.finditer(b"".join(pieces))
    ]  # fmt: skip
    chances = np.asarray(log_probabilities, np.float64)
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
        covered = np.zeros(len(pieces), dtype=bool)
        for _, start, stop in group:
            covered[
                np.searchsorted(ends, start, side="right") : np.searchsorted(ends, stop, side="left") + 1
            ] = True
        scored.append(replace(item, score=math.exp(chances[covered].mean())))
    return tuple(scored)


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


def _same(group: list[tuple[float, int, int]], wanted: np.ndarray, extent: tuple[float, float]) -> bool:
    corners = np.array([value for value, _, _ in group]).reshape(-1, 2)
    # The parser puts reversed corners in order.
    values = np.sort(corners, axis=0).ravel()
    limits = np.tile(extent, len(values) // 2)
    return bool((np.abs(values - wanted) <= _TOLERANCE * limits + 1e-6).all())
