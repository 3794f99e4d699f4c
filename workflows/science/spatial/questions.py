"""What a model is asked about expression: yes or no around one spot, or boxes of high regions in a coarser tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.request import Generation, Request, Task
from workflows.errors import SpatialError
from workflows.science.spatial.sections.section import Section
from workflows.store.rows import TILE_DTYPE
from wsi.errors import UnknownMppError
from wsi.slide import Slide

SPOTS_ACROSS = 6
"""Pitches along the side of a tile in which regions are located."""


@dataclass(frozen=True)
class ExpressionScale:
    """At which scale spots and regions are looked at.

    Attributes
    ----------
    mpp : float
        um/px of the tile around a spot.
    tile_size : int
        Side of all tiles in px; a multiple of the family's factor is not resized.
    region_mpp : float
        um/px of a tile in which regions are located.
    """

    mpp: float = 0.5
    tile_size: int = 256
    region_mpp: float = 4.0

    @classmethod
    def of(
        cls, section: Section, *, mpp: float = 0.5, tile_size: int = 256, region_mpp: float | None = None
    ) -> ExpressionScale:
        """Where no scale of regions is given, their tiles hold `SPOTS_ACROSS` spots along a side."""
        if region_mpp is None:
            if section.um_per_px is None:
                raise UnknownMppError(
                    f"{section.name}: the distance of its spots in um is not known, so no scale for regions can be "
                    "chosen. Give --pitch-um (100 on Visium, 200 on ST arrays) or --region-mpp."
                )
            region_mpp = SPOTS_ACROSS * section.pitch0 * section.um_per_px / tile_size
        return cls(mpp, tile_size, round(float(region_mpp), 3))


def spot_question(name: str, scale: ExpressionScale, recommended: Mapping[str, object] | None = None) -> Request:
    """'Is CD8A high here?', answered by yes or no, or by the probability of yes."""
    return Request(
        task=Task.SCORE,
        prompt=f"Is {name} high here?",
        mpp=scale.mpp,
        tile_size=scale.tile_size,
        overlap=0,
        generation=_generation(recommended),
    )


def region_label(name: str) -> str:
    """Label of the boxes around regions with high expression."""
    return f"high {name}"


def region_question(name: str, scale: ExpressionScale, recommended: Mapping[str, object] | None = None) -> Request:
    """'Locate regions with high CD8A expression', answered by boxes."""
    return Request(
        task=Task.DETECT,
        labels=(region_label(name),),
        prompt=f"Locate regions with high {name} expression. Report bbox_2d and label in JSON format.",
        mpp=scale.region_mpp,
        tile_size=scale.tile_size,
        overlap=scale.tile_size // 4,
        generation=_generation(recommended),
    )


def _generation(recommended: Mapping[str, Any] | None) -> Generation:
    longest = (recommended or {}).get("max_new_tokens")
    return Generation() if longest is None else Generation(max_new_tokens=int(longest))


def spot_tiles(section: Section, slide: Slide, request: Request) -> NDArray[np.void]:
    """One tile around every spot, in the order of the spots: structured array (n,) of TILE_DTYPE.

    A tile that would reach beyond the slide is shifted inwards; its spot stays inside. What a tile owns is the square
    around its spot that no other spot's square touches, at most a pitch wide.

    Raises
    ------
    UnknownMppError
        The slide's scale is not known.
    SpatialError
        A tile is larger than the slide, or a spot lies off the slide.
    """
    assert request.mpp is not None
    if slide.mpp_xy is None:
        slide.require_mpp()
    mpp_x, mpp_y = slide.mpp_xy or (1.0, 1.0)
    side0 = np.array([round(request.tile_size * request.mpp / um) for um in (mpp_x, mpp_y)], np.int64)
    size0 = np.array([slide.width, slide.height], np.int64)
    if (side0 > size0).any() or (side0 < 1).any():
        raise SpatialError(
            f"A tile of {request.tile_size} px at {request.mpp:g} um/px covers {side0[0]}x{side0[1]} px of "
            f"{slide.path.name}, which has {size0[0]}x{size0[1]}. Use a smaller tile or a finer scale."
        )
    places0 = section.places0
    if not ((places0 >= 0) & (places0 < size0)).all():
        raise SpatialError(
            f"{section.name}: some spots lie off {slide.path.name}. Check them with 'qwenvl spatial show'."
        )
    low = np.clip(np.rint(places0 - side0 / 2).astype(np.int64), 0, size0 - side0)
    table = np.zeros(len(places0), TILE_DTYPE)
    table["tile"] = np.arange(len(places0))
    table["x0"], table["y0"] = low.T
    table["width0"], table["height0"] = side0
    table["width"] = table["height"] = request.tile_size
    half = _own_half(places0, section.pitch0)
    core_low = np.clip(np.floor(places0 - half), 0, size0 - 1).astype(np.int64)
    core_high = np.clip(np.floor(places0 + half), core_low + 1, size0).astype(np.int64)
    table["core_x0"], table["core_y0"] = core_low.T
    table["core_x1"], table["core_y1"] = core_high.T
    table["tissue"] = 1.0
    table["core_tissue"] = np.prod(core_high - core_low, axis=1)
    return table


def _own_half(places0: NDArray[np.float64], pitch0: float) -> float:
    """Half the side of squares around the places that do not overlap, at most half a pitch."""
    from scipy.spatial import cKDTree

    nearest = cKDTree(places0).query(places0, k=2, p=np.inf)[0][:, 1]
    return float(max(0.5, min(pitch0, nearest.min()) / 2))
