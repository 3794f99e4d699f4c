"""What training knows of a tile, whoever made it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.pretrain.geometry import CELL
from wsi.synthetic import Field

CLASSES = ("tumor", "lymphocyte", "stromal", "epithelial", "mitosis")
TISSUES = ("tumor", "stroma", "lymphoid aggregate", "necrosis", "fat", "background")
UNKNOWN = -1
"""Class of a nucleus that is only known to be one; tissue of a tile nobody named."""


@dataclass(frozen=True)
class LabelledTile:
    """One picture and all that is known of it.

    Attributes
    ----------
    image : uint8 (height, width, 3)
    boxes : float32 (n, 4)
        Tile px.
    classes : int64 (n,)
        Position in `CLASSES`, or `UNKNOWN`.
    tissue : int
        Position in `TISSUES`, or `UNKNOWN`.
    findings : frozenset of str
    regions : tuple of (label, box)
    mpp : float or None
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    tissue: int = UNKNOWN
    findings: frozenset[str] = frozenset()
    regions: tuple[tuple[str, tuple[float, float, float, float]], ...] = ()
    mpp: float | None = None

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of merged vision tokens."""
        return self.image.shape[0] // CELL, self.image.shape[1] // CELL

    @property
    def named(self) -> bool:
        """Whether tissue and nucleus classes are known."""
        return self.tissue != UNKNOWN


def from_field(field: Field) -> LabelledTile:
    """A factory field as a training tile."""
    return LabelledTile(
        image=field.image,
        boxes=np.asarray(field.boxes, np.float32).reshape(-1, 4),
        classes=np.array([CLASSES.index(name) for name in field.labels], np.int64),
        tissue=TISSUES.index(field.tissue),
        findings=frozenset(field.findings),
        regions=tuple((name, tuple(map(float, box))) for name, box in field.regions),  # type: ignore[misc]
        mpp=field.mpp,
    )
