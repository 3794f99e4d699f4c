"""The section: what was measured at which place of a slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workflows.errors import SpatialError

if TYPE_CHECKING:
    from anndata import AnnData

PLACES = "spatial"
"""Key of `obsm` under which spots lie, x then y in level-0 px, as scanpy reads Visium."""


LATTICE = "lattice"
"""Kind of a section of which nothing was measured: places laid over the tissue, to predict at."""


@dataclass(frozen=True, eq=False)
class Section:
    """Counts of one tissue section and the places on its slide where they were measured.

    Attributes
    ----------
    name : str
    counts : AnnData
        Spots x genes, raw counts (CSR, float32); `obs` has array_row and array_col; `obsm['spatial']` the centres of
        spots, float64 (n, 2), x then y in level-0 px of the slide.
    kind : str
        'visium', 'visium-hd', 'st', 'anndata', 'spatialdata'; or 'lattice' for places without counts.
    source : Path
        What was read.
    spot0 : float
        Diameter of a spot (side of a bin) in level-0 px.
    pitch0 : float
        Distance of neighbouring spots in level-0 px.
    um_per_px : float or None
        Scale of the slide's level 0 as the files state it or the array's design implies it.
    um_source : str
        Where the scale comes from, in words; '' where there is none.
    size0 : (width, height), optional
        Size in px of the picture that the places were measured on, where the files imply it.
    hires : Path, optional
        A small picture of the same section that came with the counts.
    dropped : mapping
        Spots that were left out, and why.
    """

    name: str
    counts: AnnData
    kind: str
    source: Path
    spot0: float
    pitch0: float
    um_per_px: float | None = None
    um_source: str = ""
    size0: tuple[float, float] | None = None
    hires: Path | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dropped", MappingProxyType(dict(self.dropped)))
        if self.counts.n_obs == 0 or (self.counts.n_vars == 0 and self.kind != LATTICE):
            raise SpatialError(
                f"{self.source} holds {self.counts.n_obs} spots and {self.counts.n_vars} genes. Check the folder."
            )
        if not np.isfinite(self.places0).all():
            raise SpatialError(f"{self.source}: some spots have no place (a position is not a number).")

    @property
    def places0(self) -> NDArray[np.float64]:
        """Centres of the spots, float64 (n, 2), x then y in level-0 px."""
        return np.asarray(self.counts.obsm[PLACES], np.float64)

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes."""
        return tuple(map(str, self.counts.var_names))

    def with_counts(self, counts: AnnData) -> Section:
        """The same section with another table of the same or fewer spots."""
        return replace(self, counts=counts)

    def swapped(self) -> Section:
        """The same section with x and y of every spot exchanged."""
        counts = self.counts.copy()
        counts.obsm[PLACES] = np.ascontiguousarray(self.places0[:, ::-1])
        return replace(self, counts=counts, size0=None if self.size0 is None else self.size0[::-1])

    def facts(self) -> dict[str, Any]:
        """What is known of the section, as JSON values for provenance."""
        return {
            "name": self.name,
            "kind": self.kind,
            "source": str(self.source.absolute()),
            "spots": self.counts.n_obs,
            "genes": self.counts.n_vars,
            "spot_px0": round(self.spot0, 3),
            "pitch_px0": round(self.pitch0, 3),
            "um_per_px": self.um_per_px,
            "um_source": self.um_source,
            "dropped": dict(self.dropped),
        }


def pitch_of(
    places0: NDArray[np.float64], source: Path, array: NDArray[np.float64] | None = None, *, hexagonal: bool = False
) -> float:
    """Distance of neighbouring spots in level-0 px.

    With `array`, the columns and rows of the spots (n, 2), it is that of the lattice that fits best; where spots were
    found one by one, the nearest neighbour alone would make it too small. Without, the median distance to it.

    Parameters
    ----------
    hexagonal : bool
        Every other column of a row is empty, as on Visium slides.

    Raises
    ------
    SpatialError
        There are fewer than three places, or most coincide.
    """
    from scipy.spatial import cKDTree

    if len(places0) < 3:
        raise SpatialError(f"{source} holds {len(places0)} spots; a section needs at least three.")
    pitch = 0.0
    if array is not None:
        design = np.column_stack([array, np.ones(len(array))])
        fitted, _, rank, _ = np.linalg.lstsq(design, places0, rcond=None)
        if rank == 3:
            cell = abs(float(np.linalg.det(fitted[:2])))
            pitch = float(np.sqrt(cell * 4 / np.sqrt(3)) if hexagonal else np.sqrt(cell))
    if pitch <= 0:
        pitch = float(np.median(cKDTree(places0).query(places0, k=2)[0][:, 1]))
    if pitch <= 0:
        raise SpatialError(f"{source}: most spots lie at the same place. Check the columns of the positions.")
    return pitch
