"""Probabilities of words from the log-probabilities that servers give: the likeliest tokens at each place, not all.

Tokens that are not listed are no likelier than the least likely one listed, so it is known how far a probability may be
off. Where that is more than a hundredth, there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qwenvl.constraints.numeric_vocabulary import Alternatives, NumberTokens, number_piece
from qwenvl.engines.server.chat import Token
from qwenvl.scoring.confidence import Written

TOLERANCE = 0.01
"""Largest share of the words' probability that may be unaccounted for."""

_ENDS = (b"<|im_end|>", b"<|endoftext|>", b"</s>", b"")


def answer_tokens(tokens: Sequence[Token], closing: str | None) -> Sequence[Token]:
    """The tokens of the answer; `closing` is the marker before it where the model thinks first."""
    if closing is None:
        return tokens
    mark, text = closing.encode(), b""
    for index, token in enumerate(tokens):
        text += token.piece
        if mark in text:
            rest = list(tokens[index + 1 :])
            while rest and not rest[0].piece.strip():
                del rest[0]
            return rest
    return ()


def yes_probability(tokens: Sequence[Token]) -> float | None:
    """P(yes) against no from the first token, all spellings summed, or None where it is not known."""
    if not tokens:
        return None
    spellings = {word: _forms(word) for word in ("yes", "no")}
    listed = _listed(tokens[0])
    sums = {word: sum(listed.get(form, 0.0) for form in forms) for word, forms in spellings.items()}
    missing = sum(form not in listed for forms in spellings.values() for form in forms)
    return _share(sums, "yes", _unlisted(listed, missing))


def label_probabilities(tokens: Sequence[Token], labels: Sequence[str]) -> dict[str, float] | None:
    """Probability of each label, relative to the others, by the first token that tells it from them.

    Follows the words written; at each place, the tokens that could have stood there lead to other labels. None
    where it is not known.
    """
    spellings = {label: tuple({form.encode() for form in (label, label[:1].upper() + label[1:])}) for label in labels}
    sums = dict.fromkeys(labels, 0.0)
    prefix, path, unknown = b"", 1.0, 0.0
    for token in tokens:
        listed = _listed(token)
        open_labels = _fitting(prefix, spellings)
        reached: set[str] = set()
        onward: bytes | None = None
        for piece, chance in listed.items():
            written = prefix + piece if prefix else piece.removeprefix(b" ")
            if piece in _ENDS:
                fitting = [label for label in open_labels if prefix in spellings[label]]
            else:
                fitting = _fitting(written, spellings)
            reached.update(fitting)
            if len(fitting) == 1:
                sums[fitting[0]] += path * chance
            elif fitting and piece == token.piece:
                onward = written
            elif fitting:
                unknown += path * chance
        unknown += path * _unlisted(listed, 2 * len(set(open_labels) - reached))
        if onward is None:
            path = 0.0
            break
        prefix, path = onward, path * listed[token.piece]
    unknown += path if prefix else 0.0
    shares = {label: _share(sums, label, unknown) for label in labels}
    known = {label: share for label, share in shares.items() if share is not None}
    return known if len(known) == len(labels) else None


def as_written(tokens: Sequence[Token]) -> Written:
    """The tokens of an answer with boxes or points, for `qwenvl.scoring.confidence.add_scores`."""
    return Written(
        [token.piece for token in tokens],
        [token.log_probability for token in tokens],
        [_other_numbers(token) for token in tokens],
    )


def _other_numbers(token: Token) -> Alternatives | None:
    """The numbers among the tokens listed where one stands."""
    if number_piece(token.piece) is None:
        return None
    listed = _listed(token)
    known = {piece: part for piece in listed if (part := number_piece(piece)) is not None}
    return Alternatives(NumberTokens.of(known.values()), np.array([listed[piece] for piece in known]))


def _forms(word: str) -> tuple[bytes, ...]:
    forms = (word, word.capitalize(), word.upper())
    return tuple((space + form).encode() for form in forms for space in ("", " "))


def _listed(token: Token) -> dict[bytes, float]:
    """Probabilities of the tokens listed at one place, the chosen one included."""
    listed: dict[bytes, float] = {}
    for piece, log_probability in token.top or ((token.piece, token.log_probability),):
        listed[piece] = listed.get(piece, 0.0) + math.exp(log_probability)
    listed.setdefault(token.piece, math.exp(token.log_probability))
    return listed


def _unlisted(listed: dict[bytes, float], number: int) -> float:
    """The most that `number` tokens which are not listed can have together."""
    return min(number * min(listed.values()), max(0.0, 1.0 - sum(listed.values())))


def _share(sums: dict[str, float], word: str, unknown: float) -> float | None:
    total = sum(sums.values())
    # Rounding of the logarithms leaves some millionths unaccounted for even in a full list.
    if total <= 0 or unknown > TOLERANCE * total + 1e-6 * min(1.0, total):
        return None
    return sums[word] / total


def _fitting(written: bytes, spellings: Mapping[str, Sequence[bytes]]) -> list[str]:
    """Labels that `written` may become; else those it is, with something after them that is no part of a word."""
    begun = [label for label, forms in spellings.items() if any(form.startswith(written) for form in forms)]
    return begun or [
        label
        for label, forms in spellings.items()
        if any(written.startswith(form) and not written[len(form) :][:1].isalnum() for form in forms)
    ]
