"""The answer: what came back for one tile, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

OUT_OF_MEMORY = "out-of-memory"
"""Note of an answer that failed because memory ran out on its picture alone."""


class Status(StrEnum):
    """How an answer ended. Only `ok`, `repaired` and `empty` speak about the whole tile."""

    OK = "ok"
    """Well formed, as asked for."""
    REPAIRED = "repaired"
    """Malformed, but everything in it could be read; `notes` says what was mended."""
    EMPTY = "empty"
    """A valid answer that there is nothing of the kind here."""
    TRUNCATED = "truncated"
    """Cut off or looping: what was read before the cut is kept, the rest is unknown."""
    REFUSED = "refused"
    """The model declined to answer."""
    EXCLUDED = "excluded"
    """Not asked, because quality control found its pixels unfit. Unknown, never negative tissue."""
    FAILED = "failed"
    """Nothing could be read: the tile's pixels, the model, or the text failed. Never negative tissue."""

    @property
    def complete(self) -> bool:
        """True where the answer covers the whole tile, so that absence of an object means something."""
        return self in (Status.OK, Status.REPAIRED, Status.EMPTY)


@dataclass(frozen=True, slots=True)
class TileObject:
    """One object found in a tile, in px of the tile's picture (origin top-left, x right, y down).

    Exactly one of `box` (x_min, y_min, x_max, y_max) and `point` (x, y) is given.
    """

    label: str
    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    score: float | None = None
    """Confidence in 0..1 where the engine or the model gave one; None otherwise, never a made-up 1.0."""
    attributes: Mapping[str, object] = field(default_factory=dict)
    """Further keys the model wrote for this object."""
    span: tuple[int, int] | None = field(default=None, compare=False, repr=False)
    """Where it stands in `Answer.raw`: its first character and the one behind its last."""
    number_spans: tuple[tuple[int, int], ...] = field(default=(), compare=False, repr=False)
    """The same of each number of the box or point; empty where they are not written as such (a box around corners)."""

    def __post_init__(self) -> None:
        if (self.box is None) == (self.point is None):
            raise ValueError("TileObject needs a box or a point, and not both")


@dataclass(frozen=True, slots=True)
class Answer:
    """One tile's result."""

    status: Status
    objects: tuple[TileObject, ...] = ()
    text: str | None = None
    """The words of ask and describe; the label chosen by classify."""
    value: Any = None
    """The number of count (int), the JSON value of extract."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Probabilities by word: {'yes': p} of score, one per label of classify."""
    raw: str = ""
    """The model's text as it was decoded, special tokens of the dialect included."""
    reasoning: str | None = None
    """What a Thinking model wrote before its answer."""
    notes: tuple[str, ...] = ()
    """What was mended, clipped, dropped or flagged, as short codes such as 'fence', 'loop', 'clipped:2'."""
    finish_reason: str = "stop"
    """'stop', 'length', 'loop' or 'error'."""
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    error: str | None = None
    """Why a failed tile failed: what, where."""

    @classmethod
    def failure(cls, error: str, **fields: Any) -> Answer:
        """The answer of a tile that could not be read or asked."""
        return cls(status=Status.FAILED, error=error, finish_reason="error", **fields)
