"""At which scale a checkpoint was trained, and what to say where it is asked at another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

TOLERANCE = 1.2
"""Scales this many times finer or coarser than the ends of the range still pass: scanners differ by as much."""


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

    def doubts(self, tile_size: int, mpp: float | None) -> Iterator[str]:
        """What a reader must know of tiles of `tile_size` px at `mpp` um/px: nothing, or one sentence."""
        if mpp is None:
            return
        finest, coarsest = self.mpp
        seen = mpp * tile_size / self.side
        if finest / TOLERANCE <= seen <= coarsest * TOLERANCE:
            return
        shown = "" if tile_size == self.side else f", which it sees as {self.side} px at {seen:.3g} um/px"
        yield (
            f"This model never saw tiles of {tile_size} px at {mpp:.3g} um/px{shown}: it was trained on {finest:g} to "
            f"{coarsest:g} um/px and is not to be relied on outside. Ask with --tile-size {self.side} "
            f"--mpp {min(max(mpp, finest), coarsest):g}."
        )
