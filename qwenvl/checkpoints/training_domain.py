"""At which scale a checkpoint was trained, and what to say where it is asked at another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Self

TOLERANCE = 1.2
"""Scales so many times finer or coarser than the ends of the range still pass, as do sides that differ by as much."""


class TrainedOn(NamedTuple):
    """What the training pictures were like, from `qwenvl.json` of the checkpoint.

    Most checkpoints do not state it: they have seen pictures of every size and scale.
    """

    side: int
    """Side in px of the pictures that it sees; tiles of other sizes are brought to about this one."""
    mpp: tuple[float, float]
    """Finest and coarsest scale in um per px of those pictures."""

    @classmethod
    def read(cls, facts: object) -> Self | None:
        """From the content of `qwenvl.json`; None where it does not say."""
        trained = facts.get("trained") if isinstance(facts, dict) else None
        return None if trained is None else cls(trained["side"], tuple(trained["mpp"]))

    def doubts(self, size: tuple[int, int], mpp: float | None) -> Iterator[str]:
        """What a reader must know of pictures of `size` (width, height) px at `mpp` um/px, a sentence each."""
        width, height = size
        if max(size) > TOLERANCE * min(size):
            yield (f"This model was trained on squares: what it says of {width} x {height} px is not to be relied on.")
        finest, coarsest = self.mpp
        area = math.sqrt(width * height)
        if mpp is None or finest / TOLERANCE <= mpp * area / self.side <= coarsest * TOLERANCE:
            return
        shown = f", which it sees as about {self.side} px at {mpp * area / self.side:.3g} um/px"
        yield (
            f"This model never saw {width} x {height} px at {mpp:.3g} um/px{shown if area != self.side else ''}: it "
            f"was trained on {finest:g} to {coarsest:g} um/px and is not to be relied on outside. Ask about "
            f"{self.side} px at {min(max(mpp, finest), coarsest):g} um/px."
        )
