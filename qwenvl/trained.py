"""On which pictures a checkpoint was trained, and what to say where it is asked about others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self


class TrainedOn(NamedTuple):
    """Ranges of the training pictures, from `qwenvl.json` of the checkpoint.

    Most checkpoints do not state them: they have seen pictures of every size.
    """

    sides: tuple[int, int]
    """Smallest and largest side of a tile in px."""
    mpp: tuple[float, float]
    """Finest and coarsest scale in um/px."""

    @classmethod
    def read(cls, facts: object) -> Self | None:
        """From the content of `qwenvl.json`; None where it states no ranges."""
        trained = facts.get("trained") if isinstance(facts, dict) else None
        if trained is None:
            return None
        return cls(tuple(trained["sides"]), tuple(trained["mpp"]))

    def doubts(self, tile_size: int, mpp: float | None) -> Iterator[str]:
        """What a reader must know of tiles of `tile_size` px at `mpp` um/px: a sentence for each range they leave.

        Scales count as left from a fifth beyond either end on.
        """
        smallest, largest = self.sides
        if not smallest <= tile_size <= largest:
            known = _range(smallest, largest)
            yield (
                f"This model never saw tiles of {tile_size} px: it was trained on {known} px and is not to be "
                f"relied on outside. Ask with --tile-size {min(max(tile_size, smallest), largest)}."
            )
        finest, coarsest = self.mpp
        if mpp is not None and not finest / 1.2 <= mpp <= coarsest * 1.2:
            yield (
                f"This model never saw tiles at {mpp:.3g} um/px: it was trained on {_range(finest, coarsest)} um/px "
                f"and is not to be relied on outside. Ask with --mpp {min(max(mpp, finest), coarsest):g}."
            )


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
